r"""Reads one LaTeX expression as a number: a tokenizer and a recursive-descent reader that evaluates with 50 digits.

Part of the second opinion (`audit.py`), so it uses neither math-verify nor sympy nor the project's own normaliser.
Grammar: sums of products of powers; `\frac`, `\sqrt`, `\binom`, `!`, `|x|`, elementary functions, implicit products.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

DIGITS = 50
_MAX_LOG10 = 10_000
# Where variables are evaluated: three unrelated positive points, so that \sqrt{x^2} = x, which a final answer means.
POINTS = (Fraction(7, 5), Fraction(22, 9), Fraction(31, 41))
_TOKEN = re.compile(r"\s*(?:\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|\\[{}|%]|[A-Za-z]|\*\*|[-+*/^_!(){}\[\]|,;=<>])\s*")
_FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "ln",
    "log",
    "exp",
}
_MPMATH_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
_GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
    "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell", "hbar",
    "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega",
}  # fmt: skip


class Unreadable(Exception):
    """The text is not in the grammar; the message says where."""


class Reader:
    """Evaluates one expression; variable number k (by name) takes a value that depends on the point and the name."""

    def __init__(self, text: str, point: int) -> None:
        import mpmath

        mpmath.mp.dps = DIGITS
        self.mp, self.point = mpmath, point
        self.tokens: list[str] = []
        self.next = end = 0
        while end < len(text):
            if (match := _TOKEN.match(text, end)) is None:
                raise Unreadable(f"cannot read {text[end : end + 12]!r}")
            self.tokens.append(match.group().strip())
            end = match.end()

    def value(self) -> Any:
        """The value of the whole text."""
        result = self.sum()
        if self.next < len(self.tokens):
            raise Unreadable(f"unexpected {self.tokens[self.next]!r}")
        return result

    def peek(self) -> str:
        return self.tokens[self.next] if self.next < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise Unreadable(f"{wanted or 'more'!r} is missing")
        self.next += 1
        return token

    def sum(self) -> Any:
        total = self.mp.mpf(0)
        sign = 1
        while self.peek() in ("+", "-") and self.peek():
            sign = -sign if self.take() == "-" else sign
        total += sign * self.product()
        while self.peek() in ("+", "-") and self.peek():
            total = total + self.product() if self.take() == "+" else total - self.product()
        return total

    def product(self) -> Any:
        mixed = re.fullmatch(r"\d+", self.peek()) is not None
        result = self.signed_power()
        while token := self.peek():
            if token in ("*", "/", "\\cdot", "\\times", "\\div"):
                self.take()
                factor = self.signed_power()
                result = result / factor if token in ("/", "\\div") else result * factor
            elif token == "\\frac" and mixed:  # 4\frac{2}{3}
                result += self.signed_power()
            elif token in ("(", "{", "\\{") or token[0] == "\\" or token.isalnum():
                result *= self.signed_power()
            else:
                break
            mixed = False
        return result

    def signed_power(self) -> Any:
        if self.peek() == "-":
            self.take()
            return -self.signed_power()
        base = self.atom()
        while self.peek() in ("!", "^", "**"):
            if self.take() == "!":
                base = self.bounded(self.mp.loggamma(base + 1), lambda b=base: self.mp.factorial(b))
            else:
                base = self.power(base, self.exponent())
        return base

    def power(self, base: Any, exponent: Any) -> Any:
        if base == 0:
            if self.mp.re(exponent) <= 0:
                raise ZeroDivisionError
            return base
        return self.bounded(exponent * self.mp.log(base), lambda: self.mp.power(base, exponent))

    def bounded(self, log_value: Any, compute: Callable[[], Any]) -> Any:
        if abs(self.mp.re(log_value)) > _MAX_LOG10 * 2.303:
            raise Unreadable("too large to evaluate")
        return compute()

    def exponent(self) -> Any:
        if self.peek() in ("-", "+"):
            return -self.atom() if self.take() == "-" else self.atom()
        return self.atom()

    def group_or_atom(self) -> Any:
        token = self.peek()
        if re.fullmatch(r"\d{2,}", token):  # LaTeX takes one digit: \frac43
            self.tokens[self.next : self.next + 1] = list(token)
        return self.atom()

    def inside(self, closing: str) -> Any:
        result = self.sum()
        self.take(closing)
        return result

    def atom(self) -> Any:
        token = self.take()
        closing = {"(": ")", "{": "}", "[": "]", "|": "|"}.get(token)
        if closing is not None:
            result = self.inside(closing)
            return self.mp.fabs(result) if token == "|" else result
        if re.fullmatch(r"[\d.]+", token):
            exact = Fraction(token)
            return self.mp.mpf(exact.numerator) / exact.denominator
        if token[0] != "\\":
            return self.named(token)
        return self.command(token[1:])

    def command(self, name: str) -> Any:
        if name == "frac":
            top = self.group_or_atom()
            return top / self.group_or_atom()
        if name in ("binom", "dbinom", "tbinom"):
            top = self.group_or_atom()
            return self.mp.binomial(top, self.group_or_atom())
        if name == "sqrt":
            root = self.mp.mpf(2)
            if self.peek() == "[":
                self.take()
                root = self.inside("]")
            return self.power(self.group_or_atom(), 1 / root)
        if name in _FUNCTIONS:
            return self.function(name)
        if name == "infty":
            return self.mp.mpf(10) ** _MAX_LOG10
        if name == "pi":
            return self.mp.pi()
        if name in ("lvert", "vert"):
            result = self.sum()
            self.take()
            return self.mp.fabs(result)
        if name not in _GREEK:
            raise Unreadable(f"\\{name}")
        return self.named("\\" + name)

    def function(self, name: str) -> Any:
        power, base = self.mp.mpf(1), None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                power = self.exponent()
            else:
                base = self.group_or_atom()
        if power == -1:
            name, power = "arc" + name, self.mp.mpf(1)
        argument = self.group_or_atom() if self.peek() in ("(", "{") else self.product()
        if name in ("ln", "log"):
            result = self.mp.log(argument) / (self.mp.log(base) if base is not None else 1)
        elif name == "exp":
            result = self.power(self.mp.e(), argument)
        else:
            compute = getattr(self.mp, _MPMATH_NAMES.get(name, name), None)
            if compute is None:
                raise Unreadable(f"\\{name}")
            result = compute(argument)
        return result if power == 1 else self.power(result, power)

    def named(self, name: str) -> Any:
        if self.peek() == "_":
            self.take()
            if name.isdigit():
                raise Unreadable("a number with a base")
            start = self.next
            self.skip_subscript()
            name += "_" + "".join(token for token in self.tokens[start : self.next] if token not in "{}")
        if name == "i":
            return self.mp.mpc(0, 1)
        if name == "e":
            return self.mp.e()
        seed = sum((k + 1) * ord(char) for k, char in enumerate(name))
        return self.mp.mpf(POINTS[self.point].numerator) / POINTS[self.point].denominator + self.mp.mpf(seed % 97) / 101

    def skip_subscript(self) -> None:
        depth = 0
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return
