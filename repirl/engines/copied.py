"""Sampling where the weights in training are cut among processes: each holds a whole copy, and samples its share."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from repirl import parallel
from repirl.engines.base import Request, SamplingParams
from repirl.engines.torch_engine import TorchEngine
from repirl.engines.weights import SyncReport, WeightSource
from repirl.types import Rollout


class CopiedEngine:
    """`SyncedEngine`: a torch engine over a copy of `model` (without its adapters, which a sync merges)."""

    def __init__(self, model: Any, tokenizer: Any, **bounds: Any) -> None:
        parameter = next(model.parameters())
        self.model = type(model)(copy.deepcopy(model.config)).to(device=parameter.device, dtype=parameter.dtype).eval()
        self.model.requires_grad_(False)
        self.model.generation_config = model.generation_config  # its end-of-sequence tokens
        self.engine = TorchEngine(self.model, tokenizer, **bounds)
        self._version: int | None = None

    @property
    def version(self) -> int | None:
        return self._version

    @torch.no_grad()
    def sync(self, source: WeightSource) -> SyncReport:
        """Every weight of the source into the copy; nothing else was kept of the old ones."""
        started, size = time.monotonic(), 0
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        missing = set(dict(self.model.named_parameters()))
        for name, value in source.tensors():
            own[name].copy_(value)
            missing.discard(name)
            size += value.nbytes
        if missing:
            raise ValueError(f"the source of weights has no {sorted(missing)[0]}")
        self._version = source.version
        return SyncReport(self._version, time.monotonic() - started, size)

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """As `Engine.generate`; each process samples some of the requests, and all get all."""
        groups = parallel.shared(lambda some: self.engine.generate(some, params, on_progress), requests)
        return [[replace(rollout, policy_version=self._version) for rollout in group] for group in groups]
