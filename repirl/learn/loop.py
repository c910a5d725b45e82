"""The alternating loop (PAPER 4): sample, grade, let the process reward learn and score, update the policy.

Nothing in it depends on which method runs: a method is a process reward (or none) and a configuration. All randomness
comes from (seed, step) streams, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field

from repirl.config import Config
from repirl.errors import UserError
from repirl.learn.checkpoint import RunFolder
from repirl.learn.collect import Collector, SamplingConfig, ValidationConfig, Validator
from repirl.learn.mixing import MixConfig, mixed_advantages
from repirl.learn.update import OptimConfig, PolicyUpdater
from repirl.rewards.base import ProcessReward
from repirl.rng import seed_for, stream
from repirl.rollouts.batching import padding_id
from repirl.types import Budget, Demonstration, Problem, RolloutGroup

OnStep = Callable[[int, int, dict[str, Any]], None]
"""Called after every step with (completed steps, all steps, metrics)."""


class LoopConfig(Config):
    """All that the loop needs beside data and a process reward."""

    steps: int = Field(default=40, ge=1)
    sampling: SamplingConfig = SamplingConfig()
    mix: MixConfig = MixConfig()
    process_warmup_steps: int = Field(default=0, ge=0)
    """For so many first steps the process part is left out of the advantages (the process reward learns already)."""
    process_decay_steps: int = Field(default=0, ge=0)
    """After the warm-up the process weight falls linearly, to 0 after so many steps; 0: it stays as it is."""
    optim: OptimConfig = OptimConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint_every: int = Field(default=1, ge=1)

    def process_share(self, step: int) -> float:
        """The part of `mix.process_weight` that step number `step` (from 0) pays."""
        paid_steps = step - self.process_warmup_steps
        if paid_steps < 0:
            return 0.0
        return max(0.0, 1 - paid_steps / self.process_decay_steps) if self.process_decay_steps else 1.0


@dataclass(frozen=True, slots=True)
class LoopData:
    """Training and validation problems, and the demonstrations by problem id (empty if a method uses none)."""

    problems: Sequence[Problem]
    validation: Sequence[Problem]
    demonstrations: Mapping[str, tuple[Demonstration, ...]]


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What finished training reports; the policy's weights are those of the best validation."""

    best_step: int
    best_validation: float
    validation: tuple[tuple[int, float], ...]
    budget: Budget
    last_metrics: Mapping[str, Any]


def batch_of(problems: Sequence[Problem], step: int, size: int, seed: int) -> list[Problem]:
    """The problems of a step: successive slices of one seeded permutation per pass, the same for every method."""
    chosen: list[Problem] = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, len(problems))
        order = stream(seed, "order", epoch).permutation(len(problems))
        chosen.append(problems[int(order[place])])
    return chosen


class Loop:
    """Trains `model` in place; UserError for empty data or a truncated distribution with a learned reward."""

    def __init__(
        self,
        model,
        collector: Collector,
        data: LoopData,
        process: ProcessReward | None,
        config: LoopConfig,
        folder: RunFolder,
        seed: int,
        on_step: OnStep | None = None,
        reference=None,
    ) -> None:
        if not data.problems:
            raise UserError("no training problems", todo="check the training set and its levels")
        if process is not None and not config.sampling.is_full_distribution:
            raise UserError(
                "importance weights need the full distribution",
                f"top_p={config.sampling.top_p}, top_k={config.sampling.top_k}",
                "use top_p=1 and top_k=0",
            )
        self.model, self.collector, self.data, self.process = model, collector, data, process
        self.config, self.folder, self.seed, self.on_step = config, folder, seed, on_step
        total = config.steps * config.optim.mini_batches * config.optim.epochs
        self.updater = PolicyUpdater(model, padding_id(collector.tokenizer), config.optim, reference, total)
        self.validator = Validator(collector, data.validation, config.validation, folder, seed)
        self.budget = Budget()
        self.last_metrics: dict[str, Any] = {}

    def run(self) -> LoopResult:
        """Run (or continue) to the last step and load the best weights into the model."""
        step = self._resume()
        if not self.validator.history:
            self.validator.run(0, self.model)
        while step < self.config.steps:
            started = time.monotonic()
            metrics = self._step(step)
            step += 1
            last = step == self.config.steps
            if step % self.config.validation.every == 0 or last:
                metrics["validation_accuracy"] = self.validator.run(step, self.model)
            wall_s = time.monotonic() - started
            self.budget += Budget(wall_s=wall_s)
            self.last_metrics = {"step": step, **metrics, "wall_s": round(wall_s, 3)}
            self.folder.log(self.last_metrics)
            if step % self.config.checkpoint_every == 0 or last:
                self._checkpoint(step)
            if self.on_step is not None:
                self.on_step(step, self.config.steps, self.last_metrics)
        best_step, best = self.validator.load_best(self.model)
        return LoopResult(best_step, best, tuple(self.validator.history), self._total_budget(), self.last_metrics)

    def _step(self, step: int) -> dict[str, Any]:
        """One batch of prompts: rollouts, verdicts, process reward, policy update."""
        config = self.config
        marks = [("sample", time.monotonic())]
        problems = batch_of(self.data.problems, step, config.sampling.prompts_per_step, self.seed)
        groups = self.collector.groups(
            problems, config.sampling.group_size, seed_for(self.seed, "rollouts", step), self.data.demonstrations
        )
        metrics = batch_metrics(groups)
        marks.append(("process", time.monotonic()))
        scored = None
        if self.process is not None:
            metrics |= {f"prm/{name}": value for name, value in self.process.learn(groups, step).items()}
            scored = self.process.score(groups) if config.process_share(step) > 0 else None
        advantages = mixed_advantages(groups, scored, config.mix, config.process_share(step))
        marks.append(("update", time.monotonic()))
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        flat = [advantage for group in advantages for advantage in group]
        metrics |= self.updater.update(rollouts, flat, seed_for(self.seed, "mini", step))
        marks.append(("end", time.monotonic()))
        metrics |= {f"time/{name}_s": round(after - at, 3) for (name, at), (_, after) in pairwise(marks)}
        return metrics

    def _total_budget(self) -> Budget:
        process = self.process
        return (
            self.budget
            + self.collector.budget
            + Budget(
                policy_updates=self.updater.updates,
                trained_tokens=self.updater.trained_tokens + (process.trained_tokens if process is not None else 0),
                scored_tokens=process.scored_tokens if process is not None else 0,
                demonstrations=process.used_demonstrations if process is not None else 0,
            )
        )

    def _checkpoint(self, step: int) -> None:
        self.folder.save_checkpoint(
            {
                "step": step,
                "policy": self.updater.state(),
                "process": self.process.state() if self.process is not None else None,
                "budget": asdict(self.budget),
                "collected": asdict(self.collector.budget),
                "validation": self.validator.history,
                "last_metrics": self.last_metrics,
            }
        )

    def _resume(self) -> int:
        state = self.folder.load_checkpoint()
        if state is None:
            return 0
        self.updater.load_state(state["policy"])
        if self.process is not None:
            self.process.load_state(state["process"])
        self.budget, self.collector.budget = Budget(**state["budget"]), Budget(**state["collected"])
        self.validator.history = [tuple(entry) for entry in state["validation"]]
        self.last_metrics = state["last_metrics"]
        return int(state["step"])


def batch_metrics(groups: Sequence[RolloutGroup]) -> dict[str, Any]:
    """Mean reward, share of groups with both right and wrong rollouts, lengths and counts of one graded batch."""
    rewards = [np.array([v.reward for v in group.verdicts]) for group in groups]
    graded = [r[~np.isnan(r)] for r in rewards]
    flat = np.concatenate(graded)
    outcomes = [v.outcome for group in groups for v in group.verdicts]
    return {
        "reward": float(flat.mean()) if len(flat) else float("nan"),
        "mixed_groups": float(np.mean([len(set(r.tolist())) > 1 for r in graded])),
        "length_mean": float(np.mean([len(r.token_ids) for group in groups for r in group.rollouts])),
        "truncated": outcomes.count("truncated"),
        "ungraded": outcomes.count("ungraded"),
    }
