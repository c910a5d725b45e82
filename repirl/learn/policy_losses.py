"""Policy-gradient losses with the conventions of other stacks as named options (docs/recipes.md B10).

Every loss is a sum over tokens divided by a *global* denominator given by the caller, so that it does not depend on how a
batch is cut into micro-batches (docs/design.md rule 3). Shapes: N completion tokens of a micro-batch, row after row; B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from repirl.config import Config
from repirl.learn.gradient import Counts

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum"]


class KLPenalty(Config):
    """KL(policy || reference) in the loss, summed by the same `reduction` as the surrogate."""

    weight: float = Field(gt=0)
    """Of the penalty beside the surrogate."""
    estimator: Literal["k1", "k3"] = "k3"
    """Neither has that KL's gradient: on policy k3's expected gradient is that of KL(reference || policy), and k1's is zero
    (it only adds noise)."""


class PolicyLossConfig(Config):
    """Which surrogate is minimised."""

    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio per token, or one per completion: exp of the summed log-ratios (TRL's RLOO)."""
    clip_low: float = Field(default=0.2, ge=0)
    """The ratio counts down to 1 minus this where that makes the loss worse."""
    clip_high: float = Field(default=0.2, ge=0)
    """The ratio counts up to 1 plus this where that makes the loss worse."""
    reduction: Reduction = "token_mean"
    """`token_mean`: over all tokens of the batch; `sequence_mean`: token mean per completion, then mean over completions;
    `sequence_sum`: token sum per completion, then mean over completions."""
    entropy_weight: float = 0.0
    """Weight of the entropy *bonus* (docs/method.md section 10: it is subtracted from the loss)."""
    kl: KLPenalty | None = None
    """None: no reference policy is needed."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """`loss` is a scalar with gradient; sums over tokens are detached, for metrics."""

    loss: Tensor
    clipped_sum: float
    entropy_sum: float
    kl_sum: float


def token_weights(lengths_B: Tensor, reduction: Reduction, counts: Counts) -> Tensor:
    """float32 [N]: the weight of each token in the loss; summed over the whole batch they make the reduction."""
    if reduction == "token_mean":
        per_row_B = torch.full_like(lengths_B, 1 / counts.tokens, dtype=torch.float32)
    elif reduction == "sequence_mean":
        per_row_B = 1 / (lengths_B.float() * counts.sequences)
    else:
        per_row_B = torch.full_like(lengths_B, 1 / counts.sequences, dtype=torch.float32)
    return per_row_B.repeat_interleave(lengths_B)


def k3(log_ratio_to_reference_N: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1 with k1 = log pi - log pi_ref: 0.10653 at k1 = 0.5, 0.14872 at -0.5."""
    return torch.exp(-log_ratio_to_reference_N) - 1 + log_ratio_to_reference_N


def policy_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor | None,
    advantages_N: Tensor,
    lengths_B: Tensor,
    counts: Counts,
    config: PolicyLossConfig,
    *,
    entropy_N: Tensor | None = None,
    reference_logprobs_N: Tensor | None = None,
) -> PolicyLoss:
    """PPO-clip surrogate, minus entropy bonus, plus KL penalty; minimise it.

    `old_logprobs_N` None means that the batch was sampled from the very policy that is updated: the ratio is then exactly 1
    and its gradient that of the log-probability, without a second forward pass. Advantages are constants.
    """
    log_ratio_N = logprobs_N - (logprobs_N.detach() if old_logprobs_N is None else old_logprobs_N)
    if config.ratio == "sequence":
        rows_N = torch.arange(len(lengths_B), device=lengths_B.device).repeat_interleave(lengths_B)
        sums_B = torch.zeros(len(lengths_B), dtype=log_ratio_N.dtype, device=lengths_B.device)
        log_ratio_N = sums_B.index_add(0, rows_N, log_ratio_N)[rows_N]
    ratio_N = log_ratio_N.clamp(-20, 20).exp()
    clipped_N = ratio_N.clamp(1 - config.clip_low, 1 + config.clip_high)
    surrogate_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    weights_N = token_weights(lengths_B, config.reduction, counts)
    surrogate_weights_N = weights_N
    if config.ratio == "sequence" and config.reduction == "sequence_sum":
        # Each token carries the whole completion's ratio: dividing by the length makes the row count once.
        surrogate_weights_N = weights_N / lengths_B.repeat_interleave(lengths_B)
    loss = -(surrogate_weights_N * surrogate_N).sum()
    entropy_sum = kl_sum = 0.0
    if entropy_N is not None:
        loss = loss - config.entropy_weight * (entropy_N / counts.tokens).sum()
        entropy_sum = float(entropy_N.detach().sum())
    if reference_logprobs_N is not None and config.kl is not None:
        k1_N = logprobs_N - reference_logprobs_N
        kl_sum = float(k1_N.detach().sum())
        loss = loss + config.kl.weight * (weights_N * (k3(k1_N) if config.kl.estimator == "k3" else k1_N)).sum()
    clipped = (ratio_N * advantages_N > clipped_N * advantages_N).sum()
    return PolicyLoss(loss, float(clipped), entropy_sum, kl_sum)
