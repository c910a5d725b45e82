"""Sampling by workers on one or several machines, each with an engine of its own that follows the weights in training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from repirl import parallel
from repirl.engines.base import Request, SamplingParams
from repirl.engines.ray_workers import RaySettings, Workers, connect
from repirl.engines.weights import SyncedEngine, SyncReport, WeightSource, pieces
from repirl.types import Rollout

PART_BYTES = 512 * 1024**2
"""Weights travel in parts of about this size, so that no machine holds them twice."""
PIECES_PER_WORKER = 4
"""A pass is cut into more pieces than there are workers: who is done early takes another."""


class RayEngine:
    """`SyncedEngine` over `settings.samplers` workers; `make()` gives a worker its own synced engine, to which weights go as
    `dtype` (None: as they are).

    Which worker samples a request changes nothing, as every sample has its own random stream. Of several processes that train
    together the first drives the workers, and all get what they sampled.
    """

    def __init__(self, make: Callable[[], SyncedEngine], settings: RaySettings, dtype: torch.dtype | None = None) -> None:
        self._make, self._settings, self._dtype = make, settings, dtype
        self._version: int | None = None
        self._parts: list[Any] = []

    @cached_property
    def workers(self) -> Workers:
        """Started when they are first needed, by the first process."""
        options = {"num_cpus": self._settings.sampler_cpus, "num_gpus": self._settings.sampler_gpus}
        make = self._make
        return Workers(lambda: _Sampler(make), self._settings.samplers, self._settings, options, self._prepare)

    @property
    def version(self) -> int | None:
        return self._version

    def sync(self, source: WeightSource) -> SyncReport:
        """Put the weights into Ray's object store, from where each machine gets them once."""
        started, version = time.monotonic(), source.version
        stored: list[Any] = []
        size = 0
        if first := parallel.is_first():
            connect(self._settings)
        self._version, self._parts = None, []  # those before are freed first
        for part in pieces(source.tensors(), PART_BYTES, self._dtype):  # all processes must gather what is cut
            size += sum(value.nbytes for value in part.values())
            if first:
                stored.append(_stored(part))
        self._version, self._parts = version, stored
        if first:
            self.workers.each("sync", version, stored)
        return SyncReport(version, time.monotonic() - started, size)

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """As `Engine.generate`."""
        return parallel.from_first(lambda: self._generate(requests, params, on_progress))

    def _generate(
        self, requests: Sequence[Request], params: SamplingParams, on_progress: Callable[[int, int], None] | None
    ) -> list[list[Rollout]]:
        if not requests:
            return []
        workers = self.workers
        count = min(len(requests), len(workers.actors) * PIECES_PER_WORKER)
        pieces = [requests[i::count] for i in range(count)]
        total, done = sum(request.num_samples for request in requests), 0

        def on_done(piece: int) -> None:
            nonlocal done
            done += sum(request.num_samples for request in pieces[piece])
            if on_progress is not None:
                on_progress(done, total)

        groups: list[Any] = [None] * len(requests)
        for i, part in enumerate(workers.map("generate", [(piece, params) for piece in pieces], on_done)):
            groups[i::count] = part
        return groups

    def _prepare(self, actor: Any) -> Any:
        return None if self._version is None else actor.do.remote("sync", self._version, self._parts)

    def close(self) -> None:
        """End the workers."""
        if (workers := self.__dict__.pop("workers", None)) is not None:
            workers.close()


class _Sampler:
    """What a worker has: an engine, and weights as they arrive."""

    def __init__(self, make: Callable[[], SyncedEngine]) -> None:
        self.engine = make()

    def sync(self, version: int, parts: Sequence[Any]) -> None:
        self.engine.sync(_Received(version, parts))

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Rollout]]:
        return self.engine.generate(requests, params)


class _Received:
    """`WeightSource` of weights that lie in Ray's object store."""

    def __init__(self, version: int, parts: Sequence[Any]) -> None:
        self.version = version
        self._parts = parts

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        import ray
        from safetensors.torch import load

        for part in self._parts:
            yield from load(ray.get(part)).items()


def _stored(part: dict[str, Tensor]) -> Any:
    import ray
    from safetensors.torch import save

    return ray.put(save(part))
