"""Who is ahead of whom, as far as the data say.

Ranks compare rows with exactly the same seeds, at least three. Two rows whose paired interval includes 0 are tied and share
their places. Ties are not transitive (A may tie with B and B with C, though A is ahead of C), so the order by value is cut only
where no tied pair spans the cut: all rows between two cuts share their places, and rows with different ones are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

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
        order = sorted(members, key=lambda row: -measured[row].values.interval().value)
        places_found = places(order, _tied_in(measured))
        for row, place in zip(order, places_found, strict=True):
            found[row] = Rank(place, place + places_found.count(place) - 1, len(order))
    return found


def places(order: Sequence[int], tied: Callable[[int, int], bool]) -> list[int]:
    """The place of each item of `order`, best first; `tied(ahead, behind)` says whether two are not told apart."""
    found = [1] * len(order)
    for cut in range(1, len(order)):
        # The nearest pairs first: these are the likeliest ties.
        spanned = any(tied(ahead, behind) for ahead in reversed(order[:cut]) for behind in order[cut:])
        found[cut] = found[cut - 1] if spanned else cut + 1
    return found


def _tied_in(measured: Mapping[int, Measured]) -> Callable[[int, int], bool]:
    @cache
    def tied(ahead: int, behind: int) -> bool:
        result = measured[ahead].values.minus(measured[behind].values)
        if result is None or result.interval.low is None or result.interval.high is None:
            return True
        # A bound that differs from zero by rounding only is a tie.
        return result.interval.low <= 1e-12 and result.interval.high >= -1e-12

    return tied
