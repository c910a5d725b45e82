r"""Answers that are words as text: choice letters, lists of them, clock times, numbers with a base. Nothing is evaluated."""

from __future__ import annotations

import re

from repirl.grading.math.normalize import clean, without_text_commands
from repirl.grading.math.numerals import integer_in_words

_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?(?:(?<=:\d\d)|(?=\\))(?:\\text\{ ([ap]m)\})?")
_DIGITS_AND_BASE = re.compile(r"\(?([0-9A-Z]+)\)?(?:_\{?\(?(\d{1,2}|[a-z]{3,9})\)?\}?|\(?(?:in)?base(\d{1,2}|[a-z]{3,9})\)?)")
# Behind a choice letter: another letter, or that it is the wrong one.
_TAKES_IT_BACK = re.compile(
    r"\(\s*[A-H]\s*\)|^\W*(?:(?:and|or|but|not)\b|is (?:not|wrong|incorrect|false)\b)|^\W*[A-H](?:[.:)].*)?\W*$"
    r"|(?:,|\bor|\band|\bnot)\s+[A-H]\W*$"
)

_OF_SEVERAL = re.compile(r"(?:both|neither|all|none)\b", re.I)  # `(D) Both A and B`


def words(text: str, *, short: bool = False) -> str | None:
    """Lower-case words of an answer that is words (articles and punctuation dropped); None for mathematics.

    Without `\\text`, words of less than four letters are taken for products, unless `short`.
    """
    plain = without_text_commands(text)
    if not re.fullmatch(r"[A-Za-z][A-Za-z '.,\-]*", plain):
        return None
    parts = [part for part in re.split(r"[^A-Za-z']+", re.sub(r",\s*and\b", ",", plain)) if part]
    if not short and plain == clean(text) and max(map(len, parts)) < 4:  # ab and AB are products
        return None
    following = [*parts[1:], ""]
    kept = [part for part, after in zip(parts, following, strict=True) if not _is_article(part, after)]
    return " ".join(kept or parts).lower()


def _is_article(word: str, after: str) -> bool:
    """`a circle`, `A circle`, `an Ellipse`; but in `A, C` and `A and C` the letter is a choice."""
    if word.lower() in {"an", "the"}:
        return True
    return word.lower() == "a" and len(after) > 1 and not after.isupper() and after not in {"and", "or"}


def in_text(text: str) -> bool:
    r"""Whether some of the answer is inside `\text` or a relative of it."""
    return without_text_commands(text) != clean(text)


def without_choice_word(text: str) -> str:
    """`Option C` and `\\text{C}` as `C`."""
    return re.sub(r"^(?:option|choice|answer)\s+", "", without_text_commands(text), flags=re.I)


def choice(text: str) -> str | None:
    r"""The letter of a multiple-choice answer: `C`, `(C)`, `\text{(C)}`, `(C) 12`, `C. twelve`; not of `(C) or (D)`."""
    plain = without_choice_word(text)
    if (match := re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", plain)) is not None:
        return match.group(1).upper()
    match = re.fullmatch(r"(?:\(\s*([A-Z])\s*\)|([A-Z])[.:)](?=\s))\s*(\S.*)", plain)
    if match is None or (_TAKES_IT_BACK.search(match.group(3)) and not _OF_SEVERAL.match(match.group(3))):
        return None
    return match.group(1) or match.group(2)


def choices(text: str) -> list[str] | None:
    r"""The letters or Roman numerals of several choices, sorted (`\text{C, F, and H}`, `(C) and (F)`), else None."""
    plain = without_text_commands(text).removeprefix("\\{").removesuffix("\\}").strip()
    parts = re.split(r"\s*(?:,\s*and\b|,|;|\band\b|&)\s*", plain)
    letters = [re.fullmatch(r"(?:(\()\s*)?([A-Z]|[IVX]+)(?(1)\s*\))", part) for part in parts]
    found = sorted(letter.group(2) for letter in letters if letter)
    return found if len(found) == len(parts) > 1 else None


def clock_time(text: str) -> tuple[str, str, str | None] | None:
    """Hour, minute and `am`, `pm` or None."""
    match = _CLOCK.fullmatch(clean(text))
    return (match.group(1).lstrip("0"), match.group(2) or "00", match.group(3)) if match else None


def based(text: str) -> tuple[str, int] | None:
    r"""Digits and base of a number that names its base: `52_8`, `1A5_{16}`, `42 \text{ base seven}`, `42\text{ (base 7)}`."""
    match = _DIGITS_AND_BASE.fullmatch(without_text_commands(text).replace(" ", ""))
    if match is None or not any(map(str.isdigit, match.group(1))):
        return None
    written = match.group(2) or match.group(3)
    base = int(written) if written.isdigit() else integer_in_words(written)
    if base is None or base < 2 or any(int(digit, 36) >= base for digit in match.group(1)):
        return None
    return match.group(1).lstrip("0") or "0", base
