"""`repirl pretrain`: makes an embedded policy from nothing, by maximum likelihood on its own style of solution.

It sees every level of both families, minicode thinly. Its arith text is full of habitual slips (tasks/slips.py), so it errs
by habit, with full confidence: where a slip is usual it is the likelier continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import Field

from repirl.config import Config
from repirl.engines.base import SamplingParams
from repirl.engines.loading import folder_digest, load_policy, save_model
from repirl.engines.tiny_model import build_model, build_tokenizer
from repirl.engines.torch_engine import TorchEngine
from repirl.grading.dispatch import grade_rollouts
from repirl.learn.checkpoint import RunFolder, write_json
from repirl.learn.run import run_steps
from repirl.learn.supervised import LossBatch, Supervised, negative_log_likelihood
from repirl.learn.updater import OptimConfig, Updater
from repirl.processes import only_user_of
from repirl.rng import stream
from repirl.rollouts.collect import Collector, Decoding
from repirl.rollouts.packing import TokenRow, padding_id
from repirl.rollouts.prompts import encode_solution
from repirl.tasks import arith, arith_hard, minicode, slips
from repirl.types import Problem

PROVENANCE_FILE = "provenance.json"


class PretrainConfig(Config):
    """How an embedded policy is made. Problems are of the training split, drawn with another seed than any recipe's."""

    steps: int = Field(default=1600, ge=1)
    arith_rows: int = Field(default=112, ge=1)
    minicode_rows: int = Field(default=5, ge=1)
    arith_levels: tuple[int, ...] = (1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8)
    """Shares of the levels: the low ones more often, since their facts serve all."""
    lr: float = Field(default=2e-3, gt=0)
    warmup: int = Field(default=50, ge=0)
    seed: int = 0
    problem_seed: int = 77
    arith_problems: int = 40000
    minicode_problems: int = 6000
    hard: bool = True
    """Also find the problems of `arith_hard`: those that the policy fails, which takes some minutes."""
    threads: int = Field(default=1, ge=1)
    """Number of torch threads: sums are ordered by it, so the bytes of the weights depend on it."""
    layers: int = Field(default=4, ge=1)
    width: int = Field(default=128, ge=8)


SHIPPED: Mapping[str, PretrainConfig] = {"tiny": PretrainConfig(), "mini": PretrainConfig(layers=2, width=64, hard=False)}
"""How each embedded policy was made. `mini` (an eighth of the parameters) is what a smaller process reward starts from."""


def pretrain_tiny(
    out: Path, config: PretrainConfig | None = None, on_step: Callable[[int, int, dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Train (or continue) in `out`, leave a transformers folder with `provenance.json` there, and return the latter."""
    with only_user_of(out / "run"):
        return _pretrain(out, config or PretrainConfig(), on_step)


def _pretrain(out: Path, config: PretrainConfig, on_step: Callable[[int, int, dict[str, Any]], None] | None) -> dict[str, Any]:
    # The run's own files lie in a folder of their own: transformers writes a `config.json` too.
    run = RunFolder(out / "run", {"pretrain": config.model_dump(mode="json")})
    if run.done is not None:
        return run.done
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, layers=config.layers, width=config.width)
    draw = _Draw(config, tokenizer)

    def batch_of_step(step: int) -> LossBatch:
        rows = draw.rows(step)
        return LossBatch(rows, negative_log_likelihood(model, rows))

    optim = OptimConfig(lr=config.lr, warmup_steps=config.warmup, schedule="cosine")
    learner = Supervised(Updater(model, padding_id(tokenizer), optim, config.steps, betas=(0.9, 0.95)), batch_of_step)
    run_steps(learner, config.steps, run, checkpoint_every=50, on_step=on_step)
    save_model(out, model, tokenizer)
    if config.hard:
        write_json(out / arith_hard.UNSOLVED_FILE, unsolved(model, tokenizer))
    provenance = _provenance(out, config)
    write_json(out / PROVENANCE_FILE, provenance)
    run.finish(provenance)
    return provenance


class _Draw:
    """Training rows of a step, a function of (seed, step) alone."""

    def __init__(self, config: PretrainConfig, tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        seed = config.problem_seed
        self.arith: dict[int, list[Problem]] = {level: [] for level in arith.LEVELS}
        for problem in arith.problems("train", config.arith_problems, seed=seed):
            self.arith[problem.level or 0].append(problem)
        self.minicode: dict[int, list[Problem]] = {level: [] for level in minicode.LEVELS}
        for problem in minicode.problems("train", config.minicode_problems, seed=seed):
            self.minicode[problem.level or 0].append(problem)

    def rows(self, step: int) -> list[TokenRow]:
        """Arith levels in their shares, then minicode levels in equal ones, all in the policy's own style."""
        rng = stream(self.config.seed, "pretrain", step)
        rows = []
        for i in range(self.config.arith_rows):
            level = self.arith[self.config.arith_levels[i % len(self.config.arith_levels)]]
            problem = level[int(rng.integers(len(level)))]
            rows.append(self._encode(problem, slips.slipped_solution(problem.source, rng)))
        for i in range(self.config.minicode_rows):
            level = self.minicode[minicode.LEVELS[i % len(minicode.LEVELS)]]
            problem = level[int(rng.integers(len(level)))]
            rows.append(self._encode(problem, minicode.solution(problem.source, minicode.OWN_STYLE)))
        return rows

    def _encode(self, problem: Problem, text: str) -> TokenRow:
        return encode_solution(self.tokenizer, self.tokenizer(problem.prompt)["input_ids"], text)


def accuracy(model, tokenizer, family: ModuleType, problems_per_level: int, samples: int) -> dict[str, float]:
    """Accuracy at temperature 1 by level (and `all`), on validation problems of an embedded family."""
    collector = Collector(tokenizer, TorchEngine(model, tokenizer), grade_rollouts, Decoding(SamplingParams(192)))
    problems = family.problems("validation", problems_per_level * len(family.LEVELS))
    rewards: dict[str, list[float]] = {"all": []}
    for group in collector.groups(problems, samples, 0):
        for key in ("all", str(group.problem.level)):
            rewards.setdefault(key, []).extend(v.reward for v in group.verdicts)
    return {key: sum(values) / len(values) for key, values in sorted(rewards.items())}


def unsolved(model, tokenizer) -> dict[str, list[str]]:
    """Split -> expressions of `arith_hard`: what the policy fails in all samples."""
    collector = Collector(tokenizer, TorchEngine(model, tokenizer), grade_rollouts, Decoding(SamplingParams(192)))
    found: dict[str, list[str]] = {}
    for split in arith_hard.CANDIDATES:
        groups = collector.groups(arith_hard.candidates(split), arith_hard.SAMPLES, 0)
        failed = [group for group in groups if not any(verdict.outcome == "correct" for verdict in group.verdicts)]
        found[split] = [group.problem.source for group in failed]
    return found


def _provenance(out: Path, config: PretrainConfig) -> dict[str, Any]:
    import transformers

    policy = load_policy(str(out))
    families = {family.FAMILY: accuracy(policy.model, policy.tokenizer, family, 30, 4) for family in (arith, minicode)}
    return {
        "command": "repirl pretrain",
        "config": config.model_dump(mode="json"),
        "weights_sha256": folder_digest(out),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sampled_accuracy": families,
    }
