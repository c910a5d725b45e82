"""Text, JSON lines and TOML that others wrote: what is wrong with a file is said in one line, which names the file's own."""

from __future__ import annotations

import gzip
import json
import os
import re
import tomllib
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from repirl.errors import UserError

MAX_DEPTH = 100
"""Objects and arrays within each other: what walks through a row must not run out of stack."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")


def read_objects(path: Path, *, half_pairs: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line number, object) of a UTF-8 .jsonl or .jsonl.gz file; blank lines are skipped.

    Raises UserError for a file that cannot be read, and, with its line, for what is no JSON object, is nested deeper than
    `MAX_DEPTH`, or holds half a surrogate pair (no tokenizer takes such a text), unless `half_pairs`.
    """
    for number, text in enumerate(read_lines(path), start=1):
        if text.strip():
            row = parse(text, where := f"line {number} of {path.name}", half_pairs=half_pairs)
            if not isinstance(row, dict):
                raise UserError(f"{where} is not a JSON object", _start(text))
            yield number, row


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, plain or gzipped, as they come; UserError if it cannot be read."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
            for line in file:
                number += 1
                yield line
    except FileNotFoundError:
        raise UserError("no such file", str(path)) from None
    except UnicodeDecodeError:
        raise UserError(f"{path.name} is not UTF-8 text, after line {number}", str(path)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read the file, after line {number}", str(path), str(error)) from None


def parse(text: str, where: str, *, half_pairs: bool = False) -> Any:
    """The JSON value of `text`, UserError as in `read_objects`; `where` names it in messages."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg})", _start(text)) from None
    except ValueError:
        raise UserError(f"{where} is not JSON (a number is too long)", _start(text)) from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply", _start(text)) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and any(
        isinstance(one, dict | list) for one in next(islice(levels(value), MAX_DEPTH, None), ())
    ):
        raise UserError(f"{where} is nested too deeply", _start(text))
    if not half_pairs and re.search(r"\\u[dD][89a-fA-F]", text):
        check_pairs(value, where)
    return value


def check_pairs(value: Any, where: str) -> None:
    """UserError, with the field, where a text in a JSON value holds half a surrogate pair."""
    fields = value.items() if isinstance(value, dict) else [("row", value)]
    for name, inner in fields:
        if _HALF_PAIR.search(json.dumps([name, inner], ensure_ascii=False)):
            raise UserError(f"{where} holds half a surrogate pair, which is no text", name, "take it out of the field")


def is_file(path: Path | str) -> bool:
    """Whether there is such a file; False too for what cannot be the name of one (too long, with a NUL)."""
    return os.path.isfile(path)


def is_folder(path: Path | str) -> bool:
    """The same of folders."""
    return os.path.isdir(path)


def read_toml(path: Path) -> dict[str, Any]:
    """UserError for a file that cannot be read or is not TOML."""
    try:
        return tomllib.loads("".join(read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not TOML", str(path), str(error)) from error


def levels(value: Any) -> Iterator[list[Any]]:
    """What is in a value of objects and arrays, depth by depth, itself first; without end where a value holds itself."""
    level = [value]
    while level:
        yield level
        containers = [one for one in level if isinstance(one, dict | list)]
        level = [inner for one in containers for inner in (one.values() if isinstance(one, dict) else one)]


def _start(text: str) -> str:
    return text.strip()[:60]
