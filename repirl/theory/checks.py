"""What a check of the theory is: a residual on a random instance, and what it may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from repirl.rng import stream

EXACT = 1e-9
"""Largest relative difference of two gradients that are the same: float64 sums in another order."""
APART = 0.05
"""Smallest relative difference of what is not the same."""


@dataclass(frozen=True, slots=True)
class Check:
    """`residual` draws an instance and measures it. `equal`: at most `tolerance` on all; `differs`: at least that on all."""

    name: str
    source: str
    residual: Callable[[np.random.Generator], float]
    tolerance: float = EXACT
    kind: Literal["equal", "differs"] = "equal"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Residuals over the instances; None: on some instance it was not a finite number, which never passes."""

    name: str
    source: str
    kind: Literal["equal", "differs"]
    instances: int
    min_residual: float | None
    max_residual: float | None
    tolerance: float
    passed: bool


def run_check(check: Check, instances: int, seed: int) -> CheckResult:
    """The check on instances 0, 1, ... of this seed: what is drawn for one depends on nothing else."""
    found = [check.residual(stream(seed, "verify", check.name, i)) for i in range(instances)]
    known = all(math.isfinite(one) for one in found)
    low, high = min(found), max(found)
    passed = known and (high <= check.tolerance if check.kind == "equal" else low >= check.tolerance)
    ends = (low, high) if known else (None, None)
    return CheckResult(check.name, check.source, check.kind, instances, *ends, check.tolerance, passed)


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| in units of the larger norm; 0 if both are 0."""
    larger = max(float(a.norm()), float(b.norm()))
    return float((a - b).norm()) / larger if larger else 0.0


def turned(a: Tensor, b: Tensor) -> float:
    """Distance of the directions of `a` and `b`: no factor between them counts; 2 if they are opposite."""
    return float((a / a.norm() - b / b.norm()).norm())


def total_variation(p_N: Tensor, q_N: Tensor) -> float:
    """Half the summed differences of two distributions."""
    return float((p_N - q_N).abs().sum()) / 2


def kl(p_N: Tensor, q_N: Tensor) -> float:
    """KL(p || q) in nats, without the sign that rounding can give to a 0."""
    return abs(float((p_N * (p_N.log() - q_N.log())).sum()))


def gradient(value: Tensor, at: Tensor) -> Tensor:
    """By autograd; the graph stays."""
    return torch.autograd.grad(value, at, retain_graph=True)[0]


def leaf(values: Tensor) -> Tensor:
    """The same numbers, to be differentiated at."""
    return values.detach().clone().requires_grad_()


def minimised(value: Callable[[Tensor], Tensor], start: Tensor, slope: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Where L-BFGS ends that starts at `start`; `slope` is the gradient to follow (None: that of `value`)."""
    at = leaf(start)
    search = torch.optim.LBFGS(
        [at],
        max_iter=1000,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def both() -> float:
        found = value(at)
        at.grad = gradient(found, at) if slope is None else slope(at)
        return float(found.detach())

    search.step(both)
    return at.detach()


def run_checks(
    checks: Sequence[Check], instances: int, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> list[CheckResult]:
    """All of them, in order; `on_progress(done, total)` counts checks."""
    results = []
    for done, check in enumerate(checks):
        if on_progress is not None:
            on_progress(done, len(checks))
        results.append(run_check(check, instances, seed))
    return results
