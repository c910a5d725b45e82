"""Credit: from outcomes and process rewards to one advantage for every token.

A rule is an object. The leave-one-out rules of this file are functions of the batch; a rule may also learn (a value
head). Leave-one-out is taken per source, then the sources are weighted and added (docs/recipes.md B2 items 3-4).
What is set of a rule is in `credit_config.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from repirl.grading.dispatch import outcome_rewards
from repirl.learn.advantages import (
    leave_one_out_return_to_go,
    leave_one_out_sequence,
    leave_one_out_steps,
    min_form,
    outcome_advantages,
    standardised_steps,
)
from repirl.learn.credit_config import (
    AlphaCredit,
    CreditBase,
    MinFormCredit,
    OutcomeCredit,
    ProcessCredit,
    ReturnToGoCredit,
    SequenceCredit,
    StepCredit,
)
from repirl.types import Budget, Metrics, RolloutGroup, Scored, StepRewards

Advantages = list[list[np.ndarray]]
"""float32 [T] of every rollout, group by group."""


class Credit(ABC):
    """A rule that pays tokens. `done` in [0, 1) is the share of training that lies behind, for schedules."""

    @abstractmethod
    def advantages(self, groups: Sequence[RolloutGroup], scored: Scored | None, done: float) -> Advantages:
        """Advantages of one graded batch; ungraded rollouts get zeros where outcomes are used (docs/design.md rule 1)."""

    @property
    def needs_reward(self) -> bool:
        """Whether the rule pays a process reward."""
        return False

    def learn(self, groups: Sequence[RolloutGroup], scored: Scored | None) -> Metrics:
        """One update of what the rule learns from the batch; nothing unless overridden."""
        return {}

    @property
    def budget(self) -> Budget:
        """What learning consumed so far."""
        return Budget()

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What the rule trains, by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""


_IN_GROUP: dict[type[CreditBase], Callable[[Sequence[StepRewards]], list[np.ndarray]]] = {
    SequenceCredit: leave_one_out_sequence,
    ReturnToGoCredit: leave_one_out_return_to_go,
    StepCredit: leave_one_out_steps,
    AlphaCredit: standardised_steps,
}


class LeaveOneOut(Credit):
    """The rules whose baseline is the other rollouts of the same problem."""

    def __init__(self, config: OutcomeCredit | ProcessCredit | AlphaCredit) -> None:
        self.config = config

    @property
    def needs_reward(self) -> bool:
        return not isinstance(self.config, OutcomeCredit)

    def advantages(self, groups: Sequence[RolloutGroup], scored: Scored | None, done: float) -> Advantages:
        """float32 [T] of every rollout. ValueError if the rule pays a process reward and there is none."""
        config = self.config
        masked = without_outcome(groups, config)
        outcome = [
            outcome_advantages(np.array(outcome_rewards(group.verdicts, config.fraction_of_tests)), config.outcome)
            for group in groups
        ]
        process, weight, outcome_weight = None, 0.0, config.outcome_weight
        if not isinstance(config, OutcomeCredit):
            if scored is None:
                raise ValueError("the credit rule pays a process reward, and there is none")
            if isinstance(config, AlphaCredit):
                weight = config.alpha_at(done)
                outcome_weight *= 1 - weight
            else:
                weight = config.process_weight * config.process_share(done)
            process = _process_advantages(groups, scored, masked, config) if weight > 0 else None
        advantages = []
        for g, group in enumerate(groups):
            row = []
            for i, rollout in enumerate(group.rollouts):
                tokens_T = np.full(len(rollout.token_ids), outcome_weight * outcome[g][i])
                if process is not None:
                    tokens_T = tokens_T + weight * process[g][i]
                row.append(tokens_T.astype(np.float32))
            advantages.append(row)
        return whitened(advantages, masked) if config.whiten else advantages


def without_outcome(groups: Sequence[RolloutGroup], config: CreditBase) -> list[list[bool]]:
    """Which rollouts earn nothing, as the rule pays outcomes and they have none."""
    return [[config.outcome_weight > 0 and verdict.outcome == "ungraded" for verdict in g.verdicts] for g in groups]


def progress(rewards: StepRewards) -> StepRewards:
    """Step rewards replaced by their change since the step before; the first step's change is taken from zero change.

    What a prefix was worth before the first step is the same for all rollouts of a problem, so leave-one-out removes it:
    the first step keeps its score. Token rewards are left alone.
    """
    before_S = np.concatenate([[0.0], rewards.step_rewards[:-1]])
    return replace(rewards, step_rewards=(rewards.step_rewards - before_S).astype(np.float32))


def _step_signal(scored: Scored, correct: Sequence[Sequence[float]], config: StepCredit) -> Scored:
    """The step rewards as `signal` and `doubtful` say; `correct` is the outcome of every rollout, NaN without one."""
    scores = [r.step_rewards[r.step_mask] for group in scored for r in group]
    scores_N = np.sort(np.concatenate(scores)) if scores else np.zeros(0)
    limit = -np.inf
    if config.doubtful == "outcome":
        limit = _limit_by_outcome(scores, np.array([outcome for group in correct for outcome in group]))
    elif config.doubtful_share and len(scores_N):
        limit = float(np.quantile(scores_N, config.doubtful_share))

    def credited(rewards: StepRewards) -> StepRewards:
        doubtful_S = rewards.step_rewards < limit
        paid = progress(rewards) if config.signal == "progress" else rewards
        paid = _until_doubtful(paid, doubtful_S)
        if config.signal == "right":
            return replace(paid, step_rewards=1 - doubtful_S.astype(np.float32))
        return _ranked(paid, scores_N) if config.signal == "rank" and len(scores_N) else paid

    return [[credited(rewards) for rewards in group] for group in scored]


def _limit_by_outcome(scores: Sequence[np.ndarray], correct_B: np.ndarray) -> float:
    """The score below which as large a share of the rollouts has a step as has failed (`scores` of each rollout's steps)."""
    known = [(one.min(), outcome) for one, outcome in zip(scores, correct_B, strict=True) if len(one) and not np.isnan(outcome)]
    if not known:
        return -np.inf
    least_B, outcome_B = np.array(known).T
    failed = round(float((1 - outcome_B).sum()))
    return float(np.sort(least_B)[failed]) if failed < len(least_B) else np.inf


def _until_doubtful(rewards: StepRewards, doubtful_S: np.ndarray) -> StepRewards:
    """The steps after the first doubtful one lose their reward (the mask)."""
    before_S = np.cumsum(doubtful_S & rewards.step_mask) - (doubtful_S & rewards.step_mask)
    return replace(rewards, step_mask=rewards.step_mask & (before_S == 0))


def _ranked(rewards: StepRewards, scores_N: np.ndarray) -> StepRewards:
    """Step rewards as mid-ranks among the sorted scores [N], in 0..1."""
    below_S = np.searchsorted(scores_N, rewards.step_rewards, side="left")
    not_above_S = np.searchsorted(scores_N, rewards.step_rewards, side="right")
    return replace(rewards, step_rewards=((below_S + not_above_S) / (2 * len(scores_N))).astype(np.float32))


def _process_advantages(
    groups: Sequence[RolloutGroup],
    scored: Scored,
    masked: Sequence[Sequence[bool]],
    config: ProcessCredit | AlphaCredit,
) -> list[list[np.ndarray]]:
    """float64 [T] process advantages of every rollout; masked ones, and those that the reward did not score (none of their
    steps carries a reward), get zeros and are in nobody's baseline, rank or scale."""
    masked = [
        [is_masked or not rewards.step_mask.any() for rewards, is_masked in zip(*pair, strict=True)]
        for pair in zip(scored, masked, strict=True)
    ]
    kept = [
        [rewards for rewards, is_masked in zip(*pair, strict=True) if not is_masked]
        for pair in zip(scored, masked, strict=True)
    ]
    correct = [
        [verdict.reward for verdict, is_masked in zip(group.verdicts, row, strict=True) if not is_masked]
        for group, row in zip(groups, masked, strict=True)
    ]
    paid = _step_signal(kept, correct, config) if isinstance(config, StepCredit) else kept
    if isinstance(config, MinFormCredit):
        credit = [min_form(group, config.temperature) for group in paid]
    else:
        credit = [_IN_GROUP[type(config)](group) if group else [] for group in paid]
    if isinstance(config, ProcessCredit) and config.process_scale == "batch_std" and any(credit):
        flat = np.concatenate([tokens for group in credit for tokens in group])
        scale = float(np.sqrt(np.mean(flat**2))) + 1e-8
        credit = [[tokens / scale for tokens in group] for group in credit]
    remaining = [iter(group) for group in credit]
    return [
        [
            np.zeros(len(rewards.token_rewards)) if is_masked else next(remaining[g])
            for rewards, is_masked in zip(scored[g], masked[g], strict=True)
        ]
        for g in range(len(scored))
    ]


def whitened(advantages: Advantages, masked: list[list[bool]]) -> Advantages:
    """Advantages of mean 0 and unbiased variance 1 over the tokens of the rollouts that are not masked."""
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
