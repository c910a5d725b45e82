"""The files beside a record: gzipped JSONL of graded samples, judged solutions, scored pools and the training curve; and those
of labelled solutions.

The same rows give the same bytes (no time stamp, no file name). A column that has a default may be missing: rows written
before it was there are read with it.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from pydantic import TypeAdapter

from repirl.tasks.step_labels import LabelledSolution
from repirl.types import AttackedRow, JudgedRow, SampleRow, ScaledRow


class MalformedRow(ValueError):
    """A line that is no row; the message has its number."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """What a line of one kind of rows must have, and what it may."""

    adapter: TypeAdapter[Any]
    required: frozenset[str]
    known: frozenset[str]

    @classmethod
    def of(cls, kind: type, *more: str) -> _Columns:
        needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
        return cls(TypeAdapter(kind), frozenset({*needed, *more}), frozenset({*(f.name for f in fields(kind)), *more}))


_SAMPLES = _Columns.of(SampleRow, "part")
_JUDGED = _Columns.of(JudgedRow)
_SCALED = _Columns.of(ScaledRow)
_ATTACKED = _Columns.of(AttackedRow)
_SOLUTIONS = _Columns.of(LabelledSolution)


def encode_samples(samples: Mapping[str, Sequence[SampleRow]]) -> bytes:
    """One row a line with its part."""
    return _packed({"part": part} | asdict(row) for part, rows in samples.items() for row in rows)


def encode_rows(rows: Sequence[JudgedRow] | Sequence[ScaledRow] | Sequence[AttackedRow]) -> bytes:
    """One judged solution, one problem with its scored samples, or one attack on a solution, a line."""
    return _packed({name: value for name, value in asdict(row).items() if (name, value) != ("n", None)} for row in rows)


def encode_solutions(solutions: Sequence[LabelledSolution]) -> bytes:
    """One labelled solution a line."""
    return _packed(asdict(one) for one in solutions)


def encode_curve(log: bytes) -> bytes:
    """A log of one JSON object a step, as it is."""
    return _gzipped(log)


def parse_samples(data: bytes) -> dict[str, tuple[SampleRow, ...]]:
    """Part -> rows. Raises MalformedRow."""
    parts: dict[str, list[SampleRow]] = {}
    for number, cells in _lines(data):
        row = _row(_SAMPLES, number, cells)
        parts.setdefault(cells["part"], []).append(row)
    return {part: tuple(rows) for part, rows in parts.items()}


def parse_judged(data: bytes) -> tuple[JudgedRow, ...]:
    """Raises MalformedRow."""
    return tuple(_row(_JUDGED, number, cells) for number, cells in _lines(data))


def parse_scaled(data: bytes) -> tuple[ScaledRow, ...]:
    """Raises MalformedRow."""
    return tuple(_row(_SCALED, number, cells) for number, cells in _lines(data))


def parse_attacked(data: bytes) -> tuple[AttackedRow, ...]:
    """Raises MalformedRow."""
    return tuple(_row(_ATTACKED, number, cells) for number, cells in _lines(data))


def parse_solutions(data: bytes) -> tuple[LabelledSolution, ...]:
    """Raises MalformedRow."""
    return tuple(_row(_SOLUTIONS, number, cells) for number, cells in _lines(data))


def parse_curve(data: bytes) -> tuple[dict[str, Any], ...]:
    """Raises MalformedRow."""
    return tuple(cells for _, cells in _lines(data))


def _row(columns: _Columns, number: int, cells: dict[str, Any]) -> Any:
    if not columns.required <= cells.keys() <= columns.known:
        raise MalformedRow(f"line {number}: columns {', '.join(sorted(cells))}")
    try:
        return columns.adapter.validate_python({name: value for name, value in cells.items() if name != "part"})
    except ValueError as fault:
        raise MalformedRow(f"line {number}") from fault


def _lines(data: bytes) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        text = gzip.decompress(data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as fault:
        raise MalformedRow("no gzipped text") from fault
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as fault:
            raise MalformedRow(f"line {number}") from fault
        if not isinstance(cells, dict):
            raise MalformedRow(f"line {number}")
        yield number, cells


def _packed(rows: Iterable[dict[str, Any]]) -> bytes:
    return _gzipped(b"".join((json.dumps(row) + "\n").encode() for row in rows))


def _gzipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as packed:
        packed.write(data)
    return buffer.getvalue()
