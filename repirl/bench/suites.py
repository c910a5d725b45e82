"""Suites: which methods, seeds, stages and benchmarks one `repirl bench` compares. One TOML file each."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from repirl.config import Config, parse_config
from repirl.errors import UserError
from repirl.paths import content_dir


class SuiteRun(Config):
    """One method trained for some seeds. `set` holds `key.path=value` changes of its recipe."""

    method: str
    recipe: str = "tiny"
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    stage: str = "arith"
    after: str | None = None
    """The stage whose policy of the same method and seed this run starts from; None starts from the suite's policy."""
    set: tuple[str, ...] = ()


class SuiteEvaluation(Config):
    """One benchmark and how it is sampled."""

    benchmark: str
    samples: int = Field(default=8, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    greedy: bool = True
    limit: int | None = Field(default=None, ge=1)

    def sampling(self, seed: int) -> dict[str, Any]:
        """What it says of sampling, by the names of `EvalProtocol`."""
        return {**self.model_dump(mode="json", exclude={"benchmark"}), "seed": seed}


class Suite(Config):
    """What a suite file says."""

    title: str
    policy: str = "tiny"
    runs: tuple[SuiteRun, ...] = Field(min_length=1)
    evaluations: tuple[SuiteEvaluation, ...] = Field(min_length=1)
    eval_seed: int = 0
    """Sampling seed of evaluations, to which a run's seed is added: runs of one seed are compared on the same streams."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One run of a suite: one process, one record."""

    suite: str
    run: SuiteRun
    seed: int

    @property
    def key(self) -> str:
        return f"{self.run.method}-{slug(self.run.stage)}-s{self.seed}"


def slug(text: str) -> str:
    """A stage name fit for folders."""
    return text.replace(" ", "-")


def _folders(include: Sequence[str | Path]) -> list[Path]:
    return [content_dir("benchmarks") / "suites", *(Path(folder) / "suites" for folder in include)]


def suite_names(include: Sequence[str | Path] = ()) -> list[str]:
    """Names of all suites, sorted."""
    return sorted({path.stem for folder in _folders(include) if folder.is_dir() for path in folder.glob("*.toml")})


def load_suite(name: str, include: Sequence[str | Path] = ()) -> Suite:
    """A suite by name; UserError for an unknown name or a bad file."""
    for folder in _folders(include):
        path = folder / f"{name}.toml"
        if path.is_file():
            try:
                values = tomllib.loads(path.read_text())
            except tomllib.TOMLDecodeError as error:
                raise UserError(f"{path.name} is not TOML ({error})", str(path)) from error
            return parse_config(Suite, values)
    raise UserError("unknown suite", name, f"choose one of {', '.join(suite_names(include))}")


def plan(name: str, suite: Suite) -> list[WorkItem]:
    """All runs of a suite, those that others start from first; UserError if a run's `after` is not in the suite."""
    items = [WorkItem(name, run, seed) for run in suite.runs for seed in run.seeds]
    keys = [item.key for item in items]
    if repeated := [key for key in keys if keys.count(key) > 1]:
        raise UserError(f"suite {name} holds a run twice", repeated[0])
    for item in items:
        if item.run.after is not None and parent_key(item) not in keys:
            raise UserError(f"suite {name}: {item.key} starts from a run that is not in it", parent_key(item))
    return sorted(items, key=lambda item: item.run.after is not None)


def parent_key(item: WorkItem) -> str | None:
    """Key of the run whose policy an item starts from, None for the suite's policy."""
    return f"{item.run.method}-{slug(item.run.after)}-s{item.seed}" if item.run.after is not None else None
