"""The alternating loop (PAPER 4): sample, grade, let the process reward learn and score, update the policy.

Nothing in it depends on which method runs: a method is a process reward (or none) and a configuration. All randomness
comes from (seed, step) streams, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from repirl.config import Config
from repirl.engines.base import Engine, Request, SamplingParams
from repirl.errors import UserError
from repirl.grading.dispatch import check_ungraded
from repirl.learn.checkpoint import RunFolder, save_torch
from repirl.learn.mixing import MixConfig, mixed_advantages
from repirl.learn.update import OptimConfig, PolicyUpdater
from repirl.rewards.base import ProcessReward
from repirl.rng import seed_for, stream
from repirl.rollouts.prompts import encode_prompt
from repirl.types import Budget, Demonstration, Problem, Rollout, RolloutGroup, Verdict


class SamplingConfig(Config):
    """Rollouts of a training step."""

    prompts_per_step: int = Field(48, ge=1)
    group_size: int = Field(8, ge=2)
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(144, ge=1)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)


class ValidationConfig(Config):
    """Checkpoint selection: every `every` steps, `samples` completions of each validation problem at temperature 1."""

    every: int = Field(10, ge=1)
    num_problems: int = Field(64, ge=1)
    samples: int = Field(4, ge=1)


class LoopConfig(Config):
    """All that the loop needs beside data and a process reward."""

    steps: int = Field(40, ge=1)
    sampling: SamplingConfig = SamplingConfig()
    mix: MixConfig = MixConfig()
    process_warmup_steps: int = Field(0, ge=0)
    """For so many first steps the process part is left out of the advantages (the process reward learns already)."""
    optim: OptimConfig = OptimConfig()
    validation: ValidationConfig = ValidationConfig()
    ungraded_limit: float = Field(0.02, ge=0, le=1)
    checkpoint_every: int = Field(1, ge=1)
    chat_template: bool = False


class Grader(Protocol):
    """Grades completions of problems; see `grading.dispatch.grade_rollouts`."""

    def __call__(
        self, problems: Sequence[Problem], completions: Sequence[str], finish_reasons: Sequence[str]
    ) -> list[Verdict]: ...


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a finished loop reports; the policy's weights are those of the best validation."""

    best_step: int
    best_validation: float
    validation: tuple[tuple[int, float], ...]
    budget: Budget
    last_metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LoopData:
    """Training and validation problems, and the demonstrations by problem id (empty if a method uses none)."""

    problems: Sequence[Problem]
    validation: Sequence[Problem]
    demonstrations: Mapping[str, tuple[Demonstration, ...]]


class Loop:
    """Trains `model` in place. `on_step(step, steps, metrics)` is called after every step."""

    def __init__(
        self,
        model,
        tokenizer,
        engine: Engine,
        grader: Grader,
        data: LoopData,
        process: ProcessReward | None,
        config: LoopConfig,
        folder: RunFolder,
        seed: int,
        on_step: Callable[[int, int, dict[str, Any]], None] | None = None,
        reference=None,
    ) -> None:
        if not data.problems:
            raise UserError("no training problems", todo="check the training set and its levels")
        if not data.validation:
            raise UserError("no validation problems", todo="check the validation set")
        if (config.sampling.top_p < 1 or config.sampling.top_k > 0) and process is not None:
            raise UserError(
                "importance weights need the full distribution",
                f"top_p={config.sampling.top_p}, top_k={config.sampling.top_k}",
                "use top_p=1 and top_k=0",
            )
        self.tokenizer, self.engine, self.grader = tokenizer, engine, grader
        self.data, self.process, self.config = data, process, config
        self.folder, self.seed, self.on_step = folder, seed, on_step
        self.model = model
        self.updater = PolicyUpdater(model, tokenizer.pad_token_id, config.optim, reference)
        self.budget = Budget()
        self.validation: list[tuple[int, float]] = []
        self.last_metrics: dict[str, Any] = {}

    def run(self) -> LoopResult:
        """Run (or continue) to the last step and load the best weights into the model."""
        step = self._resume()
        if step == 0 and not self.validation:
            self._validate(0)
        while step < self.config.steps:
            started = time.monotonic()
            metrics = self._step(step)
            step += 1
            if step % self.config.validation.every == 0 or step == self.config.steps:
                metrics["validation_accuracy"] = self._validate(step)
            wall = time.monotonic() - started
            self.budget += Budget(wall_s=wall)
            self.last_metrics = {"step": step, **metrics, "wall_s": round(wall, 3)}
            self.folder.log(self.last_metrics)
            if step % self.config.checkpoint_every == 0 or step == self.config.steps:
                self._checkpoint(step)
            if self.on_step is not None:
                self.on_step(step, self.config.steps, self.last_metrics)
        return self._finish()

    def _step(self, step: int) -> dict[str, Any]:
        """One batch of prompts: rollouts, verdicts, process reward, policy update."""
        problems = self._batch(step)
        config = self.config.sampling
        times = {"sample": time.monotonic()}
        rollouts = self._sample(problems, config.group_size, config.temperature, seed_for(self.seed, "rollouts", step))
        times["grade"] = time.monotonic()
        groups = self._graded(problems, rollouts)
        times["process"] = time.monotonic()
        metrics = _batch_metrics(groups)
        scored = None
        if self.process is not None:
            learned = self.process.learn(groups, step)
            metrics |= {f"prm/{name}": value for name, value in learned.items()}
            scored = self.process.score(groups) if step >= self.config.process_warmup_steps else None
        advantages = mixed_advantages(groups, scored, self.config.mix)
        times["update"] = time.monotonic()
        flat = [rollout for group in groups for rollout in group.rollouts]
        metrics |= self.updater.update(
            flat, [a for group in advantages for a in group], seed_for(self.seed, "mini", step)
        )
        times["end"] = time.monotonic()
        marks = list(times.items())
        metrics |= {
            f"time/{name}_s": round(after - at, 3) for (name, at), (_, after) in itertools.pairwise(marks)
        }
        self.budget += Budget(
            policy_updates=self.config.optim.mini_batches * self.config.optim.epochs,
            demonstrations=sum(len(group.demonstrations) for group in groups),
        )
        return metrics

    def _batch(self, step: int) -> list[Problem]:
        """The problems of a step: successive slices of one seeded permutation per pass over the data."""
        size, total = self.config.sampling.prompts_per_step, len(self.data.problems)
        chosen: list[Problem] = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, total)
            order = stream(self.seed, "order", epoch).permutation(total)
            chosen.append(self.data.problems[int(order[place])])
        return chosen

    def _sample(self, problems: Sequence[Problem], samples: int, temperature: float, seed: int) -> list[list[Rollout]]:
        config = self.config.sampling
        requests = [
            Request(p.id, encode_prompt(self.tokenizer, p.prompt, chat=self.config.chat_template), samples)
            for p in problems
        ]
        rollouts = self.engine.generate(
            requests,
            SamplingParams(config.max_new_tokens, temperature, top_p=config.top_p, top_k=config.top_k, seed=seed),
        )
        flat = [rollout for group in rollouts for rollout in group]
        self.budget += Budget(
            rollouts=len(flat), generated_tokens=sum(len(r.token_ids) for r in flat), grader_calls=len(flat)
        )
        return rollouts

    def _graded(self, problems: Sequence[Problem], rollouts: Sequence[Sequence[Rollout]]) -> list[RolloutGroup]:
        flat = [(problem, r) for problem, group in zip(problems, rollouts, strict=True) for r in group]
        verdicts = self.grader([p for p, _ in flat], [r.text for _, r in flat], [r.finish_reason for _, r in flat])
        check_ungraded(verdicts, self.config.ungraded_limit)
        remaining = iter(verdicts)
        return [
            RolloutGroup(
                problem,
                tuple(group),
                tuple(next(remaining) for _ in group),
                self.data.demonstrations.get(problem.id, ()),
            )
            for problem, group in zip(problems, rollouts, strict=True)
        ]

    def _validate(self, step: int) -> float:
        """Mean sampled accuracy on the validation problems; keeps the weights if they are the best so far."""
        config = self.config.validation
        problems = list(self.data.validation[: config.num_problems])
        rollouts = self._sample(problems, config.samples, 1.0, seed_for(self.seed, "validation"))
        groups = self._graded(problems, rollouts)
        accuracy = float(np.nanmean([v.reward for group in groups for v in group.verdicts]))
        if not self.validation or accuracy > max(value for _, value in self.validation):
            save_torch(self.folder.path / "best.pt", self.model.state_dict())
        self.validation.append((step, accuracy))
        return accuracy

    def _checkpoint(self, step: int) -> None:
        self.folder.save_checkpoint(
            {
                "step": step,
                "policy": self.updater.state(),
                "process": self.process.state() if self.process is not None else None,
                "budget": asdict(self.budget),
                "validation": self.validation,
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
        self.budget = Budget(**state["budget"])
        self.validation = [tuple(entry) for entry in state["validation"]]
        self.last_metrics = state["last_metrics"]
        return int(state["step"])

    def _finish(self) -> LoopResult:
        import torch

        self.model.load_state_dict(torch.load(self.folder.path / "best.pt", map_location="cpu"))
        best_step, best = max(self.validation, key=lambda entry: (entry[1], -entry[0]))
        process = self.process
        budget = self.budget + Budget(
            trained_tokens=self.updater.trained_tokens + (process.trained_tokens if process is not None else 0),
            scored_tokens=process.scored_tokens if process is not None else 0,
        )
        return LoopResult(best_step, best, tuple(self.validation), budget, self.last_metrics)


def _batch_metrics(groups: Sequence[RolloutGroup]) -> dict[str, Any]:
    """Counts and means of one graded batch."""
    verdicts = [v for group in groups for v in group.verdicts]
    rewards = np.array([v.reward for v in verdicts])
    lengths = [len(r.token_ids) for group in groups for r in group.rollouts]
    mixed = [
        0 < np.nanmean([v.reward for v in g.verdicts]) < 1
        for g in groups
        if any(v.reward == v.reward for v in g.verdicts)
    ]
    return {
        "reward": float(np.nanmean(rewards)) if not np.isnan(rewards).all() else float("nan"),
        "mixed_groups": float(np.mean(mixed)) if mixed else float("nan"),
        "length_mean": float(np.mean(lengths)),
        "truncated": sum(v.outcome == "truncated" for v in verdicts),
        "ungraded": sum(v.outcome == "ungraded" for v in verdicts),
    }
