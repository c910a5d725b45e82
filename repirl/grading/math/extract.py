"""The final answer of a completion: its boxes, then the usual phrases; and for base models the last value it states."""

from __future__ import annotations

import re
from collections import deque

from repirl.grading.math.boxes import boxed_answer, has_box
from repirl.grading.math.phrases import FORMULA, NUMBER, phrase_answer, value_of

_END_OF_THOUGHT = "</think>"
_ANSWER_TAG, _ANSWER_TAG_END = "<answer>", "</answer>"
_BLANK_LINE = re.compile(r"\n\s*\n")
_MAX_CHARS_OF_END = 4000  # what `flexible_answer` looks at where nothing is marked
_VALUE = re.compile(rf"{FORMULA.pattern}|{NUMBER.pattern}", re.DOTALL)


def final_answer(text: str) -> str | None:
    """The answer a completion ends with, or None: its boxes, what its last `<answer>` tag holds if no box follows that,
    or what follows the last phrase. After `</think>`, only what follows it counts."""
    text = _after_thought(text)
    _, tag, tagged = text.rpartition(_ANSWER_TAG)
    inside, _, behind = tagged.partition(_ANSWER_TAG_END)
    if tag and inside.strip() and not has_box(behind):
        return boxed_answer(inside) or phrase_answer(inside) or value_of(inside.strip()) or None
    boxed = boxed_answer(text)
    return (boxed or None) if boxed is not None else phrase_answer(text)


def flexible_answer(text: str) -> str | None:
    """The marked answer, else the last formula or number: base models do not mark their answers.

    Lenient on purpose: a number in passing counts. Rewards and published scores should say which extraction they used.
    """
    if (marked := final_answer(text)) is not None:
        return marked
    # By paragraphs: a formula that the limit cuts in two would turn all dollar signs after it around.
    for paragraph in reversed(_BLANK_LINE.split(_after_thought(text)[-_MAX_CHARS_OF_END:])):
        if found := deque(_VALUE.finditer(paragraph), maxlen=1):
            return found[0].group().strip()
    return None


def gold_answer(gold: str) -> str:
    r"""The answer within a gold field: what follows `####` (GSM8K), its last boxes, the phrase that ends a solution of
    several lines, else the field."""
    if "####" in gold:
        return gold.rpartition("####")[2].strip()
    if "\\boxed" in gold:
        return boxed_answer(gold) or gold
    if "\n" in gold.strip():
        return phrase_answer(gold) or gold
    return gold


def _after_thought(text: str) -> str:
    _, _, after = text.rpartition(_END_OF_THOUGHT)
    return after if after.strip() else text
