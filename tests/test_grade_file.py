"""`repirl grade`: matching rows to problems, own golds, arrays, and every wrong input with its line number."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from repirl.cli.main import app
from repirl.errors import UserError
from repirl.grading.code.grader import clear_cache
from repirl.grading.files.grade import FileGrades, grade_file, write_verdicts
from repirl.grading.sandbox import runner as sandbox
from repirl.grading.sandbox.runner import sandbox_level
from repirl.types import Problem

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PROBLEMS = [
    Problem("p/1", "m500", "Solve: what is 1/2 of 1?", "math", answer="\\frac{1}{2}", source="what is 1/2 of 1?"),
    Problem("p/2", "m500", "Solve: what is 2+2?", "math", answer="4", source="what is 2+2?"),
]


def write(path: Path, rows: list[Any]) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def outcomes(grades: FileGrades) -> list[str]:
    return [row.verdict.outcome for row in grades.rows]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_benchmark_by_id_by_source_and_by_prompt(tmp_path: Path, suffix: str) -> None:
    path = write(
        tmp_path / f"a.{suffix}",
        [
            {"id": "p/1", "completion": "\\boxed{0.5}"},
            "",
            {"problem": "what is 2+2? ", "completion": "\\boxed{5}"},
            {"problem": "Solve: what is 2+2?", "completion": "The answer is 4."},
        ],
    )
    grades = grade_file("m500", path, PROBLEMS)
    assert outcomes(grades) == ["correct", "wrong", "correct"]
    assert [(row.sample.line, row.problem_id, row.sample_index) for row in grades.rows] == [
        (1, "p/1", 0),
        (3, "p/2", 0),
        (4, "p/2", 1),
    ]
    assert grades.scores_by_problem() == {"p/1": [1.0], "p/2": [0.0, 1.0]}
    assert grades.accuracy is not None
    assert grades.accuracy.value == pytest.approx(0.75)  # the mean over problems, not 2/3 over completions
    assert grades.num_problems == 2


def test_array_of_completions_and_truncation(tmp_path: Path) -> None:
    row = {
        "id": "p/2",
        "completions": ["\\boxed{4}", "\\boxed{4} and", "2+2", "hm", "\\boxed{3}"],
        "finish_reason": ["stop", "length", "length", None, "stop"],
    }
    grades = grade_file("m500", write(tmp_path / "a.jsonl", [row]), PROBLEMS)
    assert outcomes(grades) == ["correct", "truncated", "truncated", "wrong", "wrong"]
    assert grades.counts == {"correct": 1, "wrong": 2, "truncated": 2, "ungraded": 0, "total": 5}
    assert grades.answerless == {"wrong": 1, "truncated": 1}
    assert [row.sample_index for row in grades.rows] == [0, 1, 2, 3, 4]
    out = tmp_path / "verdicts.jsonl"
    write_verdicts(grades, out)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert written[1] == {
        "id": "p/2", "sample": 1, "line": 1, "verdict": "truncated", "reason": "", "extracted": "4",
    }  # fmt: skip


def test_own_golds(tmp_path: Path) -> None:
    rows = [
        {"answer": "x+1", "completion": "\\boxed{1+x}"},
        {"id": 7, "answer": 4, "completions": ["\\boxed{4.0}", "\\boxed{5}"]},
        {"id": 7, "answer": 4, "completion": "\\boxed{4}"},
        {"answer": "2+2=4\n#### 4", "completion": "#### 4"},
    ]
    grades = grade_file("math", write(tmp_path / "a.jsonl", rows))
    assert outcomes(grades) == ["correct", "correct", "wrong", "correct", "correct"]
    assert grades.num_problems == 3


GOOD = {"id": "p/1", "completion": "x"}


@pytest.mark.parametrize(
    ("benchmark", "row", "message"),
    [
        ("m500", '{"id": "p/1", "completion": ', "line 2 of bad.jsonl is not JSON"),
        ("m500", "[1]", "line 2 of bad.jsonl is not a JSON object"),
        ("m500", {"id": "p/9", "completion": "x"}, "line 2: m500 has no problem with id: 'p/9'; ids look like 'p/1'"),
        ("m500", {"problem": "who?", "completion": "x"}, "line 2: m500 has no problem with this text: 'who?'"),
        ("m500", {"completion": "x"}, "line 2: needs `id` or `problem`"),
        ("m500", {"id": "p/1"}, "line 2: needs `completion` or `completions`"),
        ("m500", {"id": "p/1", "completion": 5}, "line 2: needs `completion`, which must be text: '5'"),
        ("m500", {"id": "p/1", "completions": []}, "line 2: `completions` must be an array"),
        ("m500", {"id": "p/1", "completions": "x"}, "line 2: `completions` must be an array"),
        ("m500", {"id": "p/1", "completion": "x", "finish_reason": "eos"}, "line 2: unknown finish_reason: 'eos'"),
        ("m500", {"id": "p/1", "completions": ["x", "y"], "finish_reason": ["stop"]}, "line 2: 2 completions but 1"),
        ("math", {"completion": "x"}, "line 2: needs `answer`"),
        ("math", {"answer": ["4"], "completion": "x"}, "line 2: needs `answer`"),
        ("math", {"id": "p/1", "answer": "5", "completion": "x"}, "line 2: another row with the same id"),
    ],
)
def test_wrong_rows_name_their_line(tmp_path: Path, benchmark: str, row: Any, message: str) -> None:
    path = write(tmp_path / "bad.jsonl", [GOOD | {"answer": "4"}, row])
    with pytest.raises(UserError) as error:
        grade_file(benchmark, path, None if benchmark == "math" else PROBLEMS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        grade_file("math", tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="no rows"):
        grade_file("math", write(tmp_path / "empty.jsonl", []))
    with pytest.raises(UserError, match="no rows"):
        grade_file("math", write(tmp_path / "blank.jsonl", ["", " "]))
    (tmp_path / "latin.jsonl").write_bytes(b'{"answer": "\xe9"}\n')
    with pytest.raises(UserError, match="UTF-8"):
        grade_file("math", tmp_path / "latin.jsonl")
    (tmp_path / "plain.jsonl.gz").write_text("{}\n")
    with pytest.raises(UserError, match="cannot read"):
        grade_file("math", tmp_path / "plain.jsonl.gz")
    with pytest.raises(UserError, match="cannot read"):
        grade_file("math", tmp_path)


def gsm8k_rows(source: Path, model: str) -> tuple[list[dict[str, Any]], list[bool]]:
    """Rows for `repirl grade math` from the published GSM8K solutions, and the labels that came with them.

    There a row is {"question", "ground_truth", model: {"is_correct", "solution"}, ...}, golds and solutions end with
    `A: 18`. Here it becomes {"id": 0, "answer": "18", "completion": "...\\nA: 18"}.
    """
    rows, labels = [], []
    with gzip.open(source, "rt", encoding="utf-8") as file:
        for i, row in enumerate(map(json.loads, file)):
            gold = row["ground_truth"].rpartition("A:")[2].strip()
            rows.append({"id": i, "answer": gold, "completion": row[model]["solution"]})
            labels.append(row[model]["is_correct"])
    return rows, labels


@pytest.mark.parametrize("model", ["6b_finetuning", "175b_verification"])
def test_agreement_with_real_labels(tmp_path: Path, model: str) -> None:
    source = DATA / "gsm8k_model_solutions" / "example_model_solutions.jsonl.gz"
    if not source.exists():
        pytest.skip(f"no {source}")
    rows, labels = gsm8k_rows(source, model)
    grades = grade_file("math", write(tmp_path / "rows.jsonl", rows[:600]))
    agree = [(outcome == "correct") == label for outcome, label in zip(outcomes(grades), labels[:600], strict=True)]
    assert sum(agree) >= 0.98 * len(agree)
    assert grades.counts["ungraded"] == 0


def test_real_math500_samples(tmp_path: Path) -> None:
    golds, samples = DATA / "math500" / "test.jsonl", DATA / "math500_samples" / "llama32_3b_n1_q500.jsonl.gz"
    if not (golds.exists() and samples.exists()):
        pytest.skip(f"no {golds.parent} or {samples.parent}")
    rows = [json.loads(line) for line in golds.read_text().splitlines()]
    problems = [Problem(r["unique_id"], "math500", r["problem"], "math", answer=r["answer"]) for r in rows]
    grades = grade_file("math500", samples, problems)
    assert grades.counts["total"] == 500
    assert grades.counts["ungraded"] == 0
    assert grades.accuracy is not None
    assert 0.38 < grades.accuracy.value < 0.44


FUNCTIONAL = {"kind": "functional", "entry_point": "f", "cases": [{"args": [1], "expected": 2}, {"args": [2], "expected": 4}]}
STDIO = {"kind": "stdio", "cases": [{"stdin": "3\n", "stdout": "6\n"}]}
ASSERTS = {"kind": "asserts", "code": "assert f(1) == 2\nassert f(2) == 4"}
FENCED = "First:\n```python\nprint('no')\n```\nBetter:\n```python\nprint(2 * int(input()))\n```\nDone."
strong = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")


@strong
def test_code_with_own_tests(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "completion": "def f(x): return 2 * x", "tests": FUNCTIONAL},
        {"id": "a", "completion": "def f(x): return x + 1", "tests": FUNCTIONAL},
        {"id": 7, "completion": FENCED, "tests": STDIO},
        {"id": "c", "completion": "def f(x): return 2 * x", "tests": ASSERTS},
        {"id": "d", "completion": "exit(0)", "tests": ASSERTS},
        {"id": "e", "completion": "", "tests": ASSERTS},
        {"id": "f", "completion": "```python\ndef f(", "tests": ASSERTS, "finish_reason": "length"},
        {"id": "g", "completion": "print('passed')", "tests": STDIO},
        {"id": "h", "completion": "class E:\n    __eq__ = lambda *a: True\ndef f(x): return E()", "tests": ASSERTS},
    ]
    path, out = write(tmp_path / "code.jsonl", rows), tmp_path / "verdicts.jsonl"
    done = CliRunner().invoke(app, ["grade", "code", str(path), "--verdicts", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["counts"] == {"correct": 3, "wrong": 5, "truncated": 1, "ungraded": 0, "total": 9}
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(set(row) == {"id", "verdict", "reason", "tests_passed", "tests_total", "seconds"} for row in written)
    assert all(row.pop("seconds") >= 0 for row in written)
    assert [tuple(row.values()) for row in written] == [
        ("a", "correct", "", 2, 2),
        ("a", "wrong", "wrong answer", 1, 2),
        (7, "correct", "", 1, 1),
        ("c", "correct", "", 2, 2),
        ("d", "wrong", "exception: SystemExit", 0, 2),
        ("e", "wrong", "no code", 0, 2),
        ("f", "truncated", "no answer", None, None),
        ("g", "wrong", "wrong answer", 0, 1),
        ("h", "wrong", "wrong answer", 0, 2),
    ]


CODE_ROW = {"id": "a", "completion": "x = 1", "tests": STDIO}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 of bad.jsonl is not JSON"),
        ({**CODE_ROW, "id": None}, "line 2: needs `id`"),
        ({**CODE_ROW, "id": True}, "line 2: needs `id`"),
        ({**CODE_ROW, "completion": 5}, "line 2: needs `completion`, which must be text: '5'"),
        ({"id": "a", "tests": STDIO}, "line 2: needs `completion`"),
        ({"id": "a", "completion": "x"}, "line 2: needs `tests`, an object"),
        ({**CODE_ROW, "tests": "assert True"}, "line 2: needs `tests`, an object"),
        ({**CODE_ROW, "tests": {"kind": "unit"}}, "line 2: unknown kind of tests: 'unit'; use functional, stdio, asserts"),
        ({**CODE_ROW, "tests": {"kind": "stdio"}}, "line 2: tests of kind stdio need `cases`"),
        ({**CODE_ROW, "tests": {"kind": "stdio", "cases": []}}, "line 2: tests of kind stdio need `cases`"),
        ({**CODE_ROW, "tests": {"kind": "stdio", "cases": [{"stdin": ""}]}}, "case 1: needs `stdin` and `stdout`"),
        ({**CODE_ROW, "tests": {"kind": "stdio", "cases": [{"stdin": 1, "stdout": ""}]}}, "case 1: `stdin` and `stdout` must"),
        ({**CODE_ROW, "tests": {**FUNCTIONAL, "entry_point": ""}}, "line 2: tests of kind functional need `entry_point`"),
        ({**CODE_ROW, "tests": {**FUNCTIONAL, "cases": [{"args": 1, "expected": 1}]}}, "case 1: `args` must be an array"),
        ({**CODE_ROW, "tests": {**FUNCTIONAL, "cases": [{"args": [1]}]}}, "case 1: needs `args` and `expected`"),
        ({**CODE_ROW, "tests": {"kind": "asserts", "code": "assert f( =="}}, "line 2: the tests are not Python"),
        ({**CODE_ROW, "tests": {**STDIO, "time_limit_s": -1}}, "line 2: time_limit_s of the tests must be"),
        ({**CODE_ROW, "finish_reason": "eos"}, "line 2: unknown finish_reason: 'eos'"),
    ],
)
def test_wrong_code_rows_name_their_line(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "bad.jsonl", [CODE_ROW, row])
    with pytest.raises(UserError) as error:
        grade_file("code", path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_code_in_a_weak_sandbox_must_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = sandbox.SandboxPool(workers=1, modes=("plain",))
    monkeypatch.setattr(sandbox, "_pool", pool)
    try:
        if pool.level().level == "none":
            pytest.skip("no system-call filter on this machine")
        clear_cache()  # what is known already is not run
        path = write(tmp_path / "code.jsonl", [{**CODE_ROW, "completion": FENCED}])
        with pytest.raises(UserError, match="--allow-weak-sandbox"):
            grade_file("code", path)
        assert outcomes(grade_file("code", path, allow_weak_sandbox=True)) == ["correct"]
    finally:
        pool.close()
