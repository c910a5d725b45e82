"""`--against RUN`: like is compared with like, problem by problem, and everything else is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repirl.cli import main as cli
from repirl.cli.against import open_other
from repirl.cli.evaluate import _breakdowns
from repirl.errors import UserError
from repirl.evals.compare import OtherRun, differences, other_from_file
from repirl.evals.protocol import EvalProtocol
from repirl.evals.report import build_report
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy
from repirl.rollouts.pool import SamplePool, samples_file
from repirl.stats import paired_difference
from repirl.tasks.benchmarks import Benchmark, load_benchmark
from repirl.tasks.training_sets import steps_right
from repirl.types import Budget, Outcome, Problem, Report, SampleRow

Grid = Sequence[Sequence[Outcome]]
C: Outcome = "correct"
W: Outcome = "wrong"
U: Outcome = "ungraded"
GOOD: Grid = [[C, C], [C, C], [W, C], [C, W], [W, W]]
POOR: Grid = [[W, C], [C, W], [W, W], [W, W], [W, W]]
PROTOCOL = EvalProtocol(samples=2, seed=3)


@pytest.fixture(scope="module")
def arith() -> Benchmark:
    return load_benchmark("arith")


@pytest.fixture
def benchmark_(arith: Benchmark) -> Benchmark:
    return replace(arith, problems=tuple(Problem(f"p{i}", "hand", f"{i}?\n", "integer", "5") for i in range(5)))


def samples_of(grid: Grid) -> dict[str, tuple[SampleRow, ...]]:
    """The first sample of each problem is also the greedy one; every wrong answer is another."""
    rows = tuple(
        SampleRow(f"p{p}", i, outcome, "", "5" if outcome == C else f"6{i}", 4, "t", level=p % 2, subject="sums")
        for p, row in enumerate(grid)
        for i, outcome in enumerate(row)
    )
    return {"greedy": tuple(row for row in rows if row.sample_index == 0), "sampled": rows}


def report_of(benchmark: Benchmark, grid: Grid, protocol: EvalProtocol = PROTOCOL, **given: Any) -> Report:
    return build_report(benchmark, protocol, {"strict": samples_of(grid)}, wall_s=1.0, **given)


def keep(folder: Path, benchmark: Benchmark, grid: Grid, **changes: Any) -> Path:
    """What `repirl eval --out` leaves."""
    fingerprint = {"policy": "d" * 64, "card": benchmark.card.digest, "data": benchmark.data_digest}
    fingerprint |= {"max_new_tokens": benchmark.max_new_tokens, "chat_template": False, "temperature": 1.0, "seed": 3}
    kept = SamplePool(folder, benchmark.name, fingerprint | changes)
    for part, rows in samples_of(grid).items():
        kept.add(part, rows, 1.0)
    return samples_file(folder, benchmark.name)


def write_record(root: Path, report: Report, suite: str = "trial", run_id: str = "rloo-arith-s3") -> store.StoredRun:
    record = new_record(
        suite=suite,
        run_id=run_id,
        method="rloo",
        kind="method",
        recipe="tiny",
        seed=3,
        stage="arith",
        config={},
        base_policy=BasePolicy(name="tiny", digest="0"),
        budget=Budget(),
        command="repirl bench trial",
    )
    return store.write(record, [report], root=root)


# -------------------------------------------------------------------------------------- the difference


def test_the_difference_is_paired_by_problem(benchmark_: Benchmark, tmp_path: Path) -> None:
    other = other_from_file("earlier", keep(tmp_path, benchmark_, POOR))
    found = differences(report_of(benchmark_, GOOD), other)
    assert list(found) == ["greedy", "avg@2", "pass@2"]
    sampled = found["avg@2"]
    assert sampled is not None
    assert sampled.paired == paired_difference([1.0, 1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0])
    assert sampled.paired.interval.value == pytest.approx(0.4)
    assert (sampled.other.value, sampled.paired.problems) == (pytest.approx(0.2), 5)
    assert (other.policy_digest, other.sampling["seed"]) == ("d" * 64, 3)


def test_a_run_does_not_differ_from_itself(benchmark_: Benchmark, tmp_path: Path) -> None:
    for cell in differences(
        report_of(benchmark_, GOOD, metrics=["maj@2"]), other_from_file("x", keep(tmp_path, benchmark_, GOOD))
    ).values():
        assert cell is not None
        assert (cell.paired.interval.value, cell.paired.interval.low, cell.paired.p_value) == (0.0, 0.0, 1.0)


def test_problems_measured_in_one_run_only_are_left_out(benchmark_: Benchmark, tmp_path: Path) -> None:
    other = other_from_file("earlier", keep(tmp_path, benchmark_, [[U, C], [U, W], [U, W], [U, W], [U, U]]))
    found = differences(report_of(benchmark_, GOOD), other)
    assert found["greedy"] is None
    assert found["pass@2"] is None
    sampled = found["avg@2"]
    assert sampled is not None
    assert sampled.paired.problems == 4


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "e" * 64}, "other data of arith"),
        ({"card": "e" * 64}, "another task file of arith"),
        ({"temperature": 0.7}, r"another temperature \(0.7, now 1.0\)"),
        ({"max_new_tokens": 9}, r"another max_new_tokens \(9, now"),
        ({"chat_template": True}, "another chat_template"),
    ],
)
def test_another_protocol_or_data_is_refused(benchmark_: Benchmark, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    keep(tmp_path, benchmark_, POOR, **changes)
    with pytest.raises(UserError, match=f"cannot compare with: .*; it has {said}"):
        open_other(str(tmp_path), benchmark_, PROTOCOL)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ({"samples": 3}, r"another number of sampled samples of each problem \(2, now 3\)"),
        ({"limit": 4}, r"other problems \(5 have greedy samples, now 4, shared 4\)"),
        ({"greedy": False}, "also greedy samples"),
        ({"samples": 0}, "also sampled samples"),
    ],
)
def test_other_problems_or_numbers_of_samples_are_refused(
    benchmark_: Benchmark, tmp_path: Path, protocol: dict[str, Any], said: str
) -> None:
    keep(tmp_path, benchmark_, POOR)
    with pytest.raises(UserError, match=said):
        open_other(str(tmp_path), benchmark_, PROTOCOL.model_copy(update=protocol))


def test_an_interrupted_run_is_refused_and_left_as_it_is(benchmark_: Benchmark, tmp_path: Path) -> None:
    file = keep(tmp_path, benchmark_, POOR)
    whole = file.read_text().splitlines()
    file.write_text("\n".join(whole[:2]) + '\n{"part": "samp')
    before = file.read_bytes()
    with pytest.raises(UserError, match="no sampled samples"):
        open_other(str(tmp_path), benchmark_, PROTOCOL)
    assert file.read_bytes() == before


def test_another_seed_may_be_compared_and_temperature_matters_to_samples_only(benchmark_: Benchmark, tmp_path: Path) -> None:
    keep(tmp_path / "seed", benchmark_, POOR, seed=8)
    assert open_other(str(tmp_path / "seed"), benchmark_, PROTOCOL).sampling["seed"] == 8
    greedy = SamplePool(
        tmp_path / "greedy",
        "arith",
        {"policy": "d", "card": benchmark_.card.digest, "data": benchmark_.data_digest, "seed": 0, "temperature": 0.5}
        | {"max_new_tokens": benchmark_.max_new_tokens, "chat_template": False},
    )
    greedy.add("greedy", samples_of(POOR)["greedy"], 1.0)
    assert open_other(str(tmp_path / "greedy"), benchmark_, EvalProtocol(samples=0)).samples.keys() == {"greedy"}


# ------------------------------------------------------------------------------------- what RUN may be


def test_a_run_is_a_folder_a_file_or_a_record(benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = keep(tmp_path / "kept", benchmark_, POOR)
    stored = write_record(tmp_path / "results", report_of(benchmark_, POOR))
    monkeypatch.setenv("REPIRL_RESULTS", str(tmp_path / "results"))
    new = report_of(benchmark_, GOOD)
    expected = differences(new, open_other(str(file.parent), benchmark_, PROTOCOL))
    for run in (str(file), str(stored.folder), str(stored.file), "trial/rloo-arith-s3", "rloo-arith-s3"):
        other = open_other(run, benchmark_, PROTOCOL)
        assert (other.name, differences(new, other)) == (run, expected)
    write_record(tmp_path / "results", report_of(benchmark_, POOR), suite="second")
    with pytest.raises(UserError, match="several suites have a run of that id: 'rloo-arith-s3'; use second/rloo-arith-s3"):
        open_other("rloo-arith-s3", benchmark_, PROTOCOL)


def test_of_a_record_the_evaluation_that_fits_is_taken(benchmark_: Benchmark, tmp_path: Path) -> None:
    warm = report_of(benchmark_, POOR, EvalProtocol(samples=2, temperature=0.6))
    record = write_record(tmp_path, warm)
    both = store.write(
        record.record.model_copy(update={"run_id": "rloo-arith-s3-both", "evaluations": ()}),
        [warm, report_of(benchmark_, GOOD)],
        root=tmp_path,
    )
    assert open_other(str(both.folder), benchmark_, PROTOCOL).sampling["temperature"] == 1.0
    with pytest.raises(UserError, match="another temperature"):
        open_other(str(record.folder), benchmark_, PROTOCOL)
    with pytest.raises(UserError, match="the run has not evaluated gsm"):
        open_other(str(record.folder), replace(benchmark_, card=replace(benchmark_.card, name="gsm")), PROTOCOL)


def test_no_such_run(benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPIRL_RESULTS", str(tmp_path / "results"))
    for run in ("nothing", "trial/nothing", "trial/"):
        with pytest.raises(UserError, match="no such run"):
            open_other(run, benchmark_, PROTOCOL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no record and no samples of arith"):
        open_other(str(tmp_path / "empty"), benchmark_, PROTOCOL)
    (tmp_path / "empty" / "evaluation-arith.jsonl").write_text('{"evaluation": {}}\n')
    with pytest.raises(UserError, match="does not say how it was sampled: 'card'"):
        open_other(str(tmp_path / "empty"), benchmark_, PROTOCOL)


# --------------------------------------------------------------------------------------- the command


def test_eval_against_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPIRL_RESULTS", str(tmp_path / "results"))
    verb = ["eval", "--benchmark", "arith", "--limit", "3", "--samples", "3", "--max-new-tokens", "24"]
    assert cli.run([*verb, "--out", "first"]) == 0
    shown = capsys.readouterr().out
    for words in ("maj@3", "level ", "problems", "ungraded"):
        assert words in shown
    assert cli.run([*verb, "--out", "second", "--seed", "1", "--against", "first", "--metric", "pass@3", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert report["metrics"].keys() == {"greedy", "avg@3", "sound@3", "pass@2", "maj@3", "pass@3"}
    assert report["problems_by"]["level"] == dict.fromkeys(report["by_level"]["greedy"], 1)
    assert report["by_subject"].keys() == report["by_level"].keys() == report["metrics"].keys()
    counts = report["counts"]["sampled"]
    assert sum(counts[name] for name in ("correct", "wrong", "truncated", "ungraded")) == counts["total"] == 9
    assert (report["against"]["run"], report["against"]["seed"]) == ("first", 0)
    for name, cell in report["against"]["metrics"].items():
        value = report["metrics"][name]["value"]
        assert cell["difference"]["value"] == pytest.approx(value - cell["other"]["value"])
        assert 0 < cell["p_value"] <= 1
    assert cli.run([*verb, "--out", "second", "--seed", "1", "--against", "first"]) == 0
    assert "this run - first, paired by problem" in capsys.readouterr().out
    for wrong, said in (
        (["--against", "absent"], "no such run: 'absent'"),
        (["--against", "first", "--temperature", "0.5"], "it has another temperature (1.0, now 0.5)"),
        (["--metric", "pass@9"], "pass@9 does not fit the number of samples of each problem: 3"),
        (["--metric", "best@2"], "unknown metric: 'best@2'; known are: greedy"),
    ):
        assert cli.run([*verb, *wrong, "--out", "third"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert said in err
    assert not (tmp_path / "third").exists()


def test_old_records_can_be_compared_with(arith: Benchmark) -> None:
    """Their numbers come out again from their samples, and do so as the other run of a comparison."""
    run = store.find("tiny-full", root=Path(__file__).parent / "data" / "schema_1")[0]
    protocol = EvalProtocol(samples=8)
    evaluation = run.record.evaluations[0]
    other = OtherRun("r", arith.card.digest, arith.data_digest, evaluation.protocol, run.samples(evaluation))
    problems = {problem.id: problem for problem in arith.problems}
    checked = {
        part: tuple(replace(row, steps_right=steps_right(problems[row.problem_id], row.text)) for row in rows)
        for part, rows in other.samples.items()
    }
    report = build_report(arith, protocol, {"strict": checked}, wall_s=0.0)
    assert 0 < report.metrics["sound@8"].value < report.metrics["avg@8"].value
    found = differences(report, other)
    assert found.keys() - evaluation.metrics.keys() == {"sound@8"}
    assert found["sound@8"] is None  # their steps were not checked
    for name, recorded in evaluation.metrics.items():
        cell = found[name]
        assert cell is not None
        assert report.metrics[name].value == pytest.approx(recorded.value) == cell.other.value
        assert cell.paired.interval.value == 0


def test_subjects_have_a_table_unless_they_are_the_levels_again() -> None:
    values = {"greedy": {"1": 0.5, "2": 1.0}}
    report = {
        "metrics": {"greedy": {}},
        "problems_by": {"level": {"1": 2, "2": 3}, "subject": {"level 1": 2, "level 2": 3}},
        "by_level": values,
        "by_subject": {"greedy": {"level 1": 0.5, "level 2": 1.0}},
    }
    assert [table.columns[0] for table in _breakdowns(report)] == ["level"]
    report["problems_by"] = {"level": {"1": 2, "2": 3}, "subject": {"algebra": 2, "geometry": 3}}
    report["by_subject"] = {"greedy": {"algebra": 0.25, "geometry": 1.0}}
    _, subjects = _breakdowns(report)
    assert subjects.columns[0] == "subject"
    assert [row["greedy"] for row in subjects.rows] == ["0.250", "1.000"]
    report["problems_by"] = {"level": {}, "subject": {"algebra": 2, "geometry": 3}}
    assert [table.columns[0] for table in _breakdowns(report)] == ["subject"]
