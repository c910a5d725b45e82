"""How often Monte Carlo step labels are right, by the number of continuations: held against a family's exact checker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from repirl.engines.base import SamplingParams
from repirl.engines.torch_engine import TorchEngine
from repirl.grading.dispatch import grade_rollouts
from repirl.methods.step_labels import Labels, exact_labels, label_quality
from repirl.rollouts.collect import Collector, Decoding
from repirl.rollouts.monte_carlo import MonteCarloConfig, SteppedRollout, monte_carlo_labels, stepped
from repirl.rollouts.steps import StepSegmentation
from repirl.stats import clustered_interval, paired_difference
from repirl.types import Interval

if TYPE_CHECKING:
    from repirl.engines.loading import LoadedPolicy

MAX_NEW_TOKENS = 192
SAMPLES = 2
"""Rollouts of each problem."""


@dataclass(frozen=True, slots=True)
class LabelAccuracy:
    """Of hard labels from `continuations` samples: share of steps with the exact label, with an interval over problems; of
    right and of wrong steps alone; `gained` over half of the continuations, paired (None for the first)."""

    continuations: int
    accuracy: Interval
    right: float | None
    wrong: float | None
    gained: Interval | None


def label_accuracy(
    policy: LoadedPolicy,
    family: ModuleType,
    levels: Sequence[int],
    *,
    problems: int = 150,
    numbers: Sequence[int] = (1, 2, 4, 8, 16),
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[LabelAccuracy]:
    """One line for each of `numbers`; the continuations of a smaller one are the first of a larger one's.

    Steps up to the first wrong one of rollouts of the policy, which is also what continues them.
    """
    params = SamplingParams(MAX_NEW_TOKENS)
    collector = Collector(policy.tokenizer, TorchEngine(policy.model, policy.tokenizer), grade_rollouts, Decoding(params))
    groups = collector.groups(family.problems("train", problems, levels=tuple(levels)), SAMPLES, seed)
    rollouts = stepped(groups, policy.tokenizer, StepSegmentation("\n"))
    exact = exact_labels(rollouts)
    found: list[LabelAccuracy] = []
    before = None
    for done, number in enumerate(numbers):
        labels = monte_carlo_labels(rollouts, collector, MonteCarloConfig(continuations=number), seed)
        told = label_quality(labels, exact)
        shares = _by_problem(rollouts, labels, exact)
        gained = None if before is None else paired_difference(shares[None], before[None]).interval
        found.append(
            LabelAccuracy(number, clustered_interval(list(shares)), told.get("agree_right"), told.get("agree_wrong"), gained)
        )
        before = shares
        if on_progress is not None:
            on_progress(done + 1, len(numbers))
    return found


def _by_problem(rollouts: Sequence[SteppedRollout], labels: Labels, exact: Labels) -> np.ndarray:
    """[P]: of each problem the share of its steps with both labels that have the exact one; NaN without any."""
    places: dict[str, list[int]] = {}
    for i, one in enumerate(rollouts):
        places.setdefault(one.group.problem.id, []).append(i)
    told = [label_quality([labels[i] for i in own], [exact[i] for i in own]).get("agree") for own in places.values()]
    return np.array([np.nan if share is None else share for share in told])
