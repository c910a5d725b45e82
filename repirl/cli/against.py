"""What `--against RUN` names: samples kept by `repirl eval --out`, or a run record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repirl.evals.compare import OtherRun
    from repirl.evals.protocol import EvalProtocol
    from repirl.records.store import StoredRun
    from repirl.tasks.benchmarks import Benchmark


def open_other(run: str, benchmark: Benchmark, protocol: EvalProtocol) -> OtherRun:
    """The evaluation of `benchmark` in RUN, which can be compared with one under `protocol`.

    RUN is, in this order: a folder or file on disk (one that `--out` filled; a record or its folder), else
    `SUITE/RUN_ID` or a bare RUN_ID among the records. Raises UserError if there is no such run, it has not
    evaluated the benchmark, or differs in what must be the same.
    """
    from repirl.errors import UserError
    from repirl.evals.compare import check_comparable, obstacle, other_from_file
    from repirl.records.store import RECORD_FILE, load
    from repirl.rollouts.pool import samples_file

    path = Path(run)
    kept = samples_file(path, benchmark.name)
    if path.is_dir() and not (path / RECORD_FILE).is_file():
        if not kept.is_file():
            raise UserError(f"no record and no samples of {benchmark.name} in the folder", run, f"expected {kept.name}")
        candidates = [_as_extracted(other_from_file(run, kept), benchmark, protocol)]
    elif path.is_file() and path.name != RECORD_FILE:
        candidates = [_as_extracted(other_from_file(run, path), benchmark, protocol)]
    else:
        folder = path if path.is_dir() else path.parent if path.is_file() else _record_folder(run)
        candidates = _evaluations(run, load(folder), benchmark.name)
        if not candidates:
            raise UserError(f"the run has not evaluated {benchmark.name}", run)
    found = next((one for one in candidates if obstacle(one, benchmark, protocol) is None), candidates[0])
    check_comparable(found, benchmark, protocol)
    return found


def _as_extracted(other: OtherRun, benchmark: Benchmark, protocol: EvalProtocol) -> OtherRun:
    """Kept samples are strictly graded; as the protocol grades them."""
    from repirl.evals.compare import problems_of
    from repirl.evals.extraction import flexibly_graded

    if protocol.extraction == "strict" or not problems_of(other) <= {problem.id for problem in benchmark.problems}:
        return other
    samples = flexibly_graded(benchmark.problems, other.samples)
    return replace(other, samples=samples, sampling={**other.sampling, "extraction": protocol.extraction})


def _evaluations(run: str, stored: StoredRun, benchmark: str) -> list[OtherRun]:
    from repirl.evals.compare import OtherRun

    return [
        OtherRun(
            name=run,
            card_digest=evaluation.card_digest,
            data_digest=evaluation.data_digest,
            sampling=evaluation.protocol,
            samples=stored.samples(evaluation),
        )
        for evaluation in stored.record.evaluations
        if evaluation.benchmark == benchmark
    ]


def _record_folder(run: str) -> Path:
    from repirl.errors import UserError
    from repirl.paths import results_dir
    from repirl.records.store import RECORD_FILE, suites_with_records

    suite, _, run_id = run.rpartition("/")
    suites = [suite] if suite else suites_with_records()
    found = [results_dir() / name / run_id for name in suites]
    found = [folder for folder in found if run_id and (folder / RECORD_FILE).is_file()]
    if not found:
        raise UserError("no such run", run, "name a folder that --out filled, SUITE/RUN_ID or a record's folder")
    if len(found) > 1:
        raise UserError("several suites have a run of that id", run, f"use {found[0].parent.name}/{run_id}")
    return found[0]
