"""What to train on: problems, validation problems, and demonstrations by problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import Field

from repirl.config import Config, digest_of
from repirl.errors import UserError
from repirl.rng import stream
from repirl.tasks import arith, arith_hard, minicode
from repirl.tasks.hidden_tests import encode_tests
from repirl.tasks.training_files import PUBLISHED_SOURCES, TrainingRow, file_rows, published_rows
from repirl.types import Demonstration, Problem

__all__ = ["FAMILIES", "TrainingSet", "TrainingSetConfig", "has_step_checker", "load_training_set", "steps_right"]

FAMILIES: dict[str, ModuleType] = {arith.FAMILY: arith, arith_hard.FAMILY: arith_hard, minicode.FAMILY: minicode}


def has_step_checker(problem: Problem) -> bool:
    """Whether the exact labels of a solution's steps can be known."""
    return hasattr(FAMILIES.get(problem.family), "check_steps")


def steps_right(problem: Problem, text: str) -> bool | None:
    """Whether a solution has steps and all of them are right; None for a family without an exact checker."""
    if not has_step_checker(problem):
        return None
    labels = FAMILIES[problem.family].check_steps(problem.source, text)
    return bool(labels) and all(labels)


UNLABELLED = "unlabelled"
"""The source of problems without answers: what test-time training is given (docs/design.md rule 9)."""


class TrainingSetConfig(Config):
    """Which problems. `source` is an embedded family (`arith`, `arith_hard`, `minicode`), a JSONL file (`file`), or a
    published set: `math-train`, `eurus-2-rl-data:math`, `eurus-2-rl-data:code` (see `training_files.py`), of which `file`
    may name a local folder.

    `unlabelled` is a file of which problems alone are read: no answers, no validation problems.

    Rows of a file: {"problem", "answer" or "tests", optional "id", "demonstrations": [text, ...]}; the last
    `validation_problems` problems are held out. A published set has its own validation part, or has as many problems held
    out at random; `problem_seed` chooses.
    """

    source: str = "arith"
    """Embedded family, `file`, `unlabelled`, or a published set."""
    file: str | None = None
    """A JSONL file, or the local folder of a published set."""
    merge: bool = False
    """Of a file: rows of one problem become one, with all their demonstrations, as distilled data has them; else refused."""
    levels: tuple[int, ...] = tuple(range(1, 9))
    """Of an embedded family, in equal shares."""
    num_problems: int = Field(default=2000, ge=1)
    """Problems to train on."""
    validation_problems: int = Field(default=128, ge=0)
    """Problems held out for choosing a checkpoint; 0: none, and the last checkpoint must be the one chosen."""
    demos_per_problem: int = Field(default=4, ge=0)
    """Demonstrations of each problem of an embedded family."""
    demos_share: float = Field(default=1.0, ge=0, le=1)
    """Share of problems that have any, drawn with `problem_seed`."""
    demo_style: str | None = None
    """Of `arith`: the one phrasing of demonstrations, of the expert's `so`, `as`, `first`, or the policy's own, `plain`; None:
    the expert's in turn."""
    problem_seed: int = 0
    """Which problems are drawn; the same for all seeds of a run."""
    prompt_suffix: str = ""
    """Appended to each problem of a file, for instance the request to put the answer in a box."""
    step_separator: str = "\n"
    """What ends a step of a solution."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """Prompts that leave no room for a completion in the policy's context, and demonstrations that do not fit into it, are
    refused, or left out and counted."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Problems with their demonstrations; `digest` is over all of it. `left_out` counts what was dropped, by kind."""

    problems: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    demonstrations: dict[str, tuple[Demonstration, ...]]
    digest: str
    left_out: dict[str, int] = field(default_factory=dict)


def load_training_set(config: TrainingSetConfig, *, with_demonstrations: bool = True) -> TrainingSet:
    """Problems and demonstrations; UserError for an unknown source, a bad file, or too few problems."""
    if config.demo_style is not None and config.source not in (arith.FAMILY, arith_hard.FAMILY):
        raise UserError("only arith's expert has phrasings", config.demo_style, "leave data.demo_style")
    if config.source in FAMILIES:
        if config.step_separator != "\n":
            raise UserError("steps of an embedded family end at newlines", config.step_separator, "leave data.step_separator")
        family = FAMILIES[config.source]
        problems = family.problems("train", config.num_problems, levels=config.levels, seed=config.problem_seed)
        validation = family.problems("validation", config.validation_problems, levels=config.levels, seed=config.problem_seed)
        demonstrations = {p.id: tuple(_demonstrations(family, p, config)) for p in problems}
    elif config.source == UNLABELLED:
        problems, validation, demonstrations = _unlabelled(config), [], {}
    elif config.source in ("file", *PUBLISHED_SOURCES):
        train, held_out = _from_rows(config)
        problems, validation = [row.problem for row in train], [row.problem for row in held_out]
        demonstrations = {row.problem.id: row.demonstrations[: config.demos_per_problem] for row in [*train, *held_out]}
    else:
        known = ", ".join([*FAMILIES, "file", UNLABELLED, *PUBLISHED_SOURCES])
        raise UserError("unknown training set", config.source, f"choose one of {known}")
    if config.demos_share < 1:
        demonstrations = {key: demos if _has_any(key, config) else () for key, demos in demonstrations.items()}
    parts = [[[p.id, p.prompt, _gold(p)] for p in part] for part in (problems, validation)]
    digest = digest_of([*parts, {key: [demo.text for demo in demos] for key, demos in demonstrations.items()}])
    return TrainingSet(tuple(problems), tuple(validation), demonstrations if with_demonstrations else {}, digest)


def _demonstrations(family: Any, problem: Problem, config: TrainingSetConfig) -> list[Demonstration]:
    if config.demo_style is None or not config.demos_per_problem:
        return family.demonstrations(problem, config.demos_per_problem, config.problem_seed)
    return [Demonstration(problem.id, arith.solution(problem.source, config.demo_style), f"exact:{config.demo_style}")]


def _has_any(problem_id: str, config: TrainingSetConfig) -> bool:
    return float(stream(config.problem_seed, "demonstrated", problem_id).random()) < config.demos_share


def _unlabelled(config: TrainingSetConfig) -> list[Problem]:
    if config.file is None:
        raise UserError("no file of problems given", todo="set data.file to a JSONL with `problem`")
    rows = file_rows(Path(config.file), config.prompt_suffix, labelled=False, merge=config.merge)
    problems = [row.problem for row in rows][: config.num_problems]
    if not problems:
        raise UserError("the file has no problems", config.file)
    return problems


def _from_rows(config: TrainingSetConfig) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Training and validation rows of a source that lies in files."""
    if config.source in PUBLISHED_SOURCES:
        return published_rows(
            config.source,
            config.file,
            config.prompt_suffix,
            config.levels,
            config.problem_seed,
            config.num_problems,
            config.validation_problems,
        )
    if config.file is None:
        raise UserError("no training file given", todo="set data.file to a JSONL with `problem`, and `answer` or `tests`")
    path = Path(config.file)
    rows = file_rows(path, config.prompt_suffix, merge=config.merge)
    if len(rows) <= config.validation_problems:
        raise UserError(f"{path.name} has too few problems to hold out {config.validation_problems}", len(rows), "give more")
    held_out = len(rows) - config.validation_problems
    return rows[: min(held_out, config.num_problems)], rows[held_out:]


def _gold(problem: Problem) -> str | None:
    """What the digest of a training set holds of a problem's labels."""
    if problem.tests is not None and problem.family not in FAMILIES:
        return encode_tests(problem.tests)
    return problem.answer  # the tests of the embedded families follow from the problem
