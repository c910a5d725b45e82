"""Grading of generated code: the three kinds of tests, comparison by value, extraction, and real reference solutions."""

from __future__ import annotations

import gzip
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repirl.errors import UserError
from repirl.grading.code import grader as code
from repirl.grading.code.claims import matches, same_output, same_text
from repirl.grading.code.fences import extract_code
from repirl.grading.code.grader import clear_cache, grade_programs
from repirl.grading.dispatch import grade_rollouts, outcome_rewards
from repirl.grading.sandbox.runner import Job, SandboxLimits, sandbox_level
from repirl.grading.sandbox.server import SERVER_SCRIPT
from repirl.types import Case, CodeTests, Problem, Verdict

sys.path.insert(0, str(SERVER_SCRIPT.parent))
import sbx_codec  # type: ignore[import-not-found]

del sys.path[0]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")


def grade(tests: CodeTests, *programs: str) -> list[Verdict]:
    return grade_programs([(tests, program) for program in programs], SandboxLimits(cpu_s=5))


def cases(*pairs: tuple[tuple[object, ...], object]) -> CodeTests:
    return CodeTests("functional", "f", tuple(Case(args=args, expected=expected) for args, expected in pairs))


def test_functional_kind_counts_each_case() -> None:
    tests = cases(((1,), 1), ((2,), 4), ((3,), 9), ((0,), 0))
    right, half, raising, missing, broken = grade(
        tests,
        "def f(x): return x * x",
        "def f(x): return x",
        "def f(x): return 6 // x if x == 0 else x * x",
        "def g(x): return x * x",
        "def f(x: return x",
    )
    assert (right.outcome, right.score, right.tests_passed, right.tests_total) == ("correct", 1.0, 4, 4)
    assert (half.outcome, half.score, half.tests_passed, half.reason) == ("wrong", 0.5, 2, "wrong answer")
    assert (raising.tests_passed, raising.reason) == (3, "exception: ZeroDivisionError")
    assert (missing.outcome, missing.score, missing.reason) == ("wrong", 0.0, "missing f")
    assert broken.reason == "exception: SyntaxError"


def test_cases_before_the_fatal_one_count() -> None:
    tests = cases(((1,), 1), ((2,), 2), ((3,), 3))
    (verdict,) = grade(tests, "import os\ndef f(x):\n    if x == 3: os._exit(0)\n    return x")
    assert (verdict.outcome, verdict.tests_passed, verdict.reason) == ("wrong", 2, "exit 0")


def test_a_method_of_solution_is_found_before_a_star_import() -> None:
    tests = CodeTests("functional", "count", (Case(args=([1, 1, 2], 1), expected=2),))
    program = "from itertools import *\nclass Solution:\n    def count(self, xs, x): return xs.count(x)"
    assert grade(tests, program)[0].outcome == "correct"


def test_integers_longer_than_python_prints() -> None:
    tests = cases(((), 7**9000))
    right, wrong = grade(tests, "def f(): return 7 ** 9000", "def f(): return 7 ** 9000 + 1")
    assert (right.outcome, wrong.outcome) == ("correct", "wrong")


def test_arguments_are_not_shared_between_cases() -> None:
    tests = cases((([3, 1],), [1, 3]), (([3, 1],), [1, 3]))
    assert grade(tests, "def f(x):\n    x.sort()\n    return x")[0].outcome == "correct"


def test_main_block_does_not_run_in_functional_tests() -> None:
    assert grade(cases(((), 1)), "def f(): return 1\nif __name__ == '__main__': raise ValueError")[0].outcome == "correct"


def test_stdio_kind() -> None:
    tests = CodeTests("stdio", cases=(Case(stdin="3 4\n", stdout="7\n"), Case(stdin="1 2\n", stdout="3")))
    programs = [
        "a, b = map(int, input().split())\nprint(a + b)",
        "import sys\nprint(sum(int(x) for x in sys.stdin.read().split()), '  ')\nprint()",
        "import sys\nsys.stdout.buffer.write(b'%d' % sum(map(int, sys.stdin.buffer.readline().split())))",
        "import os\nos.write(1, str(sum(map(int, open(0).read().split()))).encode())",
        "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()\n    exit()",
        "import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()",
        "import atexit\nout = []\natexit.register(lambda: print(*out))\nout.append(sum(map(int, input().split())))",
    ]
    assert [v.outcome for v in grade(tests, *programs)] == ["correct"] * len(programs)
    constant, early, raising = grade(tests, "print(7)", "print(input())\nprint(input())", "print(7)\n1 / 0")
    assert (constant.outcome, constant.score, constant.reason) == ("wrong", 0.5, "wrong answer")
    assert early.reason == "exception: EOFError"
    assert (raising.tests_passed, raising.reason) == (0, "exception: ZeroDivisionError")


def test_asserts_kind() -> None:
    tests = CodeTests("asserts", code="assert f([1]) == [1, 1]\nassert f([2]) == [2, 2]\nassert set(f([1, 2])) == {1, 2}")
    right, wrong, raising = grade(
        tests, "def f(a): return a + a", "def f(a): return a * 2 if 2 in a else []", "def f(a): return a + missing"
    )
    assert (right.outcome, right.tests_passed, right.tests_total) == ("correct", 3, 3)
    assert (wrong.outcome, wrong.tests_passed, wrong.reason) == ("wrong", 2, "wrong answer")
    assert (raising.outcome, raising.tests_passed, raising.reason) == ("wrong", 0, "exception: NameError")


def test_asserts_on_objects_of_the_program() -> None:
    program = (
        "from collections import Counter, namedtuple\nP = namedtuple('P', 'x y')\n"
        "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def total(n): return n.v + (total(n.next) if n.next else 0)\n"
        "def squares(k): return (i * i for i in range(k))\n"
        "def drop(xs): xs.pop()\ndef count(s): return Counter(s)\ndef point(): return P(1, 2)\n"
        "def need(x):\n    if x < 0: raise ValueError('negative')\n"
        "def keep(xs, kind): return [x for x in xs if isinstance(x, kind)]\n"
    )
    tests = CodeTests(
        "asserts",
        code="a = Node(1)\na.next = Node(5)\nassert total(a) == 6\nassert a.next.v == 5\n"
        "assert list(squares(4)) == [0, 1, 4, 9]\n"
        "xs = [1, 2]\ndrop(xs)\nassert xs == [1]\nassert count('aab') == {'a': 2, 'b': 1}\nassert point() == (1, 2)\n"
        "try:\n    need(-1)\n    assert False\nexcept ValueError:\n    pass\n"
        "assert keep([1, 'a'], int) == [1]\nassert Node(1) != Node(1)",
    )
    (verdict,) = grade(tests, program)
    assert (verdict.outcome, verdict.tests_passed) == ("correct", verdict.tests_total), verdict


def test_asserts_in_a_check_function() -> None:
    body = "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(0.5) - 0.25) < 1e-6\ncheck(candidate)"
    right, wrong = grade(CodeTests("asserts", "sq", code=body), "def sq(x): return x * x", "def sq(x): return x + 2")
    assert (right.outcome, wrong.outcome) == ("correct", "wrong")


def test_a_failing_loop_after_passing_asserts_is_wrong() -> None:
    tests = CodeTests("asserts", code="assert f(1) == 1\nfor i in range(3):\n    assert f(i) == i")
    (verdict,) = grade(tests, "def f(x): return 1")
    assert (verdict.outcome, verdict.tests_passed, verdict.tests_total) == ("wrong", 1, 2)


def test_a_function_that_hides_a_builtin_can_be_tested() -> None:
    tests = CodeTests("asserts", code="assert sum(10, 15) == 6")
    program = "def sum(a, b):\n    return len([0 for i in range(1, b) if 0 == (a + b) % i]) + 1"
    assert grade(tests, "def sum(a, b): return 6")[0].outcome == "correct"
    assert grade(tests, program)[0].outcome == "wrong"


def test_tests_that_the_harness_cannot_run_are_ungraded() -> None:
    (verdict,) = grade(CodeTests("asserts", code="assert f(lambda x: x) == 1"), "def f(g): return g(1)")
    assert verdict.outcome == "ungraded"
    assert math.isnan(verdict.reward)


@pytest.mark.parametrize(
    ("expected", "returned", "equal"),
    [
        (1, 1, True), (1, 2, False), (1, 1.0, True), (1, True, True), (0, False, True), (1, "1", False), (True, 1, True),
        (None, None, True), (None, 0, False), (0, None, False), ("a", "a", True), ("a", "b", False), ("", None, False),
        (0.1 + 0.2, 0.3, True), (1.0, 1.0 + 1e-8, True), (1.0, 1.001, False), (0.0, 1e-10, True), (0.0, 1e-3, False),
        (1, 1.0000000001, False), (1e300, float("inf"), False), (float("inf"), float("inf"), True),
        (float("nan"), float("nan"), True), (float("nan"), 0.0, False), (1.5, 10**400, False), (10**400, 10**400, True),
        (10**400, 10**400 + 1, False), (-(2**63), -(2**63), True), (10**5000, 10**5000, True),
        ([1, 2], (1, 2), True), ((1, 2), [1, 2], True), ([1, 2], [2, 1], False), ([1], [1, 1], False), ([], (), True),
        ([], None, False), ([], {}, False), ([[1.0]], [[1.0 + 1e-9]], True), ("ab", ["a", "b"], False),
        ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"a": 2}, False), ({"a": 1}, {"b": 1}, False), ({1: 2}, {"1": 2}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), ({(1, 2): [3.0]}, {(1, 2): (3,)}, True), ({}, [], False),
        ({1, 2}, {2, 1}, True), ({1, 2}, {1, 3}, False), ({1}, frozenset([1]), True), ({1, 2}, [1, 2], False),
        ({(1, 2)}, {(1, 2)}, True), (b"ab", b"ab", True), (b"ab", b"a", False), (1 + 2j, 1 + 2j, True), (1 + 2j, 1, False),
        ("\ud800", "\ud800", True), ("é\n\x00", "é\n\x00", True), (1, int, False),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_comparison_by_value(expected: object, returned: object, equal: bool) -> None:
    form = json.loads(json.dumps(sbx_codec.encode(returned)))
    assert matches(expected, form) is equal


@pytest.mark.parametrize("form", [[], ["l"], ["z", 1], {"l": 1}, ["d", 1], ["i", "x"], ["i"], ["s", 1, 1], ["s", ["l"]]])
@pytest.mark.parametrize("expected", [1, "a", None, [1], {1: 2}, {1, 2}, 1.0, b"a"])
def test_malformed_claims_match_nothing(form: object, expected: object) -> None:
    assert not matches(expected, form)


def test_one_member_claimed_twice_is_not_two() -> None:
    assert not matches({1, 2}, ["s", 1, 1])
    assert not matches({1: 0, 2: 0}, ["d", 1, 0, 1, 0])


def test_codec_returns_what_it_was_given() -> None:
    value = {"a": [1, (2.5, None, True)], 3: {"x", b"y"}, (1,): 2**70, "c": 1j}
    assert sbx_codec.decode(json.loads(json.dumps(sbx_codec.encode(value)))) == value
    assert sbx_codec.encode(object()) == ["x", "object"]


def test_extraction_takes_the_last_block() -> None:
    fence = "```"
    assert extract_code("x = 1") == "x = 1"
    assert extract_code(f"First:\n{fence}python\na\n{fence}\nthen\n{fence}py\nb\nc\n{fence}\ndone") == "b\nc\n"
    assert extract_code(f"{fence}\nunclosed = 1\n") == "unclosed = 1\n"
    assert extract_code(f"~~~\ns = '''\n{fence}\n'''\n~~~") == f"s = '''\n{fence}\n'''\n"
    assert extract_code(f"{fence}python\n\n{fence}") is None
    assert extract_code("  \n") is None


def test_no_code_is_wrong_without_running() -> None:
    (verdict,) = grade(cases(((), 1), ((), 1)), "")
    assert (verdict.outcome, verdict.reason, verdict.score, verdict.tests_total) == ("wrong", "no code", 0.0, 2)


def test_printed_text_is_compared_by_line() -> None:
    assert same_text("a\nb\n", "a  \nb")
    assert same_text("a\r\nb", "a\nb\n\n")
    assert not same_text("a\nb", "a\n\nb")
    assert not same_text("a b", "a  b")
    assert not same_text(" a", "a")


@pytest.mark.parametrize(
    ("expected", "printed", "tolerance", "same"),
    [
        ("7.50", "7.5", None, True), ("1 2.0\n3", "1  2\n3.00", None, True), ("100", "1e2", None, True),
        ("-0", "0", None, True), ("0.333333", "0.3333334", None, False),
        ("0.333333", "0.3333334", 1e-6, True), ("1000", "1001", 1e-3, True),
        ("1000", "1002", 1e-3, False), ("1 2", "1\n2", None, False), ("1 2", "1 2 3", 1e-3, False),
        ("x 1.0", "x 1", None, False), ("nan", "NaN", 1e-3, False),
        ("9" * 300, "9" * 299 + "8", None, False), ("1", "1" * 5000, 1e-3, False),
        ("1", "1_0", None, False),
    ],
)  # fmt: skip
def test_printed_numbers_are_compared_by_value(expected: str, printed: str, tolerance: float | None, same: bool) -> None:
    assert same_output(expected, printed, tolerance) is same


def test_the_tests_say_how_close_floats_must_be() -> None:
    program = "def f(): return {'a': [1.0000001, 2]}"
    verdicts = [
        grade(CodeTests("functional", "f", (Case(expected={"a": [1.0, 2]}),), float_tolerance=tolerance), program)[0].outcome
        for tolerance in (None, 1e-3, 1e-9, 0.0)
    ]
    assert verdicts == ["correct", "correct", "wrong", "wrong"]
    stdio = [CodeTests("stdio", cases=(Case(stdout="0.5\n"),), float_tolerance=t) for t in (None, 1e-2)]
    assert [grade(tests, "print(0.5001)")[0].outcome for tests in stdio] == ["wrong", "correct"]
    with pytest.raises(UserError, match="float_tolerance"):
        grade(CodeTests("functional", "f", (Case(),), float_tolerance=-1.0), program)


def test_fraction_of_tests_as_reward() -> None:
    half, full, none = grade(cases(((1,), 1), ((2,), 4)), "def f(x): return x", "def f(x): return x * x", "def f(x): return 0")
    verdicts = [half, full, none, Verdict("ungraded", "sandbox: x"), Verdict("truncated"), Verdict("wrong")]
    fractions, plain = outcome_rewards(verdicts, fraction_of_tests=True), outcome_rewards(verdicts)
    assert math.isnan(fractions.pop(3))
    assert math.isnan(plain.pop(3))
    assert fractions == [0.5, 1.0, 0.0, 0.0, 0.0]
    assert plain == [0.0, 1.0, 0.0, 0.0, 0.0]


def test_truncated_code_is_not_run_and_counted_with_and_without_an_answer() -> None:
    problem = Problem("a", "own", "", "code", tests=cases(((), 1)))
    fence = "```"
    texts = [f"{fence}python\ndef f(): return 1\n{fence}\nThis", f"{fence}python\ndef f(): ret", "First we"]
    verdicts = grade_rollouts([problem] * 3, texts, ["length"] * 3)
    assert [(v.outcome, v.reason) for v in verdicts] == [
        ("truncated", ""), ("truncated", "no answer"), ("truncated", "no answer"),
    ]  # fmt: skip


def test_an_empty_program_fails_every_assertion() -> None:
    tests = CodeTests("asserts", code="x = 1\nassert f(1) == 1\nassert f(2) == 2\ndef check():\n    assert f(3)\ncheck()")
    empty, wrong = grade(tests, "", "f = 1")
    assert (empty.reason, empty.tests_passed, empty.tests_total) == ("no code", 0, 3)
    assert (wrong.tests_passed, wrong.tests_total) == (0, 3)


def test_same_program_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    original = code.run_jobs

    def counting(jobs: list[Job], *rest: object) -> object:
        ran.append(len(jobs))
        return original(jobs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(code, "run_jobs", counting)
    clear_cache()
    tests, other = cases(((), 1)), cases(((), 2))
    one, two = "def f(): return 1", "def f(): return 2"
    first = grade_programs([(tests, one), (tests, two), (tests, one), (other, one)])
    again = grade_programs([(tests, one), (cases(((), 1)), two), (other, two)])
    assert ran == [3, 1]
    assert [v.outcome for v in first] == ["correct", "wrong", "correct", "wrong"]
    assert [v.outcome for v in again] == ["correct", "wrong", "correct"]


@pytest.mark.parametrize(
    "tests",
    [
        CodeTests("asserts", code="assert f( =="),
        CodeTests("functional", "", (Case(),)),
        CodeTests("functional", "f"),
        CodeTests("stdio"),
        CodeTests("functional", "f", (Case(args=(object(),)),)),
    ],
)
def test_tests_that_make_no_sense_are_the_callers_mistake(tests: CodeTests) -> None:
    with pytest.raises(UserError):
        grade(tests, "def f(): return 1")


def test_randomness_and_set_order_repeat() -> None:
    program = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd', 'e'})] + [%d][:0]"
    (probe,) = code.run_jobs(code._jobs(cases(((), 0)), program % 0), SandboxLimits())
    value = json.loads(probe.frames)[1]
    tests = cases(((), sbx_codec.decode(value)))
    assert [v.outcome for v in grade(tests, program % 1, program % 2, program % 3)] == ["correct"] * 3


def test_a_prelude_leaves_future_imports_first() -> None:
    program = "from __future__ import annotations\nimport math\ndef f(x: Unknown): return floor(x) + math.floor(x)\n"
    tests = replace(cases(((1.5,), 2)), prelude="from math import *\n")
    assert [v.outcome for v in grade(tests, program)] == ["correct"]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        pytest.skip(f"{path.name} is not beside this checkout")
    raw = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(raw) if path.suffix == ".gz" else raw).splitlines()]


def test_humaneval_reference_solutions_are_correct_and_stubs_wrong() -> None:
    rows = _lines(DATA / "humaneval" / "HumanEval.jsonl.gz")
    assert len(rows) == 164
    suites = [CodeTests("asserts", r["entry_point"], code=f"{r['test']}\ncheck({r['entry_point']})") for r in rows]
    right = grade_programs(
        [(t, r["prompt"] + r["canonical_solution"]) for t, r in zip(suites, rows, strict=True)], SandboxLimits(cpu_s=10)
    )
    assert [r["task_id"] for r, v in zip(rows, right, strict=True) if v.outcome != "correct"] == []
    stubs = grade_programs(
        [(t, r["prompt"] + "    return None\n") for t, r in zip(suites, rows, strict=True)], SandboxLimits(cpu_s=10)
    )
    assert [r["task_id"] for r, v in zip(rows, stubs, strict=True) if v.outcome != "wrong"] == []


def test_mbpp_reference_solutions_are_correct() -> None:
    rows = _lines(DATA / "mbpp" / "mbpp.jsonl")
    assert len(rows) == 974
    suites = [CodeTests("asserts", code="\n".join([r["test_setup_code"], *r["test_list"]])) for r in rows]
    limits = SandboxLimits(cpu_s=10, wall_s=15)
    found = grade_programs([(t, r["code"]) for t, r in zip(suites, rows, strict=True)], limits)
    wrong = [(r["task_id"], v.reason) for r, v in zip(rows, found, strict=True) if v.outcome != "correct"]
    assert wrong == []
