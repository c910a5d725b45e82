"""The ways a verb can end badly."""

from __future__ import annotations

LONGEST_MESSAGE = 300
"""Characters of a `UserError`: one line that can be read. What was wrong may be a hostile file's own text."""


class UserError(Exception):
    """A mistake of the caller: printed as one line, exit code 2, nothing written.

    The message says what was wrong, the value (the middle of what is long is left out), and what to do about it.
    """

    def __init__(self, what: str, value: object = None, todo: str = "") -> None:
        parts = [what, "" if value is None else f": {value!r}", f"; {todo}" if todo else ""]
        while (excess := sum(map(len, parts)) - LONGEST_MESSAGE) > 0:
            longest, second = sorted(map(len, parts))[:0:-1]  # the longest part gives way first
            i = next(i for i, part in enumerate(parts) if len(part) == longest)
            parts[i] = _short(parts[i], longest - min(excess, max(longest - second, 10)))
        super().__init__(" ".join("".join(parts).splitlines()))


def _short(text: str, longest: int) -> str:
    """`text` with its middle left out if it is longer than that."""
    if len(text) <= longest:
        return text
    head = (longest - 5) * 2 // 3
    return f"{text[:head]} ... {text[head + 5 - longest :]}"


class GradingFault(Exception):
    """Too many verdicts could not be given for the numbers to mean anything; exit code 1."""


class NumericalFault(Exception):
    """Something that must be a number is not (a loss, a gradient, logits); exit code 1, the last good checkpoint stays.

    The message says what, and what to do about it.
    """

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(f"{what}; {todo}" if todo else what)


class EngineFault(Exception):
    """What samples or scores elsewhere is gone or does not answer; exit code 1, the last good checkpoint stays."""

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(f"{what}; {todo}" if todo else what)
