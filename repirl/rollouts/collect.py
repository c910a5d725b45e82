"""Graded rollouts: the one way in which training, evaluation and judging sample.

A `Collector` is an engine, a grader (or none, for problems without labels) and a way of decoding. It samples whole
completions of problems, or continuations of prefixes. Every (seed, problem, sample) and every (seed, prefix, sample) has
its own random stream, so what is sampled does not depend on what else is asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from pydantic import Field, field_validator

from repirl import parallel
from repirl.config import Config
from repirl.engines.base import Engine, Request, SamplingParams
from repirl.engines.sampling import decode
from repirl.errors import UserError
from repirl.grading.dispatch import check_ungraded
from repirl.rollouts.prompts import encode_prompt
from repirl.types import Budget, Demonstration, Problem, Rollout, RolloutGroup, Verdict

OnProgress = Callable[[int, int], None]

NO_GRADER = "no grader"
"""Reason of the verdict `ungraded` where a collector has no grader."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How prompts are written and continued. `params.seed` is given with each call.

    `ungraded_limit`: above this share of completions that could not be graded a call raises GradingFault; None: never.
    """

    params: SamplingParams
    chat_template: bool = False
    ungraded_limit: float | None = 0.02


class KeepConfig(Config):
    """Which groups a training step learns from."""

    accuracy: tuple[float, float] = (0.0, 1.0)
    """Least and greatest mean reward of a group's graded rollouts, both included (PRIME: 0.2 and 0.8). A group of which nothing
    was graded has none: only the whole range keeps it."""
    truncated: bool = True
    """False leaves out groups that hold a rollout cut by the token limit."""

    @field_validator("accuracy")
    @classmethod
    def _is_a_range(cls, accuracy: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= accuracy[0] <= accuracy[1] <= 1:
            raise ValueError("must be two shares, the lower one first")
        return accuracy

    def keeps(self, group: RolloutGroup) -> bool:
        """Whether the group stays."""
        rewards = [verdict.reward for verdict in group.verdicts if verdict.outcome != "ungraded"]
        low, high = self.accuracy
        if (low, high) != (0.0, 1.0) and not (rewards and low <= sum(rewards) / len(rewards) <= high):
            return False
        return self.truncated or all(rollout.finish_reason != "length" for rollout in group.rollouts)


class SamplingConfig(Config):
    """Rollouts of a training step."""

    prompts_per_step: int = Field(default=48, ge=1)
    """Problems of each update."""
    group_size: int = Field(default=8, ge=2)
    """Rollouts of each problem."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling; log-probabilities and gradients are those at this temperature."""
    max_new_tokens: int = Field(default=144, ge=1)
    """Longer completions are cut off, and have failed."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Of sampling; training needs the full distribution, 1."""
    top_k: int = Field(default=0, ge=0)
    """Of sampling; 0: all tokens, which training needs."""
    chat_template: bool = False
    """Prompts go through the tokenizer's chat template, as one turn of the user."""
    ungraded_limit: float = Field(default=0.02, ge=0, le=1)
    """Above this share of completions that could not be graded the run stops."""
    keep: KeepConfig | None = None
    """None: the step learns from all groups."""

    @property
    def is_full_distribution(self) -> bool:
        return self.top_p == 1 and self.top_k == 0

    @property
    def decoding(self) -> Decoding:
        """What a collector is told."""
        params = SamplingParams(self.max_new_tokens, self.temperature, top_p=self.top_p, top_k=self.top_k)
        return Decoding(params, self.chat_template, self.ungraded_limit)


class Grader(Protocol):
    """Grades completions of problems; see `grading.dispatch.grade_rollouts`."""

    def __call__(
        self, problems: Sequence[Problem], completions: Sequence[str], finish_reasons: Sequence[str]
    ) -> list[Verdict]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The beginning of a completion: its tokens (no EOS) and their text. Empty tokens are the beginning of all of them."""

    problem: Problem
    token_ids: tuple[int, ...]
    text: str

    @property
    def stream(self) -> str:
        """The name of its random stream: no other prefix of the problem, nor the bare problem, has the same."""
        digest = hashlib.sha256(np.asarray(self.token_ids, dtype=np.int64).tobytes()).hexdigest()
        return f"{self.problem.id}, continued after {digest}"


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """`samples` completions of a problem, numbered from `first_sample`; of a prefix of them, if given."""

    problem: Problem
    samples: int
    first_sample: int = 0
    prefix: Prefix | None = None


class Collector:
    """Samples groups of rollouts, grades them, and counts what it cost in `budget`.

    `grader` None: every verdict is `ungraded`, for the reason `NO_GRADER`, and no limit applies.
    """

    def __init__(self, tokenizer: Any, engine: Engine, grader: Grader | None, decoding: Decoding) -> None:
        self.tokenizer = tokenizer
        self.engine = engine
        self.grader = grader
        self.decoding = decoding
        self.budget = Budget()

    def groups(
        self,
        problems: Sequence[Problem],
        samples: int,
        seed: int,
        demonstrations: Mapping[str, tuple[Demonstration, ...]] | None = None,
    ) -> list[RolloutGroup]:
        """One graded group of `samples` rollouts per problem; GradingFault if too many could not be graded.

        A problem that comes again (at the seam of two passes) gets further samples, not the same ones.
        """
        seen: Counter[str] = Counter()
        asked = []
        for problem in problems:
            asked.append(Asked(problem, samples, samples * seen[problem.id]))
            seen[problem.id] += 1
        return self.collect(asked, seed, demonstrations=demonstrations)

    def continue_from(self, prefixes: Sequence[Prefix], samples: int, seed: int) -> list[RolloutGroup]:
        """One group of `samples` continuations per prefix; an equal prefix that comes again gets further samples.

        A rollout's `prompt_ids` are those of prompt and prefix, its tokens and text the continuation's alone; it is graded
        as prefix and continuation together. The token limit is that of the whole completion: a prefix must leave room, or
        UserError.
        """
        seen: Counter[str] = Counter()
        asked = []
        for prefix in prefixes:
            asked.append(Asked(prefix.problem, samples, samples * seen[prefix.stream], prefix))
            seen[prefix.stream] += 1
        return self.collect(asked, seed)

    def collect(
        self,
        asked: Sequence[Asked],
        seed: int,
        *,
        demonstrations: Mapping[str, tuple[Demonstration, ...]] | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[RolloutGroup]:
        """A graded group for each of `asked`, in order; `on_progress(rows, of so many)` while sampling.

        Text from a stop string on is not graded, as in lm-eval.
        """
        params = replace(self.decoding.params, seed=seed)
        rollouts = self.engine.generate([self._request(one) for one in asked], params, on_progress)
        flat = [(one, rollout) for one, group in zip(asked, rollouts, strict=True) for rollout in group]
        verdicts = self._verdicts(flat)
        remaining, known = iter(verdicts), demonstrations or {}
        groups = [
            RolloutGroup(one.problem, tuple(group), tuple(next(remaining) for _ in group), known.get(one.problem.id, ()))
            for one, group in zip(asked, rollouts, strict=True)
        ]
        self.budget += sampling_cost(groups, graded=self.grader is not None)
        return groups

    def _request(self, asked: Asked) -> Request:
        problem, prefix = asked.problem, asked.prefix
        prompt_ids = encode_prompt(self.tokenizer, problem.prompt, chat=self.decoding.chat_template)
        if prefix is None:
            return Request(problem.id, prompt_ids, asked.samples, first_sample=asked.first_sample)
        room = self.decoding.params.max_new_tokens - len(prefix.token_ids)
        if room < 1:
            what = f"a prefix of problem {problem.id} leaves no room to continue"
            raise UserError(what, len(prefix.token_ids), "raise max_new_tokens")
        return Request(
            problem.id,
            prompt_ids + prefix.token_ids,
            asked.samples,
            first_sample=asked.first_sample,
            stream=prefix.stream,
            max_new_tokens=room,
        )

    def _verdicts(self, flat: Sequence[tuple[Asked, Rollout]]) -> list[Verdict]:
        if self.grader is None:
            return [Verdict("ungraded", NO_GRADER)] * len(flat)
        stop = self.decoding.params.stop
        texts = [cut_at_stop(self._whole_text(one, rollout), stop) for one, rollout in flat]
        reasons = [rollout.finish_reason for _, rollout in flat]
        grader = self.grader
        verdicts = parallel.shared(
            lambda some: grader([flat[i][0].problem for i in some], [texts[i] for i in some], [reasons[i] for i in some]),
            range(len(flat)),
        )
        if self.decoding.ungraded_limit is not None:
            check_ungraded(verdicts, self.decoding.ungraded_limit)
        return verdicts

    def _whole_text(self, asked: Asked, rollout: Rollout) -> str:
        """Text of prefix and continuation, decoded together: a character or a leading space may lie across the seam."""
        if asked.prefix is None:
            return rollout.text
        left_out = decode(self.tokenizer, rollout.token_ids)[len(rollout.text) :]  # EOS, or what follows a stop string
        whole = decode(self.tokenizer, np.concatenate([np.array(asked.prefix.token_ids, dtype=np.int64), rollout.token_ids]))
        return whole.removesuffix(left_out)


def sampling_cost(groups: Sequence[RolloutGroup], *, graded: bool = True) -> Budget:
    """What it took to sample and grade these groups."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return Budget(rollouts=len(rollouts), generated_tokens=tokens, grader_calls=len(rollouts) if graded else 0)


def kept(groups: Sequence[RolloutGroup], keep: KeepConfig | None) -> list[RolloutGroup]:
    """The groups that `keep` lets pass, in order; None: all."""
    return [group for group in groups if keep is None or keep.keeps(group)]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The completion up to its first stop string, which lm-eval leaves out before it grades."""
    for term in stop:
        if term:
            text = text.split(term)[0]
    return text
