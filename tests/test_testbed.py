"""The look at a testbed: its gradients' signal and noise against closed forms, and what it says of the embedded policy."""

from __future__ import annotations

import json

import pytest
import torch

from repirl.cli import main as cli
from repirl.engines.loading import load_policy
from repirl.evals import step_bound, testbed
from repirl.evals.testbed import Measured, _signal_to_noise, check_testbed
from repirl.learn.credit_config import OutcomeCredit, StepCredit
from repirl.rewards.nulls import OracleReward, confidence_reward
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks import arith, minicode

SEGMENTATION = StepSegmentation("\n")
CREDITS = {"outcome": OutcomeCredit(), "oracle": StepCredit(outcome_weight=0.5, process_weight=2.0)}


def test_signal_to_noise_is_that_of_the_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.zeros(400, dtype=torch.float64)
    mean[0] = 3.0
    noise = torch.randn(2000, 400, generator=generator, dtype=torch.float64)
    # |E g| = 3, and the noise of 400 standard normals is 20.
    assert _signal_to_noise(mean + noise) == pytest.approx(3 / 20, rel=0.05)
    # The bias of few batches is taken out: without a signal there is none, on average.
    found = [_signal_to_noise(noise[i * 10 : (i + 1) * 10]) for i in range(200)]
    assert sum(one == 0 for one in found) > 60
    assert _signal_to_noise(mean.expand(3, -1)) > 1e3, "equal gradients are all signal"


def test_bounds() -> None:
    assert Measured("x", 0.5).holds
    assert Measured("x", None).holds
    assert not Measured("x", None, 0.1).holds
    assert Measured("x", 0.1, 0.1, 0.2).holds
    assert not Measured("x", 0.09, 0.1).holds
    assert not Measured("x", 0.21, None, 0.2).holds


def test_the_embedded_policy_errs_by_habit_and_its_confidence_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "BATCHES", 4)
    monkeypatch.setattr(testbed, "POOL_PROBLEMS", 64)
    monkeypatch.setattr(step_bound, "UPDATES", 12)
    policy = load_policy("tiny")
    before = [parameter.clone() for parameter in policy.model.parameters()]
    judged = {"the checker": OracleReward(policy.tokenizer, SEGMENTATION)}
    judged |= {"confidence": confidence_reward(policy.model, policy.tokenizer, SEGMENTATION)}
    look = lambda: check_testbed(policy, arith, (4, 5), (1, 2), CREDITS, problems=48, samples=4, rewards=judged)
    measured = look()
    found = {one.name: one for one in measured}
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    values = {name: one.value or 0.0 for name, one in found.items()}
    assert 0.04 < values["sampled accuracy on the training levels"] < 0.2
    assert values["sampled accuracy on easier levels"] > 0.3
    assert values["greedy minus sampled accuracy there"] < 0.12
    within = found["the same within a problem, at one step"]
    assert within.value is not None
    assert within.value < 0.75
    assert within.holds
    # A few updates with the labels themselves tell more than that.
    assert values["the same of a classifier of exact step labels"] > within.value + 0.1
    assert values["gradient signal-to-noise, oracle"] > values["gradient signal-to-noise, outcome"]
    # Given rewards are placed between the two: the checker knows all, confidence is where it was.
    assert values["the same of the checker"] == 1
    assert values["the same of confidence"] == within.value
    parts = [one.value for one in measured if one.name.startswith("its part of the way")]
    assert parts[0] == pytest.approx(
        (1 - within.value) / (values["the same of a classifier of exact step labels"] - within.value)
    )
    assert parts[1] == 0
    assert look() == measured


def test_programs_get_the_same_look_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "BATCHES", 2)
    monkeypatch.setattr(testbed, "POOL_PROBLEMS", 16)
    monkeypatch.setattr(step_bound, "UPDATES", 2)
    found = check_testbed(load_policy("tiny"), minicode, (4, 5, 6, 7), (1, 2), CREDITS, problems=16, samples=2)
    assert all(one.holds for one in found)
    values = {one.name: one.value for one in found}
    assert 0.2 < (values["sampled accuracy on the training levels"] or 0) < 0.95
    assert (values["gradient signal-to-noise, oracle"] or 0) > 0


def test_the_verb_shows_it_and_ends_with_1_where_a_bound_is_missed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Measured("a", 0.5, 0.1), Measured("b", 2.0, None, 1.0)]
    monkeypatch.setattr(testbed, "check_testbed", lambda *given, **more: found)
    assert cli.run(["check", "testbed", "--policy", "tiny", "--level", "3", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], [row["holds"] for row in shown["measured"]]) == (False, [True, False])
    assert (shown["family"], shown["levels"]) == ("arith", [3])
    assert cli.run(["check", "testbed", "--policy", "tiny", "--level", "3"]) == 1
    assert "at most 1" in capsys.readouterr().out
    assert cli.run(["check", "testbed", "--level", "9"]) == 2
    assert "no such level of arith: 9" in capsys.readouterr().err
