"""The program's side of assert-style tests: holds the program and its objects, and does what the tester asks for.

The other side, and what travels between them, is in sbx_asserts.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import types
from collections import deque
from typing import Any

import sbx_codec
from sbx_programs import name_of, read_block, run_program, write_block

PEER_FD = 3  # the server's only descriptor
MAX_MESSAGE = 2000  # of an exception, in characters
MAX_ARGUMENTS = 10_000  # of an exception, as JSON


class _Kept:
    """What stays with the server, by number; a class has one number for good."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}

    def __call__(self, value: Any) -> list[Any]:
        return ["h", self.number(value), type(value).__name__[:80]]

    def number(self, value: Any) -> int:
        if isinstance(value, type) and id(value) in self.numbers:
            return self.numbers[id(value)]
        self.objects.append(value)
        if isinstance(value, type):
            self.numbers[id(value)] = len(self.objects) - 1
        return len(self.objects) - 1

    def class_form(self, kind: type) -> list[Any]:
        """A class of exceptions: its number, module and name, and its bases of the same form."""
        bases = [base for base in kind.__bases__ if issubclass(base, BaseException)]
        return [self.number(kind), str(kind.__module__), kind.__name__[:80], [self.class_form(base) for base in bases]]

    def error_form(self, error: BaseException) -> list[Any]:
        """An exception: the form of its class, its message, its arguments if they are plain, and its number."""
        message, arguments = "", None
        with contextlib.suppress(BaseException):  # the program's own `__str__`, or an argument that is an object
            message = str(error)[:MAX_MESSAGE]
            arguments = sbx_codec.encode(list(error.args), _refuse)
            error.__traceback__ = None  # it is kept, the frames need not be
        if arguments is None or len(json.dumps(arguments)) > MAX_ARGUMENTS:
            arguments = ["l", message]
        return [self.class_form(type(error)), message, arguments, self.number(error)]


def _refuse(value: Any) -> Any:
    raise ValueError(f"a {type(value).__name__} is not plain")


def of_library(module: str, name: str) -> Any:
    """What the tests name: a module of the standard library (no name), or something in it."""
    found: Any = importlib.import_module(module)
    for part in name.split(".") if name else ():
        found = getattr(found, part)
    return found


def serve() -> None:
    """The server: receives the program, then requests `[op, ...]`, until the tester hangs up."""
    source = read_block(PEER_FD).decode("utf-8", "surrogatepass")
    kept = _Kept()

    def reply(*answer: Any) -> None:
        write_block(PEER_FD, json.dumps(answer).encode())

    try:
        namespace = run_program(source, "solution")
        reply("ok", None)
    except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
        reply("raise", name_of(error))
        return
    while True:
        try:
            request = json.loads(read_block(PEER_FD))
        except EOFError:
            return
        try:
            reply("ok", *_perform(request, namespace, kept))
        except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
            reply("raise", *kept.error_form(error))


def _perform(request: list[Any], namespace: dict[str, Any], kept: _Kept) -> list[Any]:
    """The answer to one request: the form of the result and, for a call, those of changed arguments."""
    op, *rest = request
    if op == "name":
        value = namespace[rest[0]]
        if isinstance(value, types.ModuleType):
            return [["m", value.__name__]]
        if isinstance(value, type) and issubclass(value, BaseException):
            return [["e", kept.class_form(value)]]
        return [sbx_codec.encode(value, kept)]
    target = kept.objects[rest[0]]
    values = [sbx_codec.decode(form, lambda number, _: kept.objects[number], of_library) for form in rest[1:]]
    if op == "call":
        arguments, named = values
        result = sbx_codec.encode(target(*arguments, **named), kept)
        changed = {}
        sent = dict(zip(rest[2][1::2], rest[2][2::2], strict=True))
        given = [(index, argument, rest[1][1 + index]) for index, argument in enumerate(arguments)]
        for key, argument, form in given + [(name, argument, sent[name]) for name, argument in named.items()]:
            if isinstance(argument, (list, dict, set, deque)):
                now = sbx_codec.encode(argument, kept)
                if now != form:
                    changed[key] = now
        return [result, changed]
    if op == "set":
        setattr(target, *values)
        return [None]
    if op == "get":
        return [sbx_codec.encode(getattr(target, *values), kept)]
    if op == "next":
        try:
            return [sbx_codec.encode(next(target), kept)]
        except StopIteration:
            return [["end"]]
    simple = {"iter": iter, "len": len, "str": str, "repr": repr, "bool": bool, "item": lambda o, k: o[k]}
    result = simple[op](target, *values)
    return [kept(result) if op == "iter" else sbx_codec.encode(result, kept)]
