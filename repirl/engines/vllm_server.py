"""vLLM of another Python: servers on this machine that this process starts, talks to and ends.

A server listens on a Unix socket in a folder that only its user can enter: what a sync needs (`VLLM_SERVER_DEV_MODE`) lets
whoever reaches the server run any method of its workers, and a port of the loopback is open to everybody on the machine.
"""

from __future__ import annotations

import atexit
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from repirl.engines.vllm_backend import WORKER, Answer, Ask, OnRow, environment, is_of_torchrun
from repirl.engines.vllm_settings import VllmSettings
from repirl.errors import EngineFault, UserError
from repirl.processes import die_with_parent

MODEL = "policy"
_EXTENSION = Path(__file__).with_name(f"{WORKER.split('.')[0]}.py")
_LONGEST_SOCKET = 103
"""Bytes of the path of a Unix socket (Linux: 107, macOS: 103)."""
_LOG_LINES = 20
"""Of the server's log, shown when it does not come up."""
_ROWS_AT_A_TIME = 64
"""Of a request for scores."""


T = TypeVar("T")
R = TypeVar("R")


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ServerBackend:
    """As many vLLM servers as the settings say, which come up together and share out the work.

    UserError if one does not come up; EngineFault if one ends or refuses something later.
    """

    def __init__(self, arguments: dict[str, Any], settings: VllmSettings) -> None:
        self._settings = settings
        self.servers: list[Server] = []
        _have_room_for_files(2 * settings.servers * settings.max_num_seqs + 1024)
        try:
            # In this thread: Linux ends a child with the thread that started it (see `die_with_parent`).
            for gpus in settings.gpus_of_each:
                self.servers.append(Server(arguments, settings, gpus))
            while False in [server.is_up() for server in self.servers]:  # all are asked: one may have ended
                time.sleep(0.2)
        except BaseException:
            self.close()
            raise

    def sample(self, asks: Sequence[Ask], on_row: OnRow) -> list[Answer]:
        return self._shared(Server.sample, asks, self._settings.max_num_seqs, on_row)

    def score(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        parts = [rows[start : start + _ROWS_AT_A_TIME] for start in range(0, len(rows), _ROWS_AT_A_TIME)]
        return [row for part in self._shared(Server.score, parts, 1) for row in part]

    def call(self, method: str, *arguments: str) -> list[Any]:
        pool = ThreadPoolExecutor(len(self.servers))
        try:
            found = pool.map(lambda server: server.post("/collective_rpc", {"method": method, "args": arguments}), self.servers)
            return [result for one in found for result in one["results"]]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def reset_prefix_cache(self) -> None:
        for server in self.servers:
            if not server.post("/reset_prefix_cache", {})["success"]:
                raise EngineFault("vLLM could not reset its prefix cache", "is somebody else using the server?")

    def _shared(
        self, do: Callable[[Server, T], R], tasks: Sequence[T], at_a_time: int, on_done: OnRow = lambda done: None
    ) -> list[R]:
        """`do(server, task)` of each task, in order, `at_a_time` of each server.

        A server begins with a run of neighbours, whose prompts it then has in its cache, and goes on with the ends of others'.
        """
        count = len(self.servers)
        waiting = [deque(range(i * len(tasks) // count, (i + 1) * len(tasks) // count)) for i in range(count)]
        running: dict[Future[R], tuple[int, int]] = {}
        done: SimpleQueue[Future[R]] = SimpleQueue()
        found: list[Any] = [None] * len(tasks)
        pool = ThreadPoolExecutor(count * at_a_time)

        def start(place: int) -> None:
            if own := waiting[place] or max(waiting, key=len):
                task = own.popleft() if own is waiting[place] else own.pop()
                future = pool.submit(do, self.servers[place], tasks[task])
                running[future] = place, task
                future.add_done_callback(done.put)

        try:
            for i in range(count * at_a_time):
                start(i % count)
            for number in range(1, len(tasks) + 1):
                future = done.get()
                place, task = running.pop(future)
                found[task] = future.result()
                start(place)
                on_done(number)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return found

    def close(self) -> None:
        servers, self.servers = self.servers, []
        for server in servers:
            server.send(signal.SIGTERM)
        for server in servers:
            server.close()


def _have_room_for_files(wanted: int) -> None:
    """Raise the limit of open files, usually 1024, as far as it may be: each request has a connection of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


class Server:
    """A process of the Python that the settings name. It ends with `close`, with this process, and with its parent."""

    def __init__(self, arguments: dict[str, Any], settings: VllmSettings, gpus: str | None) -> None:
        assert settings.python is not None
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="repirl-vllm-"))
        self._socket, self._log = self._folder / "socket", self._folder / "log"
        if len(os.fsencode(self._socket)) > _LONGEST_SOCKET:
            self._folder.rmdir()
            raise UserError("the path of temporary files is too long", str(self._folder.parent), "set TMPDIR to another folder")
        atexit.register(self.close)
        try:
            self._process = self._start(settings.python, arguments, gpus)
            self._until = time.monotonic() + settings.start_timeout_s
        except BaseException:
            self.close()
            raise

    def _start(self, python: Path, arguments: dict[str, Any], gpus: str | None) -> subprocess.Popen[bytes]:
        shipped = self._folder / "python"
        shipped.mkdir()
        shutil.copy(_EXTENSION, shipped)
        said = {"served_model_name": MODEL, "worker_extension_cls": WORKER, "uds": str(self._socket)}
        said |= {"disable_uvicorn_access_log": True}
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", *_options(arguments | said)]
        # Not this process's PYTHONPATH: its packages may be of another version of Python.
        more = {"PYTHONPATH": str(shipped), "VLLM_SERVER_DEV_MODE": "1"}
        more |= {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
        # Nor torchrun's variables: the server is a world of its own.
        inherited = {name: value for name, value in os.environ.items() if not is_of_torchrun(name)}
        try:
            with self._log.open("wb") as log:
                return subprocess.Popen(
                    command,
                    env={**inherited, **environment(), **more},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for this process, which then ends it
                    preexec_fn=partial(die_with_parent, os.getpid()),
                )
        except OSError as error:
            raise UserError("cannot start the Python for vLLM", str(python), error.strerror or "") from error

    def is_up(self) -> bool:
        """Whether it answers; UserError if it has ended, or takes too long."""
        if (code := self._process.poll()) is not None:
            self._give_up(f"the vLLM server ended with code {code} before it was up")
        if time.monotonic() > self._until:
            self._give_up(f"the vLLM server is not up after {self._settings.start_timeout_s:g} s")
        connection = _Connection(self._socket, timeout=10.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _give_up(self, what: str) -> None:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        print("\n".join(["the vLLM server's last lines:", *lines[-_LOG_LINES:]]), file=sys.stderr, flush=True)
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it said nothing")
        raise UserError(f"{what} ({said.strip()[:120]})", str(self._settings.python), "its last lines are above")

    def sample(self, ask: Ask) -> Answer:
        """One completion."""
        body = {"model": MODEL, "prompt": list(map(int, ask.prompt_ids)), "return_token_ids": True, **ask.fields}
        choice = self.post("/v1/completions", body)["choices"][0]
        token_ids = np.array(choice["token_ids"], dtype=np.int64)
        logprobs = np.array(choice["logprobs"]["token_logprobs"], dtype=np.float32)
        return Answer(token_ids, logprobs, choice["finish_reason"] == "stop")

    def score(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """What `Backend.score` gives for a few rows."""
        given = [list(map(int, row)) for row in rows]
        body = {"model": MODEL, "input": given, "task": "token_classify", "use_activation": False}
        return [np.array(one["data"], dtype=np.float32)[:, 0] for one in self.post("/pooling", body)["data"]]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON. A connection for each request: the server closes those that rest between two syncs."""
        connection = _Connection(self._socket, self._settings.request_timeout_s)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            code = self._process.poll()
            what = f"does not answer ({error or type(error).__name__})" if code is None else f"ended with code {code}"
            raise EngineFault(f"the vLLM server {what}", "run the same command again to go on from the checkpoint") from error
        finally:
            connection.close()
        if response.status != 200:
            said = " ".join(content.decode(errors="replace").split())[:300]
            raise EngineFault(f"the vLLM server refuses {path} ({response.status}: {said})", "report this, or use engine torch")
        return json.loads(content)

    def send(self, sign: signal.Signals) -> None:
        """A signal to the server and all that it started, as far as they are still there."""
        if (process := getattr(self, "_process", None)) is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sign)

    def close(self) -> None:
        """End it, and leave nothing."""
        atexit.unregister(self.close)
        for sign in (signal.SIGTERM, signal.SIGKILL):  # the second is for what the first left of its group
            self.send(sign)
            if (process := getattr(self, "_process", None)) is not None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
        shutil.rmtree(self._folder, ignore_errors=True)


def _options(arguments: dict[str, Any]) -> list[str]:
    """Engine arguments as options of the command line."""
    said: list[str] = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            said.append(f"--{option}" if value else f"--no-{option}")
        else:
            said += [f"--{option}", str(value)]
    return said
