"""Graded rollouts of problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import Field

from repirl.config import Config
from repirl.engines.base import Engine, Request, SamplingParams
from repirl.grading.dispatch import check_ungraded
from repirl.rollouts.prompts import encode_prompt
from repirl.types import Budget, Demonstration, Problem, RolloutGroup, Verdict


class KeepConfig(Config):
    accuracy: tuple[float, float] = (0.0, 1.0)
    truncated: bool = True


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

    keep: KeepConfig | None = None

    @property
    def is_full_distribution(self) -> bool:
        return self.top_p == 1 and self.top_k == 0


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


def kept(groups, keep):
    if keep is None:
        return list(groups)
    import numpy as np
    low, high = keep.accuracy
    out = []
    for g in groups:
        r = np.array([v.reward for v in g.verdicts])
        if not np.isnan(r).all() and low <= np.nanmean(r) <= high:
            out.append(g)
    return out
