r"""One spelling for many ways to write an answer: pure text, nothing is evaluated.

`clean` gives LaTeX that a parser can read; `number` reads exact rationals (decimals, fractions, mixed numbers,
scientific notation, percentages, with or without a unit) as `Fraction`; `words` reads answers that are words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

# Longer digit strings and larger exponents are compared as text: int() and 10**n must stay instant.
MAX_DIGITS = 1000

_UNICODE = {
    "⁄": "/", "º": r"^\circ ", "¢": r"\text{ cents}", "≈": r"\approx ", "∅": r"\emptyset ",
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "°": r"^\circ ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "½": r"\frac{1}{2}", "θ": r"\theta ", "λ": r"\lambda ",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "’": "'", "\n": " ", "\t": " ",
}  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_SUPERSCRIPT_TABLE = str.maketrans(_SUPERSCRIPTS, "0123456789+-")
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_ROOT_SIGN = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\)|(?=\{))")

_GREEK = r"\\(?:pi|alpha|beta|gamma|theta|lambda|mu|phi|omega)(?![A-Za-z])"
_TEXT_COMMAND = r"\\(?:text|mbox|mathrm|textbf|textit|textrm|mathbf|mathit|texttt|operatorname)"


def _binomial(match: re.Match[str]) -> str:
    top, bottom = (part.strip() for part in match.groups() if part is not None)
    return rf"\binom{{{top}}}{{{bottom}}}"


def _magnitude_in_text(match: re.Match[str]) -> str:
    rest = match.group(2).strip()
    return f" {match.group(1)} " + (rf"\text{{ {rest}}}" if rest else "")


_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
_REWRITES = [
    (re.compile(pattern), to)
    for pattern, to in [
        (r"\\text\s*\{\s*\\?\$\s*\}", r"\\$"),
        (r"(?<!\\)\$", ""),
        (r"^\s*\*\*(.*?)\*\*\s*$", r"\1"),  # bold in Markdown
        (r"\*\*\s*\(?\s*([+-]?\d+)\s*\)?", r"^{\1}"),
        (r"\*\*", "^"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"(?<![A-Za-z])(?:np|numpy|math|sympy)\.(?=[a-z])", ""),
        (r"(?<!\\)\\[()\[\]]", ""),
        (r"(?<=\d),\\!\s*(?=\d)", ""),  # 10,\!080
        (r"(?<=\d)\{,\}\s*(?=\d)", ""),  # 10{,}080
        (r"(?<!\\)\\!", ""),
        (r"(?<=\d)\\,(?=\d{3})", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad\b|\\(?:display|text)style\b|\\limits\b", " "),
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\s*", ""),
        (r"\\[dtc]frac", r"\\frac"),
        (rf"\\frac\s*([0-9A-Za-z]|{_GREEK})", r"\\frac{\1}"),
        (rf"\\frac\s*(\{{[^{{}}]*\}})\s*([0-9A-Za-z]|{_GREEK})", r"\\frac\1{\2}"),
        (r"^\{([^{}]*)\\choose\s*([^{}]*)\}$|\{([^{}]*)\\choose\s*([^{}]*)\}|^([^{}]*)\\choose\s*([^{}]*)$", _binomial),
        (r"\{\s*\}(?=\s*[\^_])", ""),
        (r"(?<![A-Za-z}_^])\{\s*(\d+)\s*\}(?=\s*[\^_])", r"\1"),  # {10}^{33}, {52}_8
        (r"(\\times|\\cdot)\s*\{\s*(\d+)\s*\}", r"\1 \2"),
        (r"\\(?:mathrm|mathbf|mathit|text|rm)\s*\{\s*([ei])\s*\}", r"\1"),
        (r"\\log\s*_\s*\{?\s*e\s*\}?(?![A-Za-z])", r"\\ln "),
        (r"\\varnothing\b|^\\\{\s*\\\}$", r"\\emptyset "),
        (r"\\(?:text|mbox|mathrm)\s*\{\s*(hundred|thousand|million|billion|trillion)\b\s*([^{}]*)\}", _magnitude_in_text),
        (rf"{_TEXT_COMMAND}\s*\{{\s*({_TEXT_COMMAND}\s*\{{[^{{}}]*\}})\s*\}}", r"\1"),
        (r"^\\(?:underline|boldsymbol|bm|boxed|fbox)\s*\{([^{}]*)\}$", r"\1"),
        (r"^\s*(?:=|\\approx\b|\\simeq\b)", ""),
        (r",?\s*(?:\\text\s*\{\s*,?\s*)?\bfor (?:all|any|every)\b.*$", ""),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s*[({{]|\s+(?:\\[a-z]|[0-9]|[a-z](?![a-z])))", r"\\\1"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"\\(sin|cos|tan)\s*\^\s*\{\s*-\s*1\s*\}", r"\\arc\1"),
        (r"\\exp\s*\{([^{}]*)\}", r"e^{\1}"),
        (r"\\exp\s*\(([^()]*)\)", r"e^{\1}"),
        (r"\\leqslant\b|\\leq\b", r"\\le "),
        (r"\\geqslant\b|\\geq\b", r"\\ge "),
        (r"\\(?:degrees?|degree)\b", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"\s+", " "),
    ]
]
_TEXT = re.compile(rf"{_TEXT_COMMAND}\s*\{{([^{{}}]*)\}}")

_UNIT_WORDS = {
    "dollar": "dollar|dollars|usd|bucks", "cent": "cent|cents", "degree": "degree|degrees|deg",
    "mile": "mile|miles|mi", "mph": "mph", "km": "km|kilometer|kilometers|kilometre|kilometres",
    "m": "meter|meters|metre|metres", "cm": "cm|centimeter|centimeters", "mm": "mm|millimeter|millimeters",
    "inch": "inch|inches", "foot": "foot|feet|ft", "yard": "yard|yards|yd", "hour": "hour|hours|hr|hrs",
    "minute": "minute|minutes|min|mins", "second": "second|seconds|sec", "day": "day|days", "week": "week|weeks",
    "month": "month|months", "year": "year|years", "gram": "gram|grams", "kg": "kg|kilogram|kilograms",
    "pound": "pound|pounds|lb|lbs", "ounce": "ounce|ounces|oz", "liter": "liter|liters|litre|litres",
    "gallon": "gallon|gallons", "unit": "unit|units", "percent": "percent|percentage|pct",
    "euro": "euro|euros|eur",
}  # fmt: skip
_UNITS = {word: unit for unit, spellings in _UNIT_WORDS.items() for word in spellings.split("|")}
_UNIT_SYMBOLS_IN_TEXT = {"in": "inch", "m": "m", "g": "gram", "s": "second", "h": "hour", "l": "liter"}
_CURRENCIES = {"€": "euro", "EUR": "euro", "£": "pound sterling", r"\pounds": "pound sterling"}
_CURRENCY = re.compile(r"(\\\$|€|£|\\pounds\b|(?:USD|EUR)(?![A-Za-z]))\s*")
_POWER = r"(?:\s*\^\s*(?:\{\s*([23])\s*\}|([23])))?"
_TEXT_TAIL = re.compile(
    r"(?<=[^\s=+\-*/^_(,])\s*\\(?:text|mbox|mathrm|textrm)\s*"
    rf"\{{([A-Za-z ./]*)(?:\^\s*\{{?([23])\}}?)?\}}{_POWER}\s*$"
)
_WORD_TAIL = re.compile(rf"(?<=[\d}})\]!i])\s*((?:[A-Za-z]+ )?[A-Za-z]+)\.?{_POWER}\s*$")
# What is counted (`41 apples`): any plain word, unless it is a number itself.
_COUNTED = re.compile(
    r"(?<=[\d}])\s+(?!(?:dozen|score|hal|third|quarter|four|fif|six|seven|eigh|nin|ten|squared|cubed|factorial|choose|times|plus"
    r"|minus|over|mod|hundred|thousand|million|billion|trillion|and\b|or\b|percent|base))[a-z]{4,}(?: [a-z]{3,}){0,2}$"
)
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*(?:\\(?:text|mathrm|textrm)\s*\{)?\s*(?:st|nd|rd|th)\s*\}{0,2}(?![A-Za-z])")
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MAGNITUDE = re.compile(r"(?<=[\d} ])\s*(hundred|thousand|million|billion|trillion)\s*$", re.I)

_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_THOUSANDS = re.compile(r"\d{1,3}(?:(?:,\s?\d{3})+|(?: \d{3})+)(?:\.\d*)?")
_EXPONENT = re.compile(rf"({_DECIMAL})[eE]([+-]?\d{{1,4}})")
_POWER_OF_TEN = re.compile(
    rf"(?:({_DECIMAL})\s*(?:\\times|\\cdot|\\ast|\\\*|\*|x)\s*)?10\s*\^\s*(?:\{{\s*([+-]?\d{{1,4}})\s*\}}|([+-]?\d{{1,4}}))"
)
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SLASH = re.compile(rf"\(?\s*([+-]?{_DECIMAL})\s*/\s*([+-]?{_DECIMAL})\s*\)?")
_MIXED = re.compile(r"(\d+)\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d+)\s+(\d+)\s*/\s*(\d+)")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{\s*(\d+)\s*\}")
_BASED = re.compile(r"\(?(\d+)\)?\s*_\s*\{?\s*\(?(\d{1,2})\)?\s*\}?")


@dataclass(frozen=True, slots=True)
class Number:
    """An exact rational; `percent` if written with a percent sign (then `value` is what stands before it)."""

    value: Fraction
    percent: bool = False
    unit: str | None = None


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """LaTeX in one spelling: no math delimiters, no spacing commands, braces on fractions, ASCII operators."""
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{{{run.group().translate(_SUPERSCRIPT_TABLE)}}}", text)
    text = _ROOT_SIGN.sub(lambda root: rf"\sqrt{{{root.group(1) or root.group(2)}}}" if root.lastindex else r"\sqrt", text)
    text = text.translate(_UNICODE_TABLE)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip()
    text = text.removesuffix("\\").rstrip()
    while text and text[-1] in ".,;:" and not text.endswith("\\,"):
        text = text[:-1].rstrip()
    while text.startswith("{") and matching_close(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def key(text: str) -> str:
    """`clean` without white space: equal keys mean equal answers."""
    return clean(text).replace(" ", "")


def matching_close(text: str, start: int) -> int:
    r"""Index of the bracket that closes the one at `start` (any of `([{`, escapes skipped), or -1."""
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\" and text[i + 1 : i + 2] in "{}":
            i += 2
            continue
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def without_text_commands(text: str) -> str:
    r"""`\text{a}` and its relatives replaced by their content."""
    return _TEXT.sub(r" \1 ", clean(text)).strip()


def words(text: str) -> str | None:
    """Lower-case words of an answer that is words (articles and punctuation dropped); None for mathematics."""
    plain = without_text_commands(text)
    if not re.fullmatch(r"[A-Za-z][A-Za-z '.,\-]*", plain):
        return None
    in_text = plain != clean(text)
    parts = [part for part in re.split(r"[^A-Za-z']+", plain) if part]
    if not in_text and max(map(len, parts)) < 4:  # ab and AB are products
        return None
    lowered = [part.lower() for part in parts]
    return " ".join(part for part in lowered if part not in {"a", "an", "the"}) or " ".join(lowered)


def without_choice_word(text: str) -> str:
    """`Option C` and `\\text{C}` as `C`."""
    return re.sub(r"^(?:option|choice|answer)\s+", "", without_text_commands(text), flags=re.I)


def choice(text: str) -> str | None:
    r"""The letter of a multiple-choice answer: `C`, `(C)`, `\text{(C)}`, `(C) 12`, `C. twelve`."""
    plain = without_choice_word(text)
    match = re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?", plain) or re.match(r"\(\s*([A-Z])\s*\)\s*\S|([A-Z])[.:)]\s", plain)
    return (match.group(1) or match.group(2)).upper() if match else None


def based(text: str) -> tuple[str, str] | None:
    """Digits and base of a number with a base as subscript (`52_8`)."""
    match = _BASED.fullmatch(clean(text))
    return (match.group(1).lstrip("0") or "0", match.group(2)) if match else None


def strip_unit(text: str) -> tuple[str, str | None]:
    r"""A cleaned answer without its unit, and the unit in one spelling (None if there is none or it is unknown)."""
    if (sign := _CURRENCY.match(text)) is not None:
        return strip_unit(text[sign.end() :])[0], _CURRENCIES.get(sign.group(1), "dollar")
    if text.endswith(r"^\circ"):
        return text.removesuffix(r"^\circ").rstrip(), "degree"
    if text.endswith("%"):
        return text[:-1].removesuffix("\\").rstrip(), "percent"
    if (match := _TEXT_TAIL.search(text)) is not None and not {"and", "or"} & set(match.group(1).split()):
        rest = text[: match.start()].rstrip()
        return strip_unit(rest)[0], _unit(match, _UNITS | _UNIT_SYMBOLS_IN_TEXT)
    if (match := _WORD_TAIL.search(text)) is not None and _unit(match, _UNITS) is not None:
        return strip_unit(text[: match.start()].rstrip())[0], _unit(match, _UNITS)
    return _COUNTED.sub("", text), None


def _unit(match: re.Match[str], table: dict[str, str]) -> str | None:
    """The unit with its power (`inch^2`): a known word, alone or after `square` or `cubic`."""
    parts = match.group(1).lower().replace(".", " ").split()
    power = next((part for part in match.groups()[1:] if part), "")
    if len(parts) == 2 and parts[0] in {"square", "sq", "cubic"}:
        power, parts = ("3" if parts[0] == "cubic" else "2"), parts[1:]
    if len(parts) != 1 or parts[0] not in table:
        return None
    return table[parts[0]] + (f"^{power}" if power else "")


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """The exact rational that an answer states, or None if it is anything else."""
    if len(text) > MAX_DIGITS:
        return None
    value_text, unit = strip_unit(_ORDINAL.sub("", clean(text)))
    shift = 0
    if (match := _MAGNITUDE.search(value_text)) is not None:
        shift = _MAGNITUDES[match.group(1).lower()]
        value_text = value_text[: match.start()]
    value = _rational(value_text.strip())
    if value is None:
        return None
    percent = unit == "percent"
    return Number(value * 10**shift, percent=percent, unit=None if percent else unit)


def _rational(text: str) -> Fraction | None:
    if text[:1] in {"+", "-"}:
        rest = text[1:].strip()
        value = None if rest[:1] in {"+", "-"} else _rational(rest)
        return -value if value is not None and text[0] == "-" else value
    if text.startswith((r"\$", "$")):
        return _rational(text.lstrip("\\$"))
    if _THOUSANDS.fullmatch(text):
        text = re.sub(r"[,\s]", "", text)
    if re.fullmatch(_DECIMAL, text):
        return Fraction(text)
    if match := _EXPONENT.fullmatch(text):
        return _scaled(Fraction(match.group(1)), int(match.group(2)))
    if match := _POWER_OF_TEN.fullmatch(text):
        return _scaled(Fraction(match.group(1) or 1), int(match.group(2) or match.group(3)))
    if match := _MIXED.fullmatch(text):
        whole, top, bottom = (int(part) for part in match.groups() if part is not None)
        return whole + Fraction(top, bottom) if bottom else None
    if match := _FRACTION.fullmatch(text) or _SLASH.fullmatch(text):
        top, bottom = _rational(match.group(1).strip()), _rational(match.group(2).strip())
        return top / bottom if top is not None and bottom else None
    if match := _REPEATING.fullmatch(text):
        whole, fixed, period = match.groups()
        start = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
        return start + Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return None


def _scaled(value: Fraction, exponent: int) -> Fraction | None:
    return value * Fraction(10) ** exponent if abs(exponent) <= MAX_DIGITS else None


def numbers_equal(a: Number, b: Number) -> bool:
    """Exact equality; a missing unit is fine, a contradicting one is not; 62.5% equals 0.625 and also 62.5."""
    if a.unit is not None and b.unit is not None and a.unit != b.unit:
        return False
    if a.percent == b.percent:
        return a.value == b.value
    percent, plain = (a, b) if a.percent else (b, a)
    return plain.value in (percent.value, percent.value / 100)
