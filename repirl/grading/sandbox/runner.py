"""Runs generated programs in sandboxed processes: one small server process per worker, one forked child per program.

The server (`_child/sbx_zygote.py`) is a bare Python that isolates itself once; a program then costs a fork instead of
an interpreter start. This module shares servers among threads, keeps them busy, and returns what each program
*claims* to have computed with what the kernel says of its end. It compares nothing: see `code/judging.py`.

A program must not be able to choose that it, or another, is not graded. So its end is settled before its traces are
removed, and where a server breaks with it, it comes last and is tried against a program that is known to run. What
remains possible at level strong: it may use all that its limits allow, which slows others by the clock (hence
WALL_STRETCH); it may read from the counters of its file system (numbers of inodes) how many files those before it made;
where no user namespace can be had, all programs share one limit of threads; and a fault of the kernel. What remains at
level weak besides is in `_child/sbx_seccomp.py`.
"""

from __future__ import annotations

import atexit
import marshal
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from repirl.errors import UserError
from repirl.grading.sandbox.batch import Batch
from repirl.grading.sandbox.server import MAX_TIMEOUTS, Job, Run, SandboxLimits, Server, ServerFault

__all__ = ["MAX_TIMEOUTS", "Job", "Run", "SandboxLevel", "SandboxLimits", "SandboxPool", "run_jobs", "sandbox_level"]

CONTROL = Job("functional", marshal.dumps(("def f(): return 1", "f", [()])))  # runs wherever a sandbox works
NEEDED_FOR_STRONG = ("process namespace", "mount namespace", "network namespace", "ipc namespace", "seccomp")


@dataclass(frozen=True, slots=True)
class SandboxLevel:
    """What this machine gives.

    `strong`: own process, mount, network and ipc namespaces, a user of its own, a private root, and a system-call
    filter. `weak`: no process, socket or file change is possible (system-call filter), but one of the others is
    missing. `none`: programs are not run at all. `missing` maps an absent layer to the reason.
    """

    level: Literal["strong", "weak", "none"]
    missing: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """One line for `repirl check`."""
        layers_by_reason: dict[str, list[str]] = {}
        for layer, why in self.missing.items():
            layers_by_reason.setdefault(why, []).append(layer)
        parts = [f"{', '.join(layers)} ({why})" for why, layers in layers_by_reason.items()]
        return f"{self.level}; missing: {'; '.join(parts)}" if parts else self.level


def _cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SandboxPool:
    """Servers shared by all threads of this process; made when needed, at most `workers` of them.

    `modes` are tried in order: `namespaces` may give the strong level, `plain` at most the weak one.
    """

    def __init__(self, workers: int | None = None, modes: Sequence[str] = ("namespaces", "plain")) -> None:
        self.modes = tuple(modes)
        self.workers = workers or _cores()
        self._changed = threading.Condition()
        self._idle: list[Server] = []
        self._leased: set[Server] = set()
        self._starting = 0
        self._mode: str | None = None
        self._level: SandboxLevel | None = None
        self._probe = threading.Lock()

    def level(self) -> SandboxLevel:
        """Which level this machine gives; starts a server to find out, once."""
        with self._probe:
            if self._level is None:
                self._level = self._find_level()
            return self._level

    def _find_level(self) -> SandboxLevel:
        faults: dict[str, str] = {}
        for mode in self.modes:
            if sys.platform != "linux":
                return SandboxLevel("none", {"linux": f"the sandbox needs Linux, this is {sys.platform}"})
            try:
                server = Server(mode)
            except ServerFault as fault:
                faults[mode] = str(fault)
                continue
            self._mode = mode
            with self._changed:
                self._idle.append(server)
            missing = dict(server.ready["missing"])
            if "namespaces" in faults:
                missing = {k: faults["namespaces"] if k.endswith("namespace") else v for k, v in missing.items()}
            if not any(layer in missing for layer in NEEDED_FOR_STRONG) and server.ready["own_user"]:
                return SandboxLevel("strong", missing)
            contained = server.ready["seccomp"] or mode == "namespaces"
            return SandboxLevel("weak" if contained else "none", missing)
        return SandboxLevel("none", {f"sandbox server ({mode})": why for mode, why in faults.items()})

    def _lease(self, wanted: int) -> list[Server]:
        """Between one and `wanted` servers; waits while other threads hold all."""
        assert self._mode is not None
        with self._changed:
            while not self._idle and len(self._leased) + self._starting >= self.workers:
                self._changed.wait()
            dead = [server for server in self._idle if server.process.poll() is not None]
            self._idle = [server for server in self._idle if server not in dead]
            leased = [self._idle.pop() for _ in range(min(wanted, len(self._idle)))]
            room = self.workers - len(self._leased) - len(leased) - len(self._idle) - self._starting
            new = max(0, min(wanted - len(leased), room))
            self._leased.update(leased)
            self._starting += new
        try:
            for server in dead:
                server.close()
            for _ in range(new):
                server = Server(self._mode)
                leased.append(server)
                with self._changed:
                    self._leased.add(server)
        except ServerFault:
            if not leased:
                raise
        finally:
            with self._changed:
                self._starting -= new
                self._changed.notify_all()
        return leased

    def _give_back(self, servers: Sequence[Server], healthy: bool = True) -> None:
        for server in servers:
            if not healthy:
                server.close()
        with self._changed:
            self._leased.difference_update(servers)
            if healthy:
                self._idle.extend(servers)
            self._changed.notify_all()

    def run(self, jobs: Sequence[Job], limits: SandboxLimits) -> list[Run]:
        """Runs all jobs and returns their ends in the same order. The caller has checked the level.

        Where a server broke, a program that is known to run tells the two reasons apart: if it does not run either,
        the sandbox fails and so do all jobs that are left, else the others go on.
        """
        batch = Batch(jobs, limits)
        while batch.waiting:
            self._drive(batch)
            if batch.fault is None:
                continue
            control = Batch([CONTROL], SandboxLimits())
            while control.waiting:
                self._drive(control)
            if control.ends()[0].fault is None:
                batch.blame()
            else:
                batch.give_up(f"the sandbox keeps failing: {batch.fault}")
        return batch.ends()

    def _drive(self, batch: Batch) -> None:
        """Runs what waits, until it has ended or all servers that could be had are broken."""
        try:
            servers = self._lease(min(len(batch.waiting), self.workers))
        except ServerFault as fault:
            batch.give_up(str(fault))
            return
        try:
            batch.drive(servers)
        finally:
            self._give_back([s for s in servers if s not in batch.broken and s not in batch.busy])
            self._give_back([s for s in servers if s in batch.broken or s in batch.busy], healthy=False)

    def close(self) -> None:
        """Ends all idle servers; those leased end when their thread gives them back."""
        with self._changed:
            idle, self._idle = self._idle, []
        for server in idle:
            server.hang_up()
        for server in idle:
            server.close()

    def forget(self) -> None:
        """In a forked copy of this process: lets go of servers that belong to the original."""
        for server in [*self._idle, *self._leased]:
            server.hang_up()
            server.process.returncode = 0  # not our child: nothing to wait for


_pool = SandboxPool()


def _after_fork() -> None:
    """A forked copy of this process gets servers of its own."""
    global _pool
    _pool.forget()
    _pool = SandboxPool()


def use_workers(workers: int) -> None:
    """How many programs may run at once in this process (default: one per core)."""
    global _pool
    if workers < 1:
        raise UserError("the number of sandbox workers must be at least 1", workers)
    _pool.close()
    _pool = SandboxPool(workers)


os.register_at_fork(after_in_child=_after_fork)
atexit.register(lambda: _pool.close())


def sandbox_level() -> SandboxLevel:
    """What this machine gives, found out by starting a sandbox (once per process)."""
    return _pool.level()


def run_jobs(jobs: Sequence[Job], limits: SandboxLimits, allow_weak_sandbox: bool = False) -> list[Run]:
    """Runs programs and returns their ends in order; callable from any thread.

    Raises UserError where the machine's level is `weak` and that was not allowed, or is `none`.
    """
    level = sandbox_level()
    if level.level == "none":
        raise UserError("this machine gives no sandbox for generated code", level.describe(), "use Linux 5.13 or newer")
    if level.level == "weak" and not allow_weak_sandbox:
        raise UserError(
            "this machine gives only a weak sandbox for generated code",
            level.describe(),
            "allow user namespaces, or accept it with --allow-weak-sandbox",
        )
    return _pool.run(jobs, limits) if jobs else []
