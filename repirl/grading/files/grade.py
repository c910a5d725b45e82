"""Grading completions from a JSONL file: the logic of `repirl grade BENCHMARK FILE`, no model needed."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.grading.math.grader import NO_ANSWER
from repirl.grading.pool import PoolOptions
from repirl.types import Problem, Verdict

# FILE's rows carry their own gold answer.
OWN_GOLD = "math"
_FINISH_REASONS = ("stop", "length")


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
    one problem); with any other name, rows are {"id" or "problem", "completion"} and `problems` are the benchmark's,
    matched by id or by their exact text. "completions", an array, may stand for "completion"; "finish_reason" ("stop"
    or "length"; an array beside "completions") is optional.

    Raises UserError, with the line number, for malformed JSON, missing fields and unknown problems, and for a missing
    or empty file.
    """
    if benchmark != OWN_GOLD and problems is None:
        raise ValueError(f"grading against {benchmark!r} needs its problems")
    find = _by_own_gold() if problems is None or benchmark == OWN_GOLD else _by_benchmark(benchmark, problems)
    samples = [sample for line, row in read_rows(path) for sample in _samples(path, line, row, find)]
    if not samples:
        raise UserError("the file has no rows", str(path), 'each line is an object such as {"id": ..., "completion": ...}')
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
        rows.append(GradedRow(sample.line, sample.problem.id, seen[sample.problem.id], verdict, sample.problem.answer))
        seen[sample.problem.id] += 1
    num_problems = len(seen) if problems is None or benchmark == OWN_GOLD else len(problems)
    return FileGrades(benchmark, str(path), num_problems, tuple(rows))


def write_verdicts(grades: FileGrades, path: Path) -> None:
    """One JSON line for each completion: id, sample, line, verdict, reason, extracted, and test counts of code."""
    write_lines(map(_verdict_row, grades.rows), path)


def _verdict_row(row: GradedRow) -> dict[str, Any]:
    verdict = {name: value for name, value in asdict(row.verdict).items() if value is not None}
    line = {"id": row.problem_id, "sample": row.sample_index, "line": row.line}
    return line | {"verdict": verdict.pop("outcome")} | verdict


def write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """A JSONL file, UTF-8 also where a text holds half a surrogate pair. Raises UserError if it cannot be written."""
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:  # just as JSON writes them
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError("cannot write the verdicts", str(path), error.strerror or "") from None


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


_Find = Callable[[str, Mapping[str, Any]], Problem]


def _by_benchmark(benchmark: str, problems: Sequence[Problem]) -> _Find:
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


def _by_own_gold() -> _Find:
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


def _samples(path: Path, line: int, row: dict[str, Any], find: _Find) -> Iterator[_Sample]:
    where = f"{path}, line {line}"
    problem = find(where, row)
    completions = _completions(where, row)
    given = row.get("finish_reason")
    reasons = given if isinstance(given, list) else [given] * len(completions)
    if len(reasons) != len(completions):
        raise UserError(f"{where}: {len(completions)} completions but {len(reasons)} finish reasons")
    for completion, reason in zip(completions, reasons, strict=True):
        yield _Sample(line, problem, completion, finish_reason_of(where, reason))


def finish_reason_of(where: str, given: Any) -> str:
    """`stop` where a row says nothing. Raises UserError on an unknown one."""
    if given is not None and given not in _FINISH_REASONS:
        raise UserError(f"{where}: unknown finish_reason", given, f"use one of {', '.join(_FINISH_REASONS)}")
    return given or "stop"


def _completions(where: str, row: Mapping[str, Any]) -> list[str]:
    if "completions" not in row and "completion" not in row:
        raise UserError(f"{where}: needs `completion` or `completions`", sorted(row))
    texts = row["completions"] if "completions" in row else [row["completion"]]
    if not isinstance(texts, list) or not texts:
        raise UserError(f"{where}: `completions` must be an array with at least one text", str(texts)[:80])
    for text in texts:
        if not isinstance(text, str):
            raise UserError(f"{where}: a completion must be text", str(text)[:80])
    return texts
