"""Whose completion a row is: a problem of a benchmark, or one that the row brings along with its gold or its tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repirl.errors import UserError
from repirl.grading.code.grader import check_tests
from repirl.tasks.hidden_tests import decode_tests
from repirl.types import CodeTests, Problem

OWN_GOLD = "math"
"""In place of a benchmark: the rows carry their own gold answers."""
OWN_TESTS = "code"
"""In place of a benchmark: the rows carry their own tests."""

Find = Callable[[str, Mapping[str, Any]], Problem]
"""(place in the file, row) -> its problem; UserError if there is none."""

_NEEDED = {"functional": ("entry_point", "cases"), "stdio": ("cases",), "asserts": ("code",)}
_CASE_KEYS = {"functional": {"args", "expected"}, "stdio": {"stdin", "stdout"}}


def finder(benchmark: str, problems: Sequence[Problem] | None) -> Find:
    """How the rows of a file for `benchmark` name their problems; ValueError for a benchmark without its problems."""
    if benchmark == OWN_GOLD:
        return _by_own_gold()
    if benchmark == OWN_TESTS:
        return _by_own_tests
    if problems is None:
        raise ValueError(f"grading against {benchmark!r} needs its problems")
    return _by_benchmark(benchmark, problems)


def _by_benchmark(benchmark: str, problems: Sequence[Problem]) -> Find:
    """Look up a row's problem by id, or by the exact text of its statement or prompt."""
    by_id = {problem.id: problem for problem in problems}
    by_text: dict[str, Problem] = {}
    for problem in problems:
        by_text.setdefault(problem.prompt.strip(), problem)
        if problem.source.strip():
            by_text.setdefault(problem.source.strip(), problem)

    def find(where: str, row: Mapping[str, Any]) -> Problem:
        if row.get("id") is not None:
            problem = by_id.get(str(row["id"]))
            if problem is None:
                example = next(iter(by_id), "none")
                raise UserError(f"{where}: {benchmark} has no problem with id", row["id"], f"ids look like {example!r}")
            return problem
        if not isinstance(row.get("problem"), str):
            raise UserError(f"{where}: needs `id` or `problem`", sorted(row))
        problem = by_text.get(row["problem"].strip())
        if problem is None:
            raise UserError(f"{where}: {benchmark} has no problem with this text", row["problem"][:80])
        return problem

    return find


def _by_own_gold() -> Find:
    """Make a problem of a row that carries its gold; rows with the same id (or text) are samples of one problem."""
    golds: dict[str, str] = {}

    def find(where: str, row: Mapping[str, Any]) -> Problem:
        answer = row.get("answer")
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise UserError(f"{where}: needs `answer`, the gold, as text or number", answer if answer else sorted(row))
        name = row.get("id", row.get("problem"))
        problem_id = where.rpartition(" ")[2] if name is None else str(name)
        if golds.setdefault(problem_id, str(answer)) != str(answer):
            raise UserError(f"{where}: another row with the same id has another `answer`", problem_id[:80])
        text = str(row.get("problem", ""))
        return Problem(problem_id, OWN_GOLD, prompt=text, grader="math", answer=str(answer), source=text)

    return find


def _by_own_tests(where: str, row: Mapping[str, Any]) -> Problem:
    """Make a problem of a row that carries its tests; rows with the same id are samples of one problem."""
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError(f"{where}: needs `id`, text or an integer", sorted(row) if name is None else str(name)[:80])
    return Problem(str(name), OWN_TESTS, "", "code", tests=checked_tests(where, row.get("tests")))


def checked_tests(where: str, given: Any) -> CodeTests:
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
