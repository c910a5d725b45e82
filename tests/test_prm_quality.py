"""Metrics of step scores: closed forms, ends of the scale, and tuning against trying every threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repirl.errors import UserError
from repirl.evals import prm_quality as quality
from repirl.paths import content_dir
from repirl.rng import stream

# ------------------------------------------------------------------------------------- ProcessBench's F1


def test_accuracies_of_50_and_100_make_an_f1_of_66_67():
    found = quality.first_error_quality([0, 1, -1, -1], [0, 2, -1, -1])
    assert (found.acc_error, found.acc_correct) == (50.0, 100.0)
    assert found.f1 == pytest.approx(66.67, abs=0.005)
    assert (found.num_error, found.num_correct, found.undefined) == (2, 2, ())


def test_the_exact_index_counts_and_unparseable_is_wrong_in_both_groups():
    perfect = quality.first_error_quality([3, -1], [3, -1])
    assert perfect.f1 == 100
    assert quality.first_error_quality([2, -1], [3, -1]).f1 == 0
    broken = quality.first_error_quality([quality.UNPARSEABLE] * 2 + [3, -1], [3, -1, 3, -1])
    assert (broken.acc_error, broken.acc_correct, broken.num_unparseable) == (50, 50, 2)


def test_zero_by_zero_is_zero_and_flagged():
    assert quality.first_error_quality([-1], [-1]).undefined == ("acc_error",)
    assert quality.first_error_quality([-1], [-1]).f1 == 0
    neither = quality.first_error_quality([0, 0], [1, -1])
    assert (neither.f1, neither.undefined) == (0, ("f1",))
    for bad in (([], []), ([0], [0, 0]), ([0], [-2])):
        with pytest.raises(UserError):
            quality.first_error_quality(*bad)


def test_prediction_is_the_first_step_below_the_threshold_and_equal_is_right():
    scores = np.array([0.9, 0.5, 0.1])
    assert quality.first_error_prediction(scores, 0.5) == 2
    assert quality.first_error_prediction(scores, 0.6) == 1
    assert quality.first_error_prediction(scores, 0.1) == -1
    for nothing in (None, np.array([]), np.array([0.9, np.nan])):
        assert quality.first_error_prediction(nothing, 0.5) == quality.UNPARSEABLE


def random_scores(seed: int, n: int = 30) -> tuple[list[np.ndarray], list[int]]:
    rng = stream(seed, "test-judge")
    scores = [np.round(rng.standard_normal(int(rng.integers(1, 7))), 1) for _ in range(n)]
    return scores, [int(rng.integers(-1, len(s))) for s in scores]


@pytest.mark.parametrize("seed", range(5))
def test_the_tuned_threshold_is_the_best_of_all(seed: int):
    """Against trying every candidate one by one, rounded scores giving many ties."""
    scores, labels = random_scores(seed)

    def f1(threshold: float) -> float:
        predictions = [quality.first_error_prediction(s, threshold) for s in scores]
        return quality.first_error_quality(predictions, labels).f1

    tuned = quality.tune_first_error(scores, labels)
    candidates = quality.candidate_thresholds(scores)
    assert f1(tuned) == pytest.approx(max(f1(c) for c in candidates))
    assert tuned == next(c for c in candidates if f1(c) == pytest.approx(f1(tuned)))
    # Nothing beside the candidates is better: thresholds on the scores themselves only tell equal ones otherwise.
    assert f1(tuned) >= max(f1(t) for t in np.linspace(-4, 4, 161)) - 1e-9


def test_a_separating_score_is_tuned_to_100_and_its_negative_is_not():
    labels = [0, 2, -1, 1, -1]
    scores = [np.array([1.0 if label < 0 or i < label else -1.0 for i in range(4)]) for label in labels]
    threshold = quality.tune_first_error(scores, labels)
    assert threshold == 0
    assert quality.first_error_quality([quality.first_error_prediction(s, threshold) for s in scores], labels).f1 == 100
    flipped = [-s for s in scores]
    threshold = quality.tune_first_error(flipped, labels)
    assert quality.first_error_quality([quality.first_error_prediction(s, threshold) for s in flipped], labels).f1 < 50


def test_a_constant_score_gets_an_f1_of_0_whatever_the_threshold():
    scores, labels = [np.ones(3)] * 4, [0, 2, -1, -1]
    for threshold in (quality.tune_first_error(scores, labels), 1.0, 1.5):
        predictions = [quality.first_error_prediction(s, threshold) for s in scores]
        found = quality.first_error_quality(predictions, labels)
        assert found.f1 == 0
        assert (found.acc_error, found.acc_correct) in {(0, 100), (50, 0)}


def test_solutions_without_scores_do_not_tune():
    with pytest.raises(UserError, match="fixed:VALUE"):
        quality.tune_first_error([None, np.array([np.nan])], [0, -1])
    assert quality.tune_first_error([None, np.array([1.0, 0.0]), np.array([1.0])], [0, 1, -1]) == 0.5


# --------------------------------------------------------------------------------------------- PRMBench


def test_step_scores_by_hand():
    """4 right steps of which 3 are called right, 2 wrong ones of which 1 is called wrong (not the first)."""
    right = np.array([True, True, False, True, False, True])
    called = quality.called_right(np.array([0.9, 0.8, 0.7, 0.5, 0.2, 0.6]), 0.5)
    counts = quality.step_counts(called, right)
    assert counts == (3, 1, 1, 1, 0, 1)  # the score of 0.5 is not above 0.5
    found = quality.step_quality([counts])
    assert found.f1 == pytest.approx(100 * 2 * 3 / (2 * 3 + 1 + 1))
    assert found.negative_f1 == pytest.approx(100 * 2 * 1 / (2 * 1 + 1 + 1))
    assert found.prm_score == pytest.approx((found.f1 + found.negative_f1) / 2)
    assert (found.acc_right_steps, found.acc_wrong_steps, found.first_error_acc) == (75, 50, 0)
    assert (found.num_right_steps, found.num_wrong_steps, found.undefined) == (4, 2, ())


def test_step_scores_at_the_ends_of_the_scale():
    right = np.array([True, False])
    assert quality.step_quality([quality.step_counts(right, right)]).prm_score == 100
    for called in (~right, None):  # all wrong, or no scores at all
        found = quality.step_quality([quality.step_counts(called, right)])
        assert (found.prm_score, found.first_error_acc) == (0, 0)
    flawless = quality.step_quality([quality.step_counts(np.array([True]), np.array([True]))])
    assert (flawless.f1, flawless.negative_f1) == (100, 0)
    assert flawless.undefined == ("negative_f1", "acc_wrong_steps", "first_error_acc", "prm_score")


@pytest.mark.parametrize("seed", range(3))
def test_the_tuned_prm_score_is_the_best_of_all(seed: int):
    scores, _ = random_scores(seed)
    rng = stream(seed, "test-labels")
    right = [rng.random(len(s)) < 0.7 for s in scores]

    def score(threshold: float) -> float:
        counts = [quality.step_counts(quality.called_right(s, threshold), r) for s, r in zip(scores, right, strict=True)]
        return quality.step_quality(counts).prm_score

    tuned = quality.tune_prm_score(scores, right)
    assert score(tuned) == pytest.approx(max(score(c) for c in quality.candidate_thresholds(scores)))


# ------------------------------------------------------------------------------------- folds, intervals


def test_folds_keep_problems_together():
    clusters = ["a", "b", "a", "c", "b", "d", "e", "f", "g"]
    folds = quality.fold_of(clusters, 3)
    assert folds[0] == folds[2]
    assert folds[1] == folds[4]
    sizes = [len({c for c, f in zip(clusters, folds, strict=True) if f == fold}) for fold in range(3)]
    assert sorted(sizes) == [2, 2, 3]
    with pytest.raises(UserError, match="one problem"):
        quality.fold_of(["a", "a"], 3)


def test_intervals_resample_problems():
    counts = [quality.first_error_counts(p, y) for p, y in [(0, 0), (1, 0), (-1, -1), (0, -1)] * 25]
    alone = quality.resampled(counts, list(range(100)), quality.first_error_f1)
    assert alone.mean() == pytest.approx(50, abs=2)
    together = quality.resampled(counts, [i // 4 for i in range(100)], quality.first_error_f1)
    assert together.std() == pytest.approx(0)  # all clusters are alike
    assert 0 < alone.std() < 15


def test_metric_module_loads_offline_and_agrees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    import evaluate

    metric = evaluate.load(str(content_dir("benchmarks") / "metrics" / "processbench_f1"), cache_dir=str(tmp_path))
    found = metric.compute(predictions=[0, 1, -1, -1], references=[0, 2, -1, -1])
    assert found["f1"] == pytest.approx(200 / 3)
    assert (found["acc_error"], found["acc_correct"], found["undefined"]) == (50, 100, [])
    # The unweighted mean over subsets, whatever their sizes.
    both = metric.compute(predictions=[0, -1, 0, 0, -2], references=[0, -1, 1, 1, -1], subsets=["a", "a", "b", "b", "b"])
    assert (both["f1"], both["a/f1"], both["b/f1"], both["undefined"]) == (50, 100, 0, ["b/f1"])
