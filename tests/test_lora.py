"""Adapters: only they are trained, what is saved is an ordinary policy, and resuming is exact."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from repirl.cli import main as cli
from repirl.config import with_overrides
from repirl.engines.loading import load_policy
from repirl.engines.lora import (
    LoRAConfig,
    adapter_weights,
    adapters_off,
    add_adapters,
    has_adapters,
    load_merged,
    merged_state_dict,
)
from repirl.errors import UserError
from repirl.learn.gradient import row_logprobs
from repirl.learn.policy_losses import KLPenalty, PolicyLossConfig
from repirl.learn.policy_update import PolicyOptimConfig, PolicyUpdater
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.methods.runtime import Runtime, start_policy
from repirl.rewards.energy import energy_from_policy, load_energy_model, parameter_groups
from repirl.rollouts.packing import TokenRow
from repirl.types import Rollout

ROWS = [TokenRow([5, 6, 7], [8, 9, 10, 11]), TokenRow([12], [13, 14])]
SMALL = {"loop.steps": 3, "loop.sampling.prompts_per_step": 4, "loop.sampling.group_size": 2, "loop.optim.lr": 0.01}
SMALL |= {"loop.sampling.max_new_tokens": 12, "loop.validation.num_problems": 2, "loop.validation.samples": 1}
SMALL |= {"data.num_problems": 12, "data.validation_problems": 2, "data.levels": [1], "loop.validation.select": "last"}
SMALL |= {"loop.optim.loss.entropy_weight": 0.5, "loop.optim.warmup_steps": 0}  # something to learn without a right answer
RUNTIME = Runtime(lora=LoRAConfig(rank=2))


def logprobs(model) -> torch.Tensor:
    return torch.cat(row_logprobs(model, ROWS))


def fit(policy_folder, folder, on_step=None, method: str = "rloo", more: Sequence[str] = ()):
    recipe = load_method(method).recipe("tiny")
    small = SMALL | ({"offline.updates": 0} if method == "repirl" else {})
    config = with_overrides(recipe, [f"{path}={json.dumps(value)}" for path, value in small.items()] + list(more))
    policy = start_policy(policy_folder, RUNTIME, 0)
    return policy, load_method(method).fit(FitContext(policy, folder, 0, on_step, RUNTIME), config)


def test_fresh_adapters_change_nothing_and_trained_ones_merge(make_policy):
    model, before = make_policy(0), logprobs(make_policy(0))
    assert merged_state_dict(model).keys() == model.state_dict().keys()
    plain_names = set(model.state_dict())
    add_adapters(model, LoRAConfig(rank=2), seed=1)
    assert has_adapters(model)
    assert torch.equal(logprobs(model), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    changed = logprobs(model)
    assert (changed - before).abs().max() > 0.01
    merged = merged_state_dict(model)
    assert set(merged) == plain_names
    other = make_policy(3)
    other.load_state_dict(merged)
    assert torch.allclose(logprobs(other), changed, atol=1e-5)
    # A reward that starts from the policy starts from what it says, adapters included.
    energy = energy_from_policy(model, base_measure=1.0)
    assert not has_adapters(energy)
    again = make_policy(0)
    add_adapters(again, LoRAConfig(rank=2), seed=2)
    fresh = adapter_weights(again)
    load_merged(again, merged, fresh)
    assert fresh
    assert all(torch.equal(value, fresh[name]) for name, value in adapter_weights(again).items())
    assert torch.allclose(logprobs(again), changed, atol=1e-5)


@pytest.mark.parametrize("method", ["rloo", "repirl"])
def test_training_with_adapters_leaves_an_ordinary_policy_and_resumes_exactly(policy_folder, tmp_path, method):
    policy, fitted = fit(policy_folder, tmp_path / "whole", method=method)
    assert fitted.policy_folder is not None
    saved = load_policy(fitted.policy_folder)
    assert torch.allclose(logprobs(saved.model), logprobs(policy.model), atol=1e-5)
    assert (logprobs(saved.model) - logprobs(load_policy(policy_folder).model)).abs().max() > 1e-4

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, metrics: dict) -> None:
        if step == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(policy_folder, tmp_path / "cut", kill, method)
    _, resumed = fit(policy_folder, tmp_path / "cut", method=method)
    assert resumed.policy_folder is not None
    other = load_policy(resumed.policy_folder).model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in saved.model.state_dict().items())
    # Fitting again in the finished folder: the model in memory says what the saved one says.
    again, _ = fit(policy_folder, tmp_path / "whole", method=method)
    assert torch.allclose(logprobs(again.model), logprobs(saved.model), atol=1e-5)
    with pytest.raises(UserError, match="cannot go on to 4"):
        fit(policy_folder, tmp_path / "whole", method=method, more=["loop.steps=4"])
    with pytest.raises(UserError, match="other settings"):
        fit(policy_folder, tmp_path / "whole", method=method, more=["loop.optim.lr=0.5"])


def test_a_second_phase_starts_from_merged_weights_and_fresh_adapters(policy_folder, tmp_path):
    """Uninterrupted, or resumed when the first phase had finished: the same policy."""
    recipe = load_method("rloo").recipe("tiny")
    config = with_overrides(recipe, [f"{path}={json.dumps(value)}" for path, value in SMALL.items()])

    def first(folder):
        context = FitContext(start_policy(policy_folder, RUNTIME, 0), folder, 0, None, RUNTIME)
        return context, load_method("rloo").fit(context.part("a"), config)

    def both(folder):
        context, fitted = first(folder)
        last = load_method("rloo").fit(context.part("b", after=fitted), config)
        assert fitted.policy_folder is not None
        assert last.policy_folder is not None
        weights = [load_policy(path).model.state_dict() for path in (fitted.policy_folder, last.policy_folder)]
        return context.policy.model, weights

    model, (middle, whole) = both(tmp_path / "whole")
    assert any(not torch.equal(value, middle[name]) for name, value in whole.items())
    assert all(torch.equal(value, whole[name]) for name, value in merged_state_dict(model).items())
    first(tmp_path / "cut")
    _, (_, resumed) = both(tmp_path / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_without_peft_it_is_said_in_one_line(make_policy, monkeypatch):
    real = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs peft.*pip install"):
        add_adapters(make_policy(0), LoRAConfig(), seed=0)


def test_a_scale_without_adapters_is_refused(tmp_path, capsys):
    assert cli.run(["train", "rloo", "--lora-alpha", "8", "--out", str(tmp_path / "run")]) == 2
    assert "give --lora-rank too" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def energy_with_adapters(make_policy):
    model = energy_from_policy(make_policy(0), base_measure=1.0)
    add_adapters(model, LoRAConfig(rank=2), 0)
    return model


def test_of_a_reward_only_adapters_and_head_are_trained(make_policy):
    model = energy_with_adapters(make_policy)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"score.weight", "score.bias"}
    assert sum("lora_" in name for name in trained) == 2 * 7  # of one layer's seven linear maps
    groups = parameter_groups(model, 0.01, 0.02)
    assert [len(group["params"]) for group in groups] == [14, 2]


def test_a_reward_with_adapters_is_saved_merged_and_goes_on_from_there(policy_folder, tmp_path):
    runtime = Runtime(reward_lora=LoRAConfig(rank=2))
    small = SMALL | {"offline.updates": 2, "offline.problems": 8, "offline.samples": 4, "offline.levels": [1]}
    small |= {"irl.balance": False, "irl.lr": 0.01}
    config = with_overrides(load_method("repirl").recipe("tiny"), [f"{k}={json.dumps(v)}" for k, v in small.items()])
    fitted = {}
    for name in ("whole", "adapters"):
        own = runtime if name == "adapters" else Runtime()
        context = FitContext(start_policy(policy_folder, own, 0), tmp_path / name, 0, None, own)
        fitted[name] = load_method("repirl").fit(context, config)
    models = {name: load_energy_model(one.reward_folder) for name, one in fitted.items()}
    assert not has_adapters(models["adapters"])
    start = load_policy(policy_folder).model.base_model.state_dict()
    for name, model in models.items():
        moved = [key for key, value in model.base_model.state_dict().items() if not torch.equal(value, start[key])]
        linear = [key for key in moved if key.endswith("_proj.weight")]
        assert linear
        assert (moved == linear) == (name == "adapters")
    identity = json.loads((tmp_path / "adapters" / "config.json").read_text())
    assert identity["reward_lora"] == {"rank": 2, "alpha": 32}
    assert "reward_lora" not in json.loads((tmp_path / "whole" / "config.json").read_text())


def test_with_adapters_the_reference_is_the_policy_without_them(make_policy):
    model = make_policy(0)
    before = logprobs(model)
    add_adapters(model, LoRAConfig(rank=2), 0)
    optim = PolicyOptimConfig(lr=0.05, loss=PolicyLossConfig(kl=KLPenalty(weight=0.1)))
    updater = PolicyUpdater(model, 0, optim, 2)
    rollout = Rollout("p", 0, (5, 6), np.array([7, 8]), np.array([-3.0, -3.0], dtype=np.float32), "", "stop", 1.0)
    said = [updater.update([rollout], [np.array([1.0, 1.0])], 0) for _ in range(2)]
    assert said[0]["kl_k1"] == 0
    assert abs(said[1]["kl_k1"]) > 1e-4
    assert (logprobs(model) - before).abs().max() > 1e-3
    with adapters_off(model):
        assert torch.equal(logprobs(model), before)
    assert (logprobs(model) - before).abs().max() > 1e-3
