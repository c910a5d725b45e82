"""What k of a problem's n samples give: which subsets there are, the best of one by a score, and what one votes for.

All are expectations over the subsets of size k, never the first k, which would depend on the order of the samples.
Shapes: n samples of a problem, A different answers, W ways of weighing votes, S subsets.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt

SAME = 1e-9
"""Sums of weights that differ by less, relative to the largest, are a tie: the order of adding does not decide."""


def subset_indices(n: int, k: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [S, k]: all subsets of size k where there are at most `limit`, else so many drawn with `rng`; each ascending."""
    if math.comb(n, k) <= limit:
        return np.array(list(combinations(range(n), k)), dtype=np.int64)
    return np.array([sorted(rng.permutation(n)[:k].tolist()) for _ in range(limit)], dtype=np.int64)


def best_of_k(scores: npt.ArrayLike, values: npt.ArrayLike, k: int) -> float:
    """Expected value of the sample with the highest score among k of the n; the mean over equally good ones. Closed form.

    The best of a random subset has a score of at most s with probability C(#{scores <= s}, k) / C(n, k). A score of NaN is
    below every other. With the values as scores this is pass@k; with equal scores, the mean.
    """
    scores_n = np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    values_n = np.asarray(values, dtype=np.float64)
    n = len(scores_n)
    if not 1 <= k <= n or values_n.shape != scores_n.shape:
        raise ValueError(f"best of {k} among {n} scores of {len(values_n)} values")
    expected, below, subsets = 0.0, 0, math.comb(n, k)
    for score in np.unique(scores_n):
        at = scores_n == score
        upto = below + int(at.sum())
        expected += (math.comb(upto, k) - math.comb(below, k)) / subsets * float(values_n[at].mean())
        below = upto
    return expected


def vote_of_k(answers: npt.ArrayLike, right: npt.ArrayLike, weights: npt.ArrayLike, subsets_Sk: np.ndarray) -> np.ndarray:
    """float64 [W]: mean over the subsets of how right the answer is whose votes weigh most; tied ones share.

    `answers` int [n]: which of the A answers a sample votes for, -1: it does not vote. `right` [A] is how right each is,
    `weights` [W, n] what a sample's vote counts, 0 or more. A subset without a vote counts 0; where no vote weighs anything all
    that are voted for are tied.
    """
    answers_n, right_A = np.asarray(answers), np.asarray(right, dtype=np.float64)
    weights_Wn = np.asarray(weights, dtype=np.float64)
    if (weights_Wn < 0).any() or np.isnan(weights_Wn).any():
        raise ValueError("weights of votes must be 0 or more")
    if not len(right_A):
        return np.zeros(len(weights_Wn))
    member_Sn = np.zeros((len(subsets_Sk), len(answers_n)))
    np.put_along_axis(member_Sn, subsets_Sk, 1.0, axis=1)
    votes_nA = (answers_n[:, None] == np.arange(len(right_A))).astype(np.float64)
    voted_SA = member_Sn @ votes_nA > 0
    sums_WSA = np.einsum("sn,wn,na->wsa", member_Sn, weights_Wn, votes_nA, optimize=True)
    sums_WSA = np.where(voted_SA, sums_WSA, -1.0)
    most_WS = sums_WSA.max(axis=2, keepdims=True)
    winners_WSA = (sums_WSA >= most_WS - SAME * np.abs(most_WS)) & voted_SA
    counts_WS = winners_WSA.sum(axis=2)
    rights_WS = (winners_WSA * right_A).sum(axis=2) / np.maximum(counts_WS, 1)
    return rights_WS.mean(axis=1)
