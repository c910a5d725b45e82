"""The solutions of a step-labelled set whose scores are in a suite's records: `results/<suite>/judged-<digest>.jsonl.gz`.

Kept of sets that are sampled here; those of others are their owners' to publish. The digest is the one that records name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repirl.errors import UserError
from repirl.paths import replace_file, shown
from repirl.records import rows
from repirl.tasks.step_labels import LabelledSolution, solutions_digest


def keep(solutions: Sequence[LabelledSolution], suite: Path) -> None:
    """Writes them into the suite's folder of records, where they are not there yet."""
    path = _file(solutions_digest(solutions), suite)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: file.write(rows.encode_solutions(solutions)))


def read(digest: str, suite: Path) -> dict[str, LabelledSolution]:
    """Id -> solution; none where they were not kept. Raises UserError for a file that is not what its name says."""
    path = _file(digest, suite)
    if not path.exists():
        return {}
    try:
        found = rows.parse_solutions(path.read_bytes())
    except rows.MalformedRow as fault:
        raise UserError("malformed row of a judged set", f"{shown(path)}, {fault}") from fault
    if solutions_digest(found) != digest:
        raise UserError("the file is not the judged set that records name (its digest differs)", shown(path))
    return {one.id: one for one in found}


def _file(digest: str, suite: Path) -> Path:
    return suite / f"judged-{digest[:16]}.jsonl.gz"
