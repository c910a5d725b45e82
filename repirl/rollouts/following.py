"""Sampling by an engine that holds a copy of the weights in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from repirl.engines.base import Request, SamplingParams
from repirl.engines.weights import SyncedEngine, SyncReport, WeightSource
from repirl.errors import NumericalFault
from repirl.rollouts.batching import map_rows, token_logprobs
from repirl.rollouts.packing import TokenRow, padding_id
from repirl.types import Rollout

CHECKED_ROWS = 8
"""Completions that are scored again after a sync."""


class FollowingEngine:
    """`Engine` that has the weights of `source` whenever it samples.

    After each sync some of what it sampled is scored again by `model`, whose weights these are: an engine that kept old
    weights in some corner (a tied output layer, a cache of prompts) samples plausibly, and every ratio and importance weight
    would be wrong. NumericalFault if the mean difference of a token's log-probability is above `tolerance` (nats).
    """

    def __init__(self, engine: SyncedEngine, source: WeightSource, model: Any, tokenizer: Any, tolerance: float) -> None:
        self.engine, self.source = engine, source
        self.model, self.pad_id = model, padding_id(tokenizer)
        self.tolerance = tolerance
        self.last_sync: SyncReport | None = None
        self.last_gap: float | None = None
        """Mean difference found after the last sync."""

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """As `Engine.generate`, from the weights as they are now."""
        synced = self.engine.version != self.source.version
        if synced:
            self.last_sync = self.engine.sync(self.source)
        groups = self.engine.generate(requests, params, on_progress)
        if synced and params.top_p == 1 and params.top_k == 0:
            self._check([rollout for group in groups for rollout in group])
        return groups

    def close(self) -> None:
        """End what the engine started."""
        self.engine.close()

    def _check(self, rollouts: Sequence[Rollout]) -> None:
        """Score a few again: those with the longest prompts, which may have been cached, and others."""
        by_prompt = sorted(rollouts, key=lambda rollout: -len(rollout.prompt_ids))
        places = np.unique(np.linspace(0, len(by_prompt) - 1, CHECKED_ROWS).astype(int)) if by_prompt else []
        chosen = [by_prompt[i] for i in places]
        if not chosen:
            return
        temperature = chosen[0].temperature or 1.0
        own = map_rows(
            self.model,
            [TokenRow(rollout.prompt_ids, rollout.token_ids) for rollout in chosen],
            lambda batch: token_logprobs(self.model, batch, temperature).logprobs_N,
            pad_id=self.pad_id,
        )
        gaps = np.concatenate([np.abs(a.numpy() - b.logprobs) for a, b in zip(own, chosen, strict=True)])
        self.last_gap = float(gaps.mean())
        if not self.last_gap <= self.tolerance:
            what = (
                f"after a sync the engine's log-probabilities are off by {self.last_gap:.2g} a token, at most {gaps.max():.2g}"
            )
            raise NumericalFault(
                f"{what} (tolerance {self.tolerance:g})",
                "its weights are not those of the policy: report this, or use engine torch",
            )
