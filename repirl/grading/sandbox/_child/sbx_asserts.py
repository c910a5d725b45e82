"""Assert-style tests without the program in the same process.

Two processes share a socket. The *server* (sbx_serve) holds the program and performs what it is asked: look up a name,
call, read an attribute. The *tester* (here) holds the tests, in which every name that the program must provide stands for a
`Remote`; arguments and results travel as plain data (sbx_codec), other objects stay with the server and are named by
number. So the expected values are never in the program's memory, and an object that calls itself equal to everything
is a `Remote` here, which is equal to nothing but itself.

An exception that leaves the program arrives with its message, its plain arguments and its classes; `except` knows the
program's own classes of exceptions by name. A StopIteration arrives as a RuntimeError, as out of a generator: it would
end the loops of the tests quietly.

Limits: functions of the tests cannot be passed to the program, and two program objects never compare equal.
"""

from __future__ import annotations

import json
import sys
import types
from collections import deque
from collections.abc import Iterator
from itertools import count, cycle, islice, repeat
from typing import Any

import sbx_codec
from sbx_programs import read_block, write_block
from sbx_serve import of_library

SERVER_FD = 4  # on 3 the tester talks to the grader
MAX_ITERATED = 1_000_000  # members of an iterator that the tests pass


class ProgramEnded(BaseException):
    """The process with the program is gone. Not an Exception, so that no `except` of the tests takes it for the
    program's; nor is the next one."""


class NotSendable(BaseException):
    """The tests pass something of their own to the program that is not plain data."""


class ProgramStopped(RuntimeError):
    """A StopIteration that left the program."""


ProgramStopped.__name__ = "StopIteration"  # what it is called in a reason


class Tester:
    """What happened in the tests so far."""

    checks = 0
    asked = False  # the program had a say in what the tests did
    end: BaseException | None = None  # why they cannot go on


def end(why: BaseException) -> BaseException:
    Tester.end = Tester.end or why
    return why


def ask(*request: Any) -> list[Any]:
    Tester.asked = Tester.asked or request[0] != "name"
    try:
        write_block(SERVER_FD, json.dumps(request).encode())
        verdict, *answer = json.loads(read_block(SERVER_FD))
    except (EOFError, OSError):
        raise end(ProgramEnded()) from None
    if verdict == "ok":
        return answer
    raise _error_of(*answer)


class _Errors:
    """The body of every class of exceptions that stands for one of the program's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __str__(self) -> str:
        arguments = self.args  # type: ignore[attr-defined]
        return self.__dict__.get("_message", str(arguments[0]) if len(arguments) == 1 else str(arguments or ""))

    def __getattr__(self, name: str) -> Any:
        number = self.__dict__.get("_number")
        if number is None or name.startswith("__"):
            raise AttributeError(name)
        return value_of(ask("get", number, name)[0])


_ERROR_BODY = {name: vars(_Errors)[name] for name in ("__init__", "__str__", "__getattr__")}
_own_errors: dict[int, type[BaseException]] = {}  # by number
_own_numbers: dict[type, int] = {}


def new_error_class(name: str, bases: tuple[type, ...]) -> Any:
    name = name if name.isidentifier() else "ProgramError"
    try:
        return type(name, bases, dict(_ERROR_BODY))
    except TypeError:  # bases that do not go together here
        return type(name, bases[:1], dict(_ERROR_BODY))


def class_of(form: list[Any]) -> Any:
    """The class of exceptions behind a form: the same one of the standard library, else one made to stand for it.

    Of what does not derive from Exception only SystemExit is itself: GeneratorExit, say, ends a generator quietly.
    """
    number, module, name, bases = form
    found = getattr(sys.modules.get(module), name, None) if module.partition(".")[0] in sys.stdlib_module_names else None
    if isinstance(found, type) and issubclass(found, (StopIteration, StopAsyncIteration)):
        return ProgramStopped
    if isinstance(found, type) and issubclass(found, (Exception, SystemExit)):
        return found
    if number not in _own_errors:
        above = tuple(dict.fromkeys(map(class_of, bases))) if found is None else ()
        _own_errors[number] = new_error_class(name, above or (Exception,))
        _own_numbers[_own_errors[number]] = number
    return _own_errors[number]


def _error_of(class_form: list[Any], message: str, arguments: Any, number: int) -> BaseException:
    kind = class_of(class_form)
    error = _made(kind, value_of(arguments), message)
    error.__dict__.update(_message=message, _number=number)
    return error


def _made(kind: Any, given: Any, message: str) -> BaseException:
    if kind not in _own_numbers:
        try:
            error = kind(*given)
            if str(error) == message:
                return error
            return type(kind.__name__, (kind,), {"__str__": _ERROR_BODY["__str__"]})(*given)  # an OSError of a file
        except Exception:  # noqa: BLE001 (it takes other arguments than it keeps, as JSONDecodeError does)
            kind = new_error_class(kind.__name__, (kind,))
    return kind.__new__(kind, *given)


def value_of(form: Any) -> Any:
    return sbx_codec.decode(form, Remote)


def _form(value: Any) -> Any:
    return sbx_codec.encode(value, _other_form)


def _other_form(value: Any) -> list[Any]:
    """What stands for an object of the program, or for something of the standard library.

    Raises NotSendable, but TypeError, which fails the test, on what may come from the program's answers (such as a method
    of a list, or an iterator over a range without end): a program must not be able to choose that it is not graded.
    """
    if type(value) is Remote:
        return ["h", object.__getattribute__(value, "_number"), ""]
    if isinstance(value, type) and value in _own_numbers:
        return ["h", _own_numbers[value], ""]
    if isinstance(value, BaseException) and "_number" in value.__dict__:
        return ["h", value.__dict__["_number"], ""]
    if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] in sys.stdlib_module_names:
        return ["g", value.__name__, ""]
    if (name := _library_name(value)) is not None:
        return ["g", *name]
    if isinstance(value, Iterator) and type(value).__module__ in _OF_ANSWERS:
        members = list(islice(value, MAX_ITERATED + 1))
        if len(members) <= MAX_ITERATED:
            return ["it", *map(_form, members)]
        if not isinstance(value, (count, cycle, repeat)):
            raise TypeError("an iterator with too many members")
    module = (value if isinstance(value, type) else type(value)).__module__
    if module == __name__ or (module in _OF_ANSWERS and isinstance(value, (type, *_METHODS))):
        raise TypeError("this may be something of the program")
    raise end(NotSendable(type(value).__name__))


_METHODS = (types.BuiltinMethodType, types.MethodWrapperType)  # of an object
_OF_ANSWERS = ("builtins", "itertools", "collections", "_collections")  # modules of the types that plain data leads to


def _library_name(value: Any) -> tuple[str, str] | None:
    """Module and name of a function, method or class of the standard library."""
    name = getattr(value, "__qualname__", None)
    module = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", None)
    if not (isinstance(name, str) and isinstance(module, str) and module.partition(".")[0] in sys.stdlib_module_names):
        return None
    try:
        return (module, name) if of_library(module, name) is value else None
    except (ImportError, AttributeError):
        return None


class Remote:
    """An object of the program, seen from the tests. Equality is identity: nothing that the program defines."""

    __slots__ = ("_number", "_type_name")

    def __init__(self, number: int, type_name: str) -> None:
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type_name", type_name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result, changed = ask("call", self._number, _form(args), _form(kwargs))
        for key, form in changed.items():
            argument, now = kwargs[key] if key in kwargs else args[int(key)], value_of(form)
            argument.clear()
            argument.extend(now) if isinstance(argument, (list, deque)) else argument.update(now)
        return value_of(result)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return value_of(ask("get", self._number, name)[0])

    def __setattr__(self, name: str, value: Any) -> None:
        ask("set", self._number, name, _form(value))

    def __getitem__(self, key: Any) -> Any:
        return value_of(ask("item", self._number, _form(key))[0])

    def __iter__(self) -> Any:
        iterator = value_of(ask("iter", self._number)[0])
        while (form := ask("next", iterator._number)[0]) != ["end"]:
            yield value_of(form)

    def __next__(self) -> Any:
        form = ask("next", self._number)[0]
        if form == ["end"]:
            raise StopIteration
        return value_of(form)

    def __len__(self) -> int:
        return int(value_of(ask("len", self._number)[0]))

    def __bool__(self) -> bool:
        return value_of(ask("bool", self._number)[0]) is True

    def __str__(self) -> str:
        return str(value_of(ask("str", self._number)[0]))

    def __repr__(self) -> str:
        return str(value_of(ask("repr", self._number)[0]))
