"""Runs the attacks of `sandbox_attacks.py` in one arrangement and prints, as one line of JSON, how everything ended.

    python tests/run_attacks.py LEVEL HOW [--uid UID] [--quick]

LEVEL is `strong` or `weak`, HOW is `alone` (a call per program, an attack and its neighbours one after the other on the
same server) or `batch` (all in one call). `--uid`: goes on as that user first, which takes root. `--quick`: without those
attacks that end with a limit of time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import sandbox_attacks as table

from repirl.grading.code.grader import grade_programs
from repirl.grading.sandbox import runner as sandbox
from repirl.grading.sandbox._child import sbx_checks
from repirl.grading.sandbox.runner import SandboxLimits, SandboxPool
from repirl.types import CodeTests, Verdict

LIMITS = SandboxLimits(wall_s=1.5, cpu_s=1, memory_mib=256)
MODES = {"strong": ("namespaces",), "weak": ("plain",)}
WORKERS = {"alone": 1, "batch": 4}  # more than most machines have cores: some attacks only sleep
MANY_DESCRIPTORS = 300  # open in the grader, as in a training run: the sandbox's own then have high numbers
MS_MOVE = 8192
REPOSITORY = Path(__file__).resolve().parents[1]


def become(uid: int) -> None:
    """Goes on as an ordinary user, who can read this Python and this repository even where they lie below a closed folder."""
    sys.path.insert(0, str(Path(sbx_checks.__file__).parent))
    import sbx_isolation as iso

    paths = [os.path.realpath(p) for p in (sys.base_prefix, sys.prefix, REPOSITORY)]
    closed = {p: above for p in paths for above in map(str, Path(p).parents) if not os.stat(above).st_mode & 0o001}
    if closed:
        iso.unshare(iso.CLONE_NEWNS)
        iso.mount(None, "/", None, iso.MS_REC | iso.MS_PRIVATE)
        held = {path: tempfile.mkdtemp() for path in closed}
        for path, hold in held.items():
            iso.mount(path, hold, None, iso.MS_BIND | iso.MS_REC)
        for above in set(closed.values()):
            iso.mount("open", above, "tmpfs", 0, "mode=755,size=1m")
        for path, hold in held.items():
            os.makedirs(path, exist_ok=True)
            iso.mount(hold, path, None, MS_MOVE)
            os.rmdir(hold)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Surroundings:
    """What the attacks aim at; knows afterwards what they hit."""

    def __init__(self) -> None:
        self.kept = tempfile.TemporaryDirectory()
        self.folder = Path(self.kept.name)
        self.folder.chmod(0o777)
        self.canary = self.folder / "canary"
        self.canary.write_text("alive")
        self.canary.chmod(0o666)
        self.port = socket.create_server(("127.0.0.1", 0))
        self.letters = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.letters.bind(str(self.folder / "letters"))
        (self.folder / "letters").chmod(0o777)
        os.environ["SANDBOX_TEST_SECRET"] = table.SECRET
        self.descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(MANY_DESCRIPTORS)]

    def aim(self, program: str) -> str:
        """The program with our addresses in it."""
        marks = {"CANARY": str(self.canary), "LETTERBOX": str(self.folder / "letters"), "PARENT": os.getpid()}
        marks["PORT"] = self.port.getsockname()[1]
        for mark, value in marks.items():
            program = program.replace(mark, repr(value))
        return program

    def damage(self) -> list[str]:
        """What the attacks changed."""
        found = [] if self.canary.read_text() == "alive" else ["canary"]
        found += [] if Path(table.HERE).read_text() == table.THIS_FILE else ["this file"]
        for name, sock in (("letter", self.letters), ("connection", self.port)):
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.accept() if name == "connection" else sock.recv(100)
                found.append(name)
        for server in sandbox._pool._idle:  # at level strong a launcher, and process 1 of its namespace: nothing else
            inner = children(server.process.pid)
            left = children(inner[0]) if sandbox.sandbox_level().level == "strong" else inner
            found += [f"process {pid}" for pid in left]
        return found


def children(pid: int) -> list[int]:
    """The processes that `pid` has now."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run(level: str, how: str, quick: bool) -> dict[str, Any]:
    """Grades the table; see the top."""
    surroundings = Surroundings()
    sandbox._pool = SandboxPool(WORKERS[how], MODES[level])
    found = sandbox.sandbox_level()
    if found.level != level:
        return {"level": found.describe()}
    left_out = (table.SLOW if quick else frozenset()) | (table.READING if "landlock" in found.missing else frozenset())
    attacks = {name: attack for name, attack in table.attacks().items() if name not in left_out}
    others = cycle(kind for kind in table.NEIGHBOURS if kind != "files")
    order: list[tuple[str, CodeTests, str]] = []
    for number, (name, (tests, program)) in enumerate(attacks.items()):
        order.append((name, tests, surroundings.aim(program)))
        for kind in (["files"] if level == "strong" else []) + [next(others)]:
            honest, right = table.NEIGHBOURS[kind]
            order.append((f"neighbour: {kind} after {name}", honest, f"{right}\n# {number}"))
    calls = [order] if how == "batch" else [[one] for one in order]
    started = time.monotonic()
    ends = {}
    for call in calls:
        verdicts = grade_programs([(tests, program) for _, tests, program in call], LIMITS, allow_weak_sandbox=True)
        ends |= {name: described(verdict) for (name, *_), verdict in zip(call, verdicts, strict=True)}
    seconds = time.monotonic() - started
    return {"level": level, "ends": ends, "seconds": seconds, "damage": surroundings.damage()}


def described(verdict: Verdict) -> list[Any]:
    """A verdict as JSON."""
    return [verdict.outcome, verdict.tests_passed, verdict.reason, round(verdict.seconds or 0.0, 2)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("level", choices=MODES)
    parser.add_argument("how", choices=WORKERS)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.uid is not None:
        try:
            become(args.uid)
        except OSError as error:
            print(json.dumps({"level": f"no way to become user {args.uid}: {error}"}))
            return
    print(json.dumps(run(args.level, args.how, args.quick)))


if __name__ == "__main__":
    main()
