"""Rewards that learned nothing (random, constant, length, confidence) and one that knows everything (the exact checker).

The nulls are rows in every table: a method that does not beat them has learned nothing about reasoning (DESIGN rule 5).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from repirl.errors import UserError
from repirl.rewards.base import ProcessReward, steps_from_tokens, steps_to_tokens
from repirl.rewards.energy import score_rows
from repirl.rng import stream
from repirl.rollouts.batching import TokenRow, padding_id
from repirl.rollouts.steps import StepSegmentation, step_end_tokens
from repirl.tasks import arith
from repirl.types import Problem, Rollout, RolloutGroup, StepRewards


class _PerRollout(ProcessReward):
    """A reward that looks at one rollout at a time and assigns each step a number."""

    def __init__(self, tokenizer, segmentation: StepSegmentation, seed: int = 0) -> None:
        self.tokenizer = tokenizer
        self.segmentation = segmentation
        self.seed = seed

    @abstractmethod
    def _steps(self, problem: Problem, rollout: Rollout, step_ends_S: np.ndarray) -> StepRewards:
        """Step rewards of one rollout whose steps end at these tokens."""

    def score(self, groups: Sequence[RolloutGroup]) -> list[list[StepRewards]]:
        return [
            [
                self._steps(group.problem, r, step_end_tokens(self.tokenizer, r.token_ids, self.segmentation, r.text))
                for r in group.rollouts
            ]
            for group in groups
        ]


class RandomReward(_PerRollout):
    """Independent standard normal token rewards: a function of the run's seed and the rollout's tokens alone."""

    name = "random"

    def _steps(self, problem: Problem, rollout: Rollout, step_ends_S: np.ndarray) -> StepRewards:
        rng = stream(self.seed, "random-reward", problem.id, rollout.token_ids.tolist())
        return steps_from_tokens(rng.standard_normal(len(rollout.token_ids)), step_ends_S, "mean")


class ConstantReward(_PerRollout):
    """Every token earns the same."""

    name = "constant"

    def _steps(self, problem: Problem, rollout: Rollout, step_ends_S: np.ndarray) -> StepRewards:
        return steps_from_tokens(np.ones(len(rollout.token_ids)), step_ends_S, "mean")


class LengthReward(_PerRollout):
    """Every token earns the completion's length in units of 100 tokens: what a length-biased PRM would pay."""

    name = "length"

    def _steps(self, problem: Problem, rollout: Rollout, step_ends_S: np.ndarray) -> StepRewards:
        num_tokens = len(rollout.token_ids)
        return steps_from_tokens(np.full(num_tokens, num_tokens / 100), step_ends_S, "mean")


class ConfidenceReward(ProcessReward):
    """The starting policy's log-probability of each token, frozen: what a residual energy pays before it learned anything.

    A step is worth its least likely token. `model` is `energy_from_policy(policy, base_measure=1.0)`.
    """

    name = "confidence"

    def __init__(self, model, tokenizer, segmentation: StepSegmentation) -> None:
        self.model, self.tokenizer, self.segmentation = model, tokenizer, segmentation

    def score(self, groups: Sequence[RolloutGroup]) -> list[list[StepRewards]]:
        rows = [TokenRow(r.prompt_ids, r.token_ids) for group in groups for r in group.rollouts]
        self.scored_tokens += sum(len(row) for row in rows)
        raw = iter(score_rows(self.model, rows, padding_id(self.tokenizer)))
        return [
            [
                steps_from_tokens(
                    next(raw).numpy(), step_end_tokens(self.tokenizer, r.token_ids, self.segmentation, r.text), "min"
                )
                for r in group.rollouts
            ]
            for group in groups
        ]


class OracleReward(_PerRollout):
    """The exact step checker of `arith`: 1 for a right step, 0 for the first wrong one, nothing after it."""

    name = "oracle"

    def _steps(self, problem: Problem, rollout: Rollout, step_ends_S: np.ndarray) -> StepRewards:
        if problem.family != arith.FAMILY:
            raise UserError("the oracle knows only arith problems", problem.family, "use another method")
        labels = exact_step_labels(problem, rollout, len(step_ends_S))
        first_wrong = labels.index(False) if False in labels else len(labels)
        mask_S = np.arange(len(labels)) <= first_wrong
        rewards_S = np.array(labels, dtype=np.float32)
        return StepRewards(steps_to_tokens(rewards_S, step_ends_S, len(rollout.token_ids)), step_ends_S, rewards_S, mask_S)


def exact_step_labels(problem: Problem, rollout: Rollout, num_steps: int) -> list[bool]:
    """The `arith` checker's label for each of the rollout's `num_steps` steps.

    Blank lines are no steps. A rollout cut off by the token limit has an unfinished, hence wrong, last step unless the
    line happens to be right as it stands. A text without any step (only blank) is one wrong step.
    """
    text = "\n".join(line for line in rollout.text.split("\n") if line.strip())
    labels = arith.check_steps(problem.source, text) or [False]
    if len(labels) != num_steps:
        raise AssertionError(f"{len(labels)} labels for {num_steps} steps in {rollout.text!r}")
    return labels
