"""Test-time scaling from one pool of samples: every selector, aggregation and N on the same samples (`repirl scale`).

All numbers are expectations over the subsets of N of a problem's n samples: in closed form for what one score decides, over
seeded subsets, the same for all, for votes. Differences from majority vote are paired by problem.
Shapes: n samples of a problem, W weights (of a reward and an aggregation each).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from repirl.errors import UserError
from repirl.rewards.aggregate import Aggregation, aggregate
from repirl.rng import seed_for, stream
from repirl.stats import PairedDifference, clustered_interval, paired_difference
from repirl.subsets import best_of_k, subset_indices, vote_of_k
from repirl.types import Interval, ScaledRow

AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
SUBSETS = 200

MAJORITY = "majority"
PASS = "pass"
RANDOM = "random"
SHORTEST = "shortest"
BEST_OF_N = "best-of-N"
WEIGHTED = "weighted majority"


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """A problem's n graded samples: `correct` [n] 1.0 or 0.0 (ungraded ones are left out before), `votes` what each votes for
    (None: no answer), empty where answers cannot be compared; `lengths` [n] in tokens, or characters where no tokens were
    counted; `scores`: reward -> step scores of each sample, None where it has none."""

    problem: str
    correct: np.ndarray
    votes: tuple[Hashable | None, ...]
    lengths: np.ndarray
    scores: Mapping[str, tuple[np.ndarray | None, ...]]


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy with N samples a problem. `over_majority`: the paired difference, None for majority itself and without votes."""

    samples: int
    accuracy: Interval
    over_majority: PairedDifference | None


@dataclass(frozen=True, slots=True)
class Curve:
    """One selector by N. `reward` and `aggregation` None for those that need none."""

    selector: str
    reward: str | None
    aggregation: Aggregation | None
    points: tuple[Point, ...]

    @property
    def short_title(self) -> str:
        """Selector and aggregation: what tells the curves of one reward apart."""
        return title(self.selector, self.aggregation)


@dataclass(frozen=True, slots=True)
class Scaling:
    """All curves of a pool. `left_out`: problems with fewer graded samples than the largest N. `squashed`: rewards with scores
    outside of [0, 1], of which products and weights of votes take the sigmoid."""

    problems: int
    samples: int
    left_out: int
    curves: tuple[Curve, ...]
    squashed: tuple[str, ...]


def title(selector: str, aggregation: str | None) -> str:
    """`best-of-N mean`, `majority`."""
    return selector if aggregation is None else f"{selector} {aggregation}"


def scaled_rows(pool: Sequence[Candidates], reward: str) -> tuple[ScaledRow, ...]:
    """What a record keeps of a pool that one reward scored."""
    found = []
    for one in pool:
        numbers = {vote: i for i, vote in enumerate(dict.fromkeys(vote for vote in one.votes if vote is not None))}
        steps = one.scores.get(reward, (None,) * len(one.correct))
        found.append(
            ScaledRow(
                one.problem,
                tuple(one.correct.tolist()),
                tuple(None if vote is None else numbers[vote] for vote in one.votes),
                tuple(one.lengths.tolist()),
                tuple(None if own is None else tuple(own.tolist()) for own in steps),
            )
        )
    return tuple(found)


def candidates_of(rows: Sequence[ScaledRow], reward: str) -> list[Candidates]:
    """Inverse of `scaled_rows`."""
    return [
        Candidates(
            row.problem_id,
            np.array(row.correct),
            row.votes,
            np.array(row.lengths),
            {reward: tuple(None if own is None else np.array(own) for own in row.scores)},
        )
        for row in rows
    ]


def values_by_problem(
    pool: Sequence[Candidates], number: int, aggregations: Sequence[Aggregation], seed: int = 0, *, ragged: bool = False
) -> dict[str, dict[str, float]]:
    """`Curve.short_title` -> problem -> expected accuracy with N = `number`, of a pool that one reward scored; `ragged` as in
    `scaling`."""
    kept = [one for one in pool if len(one.correct) >= (1 if ragged else number)]
    rewards = list(dict.fromkeys(name for one in kept for name in one.scores))
    squashed = [name for name in rewards if _outside(kept, name)]
    found: dict[str, dict[str, float]] = {}
    for one in kept:
        for key, values in _problem_values(one, [min(number, len(one.correct))], rewards, aggregations, squashed, seed).items():
            found.setdefault(title(key[0], key[2]), {})[one.problem] = values[0]
    return found


def powers_of_two(n: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to n, and n itself."""
    return tuple(sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n}))


def scaling(
    pool: Sequence[Candidates],
    numbers: Sequence[int] | None = None,
    aggregations: Sequence[Aggregation] = AGGREGATIONS,
    *,
    seed: int = 0,
    ragged: bool = False,
) -> Scaling:
    """Every selector at every N of `numbers` (default: powers of two up to what nine tenths of the problems have; the others,
    of which some samples could not be graded, are left out).

    Best-of-N takes the sample with the highest aggregated score; a weighted majority adds up the aggregated scores of those
    that vote for an answer. A sample without scores is taken last, and its vote weighs nothing. UserError for an empty pool,
    and for an N that is more than any problem has. `ragged`: of a problem that has fewer than N samples all are taken,
    as a search may end with fewer.
    """
    sizes = [len(one.correct) for one in pool]
    most = max(sizes, default=0)
    if not most:
        raise UserError("no graded samples in the pool", len(pool))
    numbers = tuple(sorted(set(numbers or powers_of_two(max(sorted(sizes)[len(sizes) // 10], 1)))))
    if numbers[0] < 1 or numbers[-1] > most:
        raise UserError(f"N must lie between 1 and the {most} samples of a problem", list(numbers))
    kept = [one for one in pool if len(one.correct) >= (1 if ragged else numbers[-1])]
    rewards = list(dict.fromkeys(name for one in kept for name in one.scores))
    squashed = tuple(name for name in rewards if _outside(kept, name))
    values = [
        _problem_values(one, [min(n, len(one.correct)) for n in numbers], rewards, aggregations, squashed, seed) for one in kept
    ]
    curves = []
    for key in values[0]:
        points = []
        for i, n in enumerate(numbers):
            own = [one[key][i] for one in values]
            over = None
            if key[0] != MAJORITY and (MAJORITY, None, None) in values[0]:
                over = paired_difference(own, [one[MAJORITY, None, None][i] for one in values])
            points.append(Point(n, clustered_interval(own), over))
        curves.append(Curve(*key, tuple(points)))
    return Scaling(len(kept), numbers[-1], len(pool) - len(kept), tuple(curves), squashed)


_Key = tuple[str, str | None, Aggregation | None]


def _problem_values(
    one: Candidates,
    numbers: Sequence[int],
    rewards: Sequence[str],
    aggregations: Sequence[Aggregation],
    squashed: Sequence[str],
    seed: int,
) -> dict[_Key, list[float]]:
    """Selector -> its expected accuracy on the problem at each N."""
    found: dict[_Key, list[float]] = {
        (PASS, None, None): [best_of_k(one.correct, one.correct, n) for n in numbers],
        (RANDOM, None, None): [float(one.correct.mean())] * len(numbers),
        (SHORTEST, None, None): [best_of_k(-one.lengths, one.correct, n) for n in numbers],
    }
    pairs: list[tuple[str, Aggregation]] = [(name, how) for name in rewards for how in aggregations]
    for name, how in pairs:
        scores_n = _aggregated(one.scores.get(name), len(one.correct), how, squash=name in squashed and how == "prod")
        found[BEST_OF_N, name, how] = [best_of_k(scores_n, one.correct, n) for n in numbers]
    if one.votes:
        keys: list[_Key] = [(MAJORITY, None, None)]
        keys.extend((WEIGHTED, name, how) for name, how in pairs)
        weights_Wn = np.ones((len(keys), len(one.correct)))
        for w, (name, how) in enumerate(pairs, start=1):
            scores_n = _aggregated(one.scores.get(name), len(one.correct), how, squash=name in squashed)
            weights_Wn[w] = np.nan_to_num(scores_n, nan=0.0)
        by_number = [_votes(one, n, weights_Wn, seed) for n in numbers]
        found |= {key: [values_W[w] for values_W in by_number] for w, key in enumerate(keys)}
    return found


def _votes(one: Candidates, n: int, weights_Wn: np.ndarray, seed: int) -> np.ndarray:
    """float64 [W]: expected accuracy of the vote among N samples, by each weighing."""
    answers = {vote: a for a, vote in enumerate(dict.fromkeys(vote for vote in one.votes if vote is not None))}
    codes_n = np.array([-1 if vote is None else answers[vote] for vote in one.votes])
    right_A = np.array([one.correct[codes_n == a].mean() for a in answers.values()])
    # The subsets of the metric `maj@k`, so that both say the same.
    subsets = subset_indices(len(one.votes), n, SUBSETS, stream(seed_for(seed, one.problem), "maj", len(one.votes), n))
    return vote_of_k(codes_n, right_A, weights_Wn, subsets)


def _aggregated(steps: Sequence[np.ndarray | None] | None, n: int, how: Aggregation, *, squash: bool) -> np.ndarray:
    """float64 [n]: one score for each sample, NaN where it has none."""
    if steps is None:
        return np.full(n, np.nan)
    return np.array([np.nan if one is None else aggregate(_sigmoid(one) if squash else one, how) for one in steps])


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(scores, -700, 700)))


def _outside(pool: Sequence[Candidates], name: str) -> bool:
    scored = [steps for one in pool for steps in one.scores.get(name, ()) if steps is not None]
    return any(steps.min() < 0 or steps.max() > 1 for steps in scored)
