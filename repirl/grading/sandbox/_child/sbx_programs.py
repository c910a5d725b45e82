"""What a sandboxed process does with a program: run it, call it, and say what came out.

Everything here runs beside hostile code that may rewrite any of it. That is no loss: what leaves the process is only
ever a *claim* about outputs, and the expected values are not here.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import struct
import sys
import types
from typing import Any

import sbx_codec

CONVERSATION_FD = 3
_METHOD = re.compile(r"(\w+)(?:\(\))?\.(\w+)")  # compiled once, not in every child


def read_exactly(fd: int, count: int) -> bytes:
    """`count` bytes; raises EOFError when the other side hung up."""
    parts = []
    while count:
        part = os.read(fd, min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_block(fd: int) -> bytes:
    """A block with its length (4 bytes, network order) before it."""
    return read_exactly(fd, struct.unpack("!I", read_exactly(fd, 4))[0])


def write_all(fd: int, data: bytes) -> None:
    """Writes everything, however long it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_block(fd: int, data: bytes) -> None:
    """The counterpart of `read_block`."""
    write_all(fd, struct.pack("!I", len(data)) + data)


def frame_of(*parts: Any) -> bytes:
    """One frame for the grader: a JSON array on a line of its own."""
    return json.dumps(parts).encode() + b"\n"


def say(*parts: Any) -> None:
    """Sends one frame."""
    write_all(CONVERSATION_FD, frame_of(*parts))


def name_of(error: BaseException) -> str:
    """What to call an exception in a verdict."""
    return type(error).__name__[:80]


def run_program(source: str, module_name: str) -> dict[str, Any]:
    """Executes a program as a module of its own and returns its globals; what it raises passes through."""
    module = types.ModuleType(module_name)
    sys.modules[module_name] = module
    exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def find_entry(namespace: dict[str, Any], name: str) -> Any:
    """The method `name` of a class `Solution` (LeetCode's form), else the function of that name; None if neither.

    The class comes first because `name` may also have been imported by a star (`count` from itertools). A class may be
    named as well: `Solution.twoSum` and `Solution().twoSum` both are the method of an object that is made once.
    """
    class_name, method = "Solution", name
    if dotted := _METHOD.fullmatch(name):
        class_name, method = dotted.groups()
    solution = namespace.get(class_name)
    if isinstance(solution, type) and hasattr(solution, method):
        return getattr(solution(), method)
    return namespace.get(name)


def functional(source: str, entry_point: str, calls: list[tuple[Any, ...]]) -> None:
    """Frames: `["load", error]`, or for each call in order `["value", form]` or `["raise", error]`."""
    try:
        function = find_entry(run_program(source, "solution"), entry_point)
    except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
        say("load", name_of(error))
        return
    if not callable(function):
        say("load", "missing " + entry_point)
        return
    for arguments in calls:
        try:
            frame = frame_of("value", sbx_codec.encode(function(*arguments)))
        except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
            frame = frame_of("raise", name_of(error))
        write_all(CONVERSATION_FD, frame)


def stdio(source: str) -> int:
    """Runs the program as a script on the real descriptors 0 and 1. Frames: `["raise", error]` or `["end"]`.

    Returns the exit code: not 0 after `sys.exit` with a message or another number.
    """
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    frame: tuple[str, ...] = ("end",)
    code = 0
    try:
        try:
            run_program(source, "__main__")
        except SystemExit as error:  # the usual way to stop early; what was printed counts
            code = exit_code(error.code)
        if (threading := sys.modules.get("threading")) is not None:
            threading._shutdown()  # a script ends when its threads have ended
    except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
        frame = ("raise", name_of(error))
    try:
        if (atexit := sys.modules.get("atexit")) is not None:
            atexit._run_exitfuncs()
        flush_files()
    except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
        frame = ("raise", name_of(error))
    with contextlib.suppress(OSError):  # it may have closed the descriptor: what it printed counts
        say(*frame)
    return code


def exit_code(given: Any) -> int:
    """That of a script which ends by `sys.exit(given)`."""
    if given is None or isinstance(given, int):
        return ((given & 0xFF) or 1) if given else 0
    return 1


def flush_files() -> None:
    """What an interpreter does at its end: writes what is left in the buffers, first of `sys.stdout`, then of all files."""
    if not getattr(sys.stdout, "closed", False):
        sys.stdout.flush()
    for thing in gc.get_objects():
        if issubclass(type(thing), (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            with contextlib.suppress(Exception):
                thing.flush()
