"""More hostile programs: what the suite of `test_sandbox.py` does not try. Each must end as wrong, in its deadline."""

from __future__ import annotations

import time

import pytest

from repirl.grading.code.grader import clear_cache, grade_programs
from repirl.grading.sandbox.runner import SandboxLimits, sandbox_level
from repirl.types import Case, CodeTests, Verdict

LIMITS = SandboxLimits(wall_s=3.0, cpu_s=1, memory_mib=256)
SECRET = "SENTINEL-" + "1147-expected-value"
strong = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")

# name: (program, expected value of f()); the expected value is what a successful attack would return
ATTACKS: dict[str, tuple[str, object]] = {
    "os._exit in a thread": (
        "import os, threading\ndef f():\n    t = threading.Thread(target=os._exit, args=(0,))\n"
        "    t.start(); t.join(); return 2",
        1,
    ),
    "frames at exit": (
        "import atexit, os\natexit.register(lambda: os.write(3, b'[\"value\", 1]\\n'))\ndef f(): raise SystemExit(0)",
        1,
    ),
    "frames from a destructor": (
        "import os\nclass D:\n    def __del__(self): os.write(3, b'[\"value\", 1]\\n')\ndef f():\n    D(); return 2",
        1,
    ),
    "tracing the harness": (
        "import sys\nseen = []\n"
        "def trace(frame, event, arg):\n    seen.append(repr(frame.f_locals)[:10**5])\n    return trace\n"
        "sys.settrace(trace); sys.setprofile(trace)\n"
        "def f():\n    text = ''.join(seen); i = text.find('SENTI' 'NEL-1'); return text[i:i + 28]",
        SECRET,
    ),
    "rewriting the harness's code": (
        "import sys\nframe = sys._getframe()\nwhile frame.f_back:\n    frame = frame.f_back\n"
        "    for name, value in list(frame.f_globals.items()):\n        if callable(value) and hasattr(value, '__code__'):\n"
        "            try: value.__code__ = (lambda *a, **k: b'[\"value\", 1]\\n').__code__\n"
        "            except ValueError: pass\ndef f(): return 2",
        SECRET,
    ),
    "patched json, pickle, marshal and struct": (
        "import json, marshal, pickle, struct\nfor m in (json, marshal, pickle, struct):\n"
        "    for n in dir(m):\n        if n.startswith(('dump', 'load', 'pack', 'unpack')): "
        "setattr(m, n, lambda *a, **k: '[\"value\", 1]')\n"
        "def f(): return 2",
        SECRET,
    ),
    "reading inherited descriptors": (
        "import os\ndef f():\n    found = b''\n    for fd in range(64):\n        try:\n            os.set_blocking(fd, False)\n"
        "            found += os.read(fd, 10**5)\n        except OSError: pass\n"
        "    i = found.find(b'SENTI' b'NEL-1'); return found[i:i + 28].decode()",
        SECRET,
    ),
    "reading through /dev/fd": (
        "import os\ndef f(): return ''.join(open(f'/dev/fd/{n}').read(1000) for n in os.listdir('/dev/fd'))",
        SECRET,
    ),
    "swapping the conversation for a pipe": (
        "import os\nr, w = os.pipe()\nos.dup2(w, 3)\ndef f(): return 1",
        1,
    ),
    "signal storm": (
        "import signal\ndef f():\n    signal.signal(signal.SIGALRM, lambda *a: None)\n"
        "    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)\n    while True: pass",
        None,
    ),
    "stopping itself": ("import os, signal\ndef f(): os.kill(os.getpid(), signal.SIGSTOP)", None),
    "killing its process group": (
        "import os\ndef f():\n"
        "    for kill in (lambda: os.kill(0, 9), lambda: os.killpg(os.getpgid(0), 9), lambda: os.kill(-1, 9)):\n"
        "        try: kill()\n        except OSError: pass\n    return 2",
        1,
    ),
    "clone by number": (
        "import ctypes\ndef f():\n    pid = ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)\n"
        "    if pid == 0:\n        while True: pass\n    return pid > 0",
        True,
    ),
    "vfork by number": ("import ctypes\ndef f(): return ctypes.CDLL(None).syscall(58) > 0", True),
    "posix_spawn": ("import os\ndef f(): return os.posix_spawn('/bin/true', ['true'], {}) > 0", True),
    "terminal fork": ("import pty\ndef f(): return pty.fork()[0] > 0", True),
    "multiprocessing": (
        "import multiprocessing\ndef f():\n    with multiprocessing.get_context('fork').Pool(2) as p: return p.map(abs, [-1])",
        [1],
    ),
    "running a file from memory": (
        "import os\ndef f():\n    fd = os.memfd_create('x'); os.write(fd, b'#!/bin/true'); os.execve(fd, ['x'], {})",
        None,
    ),
    "running a file of its own": (
        "import os\ndef f():\n    open('x', 'w').write('#!/bin/true'); os.chmod('x', 0o755); os.execv('./x', ['x'])",
        None,
    ),
    "exotic system calls": (
        "import ctypes\ndef f():\n    call = ctypes.CDLL(None).syscall\n"
        "    return any(call(n, 0, 0, 0, 0, 0) >= 0 for n in\n"
        "        (321, 298, 323, 425, 248, 250, 175, 246, 169, 447, 438, 272, 308, 161))",
        True,
    ),
    "descriptor bomb": ("def f():\n    kept = []\n    while True: kept.append(open('/dev/null'))", None),
    "pipe bomb": (
        "import os\ndef f():\n    kept = []\n    while True:\n"
        "        kept.append(os.pipe()); os.set_blocking(kept[-1][1], False)\n"
        "        os.write(kept[-1][1], b'x' * 65536)",
        None,
    ),
    "shared memory": (
        "from multiprocessing.shared_memory import SharedMemory\ndef f(): return SharedMemory(create=True, size=9).size",
        9,
    ),
    "mapped memory bomb": ("import mmap\ndef f():\n    kept = []\n    while True: kept.append(mmap.mmap(-1, 1 << 24))", None),
    "deflate bomb to disk": (
        "import zipfile\ndef f():\n"
        "    with zipfile.ZipFile('z', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a', b'0' * 10**8)\n"
        "    zipfile.ZipFile('z').extractall('out'); return 1",
        1,
    ),
    "lzma bomb": (
        "import lzma\ndef f():\n    z = lzma.compress(b'0' * 5 * 10**7)\n"
        "    return sum(len(lzma.decompress(z)) for _ in range(10**4))",
        0,
    ),
    "long loops in C": ("def f(): return sum(range(10**12))", 0),
    "huge power": ("def f(): return pow(3, 10**10) % 10", 1),
    "huge shift": ("def f(): return (1 << 10**11) and 1", 1),
    "quadratic text": ("def f():\n    s = 'a'\n    while True: s = s.replace('a', 'ab' * 50)", None),
    "nested quantifiers": ("import re\ndef f(): return bool(re.fullmatch('((a*)*)*b', 'a' * 80))", False),
    "deadlock": ("import threading\ndef f():\n    a = threading.Lock(); a.acquire(); a.acquire()", None),
    "waiting for input": ("def f(): return input() or 1", 1),
    "debugger": ("def f():\n    breakpoint()\n    return 1", 1),
    "generator": ("def f(): return (x for x in [1])", [1]),
    "endless generator in a list subclass": (
        "class L(list):\n    def __iter__(self):\n        while True: yield 1\ndef f(): return L([2])",
        [1],
    ),
    "tuple equal to everything": ("class E(tuple):\n    def __eq__(self, o): return True\ndef f(): return E((2,))", (1,)),
    "dict equal to everything": (
        "class E(dict):\n    def __eq__(self, o): return True\n    def items(self): return [('a', 1)]\ndef f(): return E(b=2)",
        {"a": 1},
    ),
    "float equal to everything": (
        "class E(float):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0.0\ndef f(): return E(2.0)",
        1.0,
    ),
    "set equal to everything": ("class E(set):\n    def __eq__(self, o): return True\ndef f(): return E({2})", {1}),
    "bytes equal to everything": (
        "class E(bytes):\n    def __eq__(self, o): return True\n    def hex(self): return '61'\ndef f(): return E(b'b')",
        b"a",
    ),
    "false class": (
        "class E:\n    __class__ = property(lambda self: int)\n    def __index__(self): return 1\ndef f(): return E()",
        1,
    ),
    "reduce with effects": (
        "import os\nclass E:\n    def __reduce__(self): return (os.write, (3, b'[\"value\", 1]\\n'))\ndef f(): return E()",
        1,
    ),
    "text that claims to be": (
        "class E(str):\n    def __str__(self): return 'b'\n    __repr__ = __str__\ndef f(): return E('a')",
        "b",
    ),
    "recursive repr": ("class E:\n    def __repr__(self): return repr(self) + repr(self)\ndef f(): return str(E())", ""),
    "exception with a long name": ("E = type('x' * 10**7, (Exception,), {})\ndef f(): raise E", None),
    "deeply nested source": ("x = " + "(" * 5000 + "1" + ")" * 5000 + "\ndef f(): return 1", 1),
    "null bytes in the source": ("def f(): return 1\x00", 1),
    "long source": ("x = [" + "1," * 400_000 + "]\ndef f(): return 2", 1),
    "link to the root": ("import os\ndef f():\n    os.symlink('/proc/1/root', 'r'); return bool(os.listdir('r'))", True),
    "links in a circle": ("import os\ndef f():\n    os.symlink('b', 'a'); os.symlink('a', 'b'); return open('a').read()", ""),
    "hard link outside": ("import os\ndef f():\n    os.link('/etc/passwd', 'p'); return bool(open('p').read())", True),
    "renaming the scratch folder": ("import os\ndef f():\n    os.rename(os.getcwd(), '/elsewhere'); return 1", 1),
    "link in place of the scratch folder": (
        "import os\ndef f():\n    here = os.getcwd(); os.chdir('/'); os.rmdir(here); os.symlink('/usr', here); return 1",
        1,
    ),
    "leaving by a descriptor of the root": (
        "import os\ndef f():\n    fd = os.open('/', os.O_RDONLY); os.chdir('/tmp'); os.chroot('.'); os.fchdir(fd); return 1",
        1,
    ),
    "device nodes": ("import os, stat\ndef f():\n    os.mknod('d', 0o600 | stat.S_IFBLK, os.makedev(8, 0)); return 1", 1),
    "abort": ("import os\ndef f(): os.abort()", None),
    "freeing what is in use": (
        "import ctypes\ndef f():\n    ctypes.memset(id(f), 0, 64); return f",
        0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def graded() -> tuple[dict[str, Verdict], float]:
    """All attacks in one call, as in training, and how long they took together."""
    clear_cache()
    items = [(CodeTests("functional", "f", (Case(expected=expected),)), program) for program, expected in ATTACKS.values()]
    started = time.monotonic()
    verdicts = grade_programs(items, LIMITS)
    return dict(zip(ATTACKS, verdicts, strict=True)), time.monotonic() - started


@strong
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_ends_as_wrong(name: str, graded: tuple[dict[str, Verdict], float]) -> None:
    verdict = graded[0][name]
    assert (verdict.outcome, verdict.tests_passed) == ("wrong", 0), verdict
    assert verdict.reason


@strong
def test_attacks_keep_their_deadlines(graded: tuple[dict[str, Verdict], float]) -> None:
    verdicts, together = graded
    assert together < len(ATTACKS) * LIMITS.wall_s
    # WALL_STRETCH is for programs that work on a busy machine; killing and cleaning up takes its time as well.
    assert max(verdict.seconds or 0.0 for verdict in verdicts.values()) < 4 * LIMITS.wall_s + 5


@strong
def test_modules_left_in_the_folder_do_not_reach_the_next_program(graded: object) -> None:
    poison = "for name in ('calendar', 'secrets', 'json'):\n    open(name + '.py', 'w').write('monthrange = 666')\n"
    victim = "import calendar, os\ndef f(): return [calendar.monthrange(2024, 2)[1], os.listdir('.')]"
    tests = CodeTests("functional", "f", (Case(expected=[29, []]),))
    found = grade_programs([(tests, poison + "def f(): return 0"), (tests, victim), (tests, poison + victim)], LIMITS)
    assert [v.outcome for v in found[:2]] == ["wrong", "correct"]
    assert found[2].outcome == "wrong"  # it sees its own files, and still imports the real calendar


STDIO = CodeTests("stdio", cases=(Case(stdin="2\n", stdout=SECRET + "\n"),))
STDIO_ATTACKS = {
    "prints passed": "print('passed')",
    "exit 0": "raise SystemExit(0)",
    "_exit 0": "import os\nos._exit(0)",
    "frames": 'import os\nos.write(3, b\'["end"]\\n["value", true]\\n\')',
    "searches": "import gc\nfor o in gc.get_objects():\n    s = repr(o)[:10**5]\n    i = s.find('SENTI' 'NEL-1')\n"
    "    if i >= 0:\n        print(s[i:i + 28]); break",
    "reads descriptors": "import os\nfor fd in range(40):\n"
    "    try: print(os.pread(fd, 10**4, 0).decode())\n    except OSError: pass",
    "prints the input": "print(input())",
    "closes stdout": "import os\nos.close(1)",
    "stays": "import time, threading\nthreading.Thread(target=time.sleep, args=(600,)).start()\nprint('x')",
}


@strong
@pytest.mark.parametrize("name", STDIO_ATTACKS)
def test_attack_on_stdio_ends_as_wrong(name: str) -> None:
    (verdict,) = grade_programs([(STDIO, STDIO_ATTACKS[name])], LIMITS)
    assert (verdict.outcome, verdict.tests_passed, verdict.tests_total) == ("wrong", 0, 1), verdict


ASSERTS = CodeTests("asserts", code=f"assert f(1) == {SECRET!r}\nassert f([1]) is not None and f([1]) == {SECRET!r}")
ASSERT_ATTACKS = {
    "answers of its own": "import os, struct\ndef f(x):\n    for _ in range(9):\n"
    '        b = b\'["ok", ["n", "str"], {}]\'; os.write(3, struct.pack(\'!I\', len(b)) + b)\n    return 1',
    "endless answer": "import os, struct\ndef f(x):\n    os.write(3, struct.pack('!I', 2**32 - 1))\n"
    "    while True: os.write(3, b'x' * 65536)",
    "deep answer": "import os, struct\ndef f(x):\n    b = b'[' * 10**6\n"
    "    os.write(3, struct.pack('!I', len(b)) + b); os._exit(0)",
    "colliding answer": "def f(x): return {i * (2**61 - 1) for i in range(60000)}",
    "raises AssertionError": "def f(x): raise AssertionError('passed')",
    "raises StopIteration": "def f(x): raise StopIteration",
    "raises SystemExit": "def f(x): raise SystemExit(0)",
    "own str": "class E(str):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
    "def f(x): return E('a')",
    "own f": "class F:\n    def __call__(self, x): return self\n    def __eq__(self, o): return True\nf = F()",
    "changes the argument": "def f(x):\n    if isinstance(x, list): x[:] = [f] * 9\n    return x",
    "names of the tests": "assert_ = True\n__name__ = 'tests'\nimport sys\nsys.modules['tests'] = 1\ndef f(x): return 1",
}


@strong
@pytest.mark.parametrize("name", ASSERT_ATTACKS)
def test_attack_on_asserts_ends_as_wrong(name: str) -> None:
    (verdict,) = grade_programs([(ASSERTS, ASSERT_ATTACKS[name])], LIMITS)
    assert (verdict.outcome, verdict.tests_passed, verdict.tests_total) == ("wrong", 0, 2), verdict


@strong
def test_the_machine_is_as_it_was(graded: object) -> None:
    good = grade_programs(
        [(CodeTests("functional", "f", (Case(args=(1,), expected=2),)), "def f(x): return x + 1 # after")] * 2
    )
    assert [v.outcome for v in good] == ["correct"] * 2
