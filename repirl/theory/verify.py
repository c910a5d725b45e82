"""The theory in numbers: every check of this room, and the unification table (`repirl verify`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from repirl.theory import credit, fixed_points, inverse, logistic, optimal, unification
from repirl.theory.checks import CheckResult, run_checks

CHECKS = (*optimal.CHECKS, *inverse.CHECKS, *fixed_points.CHECKS, *logistic.CHECKS, *unification.CHECKS, *credit.CHECKS)


@dataclass(frozen=True, slots=True)
class Verified:
    """Results in order, and the rows of the unification table with what was found for them."""

    checks: list[CheckResult]
    unification: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        return all(one.passed for one in self.checks)


def verify(instances: int, seed: int, on_progress: Callable[[int, int], None] | None = None) -> Verified:
    """Runs all checks on `instances` random instances each, in one thread: the sums are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = run_checks(CHECKS, instances, seed, on_progress)
    finally:
        torch.set_num_threads(threads)
    found = {one.name: one for one in results}
    rows = []
    for row in unification.TABLE:
        choices = {key: value for key, value in asdict(row).items() if isinstance(value, str)}
        same, otherwise = found[row.same.name], found[row.otherwise.name]
        rows.append(
            choices
            | {
                "max_difference": same.max_residual,
                "otherwise": otherwise.name,
                "min_difference_otherwise": otherwise.min_residual,
                "passed": same.passed and otherwise.passed,
            }
        )
    return Verified(results, rows)
