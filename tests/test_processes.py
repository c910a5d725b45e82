"""Folders have one user, workers end with their parent, and an end by signal is an orderly one."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from repirl.bench import run as bench_run
from repirl.cli import main as cli
from repirl.errors import UserError
from repirl.learn.checkpoint import RunFolder, write_json
from repirl.processes import only_user_of, turn_at

HOLD = (
    "import sys, time; from pathlib import Path; from repirl.processes import only_user_of\n"
    "with only_user_of(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import os, time; from repirl.processes import die_with_parent\\n"
    "die_with_parent(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)'])\n"
    "time.sleep(60)\n"
)


def wait_until(what, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """True when the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def free(folder: Path) -> bool:
    try:
        with only_user_of(folder):
            return True
    except UserError:
        return False


# ------------------------------------------------------------------------------------------------- one user


def test_a_folder_has_one_user_and_is_free_again_when_that_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process uses this folder"), only_user_of(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with only_user_of(tmp_path), pytest.raises(UserError, match="another process"), only_user_of(tmp_path):
            pass
        with only_user_of(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_who_waits_its_turn_comes_when_the_other_ends_however_it_ends(tmp_path: Path) -> None:
    script = HOLD.replace("only_user_of", "turn_at")
    first = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    second = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    try:
        assert select.select([second.stdout], [], [], 1.5)[0] == []
        first.kill()
        assert second.stdout.readline() == "held\n"
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    with turn_at(tmp_path), only_user_of(tmp_path):
        pass


@pytest.mark.parametrize("verb", ["train", "eval", "bench", "pretrain"])
def test_every_verb_that_fills_a_folder_asks_for_it(verb: str, tmp_path: Path, policy_folder, capsys) -> None:
    folder = tmp_path / ("run" if verb != "pretrain" else "out/run")
    arguments = {
        "train": ["train", "rloo", "--policy", str(policy_folder), "--out", str(folder)],
        "eval": ["eval", "--policy", str(policy_folder), "--benchmark", "arith", "--limit", "1", "--out", str(folder)],
        "bench": ["bench", "tiny", "--only", "base", "--work", str(folder), "--results", str(tmp_path / "results")],
        "pretrain": ["pretrain", "--out", str(tmp_path / "out")],
    }[verb]
    with only_user_of(folder):
        assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert "error: another process uses this folder" in err
    assert "Traceback" not in err
    assert [path.name for path in folder.iterdir()] == [".lock"]  # nothing was touched


# ------------------------------------------------------------------------------------------------- signals


def test_a_worker_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(child), 10)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_suite_that_is_ended_leaves_no_workers(how: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repirl", "bench", "tiny", "--only", "rloo", "--jobs", "1"]
    command += ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    # What a shell starts in the background ignores SIGINT, and so does all that it starts.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    suite = subprocess.Popen(command, **pipes, text=True, start_new_session=True, preexec_fn=listening)
    try:
        wait_until(lambda: (tmp_path / "work" / "rloo-arith-s0" / "config.json").is_file(), 90)
        workers = [int(pid) for pid in Path(f"/proc/{suite.pid}/task/{suite.pid}/children").read_text().split()]
        assert workers
        os.kill(suite.pid, how)
        _, err = suite.communicate(timeout=60)
        wait_until(lambda: all(map(gone, workers)), 20)
    finally:
        suite.kill()
        suite.wait()
    if how is not signal.SIGKILL:
        assert suite.returncode == 130
        assert err.strip().splitlines()[-1] == "interrupted; the same command goes on from what is saved"
        assert "Traceback" not in err
    wait_until(lambda: free(tmp_path / "work" / "rloo-arith-s0"), 10)


def test_the_users_number_of_threads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [bench_run._threads(jobs) for jobs in (1, 8)] == [3, 3]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [bench_run._threads(jobs) for jobs in (1, 2, 8, 16)] == [8, 4, 1, 1]


# --------------------------------------------------------------------------------------------- what is kept


def test_json_is_valid_whatever_the_numbers_are(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [float("inf"), {"y": float("nan")}], "z": 1.5})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"x": [None, {"y": None}], "z": 1.5}
    run = RunFolder(tmp_path / "run", {})
    run.log({"step": 1, "a": float("-inf"), "b": {"c": float("nan")}})
    line = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "a": None, "b": {"c": None}}
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_kill_right_after_the_end_leaves_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    run.save_checkpoint({"step": 1})
    run.save_best(1, {"policy": {}})
    write_json(tmp_path / "done.json", {})  # the kill came before the rest of `finish`
    assert RunFolder(tmp_path, {}).done == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "done.json"]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
