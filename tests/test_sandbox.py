"""The sandbox against hostile programs: each must end as wrong, in time, with no damage and nothing left behind."""

from __future__ import annotations

import marshal
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repirl.errors import UserError
from repirl.grading.code.grader import clear_cache, grade_programs
from repirl.grading.sandbox import runner as sandbox
from repirl.grading.sandbox.runner import Job, SandboxLimits, SandboxPool, run_jobs, sandbox_level
from repirl.types import Case, CodeTests, Verdict

LIMITS = SandboxLimits(wall_s=3.0, cpu_s=1, memory_mib=256)
SECRET = "SENTINEL-" + "4711-expected-value"
PASSWD = Path("/etc/passwd").read_text()
THIS_FILE = Path(__file__).read_text()
HERE = str(Path(__file__).resolve())

strong = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")


def functional(expected: object, *args: object) -> CodeTests:
    return CodeTests("functional", "f", (Case(args=args, expected=expected),))


# name: (program, expected value of f()); the expected value is what a successful attack would return
ATTACKS: dict[str, tuple[str, object]] = {
    "fork bomb": ("import os\ndef f():\n    while True: os.fork()", None),
    "stubborn fork bomb": (
        "import os\ndef f():\n    while True:\n        try: os.fork()\n        except OSError: pass",
        None,
    ),
    "thread bomb": (
        "import threading, time\ndef f():\n    while True:\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        None,
    ),
    "memory bomb": ("def f():\n    x = []\n    while True: x.append(bytearray(10**7))", None),
    "one huge allocation": ("def f(): return len(bytearray(10**11))", 10**11),
    "disk filler": (
        "import os\ndef f():\n    n = 0\n    while True:\n        with open(f'{n}', 'wb') as h: h.write(b'x' * 10**6)\n"
        "        n += 1",
        None,
    ),
    "one huge file": ("def f():\n    with open('x', 'wb') as h:\n        while True: h.write(b'x' * 10**6)", None),
    "folders without end": (
        "import os\ndef f():\n    while True:\n        os.mkdir('d'); os.chdir('d')",
        None,
    ),
    "unreadable folders": (
        "import os\ndef f():\n    os.makedirs('a/b/c'); open('a/b/c/x', 'w').close()\n"
        "    for d in ('a/b/c', 'a/b', 'a'): os.chmod(d, 0)\n    return 2",
        1,
    ),
    "endless loop": ("def f():\n    while True: pass", None),
    "endless loop on load": ("while True: pass", None),
    "endless sleep": ("import time\ndef f(): time.sleep(1000)", None),
    "catching everything": (
        "def f():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        None,
    ),
    "ignoring signals": (
        "import signal\ndef f():\n    for s in (signal.SIGTERM, signal.SIGXCPU): signal.signal(s, signal.SIG_IGN)\n"
        "    while True: pass",
        None,
    ),
    "raising the limits": (
        "import resource\ndef f():\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); return len(bytearray(10**9))",
        10**9,
    ),
    "huge result": ("def f(): return 'x' * 10**8", None),
    "endless printing": ("def f():\n    while True: print('x' * 10**6)", None),
    "endless frames": ("import os\ndef f():\n    while True: os.write(3, b'[\"value\", 1]\\n' * 10**4)", None),
    "huge integer": ("def f(): return 10 ** (10 ** 9)", 0),
    "long integer as text": ("import sys\nsys.set_int_max_str_digits(0)\ndef f(): return str(7 ** 10**7)", "7"),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(n=0): return f(n + 1)", 0),
    "deep native recursion": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\n"
        "def f(): return repr(A())",
        0,
    ),
    "deep result": ("def f():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x", []),
    "result that holds itself": ("def f():\n    x = []; x.append(x)\n    return x", [[]]),
    "hand-written deep frame": ("import os\ndef f():\n    os.write(3, b'[' * 10**6 + b'\\n'); os._exit(0)", []),
    "catastrophic regex": ("import re\ndef f(): return bool(re.match('(a+)+$', 'a' * 60 + 'b'))", False),
    "zip bomb": ("import zlib\ndef f():\n    z = zlib.compress(b'0' * 10**8)\n    return len(zlib.decompress(z) * 10)", 10**9),
    "reading /etc/passwd": ("def f(): return open('/etc/passwd').read()", PASSWD),
    "reading the repository": (f"def f(): return open({HERE!r}).read()", THIS_FILE),
    "reading through a link": (
        "import os\ndef f():\n    os.symlink('/etc/passwd', 'link')\n    return open('link').read()",
        PASSWD,
    ),
    "leaving by ..": ("def f(): return open('/tmp/../../../../etc/passwd').read()", PASSWD),
    "reading the environment": ("import os\ndef f(): return os.environ['SANDBOX_TEST_SECRET']", SECRET),
    "reading the native environment": (
        "import ctypes\ndef f():\n    g = ctypes.CDLL(None).getenv; g.restype = ctypes.c_char_p\n"
        "    return g(b'SANDBOX_TEST_SECRET').decode()",
        SECRET,
    ),
    "reading /proc": (
        "import os\ndef f():\n    for p in ('self', '1', str(os.getppid())):\n"
        "        s = open(f'/proc/{p}/environ', 'rb').read()\n        if b'SENTINEL' in s: return s\n    return b''",
        b"",
    ),
    "listing home": (
        "import os\ndef f(): return bool(os.listdir(os.path.expanduser('~root') + '/') or os.listdir('/home'))",
        True,
    ),
    "socket": ("import socket\ndef f():\n    socket.socket().connect(('127.0.0.1', PORT)); return 1", 1),
    "unix socket": ("import socket\ndef f(): return socket.socket(socket.AF_UNIX) is not None", True),
    "name lookup": ("import socket\ndef f(): return bool(socket.getaddrinfo('localhost', 80))", True),
    "killing the parent": (
        "import os\ndef f():\n    for p in (os.getppid(), 1, PARENT, -1):\n        try: os.kill(p, 9)\n"
        "        except OSError: pass\n    return 2",
        1,
    ),
    "signal through a descriptor": (
        "import fcntl, os\ndef f():\n    r, w = os.pipe()\n    fcntl.fcntl(r, 10, 9)\n"
        "    fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\n    return 1",
        1,
    ),
    "slowing the server": ("import os\ndef f():\n    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); return 1", 1),
    "limiting the server": (
        "import os, resource\ndef f():\n    resource.prlimit(os.getppid(), resource.RLIMIT_NPROC, (0, 0)); return 1",
        1,
    ),
    "ptrace": ("import ctypes, os\ndef f(): return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)", 0),
    "reading memory of others": (
        "import ctypes, os\ndef f(): return ctypes.CDLL(None).syscall(310, os.getppid(), 0, 0, 0, 0, 0)",
        0,
    ),
    "new namespace": ("import ctypes\ndef f(): return ctypes.CDLL(None).unshare(0x10000000)", 0),
    "mount": ("import ctypes\ndef f(): return ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None)", 0),
    "remount writable": ("import ctypes\ndef f(): return ctypes.CDLL(None).mount(None, b'/', None, 32, None)", 0),
    "becoming root": ("import os\ndef f():\n    os.setuid(0); return os.getuid()", 0),
    "starting a program": ("import subprocess\ndef f(): return subprocess.run(['/bin/true']).returncode", 0),
    "system": ("import os\ndef f(): return os.system('true')", 0),
    "unknown system call": ("import ctypes\ndef f(): return ctypes.CDLL(None).syscall(9999)", 0),
    "daemon": (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: time.sleep(600)\n"
        "    return 1",
        1,
    ),
    "threads that stay": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\ndef f(): return 2",
        1,
    ),
    "writing outside": ("def f():\n    open(CANARY, 'w').write('x'); return 1", 1),
    "deleting everything": (
        "import os\ndef f():\n    for top, dirs, files in os.walk('/', topdown=False):\n"
        "        for name in files + dirs:\n            try: os.remove(os.path.join(top, name))\n"
        "            except OSError: pass\n    return 2",
        1,
    ),
    "poisoning the standard library": (
        "import os\ndef f():\n    open(os.path.join(os.path.dirname(os.__file__), 'this.py'), 'a').write('#'); return 1",
        1,
    ),
    "equal to everything": (
        "class E:\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef f(): return E()",
        SECRET,
    ),
    "int equal to everything": ("class E(int):\n    def __eq__(self, o): return True\ndef f(): return E(3)", 4),
    "str equal to everything": ("class E(str):\n    def __eq__(self, o): return True\ndef f(): return E('a')", "b"),
    "list equal to everything": (
        "class E(list):\n    def __eq__(self, o): return True\n    def __len__(self): return 3\ndef f(): return E()",
        [1, 2, 3],
    ),
    "exit(0)": ("import sys\ndef f(): sys.exit(0)", None),
    "exit(0) on load": ("exit(0)", None),
    "_exit(0)": ("import os\ndef f(): os._exit(0)", None),
    "printing success": ("def f(): print('passed'); print('[\"value\", 1]'); return 2", 1),
    "hand-written frames": ('import os\ndef f():\n    os.write(3, b\'["pass"]\\n["value", true]\\n\' * 9); return 2', 1),
    "one frame too many": ("import os\ndef f():\n    os.write(3, b'[\"value\", 1]\\n'); return 1", 1),
    "rewriting builtins": (
        "import builtins, json, sys\nbuiltins.len = builtins.isinstance = lambda *a: True\n"
        "json.dumps = lambda *a, **k: '[\"value\", true]'\n"
        "for m in list(sys.modules.values()):\n    for k in ('encode', 'matches', 'say'):\n"
        "        if hasattr(m, k): setattr(m, k, lambda *a, **k: True)\ndef f(): return 2",
        SECRET,
    ),
    "emptying sys.modules": ("import sys\nsys.modules.clear()\ndef f(): return 2", 1),
    "searching frames and objects": (
        "import gc, sys\ndef f():\n    seen = [str(o) for o in gc.get_objects() if 'SENTI' 'NEL' in repr(o)[:10**5]]\n"
        "    frame = sys._getframe()\n    while frame:\n        seen += [str(v) for v in frame.f_locals.values()]\n"
        "        frame = frame.f_back\n    for s in seen:\n        i = s.find('SENTI' 'NEL-4')\n"
        "        if i >= 0: return s[i:i + 28]\n    return ''",
        SECRET,
    ),
    "exception that lies": (
        "class E(BaseException):\n    def __str__(self): return 'passed'\nE.__name__ = 'value'\ndef f(): raise E",
        None,
    ),
    "closing all descriptors": ("import os\nos.closerange(0, 100)\ndef f(): return 1", 1),
    "segmentation fault": ("import ctypes\ndef f(): return ctypes.string_at(0)", 0),
    "colliding keys": ("def f(): return {i * (2**61 - 1): 0 for i in range(60000)}", {0: 0}),
}


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    folder.chmod(0o777)
    path = folder / "canary"
    path.write_text("alive")
    path.chmod(0o666)
    return path


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server that would accept the connection of an attack."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def verdicts(canary: Path, port: int) -> dict[str, Verdict]:
    """All attacks, graded in one call, as in training: they must not harm each other's verdicts either."""
    os.environ["SANDBOX_TEST_SECRET"] = SECRET
    items = []
    for program, expected in ATTACKS.values():
        for name, value in (("CANARY", str(canary)), ("PARENT", os.getpid()), ("PORT", port)):
            program = program.replace(name, repr(value))
        items.append((functional(expected), program))
    started = time.monotonic()
    graded = grade_programs(items, LIMITS)
    assert time.monotonic() - started < len(ATTACKS) * LIMITS.wall_s  # each within its deadline, busy machine or not
    return dict(zip(ATTACKS, graded, strict=True))


@strong
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_ends_as_wrong(name: str, verdicts: dict[str, Verdict]) -> None:
    assert verdicts[name].outcome == "wrong", verdicts[name]
    assert verdicts[name].reason


@strong
def test_attacks_left_no_damage(verdicts: dict[str, Verdict], canary: Path) -> None:
    assert canary.read_text() == "alive"
    assert Path(HERE).read_text() == THIS_FILE
    good = grade_programs([(functional(3, 1, 2), "def f(a, b): return a + b")] * 2, LIMITS)
    assert [v.outcome for v in good] == ["correct"] * 2
    for server in sandbox._pool._idle:  # launcher, and process 1 of its namespace: nothing else
        assert len(_children(server.process.pid)) == 1
        assert _children(_children(server.process.pid)[0]) == []


@strong
def test_attacks_give_the_right_reasons(verdicts: dict[str, Verdict]) -> None:
    assert verdicts["endless loop"].reason.startswith("timeout")
    assert verdicts["endless sleep"].reason == "timeout (wall clock)"
    assert verdicts["memory bomb"].reason == "memory"
    assert verdicts["huge result"].reason in ("too much output", "memory")
    assert verdicts["endless frames"].reason == "too much output"
    assert verdicts["fork bomb"].reason == "exception: PermissionError"
    assert verdicts["reading /etc/passwd"].reason == "exception: FileNotFoundError"
    assert verdicts["segmentation fault"].reason == "killed: SIGSEGV"
    assert verdicts["int equal to everything"].reason == "wrong answer"
    assert verdicts["_exit(0)"].reason == "exit 0"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


ASSERTS = f"assert f(1) == {SECRET!r}\nassert f(2) == {SECRET!r}\n"
ASSERT_ATTACKS = {
    "equal to everything": "class E:\n    def __eq__(self, o): return True\ndef f(n): return E()",
    "exit": "import os\ndef f(n): os._exit(0)",
    "exit on load": "raise SystemExit(0)",
    "frames to the grader": "import os\ndef f(n):\n    for fd in range(3, 20):\n"
    "        try: os.write(fd, b'[\"pass\"]\\n' * 9)\n        except OSError: pass\n    os._exit(0)",
    "own builtins": "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.str = lambda *a: 'x'\ndef f(n): return 1",
    "searching": ATTACKS["searching frames and objects"][0].replace("def f()", "def f(n)"),
    "searching through the peer": "import os\ndef f(n):\n    return os.read(3, 10**5).decode()",
    "endless": "def f(n):\n    while True: pass",
    "handle of another": "def f(n): return f",
    "proxy": "class P:\n    def __getattr__(self, n): return lambda *a: True\ndef f(n): return P()",
}


@strong
@pytest.mark.parametrize("name", ASSERT_ATTACKS)
def test_attack_on_asserts_ends_as_wrong(name: str) -> None:
    tests = CodeTests("asserts", code=ASSERTS)
    (verdict,) = grade_programs([(tests, ASSERT_ATTACKS[name])], LIMITS)
    assert (verdict.outcome, verdict.tests_passed, verdict.tests_total) == ("wrong", 0, 2), verdict


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


WEAK_ATTACKS = (
    "fork bomb", "endless loop", "endless sleep", "memory bomb", "disk filler", "socket", "unix socket", "killing the parent",
    "signal through a descriptor", "slowing the server", "limiting the server", "ptrace", "reading memory of others",
    "writing outside", "poisoning the standard library", "starting a program", "daemon",
    "reading the environment",
)  # fmt: skip


def test_weak_level_still_contains(monkeypatch: pytest.MonkeyPatch, canary: Path, port: int) -> None:
    pool = _plain_pool(monkeypatch)
    try:
        if pool.level().level == "none":
            pytest.skip("no system-call filter on this machine")
        items = []
        for name in WEAK_ATTACKS:
            program, expected = ATTACKS[name]
            for mark, value in (("CANARY", str(canary)), ("PARENT", os.getpid()), ("PORT", port)):
                program = program.replace(mark, repr(value))
            items.append((functional(expected), program + "\n# weak"))
        if "landlock" not in pool.level().missing:
            items.append((functional(PASSWD), ATTACKS["reading /etc/passwd"][0]))
        items.append((functional(6), "import dataclasses\ndef f(): return sum([1, 2, 3])"))
        clear_cache()
        found = grade_programs(items, LIMITS, allow_weak_sandbox=True)
        assert [v.outcome for v in found] == ["wrong"] * (len(items) - 1) + ["correct"]
        assert canary.read_text() == "alive"
        assert _children(pool._idle[0].process.pid) == []
    finally:
        pool.close()
        clear_cache()


def test_limits_must_be_positive() -> None:
    with pytest.raises(UserError, match="wall_s"):
        SandboxLimits(wall_s=0)
