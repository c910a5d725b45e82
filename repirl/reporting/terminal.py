"""A board as a table for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from repirl.reporting.collect import Board, Cell
from repirl.reporting.text import bounds, column_labels, difference_line, row_name, seed_list


def to_terminal(board: Board) -> RenderableType:
    """One table for each stage (greedy and avg@n columns only), with the named differences below."""
    labels = column_labels(board.columns)
    parts: list[RenderableType] = []
    for stage in board.stages:
        rows = board.rows_of(stage)
        columns = [c for c in board.columns_of(stage) if c.metric == "greedy" or c.metric.startswith("avg@")]
        table = Table(title=f"{board.suite}, trained on {stage}", title_justify="left")
        table.add_column("method", no_wrap=True)
        table.add_column("seeds", justify="right")
        for column in columns:
            table.add_column(labels[column], justify="right")
        table.add_column("generated\ntokens", justify="right")
        table.add_column("wall s", justify="right")
        for row in rows:
            numbers = [_terminal_cell(row.cells.get(column)) for column in columns]
            budget = [f"{row.budget['generated_tokens']:,.0f}", f"{row.budget['wall_s']:,.0f}"]
            style = "dim" if row.kind != "method" else ""
            table.add_row(row_name(row, rows).replace("`", ""), seed_list(row.seeds), *numbers, *budget, style=style)
        parts.append(table)
        parts += [Text(difference_line(d, labels)) for d in board.differences if d.stage == stage]
    return Group(*parts)


def _terminal_cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    rank = f" #{cell.rank}" if cell.rank is not None else ""
    return f"{cell.interval.value:.3f}{rank}\n{bounds(cell.interval).strip()}"
