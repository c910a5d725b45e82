"""Curves as SVG files: direct labels, intervals as bands, one palette that colour-blind readers can tell apart (Okabe and Ito).

Text and axes take the colour that the reader's page has, light or dark. No script, no font, no external file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repirl.evals.scaling import BEST_OF_N, MAJORITY, PASS, RANDOM, WEIGHTED, Curve, Scaling
from repirl.paths import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK = "#010203"
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


def draw(path: Path, panels: Sequence[Panel], *, x_label: str, y_label: str, powers_of_two: bool = False) -> None:
    """Panels side by side, at most three in a row, with the same axes; the SVG is written whole or not at all."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    colors = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 9, **colors}):
        figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, powers_of_two)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.supxlabel(x_label, fontsize=9)
        figure.supylabel(y_label, fontsize=9)
        image = io.StringIO()
        figure.savefig(image, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = image.getvalue().replace(_INK, "currentColor")
    start = text.index(">", text.index("<svg")) + 1
    replace_file(path, lambda file: file.write((text[:start] + _STYLE + text[start:]).encode()))


def _draw_panel(axis: Axes, panel: Panel, powers_of_two: bool) -> None:
    if powers_of_two:
        axis.set_xscale("log", base=2)
        ticks = sorted({x for line in panel.series for x in line.x})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#888888", alpha=0.25, linewidth=0.5)
    for line in panel.series:
        color = line.color or _INK
        axis.plot(line.x, line.y, color=color, linewidth=1.6, linestyle="--" if line.dashed else "-")
        if not line.dashed:
            axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.15, linewidth=0)
    ends = [line.y[-1] for line in panel.series]
    low, high = min(min(line.low) for line in panel.series), max(max(line.high) for line in panel.series)
    for line, at in zip(panel.series, _spread(ends, (high - low) * 0.075), strict=True):
        place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axis.annotate(line.label, (line.x[-1], at), color=line.color or _INK, annotation_clip=False, **place)


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


def draw_scaling(path: Path, scaling: Scaling) -> None:
    """A panel for each reward: best-of-N and weighted majority by the mean of its scores, majority, pass@N and a sample by
    chance beside them. Without rewards, one panel of those."""
    rewards = list(dict.fromkeys(curve.reward for curve in scaling.curves if curve.reward is not None))
    shown = {(curve.selector, curve.reward, curve.aggregation): curve for curve in scaling.curves}
    hows = {curve.aggregation for curve in scaling.curves if curve.reward is not None}
    how = "mean" if "mean" in hows else next(iter(hows), None)
    common = [
        _series(shown[name, None, None], label, None, dashed)
        for name, label, dashed in ((PASS, "pass@N", True), (MAJORITY, "majority", False), (RANDOM, "any", True))
        if (name, None, None) in shown
    ]
    panels = [
        Panel(
            name,
            tuple(
                common
                + [
                    _series(shown[selector, name, how], label, PALETTE[i], False)
                    for i, (selector, label) in enumerate(((BEST_OF_N, "best-of-N"), (WEIGHTED, "weighted")))
                    if (selector, name, how) in shown
                ]
            ),
        )
        for name in rewards
    ]
    draw(path, panels or [Panel("", tuple(common))], x_label="samples N", y_label="accuracy", powers_of_two=True)


def _series(curve: Curve, label: str, color: str | None, dashed: bool) -> Series:
    points = curve.points
    return Series(
        label,
        [point.samples for point in points],
        [point.accuracy.value for point in points],
        [point.accuracy.value if point.accuracy.low is None else point.accuracy.low for point in points],
        [point.accuracy.value if point.accuracy.high is None else point.accuracy.high for point in points],
        color,
        dashed,
    )
