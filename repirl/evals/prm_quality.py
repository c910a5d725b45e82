"""Metrics of step scores against labelled steps: ProcessBench F1, PRMBench's scores (docs/recipes.md B14, B15), thresholds.

Accuracies and F1 are in percent, as they are published. A quotient 0/0 is 0 and its name is in `undefined`.
Shapes: N solutions, S steps, K counts, P clusters, R resamples, C candidate thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from repirl.errors import UserError
from repirl.rng import stream

NO_ERROR = -1
UNPARSEABLE = -2
"""Prediction for a solution without usable scores: wrong in both groups."""

RESAMPLES = 2000

Scores = Sequence[np.ndarray | None]
"""Step scores [S] of each solution; None (or a NaN among them) where there are none."""


def usable(scores_S: np.ndarray | None) -> bool:
    """True if every step has a number."""
    return scores_S is not None and len(scores_S) > 0 and not bool(np.isnan(scores_S).any())


# ---------------------------------------------------------------------------------------- ProcessBench


@dataclass(frozen=True, slots=True)
class FirstErrorQuality:
    """ProcessBench: percent of exact first errors among erroneous solutions, of -1 among correct ones, harmonic mean."""

    acc_error: float
    acc_correct: float
    f1: float
    num_error: int
    num_correct: int
    num_unparseable: int
    undefined: tuple[str, ...]


def first_error_prediction(scores_S: np.ndarray | None, threshold: float) -> int:
    """0-based index of the first step whose score is **below** the threshold (equal is right), else -1.

    `UNPARSEABLE` without scores.
    """
    if scores_S is None or not usable(scores_S):
        return UNPARSEABLE
    below_S = np.asarray(scores_S, dtype=np.float64) < threshold
    return int(below_S.argmax()) if below_S.any() else NO_ERROR


def first_error_counts(prediction: int, label: int) -> tuple[int, int, int, int]:
    """One solution as (hits among erroneous, erroneous, hits among correct, correct)."""
    hit = int(prediction == label)
    return (hit, 1, 0, 0) if label >= 0 else (0, 0, hit, 1)


def first_error_f1(counts_K: np.ndarray) -> np.ndarray:
    """F1 in percent from counts [..., 4] as `first_error_counts` gives them; 0 where it is 0/0."""
    error, correct = _share(counts_K[..., 0], counts_K[..., 1]), _share(counts_K[..., 2], counts_K[..., 3])
    return 100 * _harmonic(error, correct)


def first_error_quality(predictions: Sequence[int], labels: Sequence[int]) -> FirstErrorQuality:
    """ProcessBench's numbers of one subset. UserError for different lengths, no solutions, or labels below -1."""
    if len(predictions) != len(labels) or not len(labels):
        raise UserError("as many predictions as labels are needed, at least one", (len(predictions), len(labels)))
    if min(labels) < NO_ERROR:
        raise UserError("a label is the index of the first wrong step, or -1", min(labels))
    counts = np.sum([first_error_counts(p, y) for p, y in zip(predictions, labels, strict=True)], axis=0)
    hit_error, num_error, hit_correct, num_correct = map(int, counts)
    acc_error, acc_correct = _share(counts[0], counts[1]), _share(counts[2], counts[3])
    undefined = [name for name, number in (("acc_error", num_error), ("acc_correct", num_correct)) if not number]
    undefined += ["f1"] if hit_error == hit_correct == 0 else []
    return FirstErrorQuality(
        acc_error=float(100 * acc_error),
        acc_correct=float(100 * acc_correct),
        f1=float(first_error_f1(counts)),
        num_error=num_error,
        num_correct=num_correct,
        num_unparseable=sum(p == UNPARSEABLE for p in predictions),
        undefined=tuple(undefined),
    )


def tune_first_error(scores: Scores, labels: Sequence[int]) -> float:
    """The threshold with the highest F1 on these solutions; the lowest of equally good ones.

    Candidates lie midway between neighbouring scores and beyond both ends. A solution is judged right for thresholds in an
    interval: above its first wrong step's score, up to the lowest score before it. So all candidates cost one sort.
    """
    candidates_C = candidate_thresholds(scores)
    hits = np.zeros((2, len(candidates_C)))
    for scores_S, label in zip(scores, labels, strict=True):
        if scores_S is None or not usable(scores_S):
            continue
        before = scores_S if label == NO_ERROR else scores_S[:label]
        high = math.inf if len(before) == 0 else float(before.min())
        low = -math.inf if label == NO_ERROR else float(scores_S[label])
        first, last = np.searchsorted(candidates_C, [low, high], side="right")
        hits[int(label == NO_ERROR), first : max(first, last)] += 1
    num_error = sum(label >= 0 for label in labels)
    totals = (np.full(len(candidates_C), num_error), np.full(len(candidates_C), len(labels) - num_error))
    f1_C = first_error_f1(np.stack([hits[0], totals[0], hits[1], totals[1]], axis=-1))
    return float(candidates_C[int(f1_C.argmax())])


# -------------------------------------------------------------------------------------------- PRMBench


@dataclass(frozen=True, slots=True)
class StepQuality:
    """PRMBench: step classification in percent. `f1`: a right step is the positive class; `negative_f1`: a wrong one.

    `prm_score` is the mean of the two; `first_error_acc` the share of first wrong steps called wrong.
    """

    f1: float
    negative_f1: float
    prm_score: float
    acc_right_steps: float
    acc_wrong_steps: float
    first_error_acc: float
    num_solutions: int
    num_right_steps: int
    num_wrong_steps: int
    num_unparseable: int
    undefined: tuple[str, ...]


def called_right(scores_S: np.ndarray, threshold: float) -> np.ndarray:
    """bool [S]: score **above** the threshold (equal is wrong), as PRMBench has it."""
    return np.asarray(scores_S, dtype=np.float64) > threshold


def step_counts(called_S: np.ndarray | None, right_S: np.ndarray) -> tuple[int, int, int, int, int, int]:
    """One solution as (true positive, false positive, true negative, false negative, first errors found, first errors).

    `right_S` bool [S] are the labels. Without scores every step is judged wrongly.
    """
    called_S = ~right_S if called_S is None else called_S
    wrong_S = ~right_S
    found = int(not called_S[wrong_S.argmax()]) if wrong_S.any() else 0
    pairs = ((called_S & right_S), (called_S & wrong_S), (~called_S & wrong_S), (~called_S & right_S))
    true_right, false_right, true_wrong, false_wrong = (int(pair.sum()) for pair in pairs)
    return true_right, false_right, true_wrong, false_wrong, found, int(wrong_S.any())


def prm_score(counts_K: np.ndarray) -> np.ndarray:
    """PRMScore in percent from counts [..., 4 or more] as `step_counts` gives them."""
    return (_step_f1(counts_K) + _step_f1(counts_K[..., [2, 3, 0, 1]])) / 2


def step_quality(counts: Sequence[tuple[int, ...]], num_unparseable: int = 0) -> StepQuality:
    """PRMBench's numbers over solutions' counts. UserError if there are none."""
    if not counts:
        raise UserError("no solutions to measure", 0)
    sums = np.sum(counts, axis=0)
    right, wrong = int(sums[0] + sums[3]), int(sums[1] + sums[2])
    # Without wrong steps their recall is 0/0, and so all that is made of it.
    undefined = ["negative_f1", "acc_wrong_steps", "first_error_acc"] * (not wrong) + ["f1", "acc_right_steps"] * (not right)
    undefined += ["prm_score"] * bool(undefined)
    return StepQuality(
        f1=float(_step_f1(sums)),
        negative_f1=float(_step_f1(sums[[2, 3, 0, 1]])),
        prm_score=float(prm_score(sums)),
        acc_right_steps=float(100 * _share(sums[0], np.array(right))),
        acc_wrong_steps=float(100 * _share(sums[2], np.array(wrong))),
        first_error_acc=float(100 * _share(sums[4], sums[5])),
        num_solutions=len(counts),
        num_right_steps=right,
        num_wrong_steps=wrong,
        num_unparseable=num_unparseable,
        undefined=tuple(undefined),
    )


def tune_prm_score(scores: Scores, right: Sequence[np.ndarray]) -> float:
    """The threshold with the highest PRMScore over all steps of these solutions; the lowest of equally good ones."""
    candidates_C = candidate_thresholds(scores)
    pairs = [(s, r) for s, r in zip(scores, right, strict=True) if s is not None and usable(s)]
    values = np.concatenate([np.asarray(s, dtype=np.float64) for s, _ in pairs]) if pairs else np.zeros(0)
    is_right = np.concatenate([r for _, r in pairs]) if pairs else np.zeros(0, dtype=bool)
    # Steps at or below each candidate are called wrong.
    right_called_wrong = np.searchsorted(np.sort(values[is_right]), candidates_C, side="right")
    wrong_called_wrong = np.searchsorted(np.sort(values[~is_right]), candidates_C, side="right")
    counts = (
        is_right.sum() - right_called_wrong,
        (~is_right).sum() - wrong_called_wrong,
        wrong_called_wrong,
        right_called_wrong,
    )
    return float(candidates_C[int(prm_score(np.stack(counts, axis=-1)).argmax())])


def _step_f1(counts_K: np.ndarray) -> np.ndarray:
    """F1 = 2 TP / (2 TP + FP + FN) in percent from [..., (TP, FP, TN, FN, ...)]."""
    hits, false_hits, misses = counts_K[..., 0], counts_K[..., 1], counts_K[..., 3]
    return 100 * _share(2 * hits, 2 * hits + false_hits + misses)


# ------------------------------------------------------------------------------ thresholds, resampling


def candidate_thresholds(scores: Scores) -> np.ndarray:
    """float64 [C], increasing: below all step scores, midway between neighbouring ones, above all. UserError without any."""
    found = [np.asarray(s, dtype=np.float64) for s in scores if s is not None and usable(s)]
    if not found:
        raise UserError("no scores to tune a threshold on", len(scores), "use --threshold fixed:VALUE")
    distinct = np.unique(np.concatenate(found))
    middles = np.unique(distinct[:-1] / 2 + distinct[1:] / 2)
    return np.concatenate([[distinct[0] - 1.0], middles, [distinct[-1] + 1.0]])


def fold_of(clusters: Sequence[Hashable], folds: int, seed: int = 0) -> np.ndarray:
    """int64 [N]: a fold for each solution; clusters stay whole and are dealt out evenly in a seeded order.

    UserError for fewer than two clusters: nothing would be left to tune on.
    """
    distinct = list(dict.fromkeys(clusters))
    if len(distinct) < 2:
        raise UserError("a threshold cannot be tuned and tested on one problem", len(distinct), "use --threshold fixed:VALUE")
    order = stream(seed, "judge-folds").permutation(len(distinct))
    place = {cluster: int(order[i]) % min(folds, len(distinct)) for i, cluster in enumerate(distinct)}
    return np.array([place[cluster] for cluster in clusters], dtype=np.int64)


def resampled(
    counts: Sequence[tuple[int, ...]],
    clusters: Sequence[Hashable],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int = 0,
    name: str = "",
) -> np.ndarray:
    """float64 [R]: `statistic` of the summed counts when whole clusters (problems) are drawn with replacement."""
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    sums_PK = np.zeros((len(index), len(counts[0])))
    np.add.at(sums_PK, [index[cluster] for cluster in clusters], np.asarray(counts, dtype=np.float64))
    drawn_RP = stream(seed, "judge-bootstrap", name).multinomial(len(index), np.full(len(index), 1 / len(index)), RESAMPLES)
    return statistic(drawn_RP @ sums_PK)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def _harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _share(2 * a * b, a + b)
