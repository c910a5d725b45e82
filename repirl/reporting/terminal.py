"""A board for the terminal: what was found, then tables; nothing is cut at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from repirl.reporting.board import Board, Cell, Column, Row
from repirl.reporting.text import (
    KEPT_THE_START,
    accuracy,
    bounds,
    chosen_steps,
    column_labels,
    evidence,
    finding,
    number,
    place_text,
    row_name,
    seed_count,
    seed_list,
    table_name,
)
from repirl.stats import MIN_SEEDS_TO_RESAMPLE


def to_terminal(board: Board, order: Sequence[str] = ()) -> RenderableType:
    """For each stage a table of each benchmark (greedy and avg@n) and judged set, and one of what was kept and what it cost;
    then a sentence for each difference that the suite states. Rows go by value, or by the `order` of their labels."""
    labels = column_labels(board.columns)
    places = {label: place for place, label in enumerate(dict.fromkeys(order))}
    parts: list[RenderableType] = []
    for stage in board.stages:
        rows = sorted(board.rows_of(stage), key=lambda row: places.get(row.label, len(places)))
        columns = [c for c in board.columns_of(stage) if c.kind != "policy" or c.metric.startswith(("greedy", "avg@"))]
        for name in dict.fromkeys(table_name(column) for column in columns):
            parts.append(_numbers(f"{board.suite}, trained on {stage}: {name}", rows, columns, name, labels))
        parts += [_kept(rows)]
        parts += [
            Text(f"{row.name}: {KEPT_THE_START}")
            for row in rows
            if row.checkpoints is not None and row.checkpoints.kept_the_start
        ]
    several = len(board.stages) > 1
    findings = Table.grid(padding=(0, 1))  # the second line of a sentence begins below its first word
    for one in board.differences:
        findings.add_row("-", Text(f"{finding(one)} in {evidence(one, labels, stage=several)}"))
    parts.append(findings)
    if board.differences:
        parts.append(Text(f"  p-values are corrected for these {len(board.differences)} (Holm); intervals are not."))
    fewest = min((d.result.seeds for d in board.differences), default=MIN_SEEDS_TO_RESAMPLE)
    if fewest < MIN_SEEDS_TO_RESAMPLE:
        parts.append(Text(f"  {seed_count(fewest)}: shows the path, not a ranking; other seeds may give another order."))
    return Group(*parts)


def _numbers(title: str, rows: Sequence[Row], columns: Sequence[Column], name: str, labels: dict[Column, str]) -> Table:
    """The columns of one benchmark or judged set, of the rows that have some."""
    columns = [column for column in columns if table_name(column) == name]
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    table.add_column("seed", justify="right")
    for column in columns:
        table.add_column(labels[column], justify="right", no_wrap=True)
    for row in rows:
        if any(column in row.cells for column in columns):
            cells = [_cell(row.cells.get(column), column) for column in columns]
            table.add_row(_name(row), seed_list(row.seeds), *cells, style=_style(row))
    return table


def _kept(rows: Sequence[Row]) -> Table:
    """Which checkpoint each run kept, and the mean cost of training."""
    table = Table(title="kept checkpoint (validation accuracy at the start, there, at the end) and cost", title_justify="left")
    table.add_column("run")
    for name in ("kept step", "start", "kept", "end", "generated\ntokens", "wall s"):
        table.add_column(name, justify="right")
    for row in rows:
        found = row.checkpoints
        values = () if found is None else (found.accuracy_at_start, found.accuracy_at_chosen, found.accuracy_at_last)
        seen = [accuracy(value) for value in values] or [""] * 3
        cost = (f"{row.cost.training['generated_tokens']:,.0f}", f"{row.cost.training['wall_s']:,.0f}")
        table.add_row(_name(row), chosen_steps(found), *seen, *cost, style=_style(row))
    return table


def _name(row: Row) -> str:
    return row_name(row).replace("`", "")


def _style(row: Row) -> str:
    return "dim" if row.kind != "method" else ""


def _cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "-"
    place = f"({place_text(cell)})" if cell.rank is not None else ""
    return "\n".join(filter(None, (number(cell.interval.value, column), bounds(cell.interval, column).strip(), place)))
