"""One gradient step on any loss of sums of log-ratios, also one that couples rows: pairs, or a mean over the batch.

The loss L(rho_1 .. rho_R) is taken of the whole batch at once, from sums without gradient; the micro-batches then carry
sum_r (dL / d rho_r) rho_r, which has the gradient of L however the batch is cut. It costs a pass more than a loss whose rows
are independent. Shapes: R rows, B rows of a micro-batch, N completion tokens of a micro-batch laid end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from repirl.errors import UserError
from repirl.learn.gradient import Loss
from repirl.rewards.implicit import ImplicitReward
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.packing import TokenBatch, TokenRow
from repirl.separation import auc
from repirl.types import Metrics, RolloutGroup, Verdict


@dataclass(frozen=True, slots=True, eq=False)
class RatioLoss:
    """What a step learns from: `loss` maps the sums [R] of the rows' log-ratios, float64, to a scalar whose denominators are
    those of the whole batch. `correct_R` says which rows are right; `metrics` has what else is to be logged."""

    rows: Sequence[TokenRow]
    correct_R: Tensor
    loss: Callable[[Tensor], Tensor]
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class GradedRows:
    """Rollouts that were graded, and whether they are right."""

    rows: list[TokenRow]
    verdicts: list[Verdict]

    @property
    def correct_R(self) -> Tensor:
        return torch.tensor([verdict.reward == 1 for verdict in self.verdicts])


def graded(groups: Sequence[RolloutGroup]) -> GradedRows:
    """The rollouts of the groups without the ungraded ones, group by group."""
    kept = [
        (TokenRow(rollout.prompt_ids, rollout.token_ids), verdict)
        for group in groups
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
        if verdict.outcome != "ungraded"
    ]
    return GradedRows([row for row, _ in kept], [verdict for _, verdict in kept])


def ratio_sums(reward: ImplicitReward, rows: Sequence[TokenRow]) -> Tensor:
    """rho [R] of every row, float64 without gradient, on the CPU."""
    return torch.stack([ratios_T.double().sum() for ratios_T in reward.log_ratios(rows)])


def linearized(reward: ImplicitReward, objective: RatioLoss) -> tuple[Loss, Metrics]:
    """The loss of a micro-batch, and what the rows were worth before the step.

    The micro-batches' losses add up to the loss, their gradients to its gradient with respect to `reward.model`.
    """
    ratios_R = ratio_sums(reward, objective.rows)
    leaves_R = ratios_R.clone().requires_grad_()
    value = objective.loss(leaves_R)
    (slopes_R,) = torch.autograd.grad(value, leaves_R)
    share = float(value.detach()) / len(objective.rows)

    def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
        logprobs_N = token_logprobs(reward.model, batch).logprobs_N
        lengths_B = torch.tensor([len(objective.rows[i].response_ids) for i in chunk])
        slopes_N = slopes_R[chunk].repeat_interleave(lengths_B).to(logprobs_N)
        linear = (slopes_N * logprobs_N).sum()  # the reference has no gradient
        return linear - linear.detach() + share * len(chunk)

    correct_R = objective.correct_R
    sides = {"ratio_correct": ratios_R[correct_R], "ratio_failed": ratios_R[~correct_R]}
    found: Metrics = {name: float(values.mean()) for name, values in sides.items() if len(values)}
    if (separation := auc(ratios_R.tolist(), correct_R.tolist())) is not None:
        found["ratio_auc"] = separation
    return loss, {"rows": float(len(ratios_R))} | found | objective.metrics


def mismatched_rows(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Every completion behind the next other prompt of the batch, no row longer than the longest given: KTO's estimate of
    how far the policy is from the reference (docs/recipes.md B9). UserError if the rows have one prompt alone."""
    prompts = list(dict.fromkeys(tuple(row.prompt_ids) for row in rows))
    if len(prompts) < 2:
        todo = "raise sampling.prompts_per_step, or give more prompts"
        raise UserError("mismatched completions need two prompts in a batch", f"{len(prompts)} prompts", todo)
    following = dict(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
    longest = max(map(len, rows))
    moved = [(following[tuple(row.prompt_ids)], row.response_ids) for row in rows]
    return [TokenRow(prompt_ids, response_ids[: longest - len(prompt_ids)]) for prompt_ids, response_ids in moved]
