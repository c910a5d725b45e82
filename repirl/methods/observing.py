"""Who is told of a run while it goes on. A phase is the name of its folder in the run's; the last one has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repirl.types import Metrics, RolloutGroup


class Observer:
    """What can be heard of a run; this one listens to nothing. Of several processes each has its own."""

    def opened(self, phase: str, folder: Path, step: int, steps: int, *, done: bool) -> None:
        """A phase begins, goes on after `step` of its `steps`, or was finished before."""

    def logged(self, phase: str, metrics: Metrics) -> None:
        """A line of the phase's `metrics.jsonl`, whose `step` counts the completed ones."""

    def sampled(self, phase: str, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Completions of the validation problems after `step` steps, if there are such problems."""
