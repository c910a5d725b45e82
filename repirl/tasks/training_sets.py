"""What to train on: problems, validation problems, and demonstrations by problem."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field

from repirl.config import Config, digest_of
from repirl.errors import UserError
from repirl.tasks import arith, minicode
from repirl.types import Demonstration, Problem

FAMILIES: dict[str, ModuleType] = {arith.FAMILY: arith, minicode.FAMILY: minicode}


class TrainingSetConfig(Config):
    """Which problems. `source` is an embedded family (`arith`, `minicode`) or a JSONL file (`file`).

    Rows of a file: {"problem", "answer", optional "id", "demonstrations": [text, ...]}; the last `validation_problems`
    rows are held out.
    """

    source: str = "arith"
    file: str | None = None
    levels: tuple[int, ...] = tuple(range(1, 9))
    num_problems: int = Field(default=2000, ge=1)
    validation_problems: int = Field(default=128, ge=1)
    demos_per_problem: int = Field(default=4, ge=0)
    problem_seed: int = 0
    prompt_suffix: str = ""
    """Appended to each problem of a file, for instance the request to put the answer in a box."""
    step_separator: str = "\n"


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Problems with their demonstrations; `digest` is over all of it."""

    problems: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    demonstrations: dict[str, tuple[Demonstration, ...]]
    digest: str


def load_training_set(config: TrainingSetConfig, *, with_demonstrations: bool = True) -> TrainingSet:
    """Problems and demonstrations; UserError for an unknown source, a bad file, or too few problems."""
    if config.source in FAMILIES:
        if config.step_separator != "\n":
            raise UserError("steps of an embedded family end at newlines", config.step_separator, "leave data.step_separator")
        family = FAMILIES[config.source]
        problems = family.problems("train", config.num_problems, levels=config.levels, seed=config.problem_seed)
        validation = family.problems("validation", config.validation_problems, levels=config.levels, seed=config.problem_seed)
        demonstrations = {
            p.id: tuple(family.demonstrations(p, config.demos_per_problem, config.problem_seed)) for p in problems
        }
    elif config.source == "file":
        problems, validation, demonstrations = _from_file(config)
    else:
        raise UserError("unknown training set", config.source, f"choose one of {', '.join(FAMILIES)}, file")
    parts = [[[p.id, p.prompt, p.answer] for p in part] for part in (problems, validation)]
    digest = digest_of([*parts, {key: [demo.text for demo in demos] for key, demos in demonstrations.items()}])
    return TrainingSet(tuple(problems), tuple(validation), demonstrations if with_demonstrations else {}, digest)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line number, row) of a .jsonl or .jsonl.gz file; UserError with the number of a malformed line."""
    if not path.is_file():
        raise UserError("no such file", str(path))
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"line {number} of {path.name} is not JSON ({error.msg})", line[:60].strip()) from error
            if not isinstance(row, dict):
                raise UserError(f"line {number} of {path.name} is not a JSON object", line[:60].strip())
            yield number, row


def _from_file(
    config: TrainingSetConfig,
) -> tuple[list[Problem], list[Problem], dict[str, tuple[Demonstration, ...]]]:
    if config.file is None:
        raise UserError("no training file given", todo="set data.file to a JSONL with `problem` and `answer`")
    path = Path(config.file)
    problems: list[Problem] = []
    demonstrations: dict[str, tuple[Demonstration, ...]] = {}
    for number, row in read_jsonl(path):
        missing = [key for key in ("problem", "answer") if not isinstance(row.get(key), str)]
        if missing:
            raise UserError(f"line {number} of {path.name} lacks the text field", missing[0])
        key = str(row.get("id") or hashlib.sha256(row["problem"].encode()).hexdigest()[:12])
        problem = Problem(key, path.stem, row["problem"] + config.prompt_suffix, "math", row["answer"], source=row["problem"])
        problems.append(problem)
        texts = row.get("demonstrations") or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"`demonstrations` in line {number} of {path.name} is not a list of texts", str(texts)[:60])
        demonstrations[key] = tuple(Demonstration(key, t, "file") for t in texts[: config.demos_per_problem])
    if len(problems) <= config.validation_problems:
        raise UserError(
            f"{path.name} has too few problems to hold out {config.validation_problems}", len(problems), "give more"
        )
    held_out = len(problems) - config.validation_problems
    return problems[: min(held_out, config.num_problems)], problems[held_out:], demonstrations
