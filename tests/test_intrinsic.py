"""Intrinsic rewards: their values by hand, that they follow the policy, and what they do to its entropy."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from test_methods import fit, small_config

from repirl.methods.registry import load_method
from repirl.rewards import intrinsic
from repirl.rewards.intrinsic import IntrinsicReward
from repirl.rollouts.steps import StepSegmentation


@pytest.fixture
def rewards_of(monkeypatch: pytest.MonkeyPatch):
    """`rewards_of(signal, probabilities [N, V])`: what such distributions earn."""

    def made(signal: str, probabilities: list[list[float]]) -> list[float]:
        # Logits are known up to a constant.
        monkeypatch.setattr(intrinsic, "completion_logits", lambda model, batch: torch.tensor(probabilities).log() + 3)
        return IntrinsicReward(None, None, StepSegmentation("\n"), signal).per_token(SimpleNamespace()).tolist()

    return made


def test_self_certainty_is_the_divergence_from_uniform(rewards_of) -> None:
    by_hand = sum(1 / 3 * math.log((1 / 3) / p) for p in (0.5, 0.25, 0.25))
    assert rewards_of("self_certainty", [[1 / 3] * 3, [0.5, 0.25, 0.25]]) == pytest.approx([0, by_hand], abs=1e-6)
    assert by_hand > 0


def test_negative_entropy_by_hand(rewards_of) -> None:
    assert rewards_of("negative_entropy", [[0.25] * 4, [0.5, 0.5, 1e-30, 1e-30]]) == pytest.approx([-math.log(4), -math.log(2)])


@pytest.mark.parametrize("signal", ["self_certainty", "negative_entropy"])
def test_the_reward_rises_and_the_entropy_falls_and_both_show(signal: str, policy_folder, tmp_path) -> None:
    """It is the trained policy's certainty that is paid: a frozen one's could not rise like this."""
    more = {"loop.steps": 30, "loop.optim.warmup_steps": 0, "loop.validation.every": 30, "loop.sampling.group_size": 8}
    more |= {"loop.credit.process_weight": 100.0}  # a random policy is about as unsure everywhere: the differences are small
    fit("intrinsic", policy_folder, tmp_path / "run", small_config("intrinsic", signal=signal, **more))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()][1:]
    assert lines[-1]["entropy"] < lines[0]["entropy"] - 0.1
    assert "prm/length_correlation" in lines[-1]


def test_outcomes_take_no_part() -> None:
    assert load_method("intrinsic").recipe("tiny").loop.credit.outcome_weight == 0
