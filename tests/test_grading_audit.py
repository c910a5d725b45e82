"""The second opinion on math verdicts: independent of the first path, honest about what it cannot read, and harmless."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from repirl.cli.main import app
from repirl.grading.files.grade import grade_file
from repirl.grading.math import audit, audit_reader, audit_values
from repirl.grading.math.audit import second_opinion
from repirl.grading.pool import PoolOptions

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

SAME = [
    ("\\frac43", "4/3"), ("1\\frac{4}{5}", "9/5"), ("\\sqrt{8}", "2\\sqrt2"), ("(x+1)^2", "x^2+2x+1"), ("1,-2", "\\{-2,1\\}"),
    ("1\\pm\\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"), ("(3,4]", "\\left(3, 4\\right]"), ("62.5\\%", "0.625"), ("x=5", "5"),
    ("\\sin^2 x", "1-\\cos^2 x"), ("2^{100}", "1267650600228229401496703205376"), ("1,450,000", "1450000"),
    ("\\binom{10}{3}", "120"),
    ("4.5e33", "4.5\\times 10^{33}"), ("6!", "720"), ("\\frac{1}{2a}(e^{at}-e^{-at})", "\\frac{\\sinh(at)}{a}"),
    ("\\log_2 8", "3"), ("(3,\\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)"), ("\\text{East}", "\\textbf{east}"),
    ("6-5i", "-5i+6"),
]  # fmt: skip
DIFFERENT = [
    ("\\frac43", "1.3333333"), ("204", "-204"), ("204", "205"), ("2^{100}", "1267650600228229401496703205377"),
    ("(1,2)", "(2,1)"),
    ("(3,4]", "[3,4]"), ("1,-2", "1"), ("x+1", "x-1"), ("\\sqrt{51}", "\\sqrt{15}"), ("288\\pi", "288"), ("6-5i", "6+5i"),
    ("\\text{east}", "west"), ("5r^5", "(5r)^5"),
]  # fmt: skip
UNREADABLE = [
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
    "9^{9^{9^9}}",
    "\\frac{1}{0}",
    "nan",
    "(" * 200,
    "x" * 2000,
    "\\foo",
    "52_8",
    "",
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold: str, answer: str) -> None:
    assert second_opinion((gold, answer)).equal is True
    assert second_opinion((answer, gold)).equal is True


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    assert second_opinion((gold, answer)).equal is False


@pytest.mark.parametrize("answer", UNREADABLE)
def test_no_opinion_on_what_it_cannot_read(answer: str) -> None:
    opinion = second_opinion(("204", answer))
    assert opinion.equal is None
    assert opinion.how


def test_shares_no_code_with_the_first_path() -> None:
    for module in (audit, audit_values, audit_reader):
        tree = ast.parse(Path(module.__file__ or "").read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {name for name in names if name.startswith("repirl")}
        assert ours <= {"repirl.grading.math.audit_values", "repirl.grading.math.audit_reader"}
        assert not {name for name in names if name.split(".")[0] in ("math_verify", "latex2sympy2_extended", "sympy")}


ROWS = [
    {"id": "a", "answer": "\\frac{1}{2}", "completion": "\\boxed{0.5}"},
    {"id": "b", "answer": "4", "completion": "\\boxed{4}"},
    {"id": "c", "answer": "5", "completion": "\\boxed{6}"},
    {"id": "d", "answer": "5", "completion": "I give up"},
    {"id": "e", "answer": "5", "completion": "\\boxed{5} and", "finish_reason": "length"},
    {"id": "f", "answer": "\\text{ellipse}", "completion": "\\boxed{\\text{an ellipse}}"},  # articles: the first path's rule
    {"id": "g", "answer": "5", "completion": "\\boxed{\\begin{pmatrix} 5 \\end{pmatrix}}"},
]


def write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_counts_add_up_and_no_verdict_changes(tmp_path: Path) -> None:
    path, options = write_rows(tmp_path / "rows.jsonl"), PoolOptions(workers=1, deadline_s=60)
    plain, audited = (grade_file("math", path, options=options, audit=audit) for audit in (False, True))
    assert audited.verdicts == plain.verdicts
    assert {name: value for name, value in audited.summary().items() if name != "audit"} == plain.summary()
    found = audited.summary()["audit"]
    kinds = ("plain_match", "agree", "disagree", "no_opinion", "unchecked")
    assert tuple(found[kind] for kind in kinds) == (1, 2, 1, 1, 2)
    (one,) = found["disagreements"]
    assert one == {
        "id": "f", "sample": 0, "line": 6, "gold": "\\text{ellipse}", "answer": "\\text{an ellipse}",
        "verdict": "correct", "second": "different", "how": one["how"],
    }  # fmt: skip


def test_a_hung_second_check_costs_one_opinion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repirl.grading.files.audit._SECOND_OPINION", "os:_exit")
    grades = grade_file("math", write_rows(tmp_path / "rows.jsonl"), options=PoolOptions(workers=1), audit=True)
    found = grades.summary()["audit"]
    assert found["no_opinion_reasons"] == {"crash": 4}
    assert found["disagreements"] == []


def test_command_lists_disagreements(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl"))
    shown = CliRunner().invoke(app, ["grade", "math", path, "--audit"])
    assert shown.exit_code == 0, shown.output
    assert "audit: disagree" in shown.output
    assert "an ellipse" in shown.output
    audited = json.loads(CliRunner().invoke(app, ["grade", "math", path, "--audit", "--json"]).stdout)["audit"]
    assert audited["checked"] == audited["agree"] + audited["disagree"] + audited["no_opinion"] == 4
    assert [row["id"] for row in audited["disagreements"]] == ["f"]
    assert "audit" not in json.loads(CliRunner().invoke(app, ["grade", "math", path, "--json"]).stdout)
    refused = CliRunner().invoke(app, ["grade", "code", path, "--audit"])
    assert refused.exit_code != 0


def test_case_collection_has_few_disagreements_and_they_are_conventions() -> None:
    path = DATA / "grader_cases.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}")
    left_out = {"form_requested", "unit_conflict", "needs_problem", "multi_box"}
    cases = [json.loads(line) for line in path.read_text().splitlines()]
    cases = [case for case in cases if case["kind"] == "answer" and not left_out & set(case["tags"])]
    opinions = [second_opinion((case["gold"], case["prediction"])) for case in cases]
    against = [c for c, o in zip(cases, opinions, strict=True) if o.equal is not None and o.equal != c["expected_equal"]]
    assert [case["category"] for case in against] in ([], ["text"])  # "an ellipse": articles are the first path's rule
    assert sum(opinion.equal is not None for opinion in opinions) >= 0.75 * len(cases)
