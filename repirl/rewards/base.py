"""What a process reward is to the training loop, and how token rewards become step rewards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repirl.rewards.aggregate import Aggregation, aggregate
from repirl.types import RolloutGroup, StepRewards


class ProcessReward(ABC):
    """Scores the tokens and steps of rollouts; may learn from each batch before (or after) scoring it.

    Frozen rewards implement `score` alone. `scored_tokens`, `trained_tokens` and `used_demonstrations` count what was
    consumed so far (a demonstration once per batch that it is used in).
    """

    name: str = ""
    scored_tokens: int = 0
    trained_tokens: int = 0
    used_demonstrations: int = 0

    @abstractmethod
    def score(self, groups: Sequence[RolloutGroup]) -> list[list[StepRewards]]:
        """Step rewards of every rollout, group by group."""

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> dict[str, float]:
        """One update from a graded batch; returns metrics. Does nothing unless overridden."""
        return {}

    def state(self) -> dict[str, Any]:
        """All that resuming needs, tensors and numbers only: here the counts, so that a resumed run's budget is whole."""
        return {
            "scored_tokens": self.scored_tokens,
            "trained_tokens": self.trained_tokens,
            "used_demonstrations": self.used_demonstrations,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.scored_tokens, self.trained_tokens = state["scored_tokens"], state["trained_tokens"]
        self.used_demonstrations = state["used_demonstrations"]

    def save(self, folder: Path) -> None:
        """Write the fitted reward as an artifact; rewards without parameters write nothing."""


def steps_from_tokens(token_rewards_T: np.ndarray, step_ends_S: np.ndarray, how: Aggregation) -> StepRewards:
    """Step rewards as an aggregate (mean, last, ...) of the rewards of each step's tokens."""
    starts_S = np.concatenate([[0], step_ends_S[:-1] + 1]) if len(step_ends_S) else step_ends_S
    steps_S = np.array(
        [aggregate(token_rewards_T[a : b + 1], how) for a, b in zip(starts_S, step_ends_S, strict=True)],
        dtype=np.float32,
    )
    return StepRewards(token_rewards_T.astype(np.float32), step_ends_S, steps_S, np.ones(len(steps_S), dtype=bool))


def steps_to_tokens(step_rewards_S: np.ndarray, step_ends_S: np.ndarray, num_tokens: int) -> np.ndarray:
    """float32 [T]: each step's reward on its last token, zero elsewhere (its sum is the sum of the step rewards)."""
    token_rewards_T = np.zeros(num_tokens, dtype=np.float32)
    token_rewards_T[step_ends_S] = step_rewards_S
    return token_rewards_T
