"""Easy English word problems with worked solutions, for a model of 135M parameters: `make real` writes them to a file.

Sums, differences and products of small numbers, told in six ways. Steps of the solutions are separated by blank lines, the last
one says the answer. The same seed gives the same file; no problem comes twice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from repirl.rng import stream

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Ivy", "Jack", "Lena", "Max", "Nora", "Tom")
THINGS = ("apples", "books", "cards", "marbles", "pencils", "stickers", "shells", "coins", "cookies", "balloons")
REQUEST = 'Show the calculation, then write "The answer is" and the number.'

Draw = Callable[[int, int], int]
"""A whole number from the first to the second, both included."""
Told = tuple[str, list[str], int]
"""The problem, the steps of its solution, the answer."""


def bought(name: str, thing: str, draw: Draw) -> Told:
    a, b = draw(2, 9), draw(1, 5)
    problem = f"{name} has {a} {thing} and buys {b} more {thing}. How many {thing} does {name} have in total?"
    return problem, [f"{name} starts with {a} {thing}.", f"With {b} more, {name} has {a} + {b} = {a + b} {thing}."], a + b


def two_colours(name: str, thing: str, draw: Draw) -> Told:
    a, b = draw(2, 9), draw(2, 9)
    problem = f"{name} has {a} red {thing} and {b} blue {thing}. How many {thing} does {name} have?"
    return problem, [f"There are {a} red and {b} blue {thing}.", f"In all there are {a} + {b} = {a + b} {thing}."], a + b


def lost(name: str, thing: str, draw: Draw) -> Told:
    a, b = draw(6, 12), draw(1, 5)
    problem = f"{name} has {a} {thing} and loses {b} of them. How many {thing} are left?"
    return problem, [f"{name} starts with {a} {thing}.", f"Without {b} of them {a} - {b} = {a - b} {thing} are left."], a - b


def found(name: str, thing: str, draw: Draw) -> Told:
    a, b = draw(2, 9), draw(1, 6)
    problem = f"{name} finds {a} {thing} and then {b} more {thing}. How many {thing} does {name} find in total?"
    return problem, [f"First {name} finds {a} {thing}.", f"With {b} more that makes {a} + {b} = {a + b} {thing}."], a + b


def each_day(name: str, thing: str, draw: Draw) -> Told:
    a, b = draw(2, 10), draw(2, 7)
    problem = f"{name} saves {a} {thing} each day. How many {thing} does {name} save in {b} days?"
    return problem, [f"{name} saves {a} {thing} on each of {b} days.", f"That makes {b} * {a} = {a * b} {thing}."], a * b


def twice(name: str, thing: str, draw: Draw) -> Told:
    a = draw(2, 12)
    problem = f"{name} has {a} {thing}. Sam has twice as many {thing}. How many {thing} does Sam have?"
    return problem, [f"{name} has {a} {thing}.", f"Sam has twice as many, so Sam has 2 * {a} = {2 * a} {thing}."], 2 * a


KINDS = (bought, two_colours, lost, found, each_day, twice)


def rows(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows of a training file: {"problem", "answer", "demonstrations"}; kinds in turn."""
    rng = stream(seed, "word problems")
    told: dict[str, dict[str, object]] = {}
    while len(told) < count:
        kind = KINDS[len(told) % len(KINDS)]
        name, thing = str(rng.choice(NAMES)), str(rng.choice(THINGS))
        problem, steps, answer = kind(name, thing, lambda low, high: int(rng.integers(low, high + 1)))
        solution = "\n\n".join([*steps, f"The answer is {answer}."])
        row = {"problem": f"{problem} {REQUEST}", "answer": str(answer), "demonstrations": [solution]}
        told.setdefault(problem, row)
    return list(told.values())


def main(out: Path, count: int = 600) -> None:
    """Write `count` problems."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
