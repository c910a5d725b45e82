"""Does a reward see in failed attempts which problems will be solved later? (hard problems, docs/method.md section 7)

Of problems that a policy failed in every sample: the rank correlation of the mean score of its attempts with how often a policy
that was trained afterwards solves the problem, against that of the attempts' length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repirl.errors import UserError
from repirl.evals.scaling import Candidates
from repirl.rng import stream
from repirl.stats import RESAMPLES, PairedDifference, difference_of_resamples, interval_of_resamples
from repirl.types import Interval

LENGTH = "length"
"""The control: shorter attempts are taken for better ones."""
MIN_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Foretold:
    """Spearman's correlation over `problems`, and by how much it is above that of length (None for length itself)."""

    name: str
    problems: int
    correlation: Interval
    over_length: PairedDifference | None


def foretold(pool: Sequence[Candidates], later: Mapping[str, float]) -> list[Foretold]:
    """For length and each reward of the pool; `later`: problem -> share of samples that solve it.

    Problems of which an attempt was right, and those that a reward could not score at all, take no part. Intervals over
    problems. UserError with fewer than `MIN_PROBLEMS`, or where all are solved equally often.
    """
    failed = [one for one in pool if one.problem in later and len(one.correct) and not one.correct.any()]
    names = list(dict.fromkeys(name for one in failed for name in one.scores))
    values = {one.problem: [-float(one.lengths.mean()), *(_mean_score(one, name) for name in names)] for one in failed}
    kept = [problem for problem, own in values.items() if None not in own]
    if len(kept) < MIN_PROBLEMS:
        todo = f"at least {MIN_PROBLEMS} are needed: give harder problems, or more of them"
        raise UserError("too few problems were failed in every sample", len(kept), todo)
    solved_P = np.array([later[problem] for problem in kept])
    if np.ptp(solved_P) == 0:
        raise UserError(
            "the later policy solves all of these problems equally often", solved_P[0], "give one that learned more"
        )
    scores_SP = np.array([values[problem] for problem in kept], dtype=np.float64).T
    rng = stream(0, "solvability")
    draws = [rng.integers(len(kept), size=len(kept)) for _ in range(RESAMPLES)]
    resampled_RS = np.array([[_spearman(own[draw], solved_P[draw]) for own in scores_SP] for draw in draws])
    found = []
    for i, name in enumerate([LENGTH, *names]):
        value = _spearman(scores_SP[i], solved_P)
        over = value - _spearman(scores_SP[0], solved_P)
        gaps_R = resampled_RS[:, i] - resampled_RS[:, 0]
        difference = None if i == 0 else difference_of_resamples(over, gaps_R, problems=len(kept), seeds=1)
        found.append(Foretold(name, len(kept), interval_of_resamples(value, resampled_RS[:, i]), difference))
    return found


def _mean_score(one: Candidates, name: str) -> float | None:
    """Over attempts, of the mean of their step scores."""
    scores = [float(steps.mean()) for steps in one.scores.get(name, ()) if steps is not None and len(steps)]
    return float(np.mean(scores)) if scores else None


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Equal values share their mean rank; 0 where one side is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(one) for one in (a, b)]
    if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])
