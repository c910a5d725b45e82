"""`repirl adapt`: what trains has no answers, what measures has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repirl.cli.main import run
from repirl.errors import UserError
from repirl.evals import adapting
from repirl.evals.adapting import adapted, answers_at, graded_curve, train_apart, write_problems
from repirl.learn.watching import AnswerLog, Answers
from repirl.processes import PARENT, UNREADABLE
from repirl.tasks import arith
from repirl.tasks.benchmarks import load_benchmark
from repirl.tasks.files import DATA_DIR_VARIABLE
from repirl.types import Interval, Problem, Report, RolloutGroup, SampleRow

PROBLEMS = arith.problems("test", 4, levels=(3,))


def test_the_file_holds_problems_alone(tmp_path: Path) -> None:
    write_problems(tmp_path / "a.jsonl", PROBLEMS)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"id", "problem"}] * 4
    told = {}
    for answers in ("right", "wrong"):
        write_problems(tmp_path / "b.jsonl", PROBLEMS, answers)
        told[answers] = [json.loads(line)["answer"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert told["right"] == [problem.answer for problem in PROBLEMS]
    assert set(told["wrong"]) <= set(told["right"])
    assert not any(a == b for a, b in zip(told["right"], told["wrong"], strict=True))
    with pytest.raises(UserError, match="told the answers"):
        write_problems(tmp_path / "c.jsonl", [Problem("x", "f", "p", "code")], "right")
    with pytest.raises(UserError, match="all have the same"):
        write_problems(tmp_path / "c.jsonl", [PROBLEMS[0], PROBLEMS[0]], "wrong")


def test_a_process_refuses_what_it_must_not_read(tmp_path: Path) -> None:
    """Also through a link and by another name; other files stay open to it."""
    secret, link = tmp_path / "data" / "answers.jsonl", tmp_path / "link"
    secret.parent.mkdir()
    secret.write_text("{}")
    link.symlink_to(secret)
    (tmp_path / "database").write_text("fine")
    code = (
        "from repirl.processes import refuse_unreadable; refuse_unreadable(); import sys\n"
        "print(open(sys.argv[2]).read())\n"
        "for path in sys.argv[1:2] + sys.argv[3:]:\n"
        "    try: open(path); print('read')\n"
        "    except PermissionError: print('refused')\n"
    )
    paths = [str(secret), str(tmp_path / "database"), str(link), str(secret.parent / ".." / "data" / "answers.jsonl")]
    environment = {**os.environ, UNREADABLE: str(secret.parent)}
    done = subprocess.run([sys.executable, "-c", code, *paths], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fine", "refused", "refused", "refused"]


def test_training_cannot_open_the_benchmark_s_folder(tmp_path: Path) -> None:
    """The very file that it is told to learn from, if that lies where the answers are."""
    inside = tmp_path / "data" / "problems.jsonl"
    inside.parent.mkdir()
    write_problems(inside, PROBLEMS)
    arguments = ["test_time", "--set", "data.source=unlabelled", "--set", f"data.file={inside}", "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="cannot read the file"):
        train_apart(arguments, [inside.parent])


def test_data_and_verdicts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, named, folder = tmp_path / "data", tmp_path / "named", tmp_path / "run"
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    assert answers_at(folder, None, [folder / "before"]) == [folder / "before"]
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(named))
    assert answers_at(folder, data, [folder / "before"]) == [data, named, folder / "before"]
    with pytest.raises(UserError, match="lies in the benchmark data"):
        answers_at(named / "runs" / "x", data, [])


def report(right: dict[str, list[bool]]) -> Report:
    """problem -> greedy verdict, then those of two samples."""

    def row(problem: str, index: int, good: bool) -> SampleRow:
        return SampleRow(problem, index, "correct" if good else "wrong", "", "1" if good else f"{index}0", 3, "")

    greedy = tuple(row(problem, 0, own[0]) for problem, own in right.items())
    sampled = tuple(row(problem, i, good) for problem, own in right.items() for i, good in enumerate(own[1:]))
    return Report("b", "c", "d", {}, {"greedy": Interval(0), "avg@2": Interval(0)}, {}, {"greedy": greedy, "sampled": sampled})


def test_transitions_and_changes_by_hand() -> None:
    ids = [problem.id for problem in PROBLEMS]
    before = report(dict(zip(ids, [[False] * 3, [True] * 3, [True, True, False], [False] * 3], strict=True)))
    after = report(dict(zip(ids, [[True] * 3, [True] * 3, [False] * 3, [False] * 3], strict=True)))
    found = adapted(before, after, PROBLEMS)
    moves = found.transitions
    assert (moves.learned, moves.kept, moves.corrupted, moves.never) == (1, 1, 1, 1)
    change = found.changes["avg@2"]
    assert (change.before.value, change.after.value) == (0.375, 0.5)
    assert change.difference.interval.value == pytest.approx(0.125)
    assert (found.answers_before, found.answers_after) == (1.75, 1.5)
    assert adapted(before, after, PROBLEMS[:1]).transitions.learned == 1


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--problems", "4", "--held-out", "2", "--watch", "2", "--samples", "2", "--benchmark", "arith", "--json"]
    asked = {}

    def spied(arguments: list[str], unreadable: list[Path]) -> None:
        asked["unreadable"] = unreadable
        train_apart(arguments, unreadable)

    monkeypatch.setattr(adapting, "train_apart", spied)
    small += ["--set", "loop.steps=2", "--set", "loop.sampling.prompts_per_step=2", "--set", "loop.sampling.group_size=2"]
    assert run(["adapt", "confidence", *small, "--out", str(tmp_path / "prm")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["adapted"]["problems"], shown["held_out"]["problems"]) == (4, 2)
    assert sum(shown["adapted"]["transitions"].values()) == 4
    assert [line["step"] for line in shown["curve"]] == [1, 2]
    assert all(0 <= line["accuracy"] <= 1 and "prm/agreement" in line for line in shown["curve"])
    assert "watch/accuracy" in shown["curve"][0]  # a look before training, the next is after ten updates
    assert not shown["stopped_early"]
    assert "<svg" in (tmp_path / "prm" / "curve.svg").read_text()
    assert len((tmp_path / "prm" / "problems.jsonl").read_text().splitlines()) == 4 + 2
    config = json.loads((tmp_path / "prm" / "run" / "config.json").read_text())
    assert asked["unreadable"][-2:] == [tmp_path / "prm" / "before", tmp_path / "prm" / "after"]
    assert "answer" not in (tmp_path / "prm" / "problems.jsonl").read_text()
    assert "unlabelled" in json.dumps(config)
    for signal in ("incorrect", "outcome"):
        assert run(["adapt", "--signal", signal, *small, "--out", str(tmp_path / signal)]) == 0
        assert json.loads(capsys.readouterr().out)["signal"] == signal
    told = json.loads((tmp_path / "outcome" / "run" / "config.json").read_text())
    same = [one["config"]["loop"]["optim"] for one in (config, told)]
    assert same[0] == same[1]  # the control has the same budget and rate


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a reward, or one signal"),
        (["confidence", "--signal", "majority"], "give a reward, or one signal"),
        (["--signal", "hope"], "give a reward, or one signal"),
        (["confidence", "--problems", "9999"], "too few problems"),
        (["confidence", "--held-out", "8"], "--watch is a part of"),
        (["nowhere"], "no such process reward"),
        (["confidence", "--set", "loop.stepz=3"], "did you mean loop.steps"),
        (["--signal", "outcome", "--set", "signal=prm"], "no such setting"),
    ],
)
def test_mistakes_are_named_before_anything_is_sampled(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["adapt", *arguments, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_training_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such file"):
        train_apart(["test_time", "--set", "data.source=unlabelled", "--set", f"data.file={tmp_path}/x.jsonl"], [])
    assert "error" not in capfd.readouterr().err


def test_what_was_answered_is_graded_afterwards(tmp_path: Path) -> None:
    """By who has the answers: 1 of 2 right in the first update's batch, of the watched problem all; later nothing is known."""
    card = load_benchmark("arith")
    first, second, third = card.problems[:3]
    log = AnswerLog(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "entropy": 0.5}\n{"step": 2, "entropy": 0.4}\n')
    log.write(1, [group_of(first), group_of(second)], Answers([[first.answer], [None]], [["a"], [None]]))
    log.write(0, [group_of(third)], Answers([[third.answer]], [["a"]]), watched=True)
    assert graded_curve(tmp_path, card) == [
        {"step": 1, "entropy": 0.5, "accuracy": 0.5, "watch/accuracy": 1.0},
        {"step": 2, "entropy": 0.4},
    ]


def group_of(problem: Problem) -> RolloutGroup:
    return RolloutGroup(problem, (), ())


def test_training_ends_with_the_one_who_started_it(tmp_path: Path) -> None:
    code = "from repirl.processes import end_with_parent; end_with_parent(); print('alive')"
    for parent, said in ((str(os.getpid()), "alive\n"), ("1", ""), ("", "alive\n")):
        environment = {**os.environ, PARENT: parent}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == said


def test_progress_of_training_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of progress, and no other that holds numbers."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'test_time, tiny: 3 of 60' >&2\necho 'loading 2 of it' >&2\necho 'x: 12 of 60' >&2\n")
    script.chmod(0o755)
    monkeypatch.setattr(adapting.sys, "executable", str(script))
    told: list[tuple[int, int]] = []
    train_apart([], [], lambda done, total: told.append((done, total)))
    assert told == [(3, 60), (12, 60)]
