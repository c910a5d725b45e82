"""What math-verify says of two single expressions, with the units, spellings and bounds that it needs. Only in a worker."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from repirl.grading.math.normalize import fractions_end
from repirl.grading.math.reals import for_positive_symbols
from repirl.grading.math.units import contradict, strip_unit
from repirl.grading.math.values import (
    MAX_VALUE_DIGITS,
    differ,
    digits,
    equations_differ,
    is_symbol_in_other_form,
    says_nothing_of_its_symbols,
    settled,
    too_large_to_read,
    unbounded,
)

_FLOAT_ROUNDING = 12  # decimal places: a decimal counts only if it is the exact value
_PRIME = re.compile(r"(?<=[A-Za-z])('+)")
_INDEXED_E = re.compile(r"(?<![A-Za-z\\])E(?=\s*_)")  # the parser takes it for Euler's number, and no index then
_SPACED_TEXT = re.compile(r"\\(text|mathrm) +\{")
_WITH_DIFFERENTIALS = re.compile(
    r"\\(?:i{1,3}nt|oint|partial)(?![A-Za-z])|\\frac\s*\{\s*d[^{}]*\}\s*\{\s*d|(?<![A-Za-z\\])d[A-Za-z]\s*/\s*d[A-Za-z]"
)
# A `d` before a letter, or what has one inside that is none: commands, words, names of indices.
_LETTER_D = re.compile(r"\\(?:text|math[a-z]+|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+|_\{[^{}]*\}|_\s*d|d(?=\s*[A-Za-z\\])")
_DIGITS_APART = re.compile(r"(?<![\d.^_])\d+ +\d(?!\d\d(?!\d))")  # but `12 500`
_MAX_NESTING = 40
_MAX_POWERS = 200
_MAX_CHARS = 500  # of an answer to be parsed, beyond four times the gold's
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")


class Undecided(Exception):
    """The comparison ends here, with this result."""

    def __init__(self, equal: bool | None, note: str) -> None:
        super().__init__(note)
        self.equal = equal
        self.note = note


def symbolic(gold: str, answer: str) -> bool:
    """What math-verify says of two single expressions."""
    if len(answer) > _MAX_CHARS + 4 * len(gold):
        raise Undecided(False, "answer not parsed")
    gold, answer = (_one_spelling(side) for side in _with_letter_d(*_without_units(gold, answer)))
    unread = [too_large_to_read(text) for text in (gold, answer)]
    trees = [
        _parse(text) if not unread_side and _is_parseable(text) else ()
        for unread_side, text in zip(unread, (gold, answer), strict=True)
    ]
    gold_tree, answer_tree = trees
    too_large = [
        unread_side or any(digits(tree) > MAX_VALUE_DIGITS for tree in forms)
        for unread_side, forms in zip(unread, trees, strict=True)
    ]
    if any(too_large):  # if only one is, they differ
        raise Undecided(None if all(too_large) else False, "too large to evaluate")
    if not gold_tree or not answer_tree:
        raise Undecided(False, "gold not parsed" if not gold_tree else "answer not parsed")
    if _only_gold_is_a_law(gold_tree[0], answer_tree[0]):
        return False
    gold_forms, answer_forms = ([settled(_uniform(tree)) for tree in forms] for forms in trees)
    if differ(gold_forms[0], answer_forms[0]) or equations_differ(gold_forms[0], answer_forms[0]):
        return False
    if (same := _same_sides(gold_forms[0], answer_forms[0])) is not None:
        return same
    if unbounded(gold_forms[0], answer_forms[0]):
        raise Undecided(False, "left unevaluated")
    if is_symbol_in_other_form(gold_forms[0], answer_forms[0]):
        return True
    if _verified(gold_forms, answer_forms):
        return True
    positive = for_positive_symbols(gold_forms[0], answer_forms[0])
    return positive is not None and _verified([positive[0]], [positive[1]])


def _only_gold_is_a_law(gold: Any, answer: Any) -> bool:
    """Whether the gold is an equation of several terms (`y' + y = 0`) and the answer is none: math-verify would be content
    with its right side. In an answer such a left side may be what was asked for (`a + b = 5`), unless it is derived."""
    from sympy import Add, Derivative
    from sympy.core.relational import Relational

    if isinstance(gold, Relational) == isinstance(answer, Relational):
        return False
    equation = gold if isinstance(gold, Relational) else answer
    return equation.has(Derivative) or (equation is gold and equation.lhs.has(Add) and bool(equation.lhs.free_symbols))


def _same_sides(gold: Any, answer: Any) -> bool | None:
    """Of two equations of which one holds always or never: whether their sides are the same. None for any others.

    All identities have the same solutions, so `1 = 1` would do for any of them: they must speak of the same symbols, and the
    answer must not have the same on both sides unless the gold does.
    """
    from sympy import Eq

    if not (isinstance(gold, Eq) and isinstance(answer, Eq) and any(map(says_nothing_of_its_symbols, (gold, answer)))):
        return None
    if gold.free_symbols != answer.free_symbols or (answer.lhs == answer.rhs and gold.lhs != gold.rhs):
        return False
    return any(
        _verified([gold.lhs], [left]) and _verified([gold.rhs], [right])
        for left, right in ((answer.lhs, answer.rhs), (answer.rhs, answer.lhs))
    )


def _verified(gold_forms: list[Any], answer_forms: list[Any]) -> bool:
    from math_verify import verify

    return verify(
        gold_forms,
        answer_forms,
        float_rounding=_FLOAT_ROUNDING,
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )


def _one_spelling(text: str) -> str:
    """Derivatives with primes, worded subscripts and an indexed E as the parser can tell them apart."""
    primes = _PRIME.sub(lambda found: "^{" + r"\prime" * len(found.group(1)) + "}", text)
    return _INDEXED_E.sub(r"\\Xi ", _SPACED_TEXT.sub(r"\\\1{", primes))


def _with_letter_d(gold: str, answer: str) -> tuple[str, str]:
    """The letter d in braces if neither side integrates or derives: else the parser reads the `dx` of `cx+dx` as one symbol."""
    if any(_WITH_DIFFERENTIALS.search(text) for text in (gold, answer)):
        return gold, answer
    texts = [_LETTER_D.sub(lambda found: "{d}" if found.group() == "d" else found.group(), text) for text in (gold, answer)]
    return texts[0], texts[1]


def _without_units(gold: str, answer: str) -> tuple[str, str]:
    """Units dropped; degrees count as radians inside a trigonometric function and against a multiple of pi."""
    sides = [strip_unit(gold), strip_unit(answer)]
    if contradict(sides[0][1], sides[1][1]):
        raise Undecided(False, "another unit")
    in_degrees = [_TRIGONOMETRIC.search(text) is not None for text in (gold, answer)]
    for here, there in ((0, 1), (1, 0)):
        if sides[here][1] == "degree" and sides[there][1] != "degree" and "\\pi" in sides[there][0]:
            in_degrees[here] = True
    texts = [
        _DEGREES.sub(r"\\frac{\1\\pi}{180}", text) if use_radians else rest or text
        for text, (rest, _), use_radians in zip((gold, answer), sides, in_degrees, strict=True)
    ]
    return texts[0], texts[1]


def _uniform(tree: Any) -> Any:
    """`i` as sqrt(-1), all other symbols real (the parser's assumptions vary), hyperbolic functions by exponentials; a
    derivative is a symbol of its own, as what it derives is not given."""
    from sympy import Basic, Derivative, Expr, I, Symbol, exp
    from sympy.functions.elementary.hyperbolic import HyperbolicFunction

    if isinstance(tree, Basic):
        tree = tree.xreplace({found: Symbol(str(found)) for found in tree.atoms(Derivative)})
    if not isinstance(tree, Expr):
        return tree
    symbols = [symbol for symbol in tree.free_symbols if isinstance(symbol, Symbol)]
    found = {symbol: I if symbol.name == "i" else Symbol(symbol.name, real=True) for symbol in symbols}
    tree = tree.xreplace({old: new for old, new in found.items() if old != new})
    return tree.rewrite(exp) if tree.has(HyperbolicFunction) else tree


def _is_parseable(text: str) -> bool:
    """False for what would only exhaust the parser (deep nesting, endless towers), and for `5 8`, which it reads as 58."""
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest <= _MAX_NESTING and text.count("^") <= _MAX_POWERS and not _DIGITS_APART.search(text)


@lru_cache(maxsize=256)
def _parse(text: str) -> tuple[Any, ...]:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Units are stripped above; math-verify would also take the h of `4 + 4h` for hours.
    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    exact = _DECIMAL.sub(lambda d: rf"\frac{{{d.group(1)}{d.group(2)}}}{{1{'0' * len(d.group(2))}}}", text)
    return tuple(
        parse(
            f"${fractions_end(exact)}$",
            extraction_config=[LatexExtractionConfig(boxed_match_priority=-1, normalization_config=spelling)],
            fallback_mode="no_fallback",
            parsing_timeout=None,  # type: ignore[arg-type]
        )
    )
