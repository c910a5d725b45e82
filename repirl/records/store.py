"""Records on disk: `results/<suite>/<run_id>/record.json` and beside it one gzipped file of rows for each evaluation.

Append-only: a record is written once, as a whole folder renamed into place, and never changed. What is loaded is
verified: schema, bounds, the digest over the record, the suite's index (`index.py`), folder names, SHA-256 of every file
of rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from repirl import paths
from repirl.config import digest_of
from repirl.errors import UserError
from repirl.paths import shown
from repirl.records import index, judged_texts, rows
from repirl.records.bounds import check_integers
from repirl.records.build import (
    Attacked,
    Judgement,
    PoolScaling,
    Searched,
    attacks_from,
    count_outcomes,
    evaluation_from_report,
    judgement_from_report,
    scaling_from_pool,
    search_from_points,
)
from repirl.records.index import RECORD_FILE
from repirl.records.measured import AttackRecord, CurveFile, EvaluationRecord, JudgementRecord, ScalingRecord, SearchRecord
from repirl.records.schema import SCHEMA_VERSION, RunRecord
from repirl.records.upgrade import upgraded
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import AttackedRow, JudgedRow, Report, SampleRow, ScaledRow

CURVE_FILE = "curve.jsonl.gz"
_PENDING = ".tmp-"
_T = TypeVar("_T")


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
            raise UserError("per-sample file disagrees with the counts in its record", shown(path))
        return parts

    def judged(self, judgement: JudgementRecord) -> tuple[JudgedRow, ...]:
        """The solutions of a set as they were judged. Raises UserError if the file is not what the record says."""
        return self._read(judgement.rows_file, judgement.rows_sha256, rows.parse_judged)

    def judged_texts(self, judgement: JudgementRecord) -> dict[str, LabelledSolution]:
        """Id -> solution of a set; none where its texts were not kept. Raises UserError as above."""
        return judged_texts.read(judgement.data_digest, self.folder.parent)

    def scaled(self, scaling: ScalingRecord) -> tuple[ScaledRow, ...]:
        """The pool as the reward scored it. Raises UserError if the file is not what the record says."""
        return self._read(scaling.rows_file, scaling.rows_sha256, rows.parse_scaled)

    def searched(self, search: SearchRecord) -> tuple[ScaledRow, ...]:
        """The solutions that searches ended with. Raises UserError if the file is not what the record says."""
        return self._read(search.rows_file, search.rows_sha256, rows.parse_scaled)

    def attacked(self, attacks: AttackRecord) -> tuple[AttackedRow, ...]:
        """Every attack on every solution. Raises UserError if the file is not what the record says."""
        return self._read(attacks.rows_file, attacks.rows_sha256, rows.parse_attacked)

    def curve(self) -> tuple[dict[str, Any], ...]:
        """Metrics of each step of training, empty where none were kept. Raises UserError as above."""
        curve = self.record.curve
        return () if curve is None else self._read(curve.file, curve.sha256, rows.parse_curve)

    def _read(self, name: str, sha256: str, parse: Callable[[bytes], _T]) -> _T:
        path = self.folder / name
        try:
            return parse(_verified_bytes(path, sha256))
        except rows.MalformedRow as fault:
            raise UserError("malformed row of a record", f"{shown(path)}, {fault}") from fault


def write(
    record: RunRecord,
    reports: Sequence[Report],
    judgements: Sequence[Judgement] = (),
    scalings: Sequence[PoolScaling] = (),
    searches: Sequence[Searched] = (),
    attacks: Sequence[Attacked] = (),
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
        raise UserError("record exists already and is never overwritten", shown(target), "use another run id")
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
        judgement_from_report(one, *add(f"judged-{one.report.name}", rows.encode_rows(one.report.judged.rows)))
        for one in judgements
    ]
    scaled = [scaling_from_pool(one, *add(f"scaled-{one.benchmark}", rows.encode_rows(one.rows))) for one in scalings]
    searched = [
        search_from_points(
            one,
            *add(
                f"searched-{one.benchmark}-{one.protocol['approach']}",
                rows.encode_rows([row for point in one.points for row in point.rows]),
            ),
        )
        for one in searches
    ]
    attacked = [
        attacks_from(one, *add(f"attacked-{one.benchmark}", rows.encode_rows([row for lift in one.lifts for row in lift.rows])))
        for one in attacks
    ]
    filled = record.model_dump(mode="json") | {
        "evaluations": [one.model_dump(mode="json") for one in evaluations],
        "judgements": [one.model_dump(mode="json") for one in judged],
        "scalings": [one.model_dump(mode="json") for one in scaled],
        "searches": [one.model_dump(mode="json") for one in searched],
        "attacks": [one.model_dump(mode="json") for one in attacked],
    }
    if curve is not None:
        files[CURVE_FILE] = rows.encode_curve(curve.read_bytes())
        filled["curve"] = CurveFile(file=CURVE_FILE, sha256=hashlib.sha256(files[CURVE_FILE]).hexdigest()).model_dump()
    # Through JSON, so that every validator runs and what is returned is what a reader would load.
    values = RunRecord.model_validate_json(json.dumps(filled)).model_dump(mode="json")
    values["digest"] = record_digest(values)
    files[RECORD_FILE] = (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
    for one in judgements:
        if one.solutions:
            judged_texts.keep(one.solutions, target.parent)
    _write_folder(target, files)
    return StoredRun(RunRecord.model_validate_json(json.dumps(values)), target)


def record_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 over a record's JSON with all fields but `digest`, keys sorted."""
    return digest_of({name: value for name, value in values.items() if name != "digest"})


def load(folder: Path) -> StoredRun:
    """The record in `folder`, verified. Raises UserError naming the file when anything is off."""
    folder = Path(os.path.abspath(folder))  # not through links: their names count
    with index.reading(folder.parent) as listed:
        return _load(folder, listed)


def _load(folder: Path, listed: Mapping[str, str]) -> StoredRun:
    path = folder / RECORD_FILE
    try:
        data = path.read_bytes()
        record = _parse(data)
    except OSError as fault:
        raise UserError("no readable record", shown(path), fault.strerror or "") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"])) or "record"
        raise UserError("malformed record", shown(path), f"{where}: {first['msg']}") from fault
    except (ValueError, KeyError, TypeError, RecursionError) as fault:
        raise UserError("malformed record", shown(path), str(fault)) from fault
    index.check(folder.name, data, listed, path)
    if (record.suite, record.run_id) != (folder.parent.name, folder.name):
        raise UserError("record lies in another folder than its suite and run id say", shown(path))
    for name, sha256 in record.row_files.items():
        _verified_bytes(folder / name, sha256)
    return StoredRun(record, folder)


def _parse(data: bytes) -> RunRecord:
    """The record, whose digest (not in schema 1) must be that of what it says."""
    raw = json.loads(data, parse_constant=_no_number)
    version = raw["schema_version"]
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"schema {version} is newer than this version of repirl, which knows {SCHEMA_VERSION}: update it")
    check_integers(raw)
    old = version == 1
    if old and (newer := {"digest", "label", "judgements"} & raw.keys()):
        raise ValueError(f"schema 1 has no {', '.join(sorted(newer))}: the record was changed after it was written")
    if not old and raw.get("digest") != record_digest(raw):
        raise ValueError("digest is not that of the record: it was changed after it was written")
    return RunRecord.model_validate_json(json.dumps(upgraded(raw)) if old else data)


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def find(suite: str, *, root: Path | None = None) -> list[StoredRun]:
    """All records of a suite, verified, sorted by run id; empty if there are none."""
    folder = Path(os.path.abspath((root or paths.results_dir()) / suite))
    if not folder.is_dir():
        return []
    with index.reading(folder) as listed:
        runs = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        return [_load(entry, listed) for entry in sorted(runs)]


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
        raise UserError("no readable file of rows", shown(path), fault.strerror or "") from fault
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError("file of rows is not the one its record names (SHA-256 differs)", shown(path))
    return data


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """All files or none: written beside `target`, listed in the suite's index, and renamed into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with index.adding(target.parent) as add:
        for left in target.parent.glob(f"{_PENDING}*"):  # by a process that was killed: the index is ours alone
            shutil.rmtree(left)
        pending = target.parent / f"{_PENDING}{target.name}"
        pending.mkdir()
        try:
            for name, data in files.items():
                with open(pending / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            paths.sync_folder(pending)
            add(target.name, files[RECORD_FILE])
            os.rename(pending, target)
            paths.sync_folder(target.parent)
        except OSError as fault:
            if target.exists():
                raise UserError("record exists already and is never overwritten", shown(target)) from fault
            raise
        finally:
            shutil.rmtree(pending, ignore_errors=True)
