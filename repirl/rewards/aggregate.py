"""How many scores become one: the only place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

Aggregation = Literal["mean", "min", "last", "prod", "sum"]

_FUNCTIONS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": lambda scores: float(scores.mean()),
    "min": lambda scores: float(scores.min()),
    "last": lambda scores: float(scores[-1]),
    "prod": lambda scores: float(scores.prod()),
    "sum": lambda scores: float(scores.sum()),
}


def aggregate(scores: np.ndarray, how: Aggregation) -> float:
    """One number from scores [S]; float64. Empty scores have no aggregate: ValueError."""
    if len(scores) == 0:
        raise ValueError("no scores to aggregate")
    return _FUNCTIONS[how](np.asarray(scores, dtype=np.float64))
