r"""A second opinion on final answers, for `repirl grade --audit`: it shares no code with the path that gives verdicts.

Two normalisers of its own. Text: LaTeX decoration dropped, then compared as it stands. Numbers: a small reader of
LaTeX evaluates both sides at fixed points with 50 digits (mpmath), list members matched in any order. It has no opinion on what
it cannot read, and it never changes a verdict: where the two disagree, a person should look.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from repirl.grading.math.audit_values import Unreadable, same_values

_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|,|;|!|:|>|\s|quad|qquad)(?![A-Za-z])|\\[()\[\]](?!\w)|(?<!\\)\$|~|\s+|\\(?:mathrm|text|textbf|mbox)\b"
)
_SPELLINGS = (
    ("\u2212", "-"), ("\u2013", "-"), ("\u00b0", "^{\\circ}"), ("^\\circ", "^{\\circ}"), ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"), ("\\cfrac", "\\frac"), ("\\leqslant", "\\le"), ("\\geqslant", "\\ge"), ("\\leq", "\\le"),
    ("\\geq", "\\ge"), ("\\ge", ">="), ("\\le", "<="), ("\\lbrace", "\\{"), ("\\rbrace", "\\}"),
)  # fmt: skip
_WORDS = re.compile(r"[a-z]{4,}")


@dataclass(frozen=True, slots=True)
class Opinion:
    """`equal` is None where there is no opinion; `how` names what decided: `text`, `values`, or why nothing did."""

    equal: bool | None
    how: str


def second_opinion(pair: tuple[str, str]) -> Opinion:
    """The opinion on (gold, answer). Runs in a worker process: numbers may be huge."""
    gold, answer = pair
    plain_gold, plain_answer = _plain(gold), _plain(answer)
    if plain_gold == plain_answer:
        return Opinion(True, "text")
    try:
        return Opinion(same_values(gold, answer), "values")
    except Unreadable as reason:
        if _WORDS.fullmatch(plain_gold) and _WORDS.fullmatch(plain_answer):
            return Opinion(False, "text")
        return Opinion(None, str(reason))
    except (ArithmeticError, ValueError, RecursionError) as error:
        return Opinion(None, type(error).__name__)


def _plain(text: str) -> str:
    """Text without white space, fonts, delimiters and case."""
    for old, new in _SPELLINGS:
        text = text.replace(old, new)
    text = re.sub(r"\.$", "", _DROPPED.sub("", text)).lower()
    while text.startswith("{") and text.endswith("}") and "}" not in text[1:-1]:
        text = text[1:-1]
    return re.sub(r"\{(\w)\}", r"\1", text)
