"""Training on problems without answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_methods import small_config

from repirl.engines.loading import load_policy
from repirl.errors import UserError
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
    assert paid("majority", tie) == [0.0, 1.0]  # "10" comes before "9"
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
    config = small_config("test_time")
    data = config.data.model_copy(update={"source": "unlabelled", "file": str(file)})
    config = config.model_copy(update={"data": data})
    fitted = method.fit(FitContext(load_policy(policy_folder), tmp_path / "run", 0), config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines
    assert all("validation_accuracy" not in line and "reward" not in line and line["ungraded"] == 8 for line in lines)
    assert fitted.policy_folder is not None
    assert fitted.validation_budget.rollouts == 0


def test_without_validation_problems_the_best_checkpoint_cannot_be_chosen(tmp_path: Path, policy_folder) -> None:
    config = small_config("test_time")
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
