"""Grading the completions of a JSONL file, no model needed: the logic of `repirl grade BENCHMARK FILE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.grading.files.problems import OWN_TESTS, finder
from repirl.grading.files.rows import completions_of, read_rows, write_lines
from repirl.grading.math.grader import NO_ANSWER
from repirl.grading.pool import PoolOptions
from repirl.types import Problem, Verdict


@dataclass(frozen=True, slots=True)
class GradedRow:
    """The verdict on one completion. `line` counts from 1, `sample_index` from 0 within its problem."""

    line: int
    problem_id: str
    sample_index: int
    verdict: Verdict
    gold: str | None = None
    given_id: str | int | None = None  # as the file spells it


@dataclass(frozen=True, slots=True)
class FileGrades:
    """All verdicts of a file, in its order. `num_problems` of the benchmark (or of the file, with own golds)."""

    benchmark: str
    path: str
    num_problems: int
    rows: tuple[GradedRow, ...]

    @property
    def counts(self) -> dict[str, int]:
        """`correct`, `wrong`, `truncated`, `ungraded`, which add up to `total`."""
        seen = Counter(row.verdict.outcome for row in self.rows)
        return {name: seen[name] for name in ("correct", "wrong", "truncated", "ungraded")} | {"total": len(self.rows)}

    @property
    def answerless(self) -> dict[str, int]:
        """How many of the `wrong` and of the `truncated` held no answer at all."""
        seen = Counter(row.verdict.outcome for row in self.rows if row.verdict.reason == NO_ANSWER)
        return {name: seen[name] for name in ("wrong", "truncated")}

    @property
    def ungraded_reasons(self) -> dict[str, int]:
        """How often each reason of an `ungraded` verdict occurs."""
        return dict(Counter(row.verdict.reason for row in self.rows if row.verdict.outcome == "ungraded"))

    @property
    def verdicts(self) -> list[Verdict]:
        return [row.verdict for row in self.rows]

    def scores_by_problem(self) -> dict[str, list[float]]:
        """1.0 or 0.0 of each graded completion by problem (what a bootstrap over problems needs)."""
        scores: dict[str, list[float]] = {}
        for row in self.rows:
            if row.verdict.outcome != "ungraded":
                scores.setdefault(row.problem_id, []).append(row.verdict.reward)
        return scores

    @property
    def accuracy(self) -> float | None:
        """Mean over problems of the fraction correct among graded completions; None if there is none."""
        means = [sum(scores) / len(scores) for scores in self.scores_by_problem().values()]
        return sum(means) / len(means) if means else None


@dataclass(frozen=True, slots=True)
class _Sample:
    line: int
    problem: Problem
    completion: str
    finish_reason: str
    given_id: str | int | None


def grade_file(
    benchmark: str,
    path: Path,
    problems: Sequence[Problem] | None = None,
    *,
    options: PoolOptions | None = None,
    allow_weak_sandbox: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> FileGrades:
    """Grade every completion of a .jsonl or .jsonl.gz file.

    With `benchmark` "math", rows are {"answer", "completion"} (optionally "id" or "problem", which group samples of
    one problem). With "code", rows are {"id", "completion", "tests"}, where `completion` is plain code, or text of which the
    last fenced block counts, and `tests` is {"kind": "functional", "entry_point", "cases": [{"args", "expected"}]},
    {"kind": "stdio", "cases": [{"stdin", "stdout"}]} or {"kind": "asserts", "code"}. With any other name, rows are {"id" or
    "problem", "completion"} and `problems` are the benchmark's, matched by id or by their exact text. "completions", an array,
    may stand for "completion"; "finish_reason" ("stop" or "length"; an array beside "completions") is optional.

    Raises UserError, with the line number, for malformed JSON, missing fields and unknown problems, and for a missing
    or empty file; also where the machine gives only a weak sandbox and `allow_weak_sandbox` is not set.
    """
    find = finder(benchmark, problems)
    samples = []
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        problem = find(where, row)
        samples += [_Sample(line, problem, text, reason, row.get("id")) for text, reason in completions_of(where, row)]
    if not samples:
        needed = '"completion": ..., "tests": ...' if benchmark == OWN_TESTS else '"completion": ...'
        raise UserError("the file has no rows", str(path), f'each line is an object such as {{"id": ..., {needed}}}')
    verdicts = grade_rollouts(
        [sample.problem for sample in samples],
        [sample.completion for sample in samples],
        [sample.finish_reason for sample in samples],
        options=options,
        allow_weak_sandbox=allow_weak_sandbox,
        on_progress=on_progress,
    )
    seen: Counter[str] = Counter()
    rows = []
    for sample, verdict in zip(samples, verdicts, strict=True):
        name, gold = sample.problem.id, sample.problem.answer
        rows.append(GradedRow(sample.line, name, seen[name], verdict, gold, sample.given_id))
        seen[name] += 1
    return FileGrades(benchmark, str(path), len(seen) if problems is None else len(problems), tuple(rows))


def write_verdicts(grades: FileGrades, path: Path) -> None:
    """One JSON line for each completion, in the file's order. Raises UserError if the file cannot be written.

    id, sample, line, verdict, and what the verdict says (reason, extracted answer, counts of tests); for programs with tests
    of their own: id, verdict, reason, tests_passed, tests_total (None where nothing was measured) and seconds.
    """
    write_lines(map(_program_row if grades.benchmark == OWN_TESTS else _verdict_row, grades.rows), path)


def _verdict_row(row: GradedRow) -> dict[str, Any]:
    verdict = {name: value for name, value in asdict(row.verdict).items() if value is not None}
    line = {"id": row.problem_id, "sample": row.sample_index, "line": row.line}
    return line | {"verdict": verdict.pop("outcome")} | verdict


def _program_row(row: GradedRow) -> dict[str, Any]:
    verdict = row.verdict
    return {
        "id": row.given_id,
        "verdict": verdict.outcome,
        "reason": verdict.reason,
        "tests_passed": verdict.tests_passed,
        "tests_total": verdict.tests_total,
        "seconds": round(verdict.seconds or 0.0, 4),
    }
