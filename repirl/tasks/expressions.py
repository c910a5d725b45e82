"""Integer expressions as trees: reading and writing them, exact values, and their reduction one operation at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repirl.errors import UserError

_PRECEDENCE = {"+": 1, "-": 1, "*": 2}


@dataclass(frozen=True, slots=True)
class Node:
    """A number (`op` empty) or a binary operation on two nodes; `value` is exact."""

    value: int
    op: str = ""
    left: Node | None = None
    right: Node | None = None


def combine(op: str, left: Node, right: Node) -> Node:
    """The operation node `left op right`."""
    a, b = left.value, right.value
    return Node(a + b if op == "+" else a - b if op == "-" else a * b, op, left, right)


def render(node: Node, *, first: bool = True) -> str:
    """The expression as text, with the fewest parentheses from which `parse` gets the same tree back.

    A negative number is bare only where `first` says that nothing precedes it.
    """
    if not node.op:
        return str(node.value) if node.value >= 0 or first else f"({node.value})"
    assert node.left is not None
    assert node.right is not None
    rank = _PRECEDENCE[node.op]
    left_wrapped = bool(node.left.op) and _PRECEDENCE[node.left.op] < rank
    right_wrapped = bool(node.right.op) and _PRECEDENCE[node.right.op] <= rank
    left = f"({render(node.left, first=False)})" if left_wrapped else render(node.left, first=first)
    right = f"({render(node.right, first=False)})" if right_wrapped else render(node.right, first=False)
    return left + node.op + right


_TOKEN = re.compile(r"\d{1,9}|[-+*()]")


def parse(text: str) -> Node | None:
    """The tree of an expression over `+ - *`, parentheses and integers; None if it is not one, or absurdly long or deep."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text.replace(" ", "") or not tokens or len(tokens) > 200 or tokens.count("(") > 50:
        return None
    parser = _Parser(tokens)
    node = parser.sum()
    return node if node is not None and parser.at == len(tokens) else None


class _Parser:
    """Recursive descent; every rule returns None on a syntax error."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _chain(self, operators: str, operand) -> Node | None:
        node = operand()
        while node is not None and self._peek() and self._peek() in operators:
            op = self._peek()
            self.at += 1
            right = operand()
            node = combine(op, node, right) if right is not None else None
        return node

    def sum(self) -> Node | None:
        return self._chain("+-", self.product)

    def product(self) -> Node | None:
        return self._chain("*", self.atom)

    def atom(self) -> Node | None:
        token = self._peek()
        self.at += 1
        if token.isdigit():
            return Node(int(token))
        if token == "-" and self._peek().isdigit():
            self.at += 1
            return Node(-int(self.tokens[self.at - 1]))
        if token == "(":
            node = self.sum()
            if self._peek() == ")":
                self.at += 1
                return node
        return None


@dataclass(frozen=True, slots=True)
class Reduction:
    """One exact step: `before` becomes `after` because `claim` (a single operation on numbers) is `value`."""

    before: Node
    claim: str
    value: int
    after: Node


def _reduce_first(node: Node) -> tuple[Node, Node] | None:
    """The tree with its leftmost operation on two numbers carried out, and that operation; None for a number."""
    if not node.op or node.left is None or node.right is None:
        return None
    if not node.left.op and not node.right.op:
        return Node(node.value), node
    inner = _reduce_first(node.left)
    if inner is not None:
        return combine(node.op, inner[0], node.right), inner[1]
    inner = _reduce_first(node.right)
    assert inner is not None
    return combine(node.op, node.left, inner[0]), inner[1]


def reductions(source: str) -> list[Reduction]:
    """The exact solution: leftmost possible operation first, one a step."""
    node = parse(source)
    if node is None:
        raise UserError("not an arith expression", source)
    steps = []
    while (reduced := _reduce_first(node)) is not None:
        after, done = reduced
        steps.append(Reduction(node, render(done), done.value, after))
        node = after
    return steps


def reaches(before: Node, after: Node) -> bool:
    """True if `after` is `before` with some (or no) operations replaced by their exact values."""
    if not after.op:
        return before.value == after.value
    if before.op != after.op or before.left is None or before.right is None:
        return False
    assert after.left is not None
    assert after.right is not None
    return reaches(before.left, after.left) and reaches(before.right, after.right)


def count_operations(node: Node | None) -> int:
    """Binary operations of the tree."""
    return 0 if node is None or not node.op else 1 + count_operations(node.left) + count_operations(node.right)


def stands_in(part: Node, node: Node) -> bool:
    """True if `part` stands in `node`, possibly with some of its operations carried out.

    An expression of the right value over other numbers (0*8 where `node` has 0*7) does not.
    """
    if reaches(node, part):
        return True
    return any(stands_in(part, side) for side in (node.left, node.right) if side is not None)
