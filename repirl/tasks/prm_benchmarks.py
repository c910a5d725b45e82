"""Benchmarks of process reward models: cards in `benchmarks/prm/*.toml`, their rows as labelled solutions.

The numbers on a card (rows, rows with an error) are asserted at load: a file that was cut or re-labelled is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from repirl.config import Config, parse_config
from repirl.errors import UserError
from repirl.files import is_file, is_folder, read_toml
from repirl.paths import content_dir
from repirl.tasks import arith
from repirl.tasks.files import DATA_DIR_VARIABLE, hub_file
from repirl.tasks.step_formats import Malformed, text, texts
from repirl.tasks.step_labels import LabelledSolution, json_rows, read_labelled

ARITH_PROBLEMS = 240
ARITH_SETS = {"arith": (arith.LEVELS, 2), "arith_long": ((4, 5, 6, 7, 8), 8)}
"""Levels, and samples of each problem, of the sets with exact labels: the problems of the benchmarks of the same names."""

CONTROL = "correct"
"""Class of PRMBench's control items: unmodified solutions, outside of all totals."""

_CONTROLLED_CLASS = "redundency"  # spelled as in the data


class PRMSubset(Config):
    """One file of a benchmark, and what must be in it."""

    name: str
    file: str
    num_solutions: int = Field(ge=1)
    num_with_error: int = Field(ge=0)
    num_right_answer_wrong_step: int | None = Field(default=None, ge=0)


class PRMCard(Config):
    """What a card says. The files lie in a local data folder under `folder`, or on the hub."""

    title: str
    source: str
    licence: str
    format: Literal["processbench", "prmbench"]
    folder: str
    hub: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    tuning_subset: str | None = None
    """Scalar rewards take their threshold from here (ProcessBench: the GSM8K subset)."""
    subsets: tuple[PRMSubset, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class PRMBenchRows:
    """Rows of a PRMBench file as solutions, with control items (class `correct`) for those of the class `redundency`.

    `marks_beyond_end`: error marks behind the last step, which point at nothing and are ignored, as in the authors' code.
    """

    solutions: tuple[LabelledSolution, ...]
    controls: tuple[LabelledSolution, ...]
    marks_beyond_end: int


def prm_cards() -> dict[str, PRMCard]:
    """The cards by name; UserError for a malformed one."""
    found = {}
    for path in sorted((content_dir("benchmarks") / "prm").glob("*.toml")):
        found[path.stem] = parse_config(PRMCard, read_toml(path))
    return found


def subset_of(card: PRMCard, name: str) -> PRMSubset:
    """A subset by name; UserError lists the ones there are."""
    for subset in card.subsets:
        if subset.name == name:
            return subset
    raise UserError(f"{card.title} has no subset", name, f"choose one of {', '.join(one.name for one in card.subsets)}")


def load_processbench(card: PRMCard, subset: PRMSubset, data_dir: Path | None = None) -> list[LabelledSolution]:
    """All solutions of a ProcessBench subset; UserError if the file is missing or not what the card says."""
    solutions = read_labelled(_file(card, subset, data_dir), "processbench")
    wrong = [one for one in solutions if one.first_error_index >= 0]
    _check(card, subset, "num_solutions", len(solutions))
    _check(card, subset, "num_with_error", len(wrong))
    if subset.num_right_answer_wrong_step is not None:
        _check(card, subset, "num_right_answer_wrong_step", sum(bool(one.final_answer_correct) for one in wrong))
    return solutions


def load_prmbench(card: PRMCard, subset: PRMSubset, data_dir: Path | None = None) -> PRMBenchRows:
    """All rows of a PRMBench file; UserError if it is missing, malformed, or not what the card says."""
    rows = read_prmbench(_file(card, subset, data_dir))
    _check(card, subset, "num_solutions", len(rows.solutions))
    _check(card, subset, "num_with_error", sum(one.first_error_index >= 0 for one in rows.solutions))
    return rows


def read_prmbench(path: Path) -> PRMBenchRows:
    """The rows of a file; UserError, with the line, for a malformed one.

    `error_steps` count from 1. A row's `subset` is its class, its `cluster` the source item that it was made from.
    """
    solutions: list[LabelledSolution] = []
    controls: dict[str, LabelledSolution] = {}
    beyond = 0
    for number, (where, row) in enumerate(json_rows(path), 1):
        try:
            solution, beyond_here = _prmbench_row(row, f"{number}")
            if solution.subset == _CONTROLLED_CLASS and solution.cluster not in controls:
                controls[solution.cluster] = _control(row, solution)
        except (Malformed, KeyError) as error:
            raise UserError(f"{where} is no row of format prmbench ({error})", str(row)[:60]) from None
        solutions.append(solution)
        beyond += beyond_here
    return PRMBenchRows(tuple(solutions), tuple(controls.values()), beyond)


def _prmbench_row(row: Mapping[str, Any], number: str) -> tuple[LabelledSolution, int]:
    steps = texts(row["modified_process"], "modified_process")
    marks = row["error_steps"]
    if not isinstance(marks, list) or any(isinstance(m, bool) or not isinstance(m, int) or m < 1 for m in marks):
        raise Malformed("`error_steps` is not a list of whole numbers from 1")
    inside = {mark - 1 for mark in marks if mark <= len(steps)}
    kind, item = text(row["classification"], "classification"), text(row["idx"], "idx")
    problem = text(row["modified_question"], "modified_question")
    labels = tuple(0.0 if i in inside else 1.0 for i in range(len(steps)))
    solution = LabelledSolution(f"{number}:{kind}:{item}", problem, steps, labels, subset=kind, cluster=item)
    return solution, sum(mark > len(steps) for mark in marks)


def _control(row: Mapping[str, Any], solution: LabelledSolution) -> LabelledSolution:
    steps = texts(row["original_process"], "original_process")
    problem = text(row["original_question"], "original_question")
    name, labels = f"{CONTROL}:{solution.cluster}", (1.0,) * len(steps)
    return LabelledSolution(name, problem, steps, labels, subset=CONTROL, cluster=solution.cluster)


def _check(card: PRMCard, subset: PRMSubset, name: str, found: int) -> None:
    if found != (stated := getattr(subset, name)):
        raise UserError(f"{card.title}/{subset.name} must have {name} = {stated}, found", found, "check the data")


def _file(card: PRMCard, subset: PRMSubset, data_dir: Path | None) -> Path:
    if data_dir is not None and not is_folder(data_dir.expanduser()):
        raise UserError("no such data folder", str(data_dir))
    root = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    for name in (subset.file, f"{subset.file}.gz") if root else ():
        path = Path(root or "").expanduser() / card.folder / name
        if is_file(path):
            return path
    todo = f"give a folder that holds {card.folder}/{subset.file} (or .gz) with --data-dir or {DATA_DIR_VARIABLE}"
    if not root and card.hub is not None and card.revision is not None:
        return hub_file(card.hub, card.revision, subset.file, todo)
    raise UserError(f"the data of {card.title} is not at hand", f"{root or '.'}/{card.folder}/{subset.file}", todo)
