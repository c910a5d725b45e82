"""What step scores are worth for choosing: the best of a problem's samples by a reward, against majority vote and chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repirl import stats
from repirl.grading.math.votes import ballots
from repirl.types import Interval


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of a problem. `solution`: its place among the set's solutions; None: cut off, so it has no scores."""

    problem: str
    solution: int | None
    answer: str | None
    correct: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """Accuracy, over P problems with N samples each, of one answer a problem.

    `lowest_step` and `mean_step`: of the sample with the highest such score (the mean over equally good ones). `majority`: of
    the answer with the most votes. `sampled`: of any sample; `any_right`: of the best there is. `over_majority`: the paired
    difference of `lowest_step` and `majority`.
    """

    problems: int
    samples: int
    lowest_step: Interval
    mean_step: Interval
    majority: Interval
    sampled: Interval
    any_right: Interval
    over_majority: Interval


def selection(draws: Sequence[Draw], scores: Sequence[np.ndarray | None]) -> Selection | None:
    """`scores`: step scores [S] of each of the set's solutions. None without draws, or with one sample a problem."""
    by_problem: dict[str, list[Draw]] = {}
    for draw in draws:
        by_problem.setdefault(draw.problem, []).append(draw)
    samples = min(map(len, by_problem.values()), default=0)
    if samples < 2:
        return None
    answers = {problem: [draw.answer for draw in group] for problem, group in by_problem.items()}
    correct = {problem: [float(draw.correct) for draw in group] for problem, group in by_problem.items()}
    majority = [stats.maj_at_k(votes, correct[problem], len(votes)) for problem, votes in ballots(answers, correct).items()]
    columns: Mapping[str, list[float]] = {
        "lowest_step": [_best(group, scores, np.min) for group in by_problem.values()],
        "mean_step": [_best(group, scores, np.mean) for group in by_problem.values()],
        "majority": majority,
        "sampled": [float(np.mean(one)) for one in correct.values()],
        "any_right": [max(one) for one in correct.values()],
    }
    gain = stats.paired_difference(columns["lowest_step"], majority).interval
    intervals = {name: stats.seeded_interval(values) for name, values in columns.items()}
    return Selection(len(by_problem), samples, **intervals, over_majority=gain)


def _best(draws: Sequence[Draw], scores: Sequence[np.ndarray | None], aggregate: Callable[[np.ndarray], float]) -> float:
    """Accuracy of the sample with the highest score; without any score, that of a sample by chance."""
    values = np.full(len(draws), -np.inf)
    for i, draw in enumerate(draws):
        steps_S = None if draw.solution is None else scores[draw.solution]
        if steps_S is not None and not np.isnan(steps_S).any():
            values[i] = aggregate(steps_S)
    return float(np.mean([draw.correct for draw, value in zip(draws, values, strict=True) if value == values.max()]))
