"""Weights that change, and engines that hold a copy of them.

The learner owns the weights; an engine that samples elsewhere is a cache of one version of them, which `sync` renews.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from repirl import parallel
from repirl.engines.base import Engine
from repirl.engines.lora import owned_weights


class WeightSource(Protocol):
    """Weights with a version. With several processes all of them must ask, in the same order."""

    @property
    def version(self) -> int:
        """How often the weights have changed: 0 at the start."""
        ...

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight once, whole, detached, under the name that a Hugging Face checkpoint gives it."""
        ...


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did: the version that the engine holds now, seconds by the clock, bytes of weights."""

    version: int
    seconds: float
    bytes: int


class SyncedEngine(Engine, Protocol):
    """An engine that samples from a copy of the weights."""

    @property
    def version(self) -> int | None:
        """The version of the copy, which each of its rollouts carries; None before the first sync."""
        ...

    def sync(self, source: WeightSource) -> SyncReport:
        """Take over the source's weights, and forget all that was computed with others (prefix caches)."""
        ...

    def close(self) -> None:
        """End what it started, such as processes. It can be called twice."""
        ...


def pieces(
    tensors: Iterable[tuple[str, Tensor]], most_bytes: int, dtype: torch.dtype | None = None
) -> Iterator[dict[str, Tensor]]:
    """Named tensors in groups of at most so many bytes (or one tensor), on the CPU; those with a point in `dtype`, if given."""
    piece: dict[str, Tensor] = {}
    size = 0
    for name, value in tensors:
        kind = dtype if dtype is not None and value.is_floating_point() else value.dtype
        value = value.to(device="cpu", dtype=kind).contiguous()
        if piece and size + value.nbytes > most_bytes:
            yield piece
            piece, size = {}, 0
        piece[name] = value
        size += value.nbytes
    if piece:
        yield piece


class ModelWeights:
    """`WeightSource` over a transformers model in this process: plain, with adapters (merged on the way out), or cut.

    A change is noticed by torch's own count of writes to each parameter, so that nobody has to report one: optimiser steps and
    `load_state_dict` both count. Tied weights are given once, under the name of their first owner.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._version = 0
        self._writes = self._count_writes()

    @property
    def version(self) -> int:
        """How often it was found changed when asked for."""
        writes = self._count_writes()
        self._version += writes != self._writes
        self._writes = writes
        return self._version

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See `WeightSource`; a weight that is cut among processes is gathered when it is its turn."""
        return ((name, parallel.whole(value)) for name, value in owned_weights(self.model))

    def _count_writes(self) -> list[int]:
        # Of a weight that is cut, an optimiser's writes count at the whole, others at the part.
        return [p._version + getattr(p, "_local_tensor", p)._version for p in self.model.parameters()]
