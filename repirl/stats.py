"""Statistics (docs/design.md rule 8). Problems are the unit.

Shapes: S seeds (trained models), P problems, N samples per problem, R bootstrap resamples.
A NaN is a value that could not be measured (an ungraded sample); it is left out, never counted as zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from repirl.errors import UserError
from repirl.rng import stream
from repirl.subsets import subset_indices
from repirl.types import Interval

RESAMPLES = 2000
MIN_SEEDS_TO_RESAMPLE = 3
Ties = Literal["split", "lowest-index", "random"]
_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """`interval` of a - b on the same problems; `p_value` two-sided, from the same resamples.

    `problems` and `seeds` are the numbers that entered.
    """

    interval: Interval
    p_value: float
    problems: int
    seeds: int


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number M, in the order given (Holm 1979): the smallest times M, the next times M - 1, ...,
    none below one before it, at most 1. That any of those below alpha is a false one has a probability of at most alpha.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, above = [0.0] * len(order), 0.0
    for place, i in enumerate(order):
        above = max(above, min(1.0, (len(order) - place) * p_values[i]))
        found[i] = above
    return found


# ---------------------------------------------------------------------------------------------- intervals


def problem_means(samples: Sequence[npt.ArrayLike]) -> np.ndarray:
    """Mean of each problem's samples: P ragged rows -> float64 [P]; NaN samples masked, NaN if none is left."""
    rows = [np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in samples]
    return np.array([row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else np.nan for row in rows])


def clustered_interval(
    samples: Sequence[npt.ArrayLike], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean over problems of the mean over their samples, with a percentile bootstrap interval.

    `samples`: one row of sample values for each problem (ragged allowed, or an array [P, N] or [P]).
    Whole problems are drawn with replacement, so samples of a problem stay together.
    Raises UserError when there is no measured value.
    """
    return seeded_interval(problem_means(samples)[None, :], level=level, resamples=resamples, seed=seed)


def seeded_interval(values: npt.ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over seeds x problems [S, P] (or [P]) with a two-level percentile bootstrap interval.

    Each resample draws problems with replacement, the same ones for all seeds (the models were tested on the
    same problems). With at least 3 seeds it also draws seeds; the drawn mean's deviation from the
    mean over all seeds is stretched by sqrt(S / (S - 1)), without which the variance between S seeds would come
    out too small by (S - 1) / S (Rao and Wu 1988). With 1 or 2 seeds the interval is about these models only.
    The value is the mean over seeds of each seed's mean over its measured problems.

    Where every value is 0 (or every one is 1) resampling cannot see what was not seen; the bound is then the exact
    binomial one over problems: none of P solved gives [0, 1 - tail^(1/P)].
    """
    grid = _grid(values)
    means = _bootstrap_means(grid, resamples, seed)
    low, high = _percentiles(means, level)
    unseen = 1 - ((1 - level) / 2) ** (1 / grid.shape[1])
    if np.nanmax(grid) == 0 == np.nanmin(grid):
        high = unseen
    if np.nanmin(grid) == 1 == np.nanmax(grid):
        low = 1 - unseen
    return Interval(value=float(np.nanmean(grid, axis=1).mean()), low=low, high=high, level=level)


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """a - b for two systems on the same problems: [P], or [S, P] with rows of matched seeds.

    Problems (and, from 3 on, seeds) are drawn for both at once, so what makes a problem hard for both cancels.
    A problem not measured in either is left out. The p-value is the two-sided bootstrap one,
    2 min(P(d* <= 0), P(d* >= 0)) with one resample added, so at least 2 / (R + 1): it agrees with the interval.
    Raises UserError when the shapes differ.
    """
    first, second = np.atleast_2d(np.asarray(a, float)), np.atleast_2d(np.asarray(b, float))
    if first.shape != second.shape:
        raise UserError(
            "paired comparison needs the same seeds and problems",
            (first.shape, second.shape),
            "restrict both to what they share",
        )
    grid = _grid(first - second)
    means = _bootstrap_means(grid, resamples, seed)
    problems = int((~np.isnan(grid)).any(axis=0).sum())
    value = float(np.nanmean(grid, axis=1).mean())
    return difference_of_resamples(value, means, problems=problems, seeds=grid.shape[0], level=level)


def interval_of_resamples(value: float, means_R: np.ndarray, *, level: float = 0.95) -> Interval:
    """`value` with the percentile interval of its resamples [R]."""
    low, high = _percentiles(means_R, level)
    return Interval(value, low, high, level)


def difference_of_resamples(
    value: float, means_R: np.ndarray, *, problems: int, seeds: int, level: float = 0.95
) -> PairedDifference:
    """A difference `value` with interval and p-value (see `paired_difference`) from its resamples [R]."""
    # A resample that differs from zero by rounding only is a tie.
    at_most = int(np.sum(means_R <= 1e-12))
    at_least = int(np.sum(means_R >= -1e-12))
    p_value = min(1.0, 2.0 * (1 + min(at_most, at_least)) / (len(means_R) + 1))
    return PairedDifference(interval_of_resamples(value, means_R, level=level), p_value, problems=problems, seeds=seeds)


def resample_seeds(by_seed_RS: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means over seeds [R] of resamples over problems [R, S]; from 3 seeds on, seeds are drawn too (`seeded_interval`)."""
    resamples, num_seeds = by_seed_RS.shape
    center = by_seed_RS.mean(axis=1)
    if num_seeds < MIN_SEEDS_TO_RESAMPLE:
        return center
    drawn = _draw_counts(rng, num_seeds, resamples) / num_seeds
    return center + math.sqrt(num_seeds / (num_seeds - 1)) * ((drawn * by_seed_RS).sum(axis=1) - center)


def _grid(values: npt.ArrayLike) -> np.ndarray:
    """float64 [S, P] without problems that no seed measured; every seed must have one measured problem."""
    grid = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if grid.ndim != 2 or grid.size == 0:
        raise UserError("no values to average", grid.shape, "give at least one problem")
    measured = ~np.isnan(grid)
    if not measured.any(axis=1).all():
        raise UserError("nothing was measured for at least one seed", grid.shape, "look at the ungraded samples")
    return grid[:, measured.any(axis=0)]


def _bootstrap_means(grid: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Resampled means [R] of `grid` [S, P]; see `seeded_interval`."""
    num_problems = grid.shape[1]
    measured = ~np.isnan(grid)
    filled = np.where(measured, grid, 0.0)
    chunk = max(1, _CHUNK_CELLS // num_problems)
    parts: list[np.ndarray] = []
    first, rng_state = _first_draw(seed, num_problems, min(chunk, resamples))
    rng = stream(seed, "bootstrap")
    rng.bit_generator.state = rng_state
    for start in range(0, resamples, chunk):
        counts = first if start == 0 else _draw_counts(rng, num_problems, min(chunk, resamples - start))
        # Where all is measured, as it mostly is, each resample has as many values as there are problems.
        weight = num_problems if measured.all() else counts @ measured.T
        # A seed without one measured problem in a resample takes its overall mean there.
        fallback = filled.sum(axis=1) / measured.sum(axis=1)
        parts.append(np.where(weight > 0, (counts @ filled.T) / np.maximum(weight, 1), fallback))
    return resample_seeds(np.concatenate(parts), rng)


@lru_cache(maxsize=4)
def _first_draw(seed: int, num_problems: int, resamples: int) -> tuple[np.ndarray, Mapping[str, Any]]:
    """The first draw of problems from a seed's stream, and the stream's state after it: a table has hundreds of the same."""
    rng = stream(seed, "bootstrap")
    counts = _draw_counts(rng, num_problems, resamples)
    counts.flags.writeable = False
    return counts, rng.bit_generator.state


def _draw_counts(rng: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    """How often each of `size` items is drawn when `size` are drawn with replacement: float64 [resamples, size].

    (Counting drawn indices is some ten times faster than numpy's multinomial.)
    """
    drawn = rng.integers(0, size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float64)


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise UserError("confidence level must lie in (0, 1)", level)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


# ------------------------------------------------------------------------------- pass@k, avg@n, maj@k


def pass_at_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, k: int) -> np.ndarray:
    """Unbiased pass@k for each problem: 1 - C(n - c, k) / C(n, k), and 1 where n - c < k (Chen et al. 2021).

    `num_samples`, `num_correct`: [P] (or scalars). Average the result over problems. Raises UserError if k > n.
    """
    totals, hits = np.broadcast_arrays(np.atleast_1d(num_samples), np.atleast_1d(num_correct))
    if k < 1 or (totals < k).any():
        raise UserError(f"pass@{k} needs 1 <= k <= samples per problem", int(totals.min()), "sample more or lower k")
    if (hits < 0).any() or (hits > totals).any():
        raise UserError("correct samples must lie between 0 and the number of samples", int(hits.max()))
    out = np.empty(totals.shape)
    for index, (n, c) in enumerate(zip(totals.ravel(), hits.ravel(), strict=True)):
        out.flat[index] = 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
    return out


def avg_at_n(correct: Sequence[npt.ArrayLike]) -> np.ndarray:
    """Share of correct samples of each problem [P]; the same as pass@1. NaN samples (ungraded) are masked."""
    return problem_means(correct)


def maj_at_k(
    answers: Sequence[Hashable | None],
    correct: Sequence[float],
    k: int,
    *,
    ties: Ties = "split",
    subsets: int = 200,
    seed: int = 0,
) -> float:
    """Probability that a majority vote over k of one problem's n samples is right.

    `answers[i]` is what sample i votes for (None: no answer, does not vote), `correct[i]` 1.0, 0.0, or NaN (ungraded).
    Ungraded samples are left out first; NaN if fewer than k are graded. Averaged over all C(n, k) subsets if those
    are at most `subsets`, else over that many seeded random ones: taking the first k would depend on the order.
    No vote at all counts 0. An answer is as right as the mean of its samples.

    `ties` among the most frequent answers: `split` gives the share of them that are right, which is the expectation of
    `random`, a seeded draw; `lowest-index` takes the one that was sampled first. `split` is the default as it alone
    depends neither on the order of the samples nor on a seed.
    """
    n = len(answers)
    if len(correct) != n:
        raise UserError("answers and verdicts differ in number", (n, len(correct)))
    if not 1 <= k <= n:
        raise UserError(f"maj@{k} needs 1 <= k <= samples per problem", n, "sample more or lower k")
    votes = [answer for answer, verdict in zip(answers, correct, strict=True) if not math.isnan(verdict)]
    graded = [verdict for verdict in correct if not math.isnan(verdict)]
    n = len(votes)
    if n < k:
        return math.nan
    verdicts: dict[Hashable, list[float]] = {}
    for answer, verdict in zip(votes, graded, strict=True):
        verdicts.setdefault(answer, []).append(verdict)
    right = {answer: float(np.mean(own)) for answer, own in verdicts.items() if answer is not None}
    rng = stream(seed, "maj", n, k)
    chosen = subset_indices(n, k, subsets, rng)
    scores = [_vote([votes[i] for i in indices], right, ties, rng) for indices in chosen]
    return float(np.mean(scores))


def _vote(votes: Sequence[Hashable | None], right: dict[Hashable, float], ties: Ties, rng: np.random.Generator) -> float:
    """How right the winner of `votes` is, which are in the order of their samples."""
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    # A Counter keeps the order of first occurrence.
    winners = [right[answer] for answer, count in counts.items() if count == most]
    if ties == "lowest-index":
        return winners[0]
    return winners[int(rng.integers(len(winners)))] if ties == "random" else float(np.mean(winners))
