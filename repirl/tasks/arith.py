r"""`arith`: integer expressions, reduced one operation per line, ending in `\boxed{}`.

A problem of level k has k binary operations, so k reductions solve it. Because every intermediate state is known, the
family has an exact expert in several phrasings and an exact step checker: step labels, first errors and Monte Carlo
labels can be held against the truth. Splits are disjoint by construction: an expression's digest decides its split.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from repirl.errors import UserError
from repirl.rng import stream
from repirl.tasks.expressions import Node, combine, count_operations, parse, reaches, reductions, render, stands_in
from repirl.tasks.splits import check_request, split_of, take_evenly
from repirl.types import Demonstration, Problem

FAMILY = "arith"
LEVELS = tuple(range(1, 9))
LARGEST_LEAF = 12
LARGEST_VALUE = 99
PROMPT_WORD = "Compute "
OWN_STYLE = "plain"
EXPERT_STYLES = ("so", "as", "first")


def _draw(rng, operations: int) -> Node | None:
    """A random tree with that many operations, all values within bounds; None if the draw left them."""
    if operations == 0:
        return Node(int(rng.integers(1, LARGEST_LEAF + 1)))
    # Leaning to the left keeps expressions, and so completions, short in parentheses.
    left_operations = operations - 1 if rng.random() < 0.6 else int(rng.integers(0, operations))
    left = _draw(rng, left_operations)
    right = _draw(rng, operations - 1 - left_operations)
    if left is None or right is None:
        return None
    op = "++--*"[int(rng.integers(0, 5))]
    if op == "*" and abs(left.value * right.value) > LARGEST_VALUE:
        op = "+-"[int(rng.integers(0, 2))]
    node = combine(op, left, right)
    return node if abs(node.value) <= LARGEST_VALUE else None


def problems(split: str, count: int, *, levels: tuple[int, ...] = LEVELS, seed: int = 0) -> list[Problem]:
    """`count` distinct problems of a split, levels in equal shares, the same for the same arguments.

    Level 1 has fewer than 300 expressions in all: where a level runs out, its share goes to the others.
    """
    check_request(split, levels, LEVELS)
    return take_evenly({level: _stream(split, level, seed) for level in levels}, count, FAMILY)


def _stream(split: str, level: int, seed: int) -> Iterator[Problem]:
    """Distinct problems of one level; ends when 2,000 draws in a row brought nothing new."""
    rng = stream(seed, FAMILY, split, level)
    seen: set[str] = set()
    barren = 0
    while barren < 2000:
        node = _draw(rng, level)
        source = render(node) if node is not None else ""
        if not source or source in seen or split_of(source) != split:
            barren += 1
            continue
        barren = 0
        seen.add(source)
        yield problem_from(source, level)


def problem_from(source: str, level: int) -> Problem:
    """The problem that asks for the value of an expression."""
    node = parse(source)
    if node is None:
        raise UserError("not an arith expression", source)
    return Problem(
        id=f"arith-{hashlib.sha256(source.encode()).hexdigest()[:12]}",
        family=FAMILY,
        prompt=f"{PROMPT_WORD}{source}\n",
        grader="integer",
        answer=str(node.value),
        level=level,
        subject=f"level {level}",
        source=source,
    )


def solution(source: str, style: str) -> str:
    r"""The exact solution in a phrasing: `plain` is the policy's own, the others are the expert's."""
    steps = reductions(source)
    lines = []
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        after = rf"\boxed{{{step.value}}}" if last else render(step.after)
        if style == "plain":
            lines.append(after)
        elif style == "so":
            lines.append(f"{step.claim}={step.value} so {after}")
        elif style == "as":
            lines.append(f"{after} as {step.claim}={step.value}")
        elif style == "first":
            lines.append(f"{'first' if i == 0 else 'then'} {step.claim}={step.value}: {after}")
        else:
            raise UserError("unknown arith phrasing", style, f"choose one of {', '.join((OWN_STYLE, *EXPERT_STYLES))}")
    return "\n".join(lines)


def demonstrations(problem: Problem, count: int, seed: int = 0) -> list[Demonstration]:
    """`count` expert solutions of a problem, cycling through the expert's phrasings from a seeded start."""
    start = int(stream(seed, "demo", problem.id).integers(len(EXPERT_STYLES)))
    styles = [EXPERT_STYLES[(start + i) % len(EXPERT_STYLES)] for i in range(count)]
    return [Demonstration(problem.id, solution(problem.source, style), f"exact:{style}") for style in styles]


_BOXED = re.compile(r"\\boxed\{(-?\d{1,9})\}")
_LEAD = re.compile(r"^(?:first|then) ")


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line says: the state it ends in, and the expressions that it claims to have worked out."""

    state: Node
    claims: tuple[Node, ...]


def _read_line(line: str) -> _Line | None:
    """A line as it was meant; None if it does not parse, states nothing, or one of its own equalities is false."""
    # In parentheses, so that a box beside other digits does not become one number with them.
    line = _BOXED.sub(r"(\1)", _LEAD.sub("", line))
    # The state stands before " as ", and last in every other phrasing.
    parts = list(reversed(line.split(" as "))) if " as " in line else re.split(r" so |: ", line)
    read: list[Node] = []
    for i, part in enumerate(parts):
        sides = [side for text in part.split("=") if (side := parse(text)) is not None]
        needed = 1 if i == len(parts) - 1 else 2  # the state may stand alone, a claim is an equality
        if len(sides) != part.count("=") + 1 or len({side.value for side in sides}) != 1 or len(sides) < needed:
            return None
        read += sides
    return _Line(read[-1], tuple(side for side in read[:-1] if side.op))


def check_steps(source: str, text: str) -> list[bool]:
    r"""For each line of a solution: is it right, given that all before it were?

    A line is right if its own equalities hold and are about the state before it, and it carries out at least one
    operation of that state, exactly; a `\boxed{}` must hold the value. After the first wrong line every line is wrong.
    The empty text has no lines.
    """
    state = parse(source)
    labels: list[bool] = []
    for line in text.split("\n") if text else []:
        read = _read_line(line) if state is not None else None
        right = (
            state is not None
            and read is not None
            and count_operations(read.state) < count_operations(state)
            and reaches(state, read.state)
            and all(stands_in(claim, state) for claim in read.claims)
            and ("\\boxed" not in line or not read.state.op)
        )
        labels.append(right)
        state = read.state if right and read is not None else None
    return labels


def first_error_index(source: str, text: str) -> int:
    """0-based index of the first wrong step, -1 if there is none (ProcessBench's convention)."""
    labels = check_steps(source, text)
    return labels.index(False) if False in labels else -1
