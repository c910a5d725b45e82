"""Worker pool, extraction, equivalence of answers, and the math and integer graders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repirl.errors import GradingFault, UserError
from repirl.grading.dispatch import check_ungraded, grade_rollouts
from repirl.grading.math.boxes import boxed_answer, last_box
from repirl.grading.math.equivalence import Comparison
from repirl.grading.math.extract import final_answer, flexible_answer, gold_answer
from repirl.grading.math.grader import IntegerGrader, MathGrader, MathItem, _without_comparison
from repirl.grading.pool import PoolFault, PoolOptions, WorkerPool
from repirl.types import Problem, Verdict

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# The workers of these tests evaluate Python expressions: any behaviour can be had without a module of test functions.
EVAL = "builtins:eval"
SLEEP_FOREVER = "__import__('time').sleep(3600)"
EXIT_3 = "__import__('os')._exit(3)"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(EVAL, PoolOptions(workers=2, deadline_s=1.5, memory_mib=512)) as pool:
        yield pool


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(PoolOptions(workers=2, deadline_s=20))
    yield grader
    grader.close()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_dead(pids: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(is_alive(pid) for pid in pids)


class TestPool:
    def test_order_is_kept_when_early_items_are_slow(self, pool: WorkerPool) -> None:
        items = [f"(__import__('time').sleep({0.3 if i < 2 else 0}), {i})[1]" for i in range(40)]
        assert [result.value for result in pool.map(items)] == list(range(40))

    def test_hung_item_costs_only_itself(self, pool: WorkerPool) -> None:
        pool.map(["1", "1"])
        before = set(pool.worker_pids())
        start = time.monotonic()
        results = pool.map(["1+1", SLEEP_FOREVER, *(str(i) for i in range(20))])
        assert time.monotonic() - start < 20
        assert results[1].status == "timeout"
        assert [result.value for result in results if result.status == "ok"] == [2, *range(20)]
        lost = before - set(pool.worker_pids())
        assert lost
        assert wait_until_dead(list(lost))

    def test_crashed_item_costs_only_itself(self, pool: WorkerPool) -> None:
        results = pool.map(["1", EXIT_3, "2", "__import__('os').kill(__import__('os').getpid(), 11)", "3"])
        assert [result.status for result in results] == ["ok", "crash", "ok", "crash", "ok"]
        assert "3" in results[1].detail
        assert "-11" in results[3].detail

    def test_exception_is_a_crash_with_its_name(self, pool: WorkerPool) -> None:
        result = pool.map(["1/0"])[0]
        assert result.status == "crash"
        assert "ZeroDivisionError" in result.detail

    def test_memory_limit(self, pool: WorkerPool) -> None:
        results = pool.map(["len(bytearray(3 << 30))", "len(bytearray(3 << 20))"])
        assert results[0].status == "crash"
        assert "MemoryError" in results[0].detail
        assert results[1].value == 3 << 20

    def test_workers_import_neither_torch_nor_the_main_module(self, pool: WorkerPool) -> None:
        loaded = pool.map(["sorted(__import__('sys').modules)"])[0].value
        assert not {"torch", "numpy", "pytest", "repirl.types"} & set(loaded)

    def test_several_threads_at_once(self, pool: WorkerPool) -> None:
        found: dict[int, list[int]] = {}

        def run(base: int) -> None:
            found[base] = [result.value for result in pool.map([f"{base}+{i}" for i in range(50)])]

        threads = [threading.Thread(target=run, args=(1000 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert found == {1000 * k: list(range(1000 * k, 1000 * k + 50)) for k in range(4)}

    def test_progress_and_empty(self, pool: WorkerPool) -> None:
        seen: list[tuple[int, int]] = []
        pool.map(["1", "2"], on_progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 2), (2, 2)]
        assert pool.map([]) == []

    def test_lazy_start_and_clean_close(self) -> None:
        pool = WorkerPool(EVAL, PoolOptions(workers=2, deadline_s=60))
        assert pool.worker_pids() == []
        pool.map(["1"] * 4)
        pids = pool.worker_pids()
        assert pids
        failed: list[BaseException] = []

        def hang() -> None:
            try:
                pool.map([SLEEP_FOREVER, SLEEP_FOREVER, "1"])
            except PoolFault as fault:
                failed.append(fault)

        thread = threading.Thread(target=hang)
        thread.start()
        time.sleep(0.3)
        pool.close()
        thread.join(timeout=10)
        assert failed
        assert wait_until_dead(pids)
        with pytest.raises(PoolFault, match="closed"):
            pool.map(["1"])

    def test_function_that_cannot_be_imported_is_a_fault_not_a_verdict(self) -> None:
        with WorkerPool("no_such_module:f") as pool, pytest.raises(PoolFault, match="no_such_module"):
            pool.map(["1"])

    @pytest.mark.skipif(sys.platform != "linux", reason="parent-death signal is Linux only")
    def test_hung_workers_die_with_a_killed_parent(self) -> None:
        script = (
            "import threading, time\n"  # no main guard: workers must not run this again
            "from repirl.grading.pool import PoolOptions, WorkerPool\n"
            f"pool = WorkerPool({EVAL!r}, PoolOptions(workers=2, deadline_s=600))\n"
            "pool.map(['1'] * 4)\n"
            f"threading.Thread(target=pool.map, args=([{SLEEP_FOREVER!r}] * 2,), daemon=True).start()\n"
            "time.sleep(0.3); print(*pool.worker_pids(), flush=True); time.sleep(600)\n"
        )
        parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        assert all(map(is_alive, pids))
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
        assert wait_until_dead(pids)

    def test_interpreter_exits_cleanly(self) -> None:
        script = (
            "from repirl.grading.math.grader import MathGrader\n"
            "v = MathGrader().grade_many([('x+1', r'\\boxed{1+x}', 'stop')])[0]\n"
            "import sys; print(v.outcome, 'torch' in sys.modules, 'sympy' in sys.modules)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "correct False False\n", "")

    @pytest.mark.parametrize("bad", [{"workers": 0}, {"deadline_s": 0}, {"memory_mib": 10}])
    def test_options_are_checked(self, bad: dict) -> None:
        with pytest.raises(UserError):
            PoolOptions(**bad)


class TestExtraction:
    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            (r"so $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"),
            (r"\boxed{\sqrt{\frac{a^{2}}{b_{1}}}} done", r"\sqrt{\frac{a^{2}}{b_{1}}}"),
            (r"\boxed{\left\{ x : x > 1 \right.}", r"\left\{ x : x > 1 \right."),
            (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
            (r"first \boxed{1}, then \boxed{2}", "2"),
            (r"\boxed {7}", "7"),
            (r"\boxed 7$", "7"),
            (r"\fbox{7}", "7"),
            (r"\boxed{\boxed{7}}", "7"),
            (r"\boxed{}", ""),
            (r"\boxed{12}, written in a \boxed as told", "12"),
            (r"\boxed{12}, in the `\boxed` command, that is in a \boxed{}", "12"),
            (r"we shall use \boxed{...}. It is \boxed{x}", "x"),
            (r"\boxed x", "x"),
            (r"$\boxed{12 and no end$" + "\nmore", "12 and no end"),
            ("nothing", None),
        ],
    )
    def test_last_box(self, text: str, answer: str | None) -> None:
        assert last_box(text) == answer

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("The answer is 5.", "5"),
            ("The answer is 5. No, the answer is 6 because 2*3=6.", "6"),
            ("**Answer:** $x+1$ and so on", "$x+1$"),
            ("Final Answer: The final answer is $204$. I hope it is correct.", "$204$"),
            ("Answer: $3$, $4$ and $5$", "$3$, $4$ and $5$"),
            ("Therefore the answer is:\n\\[ \\frac{1}{2} \\]", "\\[ \\frac{1}{2} \\]"),
            ("18 - 3 = 15\n#### 1,015", "1,015"),
            ("#### 1. First step\nno result", None),
            ("The answer in cents is 3.50", "3.50"),
            ("right answers: 5*5 = 25\nA: 41", "41"),
            ("A: apples\nB: pears", None),
            ("so\n **A:** 5 \n\n", "5"),
            ("<think>the answer is 3</think> I do not know", None),
            ("<think>\\boxed{3}</think> \\boxed{4}", "4"),
            ("I cannot solve this.", None),
            ("### Final Answer\n**73**", "73"),
            ("## Answer\n\n\\[73\\]", "\\[73\\]"),
            ("## \u2705 Answer\n\n> **73**", "73"),
            ("**Answer**\n\n$73$ is it", "$73$"),
            ("## Answers to expect\n12", None),
            ("<think>1</think><answer>70</answer>", "70"),
            ("<answer>The final answer is 70.</answer>", "70"),
            ("<answer>so \\boxed{70}</answer> \\boxed", "70"),
            ("<answer>70</answer> no, \\boxed{71}", "71"),
            ("\\boxed{70} <answer></answer>", "70"),
            ("\\boxed{} the answer is 3", None),
            ("", None),
        ],
    )
    def test_final_answer(self, text: str, answer: str | None) -> None:
        assert final_answer(text) == answer

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            (r"The values are $\boxed{4}$, $\boxed{9}$, and $\boxed{11}$.", "4, 9, 11"),
            (r"So $x=\boxed{-3}$ or $x=\boxed{8}$.", "-3, 8"),
            (r"\[ \boxed{-3} \quad\text{and}\quad \boxed{8} \]", "-3, 8"),
            (r"$x &= \boxed{4} \\ y &= \boxed{2}$", "x = 4, y = 2"),
            (r"\boxed{m=14}, \boxed{n=6}. All in a \boxed{}", "m=14, n=6"),
            (r"$(x,y)=\boxed{(1,2)}$, $(x,y)=\boxed{(2,1)}$", "(1,2), (2,1)"),
            (r"\[\boxed{1}\]" + "\n" + r"\[\boxed{2}\]", "2"),
            (r"\boxed{1}. \boxed{2}", "2"),
            (r"\boxed{1}, and therefore \boxed{2}", "2"),
            (r"$x + y = \boxed{5}$ and $x = \boxed{2}$", "2"),
            (r"$x = \boxed{5}$ and $x + y = \boxed{7}$", "7"),
            (r"\boxed{1, \boxed{2}}", "2"),
            ("no box", None),
        ],
    )
    def test_boxed_answer(self, text: str, answer: str | None) -> None:
        assert boxed_answer(text) == answer

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("So there are 19 ways to do it.", "19"),
            ("Thus $x = -6$", "$x = -6$"),
            ("The answer is 5. Check: 2+3", "5"),
            ("\\boxed{4}, as 3 < 5", "4"),
            ("\\boxed{}. So 5", "5"),
            ("We get $3$.\n\nThat is all.", "$3$"),
            ("<think>7</think> It costs $5, then $6,500 more", "$6,500"),
            ("so \\[x^2\n+1\\]", "\\[x^2\n+1\\]"),
            ("2\\pi and x2 and 2^3", None),
            ("$" + "x " * 5000 + "$\n\nso -1/2.", "-1/2"),
            ("nothing", None),
            ("", None),
        ],
    )
    def test_flexible_answer(self, text: str, answer: str | None) -> None:
        assert flexible_answer(text) == answer

    def test_gold_answer(self) -> None:
        assert gold_answer("2+2=4\n#### 4") == "4"
        assert gold_answer("She has 2+2=<<2+2=4>>4 eggs.\nA: 4") == "4"
        assert gold_answer(r"thus $\boxed{\frac{1}{2}}$.") == r"\frac{1}{2}"
        assert gold_answer(r"\frac{1}{2}") == r"\frac{1}{2}"

    # Quadratic time in this many characters would be minutes.
    @pytest.mark.parametrize(
        "lead", ["", "The answer is ", "\\boxed{", "A: x", "$", "**Final Answer** $", "Answer: the sum is ", "\\boxed{1}"]
    )
    def test_hostile_text_takes_linear_time(self, lead: str) -> None:
        start = time.monotonic()
        pieces = [" ", "\n", " \n", "1", "{", "\\", "$", "*", "answer*", "answer is \\( ", "A:\n", "####", "\\boxed{", "$a$, "]
        pieces += ["\\boxed{\n", "<answer>", "## Answer\n", "**answer**\n", "</think>", "\\boxed{1}, ", "\\boxed{x} and "]
        pieces += ["is ", "is 3 ", "and ", "one ", "a, ", "** ", "(a ", "x = ", "f(", "- ", "\n \n", "5 $a ", "-", "1,", "1 1/"]
        for piece in pieces:  # the flexible extraction takes the strict one first
            text = lead + piece * (200_000 // len(piece))
            for completion in (text, text + "\nfoo"):
                _without_comparison("5", flexible_answer(completion), "stop")
        assert time.monotonic() - start < 20

    def test_long_answers_are_compared_under_the_deadline(self) -> None:
        hostile = "\\text{" + " " * 1900
        assert _without_comparison("5", hostile, "stop") is None
        assert _without_comparison("5", "5.0", "stop") == Verdict("correct", extracted="5.0")


EQUAL = [
    ("\\frac43", "4/3"), ("1\\frac{4}{5}", "9/5"), ("0.5", "\\tfrac12"), ("4.5e33", "4.5 \\times 10^{33}"),
    ("\\$32,\\!348", "32348"), ("1,450,000", "1.45 million"), ("12", "12^{\\text{th}}"), ("90^\\circ", "90 \\text{ degrees}"),
    ("15\\mbox{ cm}^2", "15"), ("62.5%", "5/8"), ("\\text{(C)}", "C"), ("\\text{ellipse}", "an Ellipse."),
    ("1,-2", "\\{-2, 1\\}"), ("1,-2", "n = -2 \\text{ or } n = 1"), ("1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"),
    ("-3,0", "b=-3,\\ c=0"), ("(3,4]", "3 < x \\le 4"), ("(2,\\infty)", "x > 2"), ("x=5", "5"), ("C(h)=4h+4", "C(h) = 4+4h"),
    ("\\sqrt{51}", "sqrt(51)"), ("15x - 80", "5(3x-16)"), ("(0,9) \\cup (9,36)", "(9,36)\\cup(0,9)"), ("52_8", "52_{8}"),
    ("\\{x, y \\% z \\&\\}", "\\{ y \\% z \\&, x\\}"),
    ("\\begin{pmatrix} 1/5 \\\\ -2 \\end{pmatrix}", "\\begin{pmatrix} 0.2 \\\\ -2 \\end{pmatrix}"),
    ("17/50", "17⁄50"), ("3\\sqrt{13}", "3√13"), ("\\sqrt{117}", "117^{0.5}"), ("3<x\\le4", "4 \\ge x > 3"),
    ("x \\le 2", "x <= 2"), ("7+8=15", "8+7=15"), ("(a+b)^2=a^2+b^2+2ab", "a*a+b*b+2ab=(a+b)^2"),
    ("3x+4y+14=0", "6x+8y+28=0"),
    ("\\emptyset", "\\{\\}"), ("\\pm 3", "\\mp 3"), ("15\\text{ cm}^2", "15\\ \\mathrm{cm^2}"), ("41", "41 apples"),
    ("5", "€5"),
    ("90^\\circ", "90{}^\\circ"), ("\\text{Eve}", "\\textbf{\\text{Eve}}"), ("\\text{(C)}", "\\text{Option C}"),
    ("1,450,000", "1.45 \\text{ million}"), ("x^3-2x", "x**3 - 2*x"), ("\\cot x", "cot x"), ("\\frac{1}{2}", "\\sin 30^\\circ"),
    ("\\frac{3\\pi}{4}", "135^\\circ"), ("\\frac{3\\pi}{4}", "3pi/4"), ("\\binom{10}{3}", "{10 \\choose 3}"),
    ("e^2", "\\mathrm{e}^2"),
    ("\\ln 2", "\\log_e 2"), ("-i", "\\frac{1}{i}"), ("-i", "i^3"), ("3(2+3i)", "6+9i"), ("52_8", "(52)_8"), ("52_8", "{52}_8"),
    ("2*np.pi/3", "\\frac{2\\pi}{3}"), ("math.sqrt(2)", "\\sqrt2"), ("4.5e33", "4.5×10³³"), ("4.5e33", "4.5\\times{10}^{33}"),
    ("204", "\\underline{204}"), ("204", "\\approx 204"), ("204", "= 204"), ("204", "**204**"), ("1,-2", "1\\text{, }-2"),
    ("f(x)=2x", "f(x)=2x \\text{ for all } x"), ("\\frac{e^x-e^{-x}}{2}", "\\sinh x"),
]  # fmt: skip
UNEQUAL = [
    ("\\frac43", "\\frac34"), ("1\\frac{4}{5}", "4/5"), ("\\frac{1}{3}", "0.333333"), ("204", "-204"), ("204", "205"),
    ("11111111100", "11111111101"), ("4.5e33", "4.5e32"), ("90^\\circ", "90 \\text{ cm}"), ("\\$36", "36 \\text{ cents}"),
    ("62.5%", "62%"), ("\\text{odd}", "\\text{even}"), ("\\text{(C)}", "(B)"), ("1,-2", "1"), ("1,-2", "-1,2"),
    ("-3,0", "b=0,\\ c=-3"), ("(3,4]", "[3,4]"), ("(3,4]", "3 < x < 4"), ("(8,-2)", "(-2,8)"), ("y=2x", "y=-2x"),
    ("15x - 80", "80 - 15x"), ("288\\pi", "288"), ("52_8", "52_9"), ("3, 5, 7", "357"), ("x", "y"), ("6-5i", "6+5i"),
    ("7+8=15", "1=1"), ("7+8=15", "3+2=5"), ("0=1", "2=3"), ("a^2-b^2=(a-b)(a+b)", "0=0"), ("7+8=15", "x=x"),
    ("\\tan^2 x+1=\\sec^2 x", "\\sin^2 x+\\cos^2 x=1"), ("(x+1)^2=x^2+2x+1", "(x+2)^2=x^2+4x+4"), ("y=2x+1", "y=y"),
    ("(3,4]", "3,4"), ("[-2,7]", "\\{-2,7\\}"), ("1,450,000", "1.45"), ("1.45 \\text{ million}", "1.45"),
    ("41", "41 dozen"), ("€5", "£5"),
    ("135", "\\frac{3\\pi}{4}"), ("-i", "i"), ("\\cos 30^\\circ", "\\sin 30^\\circ"), ("204", "\\approx 205"),
    ("204", "9^{9^{9^{9}}}"), ("204", "nan"), ("204", "\\frac{1}{0}"), ("204", "(" * 900), ("204", "2^" * 900 + "1"),
]  # fmt: skip


def compare(grader: MathGrader, gold: str, answer: str) -> Comparison:
    result = grader.compare_many([(gold, answer)])[gold, answer]
    assert isinstance(result, Comparison), result
    return result


class TestEquivalence:
    @pytest.mark.parametrize(("gold", "answer"), EQUAL)
    def test_equal_both_ways(self, grader: MathGrader, gold: str, answer: str) -> None:
        assert compare(grader, gold, answer).equal is True
        assert compare(grader, answer, gold).equal is True

    @pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
    def test_unequal(self, grader: MathGrader, gold: str, answer: str) -> None:
        assert compare(grader, gold, answer).equal is False

    def test_equal_values_too_large_to_evaluate_are_left_open(self, grader: MathGrader) -> None:
        assert compare(grader, "2^{10^{9}}", "4^{5 \\cdot 10^{8}}").equal is None

    def test_case_collection(self, grader: MathGrader) -> None:
        path = DATA / "grader_cases.jsonl"
        if not path.exists():
            pytest.skip(f"no {path}")
        left_out = {"form_requested", "unit_conflict", "needs_problem", "multi_box"}
        never_equal = {"wrong_sign", "off_by_one", "long_integer", "robust"}
        cases = [case for line in path.read_text().splitlines() if not left_out & set((case := json.loads(line))["tags"])]
        boxed = [c["prediction"] if c["kind"] == "response" else f"\\boxed{{{c['prediction']}}}" for c in cases]
        verdicts = grader.grade_many([(case["gold"], text, "stop") for case, text in zip(cases, boxed, strict=True)])
        equal = [verdict.outcome == "correct" for verdict in verdicts]
        assert [c["id"] for c, same in zip(cases, equal, strict=True) if same and c["category"] in never_equal] == []
        assert [c["id"] for c, v in zip(cases, verdicts, strict=True) if v.outcome == "ungraded"] == []
        # Plain math-verify accepts some wrong ones (contradicting units, order of ordered lists, number bases).
        assert [c["id"] for c, same in zip(cases, equal, strict=True) if same and not c["expected_equal"]] == []
        right = sum(same == case["expected_equal"] for case, same in zip(cases, equal, strict=True))
        assert right >= 0.97 * len(cases)


class TestMathGrader:
    def test_verdicts_and_order(self, grader: MathGrader) -> None:
        verdicts = grader.grade_many(
            [
                MathItem("\\frac{1}{2}", "\\boxed{0.5}"),
                MathItem("x+1", "\\boxed{x-1}"),
                MathItem("x+1", "I give up"),
                MathItem("x+1", "it is \\boxed{1+x} and then", "length"),
                MathItem("x+1", "let us", "length"),
                MathItem("x+1", "The answer is $1 + x$."),
                MathItem("7", "\\boxed{" + "7" * 9000 + "}"),
            ]
        )
        assert [verdict.outcome for verdict in verdicts] == [
            "correct", "wrong", "wrong", "truncated", "truncated", "correct", "wrong",
        ]  # fmt: skip
        assert [verdict.reason for verdict in verdicts[2:5]] == ["no answer", "", "no answer"]
        assert [verdict.extracted for verdict in verdicts[2:5]] == [None, "1+x", None]

    def test_poison_is_ungraded_and_costs_only_itself(self) -> None:
        grader = MathGrader(PoolOptions(workers=1, deadline_s=4))
        gold, poison = "\\prod_{k=1}^{200000000} k", "\\boxed{\\prod_{k=1}^{100000000} k}"
        verdicts = grader.grade_many([("x+1", "\\boxed{1+x}", "stop"), (gold, poison, "stop"), ("y", "\\boxed{z}", "stop")])
        grader.close()
        assert [(verdict.outcome, verdict.reason) for verdict in verdicts] == [
            ("correct", ""), ("ungraded", "timeout"), ("wrong", ""),
        ]  # fmt: skip
        assert verdicts[1].reward != verdicts[1].reward  # NaN: masked, not punished

    def test_crash_is_ungraded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("repirl.grading.math.grader._COMPARE", "os:_exit")
        grader = MathGrader(PoolOptions(workers=1))
        verdict = grader.grade_many([("x+1", "\\boxed{1+x}", "stop")])[0]
        grader.close()
        assert verdict.outcome == "ungraded"
        assert verdict.reason.startswith("crash")

    def test_comparisons_are_cached_failures_are_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        grader = MathGrader(PoolOptions(workers=1))
        sent: list[int] = []
        real = grader._pool.map
        monkeypatch.setattr(grader._pool, "map", lambda items, *rest: sent.append(len(items)) or real(items, *rest))
        items = [("x+1", "\\boxed{1+x}", "stop")] * 5 + [("x+1", "\\boxed{x}", "stop")]
        assert grader.grade_many(items) == grader.grade_many(items)
        grader.close()
        assert sent == [2, 0]

    def test_from_a_thread(self, grader: MathGrader) -> None:
        found: list[Verdict] = []
        thread = threading.Thread(target=lambda: found.extend(grader.grade_many([("ab", "\\boxed{b a}", "stop")])))
        thread.start()
        thread.join(timeout=60)
        assert [verdict.outcome for verdict in found] == ["correct"]

    def test_math500_golds_grade_as_correct(self, grader: MathGrader) -> None:
        path = DATA / "math500" / "test.jsonl"
        if not path.exists():
            pytest.skip(f"no {path}")
        golds = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
        # Respelt, so that equality of strings is not enough for those with fractions or spaces to spare.
        respelt = [gold.replace("\\frac{", "\\dfrac{").replace("+", " + ") + "." for gold in golds]
        verdicts = grader.grade_many([(g, f"so \\boxed{{{r}}}", "stop") for g, r in zip(golds, respelt, strict=True)])
        assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict.outcome != "correct"] == []

    def test_flexible_extraction(self) -> None:
        items = [("19", "So there are 19 ways.", "stop"), ("\\frac12", "It is $0.5$", "stop"), ("3", "\\boxed{2} of 3", "stop")]
        outcomes = {}
        for extraction in ("strict", "flexible"):
            grader = MathGrader(PoolOptions(workers=1), extraction=extraction)
            outcomes[extraction] = [verdict.outcome for verdict in grader.grade_many(items)]
            grader.close()
        assert outcomes == {"strict": ["wrong"] * 3, "flexible": ["correct", "correct", "wrong"]}


class TestIntegerGrader:
    @pytest.mark.parametrize(
        ("gold", "text", "outcome", "reason"),
        [
            ("-7", "\\boxed{-7}", "correct", ""),
            ("7", "\\boxed{+007}", "correct", ""),
            ("0", "\\boxed{-0}", "correct", ""),
            ("7", "\\boxed{7} so \\boxed{8}", "wrong", ""),
            ("7", "\\boxed{-7}", "wrong", ""),
            ("7", "\\boxed{7.0}", "wrong", "not an integer"),
            ("7", "\\boxed{3+4}", "wrong", "not an integer"),
            ("7", "\\boxed{--7}", "wrong", "not an integer"),
            ("7", "\\boxed{٧}", "wrong", "not an integer"),
            ("7", "7", "wrong", "no answer"),
            ("7", "\\boxed{}", "wrong", "no answer"),
        ],
    )
    def test_verdicts(self, gold: str, text: str, outcome: str, reason: str) -> None:
        verdict = IntegerGrader().grade(gold, text)
        assert (verdict.outcome, verdict.reason) == (outcome, reason)

    def test_truncated_keeps_the_answer(self) -> None:
        verdicts = IntegerGrader().grade_many([("7", "\\boxed{7} and", "length"), ("7", "3+4", "length")])
        assert [(v.outcome, v.extracted) for v in verdicts] == [("truncated", "7"), ("truncated", None)]

    def test_huge_digit_strings_and_speed(self) -> None:
        huge = "9" * 1_000_000
        start = time.monotonic()
        assert IntegerGrader().grade("7", f"\\boxed{{{huge}}}").outcome == "wrong"
        assert IntegerGrader().grade(huge, f"\\boxed{{0{huge}}}").outcome == "correct"
        IntegerGrader().grade_many([("7", "step\n" * 20 + "\\boxed{7}", "stop")] * 2000)
        assert time.monotonic() - start < 5

    def test_gold_that_is_no_integer(self) -> None:
        with pytest.raises(UserError, match="not an integer"):
            IntegerGrader().grade("1/2", "\\boxed{1}")


class TestDispatch:
    def test_chooses_by_grader_and_keeps_order(self) -> None:
        integer = Problem("a", "arith", "3+4=", "integer", answer="7")
        math = Problem("b", "m", "?", "math", answer="\\frac{1}{2}")
        verdicts = grade_rollouts(
            [integer, math, integer, math],
            ["\\boxed{7}", "\\boxed{0.5}", "\\boxed{0.5}", "x"],
            ["stop", "stop", "stop", "length"],
        )
        assert [verdict.outcome for verdict in verdicts] == ["correct", "correct", "wrong", "truncated"]

    def test_unlabelled_problem_is_refused(self) -> None:
        problem = Problem("a", "arith", "3+4=", "integer", answer="7").without_labels()
        with pytest.raises(UserError, match="arith/a"):
            grade_rollouts([problem], ["\\boxed{7}"])

    def test_check_ungraded(self) -> None:
        fine = [Verdict("wrong")] * 98
        check_ungraded([*fine, *[Verdict("ungraded", "timeout")] * 2])
        check_ungraded([])
        with pytest.raises(GradingFault, match=r"3 of 101.*timeout"):
            check_ungraded([*fine, *[Verdict("ungraded", "timeout")] * 3])
