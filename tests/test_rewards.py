"""Process rewards: energy model and its contract, learning by inverse RL, nulls and the oracle, aggregation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from repirl.errors import NumericalFault, UserError
from repirl.learn import inverse_rl
from repirl.learn.diagnostics import reward_diagnostics, shortcut_scores
from repirl.learn.gradient import gradient_step, row_logprobs
from repirl.learn.inverse_rl import InverseRL
from repirl.learn.irl import IRLConfig
from repirl.learn.supervised import negative_log_likelihood
from repirl.rewards.aggregate import aggregate
from repirl.rewards.artifact import CONTRACT_FILE, RewardContract, read_contract
from repirl.rewards.base import steps_from_tokens
from repirl.rewards.energy import EnergyReward, energy_from_policy, load_energy_model, token_rewards
from repirl.rewards.load import LoadOptions, load_reward, saved_at
from repirl.rewards.nulls import ConstantReward, LengthReward, OracleReward, RandomReward, confidence_reward
from repirl.rewards.saved import write_reward
from repirl.rollouts.batching import map_rows
from repirl.rollouts.packing import TokenRow
from repirl.rollouts.prompts import encode_solution
from repirl.rollouts.steps import StepSegmentation, step_end_tokens
from repirl.separation import auc
from repirl.tasks import arith, minicode
from repirl.types import RolloutGroup, StepRewards, Verdict

LINES = StepSegmentation("\n")
CONTRACT = RewardContract(
    kind="energy",
    method="test",
    step_separator="\n",
    template="plain",
    step_aggregation="mean",
    base_digest="a",
    training_digest="b",
)


def score_rows(model, rows: list[TokenRow]) -> list[torch.Tensor]:
    return map_rows(model, rows, lambda batch: token_rewards(model, batch), pad_id=0)


def wrong_version(text: str) -> str:
    r"""A wrong solution that a tiny model can tell from a right one: the boxed number has `00` behind it."""
    return text.replace("}", "00}") if "\\boxed{0}" not in text else text.replace("}", "100}")


@pytest.fixture(scope="module")
def make_groups(make_rollout):
    """`make_groups(seed, n)`: n problems with two right and two wrong rollouts each, and two demonstrations."""

    def make(seed: int, n: int = 8) -> list[RolloutGroup]:
        groups = []
        for problem in arith.problems("train", n, levels=(2, 3), seed=seed):
            right = arith.solution(problem.source, "plain")
            texts = [right, wrong_version(right), arith.solution(problem.source, "so"), wrong_version(right)]
            rollouts = tuple(make_rollout(problem.prompt, text, problem_id=problem.id, index=i) for i, text in enumerate(texts))
            verdicts = tuple(
                Verdict("correct" if arith.first_error_index(problem.source, text) == -1 else "wrong") for text in texts
            )
            assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong"] * 2
            groups.append(RolloutGroup(problem, rollouts, verdicts, tuple(arith.demonstrations(problem, 2))))
        return groups

    return make


def make_energy(make_policy, tokenizer, **settings) -> InverseRL:
    config = IRLConfig(**{"weights": "length_normalized", "normalize": "prompt", "lr": 1e-2, **settings})
    return InverseRL(energy_from_policy(make_policy()), tokenizer, config, CONTRACT)


# --------------------------------------------------------------------------------------------- learning


def held_out_auc(reward: InverseRL, groups: list[RolloutGroup]) -> float:
    found = auc(
        [float(s.token_rewards.mean()) for group in reward.score(groups) for s in group],
        [v.outcome == "correct" for group in groups for v in group.verdicts],
    )
    assert found is not None
    return found


@pytest.mark.parametrize("objective", ["mean", "sum"])
def test_a_few_updates_separate_right_from_wrong_on_other_problems(make_policy, tokenizer, make_groups, objective):
    reward = make_energy(make_policy, tokenizer, objective=objective)
    test = make_groups(99)
    assert held_out_auc(reward, test) == 0.5  # a zero head says nothing
    for step in range(12):
        groups = make_groups(step)
        learned = reward.learn(groups, step)
    metrics = learned.metrics | reward_diagnostics(groups, learned.scored)
    assert held_out_auc(reward, test) > 0.8
    assert metrics["auc"] > 0.8
    assert metrics["score_correct"] > metrics["score_failed"]
    assert metrics["negatives"] == 16
    assert 1 <= metrics["ess"] <= 16


def test_with_the_sign_flipped_wrong_solutions_score_higher(make_policy, tokenizer, make_groups, monkeypatch):
    right = inverse_rl.irl_loss
    monkeypatch.setattr(inverse_rl, "irl_loss", lambda scores_B, weights_B: -right(scores_B, weights_B))
    reward = make_energy(make_policy, tokenizer)
    for step in range(12):
        reward.learn(make_groups(step), step)
    assert held_out_auc(reward, make_groups(99)) < 0.2


TABLE_3 = {  # Table 3, but for the learning rate, which is for 3B parameters
    "weights": "sequence",
    "normalize": "batch",
    "objective": "mean",
    "positive_denominator": "rollouts",
    "demos_per_prompt": 4,
}


def margins(reward: InverseRL, groups: list[RolloutGroup]) -> dict[str, float]:
    """Experts minus failed rollouts in mean token reward, and correct minus failed, on problems that were not learned from."""
    encode, demos = encode_solution, [(g.rollouts[0].prompt_ids, demo.text) for g in groups for demo in g.demonstrations]
    experts = [encode(reward.reward.tokenizer, prompt_ids, text) for prompt_ids, text in demos]
    expert = np.mean([scores.mean() for scores in score_rows(reward.updater.model, experts)])
    found = reward_diagnostics(groups, reward.score(groups))
    return {"expert": expert - found["score_failed"], "correct": found["score_correct"] - found["score_failed"]}


def test_with_the_papers_settings_experts_end_above_failures(make_policy, tokenizer, make_groups):
    """What the objective promises: demonstrations (in another style than the rollouts) and correct rollouts gain on failed
    ones; from a zero head that is their order itself."""
    reward = make_energy(make_policy, tokenizer, **TABLE_3)
    test = make_groups(99)
    assert margins(reward, test) == {"expert": 0, "correct": 0}
    for step in range(20):
        metrics = reward.learn(make_groups(step), step).metrics
    found = margins(reward, test)
    assert found["expert"] > 0.1
    assert found["correct"] > 0.1
    assert metrics["expert_margin"] > 0.1 > abs(metrics["expert_margin_start"])


def test_a_base_measure_starts_far_below_and_only_the_change_is_promised(make_policy, tokenizer, make_groups):
    """Why the records of tiny-full have experts below failures: they start as far below as the base policy finds their style
    unlikely, and a small weight and rate turn that round only slowly."""
    groups = make_groups(0, 4)
    config = IRLConfig(weights="length_normalized", normalize="prompt", positive_denominator="prompt", lr=1e-3)
    # A policy that speaks its own style only: the demonstrations' tokens are unlikely to it.
    own = [TokenRow(r.prompt_ids, r.token_ids) for g in groups for r in g.rollouts]
    policy = make_policy()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-2)
    for _ in range(20):
        gradient_step(policy, optimizer, own, negative_log_likelihood(policy, own), pad_id=0, max_tokens=8192, max_norm=1.0)
    reward = InverseRL(energy_from_policy(policy, base_measure=1.0), tokenizer, config, CONTRACT)
    start = margins(reward, groups)["expert"]
    assert start < -0.3
    for step in range(3):
        metrics = reward.learn(groups, step).metrics
    assert metrics["expert_margin_start"] == pytest.approx(start, abs=0.05)
    assert start < margins(reward, groups)["expert"] < 0
    assert metrics["expert_margin"] > metrics["expert_margin_start"]


def test_the_logistic_form_starts_at_zero_for_every_style_and_learns_the_outcome(make_policy, tokenizer, make_groups):
    groups = make_groups(0, 8)
    config = IRLConfig(form="logistic", base_measure=1.0, lr=1e-3, head_lr=1e-2, max_grad_norm=1.0, demos_per_prompt=2)
    reward = InverseRL(energy_from_policy(make_policy(), base_measure=1.0), tokenizer, config, CONTRACT)
    scored = reward.budget.scored_tokens
    first = reward.learn(groups, 0).metrics
    for name in ("logit_expert", "logit_correct", "logit_failed"):
        assert first[name] == pytest.approx(0, abs=1e-4), "what the policy thinks of a text cancels, also of another style"
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert reward.budget.scored_tokens > scored, "the pass of the reference counts"
    for step in range(1, 25):
        last = reward.learn(groups, step).metrics
    assert last["loss"] < 0.5
    assert last["logit_correct"] > 0.5
    assert last["logit_expert"] > 0.5
    assert last["logit_failed"] < -0.5
    # The reference has not moved.
    again = InverseRL(energy_from_policy(make_policy(), base_measure=1.0), tokenizer, config, CONTRACT)
    again.load_state(reward.state())
    assert again.learn(groups, 25).metrics == pytest.approx(reward.learn(groups, 25).metrics)


def test_experts_correct_and_failed_rollouts_end_in_this_order_on_other_problems(make_policy, tokenizer, make_groups):
    """By r - log pi of the whole text: its score against what it had at the start, so that style alone is worth nothing."""
    config = IRLConfig(
        form="logistic", factors="steps", balance=True, base_measure=1.0, lr=1e-3, head_lr=1e-2, max_grad_norm=1.0
    )
    reward = InverseRL(energy_from_policy(make_policy(), base_measure=1.0), tokenizer, config, CONTRACT)
    other = make_groups(99)
    failed = [r for g in other for r, v in zip(g.rollouts, g.verdicts, strict=True) if v.outcome == "wrong"]
    correct = [r for g in other for r, v in zip(g.rollouts, g.verdicts, strict=True) if v.outcome == "correct"]
    rows = {
        "experts": [encode_solution(tokenizer, g.rollouts[0].prompt_ids, d.text) for g in other for d in g.demonstrations],
        "correct": [TokenRow(r.prompt_ids, r.token_ids) for r in correct],
        "failed": [TokenRow(r.prompt_ids, r.token_ids) for r in failed],
    }

    def logits() -> dict[str, float]:
        assert reward.start is not None
        pairs = {name: [score_rows(m, some) for m in (reward.updater.model, reward.start)] for name, some in rows.items()}
        return {name: float(np.mean([(a - b).sum() for a, b in zip(*two, strict=True)])) for name, two in pairs.items()}

    assert all(value == pytest.approx(0, abs=1e-3) for value in logits().values())
    for step in range(30):
        reward.learn(make_groups(step), step)
    found = logits()
    assert found["experts"] > found["correct"] > found["failed"] + 1


def test_ungraded_rollouts_do_not_teach(make_policy, tokenizer, make_groups):
    """A batch with ungraded rollouts teaches what the batch without them teaches."""
    whole = make_groups(0, 4)
    with_holes = [
        RolloutGroup(g.problem, g.rollouts, (*g.verdicts[:3], Verdict("ungraded", "timeout")), g.demonstrations) for g in whole
    ]
    without = [RolloutGroup(g.problem, g.rollouts[:3], g.verdicts[:3], g.demonstrations) for g in whole]
    learned = []
    for groups in (with_holes, without):
        reward = make_energy(make_policy, tokenizer)
        reward.learn(groups, 0)
        learned.append(reward)
    for a, b in zip(learned[0].updater.model.parameters(), learned[1].updater.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_scores_before_or_after_the_update(make_policy, tokenizer, make_groups):
    groups = make_groups(0, 3)
    before = make_energy(make_policy, tokenizer, score="before")
    first = before.learn(groups, 0).scored
    assert all((s.token_rewards == 0).all() for group in first for s in group)
    second = before.learn(groups, 1).scored
    after = make_energy(make_policy, tokenizer, score="after").learn(groups, 0).scored
    # Before the second update is after the first.
    for a, b in zip(chain(*second), chain(*after), strict=True):
        assert a.token_rewards.any()
        assert (a.token_rewards == b.token_rewards).all()


def test_equal_weights_need_no_scores_to_learn_from(make_policy, tokenizer, make_groups):
    groups = make_groups(0, 2)
    reward = make_energy(make_policy, tokenizer, weights="none", epochs=3)
    scored = reward.learn(groups, 0).scored
    rollout_tokens = sum(len(r.prompt_ids) + len(r.token_ids) for g in groups for r in g.rollouts)
    assert reward.budget.scored_tokens == rollout_tokens  # once, after the last update
    again = reward.score(groups)
    assert all((a.token_rewards == b.token_rewards).all() for a, b in zip(chain(*scored), chain(*again), strict=True))


def test_what_was_consumed_is_counted(make_policy, tokenizer, make_groups):
    groups = make_groups(0, 3)
    rollout_tokens = sum(len(r.prompt_ids) + len(r.token_ids) for g in groups for r in g.rollouts)
    one = make_energy(make_policy, tokenizer, demos_per_prompt=1)
    one.learn(groups, 0)
    assert one.budget.demonstrations == 3
    assert one.budget.scored_tokens == 2 * rollout_tokens  # once for the weights, once with the new parameters
    demo_tokens = one.budget.trained_tokens - rollout_tokens
    assert demo_tokens > 0
    two = make_energy(make_policy, tokenizer, demos_per_prompt=1, epochs=2)
    two.learn(groups, 0)
    assert two.budget.scored_tokens == 3 * rollout_tokens
    assert two.budget.trained_tokens == 2 * (rollout_tokens + demo_tokens)


def test_token_penalty_keeps_rewards_small(make_policy, tokenizer, make_groups):
    sizes = []
    for weight in (0.0, 10.0):
        reward = make_energy(make_policy, tokenizer, reward_l2=weight)
        for step in range(6):
            reward.learn(make_groups(step, 4), step)
        sizes.append(np.mean([np.square(s.token_rewards).mean() for group in reward.score(make_groups(9, 4)) for s in group]))
    assert sizes[1] < sizes[0] / 4


# ---------------------------------------------------------------------------------- energy on the disk


@pytest.fixture
def saved(make_policy, tokenizer, make_groups, tmp_path):
    """A trained energy model, its folder, and rows to score."""
    reward = make_energy(make_policy, tokenizer)
    groups = make_groups(0, 3)
    reward.learn(groups, 0)
    reward.save(tmp_path / "reward")
    rows = [TokenRow(r.prompt_ids, r.token_ids) for group in groups for r in group.rollouts]
    return reward, tmp_path / "reward", rows


def test_a_saved_energy_model_scores_the_same(saved, tokenizer):
    reward, folder, rows = saved
    assert read_contract(folder) == CONTRACT
    model = load_energy_model(folder)
    expected = score_rows(reward.updater.model, rows)
    found = score_rows(model, rows)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert any(scores.any() for scores in found)


def _cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _no_weights(folder):
    (folder / "model.safetensors").unlink()


def _no_config(folder):
    (folder / "config.json").unlink()


def _other_width(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64, "num_attention_heads": 8}))


def _more_layers(folder):
    config = json.loads((folder / "config.json").read_text())
    layers = {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    (folder / "config.json").write_text(json.dumps({**config, **layers}))


def _broken_config(folder):
    (folder / "config.json").write_text("{")


def _no_contract(folder):
    (folder / CONTRACT_FILE).unlink()


def _broken_contract(folder):
    (folder / CONTRACT_FILE).write_text('{"kind": "energy"')


def _contract_with_extras(folder):
    (folder / CONTRACT_FILE).write_text(json.dumps({**CONTRACT.model_dump(), "smell": 1}))


@pytest.mark.parametrize(
    "damage",
    [
        _cut_weights,
        _no_weights,
        _no_config,
        _other_width,
        _more_layers,
        _broken_config,
        _no_contract,
        _broken_contract,
        _contract_with_extras,
    ],
)
def test_a_damaged_folder_is_the_users_one_line(saved, damage):
    _, folder, _ = saved
    damage(folder)
    with pytest.raises(UserError) as error:
        load_reward(str(folder), LoadOptions())
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_missing_folder_and_a_foreign_one(tmp_path, policy_folder):
    with pytest.raises(UserError, match="no such reward folder"):
        load_energy_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such process reward"):
        load_reward(str(tmp_path / "nowhere"), LoadOptions())
    with pytest.raises(UserError, match="contract"):
        read_contract(policy_folder)


def test_the_prm_starts_from_the_policys_backbone(make_policy, tokenizer):
    policy = make_policy(3)
    model: Any = energy_from_policy(policy)
    for name, value in policy.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[name], value)
        assert model.base_model.state_dict()[name].data_ptr() != value.data_ptr()  # a copy: the policy trains on
    rows = [TokenRow([5, 6], [7, 8, 9])]
    assert score_rows(model, rows)[0].tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="layers"):
        energy_from_policy(policy, layers=2)


def test_a_base_measure_starts_as_the_policys_own_logprobs(make_policy, make_energy_model, tokenizer, make_rollout, tmp_path):
    """r = kappa log pi + head: with a zero head exactly the policy's log-probabilities, and saved with the model."""
    policy = make_policy(0)
    rollouts = [make_rollout("Compute 1+2\n", text) for text in ("3", "1+2\n\\boxed{3}")]
    rows = [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]
    logprobs = [found.numpy() for found in row_logprobs(policy, rows)]
    start = score_rows(energy_from_policy(policy, base_measure=0.5), rows)
    for reward_T, logprob_T in zip(start, logprobs, strict=True):
        assert reward_T.numpy() == pytest.approx(0.5 * logprob_T, abs=1e-5)
    head, both = make_energy_model(), make_energy_model(base_measure=0.5)
    write_reward(tmp_path, both, tokenizer, CONTRACT)
    for model in (both, load_energy_model(tmp_path)):
        found = score_rows(model, rows)
        for reward_T, head_T, base_T in zip(found, score_rows(head, rows), start, strict=True):
            assert torch.allclose(reward_T, head_T + base_T, atol=1e-5)


def small_model(kind: str, **settings: Any):
    """A random causal LM of another architecture, its logits spread widely enough for a cap to matter."""
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **sizes, **heads, **settings)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.mark.parametrize(
    ("kind", "settings", "has_head"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0}, True),
        ("gemma3_text", {"final_logit_softcapping": 2.0}, False),
        ("cohere", {"logit_scale": 0.25}, False),
        ("granite", {"logits_scaling": 4.0, "tie_word_embeddings": True}, False),
        ("hyperclovax", {"logits_scaling": 0.25, "tie_word_embeddings": True}, False),
        ("qwen3", {"tie_word_embeddings": True}, True),
    ],
)
def test_log_probabilities_and_base_measure_respect_caps_and_scales(kind, settings, has_head):
    """They are those of the model's own forward pass, not of its bare output layer."""
    policy = small_model(kind, **settings)
    row = TokenRow([5, 6], [7, 8, 9, 10, 11])
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10, 11]])).logits[0, 1:-1].float()
    own = torch.log_softmax(logits, -1)[range(5), [7, 8, 9, 10, 11]]
    assert torch.allclose(row_logprobs(policy, [row])[0], own, atol=1e-5)
    if has_head:
        assert torch.allclose(score_rows(energy_from_policy(policy, base_measure=0.5), [row])[0], 0.5 * own, atol=1e-5)
    else:
        with pytest.raises(UserError, match="no token-level head"):
            energy_from_policy(policy, base_measure=0.5)


def test_logits_changed_in_an_unknown_way_are_refused_as_base_measure():
    policy = small_model("qwen3", tie_word_embeddings=True)
    forward = policy.forward

    def squashed(*args: Any, **inputs: Any):
        out = forward(*args, **inputs)
        out.logits = out.logits / 7
        return out

    policy.forward = squashed
    with pytest.raises(UserError, match=r"does not fit.*qwen3"):
        energy_from_policy(policy, base_measure=1.0)
    # The policy's own log-probabilities then come from its whole forward pass.
    with torch.no_grad():
        own = torch.log_softmax(policy(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 1], -1)[7]
    assert row_logprobs(policy, [TokenRow([5, 6], [7])])[0].item() == pytest.approx(own.item(), abs=1e-5)


def test_the_head_can_learn_at_its_own_rate(make_policy, tokenizer, make_groups):
    reward = make_energy(make_policy, tokenizer, lr=1e-4, head_lr=0.05)
    before = {name: value.clone() for name, value in reward.updater.model.state_dict().items()}
    reward.learn(make_groups(0, 2), 0)
    reward.learn(make_groups(1, 2), 1)  # a zero head gives the backbone no gradient in the first update
    moved = {name: float((value - before[name]).abs().max()) for name, value in reward.updater.model.state_dict().items()}
    assert moved.pop("score.weight") > 0.05
    assert 0 < moved.pop("score.bias") <= 0.11
    assert 0 < max(moved.values()) <= 2.1e-4


def test_counts_survive_a_checkpoint(tokenizer, make_policy, make_groups):
    groups = make_groups(0, 2)
    reward = confidence_reward(make_policy(), tokenizer, LINES)
    reward.score(groups)
    again = confidence_reward(make_policy(), tokenizer, LINES)
    again.load_state(reward.state())
    assert again.budget == reward.budget
    assert reward.budget.scored_tokens > 0


def test_reward_of_a_token_is_read_at_that_token_and_looks_only_back(make_energy_model):
    model = make_energy_model()
    first, other = score_rows(model, [TokenRow([5, 6], [7, 8, 9, 10]), TokenRow([5, 6], [7, 8, 20, 10])])
    assert torch.allclose(first[:2], other[:2], atol=1e-6)
    assert (first[2:] - other[2:]).abs().min() > 1e-4


# ----------------------------------------------------------------------------------- nulls and the oracle


def scored_one(reward, problem, rollout) -> StepRewards:
    return reward.score([RolloutGroup(problem, (rollout,), (Verdict("wrong"),))])[0][0]


def test_oracle_pays_right_steps_until_the_first_wrong_one(tokenizer, make_rollout):
    problem = arith.problem_from("3+4*2-1", 3)
    oracle = OracleReward(tokenizer, LINES)
    good = scored_one(oracle, problem, make_rollout(problem.prompt, "3+8-1\n11-1\n\\boxed{10}"))
    assert good.step_rewards.tolist() == [1, 1, 1]
    assert good.step_mask.tolist() == [True, True, True]
    bad = scored_one(oracle, problem, make_rollout(problem.prompt, "3+8-1\n\n12-1\n\\boxed{11}\n"))
    assert bad.step_rewards.tolist() == [1, 0, 0]
    assert bad.step_mask.tolist() == [True, True, False]
    assert bad.token_rewards.sum() == 1
    assert np.flatnonzero(bad.token_rewards).tolist() == [bad.step_ends[0]]


@pytest.mark.parametrize("text", ["", "\n\n", "<unk>\n1", "1\n<pad>", "(((\n))"])
def test_oracle_and_diagnostics_take_whatever_a_policy_samples(tokenizer, make_rollout, text):
    problem = arith.problem_from("3+4", 1)
    for stopped in (True, False):
        if not text and not stopped:
            continue
        rollout = make_rollout(problem.prompt, text, stopped=stopped)
        rewards = scored_one(OracleReward(tokenizer, LINES), problem, rollout)
        assert not rewards.step_rewards.any()
        group = RolloutGroup(problem, (rollout,), (Verdict("wrong"),))
        assert "step_auc" not in reward_diagnostics([group], [[rewards]])


def test_oracle_knows_the_embedded_families(tokenizer, make_rollout):
    (problem,) = minicode.problems("train", 1, levels=(2,))
    first, *rest = minicode.solution(problem.source, minicode.OWN_STYLE).split("\n")
    for text, expected in (("\n".join([first, *rest]), [1.0] * 4), (f"{first}\n    return x", [1.0, 0.0])):
        found = scored_one(OracleReward(tokenizer, LINES), problem, make_rollout(problem.prompt, text))
        assert found.step_rewards.tolist() == expected
    with pytest.raises(UserError, match="embedded families only"):
        scored_one(OracleReward(tokenizer, LINES), replace(problem, family="mbpp"), make_rollout(problem.prompt, "x"))


def test_nulls_know_nothing(tokenizer, make_rollout):
    problem = arith.problem_from("3+4", 1)
    short, long = (make_rollout(problem.prompt, text) for text in ("\\boxed{7}", "3+4=7 so \\boxed{7}\n7"))
    assert set(scored_one(ConstantReward(tokenizer, LINES), problem, long).step_rewards.tolist()) == {1.0}
    length = LengthReward(tokenizer, LINES)
    for rollout in (short, long):
        num_tokens = len(rollout.token_ids)
        assert scored_one(length, problem, rollout).token_rewards == pytest.approx(np.full(num_tokens, num_tokens / 100))
    noise = [scored_one(RandomReward(tokenizer, LINES, seed), problem, long).token_rewards for seed in (1, 1, 2)]
    assert (noise[0] == noise[1]).all()
    assert (noise[0] != noise[2]).all()


def test_diagnostics_see_a_perfect_and_a_backward_reward(tokenizer, make_rollout):
    problem = arith.problem_from("3+4*2", 2)
    texts = ["3+8\n\\boxed{11}", "3+9\n\\boxed{12}", "3+8\n\\boxed{10}", "3+8\n\\boxed{11}"]
    rollouts = tuple(make_rollout(problem.prompt, text, index=i) for i, text in enumerate(texts))
    verdicts = (Verdict("correct"), Verdict("wrong"), Verdict("wrong"), Verdict("ungraded"))
    group = RolloutGroup(problem, rollouts, verdicts)
    (oracle,) = OracleReward(tokenizer, LINES).score([group])
    found = reward_diagnostics([group], [oracle])
    assert found["auc"] == found["auc_within"] == found["step_auc"] == found["step_auc_within"] == 1
    backward = [StepRewards(-s.token_rewards, s.step_ends, -s.step_rewards, s.step_mask) for s in oracle]
    found = reward_diagnostics([group], [backward])
    assert found["auc"] == found["step_auc"] == found["step_auc_within"] == 0


def test_diagnostics_of_a_reward_of_step_ends_do_not_measure_length(tokenizer, make_rollout):
    """One verdict for every step says nothing of the outcome, however long the steps are; what was not read takes no part."""
    problem = arith.problem_from("3+4*2", 2)
    texts = ["3+8\n\\boxed{11}", "3+9 = 12 as one sees\n\\boxed{12}", "3+8\n\\boxed{10}", "3+8 = 11 again\n\\boxed{11}"]
    rollouts = tuple(make_rollout(problem.prompt, text, index=i) for i, text in enumerate(texts))
    verdicts = (Verdict("correct"), Verdict("wrong"), Verdict("wrong"), Verdict("correct"))
    group = RolloutGroup(problem, rollouts, verdicts)
    scored = []
    for i, rollout in enumerate(rollouts):
        ends_S = step_end_tokens(tokenizer, rollout.token_ids, LINES, rollout.text)
        scores_T = np.full(len(rollout.token_ids), np.nan)
        if i != 3:
            scores_T[ends_S] = -0.5
        scored.append(steps_from_tokens(scores_T, ends_S, "last"))
    assert [one.mean for one in scored[:3]] == [-0.5] * 3
    found = reward_diagnostics([group], [scored])
    assert found["score_correct"] == found["score_failed"] == -0.5
    assert found["auc"] == found["step_auc"] == 0.5
    assert "length_correlation" not in found


def test_a_model_that_says_no_number_is_refused(make_energy_model, tokenizer, make_groups):
    model = make_energy_model()
    with torch.no_grad():
        model.score.weight.fill_(float("nan"))
    with pytest.raises(NumericalFault, match="not a number"):
        EnergyReward(model, tokenizer, LINES).score(make_groups(0, 2))


# ------------------------------------------------------------------------------------------- aggregation


def test_aggregates():
    scores = np.array([0.5, 0.25, 0.75])
    wanted = {"mean": 0.5, "min": 0.25, "last": 0.75, "prod": 0.09375, "sum": 1.5}
    assert {how: aggregate(scores, how) for how in wanted} == pytest.approx(wanted)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="no scores"):
        aggregate(np.zeros(0), "mean")


def test_steps_from_tokens():
    tokens, ends = np.array([1.0, 3.0, 5.0, -1.0]), np.array([1, 3])
    steps = steps_from_tokens(tokens, ends, "mean")
    assert steps.step_rewards.tolist() == [2, 2]
    assert steps.step_mask.tolist() == [True, True]
    assert steps_from_tokens(tokens, ends, "last").step_rewards.tolist() == [3, -1]


def test_a_token_without_a_score_is_left_out_and_a_step_without_any_earns_nothing():
    tokens = np.array([np.nan, 3.0, 5.0, np.nan, np.nan])
    steps = steps_from_tokens(tokens, np.array([1, 2, 4]), "min")
    assert steps.step_rewards.tolist() == [3, 5, 0]
    assert steps.step_mask.tolist() == [True, True, False]
    assert steps.token_rewards.tolist() == [0, 3, 5, 0, 0]


def test_shortcuts_are_scored_on_outputs_that_say_nothing(make_policy, tokenizer, make_groups):
    """A length reward pays by the number of tokens alone: what was made up has the length that it should have."""
    groups = make_groups(0, 2)
    lengths = [len(r.token_ids) for g in groups for r in g.rollouts]
    found = shortcut_scores(LengthReward(tokenizer, LINES), tokenizer, groups)
    assert found == {
        "score_empty": pytest.approx(0.01),
        "score_one_token": pytest.approx(0.02),
        "score_repeated": pytest.approx(np.mean([4 * (n // 2) + 1 for n in lengths]) / 100),
        "score_truncated": pytest.approx(np.mean([n // 2 for n in lengths]) / 100),
    }
    for reward in (OracleReward(tokenizer, LINES), confidence_reward(make_policy(), tokenizer, LINES)):
        assert all(np.isfinite(value) for value in shortcut_scores(reward, tokenizer, groups).values())


# ----------------------------------------------------------------------------------------------- loading


def test_any_reward_is_loaded_by_name_or_folder(saved, tokenizer, make_groups):
    """The same scores as in training, frozen, and without an optimiser."""
    reward, folder, _ = saved
    groups = make_groups(5, 2)
    for path in (folder, folder.parent):
        loaded = load_reward(str(path), LoadOptions())
        assert loaded.reward.name == "energy"
        assert not any(p.requires_grad for p in loaded.reward.model.parameters())  # pyright: ignore[reportAttributeAccessIssue]
        for a, b in zip(chain(*loaded.reward.score(groups)), chain(*reward.score(groups)), strict=True):
            assert a.step_rewards.tolist() == pytest.approx(b.step_rewards.tolist(), abs=1e-7)  # memory may lie otherwise
    assert load_reward("oracle", LoadOptions()).natural_threshold == 0.5


def test_a_contract_of_version_1_is_read_and_a_rescaled_one_refused(saved):
    _, folder, _ = saved
    old = {**CONTRACT.model_dump(), "schema_version": 1, "solution_aggregation": "mean", "shift": 0.0, "scale": 1.0}
    (folder / CONTRACT_FILE).write_text(json.dumps(old))
    assert read_contract(folder) == CONTRACT
    for change in ({"scale": 2.0}, {"kind": "unheard-of", "schema_version": 2}):
        values = {**(old if "scale" in change else CONTRACT.model_dump()), **change}
        (folder / CONTRACT_FILE).write_text(json.dumps(values))
        with pytest.raises(UserError, match=r"contract|unheard-of"):
            load_reward(str(folder), LoadOptions())


def test_save_energy_makes_its_folder(make_policy, tokenizer, tmp_path):
    write_reward(tmp_path / "a" / "b", energy_from_policy(make_policy()), tokenizer, CONTRACT)
    assert read_contract(tmp_path / "a" / "b") == CONTRACT


def test_a_reward_is_found_in_its_run_folder_or_in_the_phase_that_left_it(tmp_path: Path) -> None:
    def run(name: str, *places: str) -> Path:
        for place in places:
            (tmp_path / name / place).mkdir(parents=True)
            (tmp_path / name / place / CONTRACT_FILE).write_text("{}")
        return tmp_path / name

    whole = run("repirl", "reward", "offline/reward")
    assert saved_at(whole) == whole / "reward"
    assert saved_at(whole / "offline") == whole / "offline" / "reward"
    phase = run("supervised", "prm/reward")
    assert saved_at(phase) == phase / "prm" / "reward"
    assert saved_at(phase / "prm" / "reward") == phase / "prm" / "reward"
    two = run("two", "a/reward", "b/reward")
    assert saved_at(two) == two  # which one is meant must be said
    assert saved_at(tmp_path / "nowhere") == tmp_path / "nowhere"
