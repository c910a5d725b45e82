"""A board as a Markdown page. The same board gives the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from repirl.records.store import StoredRun
from repirl.reporting.collect import BASELINE, Board, Cell, Column, Row, budget_fields
from repirl.reporting.published import markdown_table
from repirl.reporting.text import bounds, column_labels, difference_line, difference_text, row_name, seed_list

_SHORT = 12
_EXPLAINED = (
    "Values are means over seeds of the share of problems solved, with a 95% bootstrap interval over problems "
    "(and over seeds, from three on). A number after `#` is the rank, given to rows of at least three seeds. "
    "*(null)*: a reward that knows nothing of the problem; *(reference)*: an end of the scale (the untouched base, "
    "a reward that reads the exact checker), not ranked. Each value links to the records behind it."
)


def to_markdown(board: Board, folder: Path) -> str:
    """The suite's page, to be written into `folder` (links to records are relative to it)."""
    labels = column_labels(board.columns)
    lines = [f"# Leaderboard: {board.suite}", "", "Made by `repirl leaderboard` from run records; not edited by hand."]
    lines += ["", _EXPLAINED]
    for stage in board.stages:
        lines += ["", f"## Trained on: {stage}", ""]
        lines += _standing_lines(board, stage, labels)
    lines += ["", "## Columns", "", *_column_lines(board, labels)]
    lines += ["", "## Records", "", *_record_lines(board, folder)]
    return "\n".join(lines) + "\n"


def _standing_lines(board: Board, stage: str, labels: dict[Column, str]) -> list[str]:
    rows, columns = board.rows_of(stage), board.columns_of(stage)
    names = [labels[column] for column in columns]
    lines = [f"- {difference_line(d, labels)}" for d in board.differences if d.stage == stage]
    lines += [""] if lines else []
    body = [
        [row_name(row, rows), row.recipe, seed_list(row.seeds), *(_cell(row, column, board) for column in columns)]
        for row in rows
    ]
    lines += markdown_table(["method", "recipe", "seeds", *names], body)
    compared = [row for row in rows if any(cell.versus_baseline for cell in row.cells.values())]
    if compared:
        lines += ["", f"Paired difference from `{BASELINE}` on the same problems and seeds:", ""]
        lines += markdown_table(
            ["method", *names],
            [[row_name(row, rows), *(_versus(row.cells.get(column)) for column in columns)] for row in compared],
        )
    lines += ["", "Budget of training, mean of the row's runs:", ""]
    header = ["method", *(field.replace("_", " ") for field in budget_fields())]
    lines += markdown_table(
        header, [[row_name(row, rows), *(f"{row.budget[f]:,.0f}" for f in budget_fields())] for row in rows]
    )
    ungraded = [
        f"{row.method}, {labels[column]}: {cell.ungraded} of {cell.total}"
        for row in rows
        for column, cell in row.cells.items()
        if cell.ungraded
    ]
    lines += ["", "Ungraded samples (left out, not counted as wrong): " + ("; ".join(ungraded) or "none") + "."]
    return lines


def _cell(row: Row, column: Column, board: Board) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return ""
    rank = f" #{cell.rank}" if cell.rank is not None else ""
    return f"[{cell.interval.value:.3f}](#{_anchor(row, board)}){bounds(cell.interval)}{rank}"


def _versus(cell: Cell | None) -> str:
    return "" if cell is None or cell.versus_baseline is None else difference_text(cell.versus_baseline)


def _anchor(row: Row, board: Board) -> str:
    return f"row-{board.rows.index(row) + 1}"


def _column_lines(board: Board, labels: dict[Column, str]) -> list[str]:
    header = ["column", "card", "data", "protocol"]
    body = [
        [labels[c], *(f"`{value[:_SHORT]}`" for value in (c.card_digest, c.data_digest, c.protocol_digest))]
        for c in board.columns
    ]
    lines = [*markdown_table(header, body), ""]
    used = dict.fromkeys(column.protocol_digest for column in board.columns)
    return lines + [
        f"- protocol `{digest[:_SHORT]}`: `{json.dumps(board.protocols[digest], sort_keys=True)}`" for digest in used
    ]


def _record_lines(board: Board, folder: Path) -> list[str]:
    lines = [
        f'- <a id="{_anchor(row, board)}"></a>**{row.method}**, {row.recipe}, {row.stage} '
        f"(config `{row.config_digest[:_SHORT]}`): " + ", ".join(_record_link(run, folder) for run in row.runs)
        for row in board.rows
    ]
    if board.superseded:
        old = ", ".join(_record_link(run, folder) for run in board.superseded)
        lines.append(f"- superseded by a later run with the same settings and seed, not shown: {old}")
    return lines


def _record_link(run: StoredRun, folder: Path) -> str:
    record = run.record
    commit = "unknown commit" if record.commit is None else f"`{record.commit[:7]}`"
    dirty = ", changed code" if record.dirty else ""
    link = Path(os.path.relpath(run.file.resolve(), folder.resolve())).as_posix()
    return f"[seed {record.seed}]({link}) ({commit}{dirty})"
