"""Inverse RL of a token-level reward from demonstrations: Eq 1-5 and steps 3-6 of Algorithm 1 (docs/method.md sections 2, 4).

The energy model says p(o_t | s_t, a_t) ~ exp(r_phi). Maximising the demonstrations' likelihood gives, with z estimated on
rollouts of the current policy and self-normalised weights w = exp(r(tau)) / pi(tau), the gradient

    grad J = mean_demonstrations grad r(tau) - sum_j w_j grad r(tau_j) / sum_j w_j            (Eq 3)

so the *loss* is  L = sum_j w~_j r(tau_j) - mean_positives r(tau), the w~ constants: demonstrations are pushed up, the
policy's (failed) rollouts down. All weights live in log space.

`form=logistic` is the same likelihood ratio as a classifier: learn/discriminator.py.
Shapes: B rollouts, K negatives, R rows (rollouts, then demonstrations).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from repirl.config import Config
from repirl.rewards.aggregate import Aggregation

WeightKind = Literal["sequence", "length_normalized", "truncated", "none"]


class IRLConfig(Config):
    """Every choice that the paper leaves open or makes, by name (docs/method.md section 10)."""

    form: Literal["energy", "logistic"] = "energy"
    """The loss: signed, weighted scores (Eq 3), or the logistic form of Proposition 3, which needs `base_measure=1` and
    knows of the settings below only who takes part, `expert_weight` and `reward_l2`."""
    factors: Literal["solution", "steps"] = "solution"
    """Of the logistic form: D is that of the solution as a whole, or the product of its steps'."""
    balance: bool = False
    """Of the logistic form: as many failed as correct rollouts of each prompt take part, so that neither the prompt nor the
    length says what the outcome was, and no time is spent on prompts without a contrast."""
    reference: Literal["sampler", "start"] = "start"
    """Of the logistic form: pi is the policy that sampled a rollout (demonstrations: the starting one), or the starting
    policy for all rows, which costs a pass and does not move."""
    weights: WeightKind = "sequence"
    """`sequence`: exp(sum r - sum log pi), Eq 4; `length_normalized`: its exponent divided by the length; `truncated`:
    Eq 4 capped at sqrt(K) times the mean weight of what is normalised together (Ionides 2008); `none`: equal weights."""
    normalize: Literal["batch", "prompt"] = "batch"
    """Over what the weights sum to one; z belongs to a prompt, the paper normalises over the batch."""
    objective: Literal["mean", "sum"] = "mean"
    """What is weighted in the loss: the mean token reward (Algorithm 1, step 5) or the sum (Eq 3)."""
    pseudo_experts: bool = True
    """The policy's correct rollouts join the positives; off: they are in neither set."""
    use_outcome: bool = True
    """False is PRM-only: no outcome is looked at and every policy rollout is a negative."""
    positive_denominator: Literal["count", "rollouts", "prompt"] = "count"
    """Positives are averaged over their number; or their sum is divided by |B| n as Algorithm 1 prints it; or they are
    averaged within each prompt that has negatives (Eq 3 for each prompt: difficulty cancels). A prompt then counts by the
    summed weight of its positives, at most 1, also among the negatives of `normalize=prompt`: one without positives not
    at all, one with a demonstration alone by `expert_weight`."""
    expert_weight: float = Field(default=1.0, ge=0)
    """Weight of a demonstration relative to a pseudo-expert among the positives."""
    reward_l2: float = Field(default=0.0, ge=0)
    """Weight of the mean squared token reward in the loss; bounds r_phi, which Eq 5 alone does not."""
    score: Literal["after", "before"] = "after"
    """Rollouts are scored with the PRM after this batch's update (Algorithm 1, step 6) or before it (one pass less)."""
    demos_per_prompt: int = Field(default=4, ge=0)
    """Demonstrations of each prompt that take part."""
    max_demo_tokens: int | None = Field(default=None, ge=1)
    """Demonstrations that are longer (EOS included) take no part; rollouts that long are cut, and are failures."""
    prompts_per_update: int | None = Field(default=None, ge=1)
    """The PRM learns from the groups of so many prompts of each batch (the batch's order is random); None: from all."""
    base: str | None = None
    """Model that the PRM starts from, of another size than the policy and with its tokens: embedded name, folder or hub id.
    None: the policy itself."""
    layers: int | None = Field(default=None, ge=1)
    """Keep only the first layers of the base as the PRM's backbone; None keeps all."""
    base_measure: float = Field(default=0.0, ge=0)
    """kappa of a residual energy: the reward starts as kappa times the base policy's log-probability (rewards/energy.py);
    0 is the paper's scalar head alone."""
    lr: float = Field(default=3e-8, gt=0)
    """AdamW's rate for the reward's model, constant."""
    head_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the new head; None: that of the backbone."""
    max_grad_norm: float = Field(default=10.0, gt=0)
    """The gradient is scaled down to this norm where it is above."""
    epochs: int = Field(default=1, ge=0)
    """Passes over each batch; 0: the reward only scores."""
    step_aggregation: Aggregation = "mean"
    """How the rewards of a step's tokens become the step's reward."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens that go through the model at a time; changes no result."""

    @model_validator(mode="after")
    def _logistic_starts_at_zero(self) -> Self:
        if self.form == "logistic" and self.base_measure != 1:
            raise ValueError("form=logistic compares the reward with a policy's log-probability: it needs base_measure=1")
        return self


def log_weights(
    kind: WeightKind, reward_sums_K: Tensor, logprob_sums_K: Tensor, lengths_K: Tensor, pool_K: Tensor | None = None
) -> Tensor:
    """Float64 unnormalised log importance weights [K] of Eq 4; `reward_sums` and `logprob_sums` are sums over tokens.

    `logprob_sums` are those of the distribution sampled from. All arguments are detached and cast to float64.
    `pool_K` numbers the sets that are normalised together: a cap is relative to the mean weight of its own set, because
    weights of different prompts have no common scale. None: all are one set.
    """
    log_w_K = reward_sums_K.detach().double() - logprob_sums_K.detach().double()
    if kind == "none":
        return torch.zeros_like(log_w_K)
    if kind == "length_normalized":
        return log_w_K / lengths_K.double().clamp(min=1)
    if kind == "truncated":
        capped_K = log_w_K.clone()
        pools_K = torch.zeros(len(log_w_K)) if pool_K is None else pool_K
        for pool in pools_K.unique():
            mine = pools_K == pool
            cap = torch.logsumexp(log_w_K[mine], 0) - 0.5 * math.log(int(mine.sum()))
            capped_K[mine] = log_w_K[mine].clamp(max=float(cap))
        return capped_K
    return log_w_K


def normalized_weights(
    log_w_K: Tensor,
    prompt_K: Tensor,
    normalize: Literal["batch", "prompt"],
    prompt_shares: Mapping[int, float] | None = None,
) -> Tensor:
    """Float64 weights [K] that sum to 1: over the batch, or within each prompt, prompts sharing as said (None: equally)."""
    if len(log_w_K) == 0:
        return log_w_K
    if normalize == "batch":
        return torch.softmax(log_w_K, 0)
    weights_K = torch.empty_like(log_w_K)
    prompts = prompt_K.unique().tolist()
    for prompt in prompts:
        mine = prompt_K == prompt
        share = 1 / len(prompts) if prompt_shares is None else prompt_shares[prompt]
        weights_K[mine] = torch.softmax(log_w_K[mine], 0) * share
    return weights_K


def effective_sample_size(weights_K: Tensor) -> float:
    """1 / sum of squared normalised weights: from 1 (one sample has all the weight) to K; 0 if none has any."""
    squares = float(weights_K.square().sum())
    return 1 / squares if squares else 0.0


def irl_loss(scores_B: Tensor, weights_B: Tensor) -> Tensor:
    """sum_i weight_i score_i: negatives carry their normalised weight, positives minus their share of the mean.

    `scores_B` (mean or sum of token rewards, with gradient); `weights_B` constants from `signed_weights`.
    """
    return (weights_B.to(scores_B) * scores_B).sum()


@dataclass(frozen=True, slots=True, eq=False)
class SignedWeights:
    """Float64 weights of rollouts [B] and demonstrations [E]: positive is pushed down, negative up, 0 takes no part."""

    rollouts_B: Tensor
    demonstrations_E: Tensor
    effective_sample_size: float
    num_negatives: int


def signed_weights(
    config: IRLConfig,
    reward_sums_B: Tensor,
    logprob_sums_B: Tensor,
    lengths_B: Tensor,
    prompt_B: Tensor,
    outcome_B: Tensor,
    demonstration_prompt_E: Tensor,
) -> SignedWeights:
    """Signs and weights of all rows of the loss: B rollouts and E demonstrations.

    `outcome_B` is 1 for correct, 0 for failed, NaN for ungraded rollouts (which take no part, unless no outcome is used).
    `prompt_B` and `demonstration_prompt_E` number the prompt of each row. Positives: demonstrations, and correct rollouts
    if they are pseudo-experts.
    """
    if config.use_outcome:
        negative_B, positive_B = outcome_B == 0, (outcome_B == 1) & config.pseudo_experts
    else:
        negative_B, positive_B = torch.ones_like(outcome_B, dtype=torch.bool), torch.zeros_like(outcome_B, dtype=torch.bool)
    log_w_K = log_weights(
        config.weights,
        reward_sums_B[negative_B],
        logprob_sums_B[negative_B],
        lengths_B[negative_B],
        prompt_B[negative_B] if config.normalize == "prompt" else None,
    )
    positives_R = torch.cat([positive_B.double(), torch.full((len(demonstration_prompt_E),), config.expert_weight)])
    prompt_R = torch.cat([prompt_B, demonstration_prompt_E])
    prompt_shares = None
    if config.positive_denominator == "prompt":
        prompt_shares = _prompt_shares(positives_R, prompt_R, prompt_B[negative_B])
    shares_R = _positive_shares(config.positive_denominator, positives_R, prompt_R, len(prompt_B), prompt_shares)
    weights_K = normalized_weights(log_w_K, prompt_B[negative_B], config.normalize, prompt_shares)
    rollouts_B = -shares_R[: len(prompt_B)]
    rollouts_B[negative_B] = weights_K
    return SignedWeights(rollouts_B, -shares_R[len(prompt_B) :], effective_sample_size(weights_K), int(negative_B.sum()))


def _prompt_shares(positives_R: Tensor, prompt_R: Tensor, prompt_K: Tensor) -> dict[int, float]:
    """Share of every prompt with negatives: in proportion to the weight of its positives, at most 1; all 0 without any."""
    sizes = {prompt: min(1.0, float(positives_R[prompt_R == prompt].sum())) for prompt in prompt_K.unique().tolist()}
    total = sum(sizes.values())
    return {prompt: size / total if total else 0.0 for prompt, size in sizes.items()}


def _positive_shares(
    denominator: str, positives_R: Tensor, prompt_R: Tensor, num_rollouts: int, prompt_shares: Mapping[int, float] | None
) -> Tensor:
    """Float64 [R] shares of all rows among the positives, from their relative weights (0 for what is no positive)."""
    if prompt_shares is None:
        total = max(1, num_rollouts) if denominator == "rollouts" else max(float(positives_R.sum()), 1e-12)
        return positives_R.double() / total
    shares_R = torch.zeros(len(positives_R), dtype=torch.float64)
    for prompt, share in prompt_shares.items():
        mine = prompt_R == prompt
        if share > 0:
            shares_R[mine] = positives_R[mine].double() / float(positives_R[mine].sum()) * share
    return shares_R


def eq5_objective(expert_sums_E: Tensor, policy_sums_B: Tensor, logprob_sums_B: Tensor) -> Tensor:
    """Eq 5, to be maximised: mean expert return minus log mean_B exp(r - log pi), for rollouts of one prompt.

    Its gradient is Eq 3; `irl_loss` with `weights=sequence`, `objective=sum` has minus this gradient (tested).
    """
    count = len(policy_sums_B)
    return expert_sums_E.mean() - (torch.logsumexp(policy_sums_B - logprob_sums_B, 0) - math.log(count))
