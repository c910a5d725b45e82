"""GAIL and AIRL: losses and rewards by hand, what AIRL's reward is at the optimum, perturbed demonstrations, resuming."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from repirl.learn.adversarial import AdversarialConfig, TokenDiscriminator
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import energy_from_policy
from repirl.rollouts.perturb import with_wrong_number
from repirl.types import Demonstration, Problem, RolloutGroup, Verdict

CONTRACT = RewardContract(
    kind="energy",
    method="airl",
    step_separator="\n",
    template="plain",
    step_aggregation="mean",
    base_digest="b",
    training_digest="t",
)


@pytest.fixture
def make_groups(make_rollout):
    """`make_groups(texts, demos, outcomes)`: one problem with these rollouts and demonstrations."""

    def make(texts: list[str], demos: list[str], outcomes: list[str] | None = None, logprobs=None) -> list[RolloutGroup]:
        problem = Problem("p", "own", "1+1? ", "integer", answer="2")
        rollouts = tuple(
            make_rollout(problem.prompt, text, problem_id="p", index=i, logprobs=logprobs) for i, text in enumerate(texts)
        )
        verdicts = tuple(Verdict(one) for one in outcomes or ["wrong"] * len(texts))  # type: ignore[arg-type]
        return [RolloutGroup(problem, rollouts, verdicts, tuple(Demonstration("p", text, "x") for text in demos))]

    return make


def make(form, make_policy, tokenizer, seed: int = 0, longest: int = 99, **settings) -> TokenDiscriminator:
    config = AdversarialConfig(**{"lr": 1e-2, "updates_per_batch": 1, **settings})
    policy = make_policy()
    model = energy_from_policy(policy, base_measure=config.base_measure)
    return TokenDiscriminator(form, model, policy, tokenizer, config, CONTRACT, seed, longest)


def test_the_first_loss_and_reward_by_hand(make_policy, tokenizer, make_groups) -> None:
    """f = 0. GAIL: logits 0, loss and reward ln 2. AIRL: log pi is -1 for the rollouts, so logits are 1; f = 0 is paid."""
    groups = make_groups(["ab", "a"], ["ba"])
    gail = make("gail", make_policy, tokenizer)
    assert [r.token_rewards.tolist() for r in gail.score(groups)[0]] == [pytest.approx([math.log(2)] * n) for n in (3, 2)]
    assert gail.learn(groups, 0).metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    airl = make("airl", make_policy, tokenizer)
    assert all((r.token_rewards == 0).all() for r in airl.score(groups)[0])
    metrics = airl.learn(groups, 0).metrics
    assert metrics["logit_policy"] == pytest.approx(1.0)
    # Of the expert's tokens: minus the policy's own log-probability, in the mean about the log of the vocabulary's size.
    logit = metrics["logit_expert"]
    assert 0.5 * math.log(len(tokenizer)) < logit < 2 * math.log(len(tokenizer))
    assert metrics["loss"] > 0.5 * math.log1p(math.exp(1.0))


def test_outcomes_take_no_part(make_policy, tokenizer, make_groups) -> None:
    found = []
    for outcomes in (["correct", "wrong"], ["ungraded", "correct"]):
        one = make("airl", make_policy, tokenizer)
        one.learn(make_groups(["ab", "a"], ["ba"], outcomes), 0)
        found.append(torch.cat([p.detach().flatten() for p in one.updater.model.parameters()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("form", ["gail", "airl"])
def test_demonstrations_end_above_rollouts_and_swapped_below(form, make_policy, tokenizer, make_groups) -> None:
    told = {}
    for swapped in (False, True):
        mine, expert = ("aaaa", "bbbb") if not swapped else ("bbbb", "aaaa")
        one = make(form, make_policy, tokenizer, updates_per_batch=20)
        one.learn(make_groups([mine], [expert]), 0)
        a, b = (one.score(make_groups([text], []))[0][0].token_rewards[:4].mean() for text in ("aaaa", "bbbb"))
        told[swapped] = b - a
    assert told[False] > 0.5
    assert told[True] < -0.5


def test_airl_finds_the_log_of_the_experts_policy(make_policy, tokenizer, make_groups) -> None:
    """One token: the expert says b of a, b in 3 of 4, the policy a in 1 of 2. f is log 3/4 and log 1/4 (up to what learning
    leaves), whatever the policy is; GAIL's logit is the log of the quotient."""
    demos = ["b", "b", "b", "a"]
    groups = make_groups(["a", "b"], demos, logprobs=[math.log(0.5), 0.0])
    uniform = torch.tensor([math.log(0.5), 0.0])
    for form, expected in (("airl", (math.log(0.25), math.log(0.75))), ("gail", (math.log(0.5), math.log(1.5)))):
        one = make(form, make_policy, tokenizer, lr=3e-3, updates_per_batch=150)
        rows = one._rows(groups, 0)
        # The policy that the demonstrations are read under is the one that sampled: half and half.
        for row in rows:
            row.logprobs_T[:] = uniform.numpy()
        for _ in range(150):
            one._update(rows)
        raw = []
        for text in ("a", "b"):
            reward = float(one.score(make_groups([text], []))[0][0].token_rewards[0])
            raw.append(reward if form == "airl" else math.log(math.expm1(reward)))
        assert raw == pytest.approx(expected, abs=0.1), form


def test_a_warm_up_is_on_the_first_batch_alone(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups(["ab"], ["ba"])
    one = make("airl", make_policy, tokenizer, updates_per_batch=2, warmup=3)
    one.learn(groups, 0)
    assert one.updater.updates == 5
    one.learn(groups, 1)
    assert one.updater.updates == 7


def test_a_perturbed_copy_is_a_negative(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups(["x"], ["so 12 it is", "no number", "7"])
    rows = make("airl", make_policy, tokenizer, perturbed=2, demos_per_prompt=3)._rows(groups, 0)
    assert [row.expert for row in rows] == [True, True, True, False, False]
    wrong = tokenizer.decode(list(rows[3].tokens.response_ids)[:-1])
    assert wrong != "so 12 it is"
    assert wrong.startswith("so ")
    assert wrong.endswith(" it is")


def test_a_demonstration_longer_than_a_rollout_can_be_takes_no_part(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups(["x"], ["so 12 it is", "7"])
    fitted = make("airl", make_policy, tokenizer, longest=2, perturbed=2, demos_per_prompt=2)
    rows = fitted._rows(groups, 0)
    assert [len(row.tokens.response_ids) for row in rows if row.expert] == [2]
    assert fitted.budget.demonstrations == 1


def test_a_wrong_number_is_another_number() -> None:
    rng = np.random.default_rng(0)
    seen = {with_wrong_number("3 + 40 = 43", rng) for _ in range(200)}
    assert "3 + 40 = 43" not in seen
    assert None not in seen
    assert {text.split(" = ")[1] for text in seen if text and text.startswith("3 + 40")} == {"33", "41", "42", "44", "45", "53"}
    assert with_wrong_number("0", np.random.default_rng(1)) in ("1", "2", "10")
    assert with_wrong_number("x1 and 2.5", rng) is None


def test_the_update_does_not_depend_on_micro_batches(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups(["ab", "abcabc", "b"], ["ba", "cccc"])
    found = []
    for tokens in (1, 100000):
        one = make("airl", make_policy, tokenizer, micro_batch_tokens=tokens)
        one.learn(groups, 0)
        found.append(torch.cat([p.grad.flatten() for p in one.updater.model.parameters() if p.grad is not None]))
    assert float(found[0].norm()) > 0.01
    assert torch.allclose(*found, atol=1e-6)


def test_resuming_is_exact(make_policy, tokenizer, make_groups) -> None:
    groups = make_groups(["ab", "12"], ["1 b 2"])
    whole = make("gail", make_policy, tokenizer, perturbed=1)
    first = make("gail", make_policy, tokenizer, perturbed=1)
    whole.learn(groups, 0)
    first.learn(groups, 0)
    second = make("gail", make_policy, tokenizer, perturbed=1)
    second.load_state(first.state())
    whole.learn(groups, 1)
    second.learn(groups, 1)
    assert second.budget == whole.budget
    for a, b in zip(whole.updater.model.parameters(), second.updater.model.parameters(), strict=True):
        assert torch.equal(a, b)
