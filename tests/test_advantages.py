"""Closed forms of docs/recipes.md B10 and B2: baselines, credit rules, and their mix."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from repirl.learn.advantages import (
    leave_one_out_return_to_go,
    leave_one_out_sequence,
    leave_one_out_steps,
    min_form,
    outcome_advantages,
    standardised_steps,
)
from repirl.learn.credit import LeaveOneOut, _step_signal, progress
from repirl.learn.credit_config import (
    AlphaCredit,
    MinFormCredit,
    OutcomeCredit,
    ProcessCredit,
    ReturnToGoCredit,
    SequenceCredit,
    StepCredit,
)
from repirl.types import Outcome, Problem, Rollout, RolloutGroup, StepRewards, Verdict

NAN = float("nan")


def rewards_of(tokens, ends=None, steps=None, mask=None) -> StepRewards:
    tokens_T = np.array(tokens, dtype=np.float32)
    ends_S = np.array([len(tokens_T) - 1] if ends is None else ends, dtype=np.int64)
    steps_S = np.zeros(len(ends_S), dtype=np.float32) if steps is None else np.array(steps, dtype=np.float32)
    mask_S = np.ones(len(ends_S), dtype=bool) if mask is None else np.array(mask, dtype=bool)
    return StepRewards(tokens_T, ends_S, steps_S, mask_S)


def paid_by(config, groups, process, done: float = 0.0) -> list[list[np.ndarray]]:
    """Advantages by the leave-one-out rule that `config` says."""
    return LeaveOneOut(config).advantages(groups, process, done)


def group_of(lengths: list[int], outcomes: list[Outcome]) -> RolloutGroup:
    rollouts = tuple(
        Rollout("p", i, (1,), np.zeros(n, np.int64), np.zeros(n, np.float32), "", "stop", 1.0) for i, n in enumerate(lengths)
    )
    return RolloutGroup(Problem("p", "f", "", "math"), rollouts, tuple(Verdict(outcome) for outcome in outcomes))


def random_group(seed: int, n: int = 4) -> list[StepRewards]:
    rng = np.random.default_rng(seed)
    return [rewards_of(rng.normal(size=int(rng.integers(1, 9)))) for _ in range(n)]


@pytest.mark.parametrize(
    "config", [SequenceCredit(process_weight=1), ReturnToGoCredit(process_weight=1), MinFormCredit(process_weight=1)]
)
def test_what_the_reward_did_not_score_is_in_nobodys_baseline(config) -> None:
    """A rollout of which nothing was read earns nothing, and the others earn what they would without it."""
    read = [rewards_of([0, 0.2, 0, 0.9], [1, 3], [0.2, 0.9]), rewards_of([0.4], None, [0.4]), rewards_of([0, 0.8], None, [0.8])]
    silent = rewards_of([0, 0, 0], None, None, [False])
    lengths = [len(one.token_rewards) for one in read]
    alone = paid_by(config, [group_of(lengths, ["wrong"] * 3)], [read])[0]
    beside = paid_by(config, [group_of([*lengths, 3], ["wrong"] * 4)], [[*read, silent]])[0]
    assert beside[3].tolist() == [0, 0, 0]
    for one, other in zip(alone, beside, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert np.abs(one).max() > 0


def test_a_sequence_is_worth_the_mean_of_its_scored_tokens() -> None:
    """Scores at the ends of steps: as many tokens more between them change nothing."""
    short, long = rewards_of([0.2, 0.9], [0, 1], [0.2, 0.9]), rewards_of([0, 0, 0.2, 0, 0, 0.9], [2, 5], [0.2, 0.9])
    masked = [replace(short, token_mask=np.array([1, 1], bool)), replace(long, token_mask=long.token_rewards > 0)]
    found = paid_by(SequenceCredit(process_weight=1), [group_of([2, 6], ["wrong", "wrong"])], [masked])[0]
    assert [one.tolist() for one in found] == [[0, 0], [0] * 6]


# ---------------------------------------------------------------------------------------------- outcome


def test_recipes_b10_numbers():
    rewards = np.array([1.0, 0, 0, 0])
    assert outcome_advantages(rewards, "rloo") == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3], abs=1e-12)
    assert outcome_advantages(rewards, "grpo", eps=0) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-12)
    assert outcome_advantages(rewards, "grpo") == pytest.approx(np.array([0.75, -0.25, -0.25, -0.25]) / (0.5 + 1e-4))
    assert outcome_advantages(rewards, "grpo_no_std") == pytest.approx([0.75, -0.25, -0.25, -0.25])


@pytest.mark.parametrize("seed", range(3))
def test_rloo_by_trl_and_by_verl_are_one_number(seed):
    rewards = np.random.default_rng(seed).normal(size=5)
    by_definition = [rewards[i] - np.delete(rewards, i).mean() for i in range(5)]
    assert outcome_advantages(rewards, "rloo") == pytest.approx(by_definition)
    assert outcome_advantages(rewards, "rloo") == pytest.approx(5 / 4 * (rewards - rewards.mean()))


@pytest.mark.parametrize("how", ["rloo", "grpo", "grpo_no_std"])
def test_ungraded_rollouts_are_masked_and_in_no_baseline(how):
    with_hole = outcome_advantages(np.array([1.0, NAN, 0, 0]), how)
    without = outcome_advantages(np.array([1.0, 0, 0]), how)
    assert with_hole[1] == 0
    assert np.delete(with_hole, 1) == pytest.approx(without)


@pytest.mark.parametrize("how", ["rloo", "grpo", "grpo_no_std"])
@pytest.mark.parametrize("rewards", [[1.0], [1.0, NAN], [NAN, NAN], [1.0, 1, 1], [0.0, 0, 0], []])
def test_nothing_to_compare_with_gives_zero_not_nan(how, rewards):
    assert outcome_advantages(np.array(rewards), how).tolist() == [0.0] * len(rewards)


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="nope"):
        outcome_advantages(np.array([0.0, 1.0]), "nope")  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------------------------------- process


@pytest.mark.parametrize("seed", range(3))
def test_sequence_credit_is_mean_minus_mean_of_the_other_means(seed):
    group = random_group(seed)
    means = np.array([g.token_rewards.mean() for g in group])
    for i, advantage_T in enumerate(leave_one_out_sequence(group)):
        assert advantage_T == pytest.approx(
            np.full(len(group[i].token_rewards), means[i] - np.delete(means, i).mean()), abs=1e-6
        )


@pytest.mark.parametrize("seed", range(3))
def test_return_at_the_start_is_length_times_difference_of_means(seed):
    group = random_group(seed)
    means = np.array([g.token_rewards.mean(dtype=np.float64) for g in group])
    for i, returns_T in enumerate(leave_one_out_return_to_go(group)):
        assert returns_T[0] == pytest.approx(len(returns_T) * (means[i] - np.delete(means, i).mean()))


@pytest.mark.parametrize("seed", range(3))
def test_return_to_go_is_the_identity_of_recipes_b2(seed):
    """r' = (r - mean of the other means) + (r - own mean)/(n - 1), summed from each token to the end."""
    group = random_group(seed)
    n = len(group)
    means = np.array([g.token_rewards.mean(dtype=np.float64) for g in group])
    for i, returns_T in enumerate(leave_one_out_return_to_go(group)):
        r_T = group[i].token_rewards.astype(np.float64)
        centred_T = (r_T - np.delete(means, i).mean()) + (r_T - means[i]) / (n - 1)
        assert returns_T == pytest.approx([centred_T[t:].sum() for t in range(len(r_T))])


def test_step_credit_compares_with_the_others_at_the_same_step():
    group = [
        rewards_of([0] * 5, ends=[1, 4], steps=[1.0, 0.0]),
        rewards_of([0] * 3, ends=[0, 2], steps=[0.0, 1.0]),
        rewards_of([0] * 2, ends=[1], steps=[0.5]),
    ]
    first, second, third = leave_one_out_steps(group)
    assert first == pytest.approx([0.75, 0.75, -1, -1, -1])
    assert second == pytest.approx([-0.75, 1, 1])
    assert third == pytest.approx([0, 0])


def test_a_step_that_nobody_else_has_is_held_against_all_their_steps():
    alone = rewards_of([0] * 4, ends=[0, 1, 3], steps=[1, 1, 1])
    other = rewards_of([0] * 2, ends=[0, 1], steps=[0.0, 0.5])
    assert leave_one_out_steps([alone, other])[0] == pytest.approx([1, 0.5, 0.75, 0.75])


def test_masked_steps_earn_nothing_and_are_in_nobodys_baseline():
    broken = rewards_of([0] * 3, ends=[0, 1, 2], steps=[1, 0, 9], mask=[True, True, False])
    whole = rewards_of([0] * 3, ends=[0, 1, 2], steps=[1, 1, 1])
    third = rewards_of([0] * 3, ends=[0, 1, 2], steps=[1, 1, 0])
    credit = leave_one_out_steps([broken, whole, third])
    assert credit[0] == pytest.approx([0, -1, 0])
    assert credit[1] == pytest.approx([0, 0.5, 1])
    assert credit[2] == pytest.approx([0, 0.5, -1])


@pytest.mark.parametrize("rule", [leave_one_out_sequence, leave_one_out_return_to_go, leave_one_out_steps])
def test_a_constant_reward_has_no_advantage_and_one_rollout_none_either(rule):
    constant = [rewards_of(np.ones(n), steps=[1.0]) for n in (2, 5, 3)]
    assert all(np.abs(advantage_T).max() < 1e-12 for advantage_T in rule(constant))
    assert rule([rewards_of([3.0, 1.0], steps=[2.0])])[0].tolist() == [0, 0]


def test_progress_pays_the_change_and_keeps_the_first_score():
    paid = progress(rewards_of([1, 2, 3], ends=[0, 1, 2], steps=[0.5, 0.25, 1.0]))
    assert paid.step_rewards == pytest.approx([0.5, -0.25, 0.75])
    assert paid.step_rewards.sum() == pytest.approx(1.0)
    assert paid.token_rewards.tolist() == [1, 2, 3]


# -------------------------------------------------------------------------------------------------- mix


def test_recipes_b2_oracle_prime_advantages():
    """n = 2, process scores [[0.2, -0.1, 0], [0.1, 0.3]], outcomes [1, 0] (docs/recipes.md B2, item 10)."""
    groups = [group_of([3, 2], ["correct", "wrong"])]
    process = [[rewards_of([0.2, -0.1, 0.0]), rewards_of([0.1, 0.3])]]
    returns = paid_by(ReturnToGoCredit(process_weight=1.0), groups, process)[0]
    assert returns[0] == pytest.approx([0.5, 0.33333, 0.76667], abs=1e-5)
    assert returns[1] == pytest.approx([-0.66667, -0.63333], abs=1e-5)
    white = paid_by(ReturnToGoCredit(process_weight=1.0, whiten=True), groups, process)[0]
    assert white[0] == pytest.approx([0.66025, 0.41015, 1.06040], abs=1e-5)
    assert white[1] == pytest.approx([-1.09041, -1.04039], abs=1e-5)


def test_sources_are_weighted_after_their_own_baselines():
    groups = [group_of([2, 1], ["correct", "wrong"])]
    process = [[rewards_of([0.5, 0.5]), rewards_of([0.1])]]
    mixed = paid_by(SequenceCredit(outcome_weight=2, process_weight=10), groups, process)[0]
    assert mixed[0] == pytest.approx([2 + 4, 2 + 4])
    assert mixed[1] == pytest.approx([-2 - 4])
    assert mixed[0].dtype == np.float32


def test_the_outcome_rule_looks_at_no_process_reward_and_outcome_weight_zero_is_process_only():
    groups = [group_of([2, 1], ["correct", "wrong"])]
    process = [[rewards_of([0.5, 0.5]), rewards_of([0.1])]]
    for scored in (process, None):
        assert [a.tolist() for a in paid_by(OutcomeCredit(), groups, scored)[0]] == [[1, 1], [-1]]
    with pytest.raises(ValueError, match="pays a process reward"):
        paid_by(SequenceCredit(process_weight=1), groups, None)
    only_process = paid_by(SequenceCredit(outcome_weight=0, process_weight=1), groups, process)[0]
    assert np.concatenate(only_process) == pytest.approx([0.4, 0.4, -0.4])


def test_batch_std_makes_the_process_part_of_unit_size():
    groups = [group_of([2, 1], ["wrong", "wrong"])]
    for size in (1.0, 1000.0):
        process = [[rewards_of([size, size]), rewards_of([0.0])]]
        mixed = paid_by(SequenceCredit(process_weight=0.3, process_scale="batch_std"), groups, process)[0]
        assert math.sqrt(np.mean(np.concatenate(mixed) ** 2)) == pytest.approx(0.3, rel=1e-5)


def _steps(*scores: float):
    return rewards_of(np.zeros(len(scores)), ends=range(len(scores)), steps=list(scores))


def _process_only(process, **mix) -> list[list[float]]:
    groups = [group_of([len(r.step_rewards) for r in group], ["wrong"] * len(group)) for group in process]
    config = StepCredit(outcome_weight=0, process_weight=1, **mix)
    return [a.tolist() for group in paid_by(config, groups, process) for a in group]


def test_nothing_is_paid_after_the_first_doubtful_step():
    """Of eight scores the two below the quarter quantile (0.1 and 0.2) are doubtful: each is still paid, later steps not."""
    process = [[_steps(0.9, 0.1, 0.8, 0.95), _steps(0.7, 0.6, 0.2, 0.85)]]
    paid = _process_only(process, doubtful_share=0.25)
    assert paid[0] == pytest.approx([0.9 - 0.7, 0.1 - 0.6, 0, 0])
    # The other rollout's third step is not in the baseline any more: it is the mean of what the other still earns.
    assert paid[1] == pytest.approx([0.7 - 0.9, 0.6 - 0.1, 0.2 - 0.5, 0])
    everything = _process_only(process)
    assert everything[0] == pytest.approx([0.2, -0.5, 0.6, 0.1])


def test_steps_are_doubtful_below_what_as_many_rollouts_stay_above_as_are_correct():
    """Two of four rollouts are correct: the limit is the third lowest of the least step scores (0.1, 0.3, 0.6, 0.7)."""
    process = [[_steps(0.9, 0.1, 0.8), _steps(0.7, 0.6)], [_steps(0.3, 0.2 + 0.1), _steps(0.7, 0.9)]]
    groups = [group_of([3, 2], ["wrong", "correct"]), group_of([2, 2], ["wrong", "correct"])]
    config = StepCredit(outcome_weight=0, process_weight=1, signal="right", doubtful="outcome")
    paid = [a.tolist() for group in paid_by(config, groups, process) for a in group]
    # 1 for each step above the limit, 0 for the first below it, nothing after that; minus the other rollout's at that step.
    assert paid[0] == pytest.approx([1 - 1, 0 - 1, 0])
    assert paid[1] == pytest.approx([1 - 1, 1 - 0])
    assert paid[2] == pytest.approx([0 - 1, 0])
    assert paid[3][0] == pytest.approx(1 - 0)
    # All correct: nothing is doubtful. All failed: every rollout has a doubtful step.
    for outcome, expected in (("correct", 1.0), ("wrong", 0.0)):
        groups = [group_of([1, 1], [outcome, outcome])]
        scored = [[_steps(0.5), _steps(0.2)]]
        assert _step_signal(scored, [[v.reward for v in groups[0].verdicts]], config)[0][0].step_rewards.tolist() == [expected]
    with pytest.raises(ValueError, match="signal=right"):
        StepCredit(process_weight=1, signal="right")


def test_equal_scores_are_not_doubtful():
    process = [[_steps(0.5, 0.5), _steps(0.5)], [_steps(0.5, 0.5, 0.5), _steps(0.5)]]
    assert all(value == 0 for a in _process_only(process, doubtful_share=0.4) for value in a)


def test_ranks_have_no_scale_and_keep_the_order():
    """Mid-ranks over the batch: any increasing map of the scores gives the same advantages, a decreasing one the opposite."""
    scores = [[[0.9, 0.1], [0.4, 0.4]], [[-2.0, 5.0], [0.0]]]
    paid = [_process_only([[_steps(*map(f, r)) for r in g] for g in scores], signal="rank") for f in (float, math.exp)]
    assert paid[0] == paid[1]
    # 0.9 has six of seven below or half of itself: (5 + 0.5) / 7; 0.4 twice: (3 + 1) / 7.
    assert paid[0][0][0] == pytest.approx(5.5 / 7 - 4 / 7)
    flipped = _process_only([[_steps(*(-x for x in r)) for r in g] for g in scores], signal="rank")
    assert np.concatenate(flipped) == pytest.approx(-np.concatenate(paid[0]))


def test_the_fraction_of_tests_is_an_outcome_reward_if_asked_for():
    group = group_of([1, 1, 1], ["correct", "wrong", "ungraded"])
    half = Verdict("wrong", score=0.5, tests_passed=1, tests_total=2)
    group = replace(group, verdicts=(group.verdicts[0], half, group.verdicts[2]))
    plain = paid_by(OutcomeCredit(), [group], None)[0]
    assert np.concatenate(plain) == pytest.approx([1, -1, 0])
    partial = paid_by(OutcomeCredit(fraction_of_tests=True), [group], None)[0]
    assert np.concatenate(partial) == pytest.approx([0.5, -0.5, 0])


def test_a_schedule_multiplies_the_process_weight():
    groups = [group_of([2, 1], ["correct", "wrong"])]
    process = [[rewards_of([0.5, 0.5]), rewards_of([0.1])]]
    config = SequenceCredit(process_weight=1.0, process_starts=0.25, process_ends=0.75)
    half = paid_by(config, groups, process, 0.5)[0]
    assert np.concatenate(half) == pytest.approx([1 + 0.2, 1 + 0.2, -1 - 0.2])
    for done in (0.0, 0.75, 0.9):
        assert np.concatenate(paid_by(config, groups, process, done)[0]) == pytest.approx([1, 1, -1])


def test_the_process_weight_falls_linearly_over_its_share_of_training():
    """Whatever the number of steps: a schedule is a function of the share of training that lies behind."""
    config = SequenceCredit(process_weight=1.0, process_starts=0.25, process_ends=0.75)
    for steps in (8, 80):
        shares = [config.process_share(step / steps) for step in range(0, steps, steps // 8)]
        assert shares == pytest.approx([0, 0, 1, 0.75, 0.5, 0.25, 0, 0])
    assert [SequenceCredit(process_weight=1.0).process_share(done) for done in (0, 0.99)] == [1, 1]
    with pytest.raises(ValueError, match="behind process_starts"):
        SequenceCredit(process_weight=1.0, process_starts=0.5, process_ends=0.5)


@pytest.mark.parametrize("whiten", [False, True])
def test_an_ungraded_rollout_is_not_moved(whiten):
    """Not by its process reward, and not by the shift of whitening."""
    groups = [group_of([2, 3, 2, 1], ["correct", "ungraded", "wrong", "correct"])]
    process = [[rewards_of([0.5, 0.1]), rewards_of([9.0, 9, 9]), rewards_of([0.1, 0.0]), rewards_of([0.2])]]
    mixed = paid_by(SequenceCredit(process_weight=0.5, whiten=whiten), groups, process)[0]
    assert mixed[1].tolist() == [0, 0, 0]
    assert all(np.abs(mixed[i]).max() > 0 for i in (0, 2, 3))
    if whiten:
        others = np.concatenate([mixed[i] for i in (0, 2, 3)])
        assert others.mean() == pytest.approx(0, abs=1e-6)
        assert others.std(ddof=1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        SequenceCredit(process_weight=1),
        ReturnToGoCredit(process_weight=1, process_scale="batch_std"),
        StepCredit(process_weight=1),
        StepCredit(process_weight=1, process_scale="batch_std"),
        StepCredit(process_weight=1, signal="rank", doubtful_share=0.3),
    ],
    ids=lambda config: config.rule,
)
def test_what_an_ungraded_rollout_scored_changes_no_other(config: ProcessCredit):
    """It is in no baseline, rank, quantile or scale: the others earn what they would earn without it."""
    scored = [rewards_of([0.5, 0.1]), rewards_of([0.3, 0.2, 0.9]), rewards_of([0.2])]
    without = paid_by(config, [group_of([2, 3, 1], ["correct", "wrong", "correct"])], [scored])[0]
    group = group_of([2, 3, 2, 1], ["correct", "wrong", "ungraded", "correct"])
    found = paid_by(config, [group], [[*scored[:2], rewards_of([100.0, -100.0]), scored[2]]])[0]
    assert found[2].tolist() == [0, 0]
    assert [found[i].tolist() for i in (0, 1, 3)] == [row.tolist() for row in without]


def test_a_batch_of_ungraded_rollouts_alone_earns_nothing():
    config = StepCredit(process_weight=1, process_scale="batch_std", signal="rank")
    found = paid_by(config, [group_of([1, 2], ["ungraded", "ungraded"])], [[rewards_of([1.0]), rewards_of([2.0, 3.0])]])
    assert np.concatenate(found[0]).tolist() == [0, 0, 0]


def test_with_process_rewards_alone_the_outcome_is_not_looked_at():
    process = [[rewards_of([0.5, 0.5]), rewards_of([0.1])]]
    config = SequenceCredit(outcome_weight=0, process_weight=1)
    ungraded = paid_by(config, [group_of([2, 1], ["ungraded", "wrong"])], process)[0]
    graded = paid_by(config, [group_of([2, 1], ["correct", "correct"])], process)[0]
    assert [a.tolist() for a in ungraded] == [a.tolist() for a in graded]


# ------------------------------------------------------------------------------------ min form, alpha mix


def test_min_form_by_hand():
    """Temperature 1, rewards 0 and ln 2: weights 2/3 and 1/3, so ln 2 / 3 at the second step; the other earns -1 at its end."""
    group = [rewards_of([0] * 4, ends=[1, 3], steps=[0, math.log(2)]), rewards_of([0] * 2, ends=[1], steps=[-1])]
    first, second = min_form(group, 1.0)
    own = math.log(2) / 3
    assert first == pytest.approx([own + 1, own + 3 / 4, own + 2 / 4, own + 1 / 4])
    assert second == pytest.approx([-1 - own, -1 - own / 2])


def test_a_cold_min_form_is_the_lowest_step():
    """At the first token: the lowest reward minus the mean of the others' lowest; unrewarded steps do not count."""
    group = [
        rewards_of([0] * 3, ends=[0, 1, 2], steps=[0.9, 0.2, 0.7]),
        rewards_of([0] * 3, ends=[0, 1, 2], steps=[0.8, 0.6, -9], mask=[True, True, False]),
        rewards_of([0] * 2, ends=[1], steps=[0.5]),
    ]
    lowest = np.array([0.2, 0.6, 0.5])
    found = [one[0] for one in min_form(group, 1e-3)]
    assert found == pytest.approx(lowest - (lowest.sum() - lowest) / 2, abs=1e-6)
    assert min_form(group[:1], 0.1)[0].tolist() == [0, 0, 0]
    nothing = rewards_of([0] * 2, ends=[1], steps=[5], mask=[False])
    assert min_form([nothing, nothing], 0.1)[0].tolist() == [0, 0]


def test_min_form_as_a_rule_has_the_process_weight():
    groups, process = (
        [group_of([3, 2], ["correct", "wrong"])],
        [[rewards_of([0] * 3, steps=[1]), rewards_of([0] * 2, steps=[0])]],
    )
    found = paid_by(MinFormCredit(process_weight=2.0, outcome_weight=0.0), groups, process)
    assert found[0][0][0] == pytest.approx(2.0)
    assert found[0][1][0] == pytest.approx(-2.0)


def test_standardised_steps_by_hand():
    """Rewards 1, 0 and -1: mean 0, unbiased std 1; returns-to-go of z at the ends of the steps."""
    group = [rewards_of([0] * 3, ends=[1, 2], steps=[1, 0]), rewards_of([0] * 2, ends=[1], steps=[-1])]
    first, second = standardised_steps(group, eps=0)
    assert first.tolist() == [1, 1, 0]
    assert second.tolist() == [-1, -1]
    same = [rewards_of([0] * 2, ends=[1], steps=[0.3])] * 2
    assert [one.tolist() for one in standardised_steps(same)] == [[0, 0]] * 2


def test_alpha_mix_goes_from_process_to_outcome():
    """(1 - alpha) of the outcome's z-score and alpha of the steps'; alpha falls from 0.5 to 0.005 exponentially."""
    groups = [group_of([3, 2], ["correct", "wrong"])]
    process = [[rewards_of([0] * 3, ends=[1, 2], steps=[-1, 0]), rewards_of([0] * 2, ends=[1], steps=[1])]]
    config = AlphaCredit(alpha=0.5, alpha_end=0.005)
    outcome = outcome_advantages(np.array([1.0, 0.0]), "grpo")
    for done, alpha in ((0.0, 0.5), (0.5, 0.05), (1.0, 0.005)):
        assert config.alpha_at(done) == pytest.approx(alpha)
        first, second = paid_by(config, groups, process, done)[0]
        assert first == pytest.approx((1 - alpha) * outcome[0] + alpha * np.array([-1, -1, 0]), abs=1e-5)
        assert second == pytest.approx((1 - alpha) * outcome[1] + alpha * np.array([1, 1]), abs=1e-5)
    with pytest.raises(ValueError, match="there is none"):
        paid_by(config, groups, None)


def test_an_ungraded_rollout_is_in_nobodys_standard_or_minimum():
    groups = [group_of([2, 2, 2], ["correct", "wrong", "ungraded"])]
    alone = [group_of([2, 2], ["correct", "wrong"])]
    process = [[rewards_of([0] * 2, steps=[r]) for r in (1, 0, 50)]]
    for config in (AlphaCredit(), MinFormCredit(process_weight=1.0)):
        found = paid_by(config, groups, process)[0]
        assert found[2].tolist() == [0, 0]
        for one, other in zip(found[:2], paid_by(config, alone, [process[0][:2]])[0], strict=True):
            assert one == pytest.approx(other)
