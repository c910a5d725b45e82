"""A pool of graded rollouts of the starting policy, sampled once or given as a file: what offline learning goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from repirl.config import Config, digest_of
from repirl.errors import UserError
from repirl.files import read_lines
from repirl.methods.base import FitContext
from repirl.methods.context_length import check_pool, within_context
from repirl.methods.fitting import make_collector
from repirl.rng import seed_for
from repirl.rollouts.collect import SamplingConfig, sampling_cost
from repirl.rollouts.stored import read_groups, write_groups
from repirl.tasks.training_sets import TrainingSet, TrainingSetConfig, load_training_set
from repirl.types import Budget, RolloutGroup


class PoolConfig(Config):
    """What is sampled for learning from graded rollouts of the starting policy."""

    problems: int = Field(default=500, ge=1)
    """So many of the training problems, from the first, are sampled for it."""
    samples: int = Field(default=8, ge=1)
    """Rollouts of each of them."""
    source: str | None = None
    """Training set of these problems; None: the one that the policy is trained on."""
    levels: tuple[int, ...] | None = None
    """Its levels; None: those that the policy is trained on."""


class OfflinePool:
    """The pool of a run: the file `given`, or `pool.jsonl` in the context's folder, sampled if it is not there yet.

    `data` names what it is of; a file's has a digest alone. UserError for problems that cannot be loaded.
    """

    def __init__(
        self, context: FitContext, data: TrainingSetConfig, pool: PoolConfig, sampling: SamplingConfig, given: str | None
    ) -> None:
        self.context, self.pool, self.sampling = context, pool, sampling
        self.given = None if given is None else Path(given).expanduser()
        if self.given is not None:
            self.data = TrainingSet((), (), {}, digest_of(list(read_lines(self.given))))
        else:
            problems = _problems(data, pool, context.gives("demonstrations"))
            self.data = within_context(problems, context.policy, data.too_long, chat=sampling.chat_template)

    def groups(self) -> list[RolloutGroup]:
        """The rollouts; to be sampled while the policy is as it starts. UserError for a bad file or what is too long."""
        file = self.context.folder / "pool.jsonl" if self.given is None else self.given
        if self.given is None and not file.is_file():
            problems, seed = self.data.problems[: self.pool.problems], seed_for(self.context.seed, "offline")
            collector = make_collector(self.context, self.sampling)
            write_groups(file, collector.groups(problems, self.pool.samples, seed, self.data.demonstrations))
        groups = read_groups(file, self.context.policy.tokenizer, chat=self.sampling.chat_template)
        check_pool(groups, self.context.policy)
        known = {problem.id: problem for problem in self.data.problems}  # with its grader and tests, which the file lacks
        return [replace(group, problem=known.get(group.problem.id, group.problem)) for group in groups]

    def cost(self, groups: Sequence[RolloutGroup]) -> Budget:
        """What sampling these took: nothing where they are given."""
        return Budget() if self.given is not None else sampling_cost(groups)


def _problems(data: TrainingSetConfig, pool: PoolConfig, with_demonstrations: bool) -> TrainingSet:
    other = {name: value for name in ("source", "levels") if (value := getattr(pool, name)) is not None}
    if not other:
        return load_training_set(data, with_demonstrations=with_demonstrations)
    try:
        return load_training_set(data.model_copy(update=other), with_demonstrations=with_demonstrations)
    except UserError as error:
        todo = "set offline.source and offline.levels"
        raise UserError("no problems for the offline phase", str(error), todo) from None
