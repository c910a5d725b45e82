"""The energy-based PRM with its forward passes in vLLM; its definition, steps and counts stay those of `EnergyReward`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from repirl.engines.vllm_engine import VllmPrmEngine
from repirl.engines.vllm_settings import VllmSettings
from repirl.engines.weights import ModelWeights
from repirl.errors import NumericalFault, UserError
from repirl.precision import training_dtype
from repirl.rewards.aggregate import Aggregation
from repirl.rewards.energy import EnergyReward
from repirl.rollouts.batching import map_rows
from repirl.rollouts.packing import distinct_rows, padding_id, rollout_rows
from repirl.rollouts.steps import StepSegmentation
from repirl.types import Budget, RolloutGroup

CHECKED_ROWS = 8
"""Rollouts that the model itself scores too, after weights have changed."""


class VllmEnergyReward(EnergyReward):
    """An energy model scored by vLLM, which is given the model's weights whenever they have changed.

    UserError for a model with a base measure: its rewards hold the log-probabilities of a language model as well, which a
    token classifier of vLLM does not give. NumericalFault if, after a sync, its scores are not the model's own.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        segmentation: StepSegmentation,
        aggregation: Aggregation = "mean",
        settings: VllmSettings | None = None,
    ) -> None:
        super().__init__(model, tokenizer, segmentation, aggregation)
        if measure := getattr(model.config, "repirl_base_measure", 0.0):
            todo = "score it with torch, or train with irl.base_measure=0"
            raise UserError("vLLM cannot score a PRM with a base measure", measure, todo)
        self.engine = VllmPrmEngine(model, tokenizer, settings or VllmSettings())
        self._weights = ModelWeights(model)

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """As `EnergyReward.token_scores`."""
        rows = rollout_rows(groups)
        self.budget += Budget(scored_tokens=sum(map(len, rows)))
        unique, same_as = distinct_rows(rows)
        changed = self.engine.version != self._weights.version
        if changed:
            self.engine.sync(self._weights)
        scores = self.engine.score([[*row.prompt_ids, *row.response_ids] for row in unique])
        found = [score[len(row.prompt_ids) :] for score, row in zip(scores, unique, strict=True)]
        if changed and unique:
            places = np.unique(np.linspace(0, len(unique) - 1, CHECKED_ROWS).astype(int))
            own = map_rows(self.model, [unique[i] for i in places], self.per_token, pad_id=padding_id(self.tokenizer))
            self._check(np.concatenate([one.numpy() for one in own]), np.concatenate([found[i] for i in places]))
        return [found[i] for i in same_as]

    def _check(self, own: np.ndarray, theirs: np.ndarray) -> None:
        """Scores have a scale of their own, that of the model's."""
        gap = float(np.abs(own - theirs).mean())
        allowed = self.engine.settings.allowed_gap(training_dtype()) * max(1.0, float(np.abs(own).mean()))
        if not gap <= allowed:
            what = f"after a sync vLLM's scores are off by {gap:.2g} a token (tolerance {allowed:.2g})"
            raise NumericalFault(what, "its weights are not those of the reward: report this, or score with torch")

    def close(self) -> None:
        """End vLLM's processes."""
        self.engine.close()
