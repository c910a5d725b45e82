"""Versions of weights, and engines that hold a copy of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from repirl.engines.base import Request, SamplingParams
from repirl.engines.loading import load_policy, save_model
from repirl.engines.lora import LoRAConfig, add_adapters
from repirl.engines.torch_engine import TorchEngine
from repirl.engines.weights import ModelWeights, SyncReport, WeightSource
from repirl.errors import NumericalFault
from repirl.rollouts.following import FollowingEngine
from repirl.types import Problem, RolloutGroup, Verdict

TOLERANCE = 1e-4


@pytest.fixture
def policy():
    return load_policy("tiny")


def moved(model, size=0.05) -> None:
    """One optimiser step in a random direction."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=size)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


class CopiedEngine:
    """`SyncedEngine` over a copy of the model; `forgets` names weights that a sync leaves as they were."""

    def __init__(self, policy, forgets=()):
        self.own = copy.deepcopy(policy.model)
        self.engine = TorchEngine(self.own, policy.tokenizer)
        self.forgets = forgets
        self.version = None

    def sync(self, source: WeightSource) -> SyncReport:
        weights = {name: value for name, value in source.tensors() if name not in self.forgets}
        self.own.load_state_dict(weights, strict=False)
        self.version = source.version
        return SyncReport(source.version, 0.0, sum(value.nbytes for value in weights.values()))

    def close(self) -> None:
        pass

    def generate(self, requests, params, on_progress=None):
        groups = self.engine.generate(requests, params, on_progress)
        return [[replace(rollout, policy_version=self.version) for rollout in group] for group in groups]


def following(policy, forgets=()):
    engine = CopiedEngine(policy, forgets)
    return engine, FollowingEngine(engine, ModelWeights(policy.model), policy.model, policy.tokenizer, TOLERANCE)


def requests(policy):
    return [Request(text, tuple(policy.tokenizer.encode(text)), 2) for text in ("1+2=", "(3+4)*5=")]


PARAMS = SamplingParams(24, seed=3)


def test_a_version_counts_optimiser_steps_and_loaded_weights_and_nothing_else(policy):
    weights = ModelWeights(policy.model)
    before = copy.deepcopy(policy.model.state_dict())
    TorchEngine(policy.model, policy.tokenizer).generate(requests(policy), PARAMS)
    assert weights.version == 0
    moved(policy.model)
    assert weights.version == weights.version == 1
    policy.model.load_state_dict(before)
    assert weights.version == 2


def test_every_weight_comes_once_under_the_name_of_a_checkpoint(policy, tmp_path):
    save_model(tmp_path, policy.model, policy.tokenizer)
    saved = load_file(tmp_path / "model.safetensors")
    given = list(ModelWeights(policy.model).tensors())
    assert sorted(name for name, _ in given) == sorted(saved)
    assert all(torch.equal(value, saved[name]) for name, value in given)
    assert policy.model.config.tie_word_embeddings
    assert "lm_head.weight" not in saved


def test_adapters_are_merged_on_the_way_out_and_stay_as_they_are(policy, tmp_path):
    add_adapters(policy.model, LoRAConfig(rank=4), seed=0)
    moved(policy.model)
    inside = copy.deepcopy(policy.model.state_dict())
    given = dict(ModelWeights(policy.model).tensors())
    assert all(torch.equal(value, inside[name]) for name, value in policy.model.state_dict().items())
    plain = load_policy("tiny").model
    assert plain.load_state_dict(given, strict=False).unexpected_keys == []
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(plain(ids).logits, policy.model(ids).logits, atol=2e-5, rtol=0)


def test_rollouts_carry_the_version_that_sampled_them(policy):
    engine = TorchEngine(policy.model, policy.tokenizer)
    versions = []
    for _ in range(2):
        versions.append({rollout.policy_version for group in engine.generate(requests(policy), PARAMS) for rollout in group})
        moved(policy.model)
    assert versions == [{0}, {1}]


def test_a_group_never_mixes_versions(policy):
    engine = TorchEngine(policy.model, policy.tokenizer)
    (first, second), _ = engine.generate(requests(policy), PARAMS)
    problem, verdicts = Problem("p", "f", "1+2=", "integer"), (Verdict("wrong"),) * 2
    RolloutGroup(problem, (first, second), verdicts)
    with pytest.raises(ValueError, match="versions"):
        RolloutGroup(problem, (first, replace(second, policy_version=1)), verdicts)


def test_a_following_engine_samples_what_the_policy_itself_would(policy):
    engine, follower = following(policy)
    for step in range(2):
        ours = TorchEngine(policy.model, policy.tokenizer).generate(requests(policy), PARAMS)
        theirs = follower.generate(requests(policy), PARAMS)
        assert engine.version == step
        for a, b in zip(chain(*ours), chain(*theirs), strict=True):
            assert b.policy_version == step
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
        moved(policy.model)
    assert follower.last_sync is not None
    assert follower.last_sync.bytes == sum(p.nbytes for p in policy.model.parameters())


def test_it_syncs_only_when_weights_have_changed(policy):
    _, follower = following(policy)
    follower.generate(requests(policy), PARAMS)
    first = follower.last_sync
    follower.generate(requests(policy), PARAMS)
    assert follower.last_sync is first


def test_an_engine_that_keeps_old_weights_in_a_corner_is_found_out(policy):
    _, follower = following(policy, forgets=("model.norm.weight",))
    follower.generate(requests(policy), PARAMS)
    moved(policy.model)
    with pytest.raises(NumericalFault, match="after a sync"):
        follower.generate(requests(policy), PARAMS)
