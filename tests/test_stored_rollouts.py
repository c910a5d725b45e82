"""Graded rollouts in a file: what is written is read again, a user's short form is enough, and what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from repirl.errors import UserError
from repirl.rollouts.stored import read_groups, write_groups
from repirl.tasks import arith
from repirl.types import RolloutGroup, Verdict


@pytest.fixture
def groups(make_rollout) -> list[RolloutGroup]:
    made = []
    for problem in arith.problems("train", 3, levels=(2,), seed=5):
        texts = [arith.solution(problem.source, "plain"), "\\boxed{0}", "?"]
        rollouts = tuple(make_rollout(problem.prompt, text, problem_id=problem.id, index=i) for i, text in enumerate(texts))
        verdicts = (Verdict("correct"), Verdict("wrong", score=0.25), Verdict("ungraded", "timeout"))
        made.append(RolloutGroup(problem, rollouts, verdicts, tuple(arith.demonstrations(problem, 2))))
    return made


def test_what_is_written_is_read_again(groups, tokenizer, tmp_path) -> None:
    write_groups(tmp_path / "pool.jsonl", groups)
    again = read_groups(tmp_path / "pool.jsonl", tokenizer)
    for before, after in zip(groups, again, strict=True):
        assert (after.problem.id, after.problem.family, after.problem.source) == (
            before.problem.id,
            before.problem.family,
            before.problem.source,
        )
        assert [v.outcome for v in after.verdicts] == ["correct", "wrong", "ungraded"]
        assert [v.score for v in after.verdicts] == [None, 0.25, None]
        assert [d.text for d in after.demonstrations] == [d.text for d in before.demonstrations]
        for a, b in zip(before.rollouts, after.rollouts, strict=True):
            assert (a.text, a.prompt_ids, a.finish_reason, a.temperature) == (
                b.text,
                b.prompt_ids,
                b.finish_reason,
                b.temperature,
            )
            assert np.array_equal(a.token_ids, b.token_ids)
            assert np.array_equal(a.logprobs, b.logprobs)


def test_prompts_texts_and_rewards_are_enough(groups, tokenizer, tmp_path) -> None:
    first = groups[0]
    row = {
        "prompt": first.problem.prompt,
        "completions": [{"text": r.text, "reward": x} for r, x in zip(first.rollouts, (1, 0, None), strict=True)],
    }
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (group,) = read_groups(path, tokenizer)
    assert [v.reward for v in group.verdicts][:2] == [1.0, 0.0]
    for mine, theirs in zip(group.rollouts, first.rollouts, strict=True):
        assert mine.token_ids.tolist() == theirs.token_ids.tolist()
        assert np.isnan(mine.logprobs).all()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"completions": [{"text": "x", "reward": 1}]}, "line 1 of bad.jsonl lacks the text field: prompt"),
        ({"prompt": "p"}, "line 1 of bad.jsonl lacks the field: completions"),
        ({"prompt": "p", "completions": []}, "lacks the field: completions"),
        ({"prompt": "p", "completions": [{"reward": 1}]}, "completion 1 in line 1 of bad.jsonl lacks the text field: text"),
        ({"prompt": "p", "completions": [{"text": "x", "reward": 0.5}]}, "is not 1, 0 or null: 0.5"),
        ({"prompt": "p", "completions": [{"text": "x"}]}, "is not 1, 0 or null"),
        ({"prompt": "p", "completions": [{"text": "x", "reward": True}]}, "is not 1, 0 or null: True"),
        ({"prompt": "p", "completions": [{"text": "x", "reward": 1, "token_ids": [10**9]}]}, "are not tokens of this policy"),
        (
            {"prompt": "p", "completions": [{"text": "x", "reward": 1, "token_ids": [5, 6], "logprobs": [0.0]}]},
            "are not one number for each token",
        ),
        ({"prompt": "p", "completions": [{"text": "x", "reward": 1, "temperature": "hot"}]}, "is not a number above 0: hot"),
        ({"prompt": "p", "completions": [{"text": "x", "reward": 0, "score": 1.5}]}, "is not a share from 0 to 1: 1.5"),
        ({"prompt": "p", "demonstrations": "x", "completions": [{"text": "x", "reward": 1}]}, "is not a list of texts"),
    ],
)
def test_what_is_wrong_is_named(row, says, tokenizer, tmp_path) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError) as error:
        read_groups(tmp_path / "bad.jsonl", tokenizer)
    assert says in str(error.value).replace("'", "")


def test_an_empty_file_is_refused(tokenizer, tmp_path) -> None:
    (tmp_path / "bad.jsonl").write_text("")
    with pytest.raises(UserError, match="no graded rollouts"):
        read_groups(tmp_path / "bad.jsonl", tokenizer)
