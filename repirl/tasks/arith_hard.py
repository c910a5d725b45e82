"""`arith_hard`: problems of `arith` that the embedded policy failed in all of 16 samples.

Outcomes say next to nothing there at first, so what a process reward is worth early shows best. The expressions lie beside
the policy's weights; `repirl pretrain` finds them. Everything else is as in `arith`, and `family` of a problem is.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence

from repirl.paths import ASSETS_DIR
from repirl.tasks import arith
from repirl.tasks.expressions import count_operations, parse
from repirl.tasks.splits import check_request, take_evenly
from repirl.types import Problem

FAMILY = "arith_hard"
LEVELS = (4, 5, 6, 7, 8)
OWN_STYLE = arith.OWN_STYLE
EXPERT_STYLES = arith.EXPERT_STYLES
UNSOLVED_FILE = "unsolved.json"
SAMPLES = 16
CANDIDATES = {"train": 3000, "validation": 400, "test": 600}
"""How many problems of each split were sampled."""

solution = arith.solution
demonstrations = arith.demonstrations


def problems(split: str, count: int, *, levels: tuple[int, ...] = LEVELS, seed: int = 0) -> list[Problem]:
    """`count` of the problems, levels in equal shares as far as they last; there is one list, so `seed` changes nothing."""
    check_request(split, levels, LEVELS)
    by_level: dict[int, list[Problem]] = {level: [] for level in levels}
    for source in _unsolved().get(split, ()):
        level = count_operations(parse(source))
        if level in by_level:
            by_level[level].append(arith.problem_from(source, level))
    streams: dict[int, Iterator[Problem]] = {level: iter(found) for level, found in by_level.items()}
    return take_evenly(streams, count, FAMILY)


def candidates(split: str) -> list[Problem]:
    """The problems from which the policy's failures were taken."""
    return arith.problems(split, CANDIDATES.get(split, 0), levels=LEVELS, seed=1)


@functools.cache
def _unsolved() -> dict[str, Sequence[str]]:
    return json.loads((ASSETS_DIR / "tiny" / UNSOLVED_FILE).read_text())
