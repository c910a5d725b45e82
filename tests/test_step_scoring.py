"""Solutions that cannot be scored cost themselves only, and are counted with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repirl.cli import main as cli
from repirl.errors import UserError
from repirl.evals import prm_quality as quality
from repirl.evals.judged_sets import JudgedSet
from repirl.evals.judging import NO_SCORES, judge
from repirl.evals.step_scoring import SPANNED, score_solutions
from repirl.evals.thresholds import ThresholdRule
from repirl.rewards.load import LoadOptions, load_reward
from repirl.tasks.step_labels import LabelledSolution, write_labelled


@pytest.fixture(scope="module")
def spanning_folder(make_policy, tmp_path_factory) -> Path:
    """A policy whose tokenizer has one token for `2` and the line ends around it."""
    from repirl.engines.tiny_model import build_tokenizer

    folder = tmp_path_factory.mktemp("spanning")
    tokenizer: Any = build_tokenizer()
    tokenizer.add_tokens(["\n2\n"])
    model: Any = make_policy(0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# The second and the last solution have a step within that token; where `2` is a part of a step, the token does not occur.
SPANNING = [
    LabelledSolution("a", "p", ("x = 1", "y", "z = 2"), (1.0, 0.0, None), cluster="a"),
    LabelledSolution("b", "p", ("x = 1", "2", "z"), (1.0, 0.0, None), cluster="b"),
    LabelledSolution("c", "p", ("x = 1", "y = 2"), (1.0, 1.0), cluster="c"),
    LabelledSolution("d", "p", ("1", "2", "3"), (1.0, 1.0, 1.0), cluster="d"),
]


@pytest.mark.parametrize("kind", ["random", "length", "constant"])
def test_a_token_that_spans_a_separator_costs_its_solution_only(kind: str, spanning_folder):
    loaded = load_reward(kind, LoadOptions(policy=str(spanning_folder)))
    scored = score_solutions(loaded, SPANNING)
    assert [one.reason for one in scored] == ["", SPANNED, "", SPANNED]
    for alone, solution in ((0, SPANNING[0]), (2, SPANNING[2])):
        (expected,) = score_solutions(loaded, [solution])
        assert np.array_equal(scored[alone].scores, expected.scores)  # type: ignore[arg-type]
        assert len(scored[alone].step_tokens) == len(solution.steps)
    judged = JudgedSet("file", "first_error", tuple(SPANNING), "\n")
    for rule in (ThresholdRule("fixed", -100.0), ThresholdRule("tuned")):
        found = judge(loaded, judged, rule, nulls=False).judged
        assert found.unscored == {SPANNED: 2}
        assert [row.scores is None for row in found.rows] == [False, True, False, True]
        assert [row.predicted_first_error == quality.UNPARSEABLE for row in found.rows] == [False, True, False, True]
    steps = replace(judged, kind="steps")
    assert judge(loaded, steps, ThresholdRule("fixed", 0.0), nulls=False).judged.num_unscored == 2
    with pytest.raises(UserError, match="no solution can be scored: 'a token spans two steps'"):
        score_solutions(loaded, [SPANNING[1], SPANNING[3]])


def test_scores_that_are_no_numbers_are_counted(policy_folder):
    loaded = load_reward("random", LoadOptions(policy=str(policy_folder)))
    right, broken = loaded.reward.score, SPANNING[2].id

    def score(groups):
        return [
            [replace(s, step_rewards=np.where(g.problem.id == broken, np.nan, s.step_rewards)) for s in group]
            for g, group in zip(groups, right(groups), strict=True)
        ]

    loaded.reward.score = score  # type: ignore[method-assign]
    judged = JudgedSet("file", "first_error", tuple(SPANNING), "\n")
    found = judge(loaded, judged, ThresholdRule("fixed", 0.0), nulls=False).judged
    assert found.unscored == {NO_SCORES: 1}
    assert [row.id for row in found.rows if row.predicted_first_error == quality.UNPARSEABLE] == [broken]


def test_judge_says_what_was_not_scored_and_why(spanning_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "steps.jsonl"
    # Where a blank line separates steps, no token does it: the reward's own separator decides.
    write_labelled(file, SPANNING, "processbench")
    verb = ["judge", "length", str(file), "--policy", str(spanning_folder), "--threshold", "fixed:0", "--no-nulls"]
    assert cli.run([*verb, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["sets"]
    assert (report["judged"]["unscored"], report["judged"]["unscored_reasons"]) == (0, {})
    reward = tmp_path / "reward"
    save_spanning_reward(reward, spanning_folder)
    verb[1] = str(reward)
    assert cli.run([*verb, "--json", "--verdicts", str(tmp_path / "out.jsonl")]) == 0
    (report,) = json.loads(capsys.readouterr().out)["sets"]
    because = {"a token spans two steps": 2}
    assert (report["judged"]["unscored"], report["judged"]["unscored_reasons"]) == (2, because)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert [row["scores"] is None for row in rows] == [False, True, False, True]
    assert cli.run(verb) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 solutions are unscored and count as wrong: a token spans two steps" in said


def save_spanning_reward(folder: Path, policy: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from repirl.rewards.artifact import RewardContract
    from repirl.rewards.energy import energy_from_policy
    from repirl.rewards.saved import write_reward

    fields = {"kind": "energy", "method": "test", "step_separator": "\n", "template": "plain", "step_aggregation": "mean"}
    contract = RewardContract.model_validate(fields | {"base_digest": "a", "training_digest": "b"})
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy)
    write_reward(folder, energy_from_policy(model), tokenizer, contract)
