r"""Are two final answers the same? Runs in a worker process: sympy may hang, crash or eat memory on any input.

Exact rationals, lists, tuples, intervals and words are compared by rules of our own, which are definite; everything
else goes to math-verify, element by element. Conventions: equal value counts, the requested form is ignored; lists of
solutions are unordered, tuples and labelled lists are ordered; a missing unit is fine, a contradicting one is not; a
rounded decimal is not an exact answer.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from repirl.grading.normalize import (
    based,
    choice,
    clean,
    key,
    matching_close,
    number,
    numbers_equal,
    strip_unit,
    without_text_commands,
    words,
)

# Values with more decimal digits than this are not evaluated (9^{9^9}).
MAX_VALUE_DIGITS = 20_000
_FLOAT_ROUNDING = 12  # decimal places: a decimal counts only if it is the exact value
_MAX_LIST = 24

_LABEL = re.compile(r"([A-Za-z](?:_\{?\w+\}?|\w{0,3})(?:\s*\([A-Za-z, ]*\))?)\s*=\s*([^=<>]+)")
_RELATIONS = re.compile(r"\\(?:le|ge|ne|lt|gt|in|equiv|approx|to)(?![A-Za-z])|[<>]")
_SEPARATOR = re.compile(r"\s*(?:,\s*(?:and|or)(?![A-Za-z])|[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
_MEMBER = re.compile(r"[A-Za-z]\w?\s*\\in\s*(?=[\[({\\])")
_BETWEEN = re.compile(r"(.+?)\s*(<|\\le)\s*(\\?[A-Za-z]+)\s*(<|\\le)\s*(.+)")
_ONE_SIDED = re.compile(r"(\\?[A-Za-z]+)\s*(<|>|\\le|\\ge)\s*(.+)")
_BUILDER = re.compile(r"\\\{\s*(.+?)\s*(?:\\mid\b|\\vert\b|\\?\||:)\s*(.+?)\s*\\\}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`equal` is None if the values are too large to evaluate. `note` says why an answer is not equal, if known."""

    equal: bool | None
    note: str = ""


def compare(pair: tuple[str, str]) -> Comparison:
    """Compare (gold, answer). The order matters little: an equation's right-hand side may stand for the equation."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    gold, answer = pair
    try:
        return Comparison(_equal(clean(gold), clean(answer), depth=0))
    except _Undecided as reason:
        return Comparison(reason.equal, reason.note)


class _Undecided(Exception):
    """The comparison ends here, with this result."""

    def __init__(self, equal: bool | None, note: str) -> None:
        super().__init__(note)
        self.equal = equal
        self.note = note


def _equal(gold: str, answer: str, depth: int) -> bool:
    if gold.replace(" ", "") == answer.replace(" ", ""):
        return bool(gold.strip())
    if not answer.strip() or depth > 6:
        return False
    gold_number, answer_number = number(gold), number(answer)
    if gold_number is not None and answer_number is not None:
        return numbers_equal(gold_number, answer_number)
    if (gold_base := based(gold)) is not None:
        if (answer_base := based(answer)) is not None:
            return gold_base == answer_base
        if answer.isdigit():
            return answer.lstrip("0") == gold_base[0]
    gold_words = words(gold)
    if gold_words is not None and gold_words == words(answer):
        return True
    if (letter := choice(gold)) is not None and len(without_text_commands(gold).strip("() ")) == 1:
        given = choice(answer)
        if given is not None and (letter == given or gold_words is not None):
            return letter == given
    verdict = _labelled(gold, answer, depth)
    if verdict is None:
        verdict = _structured(gold, answer, depth)
    return _symbolic(gold, answer) if verdict is None else verdict


def _labelled(gold: str, answer: str, depth: int) -> bool | None:
    """`x = 5` against `5` or `x = 5`: compare what the sides say. None if this does not apply."""
    gold_label, answer_label = _LABEL.fullmatch(gold), _LABEL.fullmatch(answer)
    if gold_label and answer_label:
        if key(gold_label.group(1)) == key(answer_label.group(1)):
            return _equal(gold_label.group(2), answer_label.group(2), depth + 1)
        return None
    # A label is one thing's name: `1, x = 2` is a list and is split first.
    if gold_label and "=" not in answer and len(_split(gold)) == 1:
        return _equal(gold_label.group(2), answer, depth + 1)
    if answer_label and "=" not in gold and len(_split(answer)) == 1:
        return _equal(gold, answer_label.group(2), depth + 1)
    return None


def _structured(gold: str, answer: str, depth: int) -> bool | None:
    """Lists, sets, tuples, intervals and unions; None if both are single expressions."""
    gold, answer = _MEMBER.sub("", gold, count=1), _MEMBER.sub("", answer, count=1)
    gold_builder, answer_builder = _builder(gold), _builder(answer)
    if gold_builder is not None and answer_builder is not None and gold_builder == answer_builder:
        return True
    gold, answer = _as_interval(gold, answer), _as_interval(answer, gold)
    gold_parts, answer_parts = _split_union(gold), _split_union(answer)
    if len(gold_parts) == len(answer_parts) > 1:
        # Parts may overlap or touch: only a match is definite.
        return _same_multiset(gold_parts, answer_parts, depth) or None
    gold_tuple, answer_tuple = _bracketed(gold), _bracketed(answer)
    if gold_tuple and answer_tuple:
        if len(gold_tuple.parts) != len(answer_tuple.parts):
            return False
        if len(gold_tuple.parts) == 2 and gold_tuple.brackets != answer_tuple.brackets:
            return False
        return all(_equal(g, a, depth + 1) for g, a in zip(gold_tuple.parts, answer_tuple.parts, strict=True))
    gold_list, answer_list = _elements(gold), _elements(answer)
    if gold_tuple or answer_tuple:
        parts = (gold_tuple.parts if gold_tuple else gold_list, answer_tuple.parts if answer_tuple else answer_list)
        if len(parts[0]) == len(parts[1]) and "\\{" not in gold + answer:
            return all(_equal(g, a, depth + 1) for g, a in zip(*parts, strict=True))
        return None
    if len(gold_list) == 1 and len(answer_list) == 1:
        if (gold_list[0], answer_list[0]) != (gold, answer) and "\\{" not in gold_list[0] + answer_list[0]:
            return _equal(gold_list[0], answer_list[0], depth + 1)
        return None
    return _same_list(gold_list, answer_list, depth)


def _same_list(gold: list[str], answer: list[str], depth: int) -> bool:
    """Elements in any order; in the given order where one side names its elements (`b = -3, c = 0`)."""
    if len(gold) != len(answer) or len(gold) > _MAX_LIST:
        return False
    gold_labels, answer_labels = _labels(gold), _labels(answer)
    if gold_labels and answer_labels and set(gold_labels) == set(answer_labels):
        by_name = dict(zip(answer_labels, answer, strict=True))
        return all(_equal(g, by_name[name], depth + 1) for name, g in zip(gold_labels, gold, strict=True))
    if gold_labels or answer_labels:
        return all(_equal(g, a, depth + 1) for g, a in zip(gold, answer, strict=True))
    return _same_multiset(gold, answer, depth)


def _labels(elements: list[str]) -> list[str] | None:
    matches = [_LABEL.fullmatch(element) for element in elements]
    names = [key(match.group(1)) for match in matches if match]
    return names if len(names) == len(elements) == len(set(names)) else None


def _same_multiset(gold: list[str], answer: list[str], depth: int) -> bool:
    left = list(answer)
    for element in sorted(gold, key=lambda part: number(part) is None):  # exact matches first: they are cheap
        found = next((i for i, part in enumerate(left) if _equal(element, part, depth + 1)), None)
        if found is None:
            return False
        del left[found]
    return not left


@dataclass(frozen=True, slots=True)
class _Bracketed:
    brackets: str
    parts: list[str]


def _bracketed(text: str) -> _Bracketed | None:
    """A tuple or interval: one pair of brackets around a list."""
    text = text.replace("\\langle", "(").replace("\\rangle", ")").strip()
    if text[:1] not in {"(", "["} or text[-1:] not in {")", "]"} or matching_close(text, 0) != len(text) - 1:
        return None
    parts = _split(text[1:-1])
    return _Bracketed(text[0] + text[-1], parts) if len(parts) > 1 else None


def _elements(text: str) -> list[str]:
    r"""Elements of a list or set, `\pm` expanded, the common name of `n = 1, -2` dropped."""
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}") and text.count("\\{") == 1:
        text = text[2:-2].strip()
    parts = _split(text)
    if len(parts) > 1:
        named = [_LABEL.fullmatch(part) for part in parts]
        names = {key(match.group(1)) for match in named if match}
        if named[0] and len(names) == 1:
            parts = [match.group(2) if match else part for match, part in zip(named, parts, strict=True)]
    elif "\\pm" in text and (label := _LABEL.fullmatch(text)):
        parts = [label.group(2)]
    expanded = []
    for part in parts:
        if "\\pm" in part:
            expanded += [part.replace("\\pm", "+").replace("\\mp", "-"), part.replace("\\pm", "-").replace("\\mp", "+")]
        else:
            expanded.append(part)
    return [re.sub(r"^\s*\+\s*", "", part) for part in expanded]


def _split(text: str) -> list[str]:
    """Parts of a list at the top level: separated by commas, semicolons, `and`, `or`."""
    if "\\begin" in text:
        return [text]
    flat = re.sub(r"\\(?:text|mbox|mathrm|textrm)\s*\{\s*(,?\s*(?:and|or)\s*,?)\s*\}", r" \1 ", text)
    parts, depth, start, i = [], 0, 0, 0
    while i < len(flat):
        char = flat[i]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif depth == 0 and (match := _SEPARATOR.match(flat, i)) and match.group().strip():
            parts.append(flat[start:i])
            start = i = match.end()
            continue
        i += 1
    parts.append(flat[start:])
    return [part.strip() for part in parts if part.strip()] or [text]


def _split_union(text: str) -> list[str]:
    return [part.strip() for part in text.split("\\cup")]


def _as_interval(text: str, other: str) -> str:
    r"""An inequality (`2 < x \le 3`, `x<2 or x>3`, `\{x | x > 2\}`) as intervals, if the other side has them."""
    if other[:1] not in {"(", "["}:
        return text
    if (builder := _BUILDER.fullmatch(text)) is not None:
        text = builder.group(2)
    if not _RELATIONS.search(text):
        return text
    pieces = re.split(r"\s*(?:\\text\s*\{\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\lor\b|\\cup|,)\s*", text)
    intervals = []
    for piece in pieces:
        if (match := _BETWEEN.fullmatch(piece)) and not _RELATIONS.search(match.group(1) + match.group(5)):
            low, left, _, right, high = match.groups()
            intervals.append(f"{'[' if left == chr(92) + 'le' else '('}{low},{high}{']' if right != '<' else ')'}")
        elif (match := _ONE_SIDED.fullmatch(piece)) and not _RELATIONS.search(match.group(3)):
            _, relation, bound = match.groups()
            low_side = relation in {"<", "\\le"}
            open_end = relation in {"<", ">"}
            intervals.append(
                f"(-\\infty,{bound}{')' if open_end else ']'}"
                if low_side
                else f"{'(' if open_end else '['}{bound},\\infty)"
            )
        else:
            return text
    return " \\cup ".join(intervals)


def _builder(text: str) -> str | None:
    r"""`\{x | x = 3k, k \in Z\}` and `\{3k | k \in Z\}` under one key."""
    match = _BUILDER.fullmatch(text)
    if match is None:
        return None
    head, condition = key(match.group(1)), key(match.group(2))
    if head.isalpha() and condition.startswith(head + "=") and "," in condition:
        value, _, condition = condition[len(head) + 1 :].partition(",")
        head = value
    return f"{head}|{condition}"


def _symbolic(gold: str, answer: str) -> bool:
    """What math-verify says of two single expressions."""
    gold, answer = strip_unit(gold)[0] or gold, strip_unit(answer)[0] or answer
    gold_tree, answer_tree = _parse(gold), _parse(answer)
    if not gold_tree or not answer_tree:
        raise _Undecided(False, "gold not parsed" if not gold_tree else "answer not parsed")
    if any(_digits(tree) > MAX_VALUE_DIGITS for tree in answer_tree):
        if any(_digits(tree) > MAX_VALUE_DIGITS for tree in gold_tree):
            raise _Undecided(None, "too large to evaluate")
        raise _Undecided(False, "too large to evaluate")
    from math_verify import verify

    return verify(
        list(gold_tree),
        list(answer_tree),
        float_rounding=_FLOAT_ROUNDING,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )


@lru_cache(maxsize=256)
def _parse(text: str) -> tuple[Any, ...]:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Units are stripped above; math-verify would also take the h of `4 + 4h` for hours.
    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    return tuple(
        parse(
            f"${text}$",
            extraction_config=[LatexExtractionConfig(boxed_match_priority=-1, normalization_config=spelling)],
            fallback_mode="no_fallback",
            parsing_timeout=None,  # type: ignore[arg-type]
        )
    )


def _digits(tree: Any) -> float:
    """Rough upper bound of the decimal digits that evaluating an expression produces, without evaluating it."""
    from sympy import Integer, Pow, Rational, binomial, factorial

    if isinstance(tree, Rational):
        return max(abs(tree.p).bit_length(), tree.q.bit_length()) * 0.302
    args = [_digits(arg) for arg in getattr(tree, "args", ())]
    if isinstance(tree, Pow) and args:
        base, exponent = max(args[0], 0.5), tree.args[1]
        power = abs(int(exponent)) if isinstance(exponent, Integer) and args[1] < 20 else 10 ** min(args[1], 30)
        return base * power if args[1] > 0 else base
    if isinstance(tree, factorial | binomial) and args:
        top = 10 ** min(args[0], 30)
        return top * max(args[0], 0.5)
    return sum(args)
