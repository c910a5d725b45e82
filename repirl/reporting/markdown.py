"""A board as a Markdown page. The same board gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from repirl import paths
from repirl.records.store import StoredRun
from repirl.reporting.board import Board, Cell, Checkpoints, Column, Row
from repirl.reporting.collect import budget_fields
from repirl.reporting.comparing import baseline_of
from repirl.reporting.curves import curve_lines
from repirl.reporting.published import markdown_table
from repirl.reporting.text import (
    KEPT_THE_START,
    accuracy,
    bounds,
    chosen_steps,
    column_labels,
    difference_line,
    difference_text,
    number,
    rank_text,
    row_name,
    seed_count,
    seed_list,
    table_name,
)

_SHORT = 12
_VALUES = (
    "Values are means over seeds, with a 95% bootstrap interval over problems (and over seeds, from three on): of policies the "
    "share of problems solved, of process rewards (`judge`) F1 or PRMScore in percent. Each links to the records behind it."
)
_RANKS = (
    "`#1 of 3` is the rank among the rows with the same seeds (at least three) and base policy. Two rows whose paired "
    "difference has an interval that includes 0 are not told apart and share a rank, with all rows between them."
)
_KINDS = (
    "*(null)*: a reward that knows nothing of the problem; *(reference)*: an end of the scale (the untouched base, "
    "a reward that reads the exact checker), not ranked. *kept the start*: no checkpoint of any run beat the policy that it "
    "started from in validation, so the row is that policy, whatever training cost."
)
_BANDS = (
    "A panel for each row; dashed is what it is measured by. Bands are 95% intervals over seeds; of scaling they go from the "
    "lowest to the highest bound of the seeds' intervals over problems."
)


def to_markdown(board: Board, folder: Path, pictures: Sequence[str] = ()) -> str:
    """The suite's page, to be written into `folder` (links to records are relative to it), with these pictures beside it."""
    labels = column_labels(board.columns)
    lines = [f"# Leaderboard: {board.suite}", "", "Made by `repirl leaderboard` from run records; not edited by hand."]
    lines += ["", f"- {_VALUES}", f"- {_RANKS}", f"- {_KINDS}"]
    for stage in board.stages:
        lines += ["", f"## Trained on: {stage}", "", *_stage_lines(board, stage, labels)]
    if pictures:
        lines += ["", "## Curves", "", _BANDS]
        lines += [line for name in pictures for line in ("", f"![{Path(name).stem}]({name})")]
    lines += ["", "## Columns", "", *_column_lines(board, labels)]
    lines += ["", "## Records", "", *_record_lines(board, folder)]
    return "\n".join(lines) + "\n"


def _stage_lines(board: Board, stage: str, labels: dict[Column, str]) -> list[str]:
    rows, columns = board.rows_of(stage), board.columns_of(stage)
    lines = [_base_line(rows)]
    if stated := [f"- {difference_line(d, labels)}" for d in board.differences if d.stage == stage]:
        lines += ["", "Differences that the suite asks for, paired on the same problems and seeds:", "", *stated]
    for name in dict.fromkeys(table_name(column) for column in columns):
        own = [column for column in columns if table_name(column) == name]
        lines += ["", f"### {name}, trained on {stage}", "", *_number_lines(board, rows, own, labels)]
    partners = {i: baseline_of(row, rows, board.baseline) for i, row in enumerate(rows)}
    lines += [*_checkpoint_lines(rows), *curve_lines(rows, partners), *_reward_lines(rows)]
    lines += ["", "What it cost, mean of the row's runs:", "", *_cost_lines(rows)]
    return [*lines, "", *_ungraded_lines(rows, labels)]


def _base_line(rows: Sequence[Row]) -> str:
    bases = {row.base: row.base_digest for row in rows}
    said = ", ".join(f"{base} (`{digest[:_SHORT]}`)" for base, digest in bases.items())
    return f"Base policy: {said}." if len(bases) == 1 else f"Base policies: {said}."


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
    lines += _ranked_together(rows, columns)
    compared = [row for row in rows if any(column in row.cells and row.cells[column].versus_baseline for column in columns)]
    if not compared:
        return lines
    lines += ["", f"Paired difference from `{board.baseline}` on the same problems and seeds:", ""]
    return lines + markdown_table(
        ["run", "seeds in common", *names],
        [[row_name(row), *_versus([row.cells.get(column) for column in columns], columns)] for row in compared],
    )


def _ranked_together(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Which rows have ranks among each other, where these are not all."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        seeds = {seed_list(row.cells[c].seeds) for c in columns if c in row.cells and row.cells[c].rank is not None}
        for those in seeds:
            groups.setdefault((row.base, those), []).append(row.name)
    if len(groups) < 2:
        return []
    said = "; ".join(f"{', '.join(names)} (seeds {seeds})" for (_, seeds), names in groups.items())
    return ["", f"Ranked among each other: {said}."]


def _value(row: Row, column: Column, board: Board) -> str:
    cell = row.cells.get(column)
    if cell is None:
        return ""
    value = number(cell.interval.value, column)
    return f"[{value}](#{_anchor(row, board)}){bounds(cell.interval, column)}{rank_text(cell)}"


def _versus(cells: Sequence[Cell | None], columns: Sequence[Column]) -> list[str]:
    """The number of seeds in common, once if it is the same everywhere, and the differences."""
    found = [None if cell is None else cell.versus_baseline for cell in cells]
    counts = {result.seeds for result in found if result is not None}
    texts = ["" if result is None else difference_text(result, c) for result, c in zip(found, columns, strict=True)]
    if len(counts) == 1:
        return [str(*counts), *texts]
    return ["", *("" if r is None else f"{text}, {seed_count(r.seeds)}" for text, r in zip(texts, found, strict=True))]


def _checkpoint_lines(rows: Sequence[Row]) -> list[str]:
    known = [(row, row.checkpoints) for row in rows if row.checkpoints is not None]
    if not known:
        return []
    header = ["run", "step kept by each run", "of", "at the start", "at the kept step", "at the last step", ""]
    body = [
        [
            row_name(row),
            chosen_steps(found),
            ", ".join(dict.fromkeys("?" if step is None else str(step) for step in found.last)),
            *(accuracy(value) for value in (found.accuracy_at_start, found.accuracy_at_chosen, found.accuracy_at_last)),
            _remark(found),
        ]
        for row, found in known
    ]
    said = "Checkpoints, chosen by validation accuracy (mean over runs; `?`: not recorded):"
    return ["", said, "", *markdown_table(header, body)]


def _remark(checkpoints: Checkpoints) -> str:
    if checkpoints.kept_the_start:
        return KEPT_THE_START
    count = sum(step == 0 for step in checkpoints.chosen)
    return f"{count} of {len(checkpoints.chosen)} kept the start" if count else ""


_MEANS = {"score_expert": "demonstrations", "score_correct": "right rollouts", "score_failed": "failed rollouts"}
_MARGINS = {"expert_margin_start": "margin at the start", "expert_margin": "margin at the end"}
_REWARDS_SAID = (
    "What process rewards said in the last training step (mean token reward, mean over runs; margin: demonstrations minus "
    "failed rollouts). A reward with a base measure starts as the base policy's log-probability, in which demonstrations, who "
    "speak another style, are far below the policy's own rollouts, failed ones too: what inverse RL did is the change of "
    "the margin, not its sign ([method.md](../docs/method.md), section 11)."
)


def _reward_lines(rows: Sequence[Row]) -> list[str]:
    """Scores of learned and null rewards; nothing where no row has any."""
    names = _MEANS | _MARGINS
    body = []
    for row in rows:
        values = [_mean_diagnostic(row, f"prm/{name}") for name in names]
        if any(value is not None for value in values):
            body.append([row_name(row), *("" if value is None else f"{value:.2f}" for value in values)])
    return ["", _REWARDS_SAID, "", *markdown_table(["run", *names.values()], body)] if body else []


def _mean_diagnostic(row: Row, name: str) -> float | None:
    """Mean over the row's runs; None unless all of them measured it."""
    values = [run.record.diagnostics.get(name) for run in row.runs]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _cost_lines(rows: Sequence[Row]) -> list[str]:
    header = ["run", "part", *(field.replace("_", " ") for field in budget_fields())]
    return markdown_table(header, [line for row in rows for line in _cost_of(row)])


def _cost_of(row: Row) -> list[list[str]]:
    """A line for each part that cost something."""
    cost = row.cost
    parts: list[tuple[str, Mapping[str, float]]] = []
    if cost.validation is None and row.checkpoints is not None:
        parts.append(("training and validation", cost.training))
    else:
        parts += [("training", cost.training), ("validation", cost.validation or {})]
    parts.append(("earlier stages", cost.parents or {}))
    spending = [(part, spent) for part, spent in parts if any(spent.values())]
    lines = [[row_name(row), part, *(f"{spent[name]:,.0f}" for name in budget_fields())] for part, spent in spending]
    if cost.parents is None:
        lines.append([row_name(row), "earlier stages", *("?" for _ in budget_fields())])
    return lines or [[row_name(row), "nothing", *("0" for _ in budget_fields())]]


def _ungraded_lines(rows: Sequence[Row], labels: dict[Column, str]) -> list[str]:
    def said(kind: str) -> str:
        return "; ".join(
            f"{row.name}, {labels[column]}: {cell.ungraded} of {cell.total}"
            for row in rows
            for column, cell in row.cells.items()
            if column.kind == kind and cell.ungraded
        )

    lines = [f"Ungraded samples (left out, not counted as wrong): {said('policy') or 'none'}."]
    if unscored := said("judge"):
        lines.append(f"Solutions without scores (too long, or a token spans two steps; counted as judged wrongly): {unscored}.")
    return lines


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
