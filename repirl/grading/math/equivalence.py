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
from itertools import chain

from repirl.grading.math.conditions import without_conditions
from repirl.grading.math.normalize import clean, key, number, numbers_equal, without_spaces, without_text_commands
from repirl.grading.math.shapes import (
    LABEL,
    MEMBER,
    as_interval,
    as_intervals,
    bracketed,
    builder_key,
    elements,
    is_set,
    labels,
    matrix,
    name_key,
    names_one_value,
    rising,
    split_list,
    split_union,
)
from repirl.grading.math.symbolic import Undecided, symbolic
from repirl.grading.math.units import with_unit_of
from repirl.grading.math.wording import based, choice, choices, clock_time, in_text, without_choice_word, words

_SUBSCRIPTED = re.compile(r"-?[\d.,]+_.+")
_ARITHMETIC = re.compile(r"\\(?:cdot|times|div|frac|sqrt|pi)(?![A-Za-z])")
_MAX_LIST = 64


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
        gold, answer = without_conditions(clean(gold), clean(answer))
        return Comparison(_equal(rising(gold), rising(answer), depth=0))
    except Undecided as reason:
        return Comparison(reason.equal, reason.note)


def _equal(gold: str, answer: str, depth: int) -> bool:
    if without_spaces(gold) == without_spaces(answer):
        return bool(gold.strip())
    if not answer.strip() or depth > 6:
        return False
    answer = with_unit_of(gold, answer)
    gold_number, answer_number = number(gold), number(answer)
    if gold_number is not None and answer_number is not None:
        return numbers_equal(gold_number, answer_number)
    if (gold_base := based(gold)) is not None:
        if (answer_base := based(answer)) is not None:
            return gold_base == answer_base
        if answer.isdigit():
            return answer.lstrip("0") == gold_base[0]
    if gold_number is not None and "_" in answer and _SUBSCRIPTED.fullmatch(answer.replace(" ", "")):
        # The parser drops what follows `_`. A base that the gold leaves out may be named, if it is one.
        answer_base = based(answer)
        return answer_base is not None and answer_base[0] == gold
    verdict = _worded(gold, answer)
    if verdict is None:
        verdict = _labelled(gold, answer, depth)
    if verdict is None:
        verdict = _structured(gold, answer, depth)
    return symbolic(gold, answer) if verdict is None else verdict


def _worded(gold: str, answer: str) -> bool | None:
    """Words, choice letters and clock times; None if neither side is anything of the kind, or nothing is certain."""
    gold_time, answer_time = clock_time(gold), clock_time(answer)
    if gold_time and answer_time and (gold_time[2] or answer_time[2]):
        return gold_time[:2] == answer_time[:2] and (gold_time[2] is None or answer_time[2] in {None, gold_time[2]})
    gold_words, answer_words = (words(text, short=in_text(gold) or in_text(answer)) for text in (gold, answer))
    if gold_words is not None and gold_words == answer_words:
        return True
    if (in_text(gold) or in_text(answer)) and without_text_commands(gold).split() == without_text_commands(answer).split():
        return True
    if (gold_choices := choices(gold)) is not None and (answer_choices := choices(answer)) is not None:
        return gold_choices == answer_choices
    if (letter := choice(gold)) is not None and len(without_choice_word(gold).strip("() ")) == 1:
        given = choice(answer)
        if given is not None and (letter == given or words(gold) is not None):
            return letter == given
    # The parser reads `A 1` and `True 1` as products.
    if words(gold, short=in_text(gold)) is not None or re.fullmatch(r"\W*[A-Z]\W*", without_text_commands(gold)):
        label = LABEL.fullmatch(answer)
        return False if any(map(str.isdigit, label.group(2) if label else answer)) else None
    return None


def _labelled(gold: str, answer: str, depth: int) -> bool | None:
    """`x = 5` against `5` or `x = 5`: compare what the sides say. None if this does not apply."""
    gold_label, answer_label = LABEL.fullmatch(gold), LABEL.fullmatch(answer)
    if gold_label and answer_label:
        if name_key(gold_label.group(1)) == name_key(answer_label.group(1)):
            return _equal(gold_label.group(2), answer_label.group(2), depth + 1)
        return False if any(names_one_value(label.group(1).strip()) for label in (gold_label, answer_label)) else None
    if (value := _computed(gold)) is not None and "=" not in answer:
        return _equal(value, answer, depth + 1)
    # A label is one thing's name: `1, x = 2` is a list and is split first.
    if gold_label and "=" not in answer and len(split_list(gold)) == 1:
        return _equal(gold_label.group(2), answer, depth + 1)
    if answer_label and "=" not in gold and len(split_list(answer)) == 1:
        return _equal(gold, answer_label.group(2), depth + 1)
    return None


def _computed(gold: str) -> str | None:
    """The right side of an equation between numbers: of `7+8=15` the value is asked for."""
    left, _, right = gold.partition("=")
    plain = [_ARITHMETIC.sub("", side) for side in (left, right)]
    return right if right.strip() and all(not re.search(r"[A-Za-z\\=<>,]", side) and side.strip() for side in plain) else None


def _structured(gold: str, answer: str, depth: int) -> bool | None:
    """Lists, sets, tuples, intervals and unions; None if both are single expressions."""
    gold, answer = MEMBER.sub("", gold, count=1), MEMBER.sub("", answer, count=1)
    gold_builder, answer_builder = builder_key(gold), builder_key(answer)
    if gold_builder is not None and answer_builder is not None and gold_builder == answer_builder:
        return True
    gold, answer = as_intervals(gold, answer) or (as_interval(gold, answer), as_interval(answer, gold))
    gold_parts, answer_parts = split_union(gold), split_union(answer)
    if len(gold_parts) == len(answer_parts) > 1:
        # Parts may overlap or touch: only a match is definite.
        return _same_multiset(gold_parts, answer_parts, depth) or None
    gold_tuple, answer_tuple = bracketed(gold), bracketed(answer)
    if gold_tuple and answer_tuple:
        if len(gold_tuple.parts) != len(answer_tuple.parts):
            return False
        if len(gold_tuple.parts) == 2 and gold_tuple.brackets != answer_tuple.brackets:
            return False
        return all(_equal(g, a, depth + 1) for g, a in zip(gold_tuple.parts, answer_tuple.parts, strict=True))
    gold_matrix, answer_matrix = matrix(gold), matrix(answer)
    if gold_matrix and answer_matrix:
        if [len(row) for row in gold_matrix] != [len(row) for row in answer_matrix]:
            return False
        cells = zip(chain(*gold_matrix), chain(*answer_matrix), strict=True)
        return all(_equal(g, a, depth + 1) for g, a in cells)
    gold_list, answer_list = elements(gold), elements(answer)
    if gold_tuple or answer_tuple:
        parts = (gold_tuple.parts if gold_tuple else gold_list, answer_tuple.parts if answer_tuple else answer_list)
        if len(parts[0]) == len(parts[1]) and "\\{" not in gold + answer:
            brackets = (gold_tuple or answer_tuple).brackets  # type: ignore[union-attr]
            if len(parts[0]) == 2 and brackets != "()":
                return False  # an interval is not the list of its ends
            return all(_equal(g, a, depth + 1) for g, a in zip(*parts, strict=True))
        return None
    if len(gold_list) == 1 and len(answer_list) == 1:
        if (gold_list[0], answer_list[0]) != (gold, answer) and "\\{" not in gold_list[0] + answer_list[0]:
            return _equal(gold_list[0], answer_list[0], depth + 1)
        return None
    if max(len(gold_list), len(answer_list)) > _MAX_LIST:
        return False
    if is_set(gold) or len(gold_list) > len(answer_list):
        gold_list = _distinct(gold_list, depth, also_alike=is_set(gold))
    # A list that repeats an element, where the gold repeats none, says the same more than once.
    if is_set(answer) or len(answer_list) > len(gold_list):
        answer_list = _distinct(answer_list, depth)
    return _same_list(gold_list, answer_list, depth)


def _distinct(parts: list[str], depth: int, *, also_alike: bool = True) -> list[str]:
    """The elements without those that equal an earlier one; on request only those in another form, such as the second of
    `x+11 or 11+x`: a gold that repeats what is spelled alike (`2, 2`) means it, unless it is a set."""
    kept: list[str] = []
    for part in parts:
        if not any((also_alike or key(other) != key(part)) and _matches(other, part, depth + 1) for other in kept):
            kept.append(part)
    return kept


def _same_list(gold: list[str], answer: list[str], depth: int) -> bool:
    """Elements in any order; in the given order where one side names its elements (`b = -3, c = 0`)."""
    if len(gold) != len(answer):
        return False
    gold_labels, answer_labels = labels(gold), labels(answer)
    if gold_labels and answer_labels and set(gold_labels) == set(answer_labels):
        by_name = dict(zip(answer_labels, answer, strict=True))
        return all(_equal(g, by_name[name], depth + 1) for name, g in zip(gold_labels, gold, strict=True))
    if gold_labels or answer_labels:
        return all(_equal(g, a, depth + 1) for g, a in zip(gold, answer, strict=True))
    return _same_multiset(gold, answer, depth)


def _same_multiset(gold: list[str], answer: list[str], depth: int) -> bool:
    left = list(answer)
    for element in sorted(gold, key=lambda part: number(part) is None):  # exact matches first: they are cheap
        found = next((i for i, part in enumerate(left) if _matches(element, part, depth + 1)), None)
        if found is None:
            return False
        del left[found]
    return not left


def _matches(gold: str, answer: str, depth: int) -> bool:
    """`_equal`, where a part that cannot be parsed is merely not this element."""
    try:
        return _equal(gold, answer, depth)
    except Undecided as reason:
        if reason.equal is None:
            raise
        return False
