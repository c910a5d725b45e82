"""Records on disk: `results/<suite>/<run_id>/record.json` and one gzipped per-sample file for each benchmark.

Append-only: a record is written once, as a whole folder renamed into place, and never changed. What is
loaded is verified: schema, folder names, SHA-256 of every per-sample file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from repirl import paths
from repirl.errors import UserError
from repirl.records.schema import Counts, EvaluationRecord, RunRecord
from repirl.types import Outcome, Report, SampleRow

RECORD_FILE = "record.json"
_PENDING = ".tmp-"
_ROW = TypeAdapter(SampleRow)
_COLUMNS = {"part", *(field.name for field in fields(SampleRow))}


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
        path = self.folder / evaluation.samples_file
        read = _parse_samples(_verified_bytes(path, evaluation.samples_sha256), path)
        parts = dict.fromkeys(evaluation.counts, ()) | read
        found = {part: count_outcomes(rows) for part, rows in parts.items()}
        if found != evaluation.counts:
            raise UserError("per-sample file disagrees with the counts in its record", _show(path))
        return parts


def write(record: RunRecord, reports: Sequence[Report], *, root: Path | None = None) -> StoredRun:
    """Writes `record` with an evaluation for each report, and the samples of each; returns what was stored.

    Raises UserError if the run id exists (nothing is overwritten), ValueError if a report's counts are not
    those of its samples.
    """
    target = folder_of(record.suite, record.run_id, root)
    if target.exists():
        raise UserError("record exists already and is never overwritten", _show(target), "use another run id")
    files: dict[str, bytes] = {}
    evaluations: list[EvaluationRecord] = []
    for report in reports:
        stem = f"samples-{re.sub('[^A-Za-z0-9._+-]', '-', report.benchmark)}"
        name = f"{stem}.jsonl.gz"
        if name in files:
            name = f"{stem}-{len(files) + 1}.jsonl.gz"
        files[name] = encode_samples(report.samples)
        evaluations.append(evaluation_from_report(report, name, hashlib.sha256(files[name]).hexdigest()))
    # Through JSON, so that every validator runs and what is returned is what a reader would load.
    filled = record.model_dump(mode="json") | {"evaluations": [e.model_dump(mode="json") for e in evaluations]}
    complete = RunRecord.model_validate_json(json.dumps(filled))
    files[RECORD_FILE] = (json.dumps(complete.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()
    _write_folder(target, files)
    return StoredRun(complete, target)


def evaluation_from_report(report: Report, samples_file: str, samples_sha256: str) -> EvaluationRecord:
    """The record's view of a report. Raises ValueError if its counts are not those of its samples."""
    counts = {part: count_outcomes(rows) for part, rows in report.samples.items()}
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


def count_outcomes(rows: Sequence[SampleRow]) -> Counts:
    """Verdicts of `rows`, counted."""
    seen = Counter(row.outcome for row in rows)
    return Counts(total=len(rows), **{outcome: seen[outcome] for outcome in get_args(Outcome)})


def load(folder: Path) -> StoredRun:
    """The record in `folder`, verified. Raises UserError naming the file when anything is off."""
    path = folder / RECORD_FILE
    try:
        record = RunRecord.model_validate_json(path.read_bytes())
    except OSError as fault:
        raise UserError("no readable record", _show(path), fault.strerror or "") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"])) or "record"
        raise UserError("malformed record", _show(path), f"{where}: {first['msg']}") from fault
    if (record.suite, record.run_id) != (folder.resolve().parent.name, folder.resolve().name):
        raise UserError("record lies in another folder than its suite and run id say", _show(path))
    for evaluation in record.evaluations:
        _verified_bytes(folder / evaluation.samples_file, evaluation.samples_sha256)
    return StoredRun(record, folder)


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


def encode_samples(samples: Mapping[str, Sequence[SampleRow]]) -> bytes:
    """Gzipped JSONL, one row a line with its part; the same rows give the same bytes (no time stamp, no name)."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as packed:
        for part, rows in samples.items():
            for row in rows:
                packed.write((json.dumps({"part": part} | asdict(row)) + "\n").encode())
    return buffer.getvalue()


def _parse_samples(data: bytes, path: Path) -> dict[str, tuple[SampleRow, ...]]:
    parts: dict[str, list[SampleRow]] = {}
    for number, line in enumerate(gzip.decompress(data).decode().split("\n")[:-1], start=1):
        try:
            cells = json.loads(line)
            if cells.keys() != _COLUMNS:
                raise ValueError(f"columns {sorted(cells)}")
            parts.setdefault(cells.pop("part"), []).append(_ROW.validate_python(cells))
        except (ValueError, AttributeError) as fault:
            raise UserError("malformed per-sample row", f"{_show(path)}, line {number}") from fault
    return {part: tuple(rows) for part, rows in parts.items()}


def _verified_bytes(path: Path, expected: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise UserError("no readable per-sample file", _show(path), fault.strerror or "") from fault
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError("per-sample file is not the one its record names (SHA-256 differs)", _show(path))
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
