"""Takes the sandbox's server from an ordinary process to an isolated one, and notes which layers it got."""

from __future__ import annotations

import os
import platform
import signal

import sbx_isolation as iso
import sbx_seccomp

MACHINE = platform.machine()
STDLIB = os.path.realpath(os.path.dirname(os.__file__))
PID_MARK = 0x7ABCDEF1  # above any pid


class State:
    """What this server could get from the kernel. `missing` maps a layer to why it is absent."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self.scratch: str | None = None  # the private folder; without one nothing can be written
        self.own_user = False
        self.program_filter = b""  # with PID_MARK for the program's own pid


def isolate_with_namespaces(state: State, proc_self_path: str) -> None:
    """The strong form. Forks: returns only in the new process 1, the caller waits for it and exits."""
    uid, gid, as_root = os.geteuid(), os.getegid(), os.geteuid() == 0
    if as_root:
        try:
            iso.unshare(iso.ALL_BUT_USER)
        except PermissionError:  # root of a container that may not: perhaps a user namespace is allowed
            as_root = False
    if not as_root:
        iso.unshare(iso.CLONE_NEWUSER | iso.ALL_BUT_USER)
        proc_self = os.open(proc_self_path, os.O_PATH | os.O_DIRECTORY)
        iso.map_own_user(uid, gid, proc_self)
        os.close(proc_self)
    fork_and_wait()
    iso.prctl(iso.PR_SET_PDEATHSIG, signal.SIGKILL)
    proc_self = os.open(proc_self_path, os.O_PATH | os.O_DIRECTORY)
    state.scratch = iso.private_root(MACHINE)
    state.own_user = True
    if as_root:
        iso.become_nobody()
        iso.prctl(iso.PR_SET_DUMPABLE, 1)  # or the files in /proc/self would belong to root
        try:
            iso.unshare(iso.CLONE_NEWUSER)
            iso.map_own_user(iso.NOBODY, iso.NOBODY, proc_self)
        except OSError as error:
            state.missing["user namespace"] = str(error)
    os.close(proc_self)


def fork_and_wait() -> None:
    """Continues in a child; the original process closes everything, waits for it and ends."""
    child = os.fork()
    if child == 0:
        return
    os.closerange(3, 256)
    os.waitpid(child, 0)
    os._exit(0)


def become_nobody_if_possible(state: State) -> None:
    """Leaves the root user, unless Python's own files would then be out of reach."""
    try:
        if not iso.readable_by_all(STDLIB):
            raise PermissionError(f"{STDLIB} is readable by root only")
        iso.become_nobody()
        state.own_user = True
    except OSError as error:
        state.missing["unprivileged user"] = str(error)


def finish_isolation(state: State, mode: str) -> None:
    """The layers common to both forms, for the rest of this process's life."""
    if mode == "plain":
        for layer in ("user namespace", "process namespace", "mount namespace", "network namespace", "ipc namespace"):
            state.missing[layer] = "not available"
        if os.geteuid() == 0:
            become_nobody_if_possible(state)
    iso.drop_capabilities(MACHINE)
    try:
        iso.landlock(["/"] if state.scratch else iso.python_paths(), [state.scratch] if state.scratch else [])
    except OSError as error:
        state.missing["landlock"] = str(error)
    iso.prctl(iso.PR_SET_DUMPABLE, 0)
    iso.prctl(iso.PR_SET_PDEATHSIG, signal.SIGKILL if os.getpid() == 1 else 0)  # credentials changed: it was cleared
    os.listdir(STDLIB)  # a server that cannot import would call good programs wrong
    try:
        sbx_seccomp.install(iso.libc, sbx_seccomp.server_filter(MACHINE, deny_writes=state.scratch is None))
        state.program_filter = sbx_seccomp.program_filter(MACHINE, PID_MARK)
    except (OSError, KeyError) as error:
        state.missing["seccomp"] = f"{type(error).__name__}: {error}"
