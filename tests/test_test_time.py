"""Training on problems without answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_methods import small_config

from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.learn import watching
from repirl.learn.watching import bad_looks, repetition
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.rewards.nulls import LengthReward
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks import arith
from repirl.types import Problem, Rollout, RolloutGroup, Verdict

method = load_method("test_time")
module: Any = __import__(type(method).__module__)


def group(*texts: str, cut: int | None = None) -> RolloutGroup:
    rollouts = tuple(
        Rollout("p", i, (1,), np.arange(3 + i), np.zeros(3 + i, np.float32), text, "length" if i == cut else "stop", 1.0)
        for i, text in enumerate(texts)
    )
    return RolloutGroup(Problem("p", "file", "", "math"), rollouts, (Verdict("ungraded", "no grader"),) * len(texts))


def paid(signal: str, *groups: RolloutGroup, **settings: Any) -> list[float]:
    config = method.recipe("tiny").model_copy(update={"signal": signal, **settings})
    inner = LengthReward(load_policy("tiny").tokenizer, StepSegmentation()) if signal == "prm" else None
    reward = module.TestTimeReward(load_policy("tiny").tokenizer, StepSegmentation(), config, inner, 0)
    return [float(one.mean()) for one in reward.token_scores(groups)]


def test_majority_by_hand() -> None:
    five = group(r"so \boxed{1/2}", r"\boxed{0.5}", r"\boxed{3}", "no answer", r"\boxed{3}", cut=4)
    # 1/2 and 0.5 are one answer; the last, which also says 3, was cut off; the fourth has neither answer nor box.
    assert paid("majority", five) == [1.0, 1.0, 0.0, -1.0, 0.0]
    assert paid("majority", five, format_weight=0.0) == [1.0, 1.0, 0.0, 0.0, 0.0]
    tie = group(r"\boxed{9}", r"\boxed{10}")
    assert paid("majority", tie) == [1.0, 0.0]  # the first sampled, whatever its text
    assert paid("majority", group(r"\boxed{10}", r"\boxed{9}", r"\boxed{9}")) == [0.0, 1.0, 1.0]
    assert paid("majority", group("x", "y"), format_weight=0.0) == [0.0, 0.0]


def test_the_other_signals() -> None:
    two = group(r"\boxed{1}", "none")
    assert paid("format", two) == [0.0, -1.0]
    assert paid("prm", two) == pytest.approx([0.03, 0.04 - 1])
    many = group(*(rf"\boxed{{{i}}}" for i in range(40)))
    coins = paid("random", many)
    assert set(coins) == {0.0, 1.0}
    assert coins == paid("random", many)


def unlabelled(path: Path, count: int = 12) -> Path:
    problems = arith.problems("test", count, levels=(3, 4))
    path.write_text("".join(json.dumps({"id": p.id, "problem": p.prompt}) + "\n" for p in problems))
    return path


def test_it_runs_where_there_are_no_answers(tmp_path: Path, policy_folder) -> None:
    file = unlabelled(tmp_path / "problems.jsonl")
    config: Any = small_config("test_time")
    data = config.data.model_copy(update={"source": "unlabelled", "file": str(file)})
    config = config.model_copy(update={"data": data})
    fitted = method.fit(FitContext(load_policy(policy_folder), tmp_path / "run", 0), config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines
    assert all("validation_accuracy" not in line and "reward" not in line and line["ungraded"] == 8 for line in lines)
    assert fitted.policy_folder is not None
    assert fitted.validation_budget.rollouts == 0


def test_without_validation_problems_the_best_checkpoint_cannot_be_chosen(tmp_path: Path, policy_folder) -> None:
    config: Any = small_config("test_time")
    data = config.data.model_copy(update={"source": "unlabelled", "file": str(unlabelled(tmp_path / "p.jsonl"))})
    validation = config.loop.validation.model_copy(update={"select": "best"})
    config = config.model_copy(update={"data": data, "loop": config.loop.model_copy(update={"validation": validation})})
    with pytest.raises(UserError, match="no validation problems to choose"):
        method.fit(FitContext(load_policy(policy_folder), tmp_path / "run", 0), config)


def test_a_signal_and_its_reward_belong_together(tmp_path: Path, policy_folder) -> None:
    config = small_config("test_time")
    for wrong in ({"signal": "prm"}, {"reward": "confidence"}):
        with pytest.raises(UserError, match="belong together"):
            method.fit(FitContext(load_policy(policy_folder), tmp_path, 0), config.model_copy(update=wrong))


def test_a_look_is_bad_if_the_signal_rises_while_agreement_falls() -> None:
    hacked = [(0.1, 0.6), (0.2, 0.7), (0.3, 0.64), (0.4, 0.6)]
    assert bad_looks(hacked, 0.05) == 2
    assert bad_looks(hacked, 0.2) == 0  # not by so much
    assert bad_looks([*hacked, (0.5, 0.8)], 0.05) == 0  # it came back
    assert bad_looks([(-signal, agreement) for signal, agreement in hacked], 0.05) == 0  # the signal falls too: not hacked
    assert bad_looks([], 0.05) == 0


def test_agreement_that_is_the_same_for_every_problem_is_none() -> None:
    """Of 3 problems: all say 1; each its own answer; and half of the first problem's samples the second's answer."""
    alike = [["1", "1"]] * 3
    own = [["1", "1"], ["2", "2"], ["3", "3"]]
    mixed = [["1", "2"], ["2", "2"]]
    found = [watching.Answers(votes, votes).specific_agreement() for votes in (alike, own, mixed)]
    assert found == pytest.approx([0, 1, 0.75 - 0.25])
    nothing = [[None, None], ["2", None]]
    assert watching.Answers(nothing, nothing).specific_agreement() == pytest.approx(0.25)
    assert watching.Answers([["1"]], [["1"]]).specific_agreement() == 1  # one problem alone


def test_repetition_by_hand() -> None:
    assert repetition(np.arange(20)) == 0
    assert repetition(np.zeros(20, dtype=int)) == pytest.approx(12 / 13)  # 13 pieces of 8, all the same
    assert repetition(np.arange(3)) == 0


def watched(folder: Path, signal: str, steps: int) -> Any:
    """Without answers, four problems watched at every update."""
    settings = {"data.source": "unlabelled", "data.file": str(unlabelled(folder / "p.jsonl")), "signal": signal}
    watch = {"watch.problems": 4, "watch.every": 1, "watch.samples": 2}
    return small_config("test_time", **settings, **watch, **{"loop.steps": steps})


def test_watched_problems_are_not_trained_on_and_stop_a_hacked_run(
    tmp_path: Path, policy_folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agreement is made to fall from look to look, the signal to rise: the second bad look ends training after its update."""
    falling, rising = iter([0.9, 0.5, 0.4, 0.3]), iter([0.1, 0.2, 0.3, 0.4])
    monkeypatch.setattr(watching, "batch_view", lambda *of: {"signal": next(rising), "specific_agreement": next(falling)})
    config = watched(tmp_path, "format", steps=8)
    fitted = method.fit(FitContext(load_policy(policy_folder), tmp_path / "run", 0), config)
    assert fitted.diagnostics["step"] == 3
    assert fitted.diagnostics["prm/watch/stop"] == 1
    log = watching.AnswerLog(tmp_path / "run")
    seen = {problem for step in (1, 2, 3) for problem, _ in log.read(step)}
    looked = {problem for problem, _ in log.read(0, watched=True)}
    assert len(looked) == 4
    assert seen
    assert not seen & looked


def test_a_resumed_run_looks_as_one_that_was_not_stopped(tmp_path: Path, policy_folder) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, steps: int, metrics: Any) -> None:
        if step == 2:
            raise Killed

    config = watched(tmp_path, "negative_entropy", steps=4)
    whole = method.fit(FitContext(load_policy(policy_folder), tmp_path / "whole", 0), config)
    with pytest.raises(Killed):
        method.fit(FitContext(load_policy(policy_folder), tmp_path / "run", 0, kill), config)
    again = method.fit(FitContext(load_policy(policy_folder), tmp_path / "run", 0), config)
    assert replace(again.budget, wall_s=0) == replace(whole.budget, wall_s=0)
    assert whole.budget.scored_tokens > 0
    for name in ("prm/watch/signal", "prm/watch/agreement", "prm/signal"):
        assert again.diagnostics[name] == pytest.approx(whole.diagnostics[name], abs=1e-5)
