"""Values of parsed expressions: do two of them differ, and would evaluating one take too long? Only in a worker process."""

from __future__ import annotations

import cmath
import math
import re
from typing import Any

from repirl.grading.math.normalize import matching_close

# Values with more decimal digits than this are not evaluated (9^{9^9}).
MAX_VALUE_DIGITS = 20_000
_MAX_TERMS = 1000  # of a sum or product, and of an expansion
_MAX_DEGREE = 50  # of an integrand
_DIGITS_OF_PROOF = 15
_BITS_OF_PROOF = 45  # accuracy of a difference that is not zero
_EXTREME_DIGITS = 10
_ROUNDING = 1e-12  # of decimals that are in an expression as such
_CHOSEN = re.compile(r"\\binom\s*\{\s*(\d{4,})\s*\}\s*\{\s*(\d+)\s*\}")
_GAMMA = re.compile(r"\\Gamma(?![A-Za-z])\s*")


def differ(gold: Any, answer: Any) -> bool:
    """Whether two expressions certainly differ where all variables have some positive values.

    The difference is evaluated with as many digits as it takes, so `2^{-2005}` is not `2^{-2004}`. Then no rewriting
    makes them equal, and the search for one, which is what takes time, is spared. False where nothing is known.
    math-verify has rules of its own for single symbols and percentages, and for what is not an expression.
    """
    from sympy import Add, Expr, Float, Integral, Limit, Mul, Product, Rational, Sum, Symbol, UnevaluatedExpr

    if not all(isinstance(side, Expr) and not isinstance(side, Symbol) for side in (gold, answer)):
        return False
    if any(side.has(UnevaluatedExpr, Sum, Product, Integral, Limit) for side in (gold, answer)):
        return False
    names = sorted({symbol.name for side in (gold, answer) for symbol in side.free_symbols})
    point: dict[Any, Any] = {Symbol(name, real=True): Rational(10 + 7 * k, 9 + 2 * k) for k, name in enumerate(names)}
    precision = 100 + 2 * int(max(map(_digits_to_tell_apart, (gold, answer))))
    try:
        difference = Add(gold, Mul(-1, answer, evaluate=False), evaluate=False).evalf(
            _DIGITS_OF_PROOF, subs=point, maxn=precision
        )
        parts = [part for part in difference.as_real_imag() if isinstance(part, Float) and part._prec >= _BITS_OF_PROOF]
        if parts and any(side.has(Float) for side in (gold, answer)):
            size = abs(answer.evalf(_DIGITS_OF_PROOF, subs=point))
            return bool(max(map(abs, parts)) > _ROUNDING * max(size, 1))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False
    return any(part.is_finite and part != 0 for part in parts)


def equations_differ(gold: Any, answer: Any) -> bool:
    """Whether two equations or inequalities with very large or small numbers are not multiples of each other.

    math-verify solves both and compares the solutions to some decimal places only, so these are too near for it.
    """
    from sympy import Mul, Rational
    from sympy.core.relational import Relational

    if not all(isinstance(side, Relational) for side in (gold, answer)) or max(map(digits, (gold, answer))) < _EXTREME_DIGITS:
        return False
    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    points = [{name: Rational(a + b * k, 9 + 2 * k) for k, name in enumerate(names)} for a, b in ((10, 7), (7, 5))]
    first, second = ([(side.lhs - side.rhs).xreplace(point) for point in points] for side in (gold, answer))
    return differ(Mul(first[0], second[1], evaluate=False), Mul(first[1], second[0], evaluate=False))


def says_nothing_of_its_symbols(equation: Any) -> bool:
    """Whether an equation holds for all values of its symbols, or for none by a constant (`1 = 1`, `x = x`, `2 = 3`)."""
    from sympy import Rational

    difference = equation.lhs - equation.rhs
    names = sorted(difference.free_symbols, key=str)
    points = [{name: Rational(a + b * k, 11 + 3 * k) for k, name in enumerate(names)} for a, b in ((13, 5), (8, 7), (29, 4))]
    try:
        values = [complex(difference.xreplace(point).evalf(15)) for point in points]
    except (TypeError, ValueError, ArithmeticError):  # no number, or none that exists
        return False
    return all(cmath.isfinite(value) and abs(value - values[0]) < 1e-9 * (1 + abs(values[0])) for value in values)


def _digits_to_tell_apart(tree: Any) -> float:
    from sympy import Rational, exp

    arguments = [power.args[0] for power in tree.atoms(exp)]
    powers = [abs(float(argument)) / math.log(10) for argument in arguments if isinstance(argument, Rational)]
    return min(MAX_VALUE_DIGITS, max([digits(tree), *powers]))


def digits(tree: Any) -> float:
    """Rough upper bound of the decimal digits that evaluating an expression produces, without evaluating it."""
    from sympy import Integer, Pow, Rational, binomial, factorial, gamma

    if isinstance(tree, Rational):
        return max(abs(tree.p).bit_length(), tree.q.bit_length()) * 0.302
    args = [digits(arg) for arg in getattr(tree, "args", ())]
    if isinstance(tree, Pow) and args:
        base, exponent = max(args[0], 0.5), tree.args[1]
        power = abs(int(exponent)) if isinstance(exponent, Integer) and args[1] < 20 else 10 ** min(args[1], 30)
        return base * power if args[1] > 0 else base
    if isinstance(tree, factorial | gamma | binomial) and args:
        steps = 10 ** min(args[-1] if isinstance(tree, binomial) else args[0], 30)
        return steps * max(args[0], 0.5)
    return sum(args)


def too_large_to_read(text: str) -> bool:
    r"""Whether the parser itself would compute a huge value: it evaluates `\binom` and `\Gamma` of integers at once."""
    for match in _CHOSEN.finditer(text):
        top, bottom = (int(group) for group in match.groups())
        if top < 10**15 and _log10_binomial(top, min(bottom, top - bottom)) > MAX_VALUE_DIGITS:
            return True
        if top >= 10**15 and bottom > _MAX_TERMS:
            return True
    for match in _GAMMA.finditer(text):
        end = matching_close(text, match.end()) if text[match.end() : match.end() + 1] in {"(", "{"} else -1
        if re.search(r"\d{5}", text[match.end() : end if end > 0 else len(text)]):
            return True
    return False


def _log10_binomial(top: int, bottom: int) -> float:
    if bottom < 0:
        return 0
    return (math.lgamma(top + 1) - math.lgamma(bottom + 1) - math.lgamma(top - bottom + 1)) / math.log(10)


def settled(tree: Any) -> Any:
    """An expression with its short sums and products and its integrals of polynomials replaced by their values."""
    try:
        return _settled(tree, [_MAX_TERMS])
    except _TooLong:
        return tree


class _TooLong(Exception):
    """A sum or product has more terms than are added up."""


def _settled(tree: Any, terms_left: list[int]) -> Any:
    from sympy import Add, Expr, Integral, Mul, Product, Sum, evaluate

    if not isinstance(tree, Expr) or not tree.has(Sum, Product, Integral):
        return tree
    if isinstance(tree, Integral):
        return tree.doit() if _is_easy(tree) else tree
    if isinstance(tree, Sum | Product):
        values = _index_values(tree)
        terms_left[0] -= len(values)
        if terms_left[0] < 0:
            raise _TooLong
        inner = _inside(tree)
        with evaluate(False):
            ends = [inner.xreplace({tree.variables[-1]: value}) for value in (values[:1] + values[-1:])]
        if max(map(digits, ends), default=0) * (len(values) if isinstance(tree, Product) else 1) > MAX_VALUE_DIGITS:
            raise _TooLong
        terms = [_settled(inner.xreplace({tree.variables[-1]: value}), terms_left) for value in values]
        return (Add if isinstance(tree, Sum) else Mul)(*terms)
    return tree.func(*(_settled(arg, terms_left) for arg in tree.args))


def _inside(series: Any) -> Any:
    """What the outermost of several signs of summation stands before."""
    return series.func(series.function, *series.limits[:-1]) if len(series.limits) > 1 else series.function


def _index_values(series: Any) -> list[Any]:
    """What the outermost index of a sum or product runs over. _TooLong if that is not few integers."""
    from sympy import Integer

    _, *limits = series.limits[-1]
    if len(limits) != 2 or any(digits(limit) > 20 for limit in limits):
        raise _TooLong
    first, last = (limit.doit() for limit in limits)
    if not (isinstance(first, Integer) and isinstance(last, Integer) and -1 <= last - first < _MAX_TERMS):
        raise _TooLong
    return [Integer(value) for value in range(int(first), int(last) + 1)]


def _is_easy(integral: Any) -> bool:
    """Whether an integral is that of a polynomial of low degree, over one variable."""
    from sympy import Pow

    if len(integral.limits) != 1 or not integral.function.is_polynomial(integral.variables[0]):
        return False
    return all(power.exp.is_Integer and power.exp <= _MAX_DEGREE for power in integral.function.atoms(Pow))


def is_symbol_in_other_form(gold: Any, answer: Any) -> bool:
    """Whether one side is a symbol and the other the same value in more words (`a`, `2a - a`)."""
    from sympy import Expr, Symbol, expand

    sides = gold, answer
    if sum(isinstance(side, Symbol) for side in sides) != 1 or not all(isinstance(side, Expr) for side in sides):
        return False
    return all(_terms_of_expansion(side) < _MAX_TERMS for side in sides) and expand(gold - answer) == 0


def unbounded(gold: Any, answer: Any) -> bool:
    """Whether a settled answer leaves work that may never end, of a kind that the gold has none of: a long or infinite
    sum or product, an integral, a large power to expand."""
    from sympy import Basic, Integral, Product, Sum

    if not isinstance(answer, Basic):
        return False
    has = gold.has if isinstance(gold, Basic) else lambda _: False
    if any(answer.has(kind) and not has(kind) for kind in (Sum, Product, Integral)):
        return True
    return _terms_of_expansion(answer) > _MAX_TERMS >= _terms_of_expansion(gold)


def _terms_of_expansion(tree: Any) -> int:
    from sympy import Add, Integer, Pow

    largest = 1
    for power in tree.atoms(Pow) if hasattr(tree, "atoms") else ():
        base, exponent = power.args
        if isinstance(base, Add) and base.free_symbols and isinstance(exponent, Integer) and abs(exponent) < 10**9:
            steps, summands = abs(int(exponent)), min(len(base.args), 20)
            largest = max(largest, math.comb(steps + summands - 1, summands - 1))
    return largest
