"""Sampling from a copy of the weights in training: where they are cut among processes (each holds a whole copy, and samples its
share), and on other machines."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from repirl import parallel
from repirl.engines.base import Request, SamplingParams
from repirl.engines.torch_engine import TorchEngine
from repirl.engines.weights import SyncReport, WeightSource
from repirl.types import Rollout


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A transformers model without its weights (and without adapters): what can be built anywhere."""

    kind: type
    config: Any
    generation_config: Any
    """Has its end-of-sequence tokens."""
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Any) -> Architecture:
        return cls(type(model), copy.deepcopy(model.config), model.generation_config, next(model.parameters()).dtype)

    def build(self, device: str | torch.device) -> Any:
        """A frozen model with weights that mean nothing."""
        model = self.kind(copy.deepcopy(self.config)).to(device=device, dtype=self.dtype)
        model.generation_config = self.generation_config
        return model.requires_grad_(False).eval()


class CopiedEngine:
    """`SyncedEngine`: a torch engine over a model of its own on `device`."""

    def __init__(self, architecture: Architecture, tokenizer: Any, device: str | torch.device, **bounds: Any) -> None:
        self.model = architecture.build(device)
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

    def close(self) -> None:
        """Nothing was started."""

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """As `Engine.generate`; each process samples some of the requests, and all get all."""
        groups = parallel.shared(lambda some: self.engine.generate(some, params, on_progress), requests)
        return [[replace(rollout, policy_version=self._version) for rollout in group] for group in groups]
