"""Suites: which methods, seeds, stages and evaluations one `repirl bench` compares, and which differences its table states.

One TOML file each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from repirl.bench.evaluations import SuiteEvaluation
from repirl.config import Config, parse_config
from repirl.errors import UserError
from repirl.files import read_toml
from repirl.methods.runtime import Runtime
from repirl.paths import suite_files
from repirl.records.schema import run_key
from repirl.types import AnswersGiven


class TestTimeProblems(Config):
    """Problems of a benchmark on which a run trains in a process that cannot read their answers, as in `repirl adapt`."""

    benchmark: str
    limit: int | None = Field(default=None, ge=2)
    """Only the first problems."""
    answers: AnswersGiven = "none"
    """What it is told all the same: nothing, or (controls) the right answers, or those of other problems."""


class SuiteRun(Config):
    """One method trained for some seeds. `set` holds `key.path=value` changes of its recipe."""

    method: str
    label: str = Field(default="", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    """Its name in keys, records and tables, so that two configurations of one method can be told apart; default: the
    method's name."""
    recipe: str = "tiny"
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    stage: str = "arith"
    after: str | None = None
    """The stage whose policy of the same label and seed this run starts from; None starts from `policy`."""
    policy: str | None = None
    """What a run without `after` starts from; None: the suite's."""
    set: tuple[str, ...] = ()
    problems: TestTimeProblems | None = None
    """Its training problems, in place of those of `data`."""
    reward: str | None = None
    """Label of the run, of the same seed, by whose reward it is paid (`reward` of its configuration)."""

    @model_validator(mode="before")
    @classmethod
    def _labelled(cls, values: Any) -> Any:
        return {"label": values.get("method"), **values} if isinstance(values, dict) else values


class Contrast(Config):
    """A difference that the table states: `better` minus `worse`, two labels.

    In every stage and column that both have, unless narrowed; `benchmark` is also the set of a `judge` column. `says` is what
    a difference above 0 shows, as words that can follow `no clear`.
    """

    better: str
    worse: str
    stage: str | None = None
    benchmark: str | None = None
    metric: str | None = None
    says: str = ""


class Suite(Config):
    """What a suite file says. `baseline` is the label from which the table shows each row's difference."""

    title: str
    policy: str = "tiny"
    runs: tuple[SuiteRun, ...] = Field(min_length=1)
    evaluations: tuple[SuiteEvaluation, ...] = ()
    """None: the runs are told apart by their learning curves alone."""
    contrasts: tuple[Contrast, ...] = ()
    baseline: str | None = None
    shares: tuple[str, ...] = ()
    """Suites (or one) whose runs are this one's as well, where key, settings and evaluations are the same: they are made once.
    The first that has such a run gives it."""
    runtime: Runtime = Runtime()
    eval_seed: int = 0
    """Sampling seed of evaluations, to which a run's seed is added where a policy is sampled: runs of one seed are compared
    on the same streams. Judged sets are the same for all runs."""

    @field_validator("shares", mode="before")
    @classmethod
    def _one_is_several(cls, shares: Any) -> Any:
        return (shares,) if isinstance(shares, str) else shares

    @property
    def evaluated(self) -> frozenset[tuple[str, str]]:
        """(kind, benchmark or set) of its evaluations."""
        return frozenset((one.kind, one.benchmark) for one in self.evaluations)

    def evaluations_of(self, label: str) -> tuple[SuiteEvaluation, ...]:
        """Those that are made of the runs of a label."""
        return tuple(one for one in self.evaluations if one.of is None or label in one.of)


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One run of a suite: one process, one record. `policy` is the one at the root of its stages, by name."""

    suite: str
    run: SuiteRun
    seed: int
    policy: str
    reward_key: str | None = None
    """Of the run whose reward it is paid by."""

    @property
    def key(self) -> str:
        return run_key(self.run.label, self.run.stage, self.seed)

    @property
    def parent_key(self) -> str | None:
        """Of the run whose policy it starts from, None for a policy by name."""
        return run_key(self.run.label, self.run.after, self.seed) if self.run.after is not None else None

    @property
    def needs(self) -> list[str]:
        """Keys of the runs that must have finished before it starts."""
        return [key for key in (self.parent_key, self.reward_key) if key is not None]


def suite_names(include: Sequence[str | Path] = ()) -> list[str]:
    """Names of all suites, sorted."""
    return list(suite_files(include))


def load_suite(name: str, include: Sequence[str | Path] = ()) -> Suite:
    """A suite by name; UserError for an unknown name, a bad file, or a contrast of what the suite does not have."""
    files = suite_files(include)
    if name not in files:
        raise UserError("unknown suite", name, f"choose one of {', '.join(files)}")
    suite = parse_config(Suite, read_toml(files[name]))
    _check_contrasts(name, suite)
    if unknown := [other for other in suite.shares if other not in files]:
        raise UserError(f"suite {name} shares runs with an unknown suite", unknown[0])
    return suite


def _check_contrasts(name: str, suite: Suite) -> None:
    labels = list(dict.fromkeys(run.label for run in suite.runs))
    named = [label for contrast in suite.contrasts for label in (contrast.better, contrast.worse)]
    named += [suite.baseline] if suite.baseline is not None else []
    if unknown := [label for label in named if label not in labels]:
        raise UserError(f"suite {name} compares with a run that is not in it", unknown[0], f"labels: {', '.join(labels)}")
    evaluated = [label for one in suite.evaluations for label in one.of or ()]
    if unknown := [label for label in evaluated if label not in labels]:
        raise UserError(
            f"an evaluation of suite {name} is of a run that is not in it", unknown[0], f"labels: {', '.join(labels)}"
        )
    stages = {run.stage for run in suite.runs}
    sets = {one.benchmark for one in suite.evaluations}
    for contrast in suite.contrasts:
        for what, said, known in (("stage", contrast.stage, stages), ("benchmark", contrast.benchmark, sets)):
            if said is not None and said not in known:
                todo = f"there are {', '.join(sorted(known))}"
                raise UserError(f"a contrast of suite {name} is about a {what} that is not in it", said, todo)


def plan(name: str, suite: Suite) -> list[WorkItem]:
    """All runs of a suite, those that others start from first.

    UserError for a run that is there twice, whose `after` or `reward` is not in the suite or leads back to itself, or that has
    both `after` and a policy.
    """
    runs = [(run, seed) for run in suite.runs for seed in run.seeds]
    by_key = {run_key(run.label, run.stage, seed): run for run, seed in runs}
    keys = [run_key(run.label, run.stage, seed) for run, seed in runs]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"suite {name} holds a run twice", repeated[0], "give one of them another label")
    found = []
    for run, seed in runs:
        lineage = list(_lineage(name, run, seed, by_key))
        reward = None if run.reward is None else _reward_key(name, run, seed, by_key)
        item = WorkItem(name, run, seed, lineage[-1].policy or suite.policy, reward)
        found.append((len(lineage) + (reward is not None), item))
    return [item for _, item in sorted(found, key=lambda one: one[0])]


def _reward_key(name: str, run: SuiteRun, seed: int, by_key: dict[str, SuiteRun]) -> str:
    own = [key for key, one in by_key.items() if one.label == run.reward and key.endswith(f"-s{seed}")]
    if len(own) != 1 or by_key[own[0]].reward is not None:
        key = run_key(run.label, run.stage, seed)
        raise UserError(f"suite {name}: {key} is paid by a run that is not in it, or not one", run.reward, "name one label")
    return own[0]


def _lineage(name: str, run: SuiteRun, seed: int, by_key: dict[str, SuiteRun]) -> Iterator[SuiteRun]:
    """The run, the one that it starts from, and so on to the root."""
    key = run_key(run.label, run.stage, seed)
    passed = {key}
    yield run
    while run.after is not None:
        if run.policy is not None:
            raise UserError(f"suite {name}: {key} starts from a run and from a policy", run.policy, "leave out one of them")
        parent = run_key(run.label, run.after, seed)
        if parent not in by_key or parent in passed:
            raise UserError(f"suite {name}: {key} starts from a run that is not in it, or from itself", parent)
        passed.add(parent)
        run, key = by_key[parent], parent
        yield run
