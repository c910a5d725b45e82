"""The rows of a JSONL file of completions, each checked and named by its line, and then with its verdict."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
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


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers (from 1) and objects of a JSONL file; blank lines are skipped."""
    line = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield line, _parse_row(path, line, text)
    except FileNotFoundError:
        raise UserError("no such file", str(path)) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text", f"after line {line}") from None
    except (OSError, EOFError) as error:
        raise UserError("cannot read the file", str(path), str(error)) from None


def _parse_row(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        detail = getattr(error, "msg", "a number is too long" if isinstance(error, ValueError) else "nested too deeply")
        raise UserError(f"{path}, line {line}: not valid JSON ({detail})", text.strip()[:80]) from None
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {line}: not a JSON object", text.strip()[:80])
    return row


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
