"""What tests/test_parallel.py runs in one process and, by torchrun, in two."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repirl import parallel
from repirl.config import with_overrides
from repirl.engines.lora import LoRAConfig, add_adapters
from repirl.engines.tiny_model import build_model, build_tokenizer
from repirl.engines.weights import ModelWeights
from repirl.learn.gradient import row_logprobs
from repirl.learn.supervised import negative_log_likelihood
from repirl.learn.updater import OptimConfig, Updater
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.methods.runtime import Runtime, start_policy
from repirl.rewards.energy import energy_from_policy, parameter_groups, token_rewards
from repirl.rollouts.packing import TokenRow

LENGTHS = (3, 40, 17, 29, 5, 11, 23)
MICRO_BATCH = 48
"""Tokens: rows of these lengths make an odd number of micro-batches, so that of two processes one idles at the end."""
SMALL = {
    "loop.steps": 3,
    "loop.sampling.prompts_per_step": 4,
    "loop.sampling.group_size": 2,
    "loop.sampling.max_new_tokens": 12,
    "loop.optim.lr": 0.01,
    "loop.optim.warmup_steps": 0,
    "loop.optim.loss.entropy_weight": 0.5,  # something to learn without a right answer
    "loop.validation.num_problems": 2,
    "loop.validation.samples": 1,
    "loop.validation.select": "last",
    "data.num_problems": 12,
    "data.validation_problems": 2,
    "data.levels": [1],
}
OF_A_METHOD = {"repirl": {"offline.updates": 0}, "sft_rloo": {"sft.steps": 2, "sft.optim.lr": 0.01}}
INTERRUPTED_AFTER = 2


def rows(count: int = len(LENGTHS)) -> list[TokenRow]:
    generator = np.random.default_rng(0)
    return [TokenRow([5, 6], generator.integers(3, 20, length)) for length in LENGTHS[:count]]


def make_policy(*, tied: bool = True) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(build_tokenizer(), layers=2, width=32)
        if not tied:
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.02)
    return model


def trained(model: Any, loss_of: Callable[[Any, list[TokenRow]], Any], batches: list[list[TokenRow]], groups: Any = None):
    """Gradients (whole) of the first batch and weights after all of them; losses and norms."""
    updater = Updater(model, 0, OptimConfig(lr=0.01, micro_batch_tokens=MICRO_BATCH), len(batches), groups=groups)
    gradients: dict[str, torch.Tensor] = {}
    said = []
    for batch in batches:
        stats = updater.step(batch, loss_of(model, batch))
        said.append((stats.loss, stats.grad_norm, stats.trained_tokens))
        gradients = gradients or {
            name: parallel.whole(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None
        }
    weights = {name: parallel.whole(value).clone() for name, value in model.state_dict().items()}
    return {"gradients": gradients, "weights": weights, "said": said}


def energy_loss(model: Any, batch: list[TokenRow]):
    count = len(batch)
    return lambda part, chunk: token_rewards(model, part).square().sum() / count


def gradients() -> dict[str, Any]:
    """Of several kinds of models, three updates; the last batch has one row, so that one of two processes has none."""
    batches = [rows(), rows(), rows(1)]
    adapted = make_policy()
    add_adapters(adapted, LoRAConfig(rank=2), seed=0)
    energy = energy_from_policy(make_policy(), base_measure=1.0)
    return {
        "tied": trained(make_policy(), negative_log_likelihood, batches),
        "untied": trained(make_policy(tied=False), negative_log_likelihood, batches),
        "adapters": trained(adapted, negative_log_likelihood, batches),
        "energy": trained(energy, energy_loss, batches, parameter_groups(energy, 0.01, 0.02)),
    }


def scores() -> list[torch.Tensor]:
    """Passes without gradient through a model that has been trained."""
    model = make_policy()
    trained(model, negative_log_likelihood, [rows()])
    return row_logprobs(model, rows(), max_tokens=MICRO_BATCH)


def versions() -> dict[str, Any]:
    """Of a model in training: versions seen, and its weights as an engine gets them at the end."""
    model = make_policy()
    updater = Updater(model, 0, OptimConfig(lr=0.01, micro_batch_tokens=MICRO_BATCH), 2)
    source = ModelWeights(model)
    seen = [source.version]
    for _ in range(2):
        updater.step(rows(), negative_log_likelihood(model, rows()))
        seen.append(source.version)
    parallel.load_whole(model, make_policy().state_dict())
    return {"seen": [*seen, source.version], "tensors": {name: value.clone() for name, value in source.tensors()}}


def sums() -> dict[str, Any]:
    """The small tools; in two processes each has another number."""
    here = parallel.rank() + 1
    return {
        "shared": parallel.shared(lambda some: [(i * i, parallel.rank()) for i in some], range(7)),
        "total": [parallel.total([1.0 * here, 0.5]), parallel.total(torch.tensor([here, 10])).tolist()],
        "gathered": parallel.gathered({"process": here}),
    }


class Interrupted(Exception):
    """What ends a run after some steps."""


def fit(policy_folder: Path, folder: Path, method: str = "rloo", lora: int | None = None, until: int | None = None) -> None:
    """A short run, or what is left of it; with `until` it breaks off after so many steps."""
    settings = SMALL | OF_A_METHOD.get(method, {})
    config = with_overrides(load_method(method).recipe("tiny"), [f"{key}={json.dumps(v)}" for key, v in settings.items()])
    runtime = Runtime(lora=None if lora is None else LoRAConfig(rank=lora))

    def on_step(step: int, steps: int, metrics: dict[str, Any]) -> None:
        if step == until:
            raise Interrupted

    try:
        context = FitContext(start_policy(policy_folder, runtime, 0), folder, 0, on_step, runtime)
        load_method(method).fit(context, config)
    except Interrupted:
        assert until is not None


def _die_at(step: int, policy_folder: Path, folder: Path) -> None:
    """A run in which the second process ends without a word after some steps."""

    def on_step(done: int, steps: int, metrics: dict[str, Any]) -> None:
        if done == step and parallel.rank() == 1:
            os._exit(3)

    config = with_overrides(load_method("rloo").recipe("tiny"), [f"{key}={json.dumps(v)}" for key, v in SMALL.items()])
    load_method("rloo").fit(FitContext(start_policy(policy_folder, Runtime(), 0), folder, 0, on_step), config)


def main(what: str, policy_folder: Path, out: Path) -> None:
    with parallel.joined("cpu"):
        if what == "die":
            _die_at(INTERRUPTED_AFTER, policy_folder, out / "dies")
            return
        found = {"gradients": gradients(), "scores": scores(), "versions": versions(), "sums": sums()}
        if parallel.is_first():
            torch.save(found, out / "found.pt")
        for method in ("rloo", "repirl", "sft_rloo"):  # the last has a phase that starts from a policy that was cut
            fit(policy_folder, out / f"{method}-two", method)
        fit(policy_folder, out / "rloo-lora-two", lora=2)
        fit(policy_folder, out / "from-two-to-one", "repirl", until=INTERRUPTED_AFTER)
        fit(policy_folder, out / "from-one-to-two", "repirl")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
