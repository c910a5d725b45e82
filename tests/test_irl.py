"""Weights, signs and denominators of the inverse RL loss (docs/method.md sections 2, 4, 10; docs/recipes.md B0)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from repirl.config import parse_config
from repirl.errors import UserError
from repirl.learn.discriminator import factor_sums, logistic_losses, logistic_weights
from repirl.learn.irl import (
    IRLConfig,
    effective_sample_size,
    eq5_objective,
    irl_loss,
    log_weights,
    normalized_weights,
    signed_weights,
)

REWARDS = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
LOGPROBS = torch.tensor([-4.0, -1.0, -2.5, -7.0], dtype=torch.float64)
LENGTHS = torch.tensor([4, 1, 2, 8])
EXPONENTS = [5.0, -1.0, 3.0, 10.0]
PROMPTS = torch.tensor([0, 0, 1, 1])


def signed(config: IRLConfig, outcome: list[float], demos: tuple[int, ...] = (0, 1), rewards: Tensor = REWARDS):
    """Four rollouts, two of each of two prompts; `demos` are the prompts of the demonstrations."""
    outcome_B = torch.tensor(outcome, dtype=torch.float64)
    return signed_weights(config, rewards, LOGPROBS, LENGTHS, PROMPTS, outcome_B, torch.tensor(demos, dtype=torch.long))


# ---------------------------------------------------------------------------------------------- weights


def test_log_weights_are_reward_minus_logprob():
    assert log_weights("sequence", REWARDS, LOGPROBS, LENGTHS).tolist() == pytest.approx(EXPONENTS)
    assert log_weights("length_normalized", REWARDS, LOGPROBS, LENGTHS).tolist() == pytest.approx([1.25, -1, 1.5, 1.25])
    assert log_weights("none", REWARDS, LOGPROBS, LENGTHS).tolist() == [0, 0, 0, 0]


def test_truncated_weights_stop_at_root_k_times_the_mean():
    weights = log_weights("truncated", REWARDS, LOGPROBS, LENGTHS).exp()
    raw = torch.tensor(EXPONENTS, dtype=torch.float64).exp()
    assert weights[3].item() == pytest.approx(math.sqrt(4) * raw.mean().item())
    assert torch.allclose(weights[:3], raw[:3])
    equal = log_weights("truncated", torch.zeros(4), torch.zeros(4), LENGTHS)
    assert equal.tolist() == [0, 0, 0, 0]


def test_truncation_is_within_what_is_normalised_together():
    """Weights of two prompts have no common scale: a constant on one prompt's changes nothing (docs/recipes.md B0, item 2)."""
    config = IRLConfig(weights="truncated", normalize="prompt", use_outcome=False)
    plain = signed(config, [0, 0, 0, 0]).rollouts_B
    shifted = signed(config, [0, 0, 0, 0], rewards=REWARDS + 50 * (PROMPTS == 1)).rollouts_B
    assert torch.allclose(plain, shifted)
    # exp(10), exp(3) capped at sqrt(2) times their mean
    cap = (math.e**10 + math.e**3) / 2 * math.sqrt(2)
    assert plain[3].item() == pytest.approx(0.5 * cap / (cap + math.e**3))


def test_thousand_token_sequences_do_not_overflow():
    weights = normalized_weights(
        log_weights("sequence", torch.tensor([0.0, 0.0]), torch.tensor([-3000.0, -3001.0]), torch.tensor([1000, 1000])),
        torch.zeros(2),
        "batch",
    )
    assert weights.tolist() == pytest.approx([1 / (1 + math.e), 1 / (1 + math.exp(-1))])
    assert weights.dtype == torch.float64


def test_batch_and_prompt_normalisation():
    exponents = torch.tensor(EXPONENTS, dtype=torch.float64)
    batch = normalized_weights(exponents, PROMPTS, "batch")
    assert torch.allclose(batch, exponents.exp() / exponents.exp().sum())
    prompt = normalized_weights(exponents, PROMPTS, "prompt")
    assert prompt[:2].tolist() == pytest.approx([0.5 / (1 + math.exp(-6)), 0.5 / (1 + math.exp(6))])
    assert prompt[2:].tolist() == pytest.approx([0.5 / (1 + math.exp(7)), 0.5 / (1 + math.exp(-7))])
    shifted = exponents + 9 * (PROMPTS == 0)
    assert torch.allclose(normalized_weights(shifted, PROMPTS, "prompt"), prompt)
    assert not torch.allclose(normalized_weights(shifted, PROMPTS, "batch"), batch, atol=1e-2)
    assert normalized_weights(torch.zeros(0), torch.zeros(0), "prompt").tolist() == []


def test_effective_sample_size():
    assert effective_sample_size(torch.full((5,), 0.2)) == pytest.approx(5)
    assert effective_sample_size(torch.tensor([1.0, 0, 0])) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([0.75, 0.25])) == pytest.approx(1 / (0.5625 + 0.0625))
    assert effective_sample_size(torch.zeros(0)) == 0


# ------------------------------------------------------------------------------------------------ signs


def test_algorithm_1_failed_down_correct_and_demonstrations_up():
    weights = signed(IRLConfig(), [0, 1, 0, 0])
    failed = torch.tensor([5.0, 3.0, 10.0], dtype=torch.float64).softmax(0)
    assert torch.allclose(weights.rollouts_B[[0, 2, 3]], failed)
    assert weights.rollouts_B[1].item() == pytest.approx(-1 / 3)  # two demonstrations and one pseudo-expert
    assert weights.demonstrations_E.tolist() == pytest.approx([-1 / 3] * 2)
    assert weights.num_negatives == 3
    assert weights.effective_sample_size == pytest.approx(float(1 / failed.square().sum()))


def test_positives_over_all_rollouts_as_algorithm_1_prints_it():
    weights = signed(IRLConfig(positive_denominator="rollouts"), [0, 1, 0, 0])
    assert weights.rollouts_B[1].item() == pytest.approx(-1 / 4)
    assert weights.demonstrations_E.tolist() == pytest.approx([-1 / 4] * 2)


def test_without_pseudo_experts_correct_rollouts_take_no_part():
    weights = signed(IRLConfig(pseudo_experts=False), [0, 1, 0, 0])
    assert weights.rollouts_B[1].item() == 0
    assert weights.demonstrations_E.tolist() == pytest.approx([-1 / 2] * 2)


def test_prm_only_looks_at_no_outcome():
    config = IRLConfig(use_outcome=False)
    weights = signed(config, [0, 1, math.nan, 0])
    assert torch.allclose(weights.rollouts_B, torch.tensor(EXPONENTS, dtype=torch.float64).softmax(0))
    assert weights.num_negatives == 4
    assert weights.demonstrations_E.tolist() == pytest.approx([-1 / 2] * 2)


@pytest.mark.parametrize("kind", ["sequence", "length_normalized", "truncated", "none"])
@pytest.mark.parametrize("normalize", ["batch", "prompt"])
def test_ungraded_rollouts_take_no_part(kind, normalize):
    config = IRLConfig(weights=kind, normalize=normalize)
    with_hole = signed(config, [0, 0, math.nan, 1], demos=(0, 0))
    keep = torch.tensor([0, 1, 3])
    without = signed_weights(
        config, REWARDS[keep], LOGPROBS[keep], LENGTHS[keep], PROMPTS[keep], torch.tensor([0.0, 0, 1]).double(), PROMPTS[:2]
    )
    assert with_hole.rollouts_B[2].item() == 0
    assert torch.allclose(with_hole.rollouts_B[keep], without.rollouts_B)
    assert torch.allclose(with_hole.demonstrations_E, without.demonstrations_E)


def test_positives_within_prompts_balance_each_prompts_negatives():
    """Weights and shares sum to the same within each prompt that has negatives; the others take no part."""
    config = IRLConfig(normalize="prompt", positive_denominator="prompt")
    both = signed(config, [0, 1, 0, 0], demos=(0, 1, 1))
    assert both.rollouts_B[1].item() == pytest.approx(-1 / 4)
    assert both.demonstrations_E.tolist() == pytest.approx([-1 / 4] * 3)
    for prompt in (0, 1):
        demos = both.demonstrations_E[torch.tensor([0, 1, 1]) == prompt].sum()
        assert (both.rollouts_B[prompt == PROMPTS].sum() + demos).item() == pytest.approx(0, abs=1e-12)
    solved = signed(config, [1, 1, 0, 1], demos=(0, 1))
    assert solved.rollouts_B.tolist() == pytest.approx([0, 0, 1, -1 / 2])
    assert solved.demonstrations_E.tolist() == pytest.approx([0, -1 / 2])


def test_a_prompt_counts_by_the_weight_of_its_positives():
    """Prompt 0 has a pseudo-expert and counts 1; prompt 1 only a demonstration of weight 0.25 and counts that."""
    config = IRLConfig(normalize="prompt", positive_denominator="prompt", weights="none", expert_weight=0.25)
    both = signed(config, [0, 1, 0, 0], demos=(0, 1))
    assert both.rollouts_B.tolist() == pytest.approx([0.8, -0.8 / 1.25, 0.1, 0.1])
    assert both.demonstrations_E.tolist() == pytest.approx([-0.8 * 0.2, -0.2])
    alone = signed(config, [0, 1, 0, 0], demos=())
    assert alone.rollouts_B.tolist() == pytest.approx([1, -1, 0, 0])
    nothing = signed(config, [0, 0, 0, 0], demos=())
    assert nothing.rollouts_B.tolist() == [0, 0, 0, 0]
    assert nothing.effective_sample_size == 0


def test_expert_weight_moves_mass_between_demonstrations_and_pseudo_experts():
    weights = signed(IRLConfig(expert_weight=3.0), [1, 1, 0, 0])
    assert weights.demonstrations_E.tolist() == pytest.approx([-3 / 8] * 2)
    assert weights.rollouts_B[0].item() == pytest.approx(-1 / 8)
    assert (weights.demonstrations_E.sum() + weights.rollouts_B[:2].sum()).item() == pytest.approx(-1)


def test_a_side_without_members_has_no_weight():
    all_correct = signed(IRLConfig(), [1, 1, 1, 1], demos=())
    assert all_correct.num_negatives == 0
    assert all_correct.effective_sample_size == 0
    assert all_correct.rollouts_B.tolist() == pytest.approx([-0.25] * 4)
    none_correct = signed(IRLConfig(), [0, 0, 0, 0], demos=())
    assert none_correct.demonstrations_E.tolist() == []
    assert none_correct.rollouts_B.sum().item() == pytest.approx(1)


# --------------------------------------------------------------------------------------------- gradient


@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_eq_5_is_minus_that_of_the_loss(seed):
    generator = torch.Generator().manual_seed(seed)
    policy = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    expert = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    logprobs = 3 * torch.randn(6, generator=generator, dtype=torch.float64)
    eq5 = torch.autograd.grad(eq5_objective(expert, policy, logprobs), [expert, policy])
    config = IRLConfig(weights="sequence", objective="sum", use_outcome=False)
    weights = signed_weights(config, policy, logprobs, torch.ones(6), torch.zeros(6), torch.zeros(6), torch.zeros(3))
    rows = torch.cat([weights.rollouts_B, weights.demonstrations_E])
    loss = torch.autograd.grad(irl_loss(torch.cat([policy, expert]), rows), [expert, policy])
    for ascent, descent in zip(eq5, loss, strict=True):
        assert torch.allclose(ascent, -descent)
    assert (eq5[0] > 0).all()  # experts up
    assert (eq5[1] < 0).all()  # the policy's own down


def test_weights_are_constants_of_the_loss():
    rewards = REWARDS.clone().requires_grad_()
    weights = signed_weights(IRLConfig(), rewards, LOGPROBS, LENGTHS, PROMPTS, torch.zeros(4), PROMPTS[:1])
    assert not weights.rollouts_B.requires_grad


def test_unknown_choices_are_refused():
    with pytest.raises(UserError, match="weights"):
        parse_config(IRLConfig, {"weights": "sequences"})
    with pytest.raises(UserError, match="wieghts"):
        parse_config(IRLConfig, {"wieghts": "none"})


# ------------------------------------------------------------------------------------------ the logistic form


def test_logistic_loss_is_minus_log_d_and_minus_log_of_its_complement():
    rewards = torch.tensor([-3.0, -7.0, -5.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-4.0, -6.5, -5.0], dtype=torch.float64)
    positive = torch.tensor([True, False, True])
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    d = torch.sigmoid(rewards.detach() - reference)
    loss = (weights * logistic_losses(rewards - reference, torch.arange(3), positive)).sum()
    assert float(loss.detach()) == pytest.approx(-0.5 * math.log(d[0]) - 0.3 * math.log(1 - d[1]) - 0.2 * math.log(d[2]))
    loss.backward()
    assert rewards.grad is not None
    # Positives up (their loss falls with the reward), negatives down.
    assert rewards.grad.tolist() == pytest.approx([-0.5 * float(1 - d[0]), 0.3 * float(d[1]), -0.2 * float(1 - d[2])])


def test_proposition_3_the_logistic_gradient_is_that_of_eq_5_with_samples_of_the_mixture():
    """On an enumerated space, with p~ = exp(r): E_e log D + E_pi log(1 - D) has the gradient of Eq 5 whose negatives are
    drawn from the half-and-half mixture of expert and policy, with the weights p~ / ((p~ + pi) / 2)."""
    generator = torch.Generator().manual_seed(3)
    expert, policy = (torch.softmax(torch.randn(6, generator=generator, dtype=torch.float64), 0) for _ in range(2))
    rewards = torch.log_softmax(torch.randn(6, generator=generator, dtype=torch.float64), 0).requires_grad_(True)
    reference = policy.log()
    positive = torch.arange(12) < 6
    losses = logistic_losses(rewards.repeat(2) - reference.repeat(2), torch.arange(12), positive)
    loss = (torch.cat([expert, policy]) * losses).sum()
    (logistic,) = torch.autograd.grad(loss, rewards)
    model = rewards.detach().exp()
    eq5 = expert - (expert + policy) / 2 * model / ((model + policy) / 2)
    assert torch.allclose(-logistic, eq5, atol=1e-12)


def test_a_product_of_steps_is_one_half_at_the_start_and_blames_the_step_that_is_least_sure():
    row = torch.tensor([0, 1, 1, 1, 2, 2])
    zeros = torch.zeros(6, dtype=torch.float64)
    assert logistic_losses(zeros, row, torch.tensor([True, False, True])).tolist() == pytest.approx([math.log(2)] * 3)
    logits = torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64, requires_grad=True)
    root = 0.5 ** (1 / 3)
    d = torch.sigmoid(logits.detach() + math.log(root / (1 - root)))
    for positive, expected in ((True, -math.log(float(d.prod()))), (False, -math.log(1 - float(d.prod())))):
        loss = logistic_losses(logits, torch.zeros(3, dtype=torch.long), torch.tensor([positive])).sum()
        assert float(loss.detach()) == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient < 0).all() if positive else (gradient > 0).all()
        # d log D / d logit of a step is 1 - its own D: most for the least sure one, in both losses.
        assert (gradient / gradient.sum()).tolist() == pytest.approx(((1 - d) / (1 - d).sum()).tolist())


def test_sure_rows_have_finite_losses_and_gradients():
    logits = torch.tensor([80.0, 60.0, -80.0, -500.0], requires_grad=True)
    losses = logistic_losses(logits, torch.tensor([0, 0, 1, 2]), torch.tensor([False, True, True]))
    assert losses.tolist() == pytest.approx([60.88, 80, 500], abs=0.01)  # -log(1 - D) = 60 - log z of two steps; -log D
    losses.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1] > 0.99, "the failure is the less sure step's"


def test_values_are_summed_over_factors_and_what_follows_the_last_one_belongs_to_it():
    values = torch.arange(1.0, 9.0)
    sums, row = factor_sums(values, [[1, 3], [0]], [5, 3])
    assert sums.tolist() == [1 + 2, 3 + 4 + 5, 6 + 7 + 8]
    assert row.tolist() == [0, 0, 1]


def test_who_takes_part_in_the_logistic_form():
    config = IRLConfig(form="logistic", base_measure=1.0, expert_weight=0.5)
    outcome = torch.tensor([1.0, 0.0, float("nan"), 0.0], dtype=torch.float64)
    prompt, none = torch.zeros(4, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    positive, weights = logistic_weights(config, outcome, prompt, torch.tensor([0, 0]))
    assert positive.tolist() == [True, False, False, False, True, True]
    assert weights.tolist() == pytest.approx([1 / 4, 1 / 4, 0, 1 / 4, 1 / 8, 1 / 8])
    alone = config.model_copy(update={"pseudo_experts": False})
    assert logistic_weights(alone, outcome, prompt, none)[1].tolist() == [0, 0.5, 0, 0.5]
    blind = config.model_copy(update={"use_outcome": False})
    positive, weights = logistic_weights(blind, outcome, prompt, torch.tensor([0]))
    assert positive.tolist() == [False] * 4 + [True]
    assert weights.tolist() == pytest.approx([1 / 4.5] * 4 + [0.5 / 4.5])


def test_balance_takes_as_many_failed_as_correct_rollouts_of_each_prompt_in_turn():
    config = IRLConfig(form="logistic", base_measure=1.0, balance=True)
    outcome = torch.tensor([1.0, 0, 0, 0, 1, 1, 0, float("nan"), 0, 0, 0, 0], dtype=torch.float64)
    prompt = torch.arange(3).repeat_interleave(4)
    demos = torch.tensor([0, 2])
    chosen = [(logistic_weights(config, outcome, prompt, demos, turn)[1] > 0).tolist() for turn in range(4)]
    assert [row[:4] for row in chosen] == [[True, *(i == turn % 3 for i in range(3))] for turn in range(4)]
    assert all(sum(row[4:6]) == 1 and row[6] for row in chosen), "the more frequent side takes turns, whichever it is"
    assert chosen[0][4:6] != chosen[1][4:6]
    for row in chosen:
        assert not any(row[8:12]), "no contrast, nothing to learn"
        assert row[12:] == [True, False], "demonstrations stand beside a contrast"


def test_the_logistic_form_needs_a_base_measure():
    with pytest.raises(ValueError, match="needs base_measure=1"):
        IRLConfig(form="logistic")
