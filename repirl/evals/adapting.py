"""Test-time training measured: the same problems before and after, those adapted to and others (`repirl adapt`).

The answers stay with this process. What trains is another one, which is given a file of problems alone, is started without the
variable that names the folder of benchmark data, and refuses to open that folder and what this process wrote of verdicts
(docs/design.md rule 9). A benchmark of the hub leaves its files in the hub's cache, which is not refused: models lie there too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from repirl.errors import NumericalFault, UserError
from repirl.evals.metrics import part_of, problem_values
from repirl.paths import replace_file
from repirl.processes import UNREADABLE
from repirl.stats import PairedDifference, clustered_interval, paired_difference
from repirl.tasks.files import DATA_DIR_VARIABLE
from repirl.types import Interval, Problem, Report

EVALUATIONS = ("before", "after")
"""Folders of samples and verdicts."""


@dataclass(frozen=True, slots=True)
class Change:
    """A metric on some problems before and after, and the difference, paired by problem."""

    before: Interval
    after: Interval
    difference: PairedDifference


@dataclass(frozen=True, slots=True)
class Transitions:
    """Problems by whether the greedy answer was right before and is right after."""

    learned: int
    kept: int
    corrupted: int
    never: int


@dataclass(frozen=True, slots=True)
class Adapted:
    """What training did to some problems. `answers`: mean number of different answers among a problem's samples."""

    problems: int
    changes: Mapping[str, Change]
    transitions: Transitions
    answers_before: float
    answers_after: float


def write_problems(path: Path, problems: Sequence[Problem], *, with_answers: bool = False) -> None:
    """One problem a line: id and text; `with_answers` for the control that is told them. UserError where that has none."""
    rows = []
    for problem in problems:
        row = {"id": problem.id, "problem": problem.prompt}
        if with_answers:
            if problem.answer is None:
                raise UserError("the control that is told the answers needs problems with answers", problem.id)
            row["answer"] = problem.answer
        rows.append(json.dumps(row) + "\n")
    replace_file(path, lambda file: file.write("".join(rows).encode()))


def answers_at(folder: Path, data_dir: Path | None) -> list[Path]:
    """Where answers, or verdicts on them, may lie: in benchmark data, and in the evaluations in `folder`.

    UserError if the folder lies in the data: what is refused could not be trained in either.
    """
    named = os.environ.get(DATA_DIR_VARIABLE)
    places = [path.expanduser() for path in (data_dir, Path(named) if named else None) if path is not None]
    for place in places:
        if folder.resolve().is_relative_to(place.resolve()):
            raise UserError(
                "the run lies in the benchmark data, which training must not read", str(folder), "give another --out"
            )
    return [*places, *(folder / name for name in EVALUATIONS)]


def train_apart(arguments: Sequence[str], unreadable: Sequence[Path]) -> None:
    """`repirl train ARGUMENTS` in a process that cannot open anything under the `unreadable` paths; its progress is on stderr.

    Raises what the exit code says: UserError for 2, KeyboardInterrupt for 130, a fault else.
    """
    environment = {name: value for name, value in os.environ.items() if name != DATA_DIR_VARIABLE}
    environment[UNREADABLE] = os.pathsep.join(str(path.resolve()) for path in unreadable)
    command = [sys.executable, "-m", "repirl", "train", *arguments]
    said = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                sys.stderr.write(said)
                said = line  # the last line is an error's, which is raised and not said here
        except BaseException:
            child.terminate()  # else leaving the block would wait for its end
            raise
    said = said.strip()
    if child.returncode == 0:
        return
    if child.returncode == 2:
        raise UserError(said.removeprefix("error: "))
    if child.returncode == 130:
        raise KeyboardInterrupt
    what = f"training ended with code {child.returncode}: {said}"
    raise NumericalFault(what, "the same command goes on from its checkpoint")


def adapted(before: Report, after: Report, problems: Sequence[Problem]) -> Adapted:
    """Both reports are of the same protocol, and of these problems among others."""
    ids = [problem.id for problem in problems]
    changes = {}
    for metric in before.metrics:
        old, new = (_values(report, metric) for report in (before, after))
        a, b = [new[i] for i in ids], [old[i] for i in ids]
        changes[metric] = Change(clustered_interval(b), clustered_interval(a), paired_difference(a, b))
    was, now = (_values(report, "greedy") for report in (before, after))
    pairs = [(was[i] == 1.0, now[i] == 1.0) for i in ids]
    transitions = Transitions(
        learned=pairs.count((False, True)),
        kept=pairs.count((True, True)),
        corrupted=pairs.count((True, False)),
        never=pairs.count((False, False)),
    )
    return Adapted(len(ids), changes, transitions, _answers(before, set(ids)), _answers(after, set(ids)))


def _values(report: Report, metric: str) -> dict[str, float]:
    part = part_of(metric, report.samples)
    assert part is not None, "a metric of a report has a part"
    return problem_values(metric, report.samples[part])


def _answers(report: Report, ids: set[str]) -> float:
    found: dict[str, set[str | None]] = {}
    for row in report.samples["sampled"]:
        if row.problem_id in ids:
            found.setdefault(row.problem_id, set()).add(row.extracted)
    return sum(map(len, found.values())) / len(found)
