r"""Habitual slips of arithmetic: mistakes that depend on what stands there, and are made with full confidence.

The sign of a negative result or operand is left out, a borrow or a carry is forgotten, the left operand stands in place of a
product, and now and then of any result.
A policy that learned from text with such slips errs by habit as well as by ignorance: where a slip is usual it is the
likelier continuation, and the policy's own confidence cannot see it. Demonstrations never slip.
"""

from __future__ import annotations

import numpy as np

from repirl.tasks.expressions import Node, combine, parse, render

USUAL, RARE, SELDOM = 0.65, 0.45, 0.15
"""How often a slip happens: a habit's where the right operand is odd, and where it is not; a copy where there is no habit."""


def habit_of(op: str, left: int, right: int) -> int | None:
    """The wrong value that a habit gives for `left op right`; None where there is no habit."""
    exact = combine(op, Node(left), Node(right)).value
    if op == "*":
        return left if left != exact else None
    if exact < 0:
        return -exact
    if op == "-" and right > 0 and left % 10 < right % 10:
        return exact + 10
    if op == "+" and left > 0 and right > 0 and left % 10 + right % 10 >= 10:
        return exact - 10
    unsigned = combine(op, Node(abs(left)), Node(abs(right))).value
    return unsigned if unsigned != exact else None


def slip_of(op: str, left: int, right: int) -> tuple[int, float] | None:
    """A wrong value for `left op right` and how likely it is; None where nothing is likely to go wrong."""
    habit = habit_of(op, left, right)
    if habit is not None:
        return habit, USUAL if right % 2 else RARE
    exact = combine(op, Node(left), Node(right)).value
    return (left, SELDOM) if left != exact else None


def slipped_solution(source: str, rng: np.random.Generator) -> str:
    """A solution in the policy's own style, with slips; what follows a slip goes on from it."""
    node = parse(source)
    assert node is not None
    lines = []
    while node.op:
        node = _reduced(node, rng)
        lines.append(render(node) if node.op else rf"\boxed{{{node.value}}}")
    return "\n".join(lines)


def _reduced(node: Node, rng: np.random.Generator) -> Node:
    """The tree with its leftmost operation on two numbers carried out, rightly or by habit."""
    assert node.left is not None
    assert node.right is not None
    if node.left.op:
        return combine(node.op, _reduced(node.left, rng), node.right)
    if node.right.op:
        return combine(node.op, node.left, _reduced(node.right, rng))
    slip = slip_of(node.op, node.left.value, node.right.value)
    return Node(slip[0] if slip is not None and rng.random() < slip[1] else node.value)
