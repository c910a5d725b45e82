"""Scores of a frozen reward by workers on one or several machines: a large one needs GPUs of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from repirl import parallel
from repirl.engines.ray_workers import RaySettings, Workers
from repirl.rewards.base import StepReward
from repirl.types import Budget, RolloutGroup

PIECES_PER_WORKER = 4
"""A batch is cut into more pieces than there are workers: who is done early takes another."""


class RayReward(StepReward):
    """The reward that `make(device)` gives in each worker; steps are found here, with the tokenizer of `like`.

    Of several processes that train together the first drives the workers, and all get the scores.
    """

    def __init__(self, make: Callable[[str], StepReward], like: StepReward, settings: RaySettings) -> None:
        super().__init__(like.tokenizer, like.segmentation, like.aggregation)
        self.name, self.probabilities = like.name, like.probabilities
        self.workers: Workers | None = None
        if parallel.is_first():
            device = "cuda" if settings.scorer_gpus else "cpu"
            options = {"num_cpus": 1, "num_gpus": settings.scorer_gpus}
            self.workers = Workers(lambda: make(device), settings.scorers, settings, options)

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """As the reward itself gives them; all rows count as scored tokens."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        self.budget += Budget(scored_tokens=sum(len(r.prompt_ids) + len(r.token_ids) for r in rollouts))
        return parallel.from_first(lambda: self._scored(groups)) if groups else []

    def _scored(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        workers = self.workers
        assert workers is not None, "the first process drives"
        size = -(-len(groups) // (len(workers.actors) * PIECES_PER_WORKER))
        pieces = [(groups[i : i + size],) for i in range(0, len(groups), size)]
        return [scores for part in workers.map("token_scores", pieces) for scores in part]

    def close(self) -> None:
        """End the workers."""
        if self.workers is not None:
            self.workers.close()
