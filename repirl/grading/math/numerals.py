"""Numbers in English words: `eighteen`, `twenty-one`, `two hundred and five`, `third`."""

from __future__ import annotations

import re

_UP_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_UP_TO_NINETEEN.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_SCALES = {"billion": 10**9, "million": 10**6, "thousand": 10**3}
_IRREGULAR = {"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine"} | {
    "twelfth": "twelve"
}
_WORDS = re.compile(r"[A-Za-z][A-Za-z \-]*")
_MAX_CHARS = 100


def integer_in_words(text: str) -> int | None:
    """The value of a cardinal or ordinal number in words; None for anything else."""
    if len(text) > _MAX_CHARS or not _WORDS.fullmatch(text):
        return None
    words = text.lower().replace("-", " ").split()
    words[-1] = _cardinal(words[-1])
    return _below_trillion(words)


def leading_number_in_digits(text: str) -> str:
    """`forty dollars` as `40 dollars`, `eighteen` and `third` by their value alone; other text as it is."""
    if (whole := integer_in_words(text)) is not None:
        return str(whole)
    parts = text.lower().split()[:10]
    for end in range(len(parts) - 1, 0, -1):
        front = " ".join(parts[:end])
        if _cardinal(parts[end - 1]) == parts[end - 1] and (value := integer_in_words(front)) is not None:
            return f"{value} {' '.join(text.split()[end:])}"
    return text


def _cardinal(word: str) -> str:
    """The cardinal of an ordinal; any other word as it is."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    stem = word.removesuffix("th")
    stem = stem.removesuffix("ie") + "y" if stem.endswith("ie") else stem
    return stem if stem in _SMALL or stem in _SCALES or stem == "hundred" else word


def _below_trillion(words: list[str]) -> int | None:
    for scale, size in _SCALES.items():
        if scale in words:
            at = words.index(scale)
            count, rest = _below_thousand(words[:at]), words[at + 1 :]
            left = _below_trillion(rest[1:] if rest[0] == "and" else rest) if rest else 0
            return count * size + left if count and left is not None and left < size else None
    return _below_thousand(words)


def _below_thousand(words: list[str]) -> int | None:
    if words[1:2] == ["hundred"]:
        rest = words[3:] if words[2:3] == ["and"] and len(words) > 3 else words[2:]
        count, left = _SMALL.get(words[0], 0), _below_hundred(rest) if rest else 0
        return 100 * count + left if 0 < count < 20 and left is not None else None
    return _below_hundred(words)


def _below_hundred(words: list[str]) -> int | None:
    values = [_SMALL.get(word, -1) for word in words]
    if len(values) == 2 and values[0] >= 20 and 0 < values[1] < 10:
        return sum(values)
    return values[0] if len(values) == 1 and values[0] >= 0 else None
