"""The ways a verb can end badly."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the caller: printed as one line, exit code 2, nothing written.

    The message says what was wrong, the value, and what to do about it.
    """

    def __init__(self, what: str, value: object = None, todo: str = "") -> None:
        parts = [what if value is None else f"{what}: {value!r}"]
        if todo:
            parts.append(todo)
        super().__init__("; ".join(parts).replace("\n", " "))


class GradingFault(Exception):
    """Too many verdicts could not be given for the numbers to mean anything; exit code 1."""


class NumericalFault(Exception):
    """Something that must be a number is not (a loss, a gradient, logits); exit code 1, the last good checkpoint stays.

    The message says what, and what to do about it.
    """

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(f"{what}; {todo}")
