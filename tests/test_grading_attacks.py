"""Every attack of `sandbox_attacks.py` in every arrangement: by root and by an ordinary user, alone and in one batch."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sandbox_attacks import ESCAPES, SLOW

from repirl.grading.code.grader import grade_programs
from repirl.grading.sandbox.runner import SandboxLimits, sandbox_level
from repirl.types import Case, CodeTests

SCRIPT = Path(__file__).with_name("run_attacks.py")
ORDINARY_USER = 12345
WALL_S = 1.5  # of each program, see the script
strong = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")


@functools.cache
def run_attacks(who: str, level: str, how: str) -> dict[str, Any]:
    """What the script found; the attacks that take long are left to the batches at level strong."""
    is_root = os.geteuid() == 0
    if who == "root" and not is_root:
        pytest.skip("the tests are not run by root")
    command = [sys.executable, str(SCRIPT), level, how]
    command += ["--uid", str(ORDINARY_USER)] if who == "ordinary" and is_root else []
    command += [] if (level, how) == ("strong", "batch") else ["--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found["level"] != level:
        pytest.skip(f"as {who}: {found['level']}")
    return found


@pytest.mark.parametrize("how", ["alone", "batch"])
@pytest.mark.parametrize("level", ["strong", "weak"])
@pytest.mark.parametrize("who", ["root", "ordinary"])
def test_attacks_end_as_wrong_and_spare_their_neighbours(who: str, level: str, how: str) -> None:
    found = run_attacks(who, level, how)
    ends = found["ends"]
    bad = {n: e for n, e in ends.items() if (e[0], "neighbour" in n) not in (("wrong", False), ("correct", True))}
    assert bad == {}
    assert not [name for name, end in ends.items() if end[0] == "wrong" and (end[1] > 0 or not end[2])]
    assert found["damage"] == []
    # The clock stretches for programs that work on a busy machine; killing and cleaning up takes its time as well.
    assert max(end[3] for end in ends.values()) < 4 * WALL_S + 5
    assert found["seconds"] < len(ends) * WALL_S


@strong
def test_attacks_give_the_right_reasons() -> None:
    ends = run_attacks("root" if os.geteuid() == 0 else "ordinary", "strong", "batch")["ends"]
    reasons = {name: end[2] for name, end in ends.items()}
    assert reasons["endless loop"].startswith("timeout")
    assert reasons["endless sleep"] == "timeout (wall clock)"
    assert reasons["memory bomb"] == "memory"
    assert reasons["huge result"] in ("too much output", "memory")
    assert reasons["endless frames"] == "too much output"
    assert reasons["fork bomb"] == "exception: PermissionError"
    assert reasons["reading /etc/passwd"] == "exception: FileNotFoundError"
    assert reasons["segmentation fault"] == "killed: SIGSEGV"
    assert reasons["int equal to everything"] == "wrong answer"
    assert reasons["_exit(0)"] == "exit 0"
    assert reasons.keys() >= SLOW


@strong
def test_modules_left_in_the_folder_do_not_reach_the_next_program() -> None:
    poison = "for name in ('calendar', 'secrets', 'json'):\n    open(name + '.py', 'w').write('monthrange = 666')\n"
    victim = "import calendar, os\ndef f(): return [calendar.monthrange(2024, 2)[1], os.listdir('.')]"
    tests = CodeTests("functional", "f", (Case(expected=[29, []]),))
    programs = [poison + "def f(): return 0", victim, poison + victim]
    found = grade_programs([(tests, program) for program in programs], SandboxLimits(wall_s=3.0, cpu_s=1, memory_mib=256))
    assert [v.outcome for v in found[:2]] == ["wrong", "correct"]
    assert found[2].outcome == "wrong"  # it sees its own files, and still imports the real calendar


def test_tests_at_fault_are_still_told_from_programs_that_hide() -> None:
    faults = {
        "assert f(lambda: 1) == 7": "tests: they pass a function to the program",
        "import itertools\nassert f(itertools.count()) == 7": "tests: they pass a count to the program",
        "import numpy\nassert f(1) == 7": "tests: they import numpy, which is not in the sandbox",
        "for x in ():\n    assert f(x)": "tests: no assertion was executed",
    }
    right, same = "def f(x): return 7", "def f(x): return x"
    found = grade_programs([(CodeTests("asserts", code=code), right) for code in faults], allow_weak_sandbox=True)
    assert [(v.outcome, v.reason) for v in found] == [("ungraded", reason) for reason in faults.values()]
    codes = {tests for tests, _ in ESCAPES.values()}
    found = grade_programs([(CodeTests("asserts", code=code), same) for code in codes], allow_weak_sandbox=True)
    assert {v.outcome for v in found} == {"wrong", "correct"}
