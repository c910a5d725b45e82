"""Which rows are compared: each with the suite's baseline, and the pairs that its contrasts name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from repirl.bench.suites import Contrast
from repirl.reporting.board import Column, Difference, Row
from repirl.reporting.measuring import Measured
from repirl.stats import PairedDifference, holm

Numbers = Sequence[Mapping[Column, Measured]]
"""What each row of a board measured, in the order of the rows."""


def baseline_of(row: Row, rows: Sequence[Row], label: str | None) -> int | None:
    """Number of the row to compare `row` with: of the baseline's label, trained in the same stage from the same base policy.

    None for the baseline itself, and where there is none or several (then of the same recipe) could be meant.
    """
    if row.label == label:
        return None
    return _only([i for i, other in enumerate(rows) if other.label == label and _same_start(other, row)], row, rows)


def stated_differences(
    rows: Sequence[Row], numbers: Numbers, columns: Sequence[Column], contrasts: Sequence[Contrast]
) -> tuple[Difference, ...]:
    """Every contrast in every stage and column in which both of its rows have values on the same problems and seeds; their
    p-values are corrected for all of them."""
    found: list[tuple[Row, Row, Column, PairedDifference, str]] = []
    for contrast in contrasts:
        wanted = [column for column in columns if _in(column, contrast)]
        for better, worse in _pairs(rows, contrast):
            for column in wanted:
                ahead, behind = numbers[better].get(column), numbers[worse].get(column)
                result = None if ahead is None or behind is None else ahead.values.minus(behind.values)
                if result is not None:
                    found.append((rows[better], rows[worse], column, result, contrast.says))
    corrected = holm([result.p_value for _, _, _, result, _ in found])
    return tuple(Difference(*one, corrected_p=p) for one, p in zip(found, corrected, strict=True))


def _in(column: Column, contrast: Contrast) -> bool:
    return contrast.benchmark in (None, column.benchmark) and contrast.metric in (None, column.metric)


def _pairs(rows: Sequence[Row], contrast: Contrast) -> Iterator[tuple[int, int]]:
    """Rows of the contrast's labels in one stage. They start from the same base policy where there are such."""
    for i, row in enumerate(rows):
        if row.label != contrast.better or contrast.stage not in (None, row.stage):
            continue
        candidates = [j for j, other in enumerate(rows) if other.label == contrast.worse and other.stage == row.stage]
        candidates = [j for j in candidates if _same_start(rows[j], row)] or candidates
        if (partner := _only(candidates, row, rows)) is not None:
            yield i, partner


def _same_start(a: Row, b: Row) -> bool:
    return (a.stage, a.base_digest) == (b.stage, b.base_digest)


def _only(candidates: Sequence[int], row: Row, rows: Sequence[Row]) -> int | None:
    if len(candidates) > 1:
        candidates = [i for i in candidates if rows[i].recipe == row.recipe]
    return candidates[0] if len(candidates) == 1 else None
