"""Completion in the shell, by the script that typer installs: names, fast, without torch."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ASK = "import sys; from repirl.cli.main import run; sys.argv[0] = 'repirl'; sys.exit(run())"


def offered(line: str, cwd: Path) -> set[str]:
    """What bash is offered at the end of a command line."""
    words = line.split(" ")
    environment = {**os.environ, "_REPIRL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, cwd=cwd, timeout=60)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "there", "not_there"),
    [
        ("repirl train re", {"repirl"}, {"rloo"}),
        ("repirl eval --benchmark paper", {"paper-math", "paper-code"}, {"arith"}),
        ("repirl bench tiny", {"tiny", "tiny-full"}, {"adapt"}),
        ("repirl judge ", {"random", "oracle", "qwen-prm:", "runs/mine"}, {"runs/other"}),
        ("repirl judge random processbench/m", {"processbench/math"}, {"arith"}),
        ("repirl compa", {"compare"}, {"train"}),
        ("repirl train rloo --polic", {"--policy"}, {"--seed"}),
        ("repirl scale --approach re", {"rebase"}, {"beam"}),
        ("repirl score random sol", set(), {"random"}),
    ],
)
def test_names_are_offered(tmp_path: Path, line: str, there: set[str], not_there: set[str]) -> None:
    (tmp_path / "runs" / "mine" / "reward").mkdir(parents=True)
    (tmp_path / "runs" / "other").mkdir()
    found = offered(line, tmp_path)
    assert there <= found
    assert not found & not_there


@pytest.mark.parametrize(
    "shell",
    [
        {"_REPIRL_COMPLETE": "complete_zsh"},
        {"_REPIRL_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    ],
    ids=["zsh", "fish"],
)
def test_other_shells_are_offered_the_same(tmp_path: Path, shell: dict[str, str]) -> None:
    environment = {**os.environ, **shell, "_TYPER_COMPLETE_ARGS": "repirl bench tiny"}
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stderr == ""
    assert "tiny-full" in done.stdout
    assert "adapt" not in done.stdout


def test_it_is_quick(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "rloo" in offered("repirl train rl", tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1


def test_paths_are_offered_beside_names(tmp_path: Path) -> None:
    from repirl.cli.completing import policy_names, reward_names

    (tmp_path / "prm").mkdir()
    (tmp_path / "prm.txt").touch()
    assert reward_names(str(tmp_path / "pr")) == [str(tmp_path / "prm") + "/", str(tmp_path / "prm.txt")]
    assert policy_names("ti") == ["tiny"]
