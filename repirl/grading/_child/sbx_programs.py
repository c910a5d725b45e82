"""What a sandboxed process does with a program: run it, call it, and say what came out.

Everything here runs beside hostile code that may rewrite any of it. That is no loss: what leaves the process is only
ever a *claim* about outputs, and the expected values are not here.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import types
from typing import Any

import sbx_codec

CONVERSATION_FD = 3


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


def say(*frame: Any) -> None:
    """One frame to the grader: a JSON array on a line of its own."""
    write_all(CONVERSATION_FD, json.dumps(frame).encode() + b"\n")


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
    """The function called `name`, or the method of that name of a class `Solution`; None if there is neither."""
    if name in namespace:
        return namespace[name]
    solution = namespace.get("Solution")
    return getattr(solution(), name, None) if solution is not None else None


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
            frame = ("value", sbx_codec.encode(function(*arguments)))
        except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
            frame = ("raise", name_of(error))
        say(*frame)


def stdio(source: str) -> None:
    """Runs the program as a script on the real descriptors 0 and 1. Frames: `["raise", error]` or `["end"]`."""
    sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8", errors="surrogateescape")
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", errors="surrogateescape")
    frame: tuple[str, ...] = ("end",)
    try:
        run_program(source, "__main__")
        if (threading := sys.modules.get("threading")) is not None:
            threading._shutdown()  # a script ends when its threads have ended
    except SystemExit:
        pass  # the usual way to stop early; what was printed counts
    except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
        frame = ("raise", name_of(error))
    try:
        if (atexit := sys.modules.get("atexit")) is not None:
            atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
        frame = ("raise", name_of(error))
    say(*frame)
