"""A pool of graded samples, filled piece by piece: what is there is not sampled again, in memory or on disk.

On disk it is one JSONL file: first what was sampled and how, then one line for each chunk of samples. A line that an
interruption cut is dropped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from repirl import parallel
from repirl.errors import UserError
from repirl.grading.dispatch import check_ungraded
from repirl.paths import replace_file
from repirl.rollouts.collect import Asked, Collector, Grader, OnProgress, cut_at_stop
from repirl.tasks.training_sets import steps_right
from repirl.types import Problem, RolloutGroup, SampleRow, Verdict

CHUNK_ROWS = 512
# With fewer samples one failure of the grader would pass the limit.
_ROWS_BEFORE_STOPPING = 200


class SamplePool:
    """Samples by part (`greedy`, `sampled`, ...) and problem; in memory only if `folder` is None.

    `fingerprint` says what was sampled and how. UserError if the file holds samples of something else.
    `wall_s` is the time that the stored chunks took.
    """

    def __init__(self, folder: Path | None, name: str, fingerprint: Mapping[str, Any]) -> None:
        self.wall_s = 0.0
        self._rows: dict[str, dict[str, dict[int, SampleRow]]] = {}
        self._path = samples_file(folder, name) if folder else None
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._read(self._path, dict(fingerprint)):
            replace_file(self._path, lambda file: file.write(_line({"evaluation": dict(fingerprint)}).encode()))

    def rows(self, part: str, problem_id: str) -> list[SampleRow]:
        """Stored samples of a problem, in order of their index."""
        found = self._rows.get(part, {}).get(problem_id, {})
        return [found[index] for index in sorted(found)]

    def add(self, part: str, rows: Sequence[SampleRow], wall_s: float) -> None:
        """Keep a chunk; a sample that is there already is replaced. On disk when this returns."""
        self._keep(part, rows, wall_s)
        if self._path is None or not parallel.is_first():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"part": part, "wall_s": wall_s, "rows": [asdict(row) for row in rows]}))
            file.flush()
            os.fsync(file.fileno())

    def fill(
        self,
        part: str,
        collector: Collector,
        problems: Sequence[Problem],
        samples: int | Mapping[str, int],
        seed: int,
        *,
        chunk_rows: int = CHUNK_ROWS,
        ungraded_limit: float = 0.02,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Sample what is missing to `samples` of each problem (a number, or one by problem id), about `chunk_rows` at a time.

        Each chunk is kept as it comes. Samples that could not be graded earlier are graded again: what stopped that may
        have been mended. The result does not depend on `chunk_rows` or the order of problems. `on_progress(done, of all)`
        counts samples, those that were there included. GradingFault, early, once more than `ungraded_limit` of some hundred
        samples could not be graded; what share of the whole may be so is for the caller to say.
        """
        self._grade_again(part, problems, collector.grader)
        wanted = dict.fromkeys((p.id for p in problems), samples) if isinstance(samples, int) else samples
        total = sum(wanted[p.id] for p in problems)
        done = sum(min(wanted[p.id], len(self.rows(part, p.id))) for p in problems)
        for chunk in self._missing(part, problems, wanted, chunk_rows):
            started = time.monotonic()
            report = None if on_progress is None else lambda rows, _, base=done: on_progress(base + rows, total)
            groups = collector.collect(chunk, seed, on_progress=report)
            stop = collector.decoding.params.stop
            self.add(part, [row for group in groups for row in sample_rows(group, stop)], time.monotonic() - started)
            done += sum(one.samples for one in chunk)
            if done >= _ROWS_BEFORE_STOPPING and collector.grader is not None:
                check_ungraded(self._verdicts(part, problems), ungraded_limit)

    def _missing(
        self, part: str, problems: Sequence[Problem], wanted: Mapping[str, int], chunk_rows: int
    ) -> Iterator[list[Asked]]:
        """What is to be sampled, about `chunk_rows` samples at a time."""
        chunk: list[Asked] = []
        for problem in problems:
            first, samples = len(self.rows(part, problem.id)), wanted[problem.id]
            if first >= samples:
                continue
            chunk.append(Asked(problem, samples - first, first))
            if sum(one.samples for one in chunk) >= chunk_rows:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _grade_again(self, part: str, problems: Sequence[Problem], grader: Grader | None) -> None:
        failed = [(p, row) for p in problems for row in self.rows(part, p.id) if row.outcome == "ungraded"]
        if not failed or grader is None:
            return
        started = time.monotonic()
        # An output cut by the token limit has the verdict `truncated`: these all stopped by themselves.
        verdicts = grader([p for p, _ in failed], [row.text for _, row in failed], ["stop"] * len(failed))
        rows = [
            replace(row, outcome=verdict.outcome, reason=verdict.reason, extracted=verdict.extracted)
            for (_, row), verdict in zip(failed, verdicts, strict=True)
        ]
        self.add(part, rows, time.monotonic() - started)

    def _verdicts(self, part: str, problems: Sequence[Problem]) -> list[Verdict]:
        return [Verdict(row.outcome, row.reason) for p in problems for row in self.rows(part, p.id)]

    def _keep(self, part: str, rows: Sequence[SampleRow], wall_s: float) -> None:
        self.wall_s += wall_s
        problems = self._rows.setdefault(part, {})
        for row in rows:
            problems.setdefault(row.problem_id, {})[row.sample_index] = row

    def _read(self, path: Path, fingerprint: dict[str, Any]) -> bool:
        """Take in the file and cut off an unfinished last line; False if there is nothing yet."""
        content = path.read_bytes() if path.is_file() else b""
        whole = _whole_lines(content)
        if not whole:
            return False
        stored, chunks = _parse(path, whole)
        _check_same(path, stored, fingerprint)
        for chunk in chunks:
            self._keep(chunk.part, chunk.rows, chunk.wall_s)
        if len(whole) < len(content) and parallel.is_first():
            os.truncate(path, len(whole))
        return True


@dataclass(frozen=True, slots=True)
class _Chunk:
    part: str
    rows: tuple[SampleRow, ...]
    wall_s: float


_CHUNK = TypeAdapter(_Chunk)


def sample_rows(group: RolloutGroup, stop: Sequence[str] = ()) -> list[SampleRow]:
    """A group as rows of a pool; text from a stop string on is left out, as it was for grading."""
    problem = group.problem
    return [
        SampleRow(
            problem_id=problem.id,
            sample_index=rollout.sample_index,
            outcome=verdict.outcome,
            reason=verdict.reason,
            extracted=verdict.extracted,
            num_tokens=len(rollout.token_ids),
            text=cut_at_stop(rollout.text, stop),
            level=problem.level,
            subject=problem.subject,
            steps_right=steps_right(problem, cut_at_stop(rollout.text, stop)),
        )
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
    ]


def samples_file(folder: Path, name: str) -> Path:
    """Where the samples of benchmark `name` are kept in `folder`."""
    return folder / f"evaluation-{name.replace(':', '-').replace('/', '-')}.jsonl"


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """What a pool's file holds: what was sampled and how, and part -> rows by problem and sample index."""

    fingerprint: dict[str, Any]
    samples: dict[str, tuple[SampleRow, ...]]


def read_samples(path: Path) -> StoredSamples:
    """The samples in a file that another evaluation left.

    The file is not changed. Raises UserError if it is not of an evaluation.
    """
    whole = _whole_lines(path.read_bytes())
    if not whole:
        raise UserError("no samples are stored in", str(path))
    fingerprint, chunks = _parse(path, whole)
    latest: dict[str, dict[tuple[str, int], SampleRow]] = {}
    for chunk in chunks:
        latest.setdefault(chunk.part, {}).update({(row.problem_id, row.sample_index): row for row in chunk.rows})
    return StoredSamples(fingerprint, {part: tuple(rows[key] for key in sorted(rows)) for part, rows in latest.items()})


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _parse(path: Path, whole: bytes) -> tuple[dict[str, Any], list[_Chunk]]:
    """Fingerprint and chunks of complete lines; UserError naming the line that is neither."""
    fingerprint: dict[str, Any] = {}
    chunks: list[_Chunk] = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            if number == 1:
                fingerprint = dict(entry["evaluation"])
            else:
                chunks.append(_CHUNK.validate_python(entry))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"line {number} of {path} is not of an evaluation", todo="use another folder") from error
    return fingerprint, chunks


def _check_same(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = sorted(key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key))
    if differing:
        said = f"another {', another '.join(differing)}"
        raise UserError(f"{path} holds samples of {said}", todo="use another folder, or delete the file")


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"
