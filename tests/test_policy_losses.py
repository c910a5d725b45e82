"""Policy losses: signs, ratio and clip, reductions with global denominators, entropy bonus and KL terms."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from repirl.learn.gradient import Counts
from repirl.learn.policy_losses import KLPenalty, PolicyLossConfig, k3, policy_loss, token_weights

LENGTHS = torch.tensor([2, 3, 1])
COUNTS = Counts(tokens=6, sequences=3)
ADVANTAGES = torch.tensor([1.0, 1, -2, -2, -2, 0.5])
OLD = torch.tensor([-1.0, -0.5, -2, -0.3, -1.5, -0.7])


def loss_and_grad(new: Tensor, old: Tensor | None, config: PolicyLossConfig, advantages: Tensor = ADVANTAGES, **extra):
    leaf = new.clone().requires_grad_()
    result = policy_loss(leaf, old, advantages, LENGTHS, COUNTS, config, **extra)
    result.loss.backward()
    assert leaf.grad is not None
    return result, leaf.grad


def test_k3_numbers_of_recipes_b10():
    assert k3(torch.tensor([0.5, -0.5, 0.0])).tolist() == pytest.approx([0.10653, 0.14872, 0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("reduction", "weights"),
    [
        ("token_mean", [1 / 6] * 6),
        ("sequence_mean", [1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9, 1 / 3]),
        ("sequence_sum", [1 / 3] * 6),
    ],
)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_on_policy_gradient_is_reinforce(reduction, weights, ratio):
    """d loss / d log pi_t = - weight_t A_t per token; with a sequence ratio every token carries its row's sum of weight A."""
    config = PolicyLossConfig(reduction=reduction, ratio=ratio)
    expected = -torch.tensor(weights) * ADVANTAGES
    if ratio == "sequence":
        rows = expected.split(LENGTHS.tolist())
        per_row = [r.mean() if reduction == "sequence_sum" else r.sum() for r in rows]
        expected = torch.cat([x.repeat(n) for x, n in zip(per_row, LENGTHS.tolist(), strict=True)])
    for old in (None, OLD):
        result, grad = loss_and_grad(OLD, old, config)
        assert torch.allclose(grad, expected, atol=1e-6)
        assert result.clipped_sum == 0
    assert token_weights(LENGTHS, reduction, COUNTS).tolist() == pytest.approx(weights)


def test_a_step_down_the_gradient_makes_good_tokens_likelier_and_bad_ones_less():
    _, grad = loss_and_grad(OLD, None, PolicyLossConfig())
    assert torch.equal(torch.sign(-grad), torch.sign(ADVANTAGES))


@pytest.mark.parametrize(
    ("shift", "advantage", "gradient_lives"),
    [
        (0.5, 1.0, False),  # already much likelier and good: no further
        (0.5, -1.0, True),  # much likelier and bad: back
        (-0.5, -1.0, False),  # already much less likely and bad: no further
        (-0.5, 1.0, True),
        (0.1, 1.0, True),  # inside the trust region
        (-0.1, -1.0, True),
    ],
)
def test_clip_kills_the_gradient_outside_and_only_on_the_far_side(shift, advantage, gradient_lives):
    advantages = torch.full((6,), advantage)
    result, grad = loss_and_grad(OLD + shift, OLD, PolicyLossConfig(), advantages)
    if gradient_lives:
        ratio = torch.exp(torch.tensor(shift))
        assert torch.allclose(grad, -ratio * advantages / 6)
        assert result.clipped_sum == 0
        assert result.loss.item() == pytest.approx(-float(ratio) * advantage)
    else:
        assert grad.abs().max() == 0
        assert result.clipped_sum == 6
        assert result.loss.item() == pytest.approx(-(1.2 if advantage > 0 else 0.8) * advantage)


def test_low_and_high_clip_are_their_own_sides():
    config = PolicyLossConfig(clip_low=0.5, clip_high=0.1)
    _, grad = loss_and_grad(OLD + 0.15, OLD, config, torch.ones(6))
    assert grad.abs().max() == 0
    _, grad = loss_and_grad(OLD - 0.3, OLD, config, -torch.ones(6))
    assert grad.abs().min() > 0


def test_sequence_ratio_is_the_product_over_the_completion():
    """Two tokens of +0.15 each are within 0.2 by themselves, together they are not."""
    advantages = torch.ones(6)
    token = loss_and_grad(OLD + 0.15, OLD, PolicyLossConfig(), advantages)[0]
    sequence = loss_and_grad(OLD + 0.15, OLD, PolicyLossConfig(ratio="sequence", reduction="sequence_mean"), advantages)[0]
    assert token.clipped_sum == 0
    assert sequence.clipped_sum == 5  # the rows of 2 and 3 tokens, not that of one
    assert sequence.loss.item() == pytest.approx(-(1.2 + 1.2 + float(torch.exp(torch.tensor(0.15)))) / 3)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sequence_sum"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_micro_batches_add_up_to_the_whole_batch(reduction, ratio):
    """Counts are those of the batch, so that parts sum to the whole whatever the cut (docs/design.md rule 3)."""
    config = PolicyLossConfig(reduction=reduction, ratio=ratio, entropy_weight=0.1, kl=KLPenalty(weight=0.3))
    generator = torch.Generator().manual_seed(0)
    new, reference, entropy = OLD + 0.1 * torch.randn(6, generator=generator), OLD - 0.2, torch.rand(6, generator=generator)
    extra = {"entropy_N": entropy, "reference_logprobs_N": reference}
    whole, _ = loss_and_grad(new, OLD, config, **extra)
    starts = [0, *itertools.accumulate(LENGTHS.tolist())]
    parts = [
        policy_loss(
            new[a:b], OLD[a:b], ADVANTAGES[a:b], LENGTHS[i : i + 1], COUNTS, config, entropy_N=entropy[a:b],
            reference_logprobs_N=reference[a:b],
        ).loss.item()
        for i, (a, b) in enumerate(itertools.pairwise(starts))
    ]  # fmt: skip
    assert sum(parts) == pytest.approx(whole.loss.item(), abs=1e-6)


def test_entropy_weight_is_a_bonus():
    """docs/method.md section 10: following the loss downhill raises the entropy; the paper's printed sign would lower it."""

    def entropy_after_training(weight: float) -> float:
        logits = torch.tensor([2.0, 0.0, -1.0], requires_grad=True)
        for _ in range(50):
            log_p = torch.log_softmax(logits, 0)
            entropy = -(log_p.exp() * log_p).sum()
            config = PolicyLossConfig(entropy_weight=weight)
            result = policy_loss(
                log_p[:1], None, torch.zeros(1), torch.tensor([1]), Counts(1, 1), config, entropy_N=entropy[None]
            )
            (gradient,) = torch.autograd.grad(result.loss, logits)
            logits = (logits - 0.5 * gradient).detach().requires_grad_()
        log_p = torch.log_softmax(logits, 0)
        return -(log_p.exp() * log_p).sum().item()

    start = entropy_after_training(0.0)
    assert entropy_after_training(0.5) > start + 0.1
    assert entropy_after_training(-0.5) < start - 0.1


@pytest.mark.parametrize(("reduction", "expected"), [("token_mean", 1.0), ("sequence_mean", 1.0), ("sequence_sum", 2.0)])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_kl_is_reduced_per_token_whatever_the_ratio(reduction, expected, ratio):
    """Every token is 0.5 likelier than under the reference: a token mean of k3(0.5); six tokens over three rows are two."""
    config = PolicyLossConfig(reduction=reduction, ratio=ratio, kl=KLPenalty(weight=1.0))
    result, _ = loss_and_grad(OLD, OLD, config, torch.zeros(6), reference_logprobs_N=OLD - 0.5)
    assert result.loss.item() == pytest.approx(expected * 0.10653, abs=1e-4)
    assert result.kl_sum == pytest.approx(3.0)


@pytest.mark.parametrize("kl", ["k1", "k3"])
def test_what_the_kl_terms_really_descend(kl):
    """On policy: k3's expected gradient is that of KL(reference || policy), k1's is zero (`KLPenalty`)."""
    logits = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64), 0)
    log_p = torch.log_softmax(logits, 0)
    total = torch.zeros((), dtype=torch.float64)
    for token in range(3):  # the expectation over the policy, exactly
        result = policy_loss(
            log_p[token : token + 1],
            None,
            torch.zeros(1),
            torch.tensor([1]),
            Counts(1, 1),
            PolicyLossConfig(kl=KLPenalty(weight=1.0, estimator=kl)),
            reference_logprobs_N=reference[token : token + 1],
        )
        total = total + log_p[token].exp().detach() * result.loss
    (gradient,) = torch.autograd.grad(total, logits, retain_graph=True)
    (forward,) = torch.autograd.grad((reference.exp() * (reference - log_p)).sum(), logits)
    assert torch.allclose(gradient, forward if kl == "k3" else torch.zeros_like(forward), atol=1e-6)
    assert forward.abs().max() > 0.1
