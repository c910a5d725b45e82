"""How values leave and enter a process that ran hostile code: JSON in which every container carries its kind.

Nothing but plain data can be expressed, so reading it runs no code of the sender. A subclass of a plain type is sent
as the plain value that it holds: whatever it does to `==` or `hash` stays behind.

    None, bool, str, float, int below 2**63    themselves
    ["i", hex]                                 a larger int
    ["l", ...], ["t", ...], ["s", ...]         list, tuple, set or frozenset
    ["d", key, value, key, value, ...]         dict
    ["b", hex], ["c", real, imag]              bytes or bytearray, complex
    ["n", name]                                one of the plain types itself, such as `int`
    ["q", type name, part, ...]                range, deque, Fraction, Decimal, a view of a dict, or a date or time
    ["it", ...]                                an iterator over these (from the tests only)
    ["g", module, name]                        a module (no name), function or class of the standard library; only what
                                               comes from the tests is read as one (see `decode`)
    ["h", number, type name]                   an object that stays where it is (see sbx_asserts)
    ["x", type name]                           an object that cannot be sent
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_PLAIN_INT = 2**63
PLAIN_TYPES = {t.__name__: t for t in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset)}
# How values of further types are taken apart, and put together again.
_TAKEN_APART: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    range: lambda v: (v.start, v.stop, v.step),
    deque: lambda v: (list(v), v.maxlen),
    Fraction: lambda v: (v.numerator, v.denominator),
    Decimal: lambda v: (str(v),),
    date: lambda v: (v.isoformat(),),
    timedelta: lambda v: (v.days, v.seconds, v.microseconds),
    type({}.keys()): lambda v: (list(v),),
    type({}.values()): lambda v: (list(v),),
    type({}.items()): lambda v: (list(v),),
}


def _naive(value: Any) -> Any:
    if value.tzinfo is not None:
        raise ValueError("a time zone was not sent")
    return value


_PUT_TOGETHER: dict[str, Callable[..., Any]] = {
    "range": range,
    "deque": deque,
    "Fraction": Fraction,
    "Decimal": Decimal,
    "date": date.fromisoformat,
    "datetime": lambda text: _naive(datetime.fromisoformat(text)),
    "time": lambda text: _naive(time.fromisoformat(text)),
    "timedelta": timedelta,
    "dict_keys": lambda members: dict.fromkeys(members).keys(),
    "dict_values": lambda members: dict(enumerate(members)).values(),
    "dict_items": lambda members: dict(members).items(),
}


def encode(value: Any, other: Callable[[Any], Any] | None = None) -> Any:
    """The JSON form of `value`; `other` says what stands for an object that is not plain data.

    Raises RecursionError on data that contains itself.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        plain = int.__index__(value)
        return plain if -MAX_PLAIN_INT < plain < MAX_PLAIN_INT else ["i", hex(plain)]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__getitem__(value, slice(None)) if type(value) is not str else value
    if isinstance(value, list):
        return ["l", *[encode(v, other) for v in list.__iter__(value)]]
    if isinstance(value, tuple):
        return ["t", *[encode(v, other) for v in tuple.__iter__(value)]]
    if isinstance(value, dict):
        return ["d", *[encode(part, other) for pair in dict.items(value) for part in pair]]
    if isinstance(value, set):
        return ["s", *[encode(v, other) for v in set.__iter__(value)]]
    if isinstance(value, frozenset):
        return ["s", *[encode(v, other) for v in frozenset.__iter__(value)]]
    if isinstance(value, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    if isinstance(value, complex):
        return ["c", value.real, value.imag]
    if isinstance(value, type) and PLAIN_TYPES.get(value.__name__) is value:
        return ["n", value.__name__]
    if (parts := _taken_apart(value)) is not None:
        return ["q", type(value).__name__, *[encode(part, other) for part in parts]]
    return other(value) if other is not None else ["x", type(value).__name__[:80]]


def _taken_apart(value: Any) -> tuple[Any, ...] | None:
    """The plain parts of a value of one of the further types, exactly: a subclass may do anything."""
    if type(value) in (datetime, time):
        return (value.isoformat(),) if value.tzinfo is None else None
    take = _TAKEN_APART.get(type(value))
    return take(value) if take is not None else None


def decode(form: Any, handle: Callable[[int, str], Any] | None = None, named: Callable[[str, str], Any] | None = None) -> Any:
    """The value of a JSON form; `handle` makes what stands for an object that stayed with the sender.

    `named` finds what the sender names of the standard library: only for a reader that trusts the sender.
    Raises ValueError on anything that is not a form, TypeError on an unhashable key or member.
    """
    if not isinstance(form, list):
        if isinstance(form, dict):
            raise ValueError("a JSON object is not a form")
        return form
    kind, parts = (form[0], form[1:]) if form else (None, [])
    if kind in ("l", "t", "s") or (kind == "it" and named is not None):
        members = [decode(part, handle, named) for part in parts]
        if kind == "it":
            return iter(members)
        return members if kind == "l" else tuple(members) if kind == "t" else set(members)
    if kind == "d":
        keys = [decode(part, handle, named) for part in parts[0::2]]
        return dict(zip(keys, [decode(part, handle, named) for part in parts[1::2]], strict=True))
    if kind == "i" and len(parts) == 1 and isinstance(parts[0], str):
        return int(parts[0], 16)
    if kind == "b" and len(parts) == 1 and isinstance(parts[0], str):
        return bytes.fromhex(parts[0])
    if kind == "c" and len(parts) == 2 and all(type(p) is float for p in parts):
        return complex(*parts)
    if kind == "n" and len(parts) == 1 and parts[0] in PLAIN_TYPES:
        return PLAIN_TYPES[parts[0]]
    if kind == "h" and handle is not None and len(parts) == 2 and type(parts[0]) is int:
        return handle(parts[0], str(parts[1]))
    if kind == "q" and parts and parts[0] in _PUT_TOGETHER:
        return _PUT_TOGETHER[parts[0]](*[decode(part, handle, named) for part in parts[1:]])
    if kind == "g" and named is not None and len(parts) == 2:
        return named(parts[0], parts[1])
    raise ValueError("not a form")
