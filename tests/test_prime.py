"""PRIME: scores and loss by hand, what scoring before and after an update means, labels swapped, micro-batches, resuming."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repirl.engines.loading import load_policy
from repirl.learn.online_implicit import ImplicitUpdate, OnlineImplicit, token_scores
from repirl.learn.updater import OptimConfig
from repirl.methods.registry import load_method
from repirl.rewards.artifact import RewardContract
from repirl.types import Problem, RolloutGroup, Verdict

CONTRACT = RewardContract(
    kind="implicit",
    method="prime",
    step_separator="\n",
    template="plain",
    step_aggregation="sum",
    base_digest="b",
    training_digest="t",
)


@pytest.fixture
def groups(make_rollout) -> list[RolloutGroup]:
    problem = Problem("p", "own", "1+1? ", "integer", answer="2")
    rollouts = tuple(make_rollout(problem.prompt, text, problem_id="p", index=i) for i, text in enumerate(("2", "it is 3")))
    return [RolloutGroup(problem, rollouts, (Verdict("correct"), Verdict("wrong")))]


@pytest.fixture
def make(policy_folder: Path):
    def made(lr: float = 1e-2, micro: int = 8192, **settings):
        optim = OptimConfig(lr=lr, micro_batch_tokens=micro, max_grad_norm=10.0)
        policy = load_policy(policy_folder)
        return OnlineImplicit(policy.model, policy.tokenizer, ImplicitUpdate(optim=optim, **settings), CONTRACT, 4)

    return made


def test_scores_by_hand() -> None:
    """Returns of [1, -3, 0.5] are -1.5, -2.5, 0.5; of [2, 1] are 3, 1: the largest is 3."""
    ratios = [np.array([1.0, -3.0, 0.5]), np.array([2.0, 1.0])]
    scores = token_scores(ratios, ImplicitUpdate())
    assert [one.tolist() for one in scores] == [pytest.approx([1 / 3, -1, 1 / 6]), pytest.approx([2 / 3, 1 / 3])]
    assert token_scores(ratios, ImplicitUpdate(scale="beta"))[0] == pytest.approx(scores[0], abs=1e-4)
    raw = ImplicitUpdate(norm="none", scale="beta", beta=0.5, last_token="zero")
    assert [one.tolist() for one in token_scores(ratios, raw)] == [[0.5, -1.5, 0], [1, 0]]


def test_the_norm_is_of_the_whole_batch() -> None:
    """A rollout's scores depend on the largest return of any other: shares of the batch would give other numbers."""
    one, other = np.array([1.0]), np.array([4.0])
    together = token_scores([one, other], ImplicitUpdate())
    assert together[0][0] == pytest.approx(0.25)
    assert token_scores([one], ImplicitUpdate())[0][0] == pytest.approx(1.0, abs=1e-5)


def test_before_learning_all_is_zero_and_the_first_loss_is_ln_2(make, groups) -> None:
    for scored in ("before", "after"):
        learner = make(score=scored)
        learned = learner.learn(groups, 0)
        assert learned.metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
        moved = max(float(np.abs(r.token_rewards).max()) for r in learned.scored[0])
        assert (moved == 0) == (scored == "before")


def test_right_ends_above_wrong_and_below_with_labels_swapped(make, groups) -> None:
    swapped = [replace(groups[0], verdicts=groups[0].verdicts[::-1])]
    for taught, sign in ((groups, 1), (swapped, -1)):
        learner = make(lr=3e-3)
        for step in range(6):
            learner.learn(taught, step)
        right, wrong = (r.token_rewards.sum() for r in learner.score(groups)[0])
        assert sign * (right - wrong) > 0.1


def test_the_sampler_as_reference_is_read_from_the_rollouts(make, groups) -> None:
    """Recorded log-probabilities are -1: a score is the model's own + 1."""
    learner = make(reference="sampler", norm="none", lr=1e-9)
    scored = learner.learn(groups, 0).scored[0][0].token_rewards
    own = learner._logprobs(groups)[0].numpy()
    assert scored == pytest.approx(own + 1, abs=1e-4)


def test_ungraded_rollouts_teach_nothing(make, groups) -> None:
    lost = [replace(groups[0], verdicts=(groups[0].verdicts[0], Verdict("ungraded", "lost")))]
    alone = [replace(groups[0], rollouts=groups[0].rollouts[:1], verdicts=groups[0].verdicts[:1])]
    grads = []
    for taught in (lost, alone):
        learner = make()
        learner.learn(taught, 0)
        grads.append(torch.cat([p.grad.flatten() for p in learner.updater.model.parameters() if p.grad is not None]))
    assert torch.allclose(*grads, atol=1e-6)
    nothing = [replace(groups[0], verdicts=(Verdict("ungraded", "lost"),) * 2)]
    assert make().learn(nothing, 0).metrics == {}


def test_soft_labels_reach_the_loss(make, groups) -> None:
    """Half of the tests: at a ratio of 0 the gradient vanishes."""
    half = [replace(groups[0], verdicts=(Verdict("wrong", score=0.5),) * 2)]
    assert make(soft_labels=True).learn(half, 0).metrics["grad_norm"] == pytest.approx(0, abs=1e-6)
    assert make().learn(half, 0).metrics["grad_norm"] > 1e-3


def test_the_update_does_not_depend_on_micro_batches(make, groups) -> None:
    found = []
    for micro in (1, 100000):
        learner = make(micro=micro)
        learner.learn(groups, 0)
        found.append(torch.cat([p.grad.flatten() for p in learner.updater.model.parameters() if p.grad is not None]))
    assert float(found[0].norm()) > 1e-3
    assert torch.allclose(*found, atol=1e-6)


def test_resuming_is_exact(make, groups) -> None:
    whole, first, second = make(), make(), make()
    whole.learn(groups, 0)
    first.learn(groups, 0)
    second.load_state(first.state())
    a, b = whole.learn(groups, 1), second.learn(groups, 1)
    assert a.metrics == b.metrics
    assert second.budget == whole.budget
    assert all((x.token_rewards == y.token_rewards).all() for x, y in zip(a.scored[0], b.scored[0], strict=True))


def test_its_recipe_filters_groups_as_published() -> None:
    assert load_method("prime").recipe("tiny").loop.sampling.keep.accuracy == (0.2, 0.8)
