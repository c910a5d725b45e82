"""The rows of a JSONL file of completions, each checked and named by its line, and then with its verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.grading.math.audit import Opinion
from repirl.types import Problem, Verdict

_FINISH_REASONS = ("stop", "length")


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of a file. `line` counts from 1; `given_id` is the row's id as the file spells it."""

    line: int
    problem: Problem
    completion: str
    finish_reason: str
    given_id: str | int | None


@dataclass(frozen=True, slots=True)
class GradedRow:
    """The verdict on one completion; `sample_index` counts from 0 within its problem.

    `second` is what an audit says of the answer, None where it was not asked.
    """

    sample: Sample
    sample_index: int
    verdict: Verdict
    second: Opinion | None = None

    @property
    def problem_id(self) -> str:
        return self.sample.problem.id


def completions_of(where: str, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(completion, finish reason) of each completion of a row: of `completion`, or of every item of `completions`."""
    texts = _texts(where, row)
    given = row.get("finish_reason")
    reasons = given if isinstance(given, list) else [given] * len(texts)
    if len(reasons) != len(texts):
        raise UserError(f"{where}: {len(texts)} completions but {len(reasons)} finish reasons")
    return [(text, _finish_reason(where, reason)) for text, reason in zip(texts, reasons, strict=True)]


def _finish_reason(where: str, given: Any) -> str:
    """`stop` where a row says nothing. Raises UserError on an unknown one."""
    if given is not None and given not in _FINISH_REASONS:
        raise UserError(f"{where}: unknown finish_reason", given, f"use one of {', '.join(_FINISH_REASONS)}")
    return given or "stop"


def _texts(where: str, row: Mapping[str, Any]) -> list[str]:
    if "completions" not in row and "completion" not in row:
        raise UserError(f"{where}: needs `completion` or `completions`", sorted(row))
    texts = row["completions"] if "completions" in row else [row["completion"]]
    if not isinstance(texts, list) or not texts:
        raise UserError(f"{where}: `completions` must be an array with at least one text", str(texts)[:80])
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{where}: needs `completion`, which must be text", str(text)[:80])
    return texts


def write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """A JSONL file, UTF-8 also where a text holds half a surrogate pair. Raises UserError if it cannot be written."""
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:  # just as JSON writes them
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError("cannot write the verdicts", str(path), error.strerror or "") from None
