"""Statistics: closed forms, coverage, and the meaning of a metric's name."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from repirl import separation, stats
from repirl.errors import UserError
from repirl.evals.metrics import part_of, problem_values
from repirl.types import Outcome, SampleRow


def row(problem: str, index: int, outcome: Outcome, extracted: str | None = None) -> SampleRow:
    return SampleRow(problem, index, outcome, "", extracted, 3, "text")


# ---------------------------------------------------------------- pass@k, maj@k


@pytest.mark.parametrize(("n", "c", "k", "expected"), [(10, 3, 1, 0.3), (10, 3, 5, 11 / 12), (4, 1, 2, 0.5)])
def test_pass_at_k_oracles(n: int, c: int, k: int, expected: float) -> None:
    assert stats.pass_at_k(n, c, k)[0] == pytest.approx(expected)


def test_pass_at_k_equals_counting_subsets() -> None:
    for n, c, k in [(6, 0, 3), (6, 2, 3), (6, 4, 3), (6, 6, 6)]:
        outcomes = [1] * c + [0] * (n - c)
        hits = [any(outcomes[i] for i in chosen) for chosen in combinations(range(n), k)]
        assert stats.pass_at_k([n], [c], k)[0] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_the_impossible(n: int, c: int, k: int) -> None:
    with pytest.raises(UserError):
        stats.pass_at_k(n, c, k)


def test_majority_beats_the_mean_and_ties_are_split() -> None:
    assert stats.maj_at_k(["7", "7", "8"], [1, 1, 0], 3) == 1.0
    assert stats.maj_at_k(["7", "8"], [1, 0], 2) == 0.5
    assert stats.maj_at_k(["7", "8", "9"], [1, 0, 0], 3) == pytest.approx(1 / 3)
    assert stats.maj_at_k(["7", None, None], [1, 0, 0], 3) == 1.0  # silence does not vote
    assert stats.maj_at_k([None, None], [0, 0], 2) == 0.0


def test_majority_over_all_subsets_by_hand() -> None:
    # Subsets of 2 of (7 right, 7 right, 8 wrong): {7,7} -> 1, {7,8} twice -> 1/2.
    assert stats.maj_at_k(["7", "7", "8"], [1, 1, 0], 2) == pytest.approx(2 / 3)
    assert stats.maj_at_k(["7", "7", "8"], [1, 1, 0], 1) == pytest.approx(2 / 3)


def test_majority_over_random_subsets_is_seeded_and_close_to_exact() -> None:
    answers, correct = ["a"] * 7 + ["b"] * 9, [1.0] * 7 + [0.0] * 9
    exact = stats.maj_at_k(answers, correct, 5, subsets=10_000)
    drawn = [stats.maj_at_k(answers, correct, 5, subsets=400, seed=s) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(exact, abs=0.08)


def test_majority_ignores_sample_order() -> None:
    answers, correct = ["a", "b", "a", "c", "b", "a"], [0, 1, 0, 0, 1, 0]
    forward = stats.maj_at_k(answers, correct, 3)
    assert forward == pytest.approx(stats.maj_at_k(answers[::-1], correct[::-1], 3))


def test_majority_won_by_an_ungraded_answer_is_not_wrong() -> None:
    assert math.isnan(stats.maj_at_k(["a", "a", "b"], [math.nan, math.nan, 0.0], 3))


# ------------------------------------------------------------------ intervals


def test_interval_of_a_constant_is_a_point() -> None:
    interval = stats.clustered_interval([[0.5, 0.5], [0.5, 0.5]])
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_none_of_fifty_is_not_proof_of_zero() -> None:
    none = stats.clustered_interval([[0.0]] * 50)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.0711, abs=1e-4)  # Clopper-Pearson for 0 of 50
    every = stats.clustered_interval([[1.0]] * 50)
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - 0.0711, abs=1e-4)


def test_clustered_interval_matches_the_standard_error_over_problems() -> None:
    values = np.random.default_rng(0).random((400, 1))
    interval = stats.clustered_interval(values, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_repeating_a_sample_does_not_narrow_the_interval() -> None:
    once = stats.clustered_interval([[1], [0], [1], [0], [1]])
    often = stats.clustered_interval([[1] * 50, [0] * 50, [1] * 50, [0] * 50, [1] * 50])
    assert (once.low, once.high) == (often.low, often.high)


def test_interval_is_seeded_and_problems_weigh_the_same() -> None:
    samples = [[1.0, 0.0], [1.0], [0.0, 0.0, 0.0], [1.0]]
    assert stats.clustered_interval(samples).value == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    values = np.random.default_rng(5).random((50, 2))
    first, again, other = (stats.clustered_interval(values, seed=s, resamples=500) for s in (3, 3, 4))
    assert first == again
    assert first.low != other.low


def test_ungraded_is_left_out_not_counted_as_wrong() -> None:
    assert stats.clustered_interval([[1.0, math.nan], [1.0]]).value == 1.0
    assert stats.clustered_interval([[math.nan], [1.0], [0.0]]).value == 0.5
    with pytest.raises(UserError, match="measured"):
        stats.clustered_interval([[math.nan], [math.nan]])
    with pytest.raises(UserError, match="no values"):
        stats.clustered_interval([])


def test_seeds_widen_the_interval_only_from_three_on() -> None:
    problems = np.tile(np.array([0.0, 1.0] * 100), (3, 1))
    spread = problems + np.array([[-0.2], [0.0], [0.2]])
    same, apart = stats.seeded_interval(problems), stats.seeded_interval(spread)
    assert apart.value == pytest.approx(same.value)
    width = lambda interval: interval.high - interval.low
    assert width(apart) > 1.8 * width(same)
    two = stats.seeded_interval(spread[[0, 2]])
    assert width(two) == pytest.approx(width(stats.seeded_interval(problems[:2])))


def test_spread_between_seeds_has_the_unbiased_size() -> None:
    # Problems alike, seeds differ: the variance of the mean of S seeds is s^2 / S with the S - 1 denominator.
    offsets = np.array([0.1, 0.4, 0.2, 0.7, 0.5])
    grid = np.repeat(offsets[:, None], 10, axis=1)
    interval = stats.seeded_interval(grid, level=0.6827, resamples=20_000)
    assert (interval.high - interval.low) / 2 == pytest.approx(offsets.std(ddof=1) / math.sqrt(5), rel=0.08)


def test_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(150):
        chance = rng.beta(0.6, 0.9, size=120)
        samples = rng.binomial(4, chance)[:, None] / 4
        interval = stats.clustered_interval(samples, seed=trial, resamples=300)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.4 <= interval.high
    assert 0.88 <= hits / 150 <= 0.99


def test_pairing_cancels_what_makes_a_problem_hard() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(200)
    a, b = hard + 0.03 + rng.normal(0, 0.02, 200), hard
    paired = stats.paired_difference(a, b)
    assert paired.interval.low is not None
    assert 0.02 < paired.interval.low < paired.interval.value < 0.04
    assert paired.p_value < 0.01
    assert (paired.problems, paired.seeds) == (200, 1)
    alone = stats.clustered_interval(a[:, None])
    assert paired.interval.high - paired.interval.low < 0.1 * (alone.high - alone.low)


def test_paired_difference_changes_sign_and_knows_equality() -> None:
    a, b = np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 0])
    forth, back = stats.paired_difference(a, b), stats.paired_difference(b, a)
    assert forth.interval.value == 0.5 == -back.interval.value
    assert stats.paired_difference(a, a).p_value == 1.0
    with pytest.raises(UserError, match="same seeds and problems"):
        stats.paired_difference(a, b[:2])


def test_paired_difference_p_value_is_uniform_enough_under_the_null() -> None:
    rng = np.random.default_rng(3)
    small = sum(stats.paired_difference(*rng.random((2, 60)), seed=t, resamples=300).p_value < 0.1 for t in range(200))
    assert 8 <= small <= 40  # 20 expected


def test_paired_difference_over_matched_seeds_sees_the_seeds() -> None:
    base = np.tile(np.linspace(0, 1, 50), (5, 1))
    steady = stats.paired_difference(base + 0.1, base)
    shaky = stats.paired_difference(base + np.array([[-0.3], [0.5], [0.1], [-0.2], [0.4]]), base)
    assert steady.interval.value == pytest.approx(shaky.interval.value)
    assert steady.p_value < 0.01 < 0.2 < shaky.p_value
    assert shaky.seeds == 5


# --------------------------------------------------------- separation, weights


def test_auc_closed_forms() -> None:
    assert separation.auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0
    assert separation.auc([1, 2, 3, 4], [1, 1, 0, 0]) == 0.0
    assert separation.auc([5, 5, 5], [1, 0, 1]) == 0.5
    assert separation.auc([1, 2, 2, 3], [0, 1, 0, 1]) == pytest.approx(3.5 / 4)
    assert separation.auc([1, 2], [1, 1]) is None
    assert math.isnan(separation.auc([1, math.nan, 2], [1, 0, 0]))  # one score could not be measured


def test_grouped_auc_ignores_differences_between_prompts() -> None:
    scores, labels, groups = [10, 11, 1, 2, 7], [1, 0, 1, 0, 1], ["a", "a", "b", "b", "c"]
    assert separation.grouped_auc(scores, labels, groups) == 0.0
    assert separation.auc([10, 11, 1, 2], [1, 1, 0, 0]) == 1.0
    assert separation.grouped_auc([1], [1], ["a"]) is None


def test_correlations() -> None:
    assert separation.pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)
    assert separation.pearson([1, 1], [1, 2]) is None
    assert separation.pearson([1], [1]) is None


# --------------------------------------------------------------- metric names


def test_metric_names_mean_what_they_say() -> None:
    rows = [row("p", 0, "correct", "4"), row("p", 1, "wrong", "5"), row("p", 2, "correct", "4")]
    rows += [row("q", 0, "truncated"), row("q", 1, "wrong", "1"), row("q", 2, "wrong", "1")]
    assert problem_values("avg@3", rows) == {"p": pytest.approx(2 / 3), "q": 0.0}
    assert problem_values("pass@2", rows) == {"p": 1.0, "q": 0.0}
    assert problem_values("maj@3", rows) == {"p": 1.0, "q": 0.0}
    with pytest.raises(UserError, match="avg@8"):
        problem_values("avg@8", rows)
    with pytest.raises(UserError, match="unknown metric"):
        problem_values("best@3", rows)


def test_metric_masks_ungraded() -> None:
    rows = [row("p", 0, "correct"), row("p", 1, "ungraded"), row("q", 0, "ungraded"), row("q", 1, "ungraded")]
    values = problem_values("avg@2", rows)
    assert values["p"] == 1.0
    assert math.isnan(values["q"])
    assert math.isnan(problem_values("pass@2", rows)["p"])


def test_metric_part() -> None:
    samples = {"greedy": (), "sampled": ()}
    assert part_of("greedy", samples) == "greedy"
    assert part_of("avg@8", samples) == "sampled"
    assert part_of("avg@8", {"greedy": (), "t0.8": ()}) == "t0.8"
    assert part_of("f1", samples) is None
