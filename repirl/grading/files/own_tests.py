"""Grading programs from a JSONL file whose rows carry their own tests: the logic of `repirl grade code FILE`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.grading.code.grader import check_tests
from repirl.grading.dispatch import grade_rollouts
from repirl.grading.files.grade import FileGrades, GradedRow, finish_reason_of, read_rows
from repirl.tasks.hidden_tests import decode_tests
from repirl.types import CodeTests, Problem

# FILE's rows carry their own tests.
OWN_TESTS = "code"
_NEEDED = {"functional": ("entry_point", "cases"), "stdio": ("cases",), "asserts": ("code",)}
_CASE_KEYS = {"functional": {"args", "expected"}, "stdio": {"stdin", "stdout"}}


def grade_code_file(path: Path, *, allow_weak_sandbox: bool = False) -> FileGrades:
    """Runs every completion of a .jsonl or .jsonl.gz file against the tests in its row.

    Rows are {"id", "completion", "tests"}, optionally "finish_reason" ("stop" or "length"). `completion` is plain code,
    or text of which the last fenced block counts; `tests` is {"kind": "functional", "entry_point", "cases": [{"args",
    "expected"}]}, {"kind": "stdio", "cases": [{"stdin", "stdout"}]} or {"kind": "asserts", "code"}.

    Raises UserError, with the line number, for malformed rows, and for a missing or empty file; also where the machine
    gives only a weak sandbox and `allow_weak_sandbox` is not set.
    """
    problems: list[Problem] = []
    completions: list[str] = []
    reasons: list[str] = []
    places: list[tuple[int, str | int]] = []
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        name, completion = row.get("id"), row.get("completion")
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise UserError(f"{where}: needs `id`, text or an integer", sorted(row) if name is None else str(name)[:80])
        if not isinstance(completion, str):
            given = sorted(row) if completion is None else str(completion)[:80]
            raise UserError(f"{where}: needs `completion`, which must be text", given)
        problems.append(Problem(str(name), OWN_TESTS, "", "code", tests=_tests(where, row.get("tests"))))
        completions.append(completion)
        reasons.append(finish_reason_of(where, row.get("finish_reason")))
        places.append((line, name))
    if not problems:
        raise UserError("the file has no rows", str(path), 'each line is {"id": ..., "completion": ..., "tests": ...}')
    verdicts = grade_rollouts(problems, completions, reasons, allow_weak_sandbox=allow_weak_sandbox)
    seen: Counter[str] = Counter()
    rows = []
    for (line, name), verdict in zip(places, verdicts, strict=True):
        rows.append(GradedRow(line, str(name), seen[str(name)], verdict, given_id=name))
        seen[str(name)] += 1
    return FileGrades(OWN_TESTS, str(path), len(seen), tuple(rows))


def code_verdict_rows(grades: FileGrades) -> Iterator[dict[str, Any]]:
    """What `--verdicts` writes: counts are None where nothing was measured (`ungraded`)."""
    for row in grades.rows:
        verdict = row.verdict
        yield {
            "id": row.given_id,
            "verdict": verdict.outcome,
            "reason": verdict.reason,
            "tests_passed": verdict.tests_passed,
            "tests_total": verdict.tests_total,
            "seconds": round(verdict.seconds or 0.0, 4),
        }


def _tests(where: str, given: Any) -> CodeTests:
    """The row's tests, checked down to each case. Raises UserError with the line."""
    if not isinstance(given, dict):
        raise UserError(f"{where}: needs `tests`, an object", None if given is None else json.dumps(given)[:80])
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in _NEEDED:
        given_kind = None if kind is None else str(kind)[:80]
        raise UserError(f"{where}: unknown kind of tests", given_kind, f"use {', '.join(_NEEDED)}")
    for key in _NEEDED[kind]:
        wanted = list if key == "cases" else str
        if not isinstance(given.get(key), wanted) or not given[key]:
            kind_of_value = "an array with at least one case" if wanted is list else "text"
            raise UserError(f"{where}: tests of kind {kind} need `{key}`, {kind_of_value}", sorted(given))
    for number, case in enumerate(given.get("cases", ()), start=1):
        _check_case(f"{where}, case {number}", kind, case)
    try:
        tests = decode_tests(given, where)
        check_tests(tests)
    except UserError as error:
        raise UserError(str(error) if where in str(error) else f"{where}: {error}") from error
    return tests


def _check_case(where: str, kind: str, case: Any) -> None:
    keys = _CASE_KEYS.get(kind, set())
    if not isinstance(case, Mapping) or not keys <= set(case):
        given = sorted(case) if isinstance(case, Mapping) else str(case)[:80]
        raise UserError(f"{where}: needs {' and '.join(f'`{key}`' for key in sorted(keys))}", given)
    if kind == "functional" and not isinstance(case["args"], list):
        raise UserError(f"{where}: `args` must be an array", str(case["args"])[:80])
    if kind == "stdio" and not (isinstance(case["stdin"], str) and isinstance(case["stdout"], str)):
        raise UserError(f"{where}: `stdin` and `stdout` must be text")
