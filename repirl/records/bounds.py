"""What the numbers of a record can be: checked on every record that is read, so that no edit reaches a table as nonsense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from repirl.types import Budget, Interval

_LARGEST = 2**53  # what JSON readers keep exactly
_ROUNDING = 1e-9

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]


def check_integers(value: Any, where: str = "") -> None:
    """Raises ValueError naming the first integer, at any depth of a JSON value, that does not fit into 64 bits."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_integers(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            check_integers(inner, f"{where}.{i}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where}: an integer of {value.bit_length()} bits")


def _spent(budget: Budget) -> Budget:
    for one in fields(budget):
        if not 0 <= getattr(budget, one.name) <= _LARGEST:
            raise ValueError(f"{one.name} is {getattr(budget, one.name)}: a budget is what was spent")
    return budget


def _within(top: float, bracketed: bool, bottom: float = 0.0) -> Callable[[Interval], Interval]:
    """`bracketed`: the value lies within its interval, as a mean does in its bootstrap (an F1 need not)."""

    def check(interval: Interval) -> Interval:
        low, value, high = interval.low, interval.value, interval.high
        if (low is None) != (high is None) or not 0 < interval.level < 1:
            raise ValueError("half an interval, or a level that is none")
        if any(end is not None and not bottom - _ROUNDING <= end <= top + _ROUNDING for end in (low, value, high)):
            raise ValueError(f"not within {bottom:g} and {top:g}")
        if low is None or high is None:
            return interval
        if low > high or (bracketed and not low - _ROUNDING <= value <= high + _ROUNDING):
            raise ValueError("the ends of the interval are swapped, or the value lies outside them")
        return interval

    return check


Spent = Annotated[Budget, AfterValidator(_spent)]
ShareInterval = Annotated[Interval, AfterValidator(_within(1.0, bracketed=True))]
LiftInterval = Annotated[Interval, AfterValidator(_within(_LARGEST, bracketed=True, bottom=-_LARGEST))]
PercentInterval = Annotated[Interval, AfterValidator(_within(100.0, bracketed=False))]
