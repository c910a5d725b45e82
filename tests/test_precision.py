"""Training in lower precision: the weights stay in float32, and steps that bfloat16 weights could not take are taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from repirl.config import with_overrides
from repirl.engines.base import Request, SamplingParams
from repirl.engines.loading import load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import UserError
from repirl.learn.gae import token_values
from repirl.learn.gradient import gradient_step, row_logprobs
from repirl.learn.supervised import negative_log_likelihood
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.precision import lowered, training_dtype, training_in
from repirl.rewards.energy import energy_from_policy, token_rewards
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.packing import TokenRow, pad_batch
from repirl.rollouts.prompts import encode_solution


def test_it_holds_for_the_while_and_only_where_training_runs():
    assert training_dtype() == "float32"
    with training_in("bfloat16"):
        assert training_dtype() == "bfloat16"
        with lowered("cpu"):
            assert torch.is_autocast_enabled("cpu")
        assert not torch.is_autocast_enabled("cpu")
    assert training_dtype() == "float32"
    with pytest.raises(UserError, match="float32, bfloat16"), training_in("float16"):
        pass


def test_small_steps_are_taken(make_policy, tokenizer):
    """At 5e-7, half of them below the resolution of bfloat16 weights of this size, every weight moves."""
    rows = [encode_solution(tokenizer, [1, 2], text) for text in ("3+4=7", "12")]
    model = make_policy(0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-7, weight_decay=0.0)
    with training_in("bfloat16"):
        loss = negative_log_likelihood(model, rows)
        losses = [gradient_step(model, optimizer, rows, loss, pad_id=0, max_tokens=8192, max_norm=1.0).loss for _ in range(5)]
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    weight = "model.layers.0.mlp.up_proj.weight"
    assert (model.state_dict()[weight] != before[weight]).float().mean() > 0.99
    # What was rounded once must not be used again after the weights have moved.
    assert losses[-1] < losses[0]


def test_each_forward_pass_sees_the_weights_as_they_are(make_policy):
    """Autocast keeps lowered weights while it is entered; a step of the optimiser must be seen behind it."""
    model = make_policy(0)
    batch = pad_batch([TokenRow([1, 2], [3, 4, 5])], 0)
    with training_in("bfloat16"):
        first = token_logprobs(model, batch).logprobs_N.detach().clone()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        assert not torch.equal(token_logprobs(model, batch).logprobs_N, first)


def test_the_engine_samples_what_the_trainer_scores(make_policy, tokenizer):
    model = make_policy(0)
    with training_in("bfloat16"):
        (group,) = TorchEngine(model, tokenizer).generate([Request("a", (1, 2, 3), 4)], SamplingParams(12))
        for rollout in group:
            scored = token_logprobs(model, pad_batch([TokenRow(rollout.prompt_ids, rollout.token_ids)], 0)).logprobs_N
            assert scored.dtype == torch.float32
            assert np.abs(scored.detach().numpy() - rollout.logprobs).max() < 0.05
    exact = row_logprobs(model, [TokenRow((1, 2, 3), group[0].token_ids)])[0].numpy()
    assert 0 < np.abs(exact - group[0].logprobs).max() < 0.05  # lower precision, and no more than that


def test_rewards_come_in_float32(make_policy):
    model = energy_from_policy(make_policy(0), base_measure=1.0)
    with training_in("bfloat16"):
        rewards_N = token_rewards(model, pad_batch([TokenRow([1, 2], [3, 4, 5])], 0))
    assert rewards_N.dtype == torch.float32
    rewards_N.sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_values_are_made_in_it_and_given_in_float32(make_energy_model):
    model, batch = make_energy_model(), pad_batch([TokenRow([1, 2], [3, 4, 5])], 0)
    whole = token_values(model, batch)
    with training_in("bfloat16"):
        lower = token_values(model, batch)
    assert lower.dtype == torch.float32
    assert 0 < float((lower - whole).detach().abs().max()) < 0.1


@pytest.mark.parametrize("method", ["rloo", "repirl", "ppo", "bc"])
def test_a_method_trains_in_bfloat16_and_its_folder_knows(method, policy_folder, tmp_path):
    recipe = load_method(method).recipe("tiny")
    at = "" if method == "bc" else "loop."
    small = [f"{at}steps=2", f"{at}sampling.prompts_per_step=2", f"{at}sampling.group_size=2", f"{at}validation.samples=1"]
    small += [f"{at}sampling.max_new_tokens=8", f"{at}validation.num_problems=2", "data.num_problems=8"]
    small += ["offline.updates=1", "offline.problems=4", "irl.balance=false"] if method == "repirl" else []
    config = with_overrides(recipe, small)
    with training_in("bfloat16"):
        fitted = load_method(method).fit(FitContext(load_policy(policy_folder), tmp_path, 0), config)
    assert fitted.policy_folder is not None
    assert load_policy(fitted.policy_folder, dtype="auto").dtype == "float32"
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "bfloat16"
    with pytest.raises(UserError, match="other settings"):
        load_method(method).fit(FitContext(load_policy(policy_folder), tmp_path, 0), config)


def test_gradient_checkpointing_changes_no_gradient(make_policy):
    batch = pad_batch([TokenRow([1, 2], [3, 4, 5]), TokenRow([1], [2, 6])], 0)
    found = []
    for checkpointing in (False, True):
        model = make_policy(0).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            prm = energy_from_policy(model)
            assert prm.is_gradient_checkpointing
        token_logprobs(model, batch).logprobs_N.sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
