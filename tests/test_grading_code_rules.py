"""What decides a verdict at the edges: tests that test nothing, exceptions and values that cross, script ends, races."""

from __future__ import annotations

import json
import marshal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from repirl.cli.main import app
from repirl.errors import UserError
from repirl.grading.code import grader as code
from repirl.grading.code.fences import extract_code, has_closed_block
from repirl.grading.code.grader import MAX_REASON, check_tests, clear_cache, grade_programs
from repirl.grading.sandbox import runner as sandbox
from repirl.grading.sandbox.runner import MAX_TIMEOUTS, Job, SandboxLimits, SandboxPool, sandbox_level
from repirl.types import Case, CodeTests, Verdict

LIMITS = SandboxLimits(wall_s=3.0, cpu_s=2)
FENCE = "```"
pytestmark = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")


def grade(tests: CodeTests, *programs: str) -> list[Verdict]:
    return grade_programs([(tests, program) for program in programs], LIMITS)


def asserts(source: str, entry_point: str = "") -> CodeTests:
    return CodeTests("asserts", entry_point, code=source)


def stdio(stdout: str, stdin: str = "") -> CodeTests:
    return CodeTests("stdio", cases=(Case(stdin=stdin, stdout=stdout),))


def outcome(program: str, source: str) -> str:
    (verdict,) = grade(asserts(source), program)
    return verdict.outcome


# ------------------------------------------------------------------------------------------------------ races


FLOOD = "import os\nd = b'x' * (4 * 2**20 + {})\nwhile d: d = d[os.write({}, d):]\nos._exit(0)"


def test_programs_that_print_too_much_and_end_at_once_harm_nobody() -> None:
    clear_cache()
    items: list[tuple[CodeTests, str]] = []
    for i in range(20):
        items.append((stdio("1"), FLOOD.format(60_000 + 3000 * i, 1)))
        items.append((CodeTests("functional", "f", (Case(expected=1),)), FLOOD.format(60_000 + 3000 * i, 3)))
        items.append((stdio(f"{i}"), f"print({i})"))
    found = grade_programs(items, LIMITS)
    assert [v.outcome for v in found] == ["wrong", "wrong", "correct"] * 20
    assert {v.reason for v in found} == {"too much output", ""}


@pytest.mark.parametrize("packet", [b"1", b"7", b"stop", b"{", b"\xff" * 40, json.dumps({"kind": "stdio"}).encode()])
def test_a_stray_packet_does_not_end_the_server(packet: bytes) -> None:
    pool = SandboxPool(workers=1)
    try:
        pool.level()
        (server,) = pool._idle
        server.control.send(packet)
        if not packet.isdigit():
            assert "fault" in json.loads(server.control.recv(1 << 16))
        (run,) = pool.run([Job("stdio", marshal.dumps(("print(3)", b"")), capture=True)], LIMITS)
        assert (run.fault, run.stdout) == (None, b"3\n")
        assert pool._idle == [server]
    finally:
        pool.close()


# ------------------------------------------------------------------------------------- tests that test nothing


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "assert nothing"),
        ("  \n", "assert nothing"),
        ("# assert f(1) == 2", "assert nothing"),
        ("x = 1", "assert nothing"),
        ("f(1)", "assert nothing"),
        ("def check(candidate):\n    assert candidate(1) == 2", "nothing calls"),
        ("def check(c):\n    assert c(1) == 2\nif __name__ == '__main__':\n    check(f)", "nothing calls"),
        ("def test_f(case):\n    assert f(case) == 2", "nothing calls"),
        ("assert " + "(" * 5000 + "1" + ")" * 5000, "not Python"),
        ("assert " + "-" * 100_000 + "1", "nested too deeply"),
    ],
)
def test_tests_that_assert_nothing_are_refused(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_tests(asserts(source))


RUNNERS = {
    "pytest": "def test_f():\n    assert f(1) == 2",
    "pytest class": "class TestF:\n    def test_one(self):\n        assert f(1) == 2\n    def helper(self, x): assert False",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n    def setUp(self): self.want = 2\n"
    "    def test_f(self):\n        self.assertEqual(f(1), self.want)\nif __name__ == '__main__':\n    unittest.main()",
    "unittest main": "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n"
    "        self.assertEqual(f(1), 2)\nunittest.main(argv=['x'], exit=False)",
    "loop": "def check(c):\n    assert c(1) == 2\nfor c in [f]:\n    check(c)",
    "raise": "def check(c):\n    if c(1) != 2:\n        raise AssertionError('no')\ncheck(f)",
    "must raise": "try:\n    f('a')\n    assert False\nexcept TypeError:\n    pass",
}


@pytest.mark.parametrize("name", RUNNERS)
def test_tests_for_a_runner_are_run(name: str) -> None:
    right, wrong = grade(asserts(RUNNERS[name]), "def f(x): return x + 1", "def f(x): return 0")
    assert (right.outcome, wrong.outcome) == ("correct", "wrong"), (right, wrong)


def test_check_is_called_where_the_entry_point_is_known() -> None:
    source = "def check(candidate):\n    assert candidate(1) == 2"
    for entry, program in (
        ("f", "def f(x): return x + {}"),
        ("Solution().f", "class Solution:\n    def f(self, x): return x + {}"),
        ("Solution.f", "class Solution:\n    def f(self, x): return x + {}"),
    ):
        right, wrong, missing = grade(asserts(source, entry), program.format(1), program.format(2), "x = 1")
        assert [v.outcome for v in (right, wrong, missing)] == ["correct", "wrong", "wrong"]


def test_tests_that_reach_no_assertion_are_ungraded_unless_the_program_had_a_say() -> None:
    never = "def check(c):\n    assert c(1) == 2\nfor c in []:\n    check(f)"
    (verdict,) = grade(asserts(never), "def f(x): return 0")
    assert (verdict.outcome, verdict.reason) == ("ungraded", "tests: no assertion was executed")
    by_program = "for got, want in zip(f(), [1, 2]):\n    assert got == want"
    right, empty, value = grade(asserts(by_program), "def f(): return [1, 2]", "def f(): return []", "f = []")
    assert (right.outcome, empty.outcome, empty.reason) == ("correct", "wrong", "no assertion was reached")
    assert value.outcome == "wrong"
    data = "for got in f:\n    assert got == 1"
    assert [v.outcome for v in grade(asserts(data), "f = [1]", "f = []", "f = [2]")] == ["correct", "wrong", "wrong"]


def test_what_stands_for_the_program_does_not_make_it_ungraded() -> None:
    own = "class A: pass\nclass E(Exception): pass\ndef f(x): return A()\ndef g():\n    raise E"
    assert outcome(own, "assert f(type(f(1))) == 1") == "wrong"
    assert outcome(own, "try:\n    g()\nexcept Exception as e:\n    assert f(e) == 1") == "wrong"
    assert outcome(own, "try:\n    g()\nexcept Exception as e:\n    assert f(type(e)) == 1") == "wrong"
    assert outcome(own, "assert f(E('made here')) == 1") == "wrong"
    same = "import json\ndef g(x): json.loads(x)\ndef f(e): return type(e).__name__"
    assert outcome(same, "try:\n    g('{')\nexcept ValueError as e:\n    assert f(e) == 'JSONDecodeError'") == "correct"


def test_what_the_tests_import_in_vain_is_not_the_programs_fault() -> None:
    source = "import no_such_package\nassert f(1) == 2"
    (verdict,) = grade(asserts(source), "def f(x): return 2")
    assert (verdict.outcome, verdict.reason) == ("ungraded", "tests: they import no_such_package, which is not in the sandbox")
    assert outcome("def f(x): import no_such_package", "assert f(1) == 2") == "wrong"
    assert outcome("def f(x): raise ModuleNotFoundError(name='no_such')", "assert f(1) == 2") == "wrong"
    late = "assert f(1) == 2\nimport no_such_package"
    assert [v.outcome for v in grade(asserts(late), "def f(x): return 2", "def f(x): return 1")] == ["ungraded", "wrong"]


def test_a_module_of_the_program_does_not_make_it_ungraded() -> None:
    program = "import math as inc\ndef compose(g, h): return None"
    assert outcome(program, "assert compose(inc, inc)(3) == 5") == "wrong"
    own = "import types\ninc = types.ModuleType('sbx_asserts')\ndef compose(g, h): return None"
    assert outcome(own, "assert compose(inc, inc)(3) == 5") == "wrong"
    assert outcome("def root(m, x): return m.sqrt(x)", "import math\nassert root(math, 4) == 2") == "correct"


# -------------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize(
    "source",
    [
        "assert all(map(lambda c: f(c[0]) == c[1], [(1, 5), (2, 6)]))",
        "assert not any(map(lambda c: f(c[0]) != c[1], [(1, 5), (2, 6)]))",
        "for got, want in zip(map(f, [1, 2]), [5, 6]):\n    assert got == want",
        "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass",
    ],
)
@pytest.mark.parametrize("error", ["StopIteration", "type('Own', (StopIteration,), {})", "StopAsyncIteration", "GeneratorExit"])
def test_a_program_cannot_end_the_loops_of_the_tests(source: str, error: str) -> None:
    assert outcome(f"def f(*a): raise {error}", source) == "wrong"


def test_a_program_that_dies_is_not_what_the_tests_expect_to_be_raised() -> None:
    source = "try:\n    f(-1)\n    assert False\nexcept Exception:\n    pass"
    assert outcome("def f(x): raise ValueError", source) == "correct"
    assert outcome("import os\ndef f(x): os._exit(0)", source) == "wrong"
    assert outcome("import os\ndef f(x): os._exit(0)", source.replace("except Exception", "except")) == "wrong"


def test_a_program_cannot_have_the_tests_catch_their_own_failure() -> None:
    source = "try:\n    f(-1)\n    assert False\nexcept Bad:\n    pass"
    assert outcome("class Bad(Exception): pass\ndef f(x): raise Bad", source) == "correct"
    for cheat in ("AssertionError", "Exception", "BaseException", "type('Bad', (AssertionError,), {})"):
        assert outcome(f"Bad = {cheat}\ndef f(x): return 0", source) == "wrong"


EXCEPTIONS = """
import json
class Negative(ValueError):
    def __init__(self, value):
        super().__init__(f'{value} is negative')
        self.value = value
class Small(Negative): pass
class Own(Exception): pass
def root(x):
    if x == 'own': raise Own
    if x == 'key': raise KeyError('a')
    if x == 'stop': raise StopIteration
    if x == 'exit': raise SystemExit(3)
    if isinstance(x, bytes): return x.decode()
    if isinstance(x, str): return json.loads(x)
    if x < -9: raise Negative(x)
    if x < 0: raise Small(x)
    assert x < 100, 'too large'
    return open('/nothing/here')
"""


@pytest.mark.parametrize(
    ("argument", "caught", "then"),
    [
        ("-1", "ValueError", "str(e) == '-1 is negative' and e.args == ('-1 is negative',)"),
        ("-1", "Small", "e.value == -1 and isinstance(e, Negative) and type(e).__name__ == 'Small'"),
        ("-10", "Negative", "not isinstance(e, Small)"),
        ("'own'", "(KeyError, Own)", "str(e) == ''"),
        ("'key'", "KeyError", "str(e) == \"'a'\" and e.args[0] == 'a'"),
        ("'{'", "ValueError", "'Expecting property name' in str(e)"),
        ("'{'", "json.JSONDecodeError", "e.pos == 1"),
        ("b'\\xff'", "UnicodeDecodeError", "e.start == 0"),
        ("b'\\xff'", "ValueError", "True"),
        ("200", "AssertionError", "str(e) == 'too large'"),
        ("1", "OSError", "isinstance(e, FileNotFoundError) and e.errno == 2 and '/nothing/here' in str(e)"),
        ("'stop'", "StopIteration", "True"),
        ("'stop'", "(TypeError, StopIteration)", "True"),
        ("'exit'", "SystemExit", "e.code == 3"),
    ],
)
def test_exceptions_cross_with_class_message_and_arguments(argument: str, caught: str, then: str) -> None:
    source = (
        f"import json\ntry:\n    root({argument})\n    raise MemoryError\nexcept {caught} as e:\n    assert {then}, repr(e)"
    )
    assert outcome(EXCEPTIONS, source) == "correct"
    assert (
        outcome("class Own(Exception): pass\nclass Negative(Own): pass\nSmall = Negative\ndef root(x): return 1", source)
        == "wrong"
    )


# ------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    "value",
    [
        "range(1, 9, 2)", "deque([1, [2]], 5)", "Fraction(-1, 3)", "Decimal('1.50')", "Decimal('NaN').is_nan()",
        "date(2024, 2, 29)", "datetime(2024, 2, 29, 1, 2, 3, 4)", "time(1, 2)", "timedelta(1, 2, 3)", "{'a': 1}.keys()",
        "{'a': [1]}.items()", "[Fraction(1, 2), {Decimal(1): date(2000, 1, 1)}]",
    ],
)  # fmt: skip
def test_more_values_cross_by_value(value: str) -> None:
    imports = "from collections import deque\nfrom fractions import Fraction\nfrom decimal import Decimal\n"
    imports += "from datetime import date, datetime, time, timedelta\n"
    program = f"{imports}def same(x):\n    assert x == {value} and type(x) is type({value})\n    return {value}"
    source = f"{imports}x = {value}\nassert same(x) == x\nassert type(same(x)) is type(x)"
    assert outcome(program, source) == "correct"
    assert outcome("def same(x): return [1]", source) == "wrong"


@pytest.mark.parametrize(
    ("program", "source"),
    [
        ("def best(xs, key): return max(xs, key=key)", "assert best([1, -3], key=abs) == -3"),
        (
            "def ap(g, *x): return g(*x)",
            "import operator\nassert ap(operator.add, 1, 2) == 3\nassert ap(str.upper, 'a') == 'A'",
        ),
        ("def ap(g, *x): return g(*x)", "from fractions import Fraction\nassert ap(Fraction, 1, 2) == Fraction(1, 2)"),
        ("def kind(e): return issubclass(e, ValueError)", "assert kind(UnicodeError)"),
        ("def total(x): return sum(x)", "assert total(i for i in range(4)) == 6\nassert total(map(int, ['1', '2'])) == 3"),
        ("def order(x): return sorted(x)", "assert order({'b': 1, 'a': 2}.keys()) == ['a', 'b']"),
        ("def cut(d, n=1): d.pop()", "from collections import deque\nd = deque([1, 2])\ncut(d=d)\nassert d == deque([1])"),
        ("def items(d): return d.items()", "assert list(items({'a': 1})) == [('a', 1)]"),
        ("def values(d): return d.values()", "assert list(values({'a': [1]})) == [[1]]"),
        ("def g(n): yield from range(n)", "assert next(g(2)) == 0\nassert next(g(0), None) is None"),
    ],
)
def test_functions_iterators_and_views_as_arguments_and_results(program: str, source: str) -> None:
    assert outcome(program, source) == "correct"


def test_a_function_of_the_library_that_a_program_gives_runs_there() -> None:
    """`eval` of the tester would be the end of all tests."""
    cheat = "import builtins\nf = builtins.eval\ng = lambda: '__import__(\"sys\").exit(0)'"
    assert outcome(cheat, "assert f(g()) == 5") == "wrong"


# ------------------------------------------------------------------------------------------------------- stdio


@pytest.mark.parametrize(
    ("end", "outcome_wanted", "reason"),
    [
        ("import sys\nsys.exit()", "correct", ""),
        ("import sys\nsys.exit(0)", "correct", ""),
        ("exit(False)", "correct", ""),
        ("import os\nsys = os._exit(0)", "correct", ""),
        ("import sys\nsys.exit(1)", "wrong", "exit 1"),
        ("import sys\nsys.exit(-1)", "wrong", "exit 255"),
        ("import sys\nsys.exit('error: failed')", "wrong", "exit 1"),
        ("import os\nos._exit(3)", "wrong", "exit 3"),
        ("raise ValueError", "wrong", "exception: ValueError"),
        ("import os\nos.closerange(3, 30)", "correct", ""),
    ],
)
def test_right_output_counts_with_exit_code_0_only(end: str, outcome_wanted: str, reason: str) -> None:
    (verdict,) = grade(stdio("5\n"), f"print(5, flush=True)\n{end}")
    assert (verdict.outcome, verdict.reason) == (outcome_wanted, reason)


@pytest.mark.parametrize(
    "program",
    [
        "out = open(1, 'w')\nout.write('5\\n')",
        "import os\nout = os.fdopen(1, 'w')\nprint(5, file=out)",
        "import sys\nprint(5, file=sys.__stdout__)",
        "import sys\nprint(5)\nsys.stdout.close()",
        "out = open(1, 'wb')\nout.write(b'5')",
        "import atexit, io, sys\nb = io.StringIO()\natexit.register(lambda: sys.__stdout__.write(b.getvalue()))\n"
        "sys.stdout = b\nprint(5)",
        "import sys, threading\nthreading.Thread(target=lambda: print(5)).start()\nsys.exit()",
        "print(5)\nclass Bad:\n    closed = property(lambda self: 1 / 0)\nbad = Bad()",
    ],
)
def test_output_left_in_a_buffer_counts(program: str) -> None:
    (verdict,) = grade(stdio("5\n"), program)
    assert verdict.outcome == "correct", verdict


def test_a_right_program_may_print_as_much_as_is_expected() -> None:
    text = "".join(f"{i}\n" for i in range(1_000_000))
    right, flood = grade(stdio(text), "print(*range(10**6), sep='\\n')", "while True: print('x' * 10**5)")
    assert (right.outcome, flood.reason) == ("correct", "too much output")
    returned = CodeTests("functional", "f", (Case((700_000,), list(range(700_000))),))
    assert grade(returned, "def f(n): return list(range(n))")[0].outcome == "correct"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_program_that_is_too_slow_is_not_run_on_every_case(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    pool = SandboxPool(workers=workers)
    monkeypatch.setattr(sandbox, "_pool", pool)
    clear_cache()
    try:
        cases = tuple(Case(stdin=f"{i}\n", stdout=f"{i}\n") for i in range(40))
        sleeper = "import time\nn = int(input())\nif n: time.sleep(99)\nprint(n)"
        started = time.monotonic()
        slow, quick = grade_programs(
            [(CodeTests("stdio", cases=cases), sleeper), (CodeTests("stdio", cases=cases), "print(input())")],
            SandboxLimits(wall_s=0.5, cpu_s=1),
        )
        assert time.monotonic() - started < 10
        assert (slow.outcome, slow.tests_passed, slow.tests_total, slow.score) == ("wrong", 1, 40, 1 / 40)
        assert slow.reason == f"timeout (wall clock); after 3 timeouts the rest counts as failed ({39 - MAX_TIMEOUTS})"
        assert (quick.outcome, quick.tests_passed) == ("correct", 40)
    finally:
        pool.close()
        clear_cache()


# ----------------------------------------------------------------------------------------- completions and rows


def test_fences_with_windows_line_ends_and_in_lists() -> None:
    tests = CodeTests("functional", "f", (Case((1,), 2),))
    body = "def f(x):\n    if x:\n        return x + 1\n"
    fenced = f"Text\n{FENCE}python\n{body}{FENCE}\n"
    indented = "1. So:\n\n" + "".join(f"   {line}\n" for line in f"{FENCE}python\n{body}{FENCE}".split("\n"))
    half_indented = f"1. So:\n\n   {FENCE}python\n{body}   {FENCE}\n"
    texts = [fenced, fenced.replace("\n", "\r\n"), body.replace("\n", "\r\n"), indented, half_indented]
    assert [v.outcome for v in grade(tests, *texts)] == ["correct"] * len(texts)
    assert has_closed_block(indented)
    assert has_closed_block(fenced.replace("\n", "\r\n"))


def test_a_fence_inside_of_triple_quotes_is_text() -> None:
    inner = f"def f():\n    return '''\n{FENCE}\n'''\n"
    assert extract_code(f"{FENCE}python\n{inner}{FENCE}\ndone") == inner
    assert extract_code(f"{FENCE}\n{inner}{FENCE}\nand\n{FENCE}py\nx = 1\n{FENCE}") == "x = 1\n"
    # A quote that is none: the next block is still found, and the only one still ends.
    assert extract_code(f"{FENCE}python\n# ''' in a comment\n{FENCE}\nthen\n{FENCE}python\nx = 1\n{FENCE}") == "x = 1\n"
    assert extract_code(f'{FENCE}python\nx = \'"""\'\n{FENCE}\nDone.') == 'x = \'"""\'\n'
    assert extract_code(f'{FENCE}\n"""it\'s \'\'\' here"""\nx = 1\n{FENCE}\nMore text.') == '"""it\'s \'\'\' here"""\nx = 1\n'


@pytest.mark.parametrize("entry", ["Solution.g", "Solution().g", "g"])
@pytest.mark.parametrize("decorator", ["", "@staticmethod\n    "])
def test_an_entry_point_may_name_its_class(entry: str, decorator: str) -> None:
    tests = CodeTests("functional", entry, (Case((1,), 2), Case((2,), 3)))
    program = f"class Solution:\n    {decorator}def g({'' if decorator else 'self, '}x): return x + 1"
    right, missing = grade(tests, program, "class Solution: pass")
    assert (right.outcome, missing.reason) == ("correct", f"missing {entry}")


def test_a_prelude_gives_the_imports_of_leetcode() -> None:
    tests = CodeTests("functional", "Solution.g", (Case(([1, 5],), 5),))
    program = "class Solution:\n    def g(self, x: List[int]) -> Optional[int]: return max(x)"
    bare, with_prelude = grade(tests, program)[0], grade(replace(tests, prelude="from typing import *\n"), program)[0]
    assert (bare.reason, with_prelude.outcome) == ("exception: NameError", "correct")


def test_reasons_are_short_and_printable(tmp_path: Path) -> None:
    raw = ["x" * 10**6, "\x1b[2J\n\x00\r\ud800\u202e[red]", ["a"] * 50]
    programs = []
    for words in raw:
        frame = json.dumps(["raise", words]).encode() + b"\n"
        programs.append(f"import os\nd = {frame!r}\nwhile d: d = d[os.write(3, d):]\nos._exit(0)")
    rows = []
    for kind in ({"kind": "stdio", "cases": [{"stdin": "", "stdout": "1"}]}, {"kind": "functional", "entry_point": "f"}):
        tests = {"cases": [{"args": [], "expected": 1}]} | kind
        rows += [{"id": f"\ud800{i}", "completion": program, "tests": tests} for i, program in enumerate(programs)]
    path, out = tmp_path / "rows.jsonl", tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["grade", "code", str(path), "--verdicts", str(out), "--json"])
    assert done.exit_code == 0, done.output
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in written] == [row["id"] for row in rows]
    for row in written:
        assert row["verdict"] == "wrong"
        assert row["reason"].isprintable()
        assert len(row["reason"]) <= MAX_REASON
    assert written[1]["reason"] == "exception: \\x1b[2J\\n\\x00\\r\\ud800\\u202e[red]"


STDIO: dict[str, Any] = {"kind": "stdio", "cases": [{"stdin": "", "stdout": "1\n"}]}


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({**STDIO, "kind": ["stdio"]}, "line 2: unknown kind of tests"),
        ({**STDIO, "kind": {}}, "line 2: unknown kind of tests"),
        ({"kind": "asserts", "code": "assert " + "-" * 100_000 + "1"}, "line 2: the tests are nested too deeply"),
        ({"kind": "asserts", "code": "x = 1"}, "line 2: the tests assert nothing"),
        ({"kind": "asserts", "code": "assert f()", "time_limit_s": "x"}, "line 2: time_limit_s of the tests must be"),
        ({"kind": "asserts", "code": "assert f()", "entry_point": 5}, "line 2: entry_point of the tests must be text"),
        ({**STDIO, "prelude": 5}, "line 2: prelude of the tests must be text"),
        ({**STDIO, "cases": [{"stdin": "\ud800", "stdout": ""}]}, "case 1: `stdin` and `stdout` must be text"),
        ({**STDIO, "time_limit_s": 10**30}, "line 2: time_limit_s of the tests must be a whole number from 1 to 3600"),
        ({**STDIO, "memory_limit_mib": 10**15}, "line 2: memory_limit_mib of the tests must be a whole number from"),
        ({**STDIO, "memory_limit_mib": 1}, "line 2: memory_limit_mib of the tests must be a whole number from"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_malformed_rows_are_one_line_and_exit_code_2(tmp_path: Path, tests: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.jsonl"
    rows = [{"id": "a", "completion": "print(1)", "tests": given} for given in (STDIO, tests)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["grade", "code", str(path)])
    assert isinstance(done.exception, UserError), done.exception
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_number_too_long_for_json_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": ' + "9" * 5000 + "}\n")
    done = CliRunner().invoke(app, ["grade", "code", str(path)])
    assert "line 1 of bad.jsonl is not JSON (a number is too long)" in str(done.exception)


def test_the_least_memory_that_tests_may_ask_for_is_enough_for_python() -> None:
    least = code.MEMORY_LIMITS_MIB[0]
    suites = [
        (replace(stdio("5\n"), memory_limit_mib=least), "print(5)"),
        (CodeTests("functional", "f", (Case(expected=1),), memory_limit_mib=least), "def f(): return 1"),
        (CodeTests("asserts", code="assert f() == 1", memory_limit_mib=least), "def f(): return 1"),
    ]
    assert [v.outcome for v in grade_programs(suites, LIMITS)] == ["correct"] * 3
