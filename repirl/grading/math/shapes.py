r"""The shapes of answers as text: lists, sets, tuples, intervals, unions, labels. Pure text, nothing is evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repirl.grading.math.normalize import key, matching_close, number

# A name and what it is equal to: `x = 5`, `a_1 = 2`, `f(x) = 2x`, `E(x, +0) = 1`, `\vec{E} = qb`, `\frac{dy}{dx} = 2x`. What is
# in the brackets is no computation, lest `x(y+1) = 6` be answered by 6, except after the usual names of functions.
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|chi|psi|omega"
    r"|ell|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega)(?![A-Za-z])"
)
_ACCENTED = r"\\(?:vec|hat|bar|dot|ddot|tilde|overline|overrightarrow|mathbf|mathrm|text)\s*\{\s*[A-Za-z ]+\}"
_ARGUMENT = rf"\s*(?:[+-]\s*)?(?:\d+(?:\.\d+)?|[A-Za-z]\w{{0,3}}|{_GREEK}|\\infty|\\pi|\\frac\s*\{{[\w\\ ]+\}}\{{\w+\}})\s*"
_CALL = rf"\((?:{_ARGUMENT}(?:,{_ARGUMENT})*)?\s*\)"
_DERIVATIVE = (
    r"\\frac\s*\{\s*(?:d|\\partial)\s*(?:\^\s*\{?\d\}?)?\s*(?:[A-Za-z](?:\([A-Za-z]\))?\s*\}|\}(?=.*\}\s*[A-Za-z]))\s*"
    r"\{\s*(?:d|\\partial)\s*[A-Za-z]\s*(?:\^\s*\{?\d\}?)?\s*\}(?:\s*[A-Za-z](?:\([A-Za-z]\))?)?|d[A-Za-z]\s*/\s*d[A-Za-z]"
)
_MARK = r"(?:'+|\^\s*\{(?:\s*\\prime)+\s*\}|\^\s*\{?\s*\*\s*\}?)"
_NAME = rf"(?:[A-Za-z]\w{{0,3}}|{_GREEK}|{_ACCENTED})(?:_\{{[\w, ]+\}}|_\w)?{_MARK}?"
_COMPUTED = (
    r"\\(?:lim|int|sum|prod|max|min|gcd|det)(?![A-Za-z])(?:\s*_\s*\{[^{}]*\})?(?:[^=<>{}]|\{(?:[^=<>{}]|\{[^=<>{}]*\})*\})*"
)
LABEL = re.compile(
    rf"({_DERIVATIVE}|{_NAME}(?:\s*{_CALL})?|[A-Za-z]\s*\^\s*\{{\s*-1\s*\}}\s*{_CALL}|[fghFGH]\s*\([^()=<>]+\)|{_COMPUTED})"
    r"\s*=\s*([^=<>]+)"
)
_DERIVED = re.compile(r"(?:\\frac\{)?d(?:\^\{?(\d)\}?)?([A-Za-z](?:\([A-Za-z]\))?)(?:/|\}\{)d[A-Za-z](?:\^\{?\d\}?)?\}?")
# Names of different values of one thing: `f(0)` and `f(1)`, `y'` and `y`.
_OF_ONE_VALUE = re.compile(rf"{_DERIVATIVE}|.*\(.*\d.*\)|.*(?:'|\\prime).*")
_RELATIONS = re.compile(r"\\(?:le|ge|ne|lt|gt|in|equiv|approx|to)(?![A-Za-z])|[<>]")
_SEPARATOR = re.compile(r"\s*(?:,\s*(?:and|or)(?![A-Za-z])|[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*")
# `x \in` before a set or interval.
MEMBER = re.compile(r"[A-Za-z]\w?\s*\\in\s*(?=[\[({\\])")
_BETWEEN = re.compile(r"(.+?)\s*(<|\\le)\s*(\\?[A-Za-z]+)\s*(<|\\le)\s*(.+)")
_FALLING = re.compile(r"(.+?)\s*(>|\\ge)\s*(\\?[A-Za-z]+)\s*(>|\\ge)\s*(.+)")
_ONE_SIDED = re.compile(r"(\\?[A-Za-z]+)\s*(<|>|\\le|\\ge)\s*(.+)")
_MATRIX = re.compile(
    r"(?:\\?[A-Za-z]+(?:\s*\{[A-Za-z]\})?(?:\s*\^\s*(?:\{-1\}|[T\d]))?\s*=)?\s*([^=&,<>]*?)\s*"
    r"[(\[]?\s*\\begin\s*\{([pbB]?matrix|array)\}(?:\s*\{[clr|]+\})?(.*?)\\end\s*\{\2\}\s*[)\]]?"
)
_BUILDER = re.compile(r"\\\{\s*(.+?)\s*(?:\\mid\b|\\vert\b|\\?\||:)\s*(.+?)\s*\\\}")


def labels(elements: list[str]) -> list[str] | None:
    """The names in `b = -3`, `c = 0`, if every element has one and all differ; else None."""
    matches = [LABEL.fullmatch(element) for element in elements]
    names = [name_key(match.group(1)) for match in matches if match]
    return names if len(names) == len(elements) == len(set(names)) else None


def names_one_value(name: str) -> bool:
    """Whether what has another name is another thing for certain: `f(0)`, `y'` and `\\frac{dy}{dx}` against any other."""
    return _OF_ONE_VALUE.fullmatch(name) is not None


def name_key(name: str) -> str:
    r"""One spelling of a name: `y^{\prime}`, `\frac{dy}{dx}` and `dy/dx` are `y'`."""
    name = key(re.sub(r"\^\s*\{((?:\\prime\s*)+)\}", lambda primes: "'" * primes.group().count("prime"), name))
    if (match := _DERIVED.fullmatch(name)) is not None:
        return match.group(2) + "'" * int(match.group(1) or 1)
    return name


@dataclass(frozen=True, slots=True)
class Bracketed:
    """A tuple or interval: its opening and closing bracket, and what is between the commas."""

    brackets: str
    parts: list[str]


def bracketed(text: str) -> Bracketed | None:
    """A tuple or interval: one pair of brackets around a list."""
    text = text.replace("\\langle", "(").replace("\\rangle", ")").strip()
    if text[:1] not in {"(", "["} or text[-1:] not in {")", "]"} or matching_close(text, 0) != len(text) - 1:
        return None
    parts = split_list(text[1:-1])
    return Bracketed(text[0] + text[-1], parts) if len(parts) > 1 else None


def is_set(text: str) -> bool:
    """Whether the answer is one set, written with braces."""
    text = text.strip()
    return text.startswith("\\{") and text.endswith("\\}") and text.count("\\{") == 1


def elements(text: str) -> list[str]:
    r"""Elements of a list or set, `\pm` expanded, the common name of `n = 1, -2` dropped."""
    text = text.strip()
    if is_set(text):
        text = text[2:-2].strip()
    parts = split_list(text)
    if len(parts) > 1:
        named = [LABEL.fullmatch(part) for part in parts]
        names = {name_key(match.group(1)) for match in named if match}
        if named[0] and len(names) == 1:
            parts = [match.group(2) if match else part for match, part in zip(named, parts, strict=True)]
    elif "\\mp" in text and "\\pm" not in text:
        parts = [text.replace("\\mp", "\\pm")]
    elif "\\pm" in text and (label := LABEL.fullmatch(text)):
        parts = [label.group(2)]
    expanded = []
    for part in parts:
        if "\\pm" in part:
            expanded += [part.replace("\\pm", "+").replace("\\mp", "-"), part.replace("\\pm", "-").replace("\\mp", "+")]
        else:
            expanded.append(part)
    return [re.sub(r"^\s*\+\s*", "", part) for part in expanded]


def split_list(text: str) -> list[str]:
    """Parts of a list at the top level: separated by commas, semicolons, `and`, `or`."""
    if "\\begin" in text:
        return [text]
    flat = re.sub(r"\\(?:text|mathrm)\s*\{\s*(,|,?\s*(?:and|or)\s*,?)\s*\}", r" \1 ", text)
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


def matrix(text: str) -> list[list[str]] | None:
    """Rows of a matrix or vector, a factor before it multiplied into every entry; None if it is none."""
    match = _MATRIX.fullmatch(text) if "\\begin" in text else None
    if match is None or "\\begin" in match.group(1) + match.group(3):
        return None
    factor, _, body = match.groups()
    rows = [[cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\|\\cr\b", body) if row.strip()]
    return [[_times(re.sub(r"\s*(?:\\cdot|\\times|\*)$", "", factor), cell) for cell in row] for row in rows]


def _times(factor: str, text: str) -> str:
    one, other = (number(part) for part in (factor, text))
    if one is not None and other is not None:
        return str(one.value * other.value)
    if not factor:
        return text
    return f"-({text})" if factor == "-" else rf"({factor}) \cdot ({text})"


def rising(text: str) -> str:
    """A chain such as `4 \\ge x > 3` written from small to large; any other text as it is."""
    match = _FALLING.fullmatch(text)
    if match is None or _RELATIONS.search(match.group(1) + match.group(5)):
        return text
    high, left, name, right, low = match.groups()
    turned = {">": "<", "\\ge": "\\le"}
    return f"{low} {turned[right]} {name} {turned[left]} {high}"


def split_union(text: str) -> list[str]:
    """Parts of a union of sets; one part if it is none."""
    return [part.strip() for part in text.split("\\cup")]


def as_interval(text: str, other: str) -> str:
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
                f"(-\\infty,{bound}{')' if open_end else ']'}" if low_side else f"{'(' if open_end else '['}{bound},\\infty)"
            )
        else:
            return text
    return " \\cup ".join(intervals)


def as_intervals(one: str, other: str) -> tuple[str, str] | None:
    """Two inequalities in one and the same variable as intervals; None if they are anything else."""
    names = []
    for text in (one, other):
        match = _BETWEEN.fullmatch(text)
        names.append(match.group(3) if match else (match := _ONE_SIDED.fullmatch(text)) and match.group(1))
    if names[0] is None or names[0] != names[1]:
        return None
    intervals = as_interval(one, "("), as_interval(other, "(")
    return intervals if all(interval[0] in "([" for interval in intervals) else None


def builder_key(text: str) -> str | None:
    r"""`\{x | x = 3k, k \in Z\}` and `\{3k | k \in Z\}` under one key."""
    match = _BUILDER.fullmatch(text)
    if match is None:
        return None
    head, condition = key(match.group(1)), key(match.group(2))
    if head.isalpha() and condition.startswith(head + "=") and "," in condition:
        value, _, condition = condition[len(head) + 1 :].partition(",")
        head = value
    return f"{head}|{condition}"
