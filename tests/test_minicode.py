"""The programming family: every phrasing, run in another process, does what the interpreter says."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest

from repirl.errors import UserError
from repirl.tasks import minicode

STYLES = (minicode.OWN_STYLE, *minicode.EXPERT_STYLES)

RUNNER = """
import json, sys
out = []
for program, inputs in json.load(sys.stdin):
    space = {}
    exec(program, space)
    out.append([space["f"](list(x)) for x in inputs])
json.dump(out, sys.stdout)
"""


def run_elsewhere(jobs: list[tuple[str, list[list[int]]]]) -> list[list[list[int]]]:
    """Outputs of each program's `f` on its inputs, from a Python process of its own."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER], input=json.dumps(jobs), capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def test_every_phrasing_agrees_with_the_interpreter():
    inputs = [[], [3], [-9, -2, 0, 1, 1, 8, 20], [5, 4, 3, 2, 1, 0, -1], [2, 2, 7, 14]]
    sources = [p.source for p in minicode.problems("train", 32)]
    # Each operation alone, with its smallest and largest constant.
    for op in minicode.OPS.values():
        sources += [f"{op.name} {n}" for n in (op.constants[0], op.constants[-1])] if op.constants else [op.name]
    cases = list(itertools.product(sources, STYLES))
    outputs = run_elsewhere([(minicode.solution(source, style), inputs) for source, style in cases])
    for (source, style), found in zip(cases, outputs, strict=True):
        assert found == [minicode.run(source, x) for x in inputs], (source, style)
    assert {style: len({minicode.solution(s, style) for s in sources}) for style in STYLES}[STYLES[0]] == len(set(sources))


def test_the_interpreter_by_example():
    assert minicode.run("add 3, even, first 2", [1, 2, 3, 5]) == [4, 6]
    assert minicode.run("odd", [-3, -2, 4, 5]) == [-3, 5]
    assert minicode.run("sort, reverse, drop 1", [3, 1, 2]) == [2, 1]
    assert minicode.run("below 3, times 2, negate, square, subtract 1", [1, 5, 2]) == [3, 15]
    assert minicode.run("above 2", [2, 3]) == [3]


def test_hidden_tests_are_the_interpreters_and_tell_programs_apart():
    for problem in minicode.problems("train", 16):
        assert problem.tests is not None
        cases = problem.tests.cases
        assert problem.tests.entry_point == "f"
        assert len(cases) == minicode.NUM_TESTS
        for case in cases:
            assert case.expected == minicode.run(problem.source, list(case.args[0]))
        assert any(case.expected != case.args[0] for case in cases)
        assert problem.level == problem.source.count(",") + 1
        assert str(cases[0].expected) not in problem.prompt


def test_splits_are_seeded_and_disjoint():
    splits = ("train", "validation", "test", "unlabelled")
    sources = {}
    for split in splits:
        found = [p.source for seed in (0, 1) for p in minicode.problems(split, 24, seed=seed)]
        assert [p.source for p in minicode.problems(split, 24)] == found[:24]
        assert len(set(found[:24])) == 24
        sources[split] = set(found)
    for a, b in itertools.combinations(splits, 2):
        assert not sources[a] & sources[b]


@pytest.mark.parametrize("source", ["", "jump", "add", "add x", "add -3", "square 2", "add 3,even", "add 3, "])
def test_what_is_no_description(source):
    with pytest.raises(UserError, match="description"):
        minicode.parse(source)


def test_wrong_requests_are_refused():
    with pytest.raises(UserError, match="level"):
        minicode.problems("train", 3, levels=(9,))
    with pytest.raises(UserError, match="split"):
        minicode.problems("exam", 3)
    with pytest.raises(UserError, match="not that many"):
        minicode.problems("train", 500, levels=(1,))
    with pytest.raises(UserError, match="phrasing"):
        minicode.solution("even", "rhyme")
    with pytest.raises(UserError):
        minicode.problems("train", 3, levels=())
