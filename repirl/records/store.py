"""Records on disk: `results/<suite>/<run_id>/record.json` and beside it one gzipped file of rows for each evaluation.

Append-only: a record is written once, as a whole folder renamed into place, and never changed. What is
loaded is verified: schema, the digest over the record, folder names, SHA-256 of every file of rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import ValidationError

from repirl import paths
from repirl.config import digest_of
from repirl.errors import UserError
from repirl.records import rows
from repirl.records.schema import Counts, CurveFile, EvaluationRecord, JudgementRecord, RunRecord
from repirl.records.upgrade import upgraded
from repirl.types import Budget, JudgedRow, Outcome, Report, SampleRow

if TYPE_CHECKING:
    from repirl.evals.judging import SetReport

RECORD_FILE = "record.json"
CURVE_FILE = "curve.jsonl.gz"
_PENDING = ".tmp-"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A process reward on a step-labelled set, to be recorded: what was asked for, what came of it, what it cost."""

    report: SetReport
    protocol: Mapping[str, Any]
    reward: str
    reward_digest: str | None
    wall_s: float


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A verified record and its folder."""

    record: RunRecord
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / RECORD_FILE

    def samples(self, evaluation: EvaluationRecord) -> dict[str, tuple[SampleRow, ...]]:
        """Protocol part -> rows of `evaluation`. Raises UserError if the file is not what the record says."""
        read = self._read(evaluation.samples_file, evaluation.samples_sha256, rows.parse_samples)
        parts = dict.fromkeys(evaluation.counts, ()) | read
        found = {part: count_outcomes(found) for part, found in parts.items()}
        if found != evaluation.counts:
            path = self.folder / evaluation.samples_file
            raise UserError("per-sample file disagrees with the counts in its record", _show(path))
        return parts

    def judged(self, judgement: JudgementRecord) -> tuple[JudgedRow, ...]:
        """The solutions of a set as they were judged. Raises UserError if the file is not what the record says."""
        return self._read(judgement.rows_file, judgement.rows_sha256, rows.parse_judged)

    def curve(self) -> tuple[dict[str, Any], ...]:
        """Metrics of each step of training, empty where none were kept. Raises UserError as above."""
        curve = self.record.curve
        return () if curve is None else self._read(curve.file, curve.sha256, rows.parse_curve)

    def _read(self, name: str, sha256: str, parse: Callable[[bytes], _T]) -> _T:
        path = self.folder / name
        try:
            return parse(_verified_bytes(path, sha256))
        except rows.MalformedRow as fault:
            raise UserError("malformed row of a record", f"{_show(path)}, {fault}") from fault


def write(
    record: RunRecord,
    reports: Sequence[Report],
    judgements: Sequence[Judgement] = (),
    *,
    curve: Path | None = None,
    root: Path | None = None,
) -> StoredRun:
    """Writes `record` with an evaluation for each report, the samples of each, judgements and the log of training likewise.

    Returns what was stored. Raises UserError if the run id exists (nothing is overwritten), ValueError if a report's counts
    are not those of its samples.
    """
    target = folder_of(record.suite, record.run_id, root)
    if target.exists():
        raise UserError("record exists already and is never overwritten", _show(target), "use another run id")
    files: dict[str, bytes] = {}

    def add(stem: str, data: bytes) -> tuple[str, str]:
        stem = re.sub("[^A-Za-z0-9._+-]", "-", stem)
        name = f"{stem}.jsonl.gz" if f"{stem}.jsonl.gz" not in files else f"{stem}-{len(files) + 1}.jsonl.gz"
        files[name] = data
        return name, hashlib.sha256(data).hexdigest()

    evaluations = [
        evaluation_from_report(report, *add(f"samples-{report.benchmark}", rows.encode_samples(report.samples)))
        for report in reports
    ]
    judged = [
        judgement_from_report(one, *add(f"judged-{one.report.name}", rows.encode_judged(one.report.judged.rows)))
        for one in judgements
    ]
    filled = record.model_dump(mode="json") | {
        "evaluations": [one.model_dump(mode="json") for one in evaluations],
        "judgements": [one.model_dump(mode="json") for one in judged],
    }
    if curve is not None:
        files[CURVE_FILE] = rows.encode_curve(curve.read_bytes())
        filled["curve"] = CurveFile(file=CURVE_FILE, sha256=hashlib.sha256(files[CURVE_FILE]).hexdigest()).model_dump()
    # Through JSON, so that every validator runs and what is returned is what a reader would load.
    values = RunRecord.model_validate_json(json.dumps(filled)).model_dump(mode="json")
    values["digest"] = record_digest(values)
    files[RECORD_FILE] = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    _write_folder(target, files)
    return StoredRun(RunRecord.model_validate_json(json.dumps(values)), target)


def record_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over a record's JSON with all fields but `digest`, keys sorted."""
    return digest_of({name: value for name, value in values.items() if name != "digest"})


def evaluation_from_report(report: Report, samples_file: str, samples_sha256: str) -> EvaluationRecord:
    """The record's view of a report. Raises ValueError if its counts are not those of its samples."""
    counts = {part: count_outcomes(found) for part, found in report.samples.items()}
    given = {part: Counts(**values) for part, values in report.counts.items()}
    if counts != given:
        raise ValueError(f"counts of {report.benchmark} are not those of its samples: {given} against {counts}")
    return EvaluationRecord.model_validate(
        {
            "benchmark": report.benchmark,
            "card_digest": report.card_digest,
            "data_digest": report.data_digest,
            "protocol": dict(report.protocol),
            "metrics": dict(report.metrics),
            "counts": counts,
            "by_level": {metric: dict(levels) for metric, levels in report.by_level.items()},
            "budget": report.budget,
            "samples_file": samples_file,
            "samples_sha256": samples_sha256,
        }
    )


def judgement_from_report(judgement: Judgement, rows_file: str, rows_sha256: str) -> JudgementRecord:
    """The record's view of a judged set."""
    report, result = judgement.report, judgement.report.judged
    subsets = {
        name: asdict(found) | {"ci_low": result.intervals[name].low, "ci_high": result.intervals[name].high}
        for name, found in result.subsets.items()
    }
    values = {
        "set": report.name,
        "kind": report.kind,
        "metric": "F1" if report.kind == "first_error" else "PRMScore",
        "data_digest": report.digest,
        "reward": judgement.reward,
        "reward_digest": judgement.reward_digest,
        "protocol": dict(judgement.protocol),
        "threshold": asdict(result.threshold),
        "headline": asdict(result.headline),
        "subsets": subsets,
        "similarity": result.similarity,
        "shortcuts": asdict(result.shortcuts),
        "notes": report.notes,
        "num_solutions": report.num_solutions,
        "unscored": result.unscored,
        "budget": asdict(Budget(scored_tokens=result.scored_tokens, wall_s=judgement.wall_s)),
        "rows_file": rows_file,
        "rows_sha256": rows_sha256,
    }
    return JudgementRecord.model_validate_json(json.dumps(values))


def count_outcomes(samples: Sequence[SampleRow]) -> Counts:
    """Verdicts of `samples`, counted."""
    seen = Counter(row.outcome for row in samples)
    return Counts(total=len(samples), **{outcome: seen[outcome] for outcome in get_args(Outcome)})


def load(folder: Path) -> StoredRun:
    """The record in `folder`, verified. Raises UserError naming the file when anything is off."""
    path = folder / RECORD_FILE
    try:
        record = _parse(path.read_bytes())
    except OSError as fault:
        raise UserError("no readable record", _show(path), fault.strerror or "") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"])) or "record"
        raise UserError("malformed record", _show(path), f"{where}: {first['msg']}") from fault
    except (ValueError, KeyError, TypeError) as fault:
        raise UserError("malformed record", _show(path), str(fault)) from fault
    if (record.suite, record.run_id) != (folder.resolve().parent.name, folder.resolve().name):
        raise UserError("record lies in another folder than its suite and run id say", _show(path))
    for name, sha256 in record.row_files.items():
        _verified_bytes(folder / name, sha256)
    return StoredRun(record, folder)


def _parse(data: bytes) -> RunRecord:
    """The record, whose digest (not in schema 1) must be that of what it says."""
    raw = json.loads(data)
    old = raw["schema_version"] == 1
    if old and (newer := {"digest", "label", "judgements"} & raw.keys()):
        raise ValueError(f"schema 1 has no {', '.join(sorted(newer))}: the record was changed after it was written")
    record = RunRecord.model_validate_json(json.dumps(upgraded(raw)) if old else data)
    if not old and record.digest != record_digest(raw):
        raise ValueError("digest is not that of the record: it was changed after it was written")
    return record


def find(suite: str, *, root: Path | None = None) -> list[StoredRun]:
    """All records of a suite, verified, sorted by run id; empty if there are none."""
    folder = (root or paths.results_dir()) / suite
    if not folder.is_dir():
        return []
    runs = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return [load(entry) for entry in sorted(runs)]


def suites_with_records(*, root: Path | None = None) -> list[str]:
    """Names of the suites that have at least one record folder, sorted."""
    base = root or paths.results_dir()
    if not base.is_dir():
        return []
    folders = [entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(entry.name for entry in folders if any(entry.glob(f"*/{RECORD_FILE}")))


def folder_of(suite: str, run_id: str, root: Path | None = None) -> Path:
    return (root or paths.results_dir()) / suite / run_id


def _verified_bytes(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise UserError("no readable file of rows", _show(path), fault.strerror or "") from fault
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError("file of rows is not the one its record names (SHA-256 differs)", _show(path))
    return data


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """All files or none: written beside `target` and renamed into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    pending = target.parent / f"{_PENDING}{target.name}-{os.getpid()}"
    pending.mkdir()
    try:
        for name, data in files.items():
            with open(pending / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        try:
            os.rename(pending, target)
        except OSError as fault:
            if target.exists():
                raise UserError("record exists already and is never overwritten", _show(target)) from fault
            raise
    finally:
        if pending.exists():
            shutil.rmtree(pending)


def _show(path: Path) -> str:
    """Path for a message: relative to the checkout where it lies in it."""
    return str(path.relative_to(paths.CHECKOUT_DIR)) if path.is_relative_to(paths.CHECKOUT_DIR) else str(path)
