"""Solutions to be scored, as people have them: nothing need be known of them.

A row is `{"problem", "solution"}` (a text) or `{"problem", "steps"}`; of a pool of samples (`sample_pools.py`), whatever other
columns it has, or of graded rollouts (`rollouts/stored.py`); or of labelled steps (`step_labels.py`). Labels, rewards and the
solutions that come with a pool's problems are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.files import is_folder, read_objects
from repirl.tasks.sample_pools import is_pool, read_pool
from repirl.tasks.step_formats import KEYS
from repirl.tasks.step_labels import read_labelled

PROBLEM = ("problem", "question", "prompt")
TEXT = ("solution", "completion", "response")


@dataclass(frozen=True, slots=True)
class GivenSolution:
    """A solution as a text, which is to be cut into steps, or in steps. `sample` counts those of one problem."""

    id: str
    sample: int
    problem: str
    text: str | None
    steps: tuple[str, ...] | None
    finished: bool = True


def read_solutions(path: Path) -> list[GivenSolution]:
    """The solutions of a file, in its order; a folder is a pool. UserError, with the line, for what is none."""
    first = None if is_folder(path) else next(read_objects(path), None)
    if first is None and not is_folder(path):
        raise UserError("the file has no solutions", str(path), "give one row or more")
    row = {} if first is None else first[1]
    labelled = any(keys <= row.keys() for keys in KEYS.values())
    if is_pool(row) and not labelled:
        found = list(_rollouts(path)) if _of_rollouts(row) else _pooled(path)
    elif _is_plain(row):
        found = list(_plain(path))
    elif labelled:
        found = [GivenSolution(one.id, 0, one.problem, None, one.steps, one.finished) for one in read_labelled(path)]
    else:
        found = _pooled(path)
    if unknown := [one.id for one in found if not one.problem.strip()]:
        todo = f"give it one of {', '.join(PROBLEM)}"
        raise UserError("a solution has no problem, which a reward reads first", unknown[0], todo)
    return found


def _pooled(path: Path) -> list[GivenSolution]:
    return [
        GivenSolution(row.id, i, row.problem, sample.text, None, sample.finished)
        for row in read_pool(path)
        for i, sample in enumerate(row.samples)
    ]


def _of_rollouts(row: Mapping[str, Any]) -> bool:
    samples = row.get("completions")
    return isinstance(samples, list) and all(isinstance(one, dict) for one in samples)


def _rollouts(path: Path) -> Iterator[GivenSolution]:
    for number, row in read_objects(path):
        where = f"line {number} of {path.name}"
        if not _of_rollouts(row) or not all(isinstance(one.get("text"), str) for one in row["completions"]):
            raise UserError(f"{where} has no completions with a text", ", ".join(sorted(row))[:80], 'give a list of {"text"}')
        for i, one in enumerate(row["completions"]):
            finished = one.get("finish_reason") != "length"
            yield GivenSolution(str(row.get("id") or number), i, _problem(row), one["text"], None, finished)


def _problem(row: Mapping[str, Any]) -> str:
    return next((row[name] for name in PROBLEM if isinstance(row.get(name), str)), "")


def _is_plain(row: Mapping[str, Any]) -> bool:
    return any(name in row for name in TEXT) or ("steps" in row and "label" not in row)


def _plain(path: Path) -> Iterator[GivenSolution]:
    for number, row in read_objects(path):
        where = f"line {number} of {path.name}"
        text = next((row[name] for name in TEXT if name in row), None)
        steps = row.get("steps") if text is None else None
        if text is not None and not isinstance(text, str):
            raise UserError(f"the solution in {where} is no text", str(text)[:60])
        listed = isinstance(steps, list) and all(isinstance(step, str) for step in steps)
        if text is None and not listed:
            todo = f"give it `steps` (texts) or one of {', '.join(TEXT)}"
            raise UserError(f"{where} has no solution", ", ".join(sorted(row))[:80], todo)
        kept = None if steps is None else tuple(step for step in steps if step.strip())
        yield GivenSolution(str(row.get("id", number)), 0, _problem(row), text, kept)
