"""A board as a Markdown page. The same board gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from repirl import paths
from repirl.methods.registry import methods
from repirl.records.store import StoredRun
from repirl.reporting.board import Board, Cell, Column, Row
from repirl.reporting.comparing import baseline_of
from repirl.reporting.curves import curve_lines
from repirl.reporting.details import checkpoint_lines, cost_lines, reward_lines, ungraded_lines
from repirl.reporting.published import markdown_table
from repirl.reporting.text import (
    KIND_MARK,
    bounds,
    chosen_steps,
    column_labels,
    difference_text,
    evidence,
    finding,
    number,
    place_text,
    row_name,
    seed_count,
    seed_list,
    signed,
    table_name,
)

_SHORT = 12
_CORRECTED = (
    "Paired on the same problems and seeds, with 95% bootstrap intervals over problems (and over seeds, from three on). "
    "p-values are corrected for all {count} of this page (Holm); *ahead* or *behind* takes both an interval without 0 and "
    "p < 0.05. Intervals, and the places in the tables, are not corrected."
)
_SAID = (
    "**Values** are means over seeds, with a 95% bootstrap interval over problems (and over seeds, from three on): of "
    "policies the share of problems solved, of process rewards (`judge`) F1 or PRMScore in percent. Each links to its records.",
    "**Place**: among the rows with the same seeds (at least three) and base policy. `2-4 of 6`: one of them is ahead, two are "
    "behind, and the rest is not told apart from it, because the interval of the paired difference includes 0.",
    "**Trained on** is the stage: what the policy was trained on last, and `after` what. A **recipe** is a method's settings "
    "by name (`repirl show METHOD`); what a row changes of it is below. **Base policy**: what the first stage started from.",
    "*(null)*: a reward that knows nothing of the problem; *(reference)*: an end of the scale (the untouched base, a reward "
    "that reads the exact checker), without a place. *kept the start*: no checkpoint of any run beat the policy that it "
    "started from in validation, so the row is that policy, whatever training cost.",
)
_BANDS = (
    "A panel for each row; dashed is what it is measured by. Bands are 95% intervals over seeds; of scaling they go from the "
    "lowest to the highest bound of the seeds' intervals over problems."
)


def to_markdown(board: Board, folder: Path, pictures: Sequence[str] = ()) -> str:
    """The suite's page, to be written into `folder` (links to records are relative to it), with these pictures beside it: what
    was found first, then a table for each benchmark, with everything else folded; digests last."""
    labels = column_labels(board.columns)
    lines = [f"# Leaderboard: {board.suite}", "", *([f"{board.title}.", ""] if board.title else [])]
    lines += ["Made by `repirl leaderboard` from run records; not edited by hand."]
    lines += ["", "## What was found", "", *_finding_lines(board, labels)]
    forests = [name for name in pictures if name.startswith(f"{board.suite}-forest")]
    lines += [line for name in forests for line in ("", _picture(name))]
    for stage in board.stages:
        lines += ["", f"## Trained on: {stage}", "", *_stage_lines(board, stage, labels)]
    if curves := [name for name in pictures if name not in forests]:
        lines += ["", "## Curves", "", _BANDS]
        lines += [line for name in curves for line in ("", _picture(name))]
    lines += ["", "## How to read it", "", *(f"- {said}" for said in _SAID), "", *_row_lines(board)]
    lines += ["", "## Records", "", *_record_lines(board, folder)]
    lines += ["", *_folded("Digests", [*_base_lines(board.rows), "", *_column_lines(board, labels)])]
    return "\n".join(lines) + "\n"


def _picture(name: str) -> str:
    return f"![{Path(name).stem}]({name})"


def _folded(summary: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>"]


def _finding_lines(board: Board, labels: dict[Column, str]) -> list[str]:
    """One sentence for each difference that the suite states: those in a primary column, then the others, folded."""
    several = len(board.stages) > 1
    first = {(stage, column) for stage in board.stages for column in board.primary_of(stage)}
    main, others = [], []
    for difference in board.differences:
        said = f"- **{finding(difference)}** in {evidence(difference, labels, stage=several)}"
        (main if (difference.stage, difference.column) in first else others).append(said)
    if not board.differences and board.stated:
        return ["Nothing yet: the differences that this suite states are between runs of which some have no record."]
    if not board.differences:
        return ["This suite states no differences; its tables are below."]
    return [
        *main,
        *(["", *_folded("By other metrics", others)] if others else []),
        "",
        _CORRECTED.format(count=len(board.differences)),
    ]


def _row_lines(board: Board) -> list[str]:
    """What each method does, and what a row changes of its recipe."""
    known = methods()
    lines = []
    for label, row in {row.label: row for row in board.rows}.items():
        method = known.get(row.method)
        does = "" if method is None else f": {(method.__doc__ or '').splitlines()[0]}"
        title = row.method if method is None else method.title
        changes = "".join(f" `{change}`" for change in board.settings.get(label, ()))
        lines.append(f"- **{label}** ({title}{KIND_MARK[row.kind]}){does}" + (f" With{changes}." if changes else ""))
    return lines


def _stage_lines(board: Board, stage: str, labels: dict[Column, str]) -> list[str]:
    rows, columns = board.rows_of(stage), board.columns_of(stage)
    primary = board.primary_of(stage)
    lines: list[str] = []
    for name in dict.fromkeys(table_name(column) for column in columns):
        own = [column for column in columns if table_name(column) == name]
        lines += [f"### {name}, trained on {stage}", ""]
        for column in own:
            if column in primary:
                lines += [*_primary_lines(board, rows, column, labels), ""]
        if len(own) > 1:
            lines += [*_folded(f"All metrics of {name}", _number_lines(board, rows, own, labels)), ""]
    partners = {i: baseline_of(row, rows, board.baseline) for i, row in enumerate(rows)}
    details = [*checkpoint_lines(rows), *curve_lines(rows, partners), *reward_lines(rows), *cost_lines(rows)]
    return [
        *lines,
        *_folded(f"Trained on {stage}: checkpoints, learning, rewards, costs", [*details, *ungraded_lines(rows, labels)]),
    ]


def _base_lines(rows: Sequence[Row]) -> list[str]:
    bases = {row.base: row.base_digest for row in rows}
    said = ", ".join(f"{base} (`{digest[:_SHORT]}`)" for base, digest in bases.items())
    return [f"Base policy: {said}." if len(bases) == 1 else f"Base policies: {said}."]


def _primary_lines(board: Board, rows: Sequence[Row], column: Column, labels: dict[Column, str]) -> list[str]:
    """Each row's number in one column, best first, what it is more than the baseline's, and its place."""
    rows = sorted((row for row in rows if column in row.cells), key=lambda row: -row.cells[column].interval.value)
    several = len({row.base_digest for row in rows}) > 1
    compared = any(row.cells[column].versus_baseline is not None for row in rows)
    header = ["run", *(["base policy"] if several else []), labels[column]]
    header += [*([f"more than {board.baseline}"] if compared else []), "place", "seeds"]
    body = []
    for row in rows:
        cell = row.cells[column]
        versus = "" if (gap := cell.versus_baseline) is None else signed(gap.interval, column)
        if gap is not None and gap.seeds != len(cell.seeds):
            versus += f", {seed_count(gap.seeds)}"
        name = row_name(row) + (" *kept the start*" if row.checkpoints is not None and row.checkpoints.kept_the_start else "")
        body.append(
            [
                name,
                *([row.base] if several else []),
                _value(row, column, board),
                *([versus] if compared else []),
                place_text(cell),
                seed_list(row.seeds),
            ]
        )
    return markdown_table(header, body) + _ranked_together(rows, [column])


def _number_lines(board: Board, rows: Sequence[Row], columns: Sequence[Column], labels: dict[Column, str]) -> list[str]:
    """The values of one benchmark or judged set, and what they are more than the baseline's."""
    names = [labels[column] for column in columns]
    rows = [row for row in rows if any(column in row.cells for column in columns)]
    several = len({row.base_digest for row in rows}) > 1
    lines = markdown_table(
        ["run", *(["base policy"] if several else []), "seeds", "kept step", *names],
        [
            [
                row_name(row) + (" *kept the start*" if row.checkpoints is not None and row.checkpoints.kept_the_start else ""),
                *([row.base] if several else []),
                seed_list(row.seeds),
                chosen_steps(row.checkpoints),
                *(_value(row, column, board) for column in columns),
            ]
            for row in rows
        ],
    )
    compared = [row for row in rows if any(column in row.cells and row.cells[column].versus_baseline for column in columns)]
    if not compared:
        return lines
    said = f"Paired difference from `{board.baseline}` on the same problems and seeds (p-values are not corrected):"
    lines += ["", said, ""]
    return lines + markdown_table(
        ["run", "seeds in common", *names],
        [[row_name(row), *_versus([row.cells.get(column) for column in columns], columns)] for row in compared],
    )


def _ranked_together(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Which rows have places among each other, where these are not all."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        seeds = {seed_list(row.cells[c].seeds) for c in columns if c in row.cells and row.cells[c].rank is not None}
        for those in seeds:
            groups.setdefault((row.base, those), []).append(row.name)
    if len(groups) < 2:
        return []
    said = "; ".join(f"{', '.join(names)} (seeds {seeds})" for (_, seeds), names in groups.items())
    return ["", f"Placed among each other: {said}."]


def _value(row: Row, column: Column, board: Board) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return ""
    value = number(cell.interval.value, column)
    return f"[{value}](#{_anchor(row, board)}){bounds(cell.interval, column)}"


def _versus(cells: Sequence[Cell | None], columns: Sequence[Column]) -> list[str]:
    """The number of seeds in common, once if it is the same everywhere, and the differences."""
    found = [None if cell is None else cell.versus_baseline for cell in cells]
    counts = {result.seeds for result in found if result is not None}
    texts = ["" if result is None else difference_text(result, c) for result, c in zip(found, columns, strict=True)]
    if len(counts) == 1:
        return [str(*counts), *texts]
    return ["", *("" if r is None else f"{text}, {seed_count(r.seeds)}" for text, r in zip(texts, found, strict=True))]


def _anchor(row: Row, board: Board) -> str:
    return f"row-{board.rows.index(row) + 1}"


def _column_lines(board: Board, labels: dict[Column, str]) -> list[str]:
    header = ["column", "card", "data", "protocol"]
    body = [
        [labels[c], *(value and f"`{value[:_SHORT]}`" for value in (c.card_digest, c.data_digest, c.protocol_digest))]
        for c in board.columns
    ]
    lines = [*markdown_table(header, body), ""]
    used = dict.fromkeys(column.protocol_digest for column in board.columns)
    return lines + [
        f"- protocol `{digest[:_SHORT]}`: `{json.dumps(board.protocols[digest], sort_keys=True)}`" for digest in used
    ]


def _record_lines(board: Board, folder: Path) -> list[str]:
    lines = [
        f'- <a id="{_anchor(row, board)}"></a>**{row.name}** ({row.method}, {row.recipe}), {row.stage} '
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
    return f"[seed {record.seed}]({paths.link(run.file, folder)}) ({commit}{dirty})"
