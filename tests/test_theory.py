"""The theory in numbers: the enumeration by hand, that every check holds, and that each would see a mistake."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repirl.cli import main as cli
from repirl.learn import discriminator, irl, policy_losses
from repirl.theory import fixed_points, inverse, logistic, optimal, unification
from repirl.theory.checks import Check, minimised, relative, run_check, turned
from repirl.theory.inverse import ascent, one_prompt
from repirl.theory.trees import Tree, exact_sample, make_tree, random_tree
from repirl.theory.verify import CHECKS, verify

BY_FUNCTION = {check.residual.__name__: check for check in CHECKS}
LOG2, LOG3, LOG6 = math.log(2), math.log(3), math.log(6)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- by hand


def test_a_tree_whose_episodes_may_end() -> None:
    """Token 0 ends: (0), (1, 0), (1, 1). The states are the empty prefix and (1)."""
    tree = make_tree(2, 2, ends=True)
    assert tree.paths_NT.tolist() == [[0, 4], [1, 2], [1, 3]]
    assert tree.lengths_N.tolist() == [1, 2, 2]
    assert tree.child_SV.tolist() == [[2, 1], [2, 2]]
    table = tensor([[1.0, 10.0], [100.0, 1000.0]])
    assert tree.sums(table).tolist() == [1, 110, 1010]
    assert tree.at_end(tensor([5.0, 6.0, 7.0])).tolist() == [[5, 0], [6, 7]]
    assert tree.next_values(tensor([3.0, 4.0])).tolist() == [[0, 4], [0, 0]]


def test_all_sequences_of_a_tree() -> None:
    tree = make_tree(3, 2)
    assert tree.shape == (4, 3)
    assert tree.paths_NT.tolist() == [[a, 3 + 3 * a + b] for a in range(3) for b in range(3)]
    assert tree.lengths_N.tolist() == [2] * 9
    sizes = {(v, t, ends): len(make_tree(v, t, ends=ends).paths_NT) for v, t, ends in [(5, 4, False), (3, 4, True)]}
    assert sizes == {(5, 4, False): 625, (3, 4, True): 1 + 2 + 4 + 8 * 3}


def test_soft_values_and_visits_by_hand() -> None:
    """exp(r) of the three trajectories is 3, 2 and 1: Z = 6, and from (1) on it is 3."""
    tree = make_tree(2, 2, ends=True)
    reward = tensor([[LOG3, 0.0], [LOG2, 0.0]])
    best = tree.soft_optimum(reward, 1.0)
    assert best.v_S.tolist() == pytest.approx([LOG6, LOG3])
    assert best.q_SV.flatten().tolist() == pytest.approx([LOG3, LOG3, LOG2, 0])
    assert best.log_policy_SV.exp().flatten().tolist() == pytest.approx([1 / 2, 1 / 2, 2 / 3, 1 / 3])
    assert tree.sums(best.log_policy_SV).exp().tolist() == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert tree.visits(best.log_policy_SV).flatten().tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 6])
    assert tree.conditionals(tensor([3 / 6, 2 / 6, 1 / 6])).exp().flatten().tolist() == pytest.approx(
        [1 / 2, 1 / 2, 2 / 3, 1 / 3]
    )
    # Its return is 1/2 log 3 + 1/3 log 2, and with its entropy it earns V* = log 6.
    assert tree.values(best.log_policy_SV, reward)[0].item() == pytest.approx(LOG3 / 2 + LOG2 / 3)
    assert tree.values(best.log_policy_SV, reward - best.log_policy_SV).tolist() == pytest.approx([LOG6, LOG3])
    assert optimal.eq6(tree, best.log_policy_SV, reward, 1.0).item() == pytest.approx(LOG6)
    # Twice the reward at twice the temperature is the same policy.
    assert tree.soft_optimum(2 * reward, 2.0).v_S.tolist() == pytest.approx([2 * LOG6, 2 * LOG3])


def test_what_is_trained_by_hand() -> None:
    """The expert writes (1, 1) always: its visits minus the soft-optimal ones of the test above. Rollouts are uniform."""
    tree = make_tree(2, 2, ends=True)
    reward = tensor([[LOG3, 0.0], [LOG2, 0.0]]).requires_grad_()
    sides = [one_prompt(tree, tree.sums(reward), torch.tensor(rows)) for rows in ([0, 1, 2], [2])]
    found = ascent(reward, sides[0], tensor([1 / 3] * 3).log(), sides[1])
    assert found.flatten().tolist() == pytest.approx([-1 / 2, 1 / 2, -1 / 3, 5 / 6])
    assert inverse.eq2(tree, reward, tensor([1e-30, 1e-30, 1.0])).flatten().tolist() == pytest.approx(found.flatten().tolist())


def test_exact_samples_have_the_frequencies_that_they_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        tree = random_tree(rng)
        sample = exact_sample(rng, tree)
        counts_N = torch.bincount(sample.rows_R)
        assert int(counts_N.min()) >= 1
        assert torch.allclose(counts_N.double() / len(sample.rows_R), sample.probabilities_N)
        assert tree.vocabulary in (3, 4, 5)
        assert tree.steps in (3, 4)


def test_distances() -> None:
    assert relative(tensor([3.0, 4.0]), tensor([0.0, 0.0])) == 1
    assert relative(tensor([0.0]), tensor([0.0])) == 0
    assert turned(tensor([1.0, 0.0]), tensor([7.0, 0.0])) == 0
    assert turned(tensor([1.0, 0.0]), tensor([-2.0, 0.0])) == 2
    assert minimised(lambda at: (at - 3).square().sum(), tensor([[0.0, 9.0]])).flatten().tolist() == pytest.approx([3, 3])


def test_limits_of_a_check() -> None:
    results = {
        (kind, value): run_check(Check("x", "y", lambda rng, value=value: value, 0.5, kind), 2, 0)
        for kind in ("equal", "differs")
        for value in (0.4, 0.6, math.nan)
    }
    assert {key for key, one in results.items() if one.passed} == {("equal", 0.4), ("differs", 0.6)}
    broken = run_check(Check("x", "y", lambda rng: math.inf), 2, 0)
    assert (broken.passed, broken.max_residual, broken.min_residual) == (False, None, None)
    draws: list[float] = []
    run_check(Check("x", "y", lambda rng: draws.append(rng.random()) or 0.0), 3, 0)
    assert len(set(draws)) == 3


# ---------------------------------------------------------------------------------------------- it holds


def test_every_check_holds_and_has_its_own_name() -> None:
    found = verify(2, 5)
    assert [one.name for one in found.checks if not one.passed] == []
    assert len({one.name for one in found.checks}) == len(found.checks) == len(CHECKS)
    assert {row["method"] for row in found.unification} == {"DPO", "PRIME", "Math-Shepherd", "DQO"}
    for row in found.unification:
        assert row["max_difference"] < 1e-9
        assert row["min_difference_otherwise"] > 0.05
        assert row["passed"]
    assert verify(2, 5) == found


# ------------------------------------------------------------------------------------- a mistake would be seen

_irl_loss, _signed_weights, _log_weights = irl.irl_loss, irl.signed_weights, irl.log_weights
_normalized, _logistic, _policy_loss = irl.normalized_weights, discriminator.logistic_losses, policy_losses.policy_loss
_soft_optimum, _eq6, _dqo, _progress = Tree.soft_optimum, optimal.eq6, optimal.dqo_loss, logistic.progress_reward


def _negated_policy_loss(*given: Any, **more: Any) -> Any:
    found = _policy_loss(*given, **more)
    return policy_losses.PolicyLoss(-found.loss, 0.0, 0.0, 0.0)


MISTAKES: dict[str, tuple[object, str, Callable[..., Any], str]] = {
    "the loss with its sign swapped": (
        irl,
        "irl_loss",
        lambda scores, weights: -_irl_loss(scores, weights),
        "eq3_is_eq5 eq3_is_eq2 recovered_reward recovered_policy alternated stationary_z dpo prime shepherd",
    ),
    "weights exp(r) pi": (
        irl,
        "log_weights",
        lambda kind, r, logp, lengths, pool=None: (r + logp).detach(),
        "eq3_is_eq5 eq3_is_eq2 sampling_slope recovered_policy z_of_each_prompt mean_of_equal_lengths",
    ),
    "weights exp(r)": (
        irl,
        "log_weights",
        lambda kind, r, logp, lengths, pool=None: r.detach(),
        "eq3_is_eq5 eq3_is_eq2 sampling_slope stationary_z expert_is_stationary",
    ),
    "equal weights": (
        irl,
        "log_weights",
        lambda kind, r, logp, lengths, pool=None: torch.zeros_like(r).detach(),
        "eq3_is_eq5 sampling_slope dpo prime shepherd expert_is_stationary",
    ),
    "the right weights where equal ones are asked for": (
        irl,
        "log_weights",
        lambda kind, r, logp, lengths, pool=None: (r - logp).detach(),
        "equal_weights",
    ),
    "one z for the batch, whatever is asked for": (
        irl,
        "normalized_weights",
        lambda w, prompt, how, shares=None: w.softmax(0),
        "z_of_each_prompt dpo prime shepherd",
    ),
    "a z for each prompt, whatever is asked for": (
        irl,
        "normalized_weights",
        lambda w, prompt, how, shares=None: _normalized(w, prompt, "prompt"),
        "z_of_the_batch",
    ),
    "Eq 5 without its logarithm": (
        irl,
        "eq5_objective",
        lambda expert, policy, logp: expert.mean() - (policy - logp).exp().mean(),
        "eq3_is_eq5 dpo prime shepherd",
    ),
    "all rollouts as negatives": (
        irl,
        "signed_weights",
        lambda config, *rows: _signed_weights(config.model_copy(update={"use_outcome": False}), *rows),
        "failures_only unweighted_at_the_start",
    ),
    "positives for negatives": (
        discriminator,
        "logistic_losses",
        lambda logits, row, positive: _logistic(logits, row, ~positive),
        "stationary_z true_z_as_it_is prime_is_logistic shepherd",
    ),
    "a policy that goes downhill": (policy_losses, "policy_loss", _negated_policy_loss, "trained_policy"),
    "a policy that does not move": (fixed_points, "climb", lambda tree, policy, *rest: policy, "alternated"),
    "soft values at another temperature": (
        Tree,
        "soft_optimum",
        lambda tree, reward, beta: _soft_optimum(tree, reward, beta / 2),
        "stationary boltzmann shortfall searched steps_reference dqo_minimum in_general eq3_is_eq2",
    ),
    "entropy as a cost": (
        optimal,
        "eq6",
        lambda tree, at, r, beta, sign=1.0: _eq6(tree, at, r, beta, -sign),
        "stationary shortfall searched printed_sign trained_policy",
    ),
    "DQO without V of the next state": (
        optimal,
        "dqo_loss",
        lambda at, v, later, *rest: _dqo(at, v, 0 * later, *rest),
        "dqo_bellman dqo_minimum",
    ),
    "the same in the table": (
        unification,
        "dqo_loss",
        lambda at, v, later, *rest: _dqo(at, v, 0 * later, *rest),
        "dqo",
    ),
    "progress that is off by one": (
        logistic,
        "progress_reward",
        lambda tree, *given: _progress(tree, *given) + 1,
        "both_assumptions in_general",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_seen(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    where, name, wrong, seen_by = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong)
    assert [one for one in seen_by.split() if run_check(BY_FUNCTION[one], 2, 0).passed] == []


# ---------------------------------------------------------------------------------------------- the verb


def test_the_verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.run(["verify", "--instances", "1", "--seed", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["seed"], shown["instances"], shown["ok"]) == (3, 1, True)
    keys = {"name", "source", "kind", "instances", "min_residual", "max_residual", "tolerance", "passed"}
    assert all(set(row) == keys and row["instances"] == 1 and row["passed"] for row in shown["checks"])
    assert {"reward", "supervision", "demonstrations", "negatives", "weights", "max_difference"} <= set(shown["unification"][0])
    assert cli.run(["verify", "--instances", "1"]) == 0
    out = capsys.readouterr().out
    assert f"all {len(CHECKS)} checks hold" in out
    assert "Math-Shepherd is rePIRL's Eq 5 with" in out
    assert cli.run(["verify", "--instances", "0"]) == 2

    monkeypatch.setattr(irl, "irl_loss", lambda scores, weights: math.nan * _irl_loss(scores, weights))
    monkeypatch.setattr("repirl.theory.verify.CHECKS", (*inverse.CHECKS[:2], *unification.CHECKS))
    assert cli.run(["verify", "--instances", "1", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert not shown["ok"]
    assert shown["checks"][0] | {"passed": False, "max_residual": None} == shown["checks"][0]
    assert [row["passed"] for row in shown["unification"]] == [False, False, False, True]
    assert cli.run(["verify", "--instances", "1"]) == 1
    out = capsys.readouterr().out
    assert "not a number" in out
    assert " checks fail" in out


def test_a_wrong_baseline_is_seen(monkeypatch):
    """A baseline that has the rollout's own outcome in it at full weight, or a sign swapped, is no gradient of the mean."""
    import repirl.learn.credit as rules
    from repirl.theory.credit import CHECKS as CREDIT

    unbiased = CREDIT[0]
    assert run_check(unbiased, 3, 0).passed
    own = rules.outcome_advantages
    for wrong in (lambda r, how: -own(r, how), lambda r, how: own(r, how) * (r + 1)):
        monkeypatch.setattr(rules, "outcome_advantages", wrong)
        assert not run_check(unbiased, 3, 0).passed
