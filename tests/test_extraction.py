"""Strict and flexible extraction in evaluations: two ways to find answers in one set of samples, never in one column."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_eval import POLICY

from repirl.cli import main as cli
from repirl.cli.against import open_other
from repirl.cli.evaluate import _summary, _tables
from repirl.engines.scripted import ScriptedEngine
from repirl.errors import UserError
from repirl.evals.compare import differences, other_from_file
from repirl.evals.extraction import flexibly_graded
from repirl.evals.policy import evaluate_policy
from repirl.evals.protocol import EvalProtocol
from repirl.evals.report import metrics_of
from repirl.grading.files.grade import grade_file
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy
from repirl.reporting.collect import collect
from repirl.rollouts.pool import samples_file
from repirl.tasks import arith
from repirl.tasks.benchmarks import Benchmark, load_benchmark
from repirl.tasks.training_sets import has_step_checker
from repirl.types import Budget, Problem, Report

# Marked and right, stated and right, stated and wrong, marked and wrong with the right number last.
SCRIPT = {"a": [r"\boxed{5}"], "b": ["so we get 5"], "c": ["so we get 6"], "d": [r"\boxed{6} not 5"]}


@pytest.fixture(scope="module")
def benchmark_() -> Benchmark:
    problems = tuple(Problem(key, "hand", f"{key}?\n", "integer", "5", source=f"{key}?") for key in SCRIPT)
    return replace(load_benchmark("arith"), problems=problems, max_new_tokens=40)


def evaluated(benchmark: Benchmark, extraction: str, folder: Path | None = None) -> Report:
    protocol = EvalProtocol.model_validate({"samples": 0, "extraction": extraction})
    return evaluate_policy(POLICY, benchmark, protocol, engine=ScriptedEngine(SCRIPT), folder=folder)


@pytest.mark.parametrize("grader", ["integer", "math"])
def test_both_ways_come_from_the_same_samples(benchmark_: Benchmark, grader: str) -> None:
    problems = tuple(replace(problem, grader=grader) for problem in benchmark_.problems)
    benchmark = replace(benchmark_, problems=problems)
    strict, flexible = (evaluated(benchmark, way) for way in ("strict", "flexible"))
    assert [row.outcome for row in strict.samples["greedy"]] == ["correct", "wrong", "wrong", "wrong"]
    assert [row.outcome for row in flexible.samples["greedy"]] == ["correct", "correct", "wrong", "wrong"]
    assert [row.extracted for row in flexible.samples["greedy"]] == ["5", "5", "6", "6"]
    assert [one.text for one in strict.samples["greedy"]] == [one.text for one in flexible.samples["greedy"]]
    assert (strict.protocol["extraction"], flexible.protocol["extraction"]) == ("strict", "flexible")
    assert (strict.metrics["greedy"].value, flexible.metrics["greedy"].value) == (0.25, 0.5)
    # Each tells of the other.
    for report, other in ((strict, flexible), (flexible, strict)):
        assert report.other_extraction is not None
        assert report.other_extraction.extraction == other.protocol["extraction"]
        assert report.other_extraction.metrics == other.metrics


def test_kept_samples_serve_both_ways(benchmark_: Benchmark, tmp_path: Path) -> None:
    first = evaluated(benchmark_, "flexible", tmp_path)
    protocol = EvalProtocol(samples=0, extraction="flexible")
    silent = ScriptedEngine({})  # has nothing to say: all samples are there
    again = evaluate_policy(POLICY, benchmark_, protocol, engine=silent, folder=tmp_path)
    strict = evaluate_policy(POLICY, benchmark_, EvalProtocol(samples=0), engine=silent, folder=tmp_path)
    assert again.samples == first.samples
    assert strict.metrics["greedy"].value == 0.25
    # Compared with itself, a run differs nowhere, whichever way is asked for.
    for protocol_, report in ((protocol, again), (EvalProtocol(samples=0), strict)):
        other = open_other(str(tmp_path), benchmark_, protocol_)
        difference = differences(report, other)["greedy"]
        assert difference is not None
        assert difference.paired.interval.value == 0
    plain = other_from_file("kept", samples_file(tmp_path, benchmark_.name))
    assert [row.outcome for row in plain.samples["greedy"]].count("correct") == 1


def test_where_it_makes_no_difference_nothing_is_said(benchmark_: Benchmark) -> None:
    marked = replace(benchmark_, problems=(benchmark_.problems[0], benchmark_.problems[3]))
    assert evaluated(marked, "strict").other_extraction is None
    shown = _summary(evaluated(marked, "strict"), None)
    assert "other_extraction" not in shown


def test_eval_shows_both_where_they_differ(benchmark_: Benchmark) -> None:
    from rich.console import Console

    summary = _summary(evaluated(benchmark_, "strict"), None)
    assert summary["other_extraction"]["extraction"] == "flexible"
    assert summary["other_extraction"]["metrics"]["greedy"]["value"] == 0.5
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_tables({"policy": "x", "reports": [summary]}))
    text = console.export_text()
    assert "answers are found by `strict`; by `flexible`: greedy 0.500" in text


def test_arith_says_whether_every_step_is_right() -> None:
    benchmark = load_benchmark("arith")
    hard = [problem for problem in benchmark.problems if problem.level == 3][:2]
    benchmark = replace(benchmark, problems=tuple(hard))
    right, answer = arith.solution(hard[0].source, arith.OWN_STYLE), f"\\boxed{{{hard[1].answer}}}"
    script = {hard[0].id: [right, answer], hard[1].id: [f"1+1\n{answer}", answer]}
    report = evaluate_policy(POLICY, benchmark, EvalProtocol(samples=2, greedy=False), engine=ScriptedEngine(script))
    rows = {(row.problem_id, row.sample_index): (row.outcome, row.steps_right) for row in report.samples["sampled"]}
    assert rows[hard[0].id, 0] == ("correct", True)
    assert rows[hard[1].id, 0] == ("correct", False)
    # A box alone is one step, and right: it carries out all operations at once.
    assert rows[hard[1].id, 1] == ("correct", True)
    assert report.metrics["sound@2"].value == 0.5
    assert report.metrics["avg@2"].value == 0.75
    other = replace(hard[0], family="math500")
    with pytest.raises(UserError, match="needs an exact checker of steps"):
        metrics_of(EvalProtocol(samples=2), replace(benchmark, problems=(other,)), ["sound@2"])


ALL, LONG = range(1, 9), range(4, 9)


@pytest.mark.parametrize(("name", "levels"), [("arith", ALL), ("arith_long", LONG), ("arith_hard", LONG), ("minicode", ALL)])
def test_embedded_benchmarks_have_exact_labels_of_steps(name: str, levels: range) -> None:
    problems = load_benchmark(name).problems
    assert all(has_step_checker(problem) for problem in problems)
    assert {problem.level for problem in problems} == set(levels)


def test_programs_have_no_extraction() -> None:
    benchmark = load_benchmark("minicode")
    benchmark = replace(benchmark, problems=benchmark.problems[:2])
    script = {problem.id: ["```python\npass\n```"] for problem in benchmark.problems}
    protocol = EvalProtocol(samples=0, extraction="flexible")
    report = evaluate_policy(POLICY, benchmark, protocol, engine=ScriptedEngine(script))
    assert "extraction" not in report.protocol
    assert report.other_extraction is None


def test_never_in_one_column(benchmark_: Benchmark, tmp_path: Path) -> None:
    runs = []
    for seed, report in enumerate((evaluated(benchmark_, "strict"), evaluated(benchmark_, "flexible"))):
        record = new_record(
            suite="trial",
            run_id=f"rloo-arith-s{seed}",
            method="rloo",
            kind="method",
            recipe="tiny",
            seed=seed,
            stage="arith",
            config={},
            base_policy=BasePolicy(name="tiny", digest="0"),
            budget=Budget(),
            command="repirl bench trial",
        )
        told = replace(report, protocol={**report.protocol, "seed": seed})
        runs.append(store.write(record, [told], root=tmp_path))
    board = collect("trial", runs)
    assert len(board.rows) == 1
    assert len(board.columns) == 2
    assert [column.metric for column in board.columns] == ["greedy", "greedy"]


def test_only_unmarked_answers_are_graded_again(benchmark_: Benchmark) -> None:
    strict = evaluated(benchmark_, "strict").samples
    again = flexibly_graded(benchmark_.problems, strict)
    changed = [after for before, after in zip(strict["greedy"], again["greedy"], strict=True) if before != after]
    assert [row.problem_id for row in changed] == ["b", "c"]


def test_grade_takes_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"answer": "5", "completion": texts[0]}) + "\n" for texts in SCRIPT.values()))
    assert grade_file("math", file).counts["correct"] == 1
    assert grade_file("math", file, extraction="flexible").counts["correct"] == 2
    assert cli.run(["grade", "math", str(file), "--extraction", "flexible", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["extraction"], shown["counts"]["correct"]) == ("flexible", 2)
    for verb in (["grade", "math", str(file)], ["eval", "--benchmark", "arith", "--limit", "1"]):
        assert cli.run([*verb, "--extraction", "kind"]) == 2
        assert "extraction" in capsys.readouterr().err


def test_an_unknown_extraction_is_refused() -> None:
    from repirl.grading.math.grader import known_extraction

    with pytest.raises(UserError, match="use strict or flexible"):
        known_extraction("lenient")
