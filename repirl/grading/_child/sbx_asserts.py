"""Assert-style tests without the program in the same process.

Two processes share a socket. The *server* holds the program and performs what it is asked: look up a name, call,
read an attribute. The *tester* holds the tests, in which every name that the program must provide stands for a
`Remote`; arguments and results travel as plain data (sbx_codec), other objects stay with the server and are named by
number. So the expected values are never in the program's memory, and an object that calls itself equal to everything
is a `Remote` here, which is equal to nothing but itself.

Limits: functions of the tests cannot be passed to the program, and two program objects never compare equal.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import marshal
import sys
import types
from typing import Any

import sbx_codec
from sbx_programs import name_of, read_block, run_program, say, write_block

PEER_FD = 3  # the server's only descriptor; the tester talks to the grader on 3 and to the server on 4
SERVER_FD = 4


def serve() -> None:
    """The server: receives the program, then requests `[op, ...]`, until the tester hangs up."""
    source = read_block(PEER_FD).decode("utf-8", "surrogatepass")
    kept: list[Any] = []

    def keep(value: Any) -> list[Any]:
        kept.append(value)
        return ["h", len(kept) - 1, type(value).__name__[:80]]

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
            reply("ok", *_perform(request, namespace, kept, keep))
        except BaseException as error:  # noqa: BLE001 (reported as the program's own fault)
            reply("raise", name_of(error))


def _perform(request: list[Any], namespace: dict[str, Any], kept: list[Any], keep: Any) -> list[Any]:
    """The answer to one request: the form of the result and, for a call, those of changed arguments by position."""
    op, *rest = request
    if op == "name":
        value = namespace[rest[0]]
        return [["m", value.__name__]] if isinstance(value, types.ModuleType) else [sbx_codec.encode(value, keep)]
    target = kept[rest[0]]
    values = [sbx_codec.decode(form, lambda number, _: kept[number]) for form in rest[1:]]
    if op == "call":
        arguments, named = values
        result = sbx_codec.encode(target(*arguments, **named), keep)
        changed = {}
        for index, argument in enumerate(arguments):
            if isinstance(argument, (list, dict, set)):
                now = sbx_codec.encode(argument, keep)
                if now != rest[1][1 + index]:
                    changed[index] = now
        return [result, changed]
    if op == "set":
        setattr(target, *values)
        return [None]
    if op == "get":
        return [sbx_codec.encode(getattr(target, *values), keep)]
    if op == "next":
        try:
            return [sbx_codec.encode(next(target), keep)]
        except StopIteration:
            return [["end"]]
    simple = {"iter": iter, "len": len, "str": str, "repr": repr, "bool": bool, "item": lambda o, k: o[k]}
    result = simple[op](target, *values)
    return [keep(result) if op == "iter" else sbx_codec.encode(result, keep)]


class ProgramEnded(Exception):
    """The process with the program is gone."""


class NotSendable(Exception):
    """The tests pass something to the program that is not plain data."""


def _ask(*request: Any) -> list[Any]:
    try:
        write_block(SERVER_FD, json.dumps(request).encode())
        verdict, *answer = json.loads(read_block(SERVER_FD))
    except (EOFError, OSError):
        raise ProgramEnded from None
    if verdict == "ok":
        return answer
    error = getattr(builtins, str(answer[0]), None)
    if isinstance(error, type) and issubclass(error, Exception):
        raise error("raised by the program")
    raise type(str(answer[0]), (Exception,), {})("raised by the program")


def _value(form: Any) -> Any:
    return sbx_codec.decode(form, Remote)


def _form(value: Any) -> Any:
    def other(inner: Any) -> list[Any]:
        if type(inner) is Remote:
            return ["h", object.__getattribute__(inner, "_number"), ""]
        raise NotSendable(type(inner).__name__)

    return sbx_codec.encode(value, other)


class Remote:
    """An object of the program, seen from the tests. Equality is identity: nothing that the program defines."""

    __slots__ = ("_number", "_type_name")

    def __init__(self, number: int, type_name: str) -> None:
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type_name", type_name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result, changed = _ask("call", self._number, _form(args), _form(kwargs))
        for index, form in changed.items():
            argument, now = args[int(index)], _value(form)
            argument.clear()
            argument.extend(now) if isinstance(argument, list) else argument.update(now)
        return _value(result)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _value(_ask("get", self._number, name)[0])

    def __setattr__(self, name: str, value: Any) -> None:
        _ask("set", self._number, name, _form(value))

    def __getitem__(self, key: Any) -> Any:
        return _value(_ask("item", self._number, _form(key))[0])

    def __iter__(self) -> Any:
        iterator = _value(_ask("iter", self._number)[0])
        while (form := _ask("next", iterator._number)[0]) != ["end"]:
            yield _value(form)

    def __len__(self) -> int:
        return int(_value(_ask("len", self._number)[0]))

    def __bool__(self) -> bool:
        return _value(_ask("bool", self._number)[0]) is True

    def __str__(self) -> str:
        return str(_value(_ask("str", self._number)[0]))

    def __repr__(self) -> str:
        return str(_value(_ask("repr", self._number)[0]))


def _bind_names(tree: ast.Module, entry_point: str) -> dict[str, Any]:
    """What the tests read and do not make: from the program, save for what must not judge in its own cause.

    Builtins, and standard modules of which only attributes are read, are the tests' own. Only where the tests read
    nothing else of the program is a builtin that they call the function under test (MBPP has a `sum` of its own).
    """
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    bases = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    namespace: dict[str, Any] = {"__name__": "tests"}
    from_program = 0
    names = sorted({node.id for node in reads} | ({entry_point} if entry_point else set()))
    for name in names:
        if name != entry_point and hasattr(builtins, name):
            continue
        uses = [node for node in reads if node.id == name]
        if name in sys.stdlib_module_names and name != entry_point and all(node in bases for node in uses):
            namespace[name] = importlib.import_module(name)
        else:
            from_program += _bind(name, namespace)
    if not from_program:
        for name in names:
            if hasattr(builtins, name):
                _bind(name, namespace)
    if entry_point in namespace:
        namespace.setdefault("candidate", namespace[entry_point])
    return namespace


def _bind(name: str, namespace: dict[str, Any]) -> bool:
    """Puts the program's `name` into `namespace` if it has one: its value, or the same standard module."""
    try:
        form = _ask("name", name)[0]
    except KeyError:
        return False  # the tests define it themselves, or will raise NameError
    if not (isinstance(form, list) and form[:1] == ["m"]):
        namespace[name] = _value(form)
    elif str(form[1]).partition(".")[0] in sys.stdlib_module_names:
        namespace[name] = importlib.import_module(form[1])
    return True


def _is_test(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return False
    is_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    return is_call or any(isinstance(node, ast.Assert) for node in ast.walk(statement))


def run_tests(request: bytes) -> None:
    """The tester. Frames: `["total", n]`, then per test `["pass"]` or `["fail", reason]`; or `["load", error]`.

    Each top-level statement that holds an `assert`, and each top-level call such as `check(candidate)`, is one test;
    a failed one does not stop the next. Any other statement that fails ends the run.
    """
    source, code, entry_point = marshal.loads(request)
    write_block(SERVER_FD, source.encode("utf-8", "surrogatepass"))
    tree = ast.parse(code)
    say("total", max(1, sum(map(_is_test, tree.body))))
    try:
        verdict, problem = json.loads(read_block(SERVER_FD))
        if verdict != "ok":
            say("load", problem)
            return
        namespace = _bind_names(tree, entry_point)
    except (EOFError, ProgramEnded):
        say("stop", "ProgramEnded", "")
        return
    for statement in tree.body:
        try:
            exec(compile(ast.Module([statement], []), "<tests>", "exec", dont_inherit=True), namespace)
        except (NotSendable, ProgramEnded) as error:
            say("stop", name_of(error), str(error))
            return
        except BaseException as error:  # noqa: BLE001 (a failed test, with its reason)
            say("fail", name_of(error))
            if not _is_test(statement):
                return
        else:
            if _is_test(statement):
                say("pass")
    if not any(map(_is_test, tree.body)):
        say("pass")
