"""The embedded policy: what is shipped is what `repirl pretrain` made, and it leaves room to learn."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from repirl.config import with_overrides
from repirl.engines.base import SamplingParams
from repirl.engines.loading import EMBEDDED, LoadedPolicy, folder_digest, load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.methods.base import FitContext
from repirl.methods.fitting import energy_model
from repirl.methods.pretrain import SHIPPED, PretrainConfig, accuracy, pretrain_tiny
from repirl.methods.registry import load_method
from repirl.methods.runtime import Runtime
from repirl.paths import ASSETS_DIR
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import load_energy, token_rewards
from repirl.rewards.saved import write_reward
from repirl.rollouts.collect import Collector, Decoding
from repirl.rollouts.packing import pad_batch
from repirl.rollouts.prompts import encode_solution
from repirl.tasks import arith, arith_hard, minicode, slips
from repirl.tasks.expressions import parse

DECODING = Decoding(SamplingParams(64))


@pytest.mark.parametrize("name", EMBEDDED)
def test_weights_are_those_of_the_provenance(name: str) -> None:
    folder = ASSETS_DIR / name
    provenance = json.loads((folder / "provenance.json").read_text())
    assert folder_digest(folder) == provenance["weights_sha256"]
    assert provenance["config"] == SHIPPED[name].model_dump(mode="json"), "the command would make another policy"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4_000_000


def test_slips_are_what_the_policy_errs_by() -> None:
    policy = load_policy("tiny")
    problems = arith.problems("validation", 40, levels=(1,))
    collector = Collector(policy.tokenizer, TorchEngine(policy.model, policy.tokenizer), grade_rollouts, DECODING)
    usual, others, slipped = [], [], 0
    for group in collector.groups(problems, 8, 0):
        node = parse(group.problem.source)
        assert node is not None
        assert node.left is not None
        assert node.right is not None
        habit = slips.habit_of(node.op, node.left.value, node.right.value)
        wrong = [rollout.text for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True) if verdict.reward == 0]
        if habit is not None and node.right.value % 2:
            usual.append(len(wrong) / 8)
            slipped += sum(text == rf"\boxed{{{habit}}}" for text in wrong) / max(1, len(wrong))
        elif habit is None:
            others.append(len(wrong) / 8)
    assert np.mean(usual) > 0.5 > np.mean(others)
    assert slipped / len(usual) > 0.5, "most of these mistakes are the habit's"


def test_hard_problems_are_those_that_it_fails() -> None:
    """None of the listed problems is solved in the samples that chose them; other samples solve few."""
    policy = load_policy("tiny")
    collector = Collector(
        policy.tokenizer, TorchEngine(policy.model, policy.tokenizer), grade_rollouts, Decoding(SamplingParams(192))
    )
    for split in ("train", "test"):
        hard = arith_hard.problems(split, 20)
        assert {problem.id for problem in hard} <= {problem.id for problem in arith_hard.candidates(split)}
        again = collector.groups(hard, arith_hard.SAMPLES, 0)
        assert not any(v.outcome == "correct" for group in again for v in group.verdicts)
        others = collector.groups(hard, arith_hard.SAMPLES, 1)
        solved = np.mean([v.reward for group in others for v in group.verdicts])
        assert solved < 0.06
    assert {problem.id for problem in arith_hard.problems("train", 50)}.isdisjoint(
        p.id for p in arith_hard.problems("test", 50)
    )


@pytest.mark.parametrize(("family", "low", "high"), [(arith, 0.12, 0.35), (minicode, 0.4, 0.75)])
def test_accuracy_falls_with_the_level(family, low: float, high: float) -> None:
    policy = load_policy("tiny")
    found = accuracy(policy.model, policy.tokenizer, family, 8, 4)
    assert low < found["all"] < high
    assert found["1"] > found["3"]
    assert found["2"] > found["5"]
    assert found["1"] > 0.4
    assert found["8"] < 0.25


def test_pretraining_resumes_exactly(tmp_path, monkeypatch) -> None:
    config = PretrainConfig(steps=52, arith_rows=4, minicode_rows=2, arith_problems=80, minicode_problems=60, hard=False)
    whole = pretrain_tiny(tmp_path / "whole", config)

    def stop(step: int, steps: int, metrics: dict) -> None:
        if step == 51:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_tiny(tmp_path / "parts", config, stop)
    again = pretrain_tiny(tmp_path / "parts", config)
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert pretrain_tiny(tmp_path / "parts", config) == again  # finished: nothing is done again


def _context(policy: LoadedPolicy) -> Any:
    return SimpleNamespace(policy=policy, runtime=Runtime(), seed=0)


def test_a_reward_may_start_from_a_smaller_model_of_the_same_tokens(tmp_path: Path) -> None:
    """With a base measure its scores are at first that model's log-probabilities; it starts from no reward of another size."""
    tiny, mini = load_policy("tiny"), load_policy("mini")
    model = energy_model(_context(tiny), base="mini", base_measure=1.0)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 64)
    row = encode_solution(tiny.tokenizer, tiny.tokenizer("Compute 3*(4-9).\n")["input_ids"], r"4-9=-5" + "\n" + r"\boxed{-15}")
    ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
    logprobs = mini.model(input_ids=ids).logits[0].log_softmax(-1)
    start = len(row.prompt_ids)
    own = logprobs[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]
    scores = token_rewards(model.eval(), pad_batch([row], 0, "cpu"))
    assert torch.allclose(scores, own, atol=1e-5)
    fields = {"kind": "energy", "method": "repirl", "step_separator": "\n", "template": "plain", "step_aggregation": "min"}
    contract = RewardContract.model_validate(fields | {"base_digest": tiny.digest, "training_digest": "0" * 64})
    write_reward(tmp_path, energy_model(_context(tiny), base_measure=1.0), tiny.tokenizer, contract)
    with pytest.raises(UserError, match=r"another size \(4 layers of 128, not 2 of 64\)"):
        load_energy(model, tmp_path, tiny.digest)


def test_a_reward_does_not_start_from_a_model_of_other_tokens() -> None:
    policy: Any = SimpleNamespace(model=load_policy("tiny").model, tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0}))
    with pytest.raises(UserError, match="other tokens than the policy"):
        energy_model(_context(policy), base="mini")


def test_a_base_that_is_not_there_is_told_before_anything_is_sampled(tmp_path: Path) -> None:
    method = load_method("repirl")
    config = with_overrides(method.recipe("tiny"), ["irl.base=nowhere"])
    with pytest.raises(UserError, match="nowhere"):
        method.fit(FitContext(load_policy("tiny"), tmp_path / "run", 0), config)
    assert not (tmp_path / "run").exists()
