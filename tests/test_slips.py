"""Habitual slips: what they are, how often they happen, and that what follows one goes on from it."""

from __future__ import annotations

import numpy as np
import pytest

from repirl.tasks import arith, slips
from repirl.tasks.expressions import parse


@pytest.mark.parametrize(
    ("op", "left", "right", "wrong"),
    [
        ("-", 3, 8, 5),  # the sign of -5
        ("*", -3, 4, -3),  # the left operand
        ("+", -9, 2, 7),  # the sign of -7
        ("-", 32, 7, 35),  # a borrow
        ("-", 37, 2, None),
        ("+", 17, 5, 12),  # a carry
        ("+", 12, 5, None),
        ("*", 7, 6, 7),
        ("*", 7, 1, None),  # 7 is right
        ("*", 0, 6, None),
        ("-", 5, -7, -2),  # the sign of the operand
        ("+", -3, 8, 11),
        ("+", 8, -3, 11),
        ("+", 0, 12, None),
    ],
)
def test_what_a_habit_makes_of_an_operation(op: str, left: int, right: int, wrong: int | None) -> None:
    assert slips.habit_of(op, left, right) == wrong


def test_a_slip_is_never_right() -> None:
    for op in "+-*":
        for left in range(-99, 100):
            for right in range(-20, 100):
                exact = parse(f"({left}){op}({right})")
                assert exact is not None
                assert slips.habit_of(op, left, right) != exact.value
                slip = slips.slip_of(op, left, right)
                assert slip is None or slip[0] != exact.value


def test_slips_come_as_often_as_they_should_and_are_the_only_mistakes() -> None:
    rng = np.random.default_rng(0)
    seen: dict[float, list[bool]] = {slips.USUAL: [], slips.RARE: [], slips.SELDOM: []}
    for problem in arith.problems("train", 240, levels=(1,), seed=3):
        node = parse(problem.source)
        assert node is not None
        assert node.left is not None
        assert node.right is not None
        slip = slips.slip_of(node.op, node.left.value, node.right.value)
        made = [slips.slipped_solution(problem.source, rng) for _ in range(20)]
        if slip is None:
            assert set(made) == {arith.solution(problem.source, arith.OWN_STYLE)}
        else:
            wrong, rate = slip
            habit = slips.habit_of(node.op, node.left.value, node.right.value)
            assert rate == (slips.SELDOM if habit is None else slips.USUAL if node.right.value % 2 else slips.RARE)
            seen[rate] += [text == rf"\boxed{{{wrong}}}" for text in made]
            assert all(text in (rf"\boxed{{{wrong}}}", rf"\boxed{{{node.value}}}") for text in made)
    for rate, slipped in seen.items():
        assert np.mean(slipped) == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / len(slipped)))


def test_what_follows_a_slip_goes_on_from_it() -> None:
    rng = np.random.default_rng(1)
    later = 0
    for problem in arith.problems("train", 200, levels=(5,), seed=3):
        text = slips.slipped_solution(problem.source, rng)
        lines = text.split("\n")
        assert len(lines) == 5
        assert lines[-1].startswith(r"\boxed{")
        first = arith.first_error_index(problem.source, text)
        if first == -1:
            assert text == arith.solution(problem.source, arith.OWN_STYLE)
            continue
        # From the slip on the lines are a solution of what stands there, with slips of its own at most.
        wrong = lines[first]
        if "boxed" not in wrong:
            rest = arith.check_steps(wrong, "\n".join(lines[first + 1 :]))
            later += rest[0]
    assert later > 30
