"""How well scores tell two classes apart, and how they go along with something else."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from repirl.errors import UserError


def auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2. Positive: label true.

    None if a class is empty, NaN if a score is.
    """
    values, positive = np.asarray(scores, float), np.asarray(labels).astype(bool)
    num_pos = int(positive.sum())
    num_neg = positive.size - num_pos
    if num_pos == 0 or num_neg == 0:
        return None
    # Imported here: it takes half a second, and most of what needs this module needs no ranks.
    from scipy.stats import rankdata

    rank_sum = rankdata(values)[positive].sum()
    return float((rank_sum - num_pos * (num_pos + 1) / 2) / (num_pos * num_neg))


def grouped_auc(scores: npt.ArrayLike, labels: npt.ArrayLike, groups: Sequence[Hashable]) -> float | None:
    """Mean over groups (rollouts of one prompt) of the AUC within it; groups with one class only are left out."""
    values, positive = np.asarray(scores, float), np.asarray(labels).astype(bool)
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    inside = [auc(values[indices], positive[indices]) for indices in members.values()]
    measured = [value for value in inside if value is not None]
    return float(np.mean(measured)) if measured else None


def pearson(x: npt.ArrayLike, y: npt.ArrayLike) -> float | None:
    """Linear correlation; None with fewer than 2 points or when either is constant."""
    first, second = np.asarray(x, float), np.asarray(y, float)
    if first.shape != second.shape:
        raise UserError("correlation needs arrays of one length", (first.shape, second.shape))
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.clip(np.corrcoef(first, second)[0, 1], -1.0, 1.0))
