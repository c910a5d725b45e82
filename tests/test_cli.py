"""The command line: what it prints where, its exit codes, and that a user's mistake is one clear line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from repirl.cli import main as cli
from repirl.cli.output import emit, working
from repirl.errors import GradingFault, UserError
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy
from repirl.types import Budget, Interval, Report, SampleRow


def fails(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], *, code: int = 2) -> str:
    """Runs a command line that must fail with `code`, nothing on stdout and one line on stderr; returns that line."""
    assert cli.run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    return err


def shown(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], *, code: int = 0) -> dict[str, Any]:
    """The JSON object that a command line prints: the only thing on stdout."""
    assert cli.run([*arguments, "--json"]) == code
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def write_record(results: Path, seed: int = 0, suite: str = "trial") -> store.StoredRun:
    rows = tuple(SampleRow(f"p{i}", 0, "correct" if i else "wrong", "", None, 3, "t") for i in range(4))
    counts = {"greedy": store.count_outcomes(rows).model_dump()}
    report = Report("arith", "card", "data", {"k": 1}, {"greedy": Interval(0.75)}, counts, {"greedy": rows})
    record = new_record(
        suite=suite,
        run_id=f"rloo-s{seed}",
        method="rloo",
        kind="method",
        recipe="tiny",
        seed=seed,
        stage="arith",
        config={},
        base_policy=BasePolicy(name="tiny", digest="0"),
        budget=Budget(),
        command="repirl bench trial",
    )
    return store.write(record, [report], root=results)


# ------------------------------------------------------------------------------------------ the frame


def test_help_is_quick_and_without_torch() -> None:
    code = "import sys; from repirl.cli.main import run; run(['--help']); print('torch' in sys.modules, file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == "False"
    for verb in ("list", "grade", "leaderboard"):
        assert f"\n  {verb} " in done.stdout
    # Processor time, as wall time depends on what else the machine does.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


def test_module_and_script_are_the_same_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "repirl", "grade", "math", "absent.jsonl"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such file: 'absent.jsonl'\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lsit"], "No such command 'lsit'"),
        (["list", "--jsno"], "No such option: --jsno"),
        (["list", "nothing"], "'nothing' is not one of 'methods'"),
        (["grade"], "Missing argument 'benchmark'"),
        (["grade", "math", "x", "--limit-ungraded", "2"], "--limit-ungraded"),
    ],
)
def test_usage_errors_say_what_and_where_help_is(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    line = fails(capsys, arguments)
    assert said in line
    assert "--help`" in line


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (UserError("bad thing", "x", "do y"), 2, "error: bad thing: 'x'; do y"),
        (GradingFault("too many\nungraded"), 1, "fault: too many ungraded"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.BadParameter("no"), 2, "error: Invalid value: no; see `repirl list --help`"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, line: str
) -> None:
    def broken(include: object) -> list[Any]:
        raise raised

    monkeypatch.setitem(cli.listing._SOURCES, cli.listing.Listed.engines, broken)
    assert cli.run(["list", "engines"]) == code
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[-1]) == ("", line)


def test_unforeseen_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(include: object) -> list[Any]:
        raise ZeroDivisionError("ours")

    monkeypatch.setitem(cli.listing._SOURCES, cli.listing.Listed.engines, broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["list", "engines"])


def test_prints_of_libraries_never_mix_with_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    with working("work") as on_progress:
        print("a library talks")
        on_progress(1, 2)
    emit(True, {"a": [1.5, None]}, lambda: "never rendered")
    out, err = capsys.readouterr()
    assert out == '{"a": [1.5, null]}\n'
    assert "a library talks" in err
    with pytest.raises(ValueError, match="JSON compliant"):
        emit(True, {"a": float("nan")}, lambda: "")


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2
    assert cli.run([]) == 0
    assert "Commands:" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- list


def test_list_has_source_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, ["list", "methods"])
    names = {entry["name"] for entry in found["methods"]}
    assert {"repirl", "rloo", "bc", "random", "constant", "length", "oracle", "base"} <= names
    assert all(entry["source"] and entry["status"] for entry in found["methods"])
    assert {entry["name"] for entry in shown(capsys, ["list", "engines"])["engines"]} >= {"torch", "scripted"}
    assert cli.run(["list", "policies"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_list_include_must_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in fails(capsys, ["list", "methods", "--include", "/nowhere/at/all"])


# ----------------------------------------------------------------------------------------- leaderboard


def test_leaderboard_writes_then_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    write_record(results)
    verb = ["leaderboard", "--results", str(results)]
    stale = shown(capsys, [*verb, "--check"], code=1)["stale"]
    assert stale == ["README.md", "trial.csv", "trial.md"]
    assert not (tmp_path / "leaderboard").exists()
    assert shown(capsys, verb)["written"] == ["README.md", "trial.md", "trial.csv"]
    before = {path.name: path.read_bytes() for path in (tmp_path / "leaderboard").iterdir()}
    assert shown(capsys, verb)["written"] == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "leaderboard").iterdir()} == before
    assert shown(capsys, [*verb, "--check"])["stale"] == []
    write_record(results, seed=1)
    assert cli.run([*verb, "--check"]) == 1
    assert "trial.md: stale; run `repirl leaderboard`" in capsys.readouterr().err


def test_leaderboard_follows_the_results_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPIRL_RESULTS", str(tmp_path / "elsewhere"))
    write_record(tmp_path / "elsewhere")
    assert shown(capsys, ["leaderboard"])["suites"] == ["trial"]
    assert (tmp_path / "leaderboard" / "trial.md").is_file()


def test_committed_tables_are_up_to_date() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REPIRL_RESULTS"}
    done = subprocess.run(
        [sys.executable, "-m", "repirl", "leaderboard", "--check"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_corrupt_record_is_one_line_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = write_record(tmp_path / "results")
    stored.file.write_text("{")
    line = fails(capsys, ["leaderboard", "--results", str(tmp_path / "results")])
    assert str(stored.file) in line
    assert "no such folder of records" in fails(capsys, ["leaderboard", "--results", str(tmp_path / "absent")])


# ----------------------------------------------------------------------------------------------- grade


def completions(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_grade_counts_and_accuracy_with_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = completions(
        tmp_path / "out.jsonl",
        {"id": "a", "answer": "1/2", "completions": ["\\boxed{\\frac{1}{2}}", "so \\boxed{0.5}", "\\boxed{3}"]},
        {"id": "b", "answer": "7", "completion": "\\boxed{8}"},
        {"id": "c", "answer": "7", "completion": "and then", "finish_reason": "length"},
    )
    said = shown(capsys, ["grade", "math", file, "--verdicts", str(tmp_path / "verdicts.jsonl")])
    assert said["counts"] == {"correct": 2, "wrong": 2, "truncated": 1, "ungraded": 0, "total": 5}
    assert said["accuracy"]["value"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert 0 <= said["accuracy"]["ci_low"] <= said["accuracy"]["value"] < said["accuracy"]["ci_high"]
    verdicts = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in verdicts] == ["correct", "correct", "wrong", "wrong", "truncated"]
    assert cli.run(["grade", "math", file]) == 0
    assert "accuracy over graded problems" in capsys.readouterr().out


def test_malformed_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"answer": "1", "completion": "\\boxed{1}"}
    assert "line 3" in fails(capsys, ["grade", "math", completions(tmp_path / "a.jsonl", good, good, '{"answer":')])
    assert "line 2" in fails(capsys, ["grade", "math", completions(tmp_path / "b.jsonl", good, {"completion": "x"})])
    assert "no rows" in fails(capsys, ["grade", "math", completions(tmp_path / "c.jsonl")])
