"""Training on problems alone that the policy fails before it."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_methods import small_config

from repirl.cli.main import run
from repirl.engines.loading import load_policy
from repirl.errors import GradingFault, UserError
from repirl.methods.base import FitContext
from repirl.methods.hard import HardConfig, only_hard
from repirl.methods.registry import load_method
from repirl.rollouts.collect import SamplingConfig
from repirl.tasks.training_sets import TrainingSet, TrainingSetConfig, load_training_set
from repirl.types import Verdict

SAMPLING = SamplingConfig(max_new_tokens=4)
FAILED, SOLVED, CUT, UNKNOWN = (Verdict(outcome) for outcome in ("wrong", "correct", "truncated", "ungraded"))


@pytest.fixture
def data() -> TrainingSet:
    return load_training_set(TrainingSetConfig(num_problems=5, validation_problems=2, demos_per_problem=0))


@pytest.fixture
def context(tmp_path: Path, policy_folder: Path) -> FitContext:
    return FitContext(load_policy(policy_folder), tmp_path / "run", 0)


def told(monkeypatch: pytest.MonkeyPatch, verdicts: dict[str, list[Verdict]]) -> list[int]:
    """Verdicts of each problem's samples are these; returns how many completions were graded, call by call."""
    calls: list[int] = []

    def grade(problems: Any, completions: Any, reasons: Any) -> list[Verdict]:
        calls.append(len(completions))
        left = {problem: iter(own) for problem, own in verdicts.items()}
        return [next(left[problem.id]) for problem in problems]

    monkeypatch.setattr("repirl.methods.runtime.grade_rollouts", grade)
    return calls


def test_every_sample_must_fail(data: TrainingSet, context: FitContext, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [problem.id for problem in data.problems]
    own = [[FAILED, FAILED], [FAILED, SOLVED], [CUT, FAILED], [SOLVED, SOLVED], [CUT, CUT]]
    calls = told(monkeypatch, dict(zip(ids, own, strict=True)))
    kept, cost = only_hard(context, data, HardConfig(samples=2), SAMPLING)
    assert [problem.id for problem in kept.problems] == [ids[0], ids[2], ids[4]]
    assert (kept.validation, kept.left_out) == (data.validation, {"solved in 2 samples": 2})
    assert kept.digest != data.digest
    assert (cost.rollouts, cost.grader_calls, sum(calls)) == (10, 10, 10)
    again, same_cost = only_hard(context, data, HardConfig(samples=2), SAMPLING)
    assert (again, same_cost, sum(calls)) == (kept, cost, 10)  # nothing is sampled twice
    only_hard(context, data, HardConfig(samples=2, seed=1), SAMPLING)
    assert sum(calls) == 20


def test_what_cannot_be_graded_is_not_called_hard(
    data: TrainingSet, context: FitContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [problem.id for problem in data.problems]
    told(monkeypatch, {problem: [FAILED, UNKNOWN] for problem in ids})
    with pytest.raises(GradingFault):
        only_hard(context, data, HardConfig(samples=2), SAMPLING)
    told(monkeypatch, {problem: [SOLVED, FAILED] for problem in ids})
    with pytest.raises(UserError, match="no problem is hard"):
        only_hard(context, data, HardConfig(samples=2), SAMPLING)


def test_a_run_trains_on_them_and_pays_for_finding_them(tmp_path: Path, policy_folder: Path) -> None:
    """The policy of random weights fails everything, so that all problems are hard: the same run, but for the cost."""
    config = small_config("rloo")
    settings = {"hard": HardConfig(samples=3)}
    method = load_method("rloo")
    plain = method.fit(FitContext(load_policy(policy_folder), tmp_path / "plain", 0), config)
    found = method.fit(FitContext(load_policy(policy_folder), tmp_path / "hard", 0), config.model_copy(update=settings))
    problems: int = config.data.num_problems  # pyright: ignore[reportAttributeAccessIssue]
    assert found.budget.rollouts == plain.budget.rollouts + 3 * problems
    assert found.diagnostics["data/left out, solved in 3 samples"] == 0
    kept = json.loads((tmp_path / "hard" / "hard.json").read_text())
    assert len(kept["hard"]) == problems
    assert (kept["asked"]["samples"], kept["asked"]["seed"]) == (3, 0)
    same = ("entropy", "reward", "length_mean")
    assert [plain.diagnostics[name] for name in same] == pytest.approx([found.diagnostics[name] for name in same])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "rloo", "--problems", "easy"], "unknown choice of problems"),
        (["train", "dpo", "--problems", "hard"], "samples no policy in training"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
