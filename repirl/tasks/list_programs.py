"""Follows small list functions line by line, without running them: an interpreter of the few forms that `minicode` needs.

A form that it does not know, a name that is not there or a value out of bounds ends the walk: nothing generated is executed
(docs/design.md rule 10).
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

LONGEST, WIDEST = 200, 4096
"""Items of a list and bits of a number at most."""

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Mod: operator.mod,
    ast.FloorDiv: operator.floordiv,
}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.GtE: operator.ge,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_HEAD = re.compile(r"def f\((\w{1,20})\):\s*")
Values = dict[str, Any]


class Unknown(Exception):
    """What the interpreter does not follow."""


def check_lines(text: str, inputs: Sequence[list[int]], states: Sequence[Sequence[list[int]]]) -> list[bool]:
    """Whether each line of a function f of one list is right; `states[k][i]` is what input i is after k operations.

    The head is right if it is one; a line of the body if the argument's name then holds, for all inputs, what it should after
    as many operations as before it or more; `return` if what it gives is what all operations do. Blank lines count as no step.
    What comes after a wrong line is wrong.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    labels: list[bool] = []
    head = _HEAD.fullmatch(lines[0]) if lines else None
    worlds: list[Values] = [{head[1]: list(one)} for one in inputs] if head else []
    done = 0
    for at, line in enumerate(lines):
        if at == 0:
            labels.append(head is not None)
            continue
        reached = None
        if all(labels) and head is not None:
            reached = _after(line, head[1], worlds, states, done)
        labels.append(reached is not None)
        done = done if reached is None else reached
    return labels


def _after(line: str, name: str, worlds: list[Values], states: Sequence[Sequence[list[int]]], done: int) -> int | None:
    """How many operations are done after the line; None if it is wrong. Changes the worlds."""
    try:
        statement = _statement(line)
        if isinstance(statement, ast.Return):
            values = [_value(statement.value, world) for world in worlds]
            return len(states) - 1 if values == [list(one) for one in states[-1]] else None
        for world in worlds:
            _run(statement, world)
    except (Unknown, SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return None
    values = [world.get(name) for world in worlds]
    return next((k for k in range(done, len(states)) if values == [list(one) for one in states[k]]), None)


def _statement(line: str) -> ast.stmt:
    if len(line) > LONGEST:
        raise Unknown("a long line")
    statements = ast.parse(line.strip()).body
    if len(statements) != 1:
        raise Unknown("several statements")
    return statements[0]


def _run(statement: ast.stmt, world: Values) -> None:
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        world[statement.targets[0].id] = _value(statement.value, world)
    elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
        old = _value(ast.Name(statement.target.id), world)
        world[statement.target.id] = _bounded(_binary(statement.op)(old, _value(statement.value, world)))
    elif isinstance(statement, ast.For) and isinstance(statement.target, ast.Name) and not statement.orelse:
        for item in _items(_value(statement.iter, world)):
            world[statement.target.id] = item
            for inner in statement.body:
                if isinstance(inner, ast.For):
                    raise Unknown("a loop in a loop")
                _run(inner, world)
    else:
        raise Unknown(type(statement).__name__)


def _value(node: ast.expr | None, world: Values) -> Any:
    match node:
        case ast.Constant(value=bool() | int() as value):
            return _bounded(value)
        case ast.Name(id=name) if name in world:
            return world[name]
        case ast.List(elts=items):
            return _bounded([_value(item, world) for item in items])
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, world)
        case ast.BinOp(left=left, op=op, right=right):
            return _bounded(_binary(op)(_value(left, world), _value(right, world)))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _COMPARE[type(op)](_value(left, world), _value(right, world))
        case ast.Subscript(value=inner, slice=ast.Slice(lower=low, upper=high, step=step)):
            ends = [None if end is None else _value(end, world) for end in (low, high, step)]
            return _items(_value(inner, world))[slice(*ends)]
        case ast.ListComp(elt=item, generators=[ast.comprehension() as source]):
            return list(_comprehended(item, source, world))
        case ast.Call(func=ast.Name(id="sorted"), args=[inner], keywords=[]):
            return sorted(_items(_value(inner, world)))
        case ast.Call(func=ast.Name(id="list"), args=[inner], keywords=[]):
            return list(_items(_value(inner, world)))
        case ast.Call(func=ast.Name(id="map" | "filter" as kind), args=[ast.Lambda() as function, inner], keywords=[]):
            return _mapped(kind, function, _items(_value(inner, world)), world)
    raise Unknown(type(node).__name__)


def _comprehended(item: ast.expr, source: ast.comprehension, world: Values) -> Iterator[Any]:
    if not isinstance(source.target, ast.Name) or isinstance(item, ast.ListComp) or source.is_async:
        raise Unknown("comprehension")
    for value in _items(_value(source.iter, world)):
        inner = world | {source.target.id: value}
        if all(_value(condition, inner) for condition in source.ifs):
            yield _value(item, inner)


def _mapped(kind: str, function: ast.Lambda, items: list[Any], world: Values) -> list[Any]:
    if [len(function.args.args), len(function.args.defaults)] != [1, 0] or isinstance(function.body, ast.ListComp):
        raise Unknown("lambda")
    name = function.args.args[0].arg
    results = [_value(function.body, world | {name: item}) for item in items]
    return results if kind == "map" else [item for item, keep in zip(items, results, strict=True) if keep]


def _binary(op: ast.operator) -> Callable[[Any, Any], Any]:
    if type(op) not in _BINARY:
        raise Unknown(type(op).__name__)
    return _times if isinstance(op, ast.Mult) else _BINARY[type(op)]


def _times(a: Any, b: Any) -> Any:
    """The product; a list is repeated only as often as it may be long."""
    for many, times in ((a, b), (b, a)):
        if isinstance(many, list) and isinstance(times, int) and len(many) * max(0, times) > LONGEST:
            raise Unknown("a long list")
    return a * b


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unknown("not a list")
    return value


def _bounded(value: Any) -> Any:
    """The value; Unknown if it is too large."""
    if isinstance(value, list) and len(value) > LONGEST:
        raise Unknown("a long list")
    if isinstance(value, int) and value.bit_length() > WIDEST:
        raise Unknown("a wide number")
    return value
