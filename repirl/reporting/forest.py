"""Forest plots: a point and its interval for each row of a board, one panel for each benchmark.

What is drawn is the paired difference from the board's baseline, or the value itself where there is none. Methods are filled,
null rewards and the ends of the scale hollow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from repirl.config import digest_of
from repirl.reporting.board import Board, Column, Row
from repirl.reporting.plots import INK, PALETTE, as_svg, rounded, style
from repirl.reporting.text import column_labels, row_name
from repirl.types import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Point:
    """A row's number with its interval. `filled`: the row competes."""

    label: str
    value: float
    low: float
    high: float
    filled: bool


@dataclass(frozen=True, slots=True)
class ForestPanel:
    """Points from top to bottom; `zero`: they are differences, whose 0 is drawn."""

    title: str
    points: tuple[Point, ...]
    zero: bool


@dataclass(frozen=True, slots=True)
class Forest:
    """Panels one below the other, each with a scale of its own."""

    panels: tuple[ForestPanel, ...]

    @property
    def digest(self) -> str:
        """Of what is drawn, as `plots.Figure.digest`."""
        return digest_of(rounded(asdict(self)))[:16]

    def svg(self) -> str:
        """The file's text."""
        from matplotlib.figure import Figure as Drawing

        heights = [len(panel.points) + 2 for panel in self.panels]
        with style():
            drawing = Drawing(figsize=(7.2, 0.24 * sum(heights) + 0.3), layout="constrained")
            axes = drawing.subplots(len(self.panels), 1, squeeze=False, height_ratios=heights).ravel()
            for axis, panel in zip(axes, self.panels, strict=True):
                _draw(axis, panel)
            return as_svg(drawing, self.digest)


def of_stage(board: Board, stage: str) -> Forest | None:
    """The stage's rows in each of its primary columns; None where no row has an interval."""
    labels = column_labels(board.columns)
    panels = []
    for column in board.primary_of(stage):
        rows = [row for row in board.rows_of(stage) if column in row.cells]
        rows.sort(key=lambda row, column=column: -row.cells[column].interval.value)
        compared = [row for row in rows if row.cells[column].versus_baseline is not None]
        points = _points(compared or rows, column, differences=bool(compared))
        if points:
            title = labels[column] + (f", minus {board.baseline}'s on the same problems and seeds" if compared else "")
            panels.append(ForestPanel(title, points, zero=bool(compared)))
    return Forest(tuple(panels)) if panels else None


def _points(rows: Sequence[Row], column: Column, *, differences: bool) -> tuple[Point, ...]:
    found = []
    for row in rows:
        cell = row.cells[column]
        interval: Interval = cell.interval
        if differences:
            assert cell.versus_baseline is not None
            interval = cell.versus_baseline.interval
        if interval.low is not None and interval.high is not None:
            name = row_name(row).replace("`", "")
            found.append(Point(name, interval.value, interval.low, interval.high, row.kind == "method"))
    return tuple(found)


def _draw(axis: Axes, panel: ForestPanel) -> None:
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", color="#888888", alpha=0.25, linewidth=0.5)
    if panel.zero:
        axis.axvline(0.0, color=INK, linewidth=0.8)
    for height, point in enumerate(panel.points):
        color = PALETTE[0] if point.filled else "#888888"
        axis.plot([point.low, point.high], [height, height], color=color, linewidth=1.6, solid_capstyle="butt")
        axis.plot([point.value], [height], "o", color=color, markersize=4.5, markerfacecolor=color if point.filled else "none")
    axis.set_yticks(range(len(panel.points)), [point.label for point in panel.points])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(panel.points) - 0.4, -0.6)
