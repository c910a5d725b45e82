"""Results do not depend on how a batch is cut, ordered or padded (docs/design.md rule 3)."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from repirl.learn.gradient import gradient_step, row_logprobs
from repirl.learn.inverse_rl import InverseRL
from repirl.learn.irl import IRLConfig
from repirl.learn.policy_losses import KLPenalty, PolicyLossConfig
from repirl.learn.policy_update import PolicyOptimConfig, PolicyUpdater
from repirl.learn.supervised import negative_log_likelihood
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import token_rewards
from repirl.rollouts.batching import map_rows, token_logprobs
from repirl.rollouts.packing import TokenRow, length_sorted_chunks, pad_batch
from repirl.tasks import arith
from repirl.types import Rollout, RolloutGroup, Verdict


@pytest.fixture(scope="module")
def groups(make_rollout) -> list[RolloutGroup]:
    """Rollouts of very different lengths, right, wrong and ungraded, with demonstrations."""
    rng = np.random.default_rng(0)
    made = []
    for problem in arith.problems("train", 5, levels=(1, 2, 5)):
        texts = [arith.solution(problem.source, "plain"), "12", "1+2+3\n" * int(rng.integers(1, 6)), "\\boxed{1}"]
        rollouts = tuple(make_rollout(problem.prompt, t, problem_id=problem.id, index=i) for i, t in enumerate(texts))
        verdicts = (Verdict("correct"), Verdict("wrong"), Verdict("wrong"), Verdict("ungraded", "timeout"))
        made.append(RolloutGroup(problem, rollouts, verdicts, tuple(arith.demonstrations(problem, 2))))
    return made


@pytest.fixture(scope="module")
def rollouts(groups) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    scale = max(float(value.abs().max()) for value in a.values())
    assert scale > 1e-4
    for name, value in a.items():
        assert torch.allclose(value, b[name], atol=2e-6 * max(1.0, scale), rtol=1e-4), name


# ----------------------------------------------------------------------------------------------- policy


LOSSES = [
    PolicyLossConfig(entropy_weight=0.01),
    PolicyLossConfig(reduction="sequence_mean", kl=KLPenalty(weight=0.1)),
    PolicyLossConfig(reduction="sequence_sum", ratio="sequence"),
]


def policy_update(make_policy, tokenizer, rollouts, advantages, loss, micro_batch_tokens=8192):
    model, reference = make_policy(0), make_policy(1)
    config = PolicyOptimConfig(lr=1e-3, max_grad_norm=1e9, micro_batch_tokens=micro_batch_tokens, loss=loss)
    updater = PolicyUpdater(model, tokenizer.pad_token_id, config, 1, reference)
    return updater.update(rollouts, advantages, order_seed=0), gradients(model)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.reduction)
def test_policy_update_does_not_depend_on_micro_batches_or_order(make_policy, tokenizer, rollouts, loss):
    rng = np.random.default_rng(1)
    advantages = [rng.normal(size=len(r.token_ids)).astype(np.float32) for r in rollouts]
    advantages[2][:] = 0
    metrics, whole = policy_update(make_policy, tokenizer, rollouts, advantages, loss)
    for micro_batch_tokens in (1, 90):
        cut_metrics, cut = policy_update(make_policy, tokenizer, rollouts, advantages, loss, micro_batch_tokens)
        assert_same(whole, cut)
        assert cut_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6, nan_ok=True)
    order = rng.permutation(len(rollouts))
    shuffled = [rollouts[i] for i in order], [advantages[i] for i in order]
    shuffled_metrics, permuted = policy_update(make_policy, tokenizer, *shuffled, loss)
    assert_same(whole, permuted)
    assert shuffled_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6, nan_ok=True)


def test_rows_without_advantage_are_skipped_but_still_counted(make_policy, tokenizer, rollouts):
    """Their tokens stay in the denominator: the gradient is that of the whole batch."""
    advantages = [np.full(len(r.token_ids), 1.0 if i % 2 else 0.0, np.float32) for i, r in enumerate(rollouts)]
    _, skipped = policy_update(make_policy, tokenizer, rollouts, advantages, PolicyLossConfig())
    model = make_policy(0)
    tokens = sum(len(r.token_ids) for r in rollouts)
    for rollout, advantage_T in zip(rollouts, advantages, strict=True):
        batch = pad_batch([TokenRow(rollout.prompt_ids, rollout.token_ids)], tokenizer.pad_token_id)
        (-(torch.from_numpy(advantage_T) * token_logprobs(model, batch).logprobs_N).sum() / tokens).backward()
    assert_same(gradients(model), skipped)


def test_a_batch_without_advantages_moves_nothing_and_is_no_nan(make_policy, tokenizer, rollouts):
    """With a pure policy loss no token is run: what was measured on tokens is not among the metrics."""
    advantages = [np.zeros(len(r.token_ids), np.float32) for r in rollouts]
    model = make_policy(0)
    updater = PolicyUpdater(model, tokenizer.pad_token_id, PolicyOptimConfig(lr=1e-2, mini_batches=3), 2)
    metrics = updater.update(rollouts, advantages, order_seed=0)
    assert metrics == {"policy_loss": 0.0, "policy_grad_norm": 0.0, "updated_share": 0.0}
    assert all(torch.equal(value, make_policy(0).state_dict()[name]) for name, value in model.state_dict().items())
    # More mini-batches than rollouts: no empty ones.
    advantages[0][:] = 1
    found = updater.update(rollouts[:2], advantages[:2], order_seed=0)
    assert all(value == value for value in found.values())
    assert 0 < found["updated_share"] < 1


def test_the_largest_gap_of_all_mini_batches_is_the_gap(make_policy, tokenizer, rollouts):
    """A maximum, not a mean of maxima: one token that the engine saw otherwise shows whole."""
    model = make_policy(0)
    right = row_logprobs(model, [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts])
    sampled = [replace(r, logprobs=logprobs.numpy().copy()) for r, logprobs in zip(rollouts, right, strict=True)]
    sampled[3].logprobs[0] -= 2.5
    advantages = [np.ones(len(r.token_ids), np.float32) for r in rollouts]
    updater = PolicyUpdater(model, tokenizer.pad_token_id, PolicyOptimConfig(lr=1e-5, mini_batches=4), 1)
    assert updater.update(sampled, advantages, order_seed=0)["engine_logprob_gap_max"] == pytest.approx(2.5, abs=1e-3)


def test_two_mini_batches_are_two_updates_and_the_second_is_off_policy(make_policy, tokenizer, rollouts):
    """After a huge first step the second sees clipped ratios; the gap to the engine is still that of the sampling policy."""
    advantages = [np.ones(len(r.token_ids), np.float32) for r in rollouts]
    model = make_policy(0)
    sampled = [logprobs.numpy() for logprobs in row_logprobs(model, [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts])]
    faithful = [
        Rollout(r.problem_id, r.sample_index, r.prompt_ids, r.token_ids, logprobs, r.text, r.finish_reason, 1.0)
        for r, logprobs in zip(rollouts, sampled, strict=True)
    ]
    updater = PolicyUpdater(model, tokenizer.pad_token_id, PolicyOptimConfig(lr=0.05, mini_batches=2), 1)
    metrics = updater.update(faithful, advantages, order_seed=0)
    assert updater.updater.updates == 2
    assert updater.scored_tokens == sum(len(r.prompt_ids) + len(r.token_ids) for r in rollouts)
    assert metrics["clip_fraction"] > 0.1
    assert metrics["engine_logprob_gap_max"] < 1e-4


# ------------------------------------------------------------------------------------------------- PRM


def prm_update(make_energy_model, tokenizer, groups, micro_batch_tokens=8192, **settings):
    model = make_energy_model(base_measure=settings.get("base_measure", 0.0))
    contract = RewardContract(
        kind="energy",
        method="test",
        step_separator="\n",
        template="plain",
        step_aggregation="mean",
        base_digest="",
        training_digest="",
    )
    config = IRLConfig(lr=1e-3, max_grad_norm=1e9, micro_batch_tokens=micro_batch_tokens, reward_l2=0.1, **settings)
    reward = InverseRL(model, tokenizer, config, contract)
    return reward.learn(groups, 0).metrics, gradients(model)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weights": "length_normalized", "normalize": "prompt", "objective": "sum"},
        {"weights": "truncated", "normalize": "prompt", "positive_denominator": "prompt"},
        {"use_outcome": False},
        {"form": "logistic", "base_measure": 1.0},
        {"form": "logistic", "base_measure": 1.0, "reference": "sampler", "expert_weight": 0.5},
        {"form": "logistic", "base_measure": 1.0, "factors": "steps"},
    ],
    ids=["paper", "prompt", "truncated", "prm-only", "logistic", "logistic-sampler", "steps"],
)
def test_prm_update_does_not_depend_on_micro_batches_or_order(make_energy_model, tokenizer, groups, settings):
    metrics, whole = prm_update(make_energy_model, tokenizer, groups, **settings)
    for micro_batch_tokens in (1, 90):
        cut_metrics, cut = prm_update(make_energy_model, tokenizer, groups, micro_batch_tokens, **settings)
        assert_same(whole, cut)
        assert {"loss", "grad_norm"} <= metrics.keys()
        for name in metrics.keys() - {"ess_fraction", "negatives"}:
            assert cut_metrics[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-5)
    order = np.random.default_rng(2).permutation(4).tolist()
    shuffled = [
        RolloutGroup(
            g.problem, tuple(g.rollouts[i] for i in order), tuple(g.verdicts[i] for i in order), g.demonstrations[::-1]
        )
        for g in reversed(groups)
    ]
    permuted_metrics, permuted = prm_update(make_energy_model, tokenizer, shuffled, **settings)
    assert_same(whole, permuted)
    assert permuted_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-5, nan_ok=True)


def test_equal_rows_count_as_often_as_they_occur(make_energy_model, tokenizer, groups, monkeypatch):
    """Passing rows that are the same through the model once changes nothing."""
    doubled = [replace(g, rollouts=g.rollouts * 2, verdicts=g.verdicts * 2) for g in groups]
    merged_metrics, merged = prm_update(make_energy_model, tokenizer, doubled, objective="sum")
    sizes = []

    def keep_all(rows):
        sizes.append(len(rows))
        return list(rows), list(range(len(rows)))

    monkeypatch.setattr("repirl.learn.inverse_rl.distinct_rows", keep_all)
    plain_metrics, plain = prm_update(make_energy_model, tokenizer, doubled, objective="sum")
    assert sizes[0] > 2 * len(groups)
    assert_same(merged, plain)
    assert merged_metrics == pytest.approx(plain_metrics, rel=1e-4, abs=1e-6, nan_ok=True)


# ------------------------------------------------------------------------------------------ supervision


def test_supervised_step_does_not_depend_on_micro_batches_or_order(make_policy, tokenizer, rollouts):
    rows = [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]

    def step(rows, max_tokens):
        model = make_policy(0)
        stats = gradient_step(
            model,
            torch.optim.SGD(model.parameters(), lr=0.0),
            rows,
            negative_log_likelihood(model, rows),
            pad_id=tokenizer.pad_token_id,
            max_tokens=max_tokens,
            max_norm=1e9,
        )
        return stats, gradients(model)

    stats, whole = step(rows, 8192)
    assert stats.trained_tokens == sum(map(len, rows))
    for cut_stats, cut in (step(rows, 1), step(rows, 90), step(rows[::-1], 8192)):
        assert_same(whole, cut)
        assert asdict(cut_stats) == pytest.approx(asdict(stats), rel=1e-4)


# --------------------------------------------------------------------------------------------- padding


def test_log_probabilities_do_not_depend_on_the_company(make_policy, tokenizer, rollouts):
    """In a batch and alone, however the batch is cut: the same log-probabilities."""
    model = make_policy(0)
    rows = [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]
    for temperature in (1.0, 0.7):
        whole = torch.cat(row_logprobs(model, rows, temperature)).numpy()
        cut = torch.cat(row_logprobs(model, rows, temperature, max_tokens=90)).numpy()
        with torch.no_grad():
            together = token_logprobs(model, pad_batch(rows, tokenizer.pad_token_id), temperature, with_entropy=True)
            alone = [token_logprobs(model, pad_batch([row], tokenizer.pad_token_id), temperature).logprobs_N for row in rows]
        assert cut == pytest.approx(whole, abs=1e-5)
        assert together.logprobs_N.numpy() == pytest.approx(whole, abs=1e-5)
        assert torch.cat(alone).numpy() == pytest.approx(whole, abs=1e-5)
        assert np.ptp(whole) > 0.01
        assert (together.entropy_N > 0).all()


def test_rewards_do_not_depend_on_the_company(make_energy_model, tokenizer, rollouts):
    model = make_energy_model()
    rows = [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]

    def score_rows(rows, **bounds):
        return map_rows(model, rows, lambda batch: token_rewards(model, batch), pad_id=tokenizer.pad_token_id, **bounds)

    whole = score_rows(rows)
    for alternative in (score_rows(rows, max_tokens=1), score_rows(rows[::-1])[::-1]):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, alternative, strict=True))


def test_entropy_is_that_of_the_distribution_at_the_temperature(make_policy, tokenizer):
    model = make_policy(0)
    row = TokenRow([5, 6], [7, 8])
    with torch.no_grad():
        found = token_logprobs(model, pad_batch([row], tokenizer.pad_token_id), 0.5, with_entropy=True)
        log_p = torch.log_softmax(model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 1:] / 0.5, -1)
    assert torch.allclose(found.entropy_N, -(log_p.exp() * log_p).sum(-1), atol=1e-5)
    assert torch.allclose(found.logprobs_N, log_p[[0, 1], [7, 8]], atol=1e-5)


def test_chunks_hold_every_row_once_within_the_limit():
    lengths = [5, 1, 9, 3, 3, 7, 20]
    chunks = length_sorted_chunks(lengths, 15)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(7))
    assert all(len(chunk) * max(lengths[i] for i in chunk) <= 15 or len(chunk) == 1 for chunk in chunks)
    assert chunks[0] == [6]
    assert length_sorted_chunks([], 15) == []
