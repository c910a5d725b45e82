"""Curves as SVG files: direct labels, intervals as bands, one palette that colour-blind readers can tell apart (Okabe and Ito).

Text and axes take the colour that the reader's page has, light or dark. No script, no font, no external file.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repirl.config import digest_of
from repirl.paths import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#010203"
"""Drawn with this, and replaced by the page's own colour."""
_STYLE = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}text{font-family:sans-serif}</style>"
_COLUMNS = 3
_PANEL = (3.6, 2.9)


@dataclass(frozen=True, slots=True)
class Series:
    """One line: K points with the bounds of their intervals, and its name at its end. `color` None: that of the text.

    A dashed one, for what others are measured by, has no band.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: str | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over one pair of axes."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels side by side, at most three in a row. Their axes are the same; without `same_heights` each has its own range of
    values."""

    panels: tuple[Panel, ...]
    x_label: str
    y_label: str = ""
    powers_of_two: bool = False
    same_heights: bool = True

    @property
    def digest(self) -> str:
        """Of what is drawn, which is in the file: how it is drawn may differ from machine to machine in the last digits."""
        return digest_of(rounded(asdict(self)))[:16]

    def svg(self) -> str:
        """The file's text."""
        return _drawn(self)


def draw(path: Path, figure: Figure) -> None:
    """The SVG is written whole or not at all."""
    replace_file(path, lambda file: file.write(figure.svg().encode()))


def digest_in(svg: str) -> str | None:
    """The digest of the figure that a file shows."""
    found = re.search(r"<!-- drawn from ([0-9a-f]+) -->", svg)
    return found[1] if found else None


def rounded(value: Any) -> Any:
    """The same with six decimals: what is drawn must have one digest on all machines."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return round(float(value), 6) if isinstance(value, float | np.floating) else value


def style() -> AbstractContextManager[None]:
    """Within it matplotlib draws in the ink that the page's colour replaces."""
    import matplotlib

    colors = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    return matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 9, **colors})


def as_svg(drawing: Drawing, digest: str) -> str:
    """The file's text, with the digest of what it was drawn from in it."""
    image = io.StringIO()
    drawing.savefig(image, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = image.getvalue().replace(INK, "currentColor")
    start = text.index(">", text.index("<svg")) + 1
    return f"{text[:start]}<!-- drawn from {digest} -->{_STYLE}{text[start:]}"


def _drawn(what: Figure) -> str:
    from matplotlib.figure import Figure as Drawing

    panels = what.panels
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        figure = Drawing(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=what.same_heights, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, what.powers_of_two)
        for axis, panel in zip(axes, panels, strict=False):
            _label(axis, panel)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.supxlabel(what.x_label, fontsize=9)
        figure.supylabel(what.y_label, fontsize=9)
        return as_svg(figure, what.digest)


def _draw_panel(axis: Axes, panel: Panel, powers_of_two: bool) -> None:
    if powers_of_two:
        axis.set_xscale("log", base=2)
        ticks = sorted({x for line in panel.series for x in line.x})
        if ticks == [2.0 ** round(math.log2(tick)) for tick in ticks]:
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        else:  # what the numbers cost
            axis.set_xscale("log", base=10)
        axis.minorticks_off()
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.5)
    for line in panel.series:
        color = line.color or INK
        axis.plot(line.x, line.y, color=color, linewidth=1.6, linestyle="--" if line.dashed else "-")
        if not line.dashed:
            axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.15, linewidth=0)


def _label(axis: Axes, panel: Panel) -> None:
    """The names of the curves at their ends; once all panels are drawn, whose heights may be the same."""
    low, high = axis.get_ylim()
    for line, at in zip(panel.series, _spread([line.y[-1] for line in panel.series], (high - low) * 0.07), strict=True):
        place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axis.annotate(line.label, (line.x[-1], at), color=line.color or INK, annotation_clip=False, **place)


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Heights of labels near those wanted, in their order, at least `gap` apart."""
    order = np.argsort(wanted, kind="stable")
    heights = [wanted[i] for i in order]
    for _ in range(200):
        moved = False
        for i in range(len(heights) - 1):
            if (short := gap - (heights[i + 1] - heights[i])) > gap * 1e-6:
                heights[i], heights[i + 1] = heights[i] - short / 2, heights[i + 1] + short / 2
                moved = True
        if not moved:
            break
    found = [0.0] * len(heights)
    for i, height in zip(order, heights, strict=True):
        found[int(i)] = height
    return found
