"""Rewards that learned nothing (random, constant, length, confidence) and one that knows everything (the exact checker).

The nulls are rows in every table: a method that does not beat them has learned nothing about reasoning (docs/design.md rule 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repirl.errors import UserError
from repirl.rewards.base import StepReward
from repirl.rewards.energy import EnergyReward, energy_from_policy
from repirl.rng import stream
from repirl.rollouts.steps import StepSegmentation, step_end_tokens
from repirl.tasks.training_sets import FAMILIES, has_step_checker
from repirl.types import Problem, Rollout, RolloutGroup


class RandomReward(StepReward):
    """Independent standard normal token rewards: a function of the run's seed and the rollout's tokens alone."""

    name = "random"

    def __init__(self, tokenizer: Any, segmentation: StepSegmentation, seed: int = 0) -> None:
        super().__init__(tokenizer, segmentation)
        self.seed = seed

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        return [
            stream(self.seed, "random-reward", group.problem.id, r.token_ids.tolist()).standard_normal(len(r.token_ids))
            for group in groups
            for r in group.rollouts
        ]


class ConstantReward(StepReward):
    """Every token earns the same."""

    name = "constant"

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        return [np.ones(len(r.token_ids)) for group in groups for r in group.rollouts]


class LengthReward(StepReward):
    """Every token earns the completion's length in units of 100 tokens: what a length-biased PRM would pay."""

    name = "length"

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        return [np.full(len(r.token_ids), len(r.token_ids) / 100) for group in groups for r in group.rollouts]


def confidence_reward(policy_model: Any, tokenizer: Any, segmentation: StepSegmentation) -> EnergyReward:
    """The starting policy's log-probability of each token, frozen: a residual energy before it learned anything.

    A step is worth its least likely token.
    """
    model = energy_from_policy(policy_model, base_measure=1.0).requires_grad_(False).eval()
    reward = EnergyReward(model, tokenizer, segmentation, "min")
    reward.name = "confidence"
    return reward


class OracleReward(StepReward):
    """The exact step checker of an embedded family: 1 for a right step, 0 for the first wrong one, nothing after it.

    A step's reward lies on its last token.
    """

    name = "oracle"
    probabilities = True

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        return [self._checked(group.problem, rollout) for group in groups for rollout in group.rollouts]

    def _checked(self, problem: Problem, rollout: Rollout) -> np.ndarray:
        if not has_step_checker(problem):
            raise UserError("the oracle knows the problems of the embedded families only", problem.family, "use another method")
        ends_S = step_end_tokens(self.tokenizer, rollout.token_ids, self.segmentation, rollout.text)
        labels = exact_step_labels(problem, rollout, len(ends_S))
        alive = labels.index(False) + 1 if False in labels else len(labels)
        scores_T = np.full(len(rollout.token_ids), np.nan)
        scores_T[ends_S[:alive]] = labels[:alive]
        return scores_T


def exact_step_labels(problem: Problem, rollout: Rollout, num_steps: int) -> list[bool]:
    """The exact checker's label for each of the rollout's `num_steps` steps.

    Blank lines are no steps. A rollout cut off by the token limit has an unfinished, hence wrong, last step unless the
    line happens to be right as it stands. A text without any step (only blank) is one wrong step.
    """
    text = "\n".join(line for line in rollout.text.split("\n") if line.strip())
    labels = FAMILIES[problem.family].check_steps(problem.source, text) or [False]
    if len(labels) != num_steps:
        raise AssertionError(f"{len(labels)} labels for {num_steps} steps in {rollout.text!r}")
    return labels
