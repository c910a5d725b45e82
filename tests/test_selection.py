"""Best-of-N by hand: what is chosen, ties, samples without scores, and majority beside it."""

from __future__ import annotations

import numpy as np
import pytest

from repirl.evals.selection import Draw, selection


def draws(problem: str, *given: tuple[int | None, str | None, bool]) -> list[Draw]:
    return [Draw(problem, *one) for one in given]


def test_the_highest_lowest_step_is_chosen() -> None:
    """p: lowest step takes solution 1 (right), the mean takes 0 (wrong); two wrong `7` outvote the right `5`."""
    scores = [np.array([0.9, 0.1]), np.array([0.4, 0.4]), np.array([0.3, 0.2])]
    given = draws("p", (0, "7", False), (1, "5", True), (2, "7", False))
    found = selection(given, scores)
    assert found is not None
    assert (found.problems, found.samples) == (1, 3)
    assert found.lowest_step.value == 1
    assert found.mean_step.value == 0
    assert found.majority.value == 0
    assert found.sampled.value == pytest.approx(1 / 3)
    assert found.any_right.value == 1
    assert found.over_majority.value == 1


def test_ties_are_shared_and_cut_off_samples_are_not_chosen() -> None:
    """p: two equal scores, one right: 1/2. q: the right one has no scores: the wrong one. r: none has any: chance."""
    scores = [np.array([0.5]), np.array([0.5]), np.array([0.1]), np.array([np.nan]), None]
    given = [
        *draws("p", (0, "1", True), (1, "2", False)),
        *draws("q", (2, "1", False), (None, "3", True)),
        *draws("r", (3, "1", True), (4, "2", False)),
    ]
    found = selection(given, scores)
    assert found is not None
    assert found.lowest_step.value == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert found.majority.value == pytest.approx(0.5)


def test_there_is_nothing_to_choose_from_one_sample() -> None:
    assert selection([], []) is None
    assert selection(draws("p", (0, "1", True)), [np.array([1.0])]) is None
