"""Learning curves: validation accuracy by update, the early gain, and how soon a row is where the baseline ends.

The curves are of validation problems, sampled anew at every point, and of each run as a whole: intervals are over seeds alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repirl.reporting.board import Row
from repirl.reporting.published import markdown_table
from repirl.reporting.text import accuracy, row_name, seed_list
from repirl.stats import MIN_SEEDS_TO_RESAMPLE, PairedDifference, paired_difference, seeded_interval
from repirl.types import Interval

EARLY = 0.25
"""Share of the baseline's updates that counts as early."""
SOLVED = 0.05
"""Share of the problems, more than at the start, of which it is counted how soon they are solved."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A row's curves: accuracies [S, K] of its S seeds (sorted) after K numbers of updates, from 0."""

    seeds: tuple[int, ...]
    steps_K: np.ndarray
    accuracy_SK: np.ndarray

    @property
    def mean_K(self) -> np.ndarray:
        return self.accuracy_SK.mean(axis=0)

    def gain_until(self, update: float) -> np.ndarray:
        """[S]: mean over the updates from 0 to `update` of the accuracy above that at 0, linear between points."""
        inside = self.steps_K < update
        steps = np.append(self.steps_K[inside], update)
        curves = np.array([np.append(row[inside], np.interp(update, self.steps_K, row)) for row in self.accuracy_SK])
        gains = curves - curves[:, :1]
        return ((gains[:, 1:] + gains[:, :-1]) / 2 * np.diff(steps)).sum(axis=1) / update

    def solved_at(self, share: float) -> np.ndarray:
        """[S]: the update at which a seed's curve is first that much above its start, linear between points; its last update
        where it never is."""
        steps, found = self.steps_K, []
        for row in self.accuracy_SK:
            above = np.nonzero(row >= row[0] + share)[0]
            i = int(above[0]) if len(above) else 0
            found.append(np.interp(row[0] + share, row[i - 1 : i + 1], steps[i - 1 : i + 1]) if i else steps[-1])
        return np.array(found, dtype=np.float64)

    def reaches(self, accuracy: float) -> float | None:
        """The update at which the mean curve first has that accuracy, linear between points; None if it never has."""
        mean_K = self.mean_K
        above = np.nonzero(mean_K >= accuracy)[0]
        if not len(above):
            return None
        i = int(above[0])
        return (
            float(self.steps_K[0]) if i == 0 else float(np.interp(accuracy, mean_K[i - 1 : i + 1], self.steps_K[i - 1 : i + 1]))
        )


@dataclass(frozen=True, slots=True)
class Early:
    """The early gain of a row, and against the baseline's: difference and quotient; None for the baseline and without one.

    `reaches_at`: the update at which the row is where the baseline ends. `solved_at`: how many updates until `SOLVED` of the
    problems more than at the start are solved, and `later` by how many that is after the baseline.
    """

    gain: Interval
    more: PairedDifference | None
    times: float | None
    reaches_at: float | None
    solved_at: Interval
    later: PairedDifference | None


def curve_of(row: Row) -> Curve | None:
    """From the records' curves; None unless all runs were validated at the same updates, from 0 on, and more than twice."""
    points: list[Mapping[int, float]] = [
        {line["step"]: line["validation_accuracy"] for line in run.curve() if "validation_accuracy" in line} for run in row.runs
    ]
    steps = sorted(points[0])
    if len(steps) < 3 or steps[0] != 0 or any(sorted(one) != steps for one in points):
        return None
    return Curve(row.seeds, np.array(steps), np.array([[one[step] for step in steps] for one in points]))


def over_seeds(values_S: np.ndarray) -> Interval:
    """Their mean, with a bootstrap interval over seeds; no bounds for fewer than are resampled, or where all are equal."""
    bounded = len(values_S) >= MIN_SEEDS_TO_RESAMPLE and np.ptp(values_S) > 0
    return seeded_interval(values_S[:, None]) if bounded else Interval(float(values_S.mean()))


def early(curve: Curve, baseline: Curve | None) -> Early | None:
    """Over the first `EARLY` of the baseline's updates (its own without one); None if the row has not so many."""
    reference = baseline or curve
    until = EARLY * float(reference.steps_K[-1])
    if until > curve.steps_K[-1]:
        return None
    gains_S = curve.gain_until(until)
    gain, solved_at = over_seeds(gains_S), over_seeds(curve.solved_at(SOLVED))
    if baseline is None:
        return Early(gain, None, None, None, solved_at, None)
    shared = [seed for seed in curve.seeds if seed in baseline.seeds]
    more = times = later = None
    if shared:
        places = [[one.seeds.index(seed) for seed in shared] for one in (curve, baseline)]
        own, other = curve.gain_until(until)[places[0]], baseline.gain_until(until)[places[1]]
        more, times = _paired(own, other), float(own.mean() / other.mean()) if other.mean() > 0 else None
        later = _paired(curve.solved_at(SOLVED)[places[0]], baseline.solved_at(SOLVED)[places[1]])
    return Early(gain, more, times, curve.reaches(float(baseline.mean_K[-1])), solved_at, later)


def _paired(own_S: np.ndarray, other_S: np.ndarray) -> PairedDifference:
    """Of the same seeds; no bounds for fewer than are resampled."""
    found = paired_difference(own_S[:, None], other_S[:, None])
    return found if len(own_S) >= MIN_SEEDS_TO_RESAMPLE else replace(found, interval=Interval(found.interval.value))


def curve_lines(rows: Sequence[Row], baseline: Mapping[int, int | None]) -> list[str]:
    """A table in Markdown: each row's curve and early gain. `baseline`: number of a row -> number of its baseline.

    Nothing where no row has a curve.
    """
    curves = [curve_of(row) for row in rows]
    steps = sorted({int(step) for curve in curves if curve is not None for step in curve.steps_K})
    if not steps:
        return []
    body = []
    for i, (row, curve) in enumerate(zip(rows, curves, strict=True)):
        if curve is None:
            continue
        partner = baseline.get(i)
        mean = dict(zip(curve.steps_K.tolist(), curve.mean_K.tolist(), strict=True))
        found = early(curve, None if partner is None else curves[partner])
        body.append(
            [row_name(row), seed_list(row.seeds), *(accuracy(mean[s]) if s in mean else "" for s in steps), *_early(found)]
        )
    header = [
        "run",
        "seeds",
        *map(str, steps),
        "early gain",
        "more than the baseline's",
        "times",
        "is where the baseline ends at",
        "5% solved after",
        "later than the baseline",
    ]
    return ["", _SAID, "", *markdown_table(header, body)]


_SAID = (
    "Validation accuracy after so many updates, mean over runs. Early gain: the mean, over the first quarter of the baseline's "
    "updates, of what is above the start, linear between points; its intervals are over seeds. Then after how many updates "
    "the mean curve first is at the baseline's last accuracy, and after how many 5% of the problems more than at the start are "
    "solved (a run that never gets there counts with its last update), with the difference paired over seeds."
)


def _early(found: Early | None) -> list[str]:
    if found is None:
        return [""] * 6
    more = "" if found.more is None else _signed(found.more.interval)
    times = "" if found.more is None else "-" if found.times is None else f"{found.times:.2f}"
    at = "" if found.more is None else "-" if found.reaches_at is None else f"{found.reaches_at:.0f}"
    later = "" if found.later is None else _signed(found.later.interval, 1)
    return [_signed(found.gain), more, times, at, _signed(found.solved_at, 1).replace("+", ""), later]


def _signed(interval: Interval, digits: int = 3) -> str:
    bounds = "" if interval.low is None else f" [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    return f"{interval.value:+.{digits}f}{bounds}"
