"""Solutions with labelled steps: one type, and the formats in which others keep them.

Formats (JSONL or one JSON array, `.gz` allowed, or parquet):

- `prm800k`: nested `label.steps[].completions[].rating` in {-1, 0, 1} (OpenAI, PRM800K). A row is a tree: the chosen (or
  human-written) steps are one solution, every completion that was not chosen ends another one.
- `math-shepherd`: `input` has the tag `ки` after each step, `label` has `+` or `-` in its place (docs/recipes.md B3).
- `trl`: `prompt`, `completions`, `labels` (TRL's stepwise supervision, docs/recipes.md B5).
- `processbench`: `problem`, `steps`, `label`, the 0-based index of the first wrong step or -1 (docs/recipes.md B14).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.files import check_pairs, parse, read_lines, read_objects
from repirl.tasks import step_formats
from repirl.tasks.files import read_rows
from repirl.tasks.step_formats import Labelled, Malformed

StepFormat = Literal["prm800k", "math-shepherd", "trl", "processbench"]
FORMATS: tuple[StepFormat, ...] = get_args(StepFormat)

RIGHT_FROM = 0.5
"""A label counts as right from here on: a neutral rating of PRM800K is no error, a soft label is rounded."""


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """A solution in S steps, with what is known about each of them.

    `labels` [S]: 1.0 right, 0.0 wrong, between them soft (0.5 is PRM800K's neutral), None not labelled. `finished` is False
    for a solution that was cut off (it then has no end-of-sequence token). `source` is the bare expression of an `arith`
    problem. `cluster` tells which solutions depend on each other: resampling and tuning keep them together.
    """

    id: str
    problem: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    subset: str = ""
    final_answer_correct: bool | None = None
    finished: bool = True
    source: str = ""
    cluster: str = ""

    def __post_init__(self) -> None:
        if not self.problem.strip():
            raise Malformed("the problem is empty")
        if not self.steps or any(not step.strip() for step in self.steps):
            raise Malformed("a step is empty" if self.steps else "there are no steps")
        if len(self.labels) != len(self.steps):
            raise Malformed(f"{len(self.steps)} steps but {len(self.labels)} labels")
        if any(label is not None and not 0 <= label <= 1 for label in self.labels):
            raise Malformed("a label lies outside of [0, 1]")

    @property
    def first_error_index(self) -> int:
        """0-based index of the first step whose label is below `RIGHT_FROM`, -1 if there is none."""
        wrong = (i for i, label in enumerate(self.labels) if label is not None and label < RIGHT_FROM)
        return next(wrong, -1)


def solutions_digest(solutions: Iterable[LabelledSolution]) -> str:
    """SHA-256 over ids, problems, steps and labels, in order."""
    return digest_of([[s.id, s.subset, s.problem, s.steps, s.labels, s.finished] for s in solutions])


def labels_until(first_error_index: int, num_steps: int) -> tuple[float | None, ...]:
    """Labels where only the first error is known: right before it, wrong at it, unknown after it; all right for -1."""
    if first_error_index == -1:
        return (1.0,) * num_steps
    if not 0 <= first_error_index < num_steps:
        raise Malformed(f"the first error is step {first_error_index} of {num_steps} (counted from 0)")
    return (*(1.0,) * first_error_index, 0.0, *(None,) * (num_steps - first_error_index - 1))


# ---------------------------------------------------------------------------------------------- reading


def read_labelled(path: Path, step_format: StepFormat | None = None) -> list[LabelledSolution]:
    """The solutions of a file, in its order; the format is told by the keys of the first row if it is not given.

    Raises UserError for a missing or empty file, an unknown format, and, with its line, for a malformed row.
    """
    solutions: list[LabelledSolution] = []
    for number, (where, row) in enumerate(json_rows(path), 1):
        if step_format is None:
            step_format = recognise(row, path)
        try:
            if missing := step_formats.KEYS[step_format] - row.keys():
                raise Malformed(f"it lacks `{min(missing)}`")
            for one in _READERS[step_format](row):
                name = one.id or f"{number}{one.suffix}"
                fields = (one.problem, one.steps, one.labels, one.subset, one.final_answer_correct, one.finished)
                solutions.append(LabelledSolution(name, *fields, cluster=one.problem))
        except Malformed as error:
            raise UserError(f"{where} is no row of format {step_format} ({error})", str(row)[:60]) from None
    if not solutions:
        raise UserError("the file has no labelled solutions", str(path), "give one row or more")
    return solutions


def recognise(row: Mapping[str, Any], path: Path) -> StepFormat:
    """The only format whose keys a row has; UserError lists the formats if there is none."""
    fitting: list[StepFormat] = [name for name in FORMATS if step_formats.KEYS[name] <= row.keys()]
    if "math-shepherd" in fitting and not isinstance(row["label"], str):
        fitting.remove("math-shepherd")
    if len(fitting) != 1:
        todo = "; ".join(f"{name}: {', '.join(sorted(step_formats.KEYS[name]))}" for name in FORMATS)
        raise UserError(f"{path.name} has none of the known formats of labelled steps, its keys are", sorted(row)[:12], todo)
    return fitting[0]


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of JSON lines, of one JSON array, or of parquet, each with its place (`line 3 of x.jsonl`, `row 3 of x.json`).

    Raises UserError with the place for anything else.
    """
    if path.suffix == ".parquet":
        yield from read_rows(path)
        return
    if not next((line for line in read_lines(path) if line.strip()), "").lstrip().startswith("["):
        yield from ((f"line {number} of {path.name}", row) for number, row in read_objects(path))
        return
    for number, row in enumerate(parse("".join(read_lines(path)), path.name, half_pairs=True), 1):
        where = f"row {number} of {path.name}"
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object", str(row)[:60])
        check_pairs(row, where)
        yield where, row


def _processbench(row: Mapping[str, Any]) -> Iterator[Labelled]:
    steps, label = row["steps"], row["label"]
    if not isinstance(label, int) or isinstance(label, bool):
        raise Malformed("`label` is not a whole number")
    correct = row.get("final_answer_correct")
    if not isinstance(correct, bool | None):
        raise Malformed("`final_answer_correct` is not true or false")
    texts = step_formats.texts(steps, "steps")
    problem = step_formats.text(row["problem"], "problem")
    yield Labelled(problem, texts, labels_until(label, len(texts)), final_answer_correct=correct, id=str(row.get("id") or ""))


_READERS = {**step_formats.READERS, "processbench": _processbench}


# ---------------------------------------------------------------------------------------------- writing


def write_labelled(path: Path, solutions: Iterable[LabelledSolution], step_format: StepFormat, *, harden: bool = False) -> None:
    """Write solutions as JSON lines; reading them back gives the same problems, steps and labels.

    A format that has no soft labels refuses them (UserError naming the solution), unless `harden` rounds them at
    `RIGHT_FROM`; nothing is cut off silently. What a format has no place for (ids, the final answer's correctness) is lost.
    """
    lines = []
    for one in solutions:
        hard = tuple(label if label is None else float(label >= RIGHT_FROM) for label in one.labels)
        labels = hard if harden else one.labels
        data = Labelled(one.problem, one.steps, labels, one.subset, one.final_answer_correct, one.finished, one.id)
        try:
            row = _first_error_row(data, one) if step_format == "processbench" else step_formats.WRITERS[step_format](data)
        except Malformed as error:
            raise UserError(f"format {step_format} cannot hold solution {one.id} ({error})") from None
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError("cannot write the labelled steps", str(path), error.strerror or "") from None


def _first_error_row(data: Labelled, solution: LabelledSolution) -> dict[str, Any]:
    if data.labels != labels_until(solution.first_error_index, len(data.steps)):
        raise Malformed("it knows only the first error: labels must be right before it and none after it")
    return {
        "id": solution.id,
        "problem": solution.problem,
        "steps": list(solution.steps),
        "final_answer_correct": solution.final_answer_correct,
        "label": solution.first_error_index,
    }
