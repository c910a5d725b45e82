r"""Expressions that are equal where both are defined over the reals, such as `\sqrt{1/n}` and `1/\sqrt{n}`. In a worker."""

from __future__ import annotations

import cmath
from itertools import product
from typing import Any

_MAX_SYMBOLS_IN_ALL_SIGNS = 4
_SCALES = (1, 97, 10_000)  # of the values tried: `\\sqrt{(x+2)^2}` and `x+2` are told apart below -2 only
_SAME, _REAL = 1e-9, 1e-12  # relative: when values are the same, and how small an imaginary part is none


def for_positive_symbols(gold: Any, answer: Any) -> tuple[Any, Any] | None:
    """Both sides with all symbols positive and logarithms expanded, if roots or logarithms make that a difference, and if
    no choice of signs contradicts their equality: `\\sqrt{x^2}` and `x` are both real at -1, and differ there."""
    from sympy import Expr, I, Symbol, expand_log, log

    sides = gold, answer
    if not all(isinstance(side, Expr) and not side.has(I) for side in sides):
        return None
    symbols = sorted({symbol for side in sides for symbol in side.free_symbols}, key=str)
    if not symbols or not any(side.has(log) or _has_root(side) for side in sides) or _signs_tell_apart(gold, answer, symbols):
        return None
    positive = {symbol: Symbol(symbol.name, positive=True) for symbol in symbols}
    first, second = (expand_log(side.xreplace(positive).doit()) for side in sides)
    return first, second


def _has_root(tree: Any) -> bool:
    from sympy import Pow

    return any(not power.exp.is_Integer for power in tree.atoms(Pow))


def _signs_tell_apart(gold: Any, answer: Any, symbols: list[Any]) -> bool:
    """Whether both sides are real and differ for some choice of the signs of their symbols, near zero or far from it."""
    from sympy import Rational

    sizes = [Rational(7 + 4 * k, 8 + 2 * k) for k in range(len(symbols))]
    if len(symbols) <= _MAX_SYMBOLS_IN_ALL_SIGNS:
        choices = list(product((1, -1), repeat=len(symbols)))
    else:
        choices = [tuple(-1 if k in (i, len(symbols)) else 1 for i in range(len(symbols))) for k in range(len(symbols) + 1)]
    for signs, scale in product(choices, _SCALES):
        point = {symbol: sign * scale * size for symbol, sign, size in zip(symbols, signs, sizes, strict=True)}
        values = _real_value(gold, point), _real_value(answer, point)
        real = [value for value in values if value is not None]
        if len(real) == 2 and abs(real[0] - real[1]) > _SAME * max(1.0, *map(abs, real)):
            return True
    return False


def _real_value(tree: Any, point: dict[Any, Any]) -> float | None:
    """The value at a point; None if it, or one of the roots and logarithms in it, is not real and finite there."""
    from sympy import Pow, log

    values = [_value(part, point) for part in (tree, *tree.atoms(Pow, log))]
    if any(value is None or abs(value.imag) > _REAL * abs(value) for value in values):
        return None
    return values[0].real  # type: ignore[union-attr]


def _value(tree: Any, point: dict[Any, Any]) -> complex | None:
    try:
        value = complex(tree.xreplace(point).evalf(20))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None
    return value if cmath.isfinite(value) else None
