"""The command line: what it prints where, its exit codes, and that a user's mistake is one clear line."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from repirl import __version__
from repirl.bench.run import OnEvent, SuiteOptions, SuiteOutcome
from repirl.cli import main as cli
from repirl.cli import output
from repirl.cli.bench import Standing
from repirl.cli.output import emit, working
from repirl.cli.train_told import warn_of_nothing_right
from repirl.errors import GradingFault, UserError
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy
from repirl.types import Budget, Interval, Problem, Report, SampleRow, Verdict


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
        run_id=f"rloo-arith-s{seed}",
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
    for verb in ("list", "check", "train", "eval", "grade", "bench", "leaderboard", "pretrain", "verify"):
        assert f"\n  {verb} " in done.stdout
    # Processor time, as wall time depends on what else the machine does.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


def test_module_and_script_are_the_same_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "repirl", "grade", "math", "absent.jsonl"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no such file: 'absent.jsonl'; give a JSONL file\n"


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "rloo", "--out", "FILE"],
        ["train", "rloo", "--out", "FILE/run"],
        ["pretrain", "--out", "FILE/a/b"],
        ["eval", "--benchmark", "arith", "--out", "FILE"],
        ["bench", "tiny", "--results", "FILE"],
        ["bench", "tiny", "--work", "FILE/x"],
        ["leaderboard", "--out", "FILE/x"],
    ],
)
def test_an_output_folder_that_is_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    line = fails(capsys, [part.replace("FILE", str(file)) for part in arguments])
    assert "must be a folder, and there is a file" in line
    assert file.read_text() == "mine"


def test_check_of_one_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", "arith", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)["benchmarks"]] == ["arith"]
    assert "unknown benchmark: 'arihtm'" in fails(capsys, ["check", "arihtm"])


@pytest.mark.parametrize("verb", [["grade", "math"], ["judge", "random"]])
def test_what_is_read_is_not_written_over(capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: list[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": "a", "completion": "1", "answer": "1"}\n')
    before = file.read_text()
    (tmp_path / "link.jsonl").symlink_to(file)
    for out in (file, tmp_path / "link.jsonl"):
        line = fails(capsys, [*verb, str(file), "--verdicts", str(out)])
        assert "--verdicts would write over the file that is read" in line
        assert file.read_text() == before
    assert "must be a file" in fails(capsys, [*verb, str(file), "--verdicts", str(tmp_path)])


@pytest.mark.parametrize("verb", [["train", "rloo"], ["eval", "--benchmark", "arith"]])
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: list[str]) -> None:
    for device in ("mars", "cuda:99"):
        assert f"no such device here: '{device}'" in fails(capsys, [*verb, "--device", device, "--out", str(tmp_path / "o")])


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


def test_an_interrupt_after_the_work_leaves_no_traceback() -> None:
    code = (
        "import atexit, os, signal, sys\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['repirl', '--version']\n"
        "from repirl.cli.main import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (f"{__version__}\n", "", -signal.SIGINT)


def test_list_has_source_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys, ["list", "methods"])
    names = {entry["name"] for entry in found["methods"]}
    assert {"repirl", "rloo", "bc", "random", "constant", "length", "oracle", "base"} <= names
    assert all(entry["source"] and entry["status"] for entry in found["methods"])
    assert {entry["name"] for entry in shown(capsys, ["list", "engines"])["engines"]} >= {"torch", "scripted"}
    assert cli.run(["list", "policies"]) == 0
    assert "tiny" in capsys.readouterr().out


def test_list_benchmarks_and_suites(capsys: pytest.CaptureFixture[str]) -> None:
    benchmarks = {entry["name"]: entry for entry in shown(capsys, ["list", "benchmarks"])["benchmarks"]}
    assert benchmarks["arith"]["status"] == "embedded"
    assert {"minicode", "math500"} <= benchmarks.keys()
    assert all(entry["source"] and entry["licence"] for entry in benchmarks.values())
    assert "tiny" in {entry["name"] for entry in shown(capsys, ["list", "suites"])["suites"]}


def test_list_reads_methods_without_importing_them() -> None:
    from repirl.methods.described import described_unread
    from repirl.methods.registry import described, methods

    assert described_unread() == [described(method) for method in methods().values()]
    code = "import sys; from repirl.cli.main import run; run(['list']); print('torch' in sys.modules, file=sys.stderr)"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == "False"
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 2


def test_list_counts_the_runs_of_suites(capsys: pytest.CaptureFixture[str]) -> None:
    from repirl.bench.suites import load_suite, plan, suite_names

    found = {entry["name"]: entry["status"] for entry in shown(capsys, ["list", "suites"])["suites"]}
    for name in suite_names():
        assert found[name].startswith(f"{len(plan(name, load_suite(name)))} runs; ")


def test_list_has_sets_data_and_rewards(capsys: pytest.CaptureFixture[str]) -> None:
    from repirl.rewards.load import NAMED
    from repirl.rewards.published import OPTIONS
    from repirl.tasks.training_sets import TrainingSetConfig, load_training_set

    found = shown(capsys, ["list"])
    assert {"arith", "processbench/math", "prmbench/subset400"} <= {entry["name"] for entry in found["sets"]}
    rewards = {entry["name"].partition(":")[0] for entry in found["rewards"]}
    assert rewards == {*NAMED, *OPTIONS, "RUN_FOLDER"}
    with pytest.raises(UserError) as refused:
        load_training_set(TrainingSetConfig(source="none such"))
    assert all(entry["name"] in str(refused.value) for entry in found["data"])


def test_list_include_must_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in fails(capsys, ["list", "methods", "--include", "/nowhere/at/all"])


# ----------------------------------------------------------------------------------------- leaderboard


def test_leaderboard_writes_then_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    write_record(results)
    verb = ["leaderboard", "--results", str(results)]
    stale = shown(capsys, [*verb, "--check"], code=1)["stale"]
    assert stale == ["README.md", "trial-forest.svg", "trial.csv", "trial.md"]
    assert not (tmp_path / "leaderboard").exists()
    assert shown(capsys, verb)["written"] == ["README.md", "trial.md", "trial.csv", "trial-forest.svg", "index.html"]
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


def test_grade_needs_a_known_benchmark_and_its_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = completions(tmp_path / "a.jsonl", {"id": "nothing", "completion": "x"})
    line = fails(capsys, ["grade", "math501", file])
    assert "unknown benchmark: 'math501'" in line
    assert "math500" in line
    assert "line 1: arith has no problem with id: 'nothing'" in fails(capsys, ["grade", "arith", file])


# ------------------------------------------------------------------------- check, train, eval, bench, pretrain


def test_check_accepts_golds_and_refuses_wrong_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    said = shown(capsys, ["check"])
    assert said["ok"] is True
    checked = {entry["name"]: entry for entry in said["benchmarks"]}
    assert checked["arith"]["checked"] == checked["arith"]["problems"] > 0
    assert checked["minicode"]["checked"] == checked["minicode"]["problems"] > 0
    assert checked["math500"]["checked"] == 0
    assert said["environment"]["sandbox"].split(";")[0] in {"strong", "weak", "none"}
    assert said["environment"]["cores"] >= 1
    assert "no such data folder" in fails(capsys, ["check", "--data-dir", str(tmp_path / "absent")])


@pytest.mark.parametrize(("gold", "wrong"), [(False, False), (True, True)])
def test_check_fails_when_a_gold_is_refused_or_a_wrong_answer_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gold: bool, wrong: bool
) -> None:
    def grader(problems: Sequence[Problem], texts: Sequence[str], on_progress: object = None) -> list[Verdict]:
        accepted = [wrong if text in cli.check._WRONG.values() else gold for text in texts]
        return [Verdict("correct" if yes else "wrong") for yes in accepted]

    monkeypatch.setattr("repirl.grading.dispatch.grade_rollouts", grader)
    said = shown(capsys, ["check"], code=1)
    assert said["ok"] is False
    arith = next(entry for entry in said["benchmarks"] if entry["name"] == "arith")
    assert len(arith["gold_refused"]) == (0 if gold else arith["problems"])
    assert len(arith["wrong_accepted"]) == (arith["problems"] if wrong else 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "rlooo"], "unknown method: 'rlooo'; choose one of"),
        (["train", "rloo", "--recipe", "huge"], "rloo has no recipe: 'huge'; choose one of tiny"),
        (["train", "rloo", "--set", "loop.stepz=3"], "no such setting: 'loop.stepz'; did you mean loop.steps?"),
        (["train", "rloo", "--set", "lop.credit.outcome=grpo"], "did you mean loop.credit.outcome?"),
        (["train", "rloo", "--set", "lr=1"], "did you mean loop.optim.lr?"),
        (["train", "rloo", "--set", "loop.steps=many"], "bad setting loop.steps"),
        (["train", "rloo", "--engine", "openai"], "the weights of a model behind a server cannot be trained"),
        (["train", "rloo", "--ray", "samplerz=2"], "no such setting: 'samplerz'; did you mean samplers?"),
        (["eval", "--benchmark", "arithmetic"], "unknown benchmark: 'arithmetic'; choose one of"),
        (["eval", "--benchmark", "arith", "--temperature", "0"], "bad setting temperature"),
        (["eval", "--benchmark", "arith", "--samples", "0", "--no-greedy"], "nothing to evaluate"),
        (["eval", "--benchmark", "arith", "--dtype", "int3"], "unknown dtype: 'int3'"),
        (["bench", "tinier"], "unknown suite: 'tinier'; choose one of"),
        (["bench", "tiny", "--only", "nothing"], "no run of the suite starts with: 'nothing'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPIRL_RESULTS", str(tmp_path / "results"))
    assert said in fails(capsys, arguments)
    assert list(tmp_path.iterdir()) == []


def test_eval_reports_metrics_counts_and_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    verb = ["eval", "--benchmark", "arith", "--limit", "4", "--samples", "2", "--max-new-tokens", "24"]
    said = shown(capsys, [*verb, "--out", "kept"])
    (report,) = said["reports"]
    assert report["metrics"].keys() == {"greedy", "avg@2", "sound@2", "pass@2"}
    assert report["counts"]["sampled"]["total"] == 8
    assert report["budget"]["rollouts"] == 12
    assert shown(capsys, [*verb, "--out", "kept"]) == said
    assert cli.run(verb) == 0
    told = capsys.readouterr()
    assert "avg@2" in told.out
    assert "no answer was right" not in told.err
    assert cli.run([*verb, "--max-new-tokens", "1"]) == 0
    told = capsys.readouterr()
    assert "arith: no answer was right (greedy, avg@2); is this how the policy is to be asked? 'Compute " in told.err


def test_train_leaves_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["loop.steps=1", "loop.sampling.prompts_per_step=2", "loop.sampling.group_size=2", "data.num_problems=16"]
    small += ["loop.sampling.max_new_tokens=16", "loop.validation.num_problems=2", "loop.validation.samples=1"]
    small += ["data.validation_problems=8"]
    verb = ["train", "rloo", "--seed", "3", *(word for setting in small for word in ("--set", setting))]
    said = shown(capsys, verb)
    assert said["folder"] == "runs/rloo-tiny-s3"
    assert said["budget"]["policy_updates"] == 1
    assert (tmp_path / said["policy"] / "model.safetensors").is_file()
    names = [f"{when}_validation_accuracy" for when in ("start", "best", "last")]
    assert said["diagnostics"].keys() >= set(names)
    warn_of_nothing_right([{**said, "diagnostics": dict.fromkeys(names, 0.0)}])
    assert "runs/rloo-tiny-s3: no completion of a validation problem was right" in capsys.readouterr().err
    warn_of_nothing_right([{**said, "diagnostics": {**dict.fromkeys(names, 0.0), names[-1]: 0.5}}])
    assert capsys.readouterr().err == ""
    assert said["reward"] is None
    assert shown(capsys, verb) == said
    assert cli.run(verb) == 0
    told = capsys.readouterr().out.splitlines()
    start, kept, last = (said["diagnostics"][name] for name in names)
    assert told[0] == "rloo, tiny, seed 3: runs/rloo-tiny-s3"
    assert told[1] == f"validation accuracy: start {start:.3f}, kept {kept:.3f} (step 1), last {last:.3f}"
    assert told[2].startswith(f"cost: 1 policy updates, 4 rollouts, {said['budget']['generated_tokens']} generated tokens, ")
    assert f"policy: {said['policy']}" in told
    assert not any(line.startswith("reward") for line in told)
    assert len(told) < 15


def test_bench_ends_with_rows_and_names_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    runs = "".join(f'[[runs]]\nmethod = "{method}"\n' for method in ("rloo", "bc"))
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "trial.toml").write_text(f'title = "Trial"\n{runs}[[evaluations]]\nbenchmark = "arith"\n')

    def runner(name: str, options: SuiteOptions, on_event: OnEvent) -> SuiteOutcome:
        write_record(options.results, suite=name)
        on_event({"key": "rloo-arith-s0", "part": "train", "done": 1, "total": 2, "reward": 0.5})
        on_event({"key": "rloo-arith-s0", "part": "done", "done": 1, "total": 1})
        on_event({"key": "bc-arith-s0", "part": "failed", "done": 1, "total": 1, "why": "no [brackets]"})
        return SuiteOutcome(("rloo-arith-s0",), (), {"bc-arith-s0": "no [brackets]"})

    monkeypatch.setattr("repirl.bench.run.run_suite", runner)
    planned = ["bench", "trial", "--results", str(results), "--include", str(tmp_path), "--only", "bc", "--dry-run"]
    assert shown(capsys, planned)["runs"] == {"bc-arith-s0": "to run"}
    assert not results.exists()
    assert cli.run(["bench", "trial", "--results", str(results), "--include", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["suite"] == "trial"
    (row,) = said["rows"]
    assert {"method", "benchmark", "metric", "value", "ci_low", "ci_high", "seeds", "budget", "records"} <= row.keys()
    assert (row["method"], row["benchmark"], row["metric"], row["value"]) == ("rloo", "arith", "greedy", 0.75)
    assert row["records"] == ["results/trial/rloo-arith-s0/record.json"]
    assert "trial: 2 runs, " in err
    assert "run 1 of 2: rloo-arith-s0: done in 0 s" in err
    assert "run 2 of 2: bc-arith-s0: no [brackets]" in err
    assert "failed: bc-arith-s0: no [brackets]" in err
    assert (tmp_path / "leaderboard" / "trial.md").is_file()


def test_what_is_left_of_a_suite_is_guessed_from_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of four: one has a record, one is half trained after 40 s, which is two fifths of it; 2.6 of 3 are left."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    standing = Standing(["a", "b", "c", "d"])
    standing.heard({"key": "a", "part": "skipped"})
    standing.heard({"key": "b", "part": "train", "done": 20, "total": 40})
    assert standing.line() == "1 of 4 runs"  # nothing to go by yet
    now = 140.0
    assert standing.left() == "about 4 min left"
    assert standing.line() == "1 of 4 runs, about 4 min left"
    standing.heard({"key": "b", "part": "failed", "why": "x"})
    assert standing.left() == "about 80 s left"
    for key in ("c", "d"):
        standing.heard({"key": key, "part": "done"})
    assert standing.line() == "4 of 4 runs"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_policy_that_is_destroyed_is_one_line_and_keeps_its_checkpoint(tmp_path, policy_folder, capsys, as_json):
    """The update is finite, the weights after it are not of this world: the next step's logits are no numbers."""
    small = ["loop.steps=6", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "data.num_problems=16"]
    small += ["loop.sampling.max_new_tokens=16", "loop.validation.num_problems=2", "loop.validation.samples=1"]
    small += ["loop.validation.every=6", "loop.optim.lr=1e30", "loop.optim.warmup_steps=0"]
    command = ["train", "rloo", "--policy", str(policy_folder), "--out", str(tmp_path / "run"), *(["--json"] * as_json)]
    for _ in range(2):  # the same again after it
        assert cli.run([*command, *(part for change in small for part in ("--set", change))]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        (line,) = [line for line in err.splitlines() if line.startswith("fault:")]
        assert "after step 1" in line
        assert "learning rate" in line
        assert "checkpoint of step 1 is in" in line


def test_where_stderr_is_no_terminal_lines_say_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds before anything is told, then how far it is; nothing after the work."""
    lines: list[str] = []
    monkeypatch.setattr(output, "LINE_EVERY_S", 0.02)
    monkeypatch.setattr(output, "note", lines.append)

    def wait_for(line: str) -> None:
        until = time.monotonic() + 30
        while line not in lines and time.monotonic() < until:
            time.sleep(0.01)

    with output.working("training") as on_progress:
        wait_for("training: 0 s")
        on_progress(3, 10, "offline")
        wait_for("training, offline: 3 of 10")
        time.sleep(0.2)
    told = len(lines)
    assert lines[0] == "training: 0 s"
    assert lines[-1] == "training, offline: 3 of 10"
    assert lines.count("training, offline: 3 of 10") == 1
    time.sleep(0.1)
    assert len(lines) == told


def test_a_pipe_is_wide_unless_columns_says_otherwise(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli.run(["list", "engines"]) == 0
    wide = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(["list", "engines"]) == 0
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 80 < max(map(len, wide.splitlines())) <= 160
