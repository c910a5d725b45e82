"""Outcome and process rewards, mixed by named rules into one advantage per token.

Leave-one-out is taken per source, then the sources are weighted and added (RECIPES B2 items 3-4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from repirl.config import Config
from repirl.grading.dispatch import outcome_rewards
from repirl.learn.advantages import (
    OutcomeAdvantage,
    leave_one_out_return_to_go,
    leave_one_out_sequence,
    leave_one_out_steps,
    outcome_advantages,
)
from repirl.types import RolloutGroup, StepRewards

ProcessCredit = Literal["sequence", "return_to_go", "step"]

_CREDIT: dict[str, Callable[[Sequence[StepRewards]], list[np.ndarray]]] = {
    "sequence": leave_one_out_sequence,
    "return_to_go": leave_one_out_return_to_go,
    "step": leave_one_out_steps,
}


class MixConfig(Config):
    """How rewards become advantages."""

    fraction_of_tests: bool = False
    """A wrong program earns the fraction of its tests that passed as its outcome reward, not 0."""
    outcome: OutcomeAdvantage = "rloo"
    outcome_weight: float = Field(default=1.0, ge=0)
    process_weight: float = Field(default=0.0, ge=0)
    process_credit: ProcessCredit = "sequence"
    """`sequence`: mean token reward of the rollout; `return_to_go`: per token; `step`: leave-one-out at the same step."""
    step_signal: Literal["score", "progress", "rank"] = "score"
    """What a step is paid: its score; the change of the score since the step before (a potential difference); or the
    score's rank among all steps of the batch, in 0..1, which has no scale and no heavy tail."""
    doubtful_share: float = Field(default=0.0, ge=0, lt=1)
    """Steps whose score is among this lowest share of the batch count as doubtful, and a rollout earns process credit only
    up to its first doubtful step: what follows a mistake continues from a wrong state. 0: every step earns."""
    process_scale: Literal["none", "batch_std"] = "none"
    """`batch_std` divides the process advantages by their root mean square over all tokens of the batch."""
    whiten: bool = False
    """Shift and scale the summed advantages to mean 0 and unbiased variance 1 over the batch's tokens (PRIME); tokens of
    ungraded rollouts neither count nor move."""


def progress(rewards: StepRewards) -> StepRewards:
    """Step rewards replaced by their change since the step before; the first step's change is taken from zero change.

    What a prefix was worth before the first step is the same for all rollouts of a problem, so leave-one-out removes it:
    the first step keeps its score. Token rewards are left alone.
    """
    before_S = np.concatenate([[0.0], rewards.step_rewards[:-1]])
    return StepRewards(
        rewards.token_rewards,
        rewards.step_ends,
        (rewards.step_rewards - before_S).astype(np.float32),
        rewards.step_mask,
    )


def _credited(process: Sequence[Sequence[StepRewards]], config: MixConfig) -> list[list[StepRewards]]:
    """The step rewards as `step_signal` and `doubtful_share` say."""
    scores = [r.step_rewards[r.step_mask] for group in process for r in group]
    scores_N = np.sort(np.concatenate(scores)) if scores else np.zeros(0)
    limit = np.quantile(scores_N, config.doubtful_share) if config.doubtful_share and len(scores_N) else -np.inf

    def credited(rewards: StepRewards) -> StepRewards:
        paid = progress(rewards) if config.step_signal == "progress" else rewards
        paid = _until_doubtful(paid, rewards.step_rewards < limit)
        return _ranked(paid, scores_N) if config.step_signal == "rank" and len(scores_N) else paid

    return [[credited(rewards) for rewards in group] for group in process]


def _until_doubtful(rewards: StepRewards, doubtful_S: np.ndarray) -> StepRewards:
    """The steps after the first doubtful one lose their reward (the mask)."""
    before_S = np.cumsum(doubtful_S & rewards.step_mask) - (doubtful_S & rewards.step_mask)
    return replace(rewards, step_mask=rewards.step_mask & (before_S == 0))


def _ranked(rewards: StepRewards, scores_N: np.ndarray) -> StepRewards:
    """Step rewards as mid-ranks among the sorted scores [N], in 0..1."""
    below_S = np.searchsorted(scores_N, rewards.step_rewards, side="left")
    not_above_S = np.searchsorted(scores_N, rewards.step_rewards, side="right")
    return replace(rewards, step_rewards=((below_S + not_above_S) / (2 * len(scores_N))).astype(np.float32))


def mixed_advantages(
    groups: Sequence[RolloutGroup],
    process: Sequence[Sequence[StepRewards]] | None,
    config: MixConfig,
    process_share: float = 1.0,
) -> list[list[np.ndarray]]:
    """float32 [T] advantages of every rollout, group by group. Ungraded rollouts get zeros if outcomes are used.

    `process_share` in 0..1 multiplies `process_weight` (a schedule's value at this step).
    """
    process_weight = config.process_weight * process_share
    masked = [[config.outcome_weight > 0 and verdict.outcome == "ungraded" for verdict in group.verdicts] for group in groups]
    rewards = [outcome_rewards(group.verdicts, config.fraction_of_tests) for group in groups]
    outcome = [outcome_advantages(np.array(rewards_G), config.outcome) for rewards_G in rewards]
    credit = None
    if process is not None and process_weight > 0:
        credit = _process_credit(process, masked, config)
    mixed = []
    for g, group in enumerate(groups):
        row = []
        for i, rollout in enumerate(group.rollouts):
            tokens_T = np.full(len(rollout.token_ids), config.outcome_weight * outcome[g][i])
            if credit is not None:
                tokens_T = tokens_T + process_weight * credit[g][i]
            row.append(tokens_T.astype(np.float32))
        mixed.append(row)
    return _whitened(mixed, masked) if config.whiten else mixed


def _process_credit(
    process: Sequence[Sequence[StepRewards]], masked: Sequence[Sequence[bool]], config: MixConfig
) -> list[list[np.ndarray]]:
    """float64 [T] process advantages of every rollout; masked ones get zeros and are in nobody's baseline, rank or scale."""
    kept = [
        [rewards for rewards, is_masked in zip(*pair, strict=True) if not is_masked]
        for pair in zip(process, masked, strict=True)
    ]
    credit = [_CREDIT[config.process_credit](group) for group in _credited(kept, config)]
    if config.process_scale == "batch_std" and any(credit):
        flat = np.concatenate([tokens for group in credit for tokens in group])
        scale = float(np.sqrt(np.mean(flat**2))) + 1e-8
        credit = [[tokens / scale for tokens in group] for group in credit]
    remaining = [iter(group) for group in credit]
    return [
        [
            np.zeros(len(rewards.token_rewards)) if is_masked else next(remaining[g])
            for rewards, is_masked in zip(process[g], masked[g], strict=True)
        ]
        for g in range(len(process))
    ]


def _whitened(advantages: list[list[np.ndarray]], masked: list[list[bool]]) -> list[list[np.ndarray]]:
    rows = [list(zip(*pair, strict=True)) for pair in zip(advantages, masked, strict=True)]
    counted = [tokens for row in rows for tokens, is_masked in row if not is_masked]
    if not counted:
        return advantages
    flat = np.concatenate(counted).astype(np.float64)
    scale = 1 / np.sqrt(flat.var(ddof=1) + 1e-8) if len(flat) > 1 else 1.0
    mean = flat.mean()
    return [
        [tokens if is_masked else ((tokens - mean) * scale).astype(np.float32) for tokens, is_masked in row] for row in rows
    ]
