"""Test-time training measured: the same problems before and after, those adapted to and others (`repirl adapt`).

The answers stay with this process. What trains is another one, which is given a file of problems alone, is started without the
variable that names the folder of benchmark data, and refuses to open that folder and what this process wrote of verdicts
(docs/design.md rule 9). A benchmark of the hub leaves its files in the hub's cache, which is not refused: models lie there too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repirl.errors import NumericalFault, UserError
from repirl.evals.metrics import part_of, problem_values
from repirl.evals.policy import benchmark_grader
from repirl.learn.watching import AnswerLog
from repirl.paths import replace_file
from repirl.processes import PARENT, UNREADABLE
from repirl.stats import PairedDifference, clustered_interval, paired_difference
from repirl.tasks.benchmarks import Benchmark
from repirl.tasks.files import DATA_DIR_VARIABLE
from repirl.types import AnswersGiven, Interval, Problem, Report

OnProgress = Callable[[int, int], None]
PROBLEMS_FILE = "problems.jsonl"


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


def write_problems(path: Path, problems: Sequence[Problem], answers: AnswersGiven = "none") -> None:
    """One problem a line: id and text, and what is told of its answer. UserError where a control needs answers that are not
    there."""
    told = {} if answers == "none" else _told(problems, wrong=answers == "wrong")
    rows = [
        {"id": problem.id, "problem": problem.prompt} | ({"answer": told[problem.id]} if told else {}) for problem in problems
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    replace_file(path, lambda file: file.write(text.encode()))


def _told(problems: Sequence[Problem], *, wrong: bool) -> dict[str, str]:
    """The answers; `wrong`: of each problem that of the next one whose answer is another."""
    right = {}
    for problem in problems:
        if problem.answer is None:
            raise UserError("the control that is told the answers needs problems with answers", problem.id)
        right[problem.id] = problem.answer
    if not wrong:
        return right
    answers = list(right.values())
    if len(set(answers)) < 2:
        raise UserError("wrong answers are those of other problems, and all have the same", answers[0])
    later = {problem: answers[i + 1 :] + answers[:i] for i, problem in enumerate(right)}
    return {problem: next(one for one in later[problem] if one != answer) for problem, answer in right.items()}


def answers_at(folder: Path, data_dir: Path | None, verdicts: Sequence[Path]) -> list[Path]:
    """Where answers, or verdicts on them, may lie: in benchmark data, and at `verdicts`.

    UserError if the folder lies in the data: what is refused could not be trained in either.
    """
    named = os.environ.get(DATA_DIR_VARIABLE)
    places = [path.expanduser() for path in (data_dir, Path(named) if named else None) if path is not None]
    for place in places:
        if folder.resolve().is_relative_to(place.resolve()):
            raise UserError(
                "the run lies in the benchmark data, which training must not read", str(folder), "give another --out"
            )
    return [*places, *verdicts]


def train_apart(arguments: Sequence[str], unreadable: Sequence[Path], on_progress: OnProgress | None = None) -> None:
    """`repirl train ARGUMENTS` in a process that cannot open anything under the `unreadable` paths; its progress is on stderr,
    and `on_progress(done, total)` is told of its updates.

    Raises what the exit code says: UserError for 2, KeyboardInterrupt for 130, a fault else.
    """
    environment = {name: value for name, value in os.environ.items() if name != DATA_DIR_VARIABLE}
    environment |= {UNREADABLE: os.pathsep.join(str(path.resolve()) for path in unreadable), PARENT: str(os.getpid())}
    command = [sys.executable, "-m", "repirl", "train", *arguments]
    said = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        try:
            for line in child.stderr:
                sys.stderr.write(said)
                if on_progress is not None and (told := re.search(r": (\d+) of (\d+)$", line.strip())):
                    on_progress(int(told[1]), int(told[2]))
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


def graded_curve(run: Path, benchmark: Benchmark) -> list[dict[str, Any]]:
    """The metrics of every update of a finished run, and how often its answers were right: `accuracy` of the batch before the
    update, `watch/accuracy` of the watched problems. Of runs that wrote no answers the metrics alone."""
    log, known = AnswerLog(run), {problem.id: problem for problem in benchmark.problems}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    asked: dict[tuple[int, str], list[tuple[str, str | None]]] = {}
    for line in lines:
        for name, step, watched in (("accuracy", line["step"], False), ("watch/accuracy", line["step"] - 1, True)):
            answers = [(problem, one) for problem, own in log.read(step, watched=watched) for one in own]
            if answers:
                asked[line["step"], name] = answers
    right = _right({pair for answers in asked.values() for pair in answers}, known, benchmark)
    found: dict[int, dict[str, float]] = {}
    for (step, name), answers in asked.items():
        found.setdefault(step, {})[name] = sum(right[pair] for pair in answers) / len(answers)
    return [line | found.get(line["step"], {}) for line in lines]


def _right(
    answers: Set[tuple[str, str | None]], known: Mapping[str, Problem], benchmark: Benchmark
) -> dict[tuple[str, str | None], bool]:
    """Whether each (problem, answer) is right; none is not."""
    given = sorted((problem, one) for problem, one in answers if one is not None)
    texts = [rf"\boxed{{{one}}}" for _, one in given]
    verdicts = benchmark_grader(benchmark)([known[problem] for problem, _ in given], texts, ["stop"] * len(texts))
    right = {pair for pair, verdict in zip(given, verdicts, strict=True) if verdict.outcome == "correct"}
    return {pair: pair in right for pair in answers}


def adapted(before: Report, after: Report, problems: Sequence[Problem]) -> Adapted:
    """Both reports are of the same protocol, and of these problems among others."""
    ids = [problem.id for problem in problems]
    changes = {}
    for metric in before.metrics:
        old, new = (_values(report, metric) for report in (before, after))
        a, b = [new[i] for i in ids], [old[i] for i in ids]
        changes[metric] = Change(clustered_interval(b), clustered_interval(a), paired_difference(a, b))
    return Adapted(len(ids), changes, transitions(before, after, ids), _answers(before, set(ids)), _answers(after, set(ids)))


def transitions(before: Report, after: Report, ids: Sequence[str]) -> Transitions:
    """Of these problems, by their greedy answers."""
    was, now = (_values(report, "greedy") for report in (before, after))
    pairs = [(was[i] == 1.0, now[i] == 1.0) for i in ids]
    return Transitions(
        learned=pairs.count((False, True)),
        kept=pairs.count((True, True)),
        corrupted=pairs.count((True, False)),
        never=pairs.count((False, False)),
    )


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
