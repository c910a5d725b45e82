"""What processes owe each other: one user of a folder at a time, no worker that outlives its parent, no look at what a
process must not know."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repirl import parallel
from repirl.errors import UserError

LOCK_FILE = ".lock"
TURN_FILE = ".turn"
UNREADABLE = "REPIRL_UNREADABLE"
"""Variable of a process's environment: files and folders, as PATH has them, that it refuses to open."""
PARENT = "REPIRL_PARENT"
"""Variable of a process's environment: the id of the process with which it ends."""


@contextmanager
def only_user_of(folder: Path) -> Iterator[None]:
    """Hold `folder` for the while; UserError if another process (or another run of this one) holds it.

    The system gives the lock back when the process ends, however it ends; the empty lock file stays. Processes that train
    together are one user.
    """
    import fcntl

    if not parallel.is_first():
        yield
        return
    try:
        with _locked(folder / LOCK_FILE, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except _Held as error:
        raise UserError("another process uses this folder", str(folder), "wait for it, or give another folder") from error


@contextmanager
def turn_at(folder: Path) -> Iterator[None]:
    """Hold `folder` for the while, after every process that came before: what one has made there, the next finds.

    As with `only_user_of` the lock ends with its process. The two do not shut each other out.
    """
    import fcntl

    with _locked(folder / TURN_FILE, fcntl.LOCK_EX):
        yield


class _Held(Exception):
    """A lock that somebody has."""


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError as error:
            raise _Held from error
        yield


def die_with_parent(parent_pid: int) -> None:
    """End this process when the one that started it ends, even by a signal that nobody can catch (Linux)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it ended before we asked
            os._exit(1)


def end_with_parent() -> None:
    """`die_with_parent` of the process that `PARENT` names, if it names one."""
    if parent := os.environ.pop(PARENT, ""):
        die_with_parent(int(parent))


def refuse_unreadable() -> None:
    """From here on this process opens nothing under the paths that `UNREADABLE` names: PermissionError. It cannot be undone."""
    paths = tuple(os.path.realpath(path) for path in os.environ.get(UNREADABLE, "").split(os.pathsep) if path)
    if not paths:
        return

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        asked = os.path.realpath(os.fsdecode(arguments[0]))
        if any(asked == path or asked.startswith(path + os.sep) for path in paths):
            raise PermissionError(errno.EACCES, "this process must not read it", asked)

    sys.addaudithook(refuse)


def interrupt_on_sigterm() -> None:
    """SIGTERM ends the program as Ctrl-C does: what runs is stopped, what is kept is whole."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
