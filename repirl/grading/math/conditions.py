r"""Side conditions of an answer: `3k, k \in \mathbb{Z}` says `3k`, and where its `k` is from. Pure text, in the worker."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repirl.grading.math.normalize import key, without_text_commands

_BOARD = r"(?:\\math(?:bb|bf|rm|cal)\s*)?\{?\s*"
_MANY = r"\s*,\s*(?:\\[lc]?dots\b|\.\.\.?)"
# Where a parameter is from -> the ways to say so, in words or signs, after its name.
_DOMAINS = {
    "integers": rf"\\in\s*{_BOARD}Z\s*\}}?|=\s*0\s*,\s*\\pm\s*1\s*,\s*\\pm\s*2{_MANY}"
    r"|(?:is )?an?y? (?:arbitrary )?integer|integers?",
    "positive integers": rf"\\in\s*{_BOARD}(?:N|Z\s*\}}?\s*(?:\^|_)\s*\{{?\s*\+)\s*\}}?|=\s*1\s*,\s*2(?:\s*,\s*3)?{_MANY}"
    r"|(?<=[i-n])\s*\\ge\s*1|(?:is )?an?y? (?:positive integer|natural number)|positive integers?",
    "integers from 0": rf"=\s*0\s*,\s*1(?:\s*,\s*2)?{_MANY}"
    r"|(?<=[i-n])\s*\\ge\s*0|(?:is )?an?y? non-?negative integer|non-?negative integers?",
    "reals": rf"\\in\s*{_BOARD}R\s*\}}?|(?:is )?an?y? (?:arbitrary )?real(?: number)?|real(?: numbers?)?",
}
_BEFORE_NAME = r"(?:(?:some|any|all|every|each|an?|\\forall)\s+)?"
_PLACES = "|".join(rf"(?P<d{i}>{ways})" for i, ways in enumerate(_DOMAINS.values()))
_KINDS = "integer|positive integer|non-?negative integer|natural number|real number"
_NAME = r"(?:[A-Za-z]|\\[a-z]+)(?:_(?:\w|\{\w+\}))?"
_CONDITION = re.compile(
    r"(?P<value>.*\S)\s*"
    r"(?:(?P<bracket>\()|[,;:](?:\s*(?:where|with|for|and))?(?![A-Za-z])|(?<![A-Za-z\\])(?:where|with|for)(?![A-Za-z]))\s*"
    rf"{_BEFORE_NAME}(?:(?P<kind>{_KINDS})s?\s+)?(?P<name>{_NAME})\s*(?(kind)|(?:{_PLACES}|(?P<other>\\ne\b\s*[^,;=<>]+)))"
    r"\s*(?(bracket)\))"
)
_BUILDER = re.compile(r"(?:[A-Za-z]\s*\\in\s*)?\\\{\s*([^|:]+?)\s*(?:\\mid\b|\||:)\s*([^|:]+?)\s*\\\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Conditioned:
    """A value, the parameter that a condition is on, and where that is from."""

    value: str
    name: str
    domain: str


def conditioned(text: str) -> Conditioned | None:
    r"""A cleaned answer, or `\{3k : k \in \mathbb{Z}\}`, taken apart; None without a condition on a symbol that it contains."""
    if (builder := _BUILDER.fullmatch(text)) is not None:
        text = f"{builder.group(1)}, {builder.group(2)}"
    match = _CONDITION.fullmatch(without_text_commands(text))
    if match is None or not text.startswith(value := match.group("value").rstrip(",; ")):
        return None
    name = match.group("name")
    if not _contains(value, name) or key(value) == key(name):
        return None
    return Conditioned(value, name, _domain(match))


def _domain(match: re.Match[str]) -> str:
    if (kind := match.group("kind")) is not None:
        kind = kind.replace("-", "").replace("natural number", "positive integer")
        return {"nonnegative integer": "integers from 0", "real number": "reals"}.get(kind, f"{kind}s")
    if (other := match.group("other")) is not None:
        return key(other)
    return next(domain for i, domain in enumerate(_DOMAINS) if match.group(f"d{i}") is not None)


def _contains(text: str, name: str) -> bool:
    if name.startswith("\\"):
        return name in _COMMAND.findall(text)
    return name in _COMMAND.sub(" ", text)


def without_conditions(gold: str, answer: str) -> tuple[str, str]:
    """Both sides without their conditions, where these do not contradict each other: one side may leave its own out.

    Two conditions must say the same; the parameter may have another name (`2k`, `2n`).
    """
    sides = conditioned(gold), conditioned(answer)
    if sides[0] is not None and sides[1] is not None:
        if sides[0].domain != sides[1].domain:
            return gold, answer
        return sides[0].value, _renamed(sides[1], sides[0].name)
    return (sides[0].value if sides[0] else gold), (sides[1].value if sides[1] else answer)


def _renamed(side: Conditioned, name: str) -> str:
    if side.name == name or len(side.name) > 1 or len(name) > 1 or _contains(side.value, name):
        return side.value
    return re.sub(r"\\[A-Za-z]+|[A-Za-z]", lambda found: name if found.group() == side.name else found.group(), side.value)
