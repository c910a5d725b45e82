"""Solutions with a mistake put in: negatives in the expert's own style."""

from __future__ import annotations

import re

import numpy as np

_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")


def with_wrong_number(text: str, rng: np.random.Generator) -> str | None:
    """The text with one of its whole numbers replaced by another one near it; None if it has none.

    What follows is left as it was, so that the mistake is a single place.
    """
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    chosen = numbers[int(rng.integers(len(numbers)))]
    value = int(chosen[0])
    others = [value + step for step in (-10, -2, -1, 1, 2, 10) if value + step >= 0]
    return text[: chosen.start()] + str(others[int(rng.integers(len(others)))]) + text[chosen.end() :]
