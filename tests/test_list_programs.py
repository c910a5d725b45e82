"""Programs followed line by line: every expert's phrasing is right throughout, a wrong line is found, nothing is executed."""

from __future__ import annotations

import itertools

import pytest

from repirl.grading.dispatch import grade_rollouts
from repirl.tasks import minicode
from repirl.tasks.list_programs import check_lines

PROBLEMS = minicode.problems("validation", 48, seed=4)


def test_every_phrasing_is_right_throughout() -> None:
    for problem in PROBLEMS:
        for style in (minicode.OWN_STYLE, *minicode.EXPERT_STYLES):
            assert all(minicode.check_steps(problem.source, minicode.solution(problem.source, style))), (problem.source, style)


def test_a_program_whose_lines_are_right_passes_the_tests_and_the_other_way_round() -> None:
    """Of programs with one line changed to that of another problem."""
    texts, sound, problems = [], [], []
    for a, b in itertools.pairwise(PROBLEMS):
        mine, theirs = (minicode.solution(p.source, minicode.OWN_STYLE).split("\n") for p in (a, b))
        text = "\n".join([mine[0], theirs[1], *mine[2:]])
        problems.append(a)
        texts.append(text)
        sound.append(all(minicode.check_steps(a.source, text)))
    correct = [verdict.outcome == "correct" for verdict in grade_rollouts(problems, texts)]
    assert 0 < sum(correct) < len(correct)
    assert all(not s or c for s, c in zip(sound, correct, strict=True)), "right lines make a right program"
    by_luck = sum(c and not s for s, c in zip(sound, correct, strict=True))
    assert by_luck < 0.1 * len(correct)


STATES = [[[1, 2, 3]], [[2, 3, 4]], [[4, 3, 2]]]  # add 1, reverse


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        (["x = [v + 1 for v in x]", "x = x[::-1]", "return x"], [True] * 4),
        (["x = [v + 1 for v in x[::-1]]", "return x"], [True] * 3),  # two at once
        (["x = [v + 1 for v in x]", "y = x", "return y[::-1]"], [True] * 4),  # the last one in `return`
        (["x = x[::-1]", "x = [v + 1 for v in x]", "return x"], [True, False, False, False]),  # in another order
        (["x = [v + 2 for v in x]", "x = [v - 1 for v in x]", "return x"], [True, False, False, False]),
        (["x = [v + 1 for v in x]", "return x"], [True, True, False]),  # not all
        (["x = [v + 1 for v in x]", "x = x[::-1]"], [True] * 3),  # unfinished, and right so far
        (["x = [w + 1 for v in x]"], [True, False]),
        (["y = []", "for v in x: y += [v + 1]", "x = y", "x = list(reversed(x))"], [True, True, True, True, False]),
    ],
)
def test_what_a_line_leaves_must_be_on_the_way(body: list[str], labels: list[bool]) -> None:
    text = "\n".join(["def f(x):", *("    " + line for line in body)])
    assert check_lines(text, STATES[0], STATES) == labels


def test_a_text_that_is_no_function_has_no_right_line() -> None:
    assert check_lines("", STATES[0], STATES) == []
    assert check_lines("hm\n\nx = x", STATES[0], STATES) == [False, False]
    assert check_lines("def f(x, y):\n    return x", STATES[0], STATES) == [False, False]


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "x = __import__('os').listdir()",
        "x = [1] * 99999999999",
        "x = 9 ** 9 ** 9",
        "x = [v * v for v in x] * 3000",
        "while True: pass",
        "for v in x: x += [v]",
        "for v in x:\tfor w in x: x = x",
        "x = " + "(" * 90 + "x" + ")" * 90 + " + y",
        "x = [[w for w in x] for v in x]",
        "x = (lambda: x)()",
        "x = 1 % 0",
        "x = x['a']",
        "x = x[::0]",
        "x = x; y = x",
        "\x00",
        "x = -x",
    ],
)
def test_what_is_hostile_or_unknown_is_wrong_and_over_at_once(line: str) -> None:
    assert check_lines(f"def f(x):\n    {line}", STATES[0], STATES) == [True, False]
