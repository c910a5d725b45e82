"""Splits of the embedded families, disjoint by construction: a problem's digest decides its split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import cycle

from repirl.errors import UserError
from repirl.types import Problem

_SPLITS = (("train", 60), ("validation", 70), ("test", 85), ("unlabelled", 100))
"""Name and upper bound in percent."""


def split_of(source: str) -> str:
    """The split an expression or description belongs to, decided by its digest alone."""
    share = int.from_bytes(hashlib.sha256(source.encode()).digest()[:4], "little") % 100
    return next(name for name, bound in _SPLITS if share < bound)


def check_request(split: str, levels: tuple[int, ...], known: tuple[int, ...]) -> None:
    """UserError for an unknown split or level."""
    names = [name for name, _ in _SPLITS]
    if split not in names:
        raise UserError("unknown split", split, f"choose one of {', '.join(names)}")
    if not levels or (bad := [level for level in levels if level not in known]):
        raise UserError("unknown level", bad[0] if levels else levels, f"levels are {known[0]} to {known[-1]}")


def take_evenly(streams: Mapping[int, Iterator[Problem]], count: int, family: str) -> list[Problem]:
    """`count` problems, one from each level in turn; a level that runs out leaves its share to the others."""
    found: list[Problem] = []
    remaining = dict(streams)
    for level in cycle(streams):
        if len(found) == count:
            return found
        if not remaining:
            break
        if level in remaining:
            problem = next(remaining[level], None)
            if problem is None:
                del remaining[level]
            else:
                found.append(problem)
    raise UserError(f"not that many {family} problems in the split", count, f"there are {len(found)}")
