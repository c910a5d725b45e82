"""Benchmark rows as lm-eval documents with one set of columns, and documents as problems.

Columns: `id`, `problem` (the bare statement), `answer`, `tests` (JSON, see `encode_tests`), `solution`, `level`, `subject`.
A benchmark card says in its metadata block `repirl: data:` where the rows come from: an embedded family, or a file
that lies in a local data folder or at a pinned revision of the hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, ValidationError

from repirl.config import Config
from repirl.errors import UserError
from repirl.tasks.training_sets import FAMILIES, read_jsonl
from repirl.types import Case, CodeTests, Problem

DATA_DIR_VARIABLE = "REPIRL_DATA_DIR"
GRADERS = ("integer", "math", "code")
COLUMNS = ("id", "problem", "answer", "tests", "solution", "level", "subject")

Grader = Literal["math", "integer", "code"]


class EmbeddedData(Config):
    """Problems made on the spot by one of the embedded families."""

    family: str
    split: str = "test"
    seed: int = 0


class FileData(Config):
    """Rows of a JSONL file, at `hub` (a dataset id) or in a local data folder under `folder`."""

    file: str
    folder: str
    hub: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Full commit of the hub's repository: a branch name would let the data change under the same card."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column -> the file's; those left out are called the same."""


def _kind_of_data(block: object) -> str:
    """Decides by the key `family`, so that an error names the key that is wrong and not every kind of data."""
    return "embedded" if isinstance(block, EmbeddedData) or (isinstance(block, Mapping) and "family" in block) else "file"


class CardMetadata(Config):
    """The block `metadata: repirl:` of a task file. `data` is absent if the task file loads its data itself."""

    title: str
    source: str
    licence: str
    grader: Grader
    num_problems: int = Field(ge=1)
    family: str | None = None
    """Family of the problems, by default the task's name."""
    data: (
        Annotated[Annotated[EmbeddedData, Tag("embedded")] | Annotated[FileData, Tag("file")], Discriminator(_kind_of_data)]
        | None
    ) = None


def parse_metadata(block: object, where: str) -> CardMetadata:
    """The validated block; UserError names the card and the first wrong key."""
    if not isinstance(block, Mapping):
        raise UserError("a benchmark card needs a block `metadata: repirl:`", where, "see benchmarks/arith.yaml")
    try:
        return CardMetadata.model_validate(dict(block))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"bad entry metadata.repirl.{key} of a card ({first['msg']})", where) from None


def load_documents(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`custom_dataset` of a task file: {"test": datasets.Dataset} in our columns.

    `metadata` is the task's whole metadata: `repirl` (see `CardMetadata`) and optionally `data_dir`.
    Raises UserError if the data is missing, malformed, empty, or not of the stated number.
    """
    from datasets import Dataset

    card = parse_metadata(metadata.get("repirl"), "task file")
    if card.data is None:
        raise UserError("a benchmark card without `metadata.repirl.data`", card.title, "say where its rows come from")
    if isinstance(card.data, EmbeddedData):
        rows = _embedded_rows(card.data, card.num_problems)
    else:
        rows = _file_rows(card.data, find_file(card.data, metadata.get("data_dir")))
    check_number(card, len(rows))
    return {"test": Dataset.from_list(rows)}


def check_number(card: CardMetadata, found: int) -> None:
    """UserError unless the benchmark has the number of problems that its card states."""
    if found == 0:
        raise UserError(f"the dataset of {card.title!r} is empty", todo="give the right data folder or revision")
    if found != card.num_problems:
        raise UserError(f"{card.title!r} must have {card.num_problems} problems, found", found, "check the data")


def local_file(data: FileData, data_dir: str | Path | None) -> Path | None:
    """The file in the local data folder (the argument, else $REPIRL_DATA_DIR), or None if it is not there."""
    root = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not root:
        return None
    plain = Path(root).expanduser() / data.folder / data.file
    return next((path for path in (plain, plain.with_name(plain.name + ".gz")) if path.is_file()), None)


def find_file(data: FileData, data_dir: str | Path | None) -> Path:
    """The benchmark's file: local if a data folder is given, else from the hub; UserError says how to get it."""
    path = local_file(data, data_dir)
    if path is not None:
        return path
    root = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if root:
        raise UserError("no such benchmark file in the data folder", f"{root}/{data.folder}/{data.file}", "check --data-dir")
    if data.hub is None or data.revision is None:
        raise UserError("this benchmark's data is not on the hub", data.folder, "give its folder with --data-dir")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # each of its retries would be a warning
    try:
        return Path(hf_hub_download(data.hub, data.file, repo_type="dataset", revision=data.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"the hub does not give {data.hub} at {data.revision[:12]} ({type(error).__name__})",
            todo=f"give a folder that holds {data.folder}/{data.file} with --data-dir or {DATA_DIR_VARIABLE}",
        ) from error
    finally:
        logging.set_verbosity(verbosity)


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
        for problem in family.problems(data.split, count, seed=data.seed)
    ]


def _file_rows(data: FileData, path: Path) -> list[dict[str, Any]]:
    unknown = sorted(set(data.columns) - set(COLUMNS))
    if unknown:
        raise UserError("unknown column in a benchmark card", unknown[0], f"known are {', '.join(COLUMNS)}")
    rows = []
    for number, row in read_jsonl(path):
        found = {column: row.get(data.columns.get(column, column)) for column in COLUMNS}
        where = f"line {number} of {path.name}"
        if not isinstance(found["problem"], str) or not found["problem"].strip():
            raise UserError(f"{where} lacks the text field", data.columns.get("problem", "problem"))
        key = found["id"] if found["id"] is not None else hashlib.sha256(found["problem"].encode()).hexdigest()[:12]
        texts = {name: _text(found[name]) for name in ("answer", "tests", "solution", "subject")}
        rows.append({"id": str(key), "problem": found["problem"], "level": _level(found["level"]), **texts})
    return rows


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
        raise UserError("unknown grader", grader, f"choose one of {', '.join(GRADERS)}")
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


def encode_tests(tests: CodeTests) -> str:
    """Hidden tests as text, in the format that `repirl grade code` reads as well."""
    cases: list[dict[str, Any]] = []
    for case in tests.cases:
        if tests.kind == "stdio":
            cases.append({"stdin": case.stdin, "stdout": case.stdout})
        else:
            cases.append({"args": list(case.args), "expected": case.expected})
    values: dict[str, Any] = {"kind": tests.kind}
    values |= {"entry_point": tests.entry_point} if tests.entry_point else {}
    values |= {"cases": cases} if cases else {}
    values |= {"code": tests.code} if tests.code else {}
    return json.dumps(values)


def decode_tests(text: str | Mapping[str, Any], where: str) -> CodeTests:
    """The inverse of `encode_tests`; also takes the parsed object. UserError with `where` if it is malformed."""
    try:
        values = json.loads(text) if isinstance(text, str) else dict(text)
        kind = values["kind"]
        if kind not in ("functional", "stdio", "asserts"):
            raise UserError(f"unknown kind of tests of {where}", kind, "use functional, stdio or asserts")
        cases = [
            Case(stdin=case["stdin"], stdout=case["stdout"])
            if kind == "stdio"
            else Case(args=tuple(case["args"]), expected=case["expected"])
            for case in values.get("cases", ())
        ]
        return CodeTests(kind, values.get("entry_point", ""), tuple(cases), values.get("code", ""))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"malformed tests of {where}", f"{type(error).__name__}: {error}") from error
