"""Graded rollouts of problems, and validation on them: the one way in which training code samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from pydantic import Field

from repirl.config import Config
from repirl.engines.base import Engine, Request, SamplingParams
from repirl.errors import UserError
from repirl.grading.dispatch import check_ungraded
from repirl.learn.checkpoint import RunFolder, save_torch
from repirl.rng import seed_for
from repirl.rollouts.prompts import encode_prompt
from repirl.types import Budget, Demonstration, Problem, RolloutGroup, Verdict


class SamplingConfig(Config):
    """Rollouts of a training step."""

    prompts_per_step: int = Field(default=48, ge=1)
    group_size: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=144, ge=1)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    chat_template: bool = False
    ungraded_limit: float = Field(default=0.02, ge=0, le=1)
    """Above this share of completions that could not be graded the run stops."""

    @property
    def is_full_distribution(self) -> bool:
        return self.top_p == 1 and self.top_k == 0


class ValidationConfig(Config):
    """Checkpoint selection: every `every` steps, `samples` completions of each validation problem."""

    every: int = Field(default=10, ge=1)
    num_problems: int = Field(default=64, ge=1)
    samples: int = Field(default=4, ge=1)


class Grader(Protocol):
    """Grades completions of problems; see `grading.dispatch.grade_rollouts`."""

    def __call__(
        self, problems: Sequence[Problem], completions: Sequence[str], finish_reasons: Sequence[str]
    ) -> list[Verdict]: ...


class Collector:
    """Samples groups of rollouts, grades them, and counts what it cost in `budget`."""

    def __init__(self, tokenizer, engine: Engine, grader: Grader, config: SamplingConfig) -> None:
        self.tokenizer = tokenizer
        self.engine = engine
        self.grader = grader
        self.config = config
        self.budget = Budget()

    def groups(
        self,
        problems: Sequence[Problem],
        samples: int,
        seed: int,
        demonstrations: Mapping[str, tuple[Demonstration, ...]] | None = None,
    ) -> list[RolloutGroup]:
        """One graded group of `samples` rollouts per problem; GradingFault if too many could not be graded."""
        config = self.config
        seen: Counter[str] = Counter()
        requests = []
        for problem in problems:
            prompt_ids = encode_prompt(self.tokenizer, problem.prompt, chat=config.chat_template)
            # A problem that comes again (at the seam of two passes) gets further samples, not the same ones.
            requests.append(Request(problem.id, prompt_ids, samples, first_sample=samples * seen[problem.id]))
            seen[problem.id] += 1
        params = SamplingParams(config.max_new_tokens, config.temperature, top_p=config.top_p, top_k=config.top_k, seed=seed)
        rollouts = self.engine.generate(requests, params)
        flat = [(problem, r) for problem, group in zip(problems, rollouts, strict=True) for r in group]
        verdicts = self.grader([p for p, _ in flat], [r.text for _, r in flat], [r.finish_reason for _, r in flat])
        check_ungraded(verdicts, config.ungraded_limit)
        self.budget += Budget(
            rollouts=len(flat), generated_tokens=sum(len(r.token_ids) for _, r in flat), grader_calls=len(flat)
        )
        remaining = iter(verdicts)
        return [
            RolloutGroup(p, tuple(group), tuple(next(remaining) for _ in group), (demonstrations or {}).get(p.id, ()))
            for p, group in zip(problems, rollouts, strict=True)
        ]


class Validator:
    """Sampled accuracy on fixed validation problems; the best weights so far lie in the run folder as `best.pt`."""

    def __init__(
        self, collector: Collector, problems: Sequence[Problem], config: ValidationConfig, folder: RunFolder, seed: int
    ) -> None:
        if not problems:
            raise UserError("no validation problems", todo="check the validation set")
        self.collector = collector
        self.problems = list(problems[: config.num_problems])
        self.config = config
        self.folder = folder
        self.seed = seed_for(seed, "validation")
        self.history: list[tuple[int, float]] = []

    def run(self, step: int, model) -> float:
        """Accuracy after `step` steps; the first of equally good checkpoints is kept. The same streams every time."""
        groups = self.collector.groups(self.problems, self.config.samples, self.seed)
        accuracy = float(np.nanmean([v.reward for group in groups for v in group.verdicts]))
        if not self.history or accuracy > max(value for _, value in self.history):
            save_torch(self.folder.path / "best.pt", model.state_dict())
        self.history.append((step, accuracy))
        return accuracy

    def load_best(self, model) -> tuple[int, float]:
        """Put the best weights into the model; returns (step, accuracy) of that checkpoint."""
        import torch

        model.load_state_dict(torch.load(self.folder.path / "best.pt", map_location="cpu", weights_only=True))
        return max(self.history, key=lambda entry: (entry[1], -entry[0]))
