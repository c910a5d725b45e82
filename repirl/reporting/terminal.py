"""A board as a table for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from repirl.reporting.board import Board, Cell, Column
from repirl.reporting.text import (
    KEPT_THE_START,
    bounds,
    chosen_steps,
    column_labels,
    difference_line,
    number,
    rank_text,
    row_name,
    seed_list,
)


def to_terminal(board: Board) -> RenderableType:
    """One table for each stage (greedy, avg@n and judged sets), with the stated differences below."""
    labels = column_labels(board.columns)
    parts: list[RenderableType] = []
    for stage in board.stages:
        rows = board.rows_of(stage)
        columns = [c for c in board.columns_of(stage) if c.kind == "judge" or c.metric.startswith(("greedy", "avg@"))]
        table = Table(title=f"{board.suite}, trained on {stage}", title_justify="left")
        table.add_column("run", no_wrap=True)
        table.add_column("seeds", justify="right")
        table.add_column("kept\nstep", justify="right")
        for column in columns:
            table.add_column(labels[column], justify="right")
        table.add_column("generated\ntokens", justify="right")
        table.add_column("wall s", justify="right")
        for row in rows:
            numbers = [_terminal_cell(row.cells.get(column), column) for column in columns]
            cost = [f"{row.cost.training['generated_tokens']:,.0f}", f"{row.cost.training['wall_s']:,.0f}"]
            name = row_name(row).replace("`", "")
            style = "dim" if row.kind != "method" else ""
            table.add_row(name, seed_list(row.seeds), chosen_steps(row.checkpoints), *numbers, *cost, style=style)
        parts.append(table)
        parts += [
            Text(f"{row.name}: {KEPT_THE_START}")
            for row in rows
            if row.checkpoints is not None and row.checkpoints.kept_the_start
        ]
        parts += [Text(difference_line(d, labels)) for d in board.differences if d.stage == stage]
    return Group(*parts)


def _terminal_cell(cell: Cell | None, column: Column) -> str:
    if cell is None:
        return "-"
    return f"{number(cell.interval.value, column)}{rank_text(cell)}\n{bounds(cell.interval, column).strip()}"
