"""`leaderboard/index.html`: verdicts, rows, records and samples as one static file that asks for nothing outside of it.

The same records give the same bytes. What models wrote is data in the file, never markup: every `<` of it is escaped, and the
page puts it in as text. Samples are gzipped, one block a run, and unpacked in the browser when a run is opened.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from repirl import paths
from repirl.records.store import StoredRun
from repirl.reporting.board import Board, Cell, Column, Row
from repirl.reporting.collect import budget_fields
from repirl.reporting.figures import KINDS
from repirl.reporting.page_samples import ProblemSets, contents, judged_texts
from repirl.reporting.published import load_published
from repirl.reporting.text import column_labels, evidence, finding, table_name
from repirl.stats import PairedDifference
from repirl.types import Interval

PAGE = "index.html"
PROBLEMS_SHOWN = 24
"""Of how many problems of each benchmark a run's completions are in the file."""
_PARTS = paths.ASSETS_DIR / "page"
_SCRIPTS = ("base.js", "table.js", "record.js", "compare.js", "start.js")


def render(
    boards: Sequence[Board],
    folder: Path,
    pictures: Mapping[str, str],
    include: Sequence[str | Path] = (),
    problems: int | None = PROBLEMS_SHOWN,
) -> str:
    """The page, to be written into `folder`: links to records are relative to it.

    `pictures`: the SVG of each of the suites' files. `problems`: completions of so many problems of each benchmark, evenly
    chosen over levels, the same ones for all runs; None: of all. Verdicts are there of all. Raises UserError where a file of
    rows is not what its record says.
    """
    runs = {_key(run): run for board in boards for row in board.rows for run in row.runs}
    sets = ProblemSets(runs.values(), problems, include)
    judged = {one.data_digest: (run, one) for run in runs.values() for one in run.record.judgements}
    texts = {digest: judged_texts(run, one, problems) for digest, (run, one) in judged.items()}
    blocks = {f"texts/{digest}": _packed(found) for digest, found in texts.items() if found}
    described = {}
    for key, run in runs.items():
        blocks[f"run/{key}"] = _packed(contents(run, sets))
        described[key] = _run(run, folder, sets)
    blocks |= {f"set/{i}": _packed(one) for i, one in enumerate(sets.described())}
    blocks |= {f"figure/{name}": _packed(svg) for name, svg in pictures.items()}
    data = {
        "suites": [_suite(board, list(pictures)) for board in sorted(boards, key=_weight)],
        "counters": budget_fields(),
        "protocols": {digest: _words(said) for board in boards for digest, said in board.protocols.items()},
        "rows": [_row(board, row) for board in boards for row in board.rows],
        "runs": described,
        "sets": [{"benchmark": one.benchmark, "problems": len(one.levels), "shown": len(one.shown)} for one in sets.all],
        "published": load_published().model_dump(mode="json"),
    }
    return _filled(_json(data), blocks)


def _filled(data: str, blocks: Mapping[str, str]) -> str:
    """The template with its parts. The policy lets nothing be loaded, and only this script run."""
    style = (_PARTS / "page.css").read_text(encoding="utf-8")
    script = "\n".join((_PARTS / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    packed = "\n".join(f'<script type="text/plain" id="{escape(name)}">{block}</script>' for name, block in blocks.items())
    page = (_PARTS / "page.html").read_text(encoding="utf-8")
    told = {"style hash": _source_hash(style), "script hash": _source_hash(script)}
    told |= {"style": style, "script": script, "data": data, "blocks": packed}
    head, *rest = page.split("{{")
    parts = [head]
    for piece in rest:
        name, _, after = piece.partition("}}")
        parts += [told[name], after]
    return "".join(parts)


def _source_hash(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON that is also fit to stand in a script element: no `<` in it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _packed(value: Any) -> str:
    """Gzipped JSON in base64; the same value gives the same text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()


def _key(run: StoredRun) -> str:
    return f"{run.record.suite}/{run.record.run_id}"


def _weight(board: Board) -> tuple[int, str]:
    """Suites whose findings rest on most seeds come first."""
    return -max((one.result.seeds for one in board.differences), default=0), board.suite


def _suite(board: Board, pictures: Sequence[str]) -> dict[str, Any]:
    labels = column_labels(board.columns)
    several = len(board.stages) > 1
    main = {stage: board.primary_of(stage) for stage in board.stages}
    leading = next((one.column for one in board.differences if one.column in main[one.stage]), None)
    return {
        "name": board.suite,
        "title": board.title,
        "baseline": board.baseline,
        "verdicts": [
            {
                "finding": finding(one).replace("`", ""),
                "evidence": evidence(one, labels, stage=several),
                "sign": one.sign,
                "main": one.column in main[one.stage],
            }
            for one in board.differences
        ],
        "figures": [
            {"file": name, "name": _figure_name(kind, name.removeprefix(f"{board.suite}-{kind}").removesuffix(".svg"))}
            for name in pictures
            for kind in KINDS
            if name.startswith(f"{board.suite}-{kind}")
        ],
        "columns": [_column(column, labels[column]) for column in board.columns],
        "main": {stage: [board.columns.index(column) for column in columns] for stage, columns in main.items()},
        "leading": None if leading is None else board.columns.index(leading),
    }


def _figure_name(kind: str, stage: str) -> str:
    """`learning, trained on arith`; a suite of one stage does not say it."""
    shown = kind.replace("-", " ").replace("forest", "forest plot")
    return f"{shown}, trained on {stage.removeprefix('-').replace('-', ' ')}" if stage else shown


def _column(column: Column, label: str) -> dict[str, Any]:
    return {
        "label": label,
        "benchmark": table_name(column),
        "metric": column.metric,
        "kind": column.kind,
        "card": column.card_digest,
        "data": column.data_digest,
        "protocol": column.protocol_digest,
    }


def _row(board: Board, row: Row) -> dict[str, Any]:
    found = row.checkpoints
    accuracies = () if found is None else (found.accuracy_at_start, found.accuracy_at_chosen, found.accuracy_at_last)
    return {
        "suite": board.suite,
        "stage": row.stage,
        "name": row.name.replace("`", ""),
        "kind": row.kind,
        "method": row.method,
        "recipe": row.recipe,
        "base_policy": row.base.replace("`", ""),
        "base_digest": row.base_digest,
        "config_digest": row.config_digest,
        "runtime": row.runtime,
        "seeds": row.seeds,
        "runs": [_key(run) for run in row.runs],
        "chosen": None if found is None else found.chosen,
        "kept_the_start": found is not None and found.kept_the_start,
        "accuracies": [_rounded(value) for value in accuracies],
        "cost": {part: _cost(spent) for part, spent in _costs(row)},
        "cells": {i: _cell(row.cells[column]) for i, column in enumerate(board.columns) if column in row.cells},
    }


def _costs(row: Row) -> Iterator[tuple[str, Mapping[str, float] | None]]:
    yield "training", row.cost.training
    yield "validation", row.cost.validation
    yield "earlier stages", row.cost.parents


def _cost(spent: Mapping[str, float] | None) -> list[float] | None:
    return None if spent is None else [round(spent[name], 1) for name in budget_fields()]


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "interval": _interval(cell.interval),
        "seeds": cell.seeds,
        "rank": None if cell.rank is None else [cell.rank.place, cell.rank.last, cell.rank.of],
        "gap": _difference(cell.versus_baseline),
        "ungraded": cell.ungraded,
        "total": cell.total,
    }


def _difference(result: PairedDifference | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {"interval": _interval(result.interval), "p": _rounded(result.p_value), "seeds": result.seeds}


def _interval(interval: Interval) -> list[float | None]:
    return [_rounded(value) for value in (interval.value, interval.low, interval.high)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6) + 0.0


def _run(run: StoredRun, folder: Path, sets: ProblemSets) -> dict[str, Any]:
    """What the page says of a record: where it is, how it was made, its numbers and digests."""
    record = run.record
    return {
        "suite": record.suite,
        "id": record.run_id,
        "label": record.label,
        "stage": record.stage,
        "seed": record.seed,
        "file": paths.link(run.file, folder),
        "created": record.created_utc.strftime("%Y-%m-%d %H:%M UTC"),
        "command": record.command,
        "commit": record.commit,
        "dirty": record.dirty,
        "hardware": f"{record.hardware.gpu or record.hardware.cpu}, {record.hardware.cores} cores",
        "versions": ", ".join(f"{name} {version}" for name, version in [("Python", record.python), *record.packages.items()]),
        "digests": {
            "record": record.digest,
            "configuration": record.config_digest,
            "base policy": record.base_policy.digest,
            "policy": record.policy_digest,
            "reward": record.reward_digest,
        },
        "evaluations": [
            {
                "benchmark": one.benchmark,
                "set": sets.index(one),
                "sampling": _words(one.protocol),
                "metrics": {name: _interval(value) for name, value in one.metrics.items()},
                "counts": {part: counts.model_dump() for part, counts in one.counts.items()},
                "file": paths.link(run.folder / one.samples_file, folder),
                "digests": {"card": one.card_digest, "data": one.data_digest, "samples": one.samples_sha256},
            }
            for one in record.evaluations
        ],
        "scored": [
            _scored(run, one, folder, "judge", f"judge {one.set}", {one.metric: one.headline}) for one in record.judgements
        ]
        + [_scored(run, one, folder, "scale", f"scale {one.benchmark}", {}) for one in record.scalings]
        + [
            _scored(
                run,
                one,
                folder,
                "search",
                f"{one.protocol['approach']} {one.benchmark}",
                {f"n={n}": point.accuracy["best"] for n, point in one.points.items()},
            )
            for one in record.searches
        ],
        "attacked": [
            _scored(run, one, folder, "attack", f"attack {one.benchmark}", {name: of.lift for name, of in one.lifts.items()})
            for one in record.attacks
        ],
    }


def _scored(
    run: StoredRun, one: Any, folder: Path, kind: str, title: str, metrics: Mapping[str, Interval | None]
) -> dict[str, Any]:
    """What a reward was measured by: numbers, and the file that they follow from."""
    return {
        "kind": kind,
        "title": title,
        "metrics": {name: _interval(value) for name, value in metrics.items() if value is not None},
        "file": paths.link(run.folder / one.rows_file, folder),
        "digests": {"data": one.data_digest, "rows": one.rows_sha256},
    }


def _words(protocol: Mapping[str, Any]) -> str:
    """`samples 8, temperature 1.0, greedy`: what is set, in words."""
    said = {name.replace("_", " "): value for name, value in protocol.items() if value not in (None, False, "", [], {})}
    return ", ".join(name if value is True else f"{name} {value}" for name, value in said.items())
