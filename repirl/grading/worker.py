"""One worker process of the pool: our end of its pipe, and the loop that it runs.

It is a fresh interpreter that imports nothing but the named function: it sees neither the caller's `__main__` module
(a script without a main guard is fine) nor torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from repirl.processes import die_with_parent

_BOOTSTRAP = (
    "import json, sys; spec = json.loads(sys.argv[1]); sys.path[:] = spec.pop('sys_path'); "
    "from repirl.grading.worker import worker_main; worker_main(**spec)"
)
# Verdicts must not depend on hash seeds (sympy orders terms by hash in places), nor on threads of BLAS.
_WORKER_ENV = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class PoolFault(RuntimeError):
    """A worker could not be started at all, or the pool was closed: a fault of ours, never an item's."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """`value` of one item, or why there is none: `timeout` or `crash` (exit status or exception in `detail`)."""

    status: Literal["ok", "timeout", "crash"]
    value: Any = None
    detail: str = ""


class Worker:
    """One worker process and our end of its pipe."""

    def __init__(self, function: str, preload: Sequence[str], memory_mib: int) -> None:
        self.usable = True
        self._function = function
        self._conn, theirs = multiprocessing.Pipe(duplex=True)
        spec = {
            "sys_path": [os.path.abspath(entry) for entry in sys.path],
            "fd": theirs.fileno(),
            "function": function,
            "preload": list(preload),
            "memory_bytes": memory_mib << 20,
            "parent_pid": os.getpid(),
        }
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, json.dumps(spec)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | _WORKER_ENV,
                start_new_session=True,  # Ctrl-C is for us: we end the workers ourselves
            )

    def wait_ready(self, deadline_s: float) -> None:
        try:
            if not self._conn.poll(deadline_s):
                raise PoolFault(f"a worker for {self._function} did not start within {deadline_s:g} s")
            status, detail = self._conn.recv()
        except (EOFError, OSError) as error:
            raise PoolFault(f"a worker for {self._function} ended while starting (exit {self._exit()})") from error
        if status != "ready":
            raise PoolFault(f"a worker for {self._function} could not start: {detail}")

    def run(self, item: Any, deadline_s: float) -> TaskResult:
        try:
            self._conn.send(item)
            if not self._conn.poll(deadline_s):
                self.usable = False
                self.kill()
                return TaskResult("timeout", detail=f"no result within {deadline_s:g} s")
            status, payload = self._conn.recv()
        except (EOFError, ConnectionError, OSError):
            self.usable = False
            return TaskResult("crash", detail=f"worker ended with status {self._exit()}")
        if status == "ok":
            return TaskResult("ok", value=payload)
        self.usable = status != "memory"
        return TaskResult("crash", detail=payload)

    def _exit(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout=5)
        return None

    def kill(self) -> None:
        """End the process; any thread may call it. A thread that waits in `run` or `wait_ready` notices at once."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the process and close our end of the pipe: for the one thread that owns this worker."""
        self.kill()
        self._conn.close()


def worker_main(fd: int, function: str, preload: list[str], memory_bytes: int, parent_pid: int) -> None:
    """The loop of a worker process: receive an item, send (`ok`, value), (`error`, text) or (`memory`, text)."""
    # A hung worker must not survive a parent that was killed: the pipe's end is noticed only between items.
    die_with_parent(parent_pid)
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    conn = Connection(fd)
    try:
        for name in preload:
            importlib.import_module(name)
        module, _, attribute = function.partition(":")
        call = getattr(importlib.import_module(module), attribute)
    except Exception:  # noqa: BLE001 - sent to the parent, which raises PoolFault
        conn.send(("failed", traceback.format_exc(limit=-3)))
        return
    conn.send(("ready", ""))
    while True:
        try:
            item = conn.recv()
        except (EOFError, ConnectionError):
            return
        try:
            reply = ("ok", call(item))
        except MemoryError:
            reply = ("memory", "MemoryError")
        except Exception as error:  # noqa: BLE001 - becomes the item's verdict `ungraded(crash)`
            reply = ("error", f"{type(error).__name__}: {str(error)[:200]}")
        conn.send(reply)
