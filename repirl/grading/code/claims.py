"""Compares expected values and texts with what a program claims to have returned (see `_child/sbx_codec.py`) or printed."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-6, 1e-9
# A number that somebody may print; the limits keep comparisons instant.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3})?")
# A set as a key has to be built to be looked up; its members may have been chosen to collide.
MAX_SET_INSIDE_KEY = 256


def matches(expected: Any, form: Any, tolerance: float | None = None) -> bool:
    """Whether the claimed value equals `expected`: Python's `==`, but lists and tuples are equal as in JSON, and an
    expected float allows a relative difference of `tolerance` (None: 1e-6, or an absolute one of 1e-9; 0.0: none);
    NaN matches NaN.

    `form` was written by hostile code: it is never turned into a dict or a set here (keys chosen to collide would cost
    quadratic time), and anything malformed or nested too deeply does not match.
    """
    try:
        return _matches(expected, form, tolerance)
    except (RecursionError, ValueError, TypeError, OverflowError, IndexError):
        return False


def _matches(expected: Any, form: Any, tolerance: float | None) -> bool:
    if isinstance(expected, (bool, int, float)):
        return _same_number(expected, _plain(form), tolerance)
    if expected is None or isinstance(expected, str):
        return type(form) is type(expected) and form == expected
    if not isinstance(form, list) or not form:
        return False
    kind, parts = form[0], form[1:]
    if isinstance(expected, (list, tuple)):
        same_length = kind in ("l", "t") and len(parts) == len(expected)
        return same_length and all(_matches(e, part, tolerance) for e, part in zip(expected, parts, strict=True))
    if isinstance(expected, dict):
        if kind != "d" or len(parts) != 2 * len(expected):
            return False
        claimed = [_plain(key) for key in parts[0::2]]
        covers = _covers(expected, claimed)
        return covers and all(_matches(expected[k], part, tolerance) for k, part in zip(claimed, parts[1::2], strict=True))
    if isinstance(expected, (set, frozenset)):
        return kind == "s" and len(parts) == len(expected) and _covers(expected, [_plain(part) for part in parts])
    if isinstance(expected, (bytes, bytearray)):
        return kind == "b" and bytes.fromhex(parts[0]) == expected
    if isinstance(expected, complex):
        if not isinstance(claimed := _plain(form), complex):
            return False
        return all(_same_number(e, c, tolerance) for e, c in ((expected.real, claimed.real), (expected.imag, claimed.imag)))
    return False


def _covers(expected: Any, claimed: list[Any]) -> bool:
    """Whether `claimed` are the members of `expected`, each once: they are looked up, never stored by hash.

    Each member of `expected` is found by its own position, so the same one claimed twice is seen.
    """
    position = {key: index for index, key in enumerate(expected)}
    seen = [False] * len(position)
    for key in claimed:
        if (index := position.get(key)) is None:
            return False
        seen[index] = True
    return all(seen)


def _plain(form: Any) -> Any:
    """The number, text, None or (as a key) tuple of these that a form stands for. Raises ValueError on others."""
    if not isinstance(form, (list, dict)):
        return form
    if isinstance(form, list) and form:
        if form[0] == "t":
            return tuple(_plain(part) for part in form[1:])
        if form[0] == "i":
            return int(form[1], 16)
        if form[0] == "b":
            return bytes.fromhex(form[1])
        if form[0] == "c":
            return complex(form[1], form[2])
        if form[0] == "s" and len(form) <= MAX_SET_INSIDE_KEY:
            return frozenset(_plain(part) for part in form[1:])
    raise ValueError("not a plain value")


def _same_number(expected: float, claimed: Any, tolerance: float | None) -> bool:
    if not isinstance(claimed, (bool, int, float)):
        return False
    if isinstance(expected, float):
        if math.isnan(expected):
            return isinstance(claimed, float) and math.isnan(claimed)
        if tolerance is None:
            return math.isclose(expected, claimed, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        return math.isclose(expected, claimed, rel_tol=tolerance, abs_tol=min(tolerance, ABSOLUTE_TOLERANCE))
    return expected == claimed


def same_text(expected: str, printed: str) -> bool:
    """Equal but for white space at the ends of lines and blank lines at the end."""
    return _lines(expected) == _lines(printed)


def same_output(expected: str, printed: str, tolerance: float | None = None) -> bool:
    """`same_text`, or lines of equally many numbers with the same decimal values (the rule of LiveCodeBench).

    With a `tolerance`, numbers may differ by that much, relatively or (below 1) absolutely.
    """
    if same_text(expected, printed):
        return True
    wanted, given = _lines(expected), _lines(printed)
    if len(wanted) != len(given):
        return False
    return all(w == g or _same_numbers(w.split(), g.split(), tolerance) for w, g in zip(wanted, given, strict=True))


def _same_numbers(expected: list[str], printed: list[str], tolerance: float | None) -> bool:
    if len(expected) != len(printed) or not all(map(_NUMBER.fullmatch, expected + printed)):
        return False
    pairs = [(Decimal(e), Decimal(p)) for e, p in zip(expected, printed, strict=True)]
    if not tolerance:
        return all(e == p for e, p in pairs)
    return all(e == p or abs(e - p) <= Decimal(tolerance) * max(1, abs(e)) for e, p in pairs)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
