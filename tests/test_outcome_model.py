"""Outcome models: losses by hand, the last real token, pairs of a prompt alone, micro-batches, swapped labels, resuming."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from repirl.errors import UserError
from repirl.learn.outcome_model import OutcomeFitting, OutcomeModelConfig, OutcomeReward, outcome_loss
from repirl.learn.updater import OptimConfig
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import energy_from_policy
from repirl.rollouts.steps import StepSegmentation
from repirl.types import Budget, Problem, RolloutGroup, Verdict

CONTRACT = RewardContract(
    kind="energy",
    method="outcome_rm",
    step_separator="\n",
    template="plain",
    step_aggregation="last",
    base_digest="b",
    training_digest="t",
)
LOSSES = ("pointwise", "bradley_terry")


@pytest.fixture
def groups(make_rollout) -> list[RolloutGroup]:
    """Two prompts; `2` is right, what is longer is wrong."""
    made = []
    for name in ("p", "q"):
        problem = Problem(name, "own", f"{name}? ", "integer", answer="2")
        rollouts = tuple(
            make_rollout(problem.prompt, text, problem_id=name, index=i) for i, text in enumerate(("2", "it is 3", "4"))
        )
        made.append(RolloutGroup(problem, rollouts, (Verdict("correct"), Verdict("wrong"), Verdict("wrong"))))
    return made


def make(make_policy, tokenizer, groups, loss: str = "pointwise", micro: int = 8192, lr: float = 1e-2) -> OutcomeFitting:
    config = OutcomeModelConfig.model_validate({"loss": loss, "optim": OptimConfig(lr=lr, micro_batch_tokens=micro)})
    return OutcomeFitting(energy_from_policy(make_policy()), tokenizer, config, CONTRACT, groups, 0, Budget(rollouts=6))


def test_losses_by_hand() -> None:
    """Scores 1, 0, -1, right, wrong, wrong, then another prompt's right one: it is in no pair."""
    scores = torch.tensor([1.0, 0.0, -1.0, 5.0], dtype=torch.float64)
    correct, prompt = torch.tensor([True, False, False, True]), torch.tensor([0, 0, 0, 1])
    soft = lambda x: math.log1p(math.exp(x))
    assert float(outcome_loss(scores, correct, prompt, "pointwise")) == pytest.approx(
        (soft(-1) + soft(0) + soft(-1) + soft(-5)) / 4
    )
    assert float(outcome_loss(scores, correct, prompt, "bradley_terry")) == pytest.approx((soft(-1) + soft(-2)) / 2)
    assert float(outcome_loss(scores[3:], correct[3:], prompt[3:], "bradley_terry")) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_right_ends_above_wrong_and_below_with_labels_swapped(make_policy, tokenizer, groups, loss: str) -> None:
    swap = {"correct": Verdict("wrong"), "wrong": Verdict("correct")}
    swapped = [replace(group, verdicts=tuple(swap[v.outcome] for v in group.verdicts)) for group in groups]
    for taught, sign in ((groups, 1), (swapped, -1)):
        fitting = make(make_policy, tokenizer, taught, loss)
        first = fitting.step(0)
        assert first["prm/loss"] == pytest.approx(math.log(2), abs=1e-6)
        for step in range(1, 15):
            fitting.step(step)
        reward = OutcomeReward(fitting.updater.model.eval(), tokenizer, StepSegmentation("\n"), "last")
        right, wrong, _ = (float(r.token_rewards[0]) for r in reward.score(groups)[0])
        assert sign * (right - wrong) > 0.2


def test_the_score_is_of_the_last_real_token(make_policy, tokenizer, groups) -> None:
    """Also where padding and EOS are one token, and beside longer rows; every token is paid the same."""
    fitting = make(make_policy, tokenizer, groups)
    torch.nn.init.normal_(fitting.updater.model.score.weight)  # type: ignore[union-attr]
    model = fitting.updater.model.eval()
    same_pad = type(
        "Same", (), {"__getattr__": lambda self, name: getattr(tokenizer, name), "pad_token_id": tokenizer.eos_token_id}
    )()
    found = OutcomeReward(model, same_pad, StepSegmentation("\n"), "last").token_scores(groups)
    from repirl.rewards.energy import EnergyReward

    energies = EnergyReward(model, tokenizer, StepSegmentation("\n"), "last").token_scores(groups)
    for paid, energy in zip(found, energies, strict=True):
        assert paid == pytest.approx(np.full(len(energy), 1 / (1 + math.exp(-energy[-1]))), abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_update_does_not_depend_on_micro_batches(make_policy, tokenizer, groups, loss: str) -> None:
    found = []
    for micro in (1, 100000):
        fitting = make(make_policy, tokenizer, groups, loss, micro)
        torch.nn.init.ones_(fitting.updater.model.score.weight)  # type: ignore[union-attr]
        fitting.step(0)
        found.append(torch.cat([p.grad.flatten() for p in fitting.updater.model.parameters() if p.grad is not None]))
    assert float(found[0].norm()) > 1e-3
    assert torch.allclose(*found, atol=1e-6)


def test_what_cannot_teach_is_refused_or_left_out(make_policy, tokenizer, groups) -> None:
    wrong = [replace(group, verdicts=(Verdict("wrong"),) * 3) for group in groups]
    for loss in LOSSES:
        with pytest.raises(UserError):
            make(make_policy, tokenizer, wrong, loss)
    mixed = [groups[0], wrong[1]]
    assert len(make(make_policy, tokenizer, mixed, "bradley_terry").groups) == 1
    assert len(make(make_policy, tokenizer, mixed, "pointwise").groups) == 2
    apart = [replace(groups[0], verdicts=(Verdict("correct"),) * 3), wrong[1]]
    assert len(make(make_policy, tokenizer, apart, "pointwise").groups) == 2
    with pytest.raises(UserError, match="no prompt has both"):
        make(make_policy, tokenizer, apart, "bradley_terry")


def test_ungraded_rollouts_teach_nothing(make_policy, tokenizer, groups) -> None:
    lost = [replace(g, verdicts=(*g.verdicts[:2], Verdict("ungraded", "lost"))) for g in groups]
    fewer = [replace(g, verdicts=g.verdicts[:2], rollouts=g.rollouts[:2]) for g in groups]
    found = []
    for taught in (lost, fewer):
        fitting = make(make_policy, tokenizer, taught)
        fitting.step(0)
        found.append(fitting.updater.model.score.weight.grad.clone())  # type: ignore[union-attr]
    assert torch.allclose(*found, atol=1e-6)


def test_resuming_is_exact(make_policy, tokenizer, groups) -> None:
    whole, first, second = (make(make_policy, tokenizer, groups, "bradley_terry") for _ in range(3))
    whole.step(0)
    first.step(0)
    second.load_state(first.state())
    assert whole.step(1) == second.step(1)
    assert whole.budget == second.budget
