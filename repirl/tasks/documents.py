"""Benchmark rows as lm-eval documents with one set of columns, and documents as problems.

Columns: `id`, `problem` (the bare statement), `answer`, `tests` (JSON, see `hidden_tests.py`), `solution`, `level`, `subject`.
A benchmark card says in its metadata block `repirl: data:` where the rows come from: an embedded family, or files
that lie in a local data folder or at a pinned revision of the hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from repirl.errors import UserError
from repirl.files import is_file
from repirl.tasks.cards import CardMetadata, EmbeddedData, FileData, Grader, Selection, parse_metadata
from repirl.tasks.files import DATA_DIR_VARIABLE, hub_file, read_rows
from repirl.tasks.formats import FORMATS
from repirl.tasks.hidden_tests import decode_tests, encode_tests
from repirl.tasks.training_sets import FAMILIES
from repirl.types import Problem

__all__ = ["check_number", "decode_tests", "encode_tests", "load_documents", "local_files", "problem_of"]

COLUMNS = ("id", "problem", "answer", "tests", "solution", "level", "subject")
# Of a card's data, put into the tests of each problem.
_RULES = ("time_limit_s", "memory_limit_mib", "float_tolerance")


def load_documents(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`custom_dataset` of a task file: {"test": datasets.Dataset} in our columns.

    `metadata` is the task's whole metadata: `repirl` (see `CardMetadata`) and optionally `data_dir`, and what
    `Selection` holds: `release`, `date_from`, `date_to`.
    Raises UserError if the data is missing, malformed, empty, or not of the stated number.
    """
    from datasets import Dataset, Features, Value

    card = parse_metadata(metadata.get("repirl"), "task file")
    if card.data is None:
        raise UserError("a benchmark card without `metadata.repirl.data`", card.title, "say where its rows come from")
    selection = Selection.of(metadata)
    if isinstance(card.data, EmbeddedData):
        rows = _embedded_rows(card.data, card.num_problems)
    else:
        rows = list(_file_rows(card.data, selection, metadata.get("data_dir")))
    check_number(card, len(rows), selection)
    # The tests of a benchmark may exceed 2 GiB, which plain strings of one column may not.
    types = {name: Value("large_string" if name == "tests" else "string") for name in COLUMNS}
    return {"test": Dataset.from_list(rows, features=Features(types | {"level": Value("int64")}))}


def check_number(card: CardMetadata, found: int, selection: Selection | None = None) -> None:
    """UserError unless the benchmark has the number of problems that its card states.

    A date window may hold any number but none.
    """
    if found == 0:
        raise UserError(f"the dataset of {card.title!r} is empty", todo="give the right data folder, revision or dates")
    expected = card.expected_number(selection or Selection())
    if expected is not None and found != expected:
        raise UserError(f"{card.title!r} must have {expected} problems, found", found, "check the data")


def local_files(data: FileData, selection: Selection, data_dir: str | Path | None) -> list[Path] | None:
    """The files in the local data folder (the argument, else $REPIRL_DATA_DIR), or None if one is not there."""
    root = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not root:
        return None
    paths = []
    for name in data.file_names(selection):
        plain = Path(root).expanduser() / data.folder / name
        found = next((path for path in (plain, plain.with_name(plain.name + ".gz")) if is_file(path)), None)
        if found is None:
            return None
        paths.append(found)
    return paths


def _find_files(data: FileData, selection: Selection, data_dir: str | Path | None) -> tuple[list[Path], bool]:
    """The benchmark's files, and whether from the hub (only without a data folder); UserError says how to get them."""
    paths = local_files(data, selection, data_dir)
    if paths is not None:
        return paths, False
    root = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    names = ", ".join(data.file_names(selection))
    if root:
        raise UserError("no such benchmark file in the data folder", f"{root}/{data.folder}/{names}", "check --data-dir")
    if data.hub is None or data.revision is None:
        raise UserError("this benchmark's data is not on the hub", data.folder, "give its folder with --data-dir")
    instead = f"give a folder that holds {data.folder}/{names} with --data-dir or {DATA_DIR_VARIABLE}"
    digests = data.on_hub.sha256
    return [hub_file(data.hub, data.revision, name, instead, digests.get(name)) for name in data.hub_names(selection)], True


def _embedded_rows(data: EmbeddedData, count: int) -> list[dict[str, Any]]:
    family = FAMILIES.get(data.family)
    if family is None:
        raise UserError("unknown embedded family", data.family, f"choose one of {', '.join(FAMILIES)}")
    return [
        {
            "id": problem.id,
            "problem": problem.source,
            "answer": problem.answer or "",
            "tests": encode_tests(problem.tests) if problem.tests else "",
            "solution": family.solution(problem.source, family.OWN_STYLE),
            "level": problem.level,
            "subject": problem.subject or "",
        }
        for problem in family.problems(data.split, count, levels=data.levels or family.LEVELS, seed=data.seed)
    ]


def _file_rows(data: FileData, selection: Selection, data_dir: str | Path | None) -> Iterator[dict[str, Any]]:
    paths, from_hub = _find_files(data, selection, data_dir)
    names, format_name = data.layout(from_hub)
    unknown = sorted(set(names) - set(COLUMNS))
    if unknown:
        raise UserError("unknown column in a benchmark card", unknown[0], f"known are {', '.join(COLUMNS)}")
    if format_name not in FORMATS:
        raise UserError("unknown format in a benchmark card", format_name, f"known are {', '.join(FORMATS)}")
    for where, row in (found for path in paths for found in read_rows(path)):
        try:
            if not data.keeps(row, selection):
                continue
            found = {column: row.get(names.get(column, column)) for column in COLUMNS}
            found |= FORMATS[format_name](row, found)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, SyntaxError) as error:
            raise UserError(f"{where} is not of the format {format_name!r}", f"{type(error).__name__}: {error}") from error
        if not isinstance(found["problem"], str) or not found["problem"].strip():
            raise UserError(f"{where} lacks the text field", names.get("problem", "problem"))
        yield _document(found, data)


def _document(found: Mapping[str, Any], data: FileData) -> dict[str, Any]:
    key = found["id"] if found["id"] is not None else hashlib.sha256(found["problem"].encode()).hexdigest()[:12]
    texts = {name: _text(found[name]) for name in ("answer", "tests", "solution", "subject")}
    rules: dict[str, Any] = {name: getattr(data, name) for name in _RULES if getattr(data, name) is not None}
    if texts["tests"] and rules:
        texts["tests"] = encode_tests(replace(decode_tests(texts["tests"], str(key)), **rules))
    return {"id": str(key), "problem": found["problem"], "level": _level(found["level"]), **texts}


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _level(value: object) -> int | None:
    """5, "5" and "Level 5" are level 5; anything without a number is none."""
    digits = re.search(r"\d+", str(value)) if value is not None else None
    return int(digits[0]) if digits else None


def problem_of(doc: Mapping[str, Any], *, grader: str, family: str = "", prompt: str = "", answer: object = None) -> Problem:
    """The problem behind a document. `answer` (lm-eval's target) stands in where the document has no such column.

    Raises UserError if it has neither answer nor tests, as its grader needs.
    """
    if grader not in get_args(Grader):
        raise UserError("unknown grader", grader, f"choose one of {', '.join(get_args(Grader))}")
    source = str(doc.get("problem") or prompt)
    key = str(doc.get("id") or hashlib.sha256(source.encode()).hexdigest()[:12])
    gold = _text(doc.get("answer") if doc.get("answer") is not None else answer)
    is_code = grader == "code"
    if not (doc.get("tests") if is_code else gold.strip()):
        raise UserError(f"a problem graded by {grader!r} has no {'tests' if is_code else 'answer'}", key)
    return Problem(
        id=key,
        family=family,
        prompt=prompt,
        grader=grader,  # type: ignore[arg-type]  # checked above
        answer=None if is_code else gold,
        tests=decode_tests(doc["tests"], key) if is_code else None,
        level=_level(doc.get("level")),
        subject=str(doc["subject"]) if doc.get("subject") else None,
        source=source,
    )
