"""A disk that is full, a folder that is gone: one line, the old files whole, no litter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repirl.cli import main as cli
from repirl.learn.checkpoint import RunFolder
from repirl.paths import replace_file

SMALL = ["loop.steps=4", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "data.num_problems=16"]
SMALL += [
    "loop.sampling.max_new_tokens=16",
    "loop.validation.num_problems=2",
    "loop.validation.samples=1",
    "loop.validation.select=best",
]
SETTINGS = [part for change in SMALL for part in ("--set", change)]
# Files end at 64 KiB, as if the disk were full.
FULL = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); from repirl.cli.main import run; sys.exit(run(sys.argv[1:]))"
)


def said(err: str) -> str:
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("fault:")]
    return line


def test_a_full_disk_in_training_is_one_line_and_the_run_goes_on_later(tmp_path: Path, policy_folder) -> None:
    command = ["train", "rloo", "--policy", str(policy_folder), "--out", str(tmp_path / "run"), *SETTINGS]
    full = subprocess.run([sys.executable, "-c", FULL, *command], capture_output=True, text=True, timeout=300)
    assert full.returncode == 1
    line = said(full.stderr)
    assert str(tmp_path / "run" / "best-0.pt") in line
    assert "run the same command again" in line
    assert not list((tmp_path / "run").glob("*.tmp")) + list((tmp_path / "run").glob(".*.tmp"))
    assert cli.run(command) == 0
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert done["budget"]["policy_updates"] == 4


def test_a_folder_that_is_deleted_meanwhile_is_one_line(tmp_path: Path, policy_folder, capsys, monkeypatch) -> None:
    log = RunFolder.log

    def gone(run: RunFolder, metrics: dict) -> None:
        log(run, metrics)
        if metrics["step"] == 2:
            shutil.rmtree(run.path)

    monkeypatch.setattr(RunFolder, "log", gone)
    assert cli.run(["train", "rloo", "--policy", str(policy_folder), "--out", str(tmp_path / "run"), *SETTINGS]) == 1
    line = said(capsys.readouterr().err)
    assert str(tmp_path / "run") in line
    assert "deleted meanwhile" in line


def test_a_table_that_cannot_be_written_leaves_no_litter(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (tmp_path / "results").mkdir()
    assert cli.run(["leaderboard", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]) == 1
    line = said(capsys.readouterr().err)
    assert "README.md" in line
    assert "No space left" in line
    assert "free some space" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]
    assert (tmp_path / "out" / "README.md").read_text() == "old"


def test_what_a_killed_writer_left_goes_when_the_folder_is_opened(tmp_path: Path) -> None:
    (tmp_path / ".best-0.pt.4711.tmp").write_bytes(b"half")
    RunFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_runtime_error_of_a_writer_names_the_file(tmp_path: Path) -> None:
    def fail(file) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos\nmore")

    with pytest.raises(OSError, match="unexpected pos") as error:
        replace_file(tmp_path / "a.pt", fail)
    assert error.value.filename == str(tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_torch_writes_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """torch closes its archive on the way out and complains of it, which would hide the interrupt."""
    import torch

    class Interrupts:
        def __reduce__(self) -> str:
            raise KeyboardInterrupt

    (tmp_path / "a.pt").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "a.pt", lambda file: torch.save({"x": torch.ones(3), "y": Interrupts()}, file))
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "a.pt", _closes_badly)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert (tmp_path / "a.pt").read_bytes() == b"old"


def _closes_badly(file) -> None:
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
