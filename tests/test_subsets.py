"""What k of n samples give: the closed forms against all subsets, one by one."""

from itertools import combinations

import numpy as np
import pytest

from repirl import stats
from repirl.subsets import best_of_k, subset_indices, vote_of_k


def enumerated_best(scores: np.ndarray, values: np.ndarray, k: int) -> float:
    found = []
    for subset in combinations(range(len(scores)), k):
        own = scores[list(subset)]
        found.append(values[list(subset)][own == own.max()].mean())
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(10))
def test_the_best_of_k_is_the_mean_over_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    values = rng.integers(0, 2, n).astype(float)
    distinct = rng.permutation(n).astype(float)
    for k in range(1, n + 1):
        assert best_of_k(distinct, values, k) == pytest.approx(enumerated_best(distinct, values, k))


def test_tied_scores_share_what_they_are_worth() -> None:
    # By hand: the subsets {0,1}, {0,2}, {1,2} of scores 1, 1, 0: the best is 0 or 1 alike, 0, 1.
    assert best_of_k([1, 1, 0], [1, 0, 0], 2) == pytest.approx((0.5 + 1 + 0) / 3)
    assert best_of_k([3, 3, 3, 3], [1, 0, 0, 0], 3) == pytest.approx(0.25)


def test_with_the_truth_as_score_it_is_pass_at_k() -> None:
    for n, c, k in [(10, 3, 1), (10, 3, 5), (4, 1, 2), (7, 0, 3)]:
        right = np.arange(n) < c
        assert best_of_k(right, right, k) == pytest.approx(stats.pass_at_k(n, c, k)[0])
        assert best_of_k(-right.astype(float), right, n) == float(c == n)


def test_a_sample_without_a_score_is_taken_last() -> None:
    assert best_of_k([np.nan, -5.0], [1, 0], 2) == 0.0
    assert best_of_k([np.nan, np.nan], [1, 0], 2) == 0.5


def test_numbers_that_do_not_fit_are_refused() -> None:
    for k in (0, 3):
        with pytest.raises(ValueError, match="best of"):
            best_of_k([1, 2], [1, 0], k)


@pytest.mark.parametrize("seed", range(6))
def test_votes_of_weight_one_are_maj_at_k(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = 9, int(rng.integers(1, 10))
    codes = rng.integers(-1, 4, n)
    right = np.array([1.0, 0.0, 0.0, 0.0])
    correct = [float(code == 0) for code in codes]
    votes = [None if code < 0 else int(code) for code in codes]
    subsets = subset_indices(n, k, 1000, np.random.default_rng(0))
    found = vote_of_k(codes, right, np.ones((1, n)), subsets)
    assert found == pytest.approx(stats.maj_at_k(votes, correct, k, subsets=1000))


def test_weights_decide_and_equal_sums_share() -> None:
    whole = np.array([[0, 1, 2]])
    weights = np.array([[1, 1, 1], [0.1, 0.1, 0.9], [0.1, 0.2, 0.3], [0, 0, 0]])
    # Two vote for a wrong answer, one for the right one; 0.1 + 0.2 and 0.3 are equal but for rounding.
    found = vote_of_k([0, 0, 1], [0.0, 1.0], weights, whole)
    assert found.tolist() == [0.0, 1.0, 0.5, 0.5]


def test_silence_does_not_vote() -> None:
    assert vote_of_k([-1, -1, 0], [1.0], np.ones((1, 3)), np.array([[0, 1, 2]])).tolist() == [1.0]
    assert vote_of_k([-1, -1, 0], [1.0], np.ones((1, 3)), np.array([[0, 1]])).tolist() == [0.0]
    assert vote_of_k([-1], [], np.ones((2, 1)), np.array([[0]])).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="0 or more"):
        vote_of_k([0], [1.0], [[-1.0]], np.array([[0]]))


def test_all_subsets_or_so_many_seeded_ones() -> None:
    rng = np.random.default_rng(0)
    assert subset_indices(4, 2, 6, rng).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    drawn = subset_indices(30, 7, 50, rng)
    assert drawn.shape == (50, 7)
    assert all(len(set(row)) == 7 and row == sorted(row) for row in drawn.tolist())
