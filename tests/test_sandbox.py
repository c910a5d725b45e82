"""The sandbox itself: its levels, its servers and what becomes of them. The attacks are in `test_grading_attacks.py`."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from repirl.errors import UserError
from repirl.grading.code.grader import clear_cache, grade_programs
from repirl.grading.sandbox import runner as sandbox
from repirl.grading.sandbox import server as servers
from repirl.grading.sandbox.runner import Job, SandboxLimits, SandboxPool, run_jobs, sandbox_level
from repirl.types import Case, CodeTests, Verdict

LIMITS = SandboxLimits(wall_s=3.0, cpu_s=1, memory_mib=256)
strong = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")


def functional(expected: object, *args: object) -> CodeTests:
    return CodeTests("functional", "f", (Case(args=args, expected=expected),))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_program_cannot_judge_itself_with_builtins_of_its_own() -> None:
    tests = CodeTests("asserts", code="import math\nassert abs(f(1) - 5) < 1e-6\nassert math.isclose(f(1), 5)")
    cheat = "abs = lambda x: 0\nclass math:\n    isclose = lambda *a: True\ndef f(n): return 1"
    (verdict,) = grade_programs([(tests, cheat)], LIMITS)
    assert (verdict.outcome, verdict.tests_passed) == ("wrong", 0)


@strong
def test_stdio_floods_and_loops_end() -> None:
    tests = CodeTests("stdio", cases=(Case(stdin="1\n", stdout="1\n"),))
    programs = ["while True: print('x' * 10**5)", "import os\nos.write(1, b'2'); os._exit(0)", "print(1)\nwhile True: pass"]
    found = grade_programs([(tests, program) for program in programs], LIMITS)
    assert [v.reason.partition(" (")[0] for v in found] == ["too much output", "wrong answer", "timeout"]


@strong
def test_programs_do_not_see_each_other() -> None:
    write = "open('note', 'w').write('hello')\nimport builtins\nbuiltins.note = 'hello'\ndef f(): return 1"
    read = "def f():\n    try: return open('note').read()\n    except OSError: return note"
    pool = SandboxPool(workers=1)
    try:
        assert pool.level().level == "strong"
        first, second = (Job("functional", marshal.dumps((code, "f", [()]))) for code in (write, read))
        ends = pool.run([first, second], LIMITS)
        assert b'["value", 1]' in ends[0].frames
        assert b'["raise", "NameError"]' in ends[1].frames
    finally:
        pool.close()


def test_works_from_many_threads() -> None:
    clear_cache()
    results: dict[int, list[Verdict]] = {}

    def work(k: int) -> None:
        items = [(functional(k + i), f"def f(): return {k} + {i if i % 2 else i + 1}") for i in range(10)]
        results[k] = grade_programs(items, LIMITS)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(6):
        assert [v.outcome for v in results[k]] == ["wrong", "correct"] * 5


def test_a_forked_process_gets_its_own_sandbox() -> None:
    items = [(functional(1), "def f(): return 1  # forked")]
    grade_programs(items, LIMITS)
    clear_cache()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if grade_programs(items, LIMITS)[0].outcome == "correct" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    clear_cache()
    assert grade_programs(items, LIMITS)[0].outcome == "correct"


def test_nothing_is_left_when_the_process_ends() -> None:
    script = (
        "import sys, time\nfrom repirl.grading.sandbox import runner as sandbox\n"
        "from repirl.grading.code.grader import grade_programs\n"
        "from repirl.types import Case, CodeTests\n"
        "t = CodeTests('functional', 'f', (Case(expected=1),))\n"
        "assert grade_programs([(t, 'def f(): return 1')])[0].outcome == 'correct'\n"
        "print(*[s.process.pid for s in sandbox._pool._idle], flush=True)\n"
        "if sys.argv[1] == 'killed':\n    import os; os.kill(os.getpid(), 9)\n"
    )
    for how in ("normal", "killed"):
        done = subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, timeout=60)
        pids = [int(pid) for pid in done.stdout.split()]
        assert pids, done.stderr
        deadline = time.monotonic() + 10
        while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@strong
def test_a_server_that_dies_is_replaced_and_nothing_is_lost() -> None:
    grade_programs([(functional(1), "def f(): return 1 # warm up")], LIMITS)
    for server in list(sandbox._pool._idle):
        os.kill(_children(server.process.pid)[0], 9)
    items = [(functional(i), f"def f(): return {i} # after a death") for i in range(5)]
    assert [v.outcome for v in grade_programs(items, LIMITS)] == ["correct"] * 5


def test_a_sandbox_that_cannot_work_gives_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = SandboxPool(workers=1)
    pool.level()
    monkeypatch.setattr(sandbox, "_pool", pool)
    pool.close()
    monkeypatch.setattr("repirl.grading.sandbox.server.SERVER_SCRIPT", Path("/nonexistent/server.py"))
    (verdict,) = grade_programs([(functional(1), "def f(): return 1 # no server")], LIMITS)
    assert verdict.outcome == "ungraded"
    assert verdict.reason.startswith("sandbox: the server process ended at start")


def _plain_pool(monkeypatch: pytest.MonkeyPatch) -> SandboxPool:
    pool = SandboxPool(workers=1, modes=("plain",))
    monkeypatch.setattr(sandbox, "_pool", pool)
    return pool


def test_weak_level_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = _plain_pool(monkeypatch)
    try:
        if pool.level().level == "none":
            pytest.skip("no system-call filter on this machine")
        assert pool.level().level == "weak"
        assert "network namespace" in pool.level().missing
        with pytest.raises(UserError, match="--allow-weak-sandbox"):
            run_jobs([], LIMITS)
    finally:
        pool.close()


SABOTEUR = """
import os, runpy, signal, sys
sys.path.insert(0, {folder!r})
import sbx_programs, sbx_wipe
sbx_wipe.WIPE_S = -1
read_block = sbx_programs.read_block
def read_and_break(fd):
    block = read_block(fd)
    if {mark!r} in block:
        os.kill(os.getppid(), signal.SIGKILL)
    return block
sbx_programs.read_block = read_and_break
runpy.run_path({script!r})
"""


def _sabotage(monkeypatch: pytest.MonkeyPatch, folder: Path, mark: bytes) -> None:
    """Servers that never empty their folder in time, and (at level weak) die of a program with `mark` in it."""
    script = servers.SERVER_SCRIPT
    (folder / "server.py").write_text(SABOTEUR.format(folder=str(script.parent), script=str(script), mark=mark))
    monkeypatch.setattr(servers, "SERVER_SCRIPT", folder / "server.py")


@strong
def test_a_folder_that_cannot_be_emptied_changes_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _sabotage(monkeypatch, tmp_path, b"no such program")
    pool = SandboxPool(workers=1)
    monkeypatch.setattr(sandbox, "_pool", pool)
    clear_cache()
    try:
        pool.level()
        first = list(pool._idle)
        program = "import os\ndef f():\n    open('x', 'w').close(); return len(os.listdir('.'))"
        found = grade_programs([(functional(k % 2), f"{program} # {k}") for k in range(6)], LIMITS)
        assert [v.outcome for v in found] == ["wrong", "correct"] * 3
        assert first[0] not in pool._idle  # it could not have given the next program an empty folder
    finally:
        pool.close()


def test_who_breaks_every_server_is_wrong_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _sabotage(monkeypatch, tmp_path, b"BREAK")
    pool = _plain_pool(monkeypatch)
    clear_cache()
    try:
        if pool.level().level == "none":
            pytest.skip("no system-call filter on this machine")
        programs = [f"def f(): return 1 # {'BREAK' if k < 6 else ''} {k}" for k in range(9)]
        script = CodeTests("stdio", cases=(Case(stdin="", stdout="1\n"),))
        asserts = CodeTests("asserts", code="assert f() == 1")
        items = [(functional(1), program) for program in programs]
        items += [(script, "print(1) # BREAK"), (asserts, programs[0]), (asserts, programs[8])]
        found = grade_programs(items, LIMITS, allow_weak_sandbox=True)
        assert [v.outcome for v in found] == ["wrong"] * 6 + ["correct"] * 3 + ["wrong", "wrong", "correct"]
        assert {v.reason for v in found} == {"broke the sandbox", ""}
    finally:
        pool.close()
        clear_cache()


def test_a_sandbox_that_breaks_with_every_program_gives_ungraded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _sabotage(monkeypatch, tmp_path, b"f")
    pool = _plain_pool(monkeypatch)
    clear_cache()
    try:
        if pool.level().level == "none":
            pytest.skip("no system-call filter on this machine")
        found = grade_programs([(functional(1), f"def f(): return {k}") for k in range(5)], LIMITS, allow_weak_sandbox=True)
        why = "sandbox: the sandbox keeps failing: the server process died"
        assert {(v.outcome, v.reason) for v in found} == {("ungraded", why)}
    finally:
        pool.close()
        clear_cache()


def test_limits_must_be_positive() -> None:
    with pytest.raises(UserError, match="wall_s"):
        SandboxLimits(wall_s=0)
