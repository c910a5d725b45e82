"""The sandbox's server: isolates itself once, then forks a child per program and says how each ended.

Started as `python -P -s -S -B -X utf8 sbx_zygote.py FD MODE` with an empty environment. FD is a packet socket to the
grader, MODE `namespaces` or `plain`. It never sees a program: the grader sends, with each job, the descriptor of a
socket of its own, from which the forked child reads what to run and to which it writes what came out. The server
learns only limits, keeps the deadline, kills everything in its process namespace afterwards and empties the scratch folder.

Jobs (marshal, from the grader): a dict with `number`, `kind`, `wall_s` and the limits of `set_limits`. A number alone, in
digits, is the wish to stop that job; it may come when the job has ended, and is nothing then.
Answers (JSON): `{"ready": ...}` once, then per job `{"exit", "signal", "cpu_s", "timed_out", "spent"}` or `{"fault": text}`.
`spent` says that the scratch folder could not be emptied: the job's end stands, and the server ends with it.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import array
import builtins
import contextlib
import gc
import json
import marshal
import select
import signal
import socket
import time
from typing import Any, NoReturn

import sbx_isolation as iso
import sbx_programs
import sbx_seccomp
import sbx_serve
import sbx_tester
import sbx_wipe
from sbx_setup import PID_MARK, State, finish_isolation, isolate_with_namespaces

del sys.path[0]

WALL_STRETCH = 4.0  # also known to sandbox_server.py
WALL_SLICE_S, WORKING_SHARE = 0.25, 0.01
# What programs usually import: loaded once here instead of once per program.
PRELOADED = "bisect collections copy datetime decimal fractions functools heapq itertools math operator random re string"
PRELOADED += " statistics types typing"


def cpu_time_s(pid: int) -> float:
    """Processor time of another process, from its clock (see clock_getcpuclockid(3)): there is no /proc here."""
    return time.clock_gettime((~pid << 3) | 2)


class Server:
    """Forks a child per job and waits for it."""

    def __init__(self, control: socket.socket, state: State) -> None:
        self.control, self.state = control, state
        self.alone = os.getpid() == 1  # every other process in the namespace is a program's
        self.wake_r, self.wake_w = os.pipe()
        for fd in (self.wake_r, self.wake_w):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.poll.register(self.wake_r, select.POLLIN)

    def serve(self) -> None:
        """Until the grader hangs up."""
        while True:
            packet, fds = self.receive()
            if not packet:
                return
            if packet.isdigit():  # a stop that came too late
                continue
            try:
                answer = self.run(marshal.loads(packet), fds)
            except (OSError, EOFError, ValueError, TypeError, LookupError) as error:
                answer = {"fault": f"{type(error).__name__}: {error}"}
            self.control.send(json.dumps(answer).encode())
            if answer.get("spent"):
                return

    def receive(self) -> tuple[bytes, list[int]]:
        """One packet and the descriptors with it; empty when the grader is gone."""
        room = socket.CMSG_SPACE(4 * 4)
        packet, ancillary, _, _ = self.control.recvmsg(4096, room)
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        return packet, list(fds)

    def run(self, job: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """One job from fork to the last trace of it."""
        if job["kind"] == "asserts":
            server_end, tester_end = socket.socketpair()
            watched = self.fork(job, [fds[0], tester_end.fileno()])
            pids = [watched, self.fork({**job, "kind": "serve"}, [server_end.fileno()])]
            server_end.close()
            tester_end.close()
        else:
            watched = self.fork(job, fds)
            pids = [watched]
        for fd in fds:
            os.close(fd)
        ended = self.wait(watched, pids, job["wall_s"], b"%d" % job["number"])
        timed_out = watched not in ended
        self.kill_rest(pids, ended)
        program_status, program_usage = ended[pids[-1]]
        code = os.waitstatus_to_exitcode(program_status)
        cpu_s = program_usage.ru_utime + program_usage.ru_stime
        end = {"exit": max(code, 0), "signal": max(-code, 0), "cpu_s": cpu_s, "timed_out": timed_out}
        return end | {"spent": not self.wiped()}

    def wiped(self) -> bool:
        """Whether the scratch folder, if there is one, is empty for the next program; it is no part of this one's end."""
        if self.state.scratch:
            try:
                sbx_wipe.wipe(self.state.scratch)
            except OSError:
                return False
        return True

    def wait(self, watched: int, pids: list[int], wall_s: float, stop: bytes) -> dict[int, Any]:
        """Until `watched` ends, its time is up or the grader says `stop`; what ended by then.

        Time is up after `wall_s` for a program that then does nothing, after WALL_STRETCH times as much for one that
        works: on a busy machine it may not have had its processor time, which has a limit of its own.
        """
        ended: dict[int, Any] = {}
        started = time.monotonic()
        deadline, cpu_then = started + wall_s, -1.0
        while True:
            for pid in pids:
                if pid not in ended:
                    done, status, usage = os.wait4(pid, os.WNOHANG)
                    if done:
                        ended[pid] = (status, usage)
            if watched in ended:
                return ended
            now = time.monotonic()
            if now >= deadline:
                cpu_now = sum(cpu_time_s(pid) for pid in pids if pid not in ended)
                idle = cpu_then >= 0 and cpu_now - cpu_then < WORKING_SHARE * WALL_SLICE_S
                if idle or now >= started + WALL_STRETCH * wall_s:
                    return ended
                deadline, cpu_then = now + WALL_SLICE_S, cpu_now
            for fd, _ in self.poll.poll((deadline - now) * 1000 + 1):
                if fd == self.wake_r:
                    os.read(self.wake_r, 4096)
                    continue
                packet = self.control.recv(64)
                if not packet:
                    os._exit(0)  # the grader is gone, and with process 1 goes all the rest
                if packet == stop:
                    return ended

    def kill_rest(self, pids: list[int], ended: dict[int, Any]) -> None:
        """Kills and reaps the job's processes and, in a process namespace, whatever else is there."""
        for pid in pids:
            if pid not in ended:
                os.kill(pid, signal.SIGKILL)
        if self.alone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        for pid in pids:
            if pid not in ended:
                _, status, usage = os.wait4(pid, 0)
                ended[pid] = (status, usage)
        while self.alone:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def fork(self, job: dict[str, Any], fds: list[int]) -> int:
        """A child with `fds` as its descriptors 3, 4, ... that runs the job; returns its pid."""
        pid = os.fork()
        if pid == 0:
            self.child(job, fds)
        return pid

    def child(self, job: dict[str, Any], fds: list[int]) -> NoReturn:
        """In the child. Never returns, never raises."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            iso.prctl(iso.PR_SET_PDEATHSIG, signal.SIGKILL)
            for offset, fd in enumerate(fds):  # first out of the way, then into place
                os.dup2(fd, 100 + offset)
            os.closerange(3, 100)
            for offset in range(len(fds)):
                os.dup2(100 + offset, 3 + offset)
            os.closerange(100, 256)
            os._exit(self.run_job(job))
        except BaseException:  # noqa: BLE001 (the exit code says so; the grader sees an unfinished conversation)
            os._exit(113)

    def run_job(self, job: dict[str, Any]) -> int:
        """Reads the request, takes on the limits, runs. Returns the exit code."""
        kind = job["kind"]
        request = b"" if kind == "serve" else sbx_programs.read_block(3)
        if kind == "stdio":
            source, stdin = marshal.loads(request)
            text_fd = os.memfd_create("stdin")
            sbx_programs.write_all(text_fd, stdin)
            os.lseek(text_fd, 0, os.SEEK_SET)
            os.dup2(text_fd, 0)
            os.close(text_fd)
            os.dup2(4, 1)
            os.close(4)
        threads = job["threads"] if self.state.own_user else None
        iso.set_limits(job["cpu_s"], job["memory_bytes"], job["file_bytes"], job["open_files"], threads)
        if self.state.program_filter:
            own = self.state.program_filter.replace(PID_MARK.to_bytes(4, sys.byteorder), os.getpid().to_bytes(4, sys.byteorder))
            sbx_seccomp.install(iso.libc, own)
        random_module = sys.modules["random"]
        random_module.seed(0)  # the same program gets the same verdict
        if kind == "functional":
            sbx_programs.functional(*marshal.loads(request))
        elif kind == "stdio":
            return sbx_programs.stdio(source)
        elif kind == "serve":
            sbx_serve.serve()
        else:
            sbx_tester.run_tests(request)
        return 0


def main() -> None:
    """Isolates, reports, serves."""
    inherited, mode = int(sys.argv[1]), sys.argv[2]
    control = socket.socket(fileno=os.dup(inherited))  # a low number, among those that every child closes
    os.close(inherited)
    del sys.argv[1:]
    os.environ.clear()
    for name in PRELOADED.split():
        __import__(name)
    builtins.exit = builtins.quit = sys.exit  # scripts use them; Python without `site` has none
    state = State()
    try:
        if mode == "namespaces":
            isolate_with_namespaces(state, "/proc/self")
        finish_isolation(state, mode)
    except (OSError, KeyError) as error:
        control.send(json.dumps({"fault": f"{type(error).__name__}: {error}"}).encode())
        return
    ready = {"missing": state.missing, "own_user": state.own_user, "private_files": state.scratch is not None}
    control.send(json.dumps({"ready": ready | {"seccomp": bool(state.program_filter)}}).encode())
    os.dup2(0, 2)  # up to here the grader wanted to read what went wrong
    gc.collect()
    gc.freeze()  # the collector of a child then leaves these pages alone, so they stay shared
    Server(control, state).serve()


main()
