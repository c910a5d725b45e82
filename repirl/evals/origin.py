"""What a pool's origin chose, against the same rule here: `pred_naive@N`, `pred_weighted@N`, `pred_maj@N` of search-and-learn.

There a rule chooses among the first N completions, by the score of the last step, and takes the first of tied ones; so it
is repeated here. What can still differ: where the answer stands in a text, and which answers are equal (there those that are
spelled alike after its own normalisation).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from repirl.evals.pools import GradedPool
from repirl.evals.scaling import Candidates
from repirl.grading.dispatch import grade_rollouts
from repirl.tasks.sample_pools import ORIGIN

RULES = ("naive", "weighted", "maj")


@dataclass(frozen=True, slots=True)
class Agreement:
    """A rule among the first N samples of each of `problems`: of how many the origin's choice is right, and ours.

    `differing`: ids of the problems of which one is right and the other is not; `unmarked`: in how many of these some of the
    samples mark no answer, for which the origin takes the last number.
    """

    rule: str
    samples: int
    problems: int
    theirs: int
    ours: int
    differing: tuple[str, ...]
    unmarked: int


def agreement(pool: GradedPool) -> list[Agreement]:
    """For each rule and N that the origin left its choice of; its choices are graded by our grader."""
    candidates = {one.problem: one for one in pool.candidates()}
    found = []
    for rule, n in sorted({key for row in pool.rows for key in row.chosen if key[0] in RULES}):
        rows = [row for row in pool.rows if (rule, n) in row.chosen and len(row.samples) >= n]
        verdicts = grade_rollouts([pool.problems[row.id] for row in rows], [row.chosen[rule, n] for row in rows])
        theirs = {row.id: verdict.reward for row, verdict in zip(rows, verdicts, strict=True)}
        # A problem with ungraded samples among its first ones has no choice to compare.
        ours = {
            row.id: _choice(candidates[row.id], rule, n)
            for row in rows
            if all(verdict.outcome != "ungraded" for verdict in pool.verdicts[row.id][:n]) and not np.isnan(theirs[row.id])
        }
        differing = tuple(problem for problem, right in ours.items() if right != theirs[problem])
        unmarked = sum(any(verdict.extracted is None for verdict in pool.verdicts[problem][:n]) for problem in differing)
        right = int(sum(theirs[problem] for problem in ours)), int(sum(ours.values()))
        found.append(Agreement(rule, n, len(ours), *right, differing, unmarked))
    return found


def _choice(one: Candidates, rule: str, n: int) -> float:
    """Whether what the rule chooses among the first n is right; the first of tied ones."""
    last_n = np.array([-np.inf if steps is None else steps[-1] for steps in one.scores.get(ORIGIN, [None] * n)[:n]])
    if rule == "naive":
        return float(one.correct[int(last_n.argmax())])
    weights_n = np.ones(n) if rule == "maj" else np.where(np.isfinite(last_n), last_n, 0.0)
    sums: dict[Hashable, float] = {}
    for vote, weight in zip(one.votes[:n], weights_n, strict=True):
        if vote is not None:
            sums[vote] = sums.get(vote, 0.0) + float(weight)
    if not sums:
        return 0.0
    best = max(sums, key=lambda vote: sums[vote])
    return float(np.mean([right for vote, right in zip(one.votes, one.correct, strict=True) if vote == best]))
