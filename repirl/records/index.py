"""The index of a suite's records: the SHA-256 of each record file, in `results/<suite>/SHA256SUMS`, committed beside them.

A record that was changed, added or taken away by hand no longer agrees with it. Whoever changes both leaves that in
git's history: records are tamper-evident, not tamper-proof. `sha256sum -c SHA256SUMS` reads the file too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from repirl.errors import UserError
from repirl.paths import shown

INDEX_FILE = "SHA256SUMS"
RECORD_FILE = "record.json"
ACCEPT = "`repirl leaderboard --accept` takes the records as they are (git shows what that changes)"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/]+)/record\.json")


@dataclass(frozen=True, slots=True)
class Changes:
    """Run ids by what accepting the records did to the index."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


@contextmanager
def reading(suite_folder: Path) -> Iterator[dict[str, str]]:
    """Run id -> SHA-256 of its record, empty without an index; no record of the suite is added meanwhile.

    Raises UserError on a line that is none of an index.
    """
    path = suite_folder / INDEX_FILE
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        yield {}
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield _entries(file.read(), path)


@contextmanager
def adding(suite_folder: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Hold the index; yields `add(run_id, record)`, which lists one. If what is done meanwhile fails, nothing was listed.

    Listed first and put into place then, a record whose process is killed in between is known to be missing.
    """
    with (suite_folder / INDEX_FILE).open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        try:
            yield lambda run_id, record: _write(file, _line(run_id, _sha256(record)))
        except BaseException:
            file.truncate(size)
            raise


def check(run_id: str, record: bytes, listed: Mapping[str, str], path: Path) -> None:
    """Raises UserError unless the record is the one that the index lists."""
    if run_id not in listed:
        raise UserError(f"record is not listed in its suite's {INDEX_FILE}", shown(path), ACCEPT)
    if listed[run_id] != _sha256(record):
        raise UserError(f"record was changed after it was listed in {INDEX_FILE}", shown(path), f"restore it, or {ACCEPT}")


def check_complete(suite_folder: Path) -> None:
    """Raises UserError if a listed record is not there: a table without it would choose among the runs."""
    with reading(suite_folder) as listed:
        gone = [run_id for run_id in listed if not (suite_folder / run_id / RECORD_FILE).is_file()]
    if gone:
        missing = shown(suite_folder / gone[0])
        raise UserError(f"a record listed in {INDEX_FILE} is not there", missing, f"restore it, or {ACCEPT}")


def accept(suite_folder: Path) -> Changes:
    """Make the index anew from the records that are there."""
    found = {path.parent.name: _sha256(path.read_bytes()) for path in sorted(suite_folder.glob(f"*/{RECORD_FILE}"))}
    with (suite_folder / INDEX_FILE).open("a+", encoding="utf-8", errors="replace") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        before = {match[2]: match[1] for match in map(_LINE.fullmatch, file.read().splitlines()) if match}
        file.truncate(0)
        _write(file, "".join(_line(run_id, digest) for run_id, digest in found.items()))
    both = found.keys() & before.keys()
    return Changes(
        added=tuple(sorted(found.keys() - before.keys())),
        changed=tuple(sorted(run_id for run_id in both if found[run_id] != before[run_id])),
        gone=tuple(sorted(before.keys() - found.keys())),
    )


def _entries(text: str, path: Path) -> dict[str, str]:
    entries = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError("malformed line of an index of records", f"{shown(path)}:{number}", ACCEPT)
        entries[match[2]] = match[1]
    return entries


def _line(run_id: str, digest: str) -> str:
    return f"{digest}  {run_id}/{RECORD_FILE}\n"


def _write(file: IO[str], text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
