"""Verdicts from Python: `repirl grade` without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.grading.files.problems import OWN_GOLD, OWN_TESTS, checked_tests
from repirl.grading.math.grader import Extraction, known_extraction
from repirl.types import Problem, Verdict

Tests = Mapping[str, Any]
"""Hidden tests as `repirl grade code` takes them: `kind` functional, stdio or asserts, and what belongs to it."""


def grade(
    completion: str,
    *,
    answer: str | None = None,
    tests: Tests | None = None,
    finished: bool = True,
    extraction: Extraction = "strict",
    allow_weak_sandbox: bool = False,
) -> Verdict:
    """The verdict on a completion, by the right `answer` as mathematics, or as a program by its hidden `tests`.

    `outcome` is correct, wrong, truncated (not `finished`: the token limit cut it) or ungraded, with a `reason`; `reward` is 1,
    0 or NaN. `extraction`: `strict` takes marked answers alone, `flexible` else the last formula or number. Programs run in the
    sandbox, never here; `allow_weak_sandbox` lets them run where this machine cannot isolate them fully. UserError for both
    or neither of `answer` and `tests`, and for malformed tests.
    """
    answers, own = (None if answer is None else [answer]), (None if tests is None else [tests])
    return grade_many(
        [completion],
        answers=answers,
        tests=own,
        finished=[finished],
        extraction=extraction,
        allow_weak_sandbox=allow_weak_sandbox,
    )[0]


def grade_many(
    completions: Sequence[str],
    *,
    answers: Sequence[str] | None = None,
    tests: Sequence[Tests] | None = None,
    finished: Sequence[bool] | None = None,
    extraction: Extraction = "strict",
    allow_weak_sandbox: bool = False,
) -> list[Verdict]:
    """`grade` of many completions at once, in order, each by the answer or the tests at its place. `finished` None: all are."""
    if (answers is None) == (tests is None):
        raise UserError("a completion is graded by an answer or by tests", todo="give one of the two")
    golds: Sequence[Any] = answers if answers is not None else tests or ()
    ended = [True] * len(completions) if finished is None else finished
    if not len(completions) == len(golds) == len(ended):
        what = f"{len(completions)} completions, {len(golds)} answers or tests, {len(ended)} times finished"
        raise UserError("there must be one of each", what)
    return grade_rollouts(
        [_problem(i, gold, is_code=tests is not None) for i, gold in enumerate(golds)],
        completions,
        ["stop" if end else "length" for end in ended],
        extraction=known_extraction(extraction),
        allow_weak_sandbox=allow_weak_sandbox,
    )


def _problem(number: int, gold: Any, *, is_code: bool) -> Problem:
    if is_code:
        return Problem(str(number), OWN_TESTS, "", "code", tests=checked_tests(f"completion {number}", gold))
    if not isinstance(gold, str) or not gold.strip():
        raise UserError(f"the answer to completion {number} is no text", gold, "give the right answer as a text")
    return Problem(str(number), OWN_GOLD, "", "math", gold)
