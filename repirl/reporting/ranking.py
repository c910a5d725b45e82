"""Who is ahead of whom, as far as the data say.

Ranks compare rows with exactly the same seeds, at least three. A row's places begin after all rows that are told apart from it
and better, and end before all that are told apart and worse: two rows are told apart where the interval of their paired
difference has no 0 in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from repirl.reporting.board import Rank
from repirl.reporting.measuring import Measured

MIN_SEEDS_FOR_RANK = 3


def ranks(measured: Mapping[int, Measured]) -> dict[int, Rank]:
    """Ranks of rows (by number) in one column; rows that have none to be compared with get none."""
    groups: dict[frozenset[int], list[int]] = {}
    for row, one in measured.items():
        if len(one.values.seeds) >= MIN_SEEDS_FOR_RANK:
            groups.setdefault(frozenset(one.values.seeds), []).append(row)
    found: dict[int, Rank] = {}
    for members in groups.values():
        if len(members) < 2:
            continue
        better, worse = dict.fromkeys(members, 0), dict.fromkeys(members, 0)
        for i, row in enumerate(members):
            for other in members[:i]:
                sign = _sign(measured[row], measured[other])
                ahead, behind = (row, other) if sign > 0 else (other, row)
                better[behind] += abs(sign)
                worse[ahead] += abs(sign)
        found |= {row: Rank(1 + better[row], len(members) - worse[row], len(members)) for row in members}
    return found


def _sign(a: Measured, b: Measured) -> int:
    """1 where a is told apart from b and better, -1 where worse, 0 where the two are not told apart."""
    result = a.values.minus(b.values)
    if result is None or result.interval.low is None or result.interval.high is None:
        return 0
    # A bound that differs from zero by rounding only is a tie.
    return 1 if result.interval.low > 1e-12 else -1 if result.interval.high < -1e-12 else 0
