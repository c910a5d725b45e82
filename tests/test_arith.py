"""The arithmetic family: grammar, exact experts, and a step checker that no single wrong number gets past."""

from __future__ import annotations

import ast
import itertools
import re

import pytest

from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.tasks import arith, expressions

STYLES = (arith.OWN_STYLE, *arith.EXPERT_STYLES)


@pytest.fixture(scope="module")
def problems():
    """Forty problems over all levels."""
    return arith.problems("train", 40)


# ---------------------------------------------------------------------------------------------- grammar


def test_rendering_and_parsing_are_inverse_and_agree_with_python(problems):
    for problem in problems:
        node = expressions.parse(problem.source)
        assert node is not None
        assert expressions.render(node) == problem.source
        assert node.value == eval_integer(problem.source) == int(problem.answer)
        for step in expressions.reductions(problem.source):
            assert expressions.parse(expressions.render(step.after)) == step.after
            assert step.after.value == node.value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1-2-3", -4), ("1-(2-3)", 2), ("2*3+4", 10), ("2*(3+4)", 14), ("-3+4", 1), ("2*(-3)", -6), ("(5)", 5), (" 1 + 2 ", 3)],
)
def test_precedence_and_association(text, value):
    node = expressions.parse(text)
    assert node is not None
    assert node.value == value


@pytest.mark.parametrize("text", ["", "1+", "+1", "(1", "1)", "1 2", "a", "1/2", "1..2", "--1", "1234567890", "2**3", "1=1"])
def test_what_is_no_expression(text):
    assert expressions.parse(text) is None


@pytest.mark.parametrize("text", ["(" * 199, "(" * 150 + "1", "(" * 99 + "1" + ")" * 99, "-" * 150, "1+" * 99 + "1", "1*" * 99])
def test_long_and_deep_texts_do_not_break_the_checker(text):
    """A policy may sample anything: it is wrong, not a fault."""
    assert arith.check_steps("1+2", f"{text}\n{text}=3 so 3") == [False, False]


# ---------------------------------------------------------------------------------------------- experts


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("level", arith.LEVELS)
def test_experts_are_exact_in_every_phrasing_at_every_level(level, style):
    for problem in arith.problems("train", 8, levels=(level,)):
        text = arith.solution(problem.source, style)
        assert arith.check_steps(problem.source, text) == [True] * level
        assert arith.first_error_index(problem.source, text) == -1
        assert problem.level == level
        (verdict,) = grade_rollouts([problem], [text])
        assert verdict.outcome == "correct"


def test_demonstrations_are_the_experts_and_not_in_the_policys_words(problems):
    for problem in problems[:5]:
        demos = arith.demonstrations(problem, 3, seed=1)
        assert demos == arith.demonstrations(problem, 3, seed=1)
        assert {demo.source for demo in demos} == {f"exact:{style}" for style in arith.EXPERT_STYLES}
        assert arith.solution(problem.source, arith.OWN_STYLE) not in {demo.text for demo in demos}
    with pytest.raises(UserError, match="phrasing"):
        arith.solution("1+2", "rhyme")


# ---------------------------------------------------------------------------------------------- checker


def eval_integer(expression: str) -> int:
    """An expression's value by Python's own parser."""
    return _value(ast.parse(expression.strip(), mode="eval").body)


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    assert isinstance(node, ast.BinOp)
    left, right = _value(node.left), _value(node.right)
    return left + right if isinstance(node.op, ast.Add) else left - right if isinstance(node.op, ast.Sub) else left * right


def _tree(expression: str):
    """(op, left, right) or a number, by Python's own parser."""

    def build(node: ast.expr):
        if isinstance(node, ast.BinOp):
            return (type(node.op).__name__, build(node.left), build(node.right))
        return _value(node)

    return build(ast.parse(expression.strip(), mode="eval").body)


def _tree_value(tree) -> int:
    if isinstance(tree, int):
        return tree
    op, left, right = tree[0], _tree_value(tree[1]), _tree_value(tree[2])
    return left + right if op == "Add" else left - right if op == "Sub" else left * right


def _reachable(tree) -> set:
    """Every tree that comes out when some (or none) of the operations are carried out."""
    if isinstance(tree, int):
        return {tree}
    pairs = itertools.product(_reachable(tree[1]), _reachable(tree[2]))
    return {_tree_value(tree)} | {(tree[0], left, right) for left, right in pairs}


def _subtrees(tree) -> list:
    return [tree] if isinstance(tree, int) else [tree, *_subtrees(tree[1]), *_subtrees(tree[2])]


def exactly_right(source: str, text: str, style: str) -> bool:
    """The same question as the checker's, answered by enumeration over Python's own trees."""
    state = _tree(source)
    for line in text.split("\n"):
        line = re.sub(r"\\boxed\{(-?\d+)\}", r"\1", line)
        claim = ""
        if style == "so":
            claim, after = line.split(" so ")
        elif style == "as":
            after, claim = line.split(" as ")
        elif style == "first":
            claim, after = line.split(" ", 1)[1].split(": ")
        else:
            after = line
        if claim:
            claimed, value = claim.split("=")
            if eval_integer(claimed) != eval_integer(value):
                return False
            if not any(_tree(claimed) in _reachable(part) for part in _subtrees(state)):
                return False
        if _tree(after) == state or _tree(after) not in _reachable(state):
            return False
        state = _tree(after)
    return isinstance(state, int)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_no_single_wrong_digit_gets_past_the_checker(level, style):
    """Every digit of a right solution is changed into every other one: some step is wrong, or the text is still exact."""
    checked = survived = 0
    for problem in arith.problems("train", 6, levels=(level,), seed=3):
        text = arith.solution(problem.source, style)
        for at in (i for i, character in enumerate(text) if character.isdigit()):
            for digit in "0123456789":
                # Python's parser refuses leading zeros, ours reads them as the number.
                corrupted = text[:at] + digit + text[at + 1 :]
                if digit == text[at] or re.search(r"(?<!\d)0\d", corrupted):
                    continue
                checked += 1
                if arith.first_error_index(problem.source, corrupted) == -1:
                    survived += 1
                    assert exactly_right(problem.source, corrupted, style), corrupted
    assert checked > 50
    assert survived < checked / 50


@pytest.mark.parametrize(
    ("source", "text", "labels"),
    [
        ("0*7+3", "0*7=0 so 0+3\n0+3=3 so \\boxed{3}", [True, True]),
        ("0*7+3", "0*8=0 so 0+3\n0+3=3 so \\boxed{3}", [False, False]),  # true, and about another number
        ("0*7+3", "0+3 as 0*8=0\n\\boxed{3} as 0+3=3", [False, False]),
        ("0*(2+5)", "0*8\n\\boxed{0}", [False, False]),  # the product hides the wrong sum
        ("(2-2)*7+1", "(2-2)*8+1\n\\boxed{1}", [False, False]),
        ("3+4*2", "3+8\n\\boxed{12}", [True, False]),
        ("3+4*2", "7*2\n14\n\\boxed{14}", [False, False, False]),
        ("3+4*2", "3+4*2\n3+8\n\\boxed{11}", [False, False, False]),  # nothing done
        ("3+4*2", "\\boxed{11}", [True]),  # two operations at once are fine
        ("3+4*2", "3+8\n\\boxed{3+8}", [True, False]),
        ("3+4*2", "1\\boxed{1}", [False]),  # a box beside a digit is not eleven
        ("3+4*2", "4*2=9 so 3+8\n\\boxed{11}", [False, False]),
        ("3+4*2", "8 so 3+8\n\\boxed{11}", [False, False]),  # a claim without an equality
        ("5-2-1", "2-1=1 so 5-1\n\\boxed{4}", [False, False]),  # not what stands there: (5-2)-1
        ("1+2", "", []),
        ("1+2", "\n3", [False, False]),
    ],
)
def test_checker_by_example(source, text, labels):
    assert arith.check_steps(source, text) == labels
    assert arith.first_error_index(source, text) == (labels.index(False) if False in labels else -1)


# ----------------------------------------------------------------------------------------------- splits


def test_splits_are_seeded_and_disjoint():
    splits = ("train", "validation", "test", "unlabelled")
    sources = {}
    for split in splits:
        found = [p.source for seed in (0, 1) for p in arith.problems(split, 60, seed=seed)]
        assert [p.source for p in arith.problems(split, 60, seed=0)] == found[:60]
        assert found[:60] != found[60:]
        assert len(set(found[:60])) == 60
        sources[split] = set(found)
    for a, b in itertools.combinations(splits, 2):
        assert not sources[a] & sources[b]


def test_levels_share_equally_and_wrong_requests_are_refused():
    levels = [p.level for p in arith.problems("test", 16)]
    assert sorted(levels) == sorted([*arith.LEVELS] * 2)
    with pytest.raises(UserError, match="level"):
        arith.problems("train", 3, levels=(0,))
    with pytest.raises(UserError, match="level"):
        arith.problems("train", 3, levels=())
    with pytest.raises(UserError, match="split"):
        arith.problems("exam", 3)
    with pytest.raises(UserError, match="not that many"):
        arith.problems("validation", 5000, levels=(1,))
    with pytest.raises(UserError, match="expression"):
        arith.problem_from("1+", 1)
