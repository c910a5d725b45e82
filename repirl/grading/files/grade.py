"""Grading the completions of a JSONL file, no model needed: the logic of `repirl grade BENCHMARK FILE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.files import read_objects
from repirl.grading.dispatch import grade_rollouts
from repirl.grading.files.audit import summary_of, with_second_opinions
from repirl.grading.files.problems import OWN_TESTS, finder
from repirl.grading.files.rows import GradedRow, Sample, completions_of, write_lines
from repirl.grading.math.grader import NO_ANSWER, Extraction
from repirl.grading.pool import PoolOptions
from repirl.stats import clustered_interval
from repirl.types import Interval, Problem, Verdict


@dataclass(frozen=True, slots=True)
class FileGrades:
    """All verdicts of a file, in its order. `num_problems` of the benchmark (or of the file, with own golds or tests)."""

    benchmark: str
    path: str
    num_problems: int
    rows: tuple[GradedRow, ...]
    extraction: Extraction = "strict"
    audited: bool = False

    @property
    def verdicts(self) -> list[Verdict]:
        return [row.verdict for row in self.rows]

    @property
    def counts(self) -> dict[str, int]:
        """`correct`, `wrong`, `truncated`, `ungraded`, which add up to `total`."""
        seen = Counter(verdict.outcome for verdict in self.verdicts)
        return {name: seen[name] for name in ("correct", "wrong", "truncated", "ungraded")} | {"total": len(self.rows)}

    @property
    def answerless(self) -> dict[str, int]:
        """How many of the `wrong` and of the `truncated` held no answer at all."""
        seen = Counter(verdict.outcome for verdict in self.verdicts if verdict.reason == NO_ANSWER)
        return {name: seen[name] for name in ("wrong", "truncated")}

    @property
    def ungraded_reasons(self) -> dict[str, int]:
        """How often each reason of an `ungraded` verdict occurs."""
        return dict(Counter(verdict.reason for verdict in self.verdicts if verdict.outcome == "ungraded"))

    def scores_by_problem(self) -> dict[str, list[float]]:
        """1.0 or 0.0 of each graded completion by problem (what a bootstrap over problems needs)."""
        scores: dict[str, list[float]] = {}
        for row in self.rows:
            if row.verdict.outcome != "ungraded":
                scores.setdefault(row.problem_id, []).append(row.verdict.reward)
        return scores

    @property
    def accuracy(self) -> Interval | None:
        """Mean over problems of the fraction correct among graded completions, with its clustered interval."""
        scores = self.scores_by_problem()
        return clustered_interval(list(scores.values())) if scores else None

    def summary(self) -> dict[str, Any]:
        """Counts, the accuracy over problems (None if nothing was graded), and the audit's: what `repirl grade` shows."""
        interval = self.accuracy
        found = {
            "benchmark": self.benchmark,
            "file": self.path,
            "extraction": self.extraction,
            "problems": self.num_problems,
            "problems_graded": len(self.scores_by_problem()),
            "counts": self.counts,
            "without_answer": self.answerless,
            "ungraded_reasons": self.ungraded_reasons,
            "accuracy": None
            if interval is None
            else {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "level": interval.level},
        }
        return found | ({"audit": summary_of(self.rows)} if self.audited else {})


def grade_file(
    benchmark: str,
    path: Path,
    problems: Sequence[Problem] | None = None,
    *,
    options: PoolOptions | None = None,
    extraction: Extraction = "strict",
    allow_weak_sandbox: bool = False,
    audit: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> FileGrades:
    """Grade every completion of a .jsonl or .jsonl.gz file.

    With `benchmark` "math", rows are {"answer", "completion"} (optionally "id" or "problem", which group samples of
    one problem). With "code", rows are {"id", "completion", "tests"}, where `completion` is plain code, or text of which the
    last fenced block counts, and `tests` is {"kind": "functional", "entry_point", "cases": [{"args", "expected"}]},
    {"kind": "stdio", "cases": [{"stdin", "stdout"}]} or {"kind": "asserts", "code"}. With any other name, rows are {"id" or
    "problem", "completion"} and `problems` are the benchmark's, matched by id or by their exact text. "completions", an array,
    may stand for "completion"; "finish_reason" ("stop" or "length"; an array beside "completions") is optional.
    `audit` asks for a second opinion on each answer; no verdict depends on it.

    Raises UserError, with the line number, for malformed JSON, missing fields and unknown problems, and for a missing
    or empty file; also where the machine gives only a weak sandbox and `allow_weak_sandbox` is not set.
    """
    find = finder(benchmark, problems)
    samples = []
    for line, row in read_objects(path, half_pairs=True):  # a model may write them
        where = f"{path}, line {line}"
        problem = find(where, row)
        samples += [Sample(line, problem, text, reason, row.get("id")) for text, reason in completions_of(where, row)]
    if not samples:
        needed = '"completion": ..., "tests": ...' if benchmark == OWN_TESTS else '"completion": ...'
        raise UserError("the file has no rows", str(path), f'each line is an object such as {{"id": ..., {needed}}}')
    verdicts = grade_rollouts(
        [sample.problem for sample in samples],
        [sample.completion for sample in samples],
        [sample.finish_reason for sample in samples],
        options=options,
        extraction=extraction,
        allow_weak_sandbox=allow_weak_sandbox,
        on_progress=on_progress,
    )
    seen: Counter[str] = Counter()
    rows = []
    for sample, verdict in zip(samples, verdicts, strict=True):
        rows.append(GradedRow(sample, seen[sample.problem.id], verdict))
        seen[sample.problem.id] += 1
    if audit:
        rows = with_second_opinions(rows, options, on_progress)
    return FileGrades(benchmark, str(path), len(seen) if problems is None else len(problems), tuple(rows), extraction, audit)


def write_verdicts(grades: FileGrades, path: Path) -> None:
    """One JSON line for each completion, in the file's order. Raises UserError if the file cannot be written.

    id, sample, line, verdict, and what the verdict says (reason, extracted answer, counts of tests); for programs with tests
    of their own: id, verdict, reason, tests_passed, tests_total (None where nothing was measured) and seconds.
    """
    write_lines(map(_program_row if grades.benchmark == OWN_TESTS else _verdict_row, grades.rows), path)


def _verdict_row(row: GradedRow) -> dict[str, Any]:
    verdict = {name: value for name, value in asdict(row.verdict).items() if value is not None}
    line = {"id": row.problem_id, "sample": row.sample_index, "line": row.sample.line}
    return line | {"verdict": verdict.pop("outcome")} | verdict


def _program_row(row: GradedRow) -> dict[str, Any]:
    verdict = row.verdict
    return {
        "id": row.sample.given_id,
        "verdict": verdict.outcome,
        "reason": verdict.reason,
        "tests_passed": verdict.tests_passed,
        "tests_total": verdict.tests_total,
        "seconds": round(verdict.seconds or 0.0, 4),
    }
