"""Pools of samples in the formats of others, told by their columns."""

import json
from pathlib import Path

import pytest

from repirl.errors import UserError
from repirl.tasks.sample_pools import ORIGIN, read_pool


def written(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_search_and_learn(tmp_path: Path) -> None:
    row = {
        "unique_id": "test/1",
        "problem": "1+1?",
        "answer": "2",
        "completions": ["so 2", "so 3"],
        "scores": [[0.5, 0.25], []],
        "completion_tokens": [3, 0],
        "pred_naive@1": "\\boxed{2}",
        "pred_weighted@2": "\\boxed{3}",
        "pred": "so 2",
    }
    (one,) = read_pool(written(tmp_path / "a.jsonl", row))
    assert (one.id, one.problem, one.answer) == ("test/1", "1+1?", "2")
    assert [sample.scores[ORIGIN] for sample in one.samples] == [(0.5, 0.25), None]
    assert [sample.tokens for sample in one.samples] == [3, None]  # 0: not counted there
    assert one.chosen == {("naive", 1): "\\boxed{2}", ("weighted", 2): "\\boxed{3}"}


def test_compute_optimal_tts_and_openr(tmp_path: Path) -> None:
    def record(*paths: dict) -> dict:
        return {"question": "q", "groundtruth": "7", "result": {}, "output": list(paths)}

    path = {"path_idx": 0, "text": "a", "value": 0.5, "reward_history": [0.9, 0.5], "completion_tokens": 11}
    other = {"path_idx": 0, "text": "b", "value": 0.25, "completion_tokens": 4}
    for i, row in enumerate((record(path), record(other))):
        written(tmp_path / "question_0" / f"record_{i}.jsonl", row)
    (one,) = read_pool(tmp_path)
    assert [(s.text, s.tokens, s.scores[ORIGIN]) for s in one.samples] == [("a", 11, (0.9, 0.5)), ("b", 4, (0.25,))]


def test_a_prm_that_failed_twice_left_no_scores(tmp_path: Path) -> None:
    paths = [{"text": text, "reward_history": [0.0]} for text in "ab"]
    (one,) = read_pool(written(tmp_path / "a.jsonl", {"question": "q", "groundtruth": "7", "output": paths}))
    assert [sample.scores[ORIGIN] for sample in one.samples] == [None, None]


def test_rebase_and_qwen(tmp_path: Path) -> None:
    leaf = {"text": "x", "step_scores": [0.1, 0.2]}
    rebase = {"id": 3, "question": "q", "model_answer": [leaf], "ground_truth_answer": "5", "total_tokens": 9}
    qwen = {"idx": 0, "question": "p", "gt": "4", "code": ["y", "z"], "pred_score": [-1.5, 2]}
    first, second = read_pool(written(tmp_path / "a.jsonl", rebase, qwen))
    assert (first.id, first.answer, first.samples[0].scores[ORIGIN]) == ("3", "5", (0.1, 0.2))
    assert [sample.scores[ORIGIN] for sample in second.samples] == [(-1.5,), (2.0,)]


def test_scores_that_are_no_numbers_are_none(tmp_path: Path) -> None:
    row = {"id": "a", "answer": "1", "completions": ["x", "y"], "scores": [[0.5, None], [float("nan")]]}
    (one,) = read_pool(written(tmp_path / "a.jsonl", row))
    assert [sample.scores[ORIGIN] for sample in one.samples] == [None, None]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "a"}, "of no known pool"),
        ({"completions": ["x"]}, "has no id"),
        ({"id": "a", "completions": "x"}, "not a list of texts"),
        ({"id": "a", "completions": ["x"], "scores": [[1], [2]]}, "not one list for each completion"),
        ({"id": "a", "completions": ["x"], "scores": [["high"]]}, "not lists of numbers"),
        ({"id": "a", "completions": ["x"], "completion_tokens": [1.5]}, "not one number for each completion"),
        ({"id": "a", "completions": ["x"], "finish_reasons": []}, "not one for each completion"),
        ({"id": "a", "completions": ["x"], "finish_reasons": ["tired"]}, "use stop and length"),
        ({"question": "q", "groundtruth": "1", "output": ["x"]}, "not a list of objects"),
    ],
)
def test_what_is_no_pool_is_named(tmp_path: Path, row: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_pool(written(tmp_path / "a.jsonl", row))


def test_an_id_of_two_problems_is_refused(tmp_path: Path) -> None:
    rows = [{"id": "a", "problem": text, "completions": ["x"]} for text in "pq"]
    with pytest.raises(UserError, match="id of another problem"):
        read_pool(written(tmp_path / "a.jsonl", *rows))
    with pytest.raises(UserError, match="no problems"):
        read_pool(written(tmp_path / "b.jsonl"))
