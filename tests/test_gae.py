"""PPO's credit: advantages by hand, what the value function learns, micro-batches, ungraded rollouts, resuming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from repirl.learn.credit_config import GAECredit, ValueConfig
from repirl.learn.gae import GAE, generalised_advantages, token_values
from repirl.rollouts.packing import TokenRow, pad_batch
from repirl.types import Problem, RolloutGroup, StepRewards, Verdict


def test_advantages_by_hand() -> None:
    """gamma 0.9, lambda 0.5, rewards 0, 0, 1, values 0.5, 0.4, 0.2: delta = -0.14, -0.22, 0.8; A = A_t + 0.45 A_{t+1}."""
    found = generalised_advantages(np.array([0.0, 0, 1]), np.array([0.5, 0.4, 0.2]), 0.9, 0.5)
    assert found == pytest.approx([-0.14 + 0.45 * (-0.22 + 0.45 * 0.8), -0.22 + 0.45 * 0.8, 0.8])


def test_the_ends_of_lambda() -> None:
    """1: the return minus the value; 0: one step ahead."""
    rewards, values = np.array([0.1, -0.2, 1.0]), np.array([0.3, 0.6, 0.9])
    returns = np.cumsum(rewards[::-1])[::-1]
    assert generalised_advantages(rewards, values, 1, 1) == pytest.approx(returns - values)
    assert generalised_advantages(rewards, values, 1, 0) == pytest.approx(rewards + np.array([0.6, 0.9, 0]) - values)


@pytest.fixture
def make_groups(make_rollout):
    """`make_groups(outcomes)`: a group for each row, a rollout of its own text for each outcome (1 right, 0 wrong)."""

    def make(outcomes: list[list[float]]) -> list[RolloutGroup]:
        groups = []
        for g, row in enumerate(outcomes):
            problem = Problem(f"p{g}", "own", f"{g}+{g}? ", "integer", answer=str(2 * g))
            rollouts = tuple(
                make_rollout(problem.prompt, f"{g} {i} is it", problem_id=problem.id, index=i) for i in range(len(row))
            )
            verdicts = tuple(Verdict("correct" if one else "wrong") for one in row)
            groups.append(RolloutGroup(problem, rollouts, verdicts))
        return groups

    return make


def make_gae(make_policy, tokenizer, **more) -> GAE:
    value = {"lr": 3e-3, "head_lr": 3e-2, "clip": None, **more.pop("value", {})}
    return GAE(GAECredit(value=ValueConfig(**value), **more), make_policy(0), tokenizer, 40)


def test_a_fresh_value_is_zero_so_the_outcome_is_the_advantage(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups([[1.0, 0.0]])
    credit = make_gae(make_policy, tokenizer)
    assert not credit.needs_reward
    right, wrong = credit.advantages(groups, None, 0.0)[0]
    assert (right == 1).all()
    assert (wrong == 0).all()


def test_values_learn_what_a_prompt_is_worth(make_policy, tokenizer, make_groups) -> None:
    """Both rollouts of a prompt right, both wrong: after some updates the values say so and nothing is left to pay."""
    groups = make_groups([[1.0, 1.0], [0.0, 0.0]])
    credit = make_gae(make_policy, tokenizer)
    for _ in range(40):
        credit.advantages(groups, None, 0.0)
        metrics = credit.learn(groups, None)
    left = [np.abs(one).mean() for group in credit.advantages(groups, None, 0.0) for one in group]
    assert max(left) < 0.15
    assert metrics["explained_variance"] > 0.9
    assert credit.budget.trained_tokens > 0


def test_process_rewards_are_paid_at_their_tokens(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups([[0.0, 0.0]])
    credit = make_gae(make_policy, tokenizer, process_weight=2.0)
    assert credit.needs_reward
    lengths = [len(r.token_ids) for r in groups[0].rollouts]
    scored = [[StepRewards(np.eye(1, n, 1, dtype=np.float32)[0], np.array([n - 1]), np.ones(1, np.float32), np.ones(1, bool))
               for n in lengths]]  # fmt: skip
    first = credit.advantages(groups, scored, 0.0)[0][0]
    assert first[:2].tolist() == [2, 2]
    assert (first[2:] == 0).all()
    with pytest.raises(ValueError, match="there is none"):
        credit.advantages(groups, None, 0.0)


def test_ungraded_rollouts_neither_earn_nor_teach(make_policy, tokenizer, make_groups) -> None:
    graded = make_groups([[1.0, 0.0]])
    with_ungraded = [replace(graded[0], verdicts=(graded[0].verdicts[0], Verdict("ungraded", "lost")))]
    credit = make_gae(make_policy, tokenizer)
    assert (credit.advantages(with_ungraded, None, 0.0)[0][1] == 0).all()
    assert len(credit._batch[0]) == 1
    alone = make_gae(make_policy, tokenizer, outcome_weight=0.0)
    alone.advantages(with_ungraded, None, 0.0)
    assert len(alone._batch[0]) == 2


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_update_does_not_depend_on_micro_batches(make_policy, tokenizer, make_groups, clip) -> None:
    groups = make_groups([[1.0, 0.0, 1.0, 0.0]])
    found = []
    for tokens in (1, 100000):
        credit = make_gae(make_policy, tokenizer, value={"micro_batch_tokens": tokens, "clip": clip})
        credit.advantages(groups, None, 0.0)
        credit.learn(groups, None)
        gradients = [p.grad for p in credit.updater.model.parameters()]
        found.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    assert float(found[0].norm()) > 0.01
    assert torch.allclose(*found, atol=1e-6)


def test_a_clipped_value_is_not_drawn_further(make_policy, tokenizer, make_groups) -> None:
    """Two passes: in the second, values have moved by more than the clip towards their target."""
    groups = make_groups([[1.0, 1.0]])
    moved = {}
    for clip in (None, 1e-6):
        credit = make_gae(make_policy, tokenizer, value={"clip": clip, "epochs": 2, "lr": 1e-12, "head_lr": 1e-3})
        credit.advantages(groups, None, 0.0)
        credit.learn(groups, None)
        moved[clip] = float(credit.updater.model.score.weight.detach().abs().sum())  # type: ignore[union-attr]
    assert moved[1e-6] < moved[None]


def test_resuming_is_exact(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups([[1.0, 0.0], [0.0, 1.0]])
    whole, cut = (make_gae(make_policy, tokenizer) for _ in range(2))
    for _ in range(2):
        whole.advantages(groups, None, 0.0)
        whole.learn(groups, None)
    cut.advantages(groups, None, 0.0)
    cut.learn(groups, None)
    resumed = make_gae(make_policy, tokenizer)
    resumed.load_state(cut.state())
    resumed.advantages(groups, None, 0.0)
    resumed.learn(groups, None)
    assert resumed.budget == whole.budget
    for a, b in zip(whole.updater.model.parameters(), resumed.updater.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_value_is_of_the_state_before_the_token(make_policy, tokenizer) -> None:
    """Changing a token leaves its own value and those before it, and changes the next one's."""
    credit = make_gae(make_policy, tokenizer)
    torch.nn.init.normal_(credit.updater.model.score.weight)  # type: ignore[union-attr]
    one, other = TokenRow([1, 2, 3], [4, 5, 6]), TokenRow([1, 2, 3], [4, 7, 6])
    a, b = (token_values(credit.updater.model, pad_batch([row], 0, torch.device("cpu"))) for row in (one, other))
    assert torch.allclose(a[:2], b[:2], atol=1e-6)
    assert not torch.allclose(a[2], b[2], atol=1e-4)
