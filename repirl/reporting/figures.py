"""What is drawn: scaling, test-time training, and a suite's rows, each beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repirl.evals.scaling import BEST_OF_N, MAJORITY, PASS, RANDOM, WEIGHTED, Curve, Scaling, title
from repirl.evals.searched import tokens_of
from repirl.records.measured import ScalingRecord
from repirl.reporting import transitions
from repirl.reporting.board import Board, Row
from repirl.reporting.comparing import baseline_of
from repirl.reporting.curves import curve_of, over_seeds
from repirl.reporting.forest import Forest, of_stage
from repirl.reporting.plots import PALETTE, Figure, Panel, Series
from repirl.reporting.transitions import Bars
from repirl.types import Interval

OWN, OTHER = PALETTE[0], PALETTE[1]
Costs = Mapping[tuple[str, str | None, str | None], Sequence[float]]
"""Selector, reward and aggregation of a curve -> what each of its points costs."""
WHILE_ADAPTING = {
    "accuracy": (
        ("accuracy", "accuracy", OWN),
        ("agreement", "prm/agreement", OTHER),
        ("specific", "prm/specific_agreement", PALETTE[2]),
    ),
    "signal": (("batch", "prm/signal", OWN), ("watched", "prm/watch/signal", OTHER)),
    "entropy": (("nats", "entropy", OWN),),
    "different-answers": (
        ("batch, of 4", "prm/different_answers", OWN),
        ("watched, of 8", "prm/watch/different_answers", OTHER),
    ),
}
"""What is drawn of test-time training by update: label, metric and colour of each line."""
KINDS = ("forest", "transitions", "learning", "scaling", "search", *(f"{what}-while-adapting" for what in WHILE_ADAPTING))
"""How the names of a suite's pictures begin."""


def of_board(board: Board) -> dict[str, Figure | Forest | Bars]:
    """A suite's figures by the end of their file's name: what its records allow."""
    found: dict[str, Figure | Forest | Bars | None] = {}
    for stage in board.stages:
        rows = board.rows_of(stage)
        end = "" if len(board.stages) == 1 else f"-{stage.replace(' ', '-')}"
        partners = [None if (i := baseline_of(row, rows, board.baseline)) is None else rows[i] for row in rows]
        found[f"forest{end}"] = of_stage(board, stage)
        found[f"learning{end}"] = of_learning(rows, partners)
        found[f"scaling{end}"] = of_scaled_rows(rows)
        found[f"search{end}"] = of_searched_rows(rows)
        found[f"transitions{end}"] = transitions.of_rows(rows)
        for what, shown in WHILE_ADAPTING.items():
            found[f"{what}-while-adapting{end}"] = of_adapting_rows(rows, shown, same_heights=what != "signal")
    return {name: figure for name, figure in found.items() if figure is not None}


def of_learning(rows: Sequence[Row], baselines: Sequence[Row | None]) -> Figure | None:
    """Validation accuracy by update, a panel for each row with its baseline's mean; bands are over seeds."""
    panels = []
    for row, baseline in zip(rows, baselines, strict=True):
        curve = curve_of(row)
        if curve is None:
            continue
        lines = [_seeded(row.label, curve.steps_K.tolist(), curve.accuracy_SK, OWN)]
        other = None if baseline is None else curve_of(baseline)
        if baseline is not None and other is not None:
            mean = other.mean_K.tolist()
            lines.append(Series(baseline.label, other.steps_K.tolist(), mean, mean, mean, dashed=True))
        panels.append(Panel(row.name, tuple(lines)))
    return Figure(tuple(panels), "updates", "validation accuracy") if panels else None


def _seeded(label: str, x: Sequence[float], values_SK: np.ndarray, color: str) -> Series:
    """Means over seeds, with bootstrap intervals over them where there are any (`over_seeds`)."""
    points = [over_seeds(values_S) for values_S in values_SK.T]
    return _line_of(label, list(x), points, color)


def _line_of(label: str, x: Sequence[float], points: Sequence[Interval], color: str | None) -> Series:
    """Without bounds a point is its own."""
    low = [point.value if point.low is None else point.low for point in points]
    high = [point.value if point.high is None else point.high for point in points]
    return Series(label, x, [point.value for point in points], low, high, color)


def of_scaled_rows(rows: Sequence[Row]) -> Figure | None:
    """Choosing among N samples by each row's reward, the mean of its step scores; means over seeds. A band goes from the lowest
    to the highest bound of the seeds' intervals over problems."""
    panels = []
    for row in rows:
        scalings = [run.record.scalings[0] for run in row.runs if run.record.scalings]
        if scalings:
            shown = (
                ("best-of-N", title(BEST_OF_N, "mean"), OWN, False),
                ("weighted", title(WEIGHTED, "mean"), OTHER, False),
                ("majority", MAJORITY, None, False),
                ("pass@N", PASS, None, True),
                ("any", RANDOM, None, True),
            )
            lines = [
                _scaled(label, [one.curves[name] for one in scalings], color, dashed)
                for label, name, color, dashed in shown
                if all(name in one.curves for one in scalings)
            ]
            panels.append(Panel(row.name, tuple(lines)))
    return Figure(tuple(panels), "samples N", "accuracy", powers_of_two=True) if panels else None


def _scaled(label: str, curves: Sequence[Mapping[str, Any]], color: str | None, dashed: bool) -> Series:
    numbers = sorted(set.intersection(*({int(n) for n in curve} for curve in curves)))
    seeds = [_line_of(label, numbers, [curve[str(n)] for n in numbers], color) for curve in curves]
    return _over_runs(label, numbers, seeds, color, dashed)


def _over_runs(label: str, x: Sequence[float], lines: Sequence[Series], color: str | None, dashed: bool) -> Series:
    """The mean line; its band goes from the lowest to the highest bound."""
    return Series(
        label,
        x,
        np.mean([one.y for one in lines], axis=0).tolist(),
        np.min([one.low for one in lines], axis=0).tolist(),
        np.max([one.high for one in lines], axis=0).tolist(),
        color,
        dashed,
    )


def of_searched_rows(rows: Sequence[Row]) -> Figure | None:
    """Searches steered by each row's reward, against all tokens of a problem, and the best of N samples by the same scores;
    bands as in `of_scaled_rows`."""
    panels = []
    for row in rows:
        runs = [run.record for run in row.runs if run.record.searches]
        if not runs:
            continue
        how = str(runs[0].searches[0].protocol["aggregation"])
        sampled = [run.scalings[0] for run in runs if run.scalings and run.scalings[0].budget.generated_tokens]
        lines = []
        if len(sampled) == len(runs):
            lines.append(_at_cost("best-of-N", [_cost_of_samples(one, title(BEST_OF_N, how)) for one in sampled], None))
        for i, first in enumerate(runs[0].searches):
            approach = first.protocol["approach"]
            found = [one for run in runs for one in run.searches if one.protocol == first.protocol]
            points = [[(tokens_of(at.tokens), at.accuracy["best"]) for at in one.points.values()] for one in found]
            lines.append(_at_cost(str(approach), points, PALETTE[i % len(PALETTE)]))
        panels.append(Panel(row.name, tuple(lines)))
    return Figure(tuple(panels), "tokens of a problem (policy and reward)", "accuracy", powers_of_two=True) if panels else None


Priced = Sequence[tuple[float, Interval]]
"""Points of a curve: what each costs, and its accuracy."""


def _cost_of_samples(one: ScalingRecord, selector: str) -> Priced:
    each = (one.budget.generated_tokens + one.budget.scored_tokens) / one.counts.total
    return [(int(n) * each, interval) for n, interval in sorted(one.curves[selector].items(), key=lambda item: int(item[0]))]


def _at_cost(label: str, seeds: Sequence[Priced], color: str | None) -> Series:
    """Means over seeds of accuracy and cost."""
    costs = np.mean([[cost for cost, _ in points] for points in seeds], axis=0).tolist()
    lines = [_line_of(label, costs, [interval for _, interval in points], color) for points in seeds]
    return _over_runs(label, costs, lines, color, dashed=False)


def of_adapting_rows(rows: Sequence[Row], shown: Sequence[tuple[str, str, str]], *, same_heights: bool) -> Figure | None:
    """Metrics of test-time training by update, a panel for each row; bands are over seeds."""
    panels = []
    for row in rows:
        curves = [run.curve() for run in row.runs if run.record.problems is not None]
        lines = [_seeded_line(label, name, curves, color) for label, name, color in shown]
        if kept := tuple(line for line in lines if line is not None):
            panels.append(Panel(row.name, kept))
    return Figure(tuple(panels), "updates", same_heights=same_heights) if panels else None


def _seeded_line(label: str, name: str, curves: Sequence[Sequence[Mapping[str, Any]]], color: str) -> Series | None:
    """Over the updates that all runs have: one that stopped early ends the line."""
    points = [{line["step"]: line[name] for line in curve if line.get(name) is not None} for curve in curves]
    steps = sorted(set.intersection(*map(set, points))) if points else []
    if not steps:
        return None
    return _seeded(label, steps, np.array([[one[step] for step in steps] for one in points]), color)


def of_scaling(scaling: Scaling, costs: Costs | None = None, x_label: str = "samples N") -> Figure:
    """A panel for each reward: best-of-N and weighted majority by the mean of its scores, majority, pass@N and a sample by
    chance beside them. Without rewards, one panel of those.

    `costs`: what each of a curve's N costs, by selector, reward and aggregation, in the unit that `x_label` says; None: N.
    """
    rewards = list(dict.fromkeys(curve.reward for curve in scaling.curves if curve.reward is not None))
    shown = {(curve.selector, curve.reward, curve.aggregation): curve for curve in scaling.curves}
    hows = {curve.aggregation for curve in scaling.curves if curve.reward is not None}
    how = "mean" if "mean" in hows else next(iter(hows), None)
    common = [
        _series(shown[name, None, None], label, None, dashed, costs)
        for name, label, dashed in ((PASS, "pass@N", True), (MAJORITY, "majority", False), (RANDOM, "any", True))
        if (name, None, None) in shown
    ]
    panels = [
        Panel(
            name,
            tuple(
                common
                + [
                    _series(shown[selector, name, how], label, PALETTE[i], False, costs)
                    for i, (selector, label) in enumerate(((BEST_OF_N, "best-of-N"), (WEIGHTED, "weighted")))
                    if (selector, name, how) in shown
                ]
            ),
        )
        for name in rewards
    ]
    return Figure(tuple(panels) or (Panel("", tuple(common)),), x_label, "accuracy", powers_of_two=True)


def _series(curve: Curve, label: str, color: str | None, dashed: bool, costs: Costs | None) -> Series:
    x = [point.samples for point in curve.points]
    if costs is not None:
        x = costs[curve.selector, curve.reward, curve.aggregation]
    return replace(_line_of(label, x, [point.accuracy for point in curve.points], color), dashed=dashed)


def of_search(points: Sequence[Mapping[str, Any]], x: Sequence[float], x_label: str) -> Figure:
    """What a search chooses at each of its widths, by `x`: the best, the majority (weighted or not), and pass."""
    lines = []
    for label, color in (("pass", None), ("best", PALETTE[0]), ("weighted", PALETTE[1]), ("majority", None)):
        if all(label in point["accuracy"] for point in points):
            values = [Interval(**point["accuracy"][label]) for point in points]
            lines.append(replace(_line_of(label, x, values, color), dashed=label == "pass"))
    return Figure((Panel("", tuple(lines)),), x_label, "accuracy", powers_of_two=True)


def of_adapting(curve: Sequence[Mapping[str, Any]]) -> Figure:
    """Of test-time training by update: what it is paid beside what it does, on its batches and on the problems watched."""
    panels = [
        Panel(
            title,
            tuple(
                line
                for label, name, color in (("batch", batch, PALETTE[0]), ("watched", watched, PALETTE[1]))
                if (line := _line(label, name, curve, color)) is not None
            ),
        )
        for title, batch, watched in (
            ("signal", "prm/signal", "prm/watch/signal"),
            ("accuracy (training does not see it)", "accuracy", "watch/accuracy"),
            ("agreement with the majority", "prm/agreement", "prm/watch/agreement"),
            ("with its own problem's alone", "prm/specific_agreement", "prm/watch/specific_agreement"),
            ("reward by the answers told", "reward", ""),
            ("length, tokens", "length_mean", "prm/watch/length_mean"),
            ("entropy, nats", "entropy", ""),
            ("repeated pieces", "prm/repetition", "prm/watch/repetition"),
        )
    ]
    return Figure(tuple(panel for panel in panels if panel.series), "updates", same_heights=False)


def _line(label: str, name: str, curve: Sequence[Mapping[str, Any]], color: str) -> Series | None:
    points = [(line["step"], line[name]) for line in curve if line.get(name) is not None]
    if not points:
        return None
    x, y = zip(*points, strict=True)
    return Series(label, x, y, y, y, color)
