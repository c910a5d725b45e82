"""One sandbox server process, seen from the grader: start it, hand it a job, collect what came out, end it."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import SIGKILL
from typing import IO, Any, Literal

from repirl.errors import UserError

SERVER_SCRIPT = Path(__file__).resolve().parent / "_child" / "sbx_zygote.py"
START_DEADLINE_S = 30.0
# How much longer than a program's deadline the server may take to kill it and clean up.
GRACE_S = 15.0
WALL_STRETCH = 4.0  # see sbx_zygote.Server.wait
MAX_TIMEOUTS = 3  # of one program


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one program may use, over all its tests (`stdio`: per test). `threads` counts processes too.

    `wall_s` is for programs that wait: one that still works when it is over may go on to its `cpu_s`, or to four times
    `wall_s`, so that a busy machine does not make good programs wrong.
    """

    wall_s: float = 5.0
    cpu_s: int = 3
    memory_mib: int = 512
    file_mib: int = 16
    open_files: int = 64
    threads: int = 32
    output_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise UserError(f"sandbox limit {name} must be positive", value)


@dataclass(frozen=True, slots=True)
class Job:
    """One run. `request` is what the child reads first (marshalled, see sbx_programs); `capture` collects its stdout.

    `group` names the runs of one program: after MAX_TIMEOUTS of them ran out of time the others are not run.
    """

    kind: Literal["functional", "stdio", "asserts"]
    request: bytes
    capture: bool = False
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """How a job ended. `frames` and `stdout` are the program's claims, the rest is the kernel's and ours.

    `fault` is set when the sandbox itself failed, `not_run` when the group was given up, `broke` when one sandbox after the
    other failed with this program while others work; nothing else means anything then.
    """

    frames: bytes = b""
    stdout: bytes = b""
    exit_code: int = 0
    signal: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    timed_out: bool = False
    too_much_output: bool = False
    fault: str | None = None
    not_run: bool = False
    broke: bool = False

    def out_of_time(self, limits: SandboxLimits) -> bool:
        """Whether it was killed for the time that it took, by the clock or of the processor.

        The limit is kept by counting clock ticks, cpu_s is exact: on a busy machine they differ.
        """
        return self.timed_out or (self.signal == SIGKILL and self.cpu_s >= 0.7 * limits.cpu_s)


class ServerFault(Exception):
    """The server process could not start or does not answer."""


class Stream:
    """Our end of a descriptor that a child writes to, and for the conversation also the request still to be sent."""

    def __init__(self, sock: socket.socket, outgoing: bytes = b"") -> None:
        self.sock, self.outgoing = sock, memoryview(outgoing)
        self.chunks: list[bytes] = []
        self.size = 0
        self.open = True
        sock.setblocking(False)

    def send_some(self) -> None:
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]
        except BlockingIOError:
            return
        except OSError:  # the child is gone: its end tells why
            self.outgoing = memoryview(b"")

    def read_some(self, limit: int) -> None:
        try:
            while self.open and self.size <= limit:
                chunk = self.sock.recv(1 << 16)
                self.open = bool(chunk)
                self.chunks.append(chunk)
                self.size += len(chunk)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it ended without reading its request
            self.open = False


class Server:
    """One sandbox server process and the job that it runs."""

    def __init__(self, mode: str) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flags = ["-P", "-s", "-S", "-B", "-X", "utf8"]
        env = {"PYTHONHASHSEED": "0"}  # the same program prints a set in the same order everywhere
        env |= {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
        with tempfile.TemporaryFile() as stderr:
            try:
                self.process = subprocess.Popen(
                    [os.path.realpath(sys.executable), *flags, str(SERVER_SCRIPT), str(theirs.fileno()), mode],
                    env=env,
                    cwd="/",
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,  # Ctrl-C at the terminal is for us
                )
            except OSError as error:
                self.control.close()
                raise ServerFault(str(error)) from error
            finally:
                theirs.close()
            self.streams: list[Stream] = []
            self.started = self.deadline = 0.0  # of the running job, time.monotonic()
            self.polled = self.cancelled = False
            self.spent = False  # it ends after this answer, see sbx_zygote
            self.number = 0  # of the job
            self.ready: dict[str, Any] = self._first_answer(stderr)

    def _first_answer(self, stderr: IO[bytes]) -> dict[str, Any]:
        self.control.settimeout(START_DEADLINE_S)
        try:
            packet = self.control.recv(1 << 16)
            fault = None if packet else "the server process ended at start"
        except TimeoutError:
            packet, fault = b"", f"the server process did not start within {START_DEADLINE_S:g} s"
        answer: dict[str, Any] = json.loads(packet) if packet else {}
        if (fault := answer.get("fault", fault)) is not None:
            self.close()
            stderr.seek(0)
            last_line = stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ServerFault(f"{fault}: {last_line}" if last_line else fault)
        self.control.settimeout(GRACE_S)
        return answer["ready"]

    def begin(self, job: Job, limits: SandboxLimits) -> None:
        """Hands over a job."""
        ours, theirs = socket.socketpair()
        pairs = [(Stream(ours, struct.pack("!I", len(job.request)) + job.request), theirs)]
        if job.capture:
            ours, theirs = socket.socketpair()
            pairs.append((Stream(ours), theirs))
        self.streams = [stream for stream, _ in pairs]
        self.polled = self.cancelled = False
        self.started = time.monotonic()
        self.deadline = self.started + WALL_STRETCH * limits.wall_s + GRACE_S
        self.number += 1
        order = {"number": self.number, "kind": job.kind, "wall_s": limits.wall_s, "cpu_s": limits.cpu_s}
        order |= {"open_files": limits.open_files, "memory_bytes": limits.memory_mib << 20, "file_bytes": limits.file_mib << 20}
        order["threads"] = limits.threads
        self.streams[0].send_some()
        try:
            socket.send_fds(self.control, [marshal.dumps(order)], [theirs.fileno() for _, theirs in pairs])
        except OSError as error:
            raise ServerFault(f"the server process is gone: {error}") from error
        finally:
            for _, theirs in pairs:
                theirs.close()

    def cancel(self) -> None:
        """Asks for the running job to be killed now; if it has just ended, the server knows by the number."""
        if not self.cancelled:
            self.cancelled = True
            with contextlib.suppress(OSError):
                self.control.send(b"%d" % self.number)

    def finish(self, limits: SandboxLimits) -> Run:
        """The outcome, once the control socket has something to say."""
        try:
            packet = self.control.recv(1 << 16)
        except OSError as error:
            raise ServerFault(str(error)) from error
        answer = json.loads(packet or b'{"fault": "the server process died"}')
        if "fault" in answer:
            raise ServerFault(answer["fault"])
        self.spent = answer["spent"]
        for stream in self.streams:  # every writer is dead: what is in the buffers is all there will be
            stream.read_some(limits.output_bytes)
        claimed = [b"".join(stream.chunks) for stream in self.streams]
        too_much = any(stream.size > limits.output_bytes for stream in self.streams)
        self.drop_streams()
        return Run(
            frames=claimed[0],
            stdout=claimed[1] if len(claimed) > 1 else b"",
            exit_code=answer["exit"],
            signal=answer["signal"],
            cpu_s=answer["cpu_s"],
            wall_s=time.monotonic() - self.started,
            timed_out=answer["timed_out"] and not too_much,
            too_much_output=too_much,
        )

    def drop_streams(self) -> None:
        """Closes our ends."""
        for stream in self.streams:
            stream.sock.close()
        self.streams = []

    def hang_up(self) -> None:
        """Tells the server to end, without waiting."""
        self.drop_streams()
        self.control.close()

    def close(self) -> None:
        """Ends the server and everything in it, and reaps it. Safe to call twice."""
        self.hang_up()
        try:
            self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()  # process 1 of the namespace dies with the launcher, and all the rest with that
            self.process.wait()
