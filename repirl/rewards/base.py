"""What a process reward is: a number for every token, from which the rewards of steps are made in one place.

A kind of reward implements `token_scores`; rows, step ends, aggregation, the sharing of equal rows and the counting of
tokens are written here once. A reward that learns is a `RewardLearner`; a frozen one is one that learns nothing.
Shapes: T tokens of a rollout, S steps, N completion tokens of a batch laid end to end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from repirl.rewards.aggregate import Aggregation, aggregate
from repirl.rollouts.batching import map_rows
from repirl.rollouts.packing import TokenBatch, padding_id, rollout_rows
from repirl.rollouts.steps import StepSegmentation, step_end_tokens
from repirl.types import Budget, Metrics, RolloutGroup, Scored, StepRewards


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a reward says of a batch that it has just learned from, and how its learning went."""

    scored: Scored
    metrics: Metrics


class RewardLearner(Protocol):
    """What the training loop needs of a reward. `budget` is what it consumed so far."""

    @property
    def budget(self) -> Budget: ...

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint of the fitted reward holds, by name; empty without parameters."""
        ...

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> Learned:
        """One update from a graded batch, and the batch's scores (from before or after it, as the reward defines)."""
        ...

    def score(self, groups: Sequence[RolloutGroup]) -> Scored: ...

    def state(self) -> dict[str, Any]:
        """All that resuming needs: tensors, numbers and strings only."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...

    def save(self, folder: Path) -> None:
        """Write the fitted reward as an artifact; rewards without parameters write nothing."""
        ...


class StepReward(ABC):
    """A frozen process reward; a step's reward is the `aggregation` of its tokens' scores."""

    name: str = ""
    probabilities: bool = False
    """Step scores are probabilities that the step is right (search needs to know; others may take any number)."""
    budget: Budget
    """What scoring consumed so far."""

    def __init__(self, tokenizer: Any, segmentation: StepSegmentation, aggregation: Aggregation = "mean") -> None:
        self.tokenizer = tokenizer
        self.segmentation = segmentation
        self.aggregation: Aggregation = aggregation
        self.budget = Budget()

    @abstractmethod
    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """A score for each token of each rollout: floats [T], rollout after rollout, group after group.

        NaN: the token says nothing. A step of such tokens alone carries no reward (its mask is False).
        """

    def score(self, groups: Sequence[RolloutGroup]) -> Scored:
        """Rewards of tokens and steps of every rollout, group by group."""
        return self.steps(groups, self.token_scores(groups))

    def steps(self, groups: Sequence[RolloutGroup], token_scores: Sequence[np.ndarray]) -> Scored:
        """Token scores, in the order of `token_scores`, as rewards of tokens and steps."""
        scores = iter(token_scores)
        return [
            [
                steps_from_tokens(
                    next(scores), step_end_tokens(self.tokenizer, r.token_ids, self.segmentation, r.text), self.aggregation
                )
                for r in group.rollouts
            ]
            for group in groups
        ]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """None: a frozen reward is what it was at the start."""
        return {}

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> Learned:
        """Frozen: scores, and learns nothing."""
        return Learned(self.score(groups), {})

    def state(self) -> dict[str, Any]:
        """The counts, so that a resumed run's budget is whole."""
        return {"scored_tokens": self.budget.scored_tokens}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.budget = Budget(scored_tokens=state["scored_tokens"])

    def save(self, folder: Path) -> None:
        """Nothing: what has no parameters is loaded by its name."""


class ModelReward(StepReward):
    """A reward that a model gives, row by row."""

    def __init__(self, model: Any, tokenizer: Any, segmentation: StepSegmentation, aggregation: Aggregation = "mean") -> None:
        super().__init__(tokenizer, segmentation, aggregation)
        self.model = model

    @abstractmethod
    def per_token(self, batch: TokenBatch) -> Tensor:
        """Raw scores [N] of the batch's completion tokens."""

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """Every rollout through the model, equal ones once; all of them count as scored tokens."""
        rows = rollout_rows(groups)
        self.budget += Budget(scored_tokens=sum(map(len, rows)))
        return [scores.numpy() for scores in map_rows(self.model, rows, self.per_token, pad_id=padding_id(self.tokenizer))]


def steps_from_tokens(token_scores_T: np.ndarray, step_ends_S: np.ndarray, how: Aggregation) -> StepRewards:
    """Step rewards as an aggregate (mean, last, ...) of the scores of each step's tokens; NaN scores are left out.

    A token without a score earns 0, a step without any has reward 0 and mask False.
    """
    starts_S = np.concatenate([[0], step_ends_S[:-1] + 1]) if len(step_ends_S) else step_ends_S
    pieces = [token_scores_T[a : b + 1] for a, b in zip(starts_S, step_ends_S, strict=True)]
    mask_S, mask_T = np.ones(len(pieces), dtype=bool), None
    if np.isnan(token_scores_T).any():
        mask_T = ~np.isnan(token_scores_T)
        pieces = [piece[~np.isnan(piece)] for piece in pieces]
        mask_S = np.array([len(piece) > 0 for piece in pieces], dtype=bool)
        token_scores_T = np.nan_to_num(token_scores_T, nan=0.0)
    steps_S = np.array([aggregate(piece, how) if len(piece) else 0.0 for piece in pieces], dtype=np.float32)
    return StepRewards(token_scores_T.astype(np.float32), step_ends_S, steps_S, mask_S, mask_T)
