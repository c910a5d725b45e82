r"""One spelling for many ways to write an answer: pure text, nothing is evaluated.

`clean` gives LaTeX that a parser can read; `number` reads exact rationals (decimals, fractions, mixed numbers,
scientific notation, percentages, words, with or without a unit) as `Fraction`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from repirl.grading.math.numerals import leading_number_in_digits
from repirl.grading.math.units import contradict, strip_unit

# Longer digit strings and larger exponents are compared as text: int() and 10**n must stay instant.
MAX_DIGITS = 1000

_UNICODE = {
    "⁄": "/", "º": r"^\circ ", "¢": r"\text{ cents}", "≈": r"\approx ", "∅": r"\emptyset ",
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "°": r"^\circ ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "½": r"\frac{1}{2}", "θ": r"\theta ", "λ": r"\lambda ",
    "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℝ": r"\mathbb{R}",
    "。": ".", "，": ",", "：": ":", "（": "(", "）": ")", "％": "%",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "’": "'", "\n": " ", "\t": " ",
}  # fmt: skip
_UNICODE_TABLE = str.maketrans(_UNICODE)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_SUPERSCRIPT_TABLE = str.maketrans(_SUPERSCRIPTS, "0123456789+-")
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_ROOT_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}
_ROOT_SIGN = re.compile(r"([√∛∜])\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\)|(?=\{))")

_GREEK = r"\\(?:pi|alpha|beta|gamma|theta|lambda|mu|phi|omega)(?![A-Za-z])"
_NUMBER_START = r"[+-]?(?:\\\$\s*)?[+-]?\d[\d,.:]*(?:\s*\\?%)?"
_TEXT_COMMAND = r"\\(?:text|mathrm|mathbf|mathit|operatorname)"


def _root(match: re.Match[str]) -> str:
    sign, *inside = match.groups()
    found = next((part for part in inside if part is not None), None)
    return rf"\sqrt{_ROOT_INDEX[sign]}" + ("" if found is None else f"{{{found}}}")


def _without_braces(match: re.Match[str]) -> str:
    command, symbol = match.groups()
    return match.group() if command else symbol


def _binomial(match: re.Match[str]) -> str:
    top, bottom = (part.strip() for part in match.groups() if part is not None)
    return rf"\binom{{{top}}}{{{bottom}}}"


def _magnitude_in_text(match: re.Match[str]) -> str:
    rest = match.group(2).strip()
    return f" {match.group(1)} " + (rf"\text{{ {rest}}}" if rest else "")


def _as_half_open(match: re.Match[str]) -> str:
    before, opening, inside, closing = match.groups()
    if (opening, closing) == ("[", "]"):
        return match.group()
    return f"{before}{'(' if opening == ']' else '['}{inside}{')' if closing == '[' else ']'}"


def _clock_time(match: re.Match[str]) -> str:
    return rf"{match.group(1)}\text{{ {match.group(2).lower()}m}}"


_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
_REWRITES = [
    (re.compile(pattern), to)
    for pattern, to in [
        (r"\\(?:text(?:bf|it|rm|sf|tt|sc|sl|up|md|normal)|[mh]box|emph)(?![A-Za-z])", r"\\text"),
        (r"\\math(?:sf|tt|normal)(?![A-Za-z])", r"\\mathrm"),
        (r"^\s*(?:``|''|[\"'`“”])\s*([^\"'`“”]+?)\s*(?:''|[\"'`“”])\s*$", r"\1"),
        (r"\\text\s*\{\s*(\\?[$%])\s*\}", lambda sign: "\\" + sign.group(1)[-1]),
        (r"(?<!\\)\$", ""),
        (r"^\s*\*\*(.*?)\*\*\s*$", r"\1"),  # bold in Markdown
        (r"\\\\\s*\[\s*-?[\d.]+\s*[a-z]{2}\s*\]", r"\\\\"),  # space between the rows of a matrix
        (r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:tiny|small|normalsize|[lL]arge|LARGE|[hH]uge|bf|rm|it)(?![A-Za-z])", " "),
        (r"^\s*((?:\\text\s*\{)?)\s*(?i:(?:the\s+)?(?:final\s+)?answer)\s*(?::|is\b:?)\s*(?:(?<=\{.)\s*\})?", r"\1"),
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
        (r"\{\s*:\s*\}", ":"),
        (r"\.\s*\}$", "}"),
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
        (r"(?<!\\)\{\s*\{([^{}]*)\}\s*\}", r"{\1}"),
        (r"(\\[A-Za-z]+\s*|[_^]\s*)?\{\s*([A-Za-z]{1,3}|\\[a-z]+(?:\s*\{\w\})?)\s*\}(?=\s*[_'])", _without_braces),
        (r"(?<![A-Za-z}_^])\{\s*(\d+)\s*\}(?=\s*[\^_])", r"\1"),  # {10}^{33}, {52}_8
        (r"(\\times|\\cdot)\s*\{\s*(\d+)\s*\}", r"\1 \2"),
        (r"\\(?:mathrm|mathbf|mathit|text)\s*\{\s*([ei])\s*\}", r"\1"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\\log\s*_\s*\{?\s*e\s*\}?(?![A-Za-z])", r"\\ln "),
        (r"\\varnothing\b|^\\\{\s*\\\}$", r"\\emptyset "),
        (r"\\(?:text|mathrm)\s*\{\s*(dozen|hundred|thousand|million|billion|trillion)\b\s*([^{}]*)\}", _magnitude_in_text),
        (rf"{_TEXT_COMMAND}\s*\{{\s*({_TEXT_COMMAND}\s*\{{[^{{}}]*\}})\s*\}}", r"\1"),
        (rf"{_TEXT_COMMAND}\s*\{{\s*({_NUMBER_START})\s*\}}", r"\1"),  # \text{18}, \text{75\%}
        (
            rf"^{_TEXT_COMMAND}\s*\{{\s*({_NUMBER_START})\s*(?!(?:st|nd|rd|th) )([A-Za-z][A-Za-z ./]*)\}}",
            r"\1\\text{ \2}",
        ),  # \text{40 dollars}
        (r"^(\d{1,2}(?::\d{2}|(?=\s*\\text)|(?=.*\.)))\s*(?:\\text\s*\{)?\s*([APap])\.?\s?[Mm]\.?\s*\}?$", _clock_time),
        (r"^\\text\s*\{\s*(?i:(?:the set of )?(?:all )?real numbers|all reals)\s*\}\.?$", r"\\mathbb{R}"),
        (r"(^|\\cup)\s*([\[\]])([^\[\]]*,[^\[\]]*)([\[\]])\s*(?=$|\\cup)", _as_half_open),  # ]0,4]
        (r"^\\(?:underline|boldsymbol|bm|boxed|fbox)\s*\{([^{}]*)\}$", r"\1"),
        (r"^\s*(?:=|\\approx\b|\\simeq\b)", ""),
        (r",?\s*(?:\\text\s*\{\s*,?\s*)?\bfor (?:all|any|every)\b.*$", ""),
        (r"\\sqrt\s*(\[[^\[\]]*\]\s*)?([0-9A-Za-z])", r"\\sqrt\1{\2}"),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s*[({{]|\s+(?:\\[a-z]|[0-9]|[a-z](?![a-z])))", r"\\\1"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"\\(sin|cos|tan)\s*\^\s*\{\s*-\s*1\s*\}", r"\\arc\1"),
        (r"\\exp\s*\{([^{}]*)\}", r"e^{\1}"),
        (r"\\exp\s*\(([^()]*)\)", r"e^{\1}"),
        (r"\\leqslant\b|\\leq\b", r"\\le "),
        (r"\\geqslant\b|\\geq\b", r"\\ge "),
        (r"\\neq\b", r"\\ne "),
        (r"\\(?:degrees?|degree)\b", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}", r"^\\circ "),
        (r"\s+", " "),
    ]
]
_SPACES = re.compile(r"(?<!\d) +| +(?!\d)")
_SPACE_RUN = re.compile(r"\s+")
_TEXT = re.compile(rf"{_TEXT_COMMAND}\s*\{{([^{{}}]*)\}}")

_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*(?:\\(?:text|mathrm)\s*\{)?\s*(?:st|nd|rd|th)\s*\}{0,2}(?![A-Za-z])")
_MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAGNITUDE = re.compile(rf"(?<=[\d}} ])\s*({'|'.join(_MAGNITUDES)})\s*$", re.I)

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
    text = _ROOT_SIGN.sub(_root, text)
    text = _SPACE_RUN.sub(" ", text.translate(_UNICODE_TABLE))  # first: the patterns below would take long over many
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
    return without_spaces(clean(text))


def without_spaces(text: str) -> str:
    """Text without its spaces, except those between digits: `5 8` is not 58."""
    return _SPACES.sub("", text)


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


def fractions_end(text: str) -> str:
    r"""`\frac{1}{2}48` as `\frac{1}{2}\cdot 48`: the parser would take the 48 for 4 + 8."""
    start = 0
    while (start := text.find("\\frac{", start)) >= 0:
        middle = matching_close(text, start + 5)
        end = matching_close(text, middle + 1) if text[middle + 1 : middle + 2] == "{" else -1
        if middle > 0 and end > 0 and text[end + 1 :].lstrip()[:1].isdigit():
            text = f"{text[: end + 1]}\\cdot {text[end + 1 :].lstrip()}"
        start += 5
    return text


def without_text_commands(text: str) -> str:
    r"""`\text{a}` and its relatives replaced by their content."""
    return _TEXT.sub(r" \1 ", clean(text)).strip()


@lru_cache(maxsize=4096)
def number(text: str) -> Number | None:
    """The exact rational that an answer states, or None if it is anything else."""
    if len(text) > MAX_DIGITS:
        return None
    spelling = clean(text)
    if not any(map(str.isdigit, spelling)):
        spelling = leading_number_in_digits(without_text_commands(spelling))
    value_text, unit = strip_unit(_ORDINAL.sub("", spelling))
    factor = 1
    if (match := _MAGNITUDE.search(value_text)) is not None:
        factor = _MAGNITUDES[match.group(1).lower()]
        value_text = value_text[: match.start()]
    value = _rational(value_text.strip())
    if value is None:
        return None
    percent = unit == "percent"
    return Number(value * factor, percent=percent, unit=None if percent else unit)


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
    units = ["percent" if side.percent else side.unit for side in (a, b)]
    if contradict(*units):
        return False
    if a.percent == b.percent:
        return a.value == b.value
    percent, plain = (a, b) if a.percent else (b, a)
    return plain.value in (percent.value, percent.value / 100)
