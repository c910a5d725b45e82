"""A board as plain rows: CSV, and the rows of `repirl bench SUITE --json`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repirl import paths
from repirl.reporting.board import Board, Cell, Column, Row
from repirl.reporting.collect import budget_fields

_SHORT = 12


def to_json_rows(board: Board, folder: Path) -> list[dict[str, Any]]:
    """One object for each row and column that has a number; `records` are paths relative to `folder`.

    `chosen_steps` has the kept step of each of the row's runs, None for a row that chose none; costs are None where unknown.
    """
    return [
        {
            "label": row.label,
            "method": row.method,
            "stage": row.stage,
            "base_policy": row.base,
            "base_digest": row.base_digest,
            "evaluation": column.kind,
            "benchmark": column.benchmark,
            "metric": column.metric,
            "value": cell.interval.value,
            "ci_low": cell.interval.low,
            "ci_high": cell.interval.high,
            "seeds": list(cell.seeds),
            "rank": None if cell.rank is None else cell.rank.place,
            "ranked": None if cell.rank is None else cell.rank.of,
            "baseline": board.baseline,
            "minus_baseline": None if cell.versus_baseline is None else cell.versus_baseline.interval.value,
            "chosen_steps": None if row.checkpoints is None else list(row.checkpoints.chosen),
            "budget": dict(row.cost.training),
            "validation_budget": None if row.cost.validation is None else dict(row.cost.validation),
            "parents_budget": None if row.cost.parents is None else dict(row.cost.parents),
            "records": _records(cell, folder),
        }
        for row, column, cell in _cells(board)
    ]


def to_csv(board: Board, folder: Path) -> str:
    """The same rows with ranks, paired differences, verdict counts and digests; `records` relative to `folder`.

    Fractions have six decimals: more could differ between machines in the last place.
    """
    lines = [_csv_line(board, row, column, cell, folder) for row, column, cell in _cells(board)]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _csv_line(board: Board, row: Row, column: Column, cell: Cell, folder: Path) -> dict[str, object]:
    versus = cell.versus_baseline
    gap = None if versus is None else versus.interval
    chosen = () if row.checkpoints is None else row.checkpoints.chosen
    return {
        "suite": board.suite,
        "stage": row.stage,
        "label": row.label,
        "method": row.method,
        "recipe": row.recipe,
        "kind": row.kind,
        "config_digest": row.config_digest[:_SHORT],
        "base_policy": row.base,
        "base_digest": row.base_digest[:_SHORT],
        "evaluation": column.kind,
        "benchmark": column.benchmark,
        "metric": column.metric,
        "value": _number(cell.interval.value),
        "ci_low": _number(cell.interval.low),
        "ci_high": _number(cell.interval.high),
        "seeds": " ".join(map(str, cell.seeds)),
        "chosen_steps": " ".join("?" if step is None else str(step) for step in chosen),
        "rank": None if cell.rank is None else cell.rank.place,
        "ranked": None if cell.rank is None else cell.rank.of,
        "baseline": board.baseline,
        "minus_baseline": None if gap is None else _number(gap.value),
        "difference_low": None if gap is None else _number(gap.low),
        "difference_high": None if gap is None else _number(gap.high),
        "p_value": None if versus is None else _number(versus.p_value),
        "paired_seeds": None if versus is None else versus.seeds,
        "ungraded": cell.ungraded,
        "samples": cell.total,
        **_counters("", row.cost.training),
        **_counters("validation_", row.cost.validation),
        **_counters("parents_", row.cost.parents),
        "card_digest": column.card_digest[:_SHORT],
        "data_digest": column.data_digest[:_SHORT],
        "protocol_digest": column.protocol_digest[:_SHORT],
        "records": " ".join(_records(cell, folder)),
    }


def _counters(prefix: str, spent: Mapping[str, float] | None) -> dict[str, str | None]:
    """Empty where the cost is not known."""
    return {f"{prefix}{name}": None if spent is None else f"{spent[name]:.1f}" for name in budget_fields()}


def _cells(board: Board) -> Iterator[tuple[Row, Column, Cell]]:
    for row in board.rows:
        for column in board.columns:
            if column in row.cells:
                yield row, column, row.cells[column]


def _records(cell: Cell, folder: Path) -> list[str]:
    return [paths.link(run.file, folder) for run in cell.runs]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{round(value, 6) + 0.0:.6f}"
