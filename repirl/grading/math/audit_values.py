r"""Are two final answers the same values? Each member of a list, read as LaTeX and evaluated at fixed points.

Part of the second opinion (`audit.py`), so it uses neither math-verify nor sympy nor the project's own normaliser.
"""

from __future__ import annotations

import re
from typing import Any

from repirl.grading.math.audit_reader import DIGITS, POINTS, Reader, Unreadable

_MAX_CHARS, _MAX_MEMBERS = 600, 40
_SPELLINGS = {"\u2212": "-", "\u00d7": "*", "\u03c0": r"\pi ", "\u00b0": "", r"\$": "", r"\!": "", "{,}": ""}
_THOUSANDS = re.compile(r"[^,]*\d{1,3}(?:,\s?\d{3})+\D*")
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:and|or)(?![A-Za-z]))[A-Za-z]{3,}")
_IGNORED = r"\\(?:left|right|displaystyle|[,;:! ]|quad|qquad)(?![A-Za-z])|\\[()\[\]](?=\s|$|[^\\])|(?<!\\)\$|~"
_TAIL = re.compile(r"(?:\\%|%|\^\s*\{?\s*\\circ\s*\}?|\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\^\{?[23]\}?)?)\s*\.?\s*$")
_LABEL = re.compile(r"^\s*[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*(?:=|\\in\b)\s*")


def same_values(gold: str, answer: str) -> bool:
    """Whether both texts state the same numbers: as a set where there is a list, in order inside round brackets.

    Raises Unreadable; ArithmeticError and ValueError come from values that do not exist.
    """
    sides = [_members(_tidy(text)) for text in (gold, answer)]
    percent = [_TAIL.search(text.strip()) is not None and "%" in text for text in (gold, answer)]
    if any(len(side.values) > _MAX_MEMBERS for side in sides):
        raise Unreadable("too many members")
    first, second = sides
    if first.brackets and second.brackets and first.brackets != second.brackets:
        return False
    if len(first.values) != len(second.values):
        return False
    if first.brackets or second.brackets:
        return all(_close(a, b) for a, b in zip(first.values, second.values, strict=True))
    if len(first.values) == 1 and percent[0] != percent[1]:
        plain, marked = (1, 0) if percent[0] else (0, 1)
        hundredth = [value / 100 for value in sides[marked].values[0]]
        return _close(first.values[0], second.values[0]) or _close(sides[plain].values[0], hundredth)
    left = list(second.values)
    for value in first.values:
        match = next((i for i, other in enumerate(left) if _close(value, other)), None)
        if match is None:
            return False
        del left[match]
    return True


class _Side:
    """What one text states: values (each at all points), and the brackets around them if they are a tuple."""

    def __init__(self, values: list[list[Any]], brackets: str) -> None:
        self.values, self.brackets = values, brackets


def _tidy(text: str) -> str:
    if len(text) > _MAX_CHARS:
        raise Unreadable("too long")
    for old, new in _SPELLINGS.items():
        text = text.replace(old, new)
    text = re.sub(_IGNORED, " ", text)
    if (word := _WORD.search(re.sub(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text))) is not None:
        raise Unreadable(word.group())
    text = re.sub(r"\\text\s*\{\s*(?:and|or|,)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", ",", text)
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"(?<=\d),\s?(?=\d)", "", text)
    text = re.sub(r"(?<=\d)\s*[eE]\s*([+-]?\d+)\s*$", r"*10^{\1}", text)
    return re.sub(r"\\[dtc]frac", r"\\frac", _TAIL.sub("", text.strip().rstrip("."))).strip()


def _members(text: str) -> _Side:
    brackets = ""
    text = _LABEL.sub("", text)
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    elif text[:1] in "([" and text[-1:] in ")]" and text and _splits(text[1:-1]) and _closes_at_end(text):
        brackets, text = text[0] + text[-1], text[1:-1]
    values = []
    for part in _splits(text) or [text]:
        part = _LABEL.sub("", part)
        signs = (("\\pm", "+"), ("\\pm", "-")) if "\\pm" in part else (("", ""),)
        for mark, sign in signs:
            values.append([Reader(part.replace(mark, sign) if mark else part, point).value() for point in range(len(POINTS))])
    return _Side(values, brackets)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False


def _splits(text: str) -> list[str]:
    """The parts between commas that stand outside brackets; empty if there is no such comma."""
    parts, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char in ",;":
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]] if parts else []


def _close(a: list[Any], b: list[Any]) -> bool:
    from mpmath import fabs, mpf

    tolerance = mpf(10) ** (12 - DIGITS)
    return all(fabs(x - y) <= tolerance * max(fabs(x), fabs(y), mpf(10) ** -20) for x, y in zip(a, b, strict=True))
