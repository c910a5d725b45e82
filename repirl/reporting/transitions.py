"""What test-time training did to each problem, drawn: a bar for each row, in which problems are learned, kept, corrupted or
never right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from repirl.config import digest_of
from repirl.reporting.board import Row
from repirl.reporting.plots import INK, PALETTE, as_svg, rounded, style
from repirl.reporting.text import row_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("learned", "kept", "corrupted", "never")
"""By whether the greedy answer was right before and is right after; in records `BENCHMARK/PART`."""
_COLORS = (PALETTE[2], PALETTE[5], PALETTE[1], "#88888855")


@dataclass(frozen=True, slots=True)
class Bar:
    """A row's problems in each of `PARTS`, mean over its runs."""

    label: str
    problems: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bars:
    """A panel for each benchmark, one below the other; most learned first."""

    panels: tuple[tuple[str, tuple[Bar, ...]], ...]

    @property
    def digest(self) -> str:
        """Of what is drawn, as `plots.Figure.digest`."""
        return digest_of(rounded(asdict(self)))[:16]

    def svg(self) -> str:
        """The file's text."""
        from matplotlib.figure import Figure as Drawing

        heights = [len(bars) + 2 for _, bars in self.panels]
        with style():
            drawing = Drawing(figsize=(7.2, 0.26 * sum(heights) + 0.3), layout="constrained")
            axes = drawing.subplots(len(self.panels), 1, squeeze=False, height_ratios=heights).ravel()
            for axis, (title, bars) in zip(axes, self.panels, strict=True):
                _draw(axis, title, bars)
            return as_svg(drawing, self.digest)


def of_rows(rows: Sequence[Row]) -> Bars | None:
    """Of the rows whose runs all tell of it; None where there are none."""
    found: dict[str, list[Bar]] = {}
    for row in rows:
        told = [run.record.diagnostics for run in row.runs]
        names = {name.removesuffix(f"/{PARTS[0]}") for name in told[0] if name.endswith(f"/{PARTS[0]}")}
        for benchmark in sorted(names):
            values = [[one.get(f"{benchmark}/{part}") for part in PARTS] for one in told]
            if all(None not in own for own in values):
                means = np.mean(np.array(values, dtype=np.float64), axis=0)
                found.setdefault(benchmark, []).append(Bar(row_name(row).replace("`", ""), tuple(means.tolist())))
    panels = [(name, tuple(sorted(bars, key=lambda bar: -bar.problems[0]))) for name, bars in sorted(found.items())]
    return Bars(tuple(panels)) if panels else None


def _draw(axis: Axes, title: str, bars: Sequence[Bar]) -> None:
    axis.set_title(f"{title}: greedy answers, problems", fontsize=9, loc="left")
    axis.spines[["top", "right", "left"]].set_visible(False)
    most = max(sum(bar.problems) for bar in bars)
    for height, bar in enumerate(bars):
        left = 0.0
        for part, count, color in zip(PARTS, bar.problems, _COLORS, strict=True):
            axis.barh(height, count, left=left, color=color, height=0.8, linewidth=0)
            if height == 0:
                axis.bar(0, 0, color=color, label=part)
            if count > most * 0.022:
                axis.text(left + count / 2, height, f"{count:.0f}", ha="center", va="center", fontsize=7, color=INK)
            left += count
    axis.legend(ncols=len(PARTS), frameon=False, fontsize=7, loc="lower right", bbox_to_anchor=(1, 0.97), handlelength=1)
    axis.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlim(0, most)
