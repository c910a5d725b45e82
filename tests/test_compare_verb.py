"""`repirl compare`: what is a run, which of its problems were fixed and broken, and that only like is held against like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from repirl.cli import main as cli
from repirl.evals.compare import OtherRun, compare_runs, obstacle_between
from repirl.learn.checkpoint import RunFolder
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy
from repirl.types import Budget, Interval, Report, SampleRow

RIGHT = {"a": "0011", "b": "0101"}  # p0 wrong in both, p1 fixed, p2 broken, p3 right in both


def rows(right: str) -> tuple[SampleRow, ...]:
    outcome = {"0": "wrong", "1": "correct", "u": "ungraded"}
    return tuple(SampleRow(f"p{i}", 0, outcome[c], "", None, 3, "t") for i, c in enumerate(right))  # type: ignore[arg-type]


def record(results: Path, label: str, right: str, seed: int = 0, stage: str = "arith", **changed: Any) -> store.StoredRun:
    samples = {"greedy": rows(right)}
    counts = {"greedy": store.count_outcomes(samples["greedy"]).model_dump()}
    protocol = {"max_new_tokens": 8, "chat_template": False, "temperature": 1.0, "seed": seed}
    report = Report("arith", "card", "data", protocol | changed, {"greedy": Interval(right.count("1") / 4)}, counts, samples)
    made = new_record(
        suite="trial",
        run_id=f"{label}-{stage}-s{seed}-{ord(label[0]):08x}",
        label=label,
        method="rloo",
        kind="method",
        recipe="tiny",
        seed=seed,
        stage=stage,
        config={"loop": {"steps": 4 if label == "a" else 8}, "same": 1},
        base_policy=BasePolicy(name="tiny", digest="0"),
        budget=Budget(rollouts=10 + seed),
        command="repirl bench trial",
    )
    return store.write(made, [report], root=results)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPIRL_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def compared(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    assert cli.run(["compare", *names, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "names", [("trial/a-s0", "trial/b-s0"), ("a-arith-s0", "b-arith"), ("results/trial/a-arith-s0-00000061", "b-s0")]
)
def test_records_by_name(results: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, str]) -> None:
    for label, right in RIGHT.items():
        record(results, label, right)
    found = compared(capsys, *names)
    (verdicts,) = found["verdicts"]
    assert {key: verdicts[key] for key in ("fixed", "broken", "both_right", "both_wrong", "unmeasured")} == {
        "fixed": 1,
        "broken": 1,
        "both_right": 1,
        "both_wrong": 1,
        "unmeasured": 0,
    }
    (one,) = found["accuracy"]
    assert (one["a"]["value"], one["b"]["value"], one["difference"]["value"], one["problems"]) == (0.5, 0.5, 0.0, 4)
    assert one["difference"]["low"] < 0 < one["difference"]["high"]
    assert found["settings"] == [{"name": "loop.steps", "a": 4, "b": 8}]
    assert {"name": "rollouts", "a": 10, "b": 10} in found["costs"]
    assert cli.run(["compare", *names]) == 0
    assert "fixed" in capsys.readouterr().out


def test_several_seeds_are_paired_seed_by_seed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1, 2):
        record(results, "a", "0011", seed)
    for seed in (1, 2, 3):
        record(results, "b", "0111", seed)
    found = compared(capsys, "trial:a", "trial:b")
    assert (found["accuracy"][0]["seeds"], found["accuracy"][0]["difference"]["value"]) == (2, 0.25)
    assert (found["verdicts"][0]["fixed"], found["verdicts"][0]["broken"]) == (2, 0)
    assert {"name": "rollouts", "a": 11.0, "b": 12.0} in found["costs"]
    record(results, "a", "0011", 0, stage="minicode")
    assert cli.run(["compare", "trial:a", "trial:b"]) == 2
    assert "several stages: 'trial:a'; add one of :arith, :minicode" in capsys.readouterr().err
    assert compared(capsys, "trial:a:arith", "trial:b")["accuracy"] == found["accuracy"]


def test_unlike_evaluations_are_named_and_not_compared(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(results, "a", RIGHT["a"])
    record(results, "b", RIGHT["b"], max_new_tokens=9)
    found = compared(capsys, "a-s0", "b-s0")
    assert found["accuracy"] == found["verdicts"] == []
    assert found["not_compared"] == [{"benchmark": "arith", "why": "another max_new_tokens (8, 9)"}]


def test_problems_that_only_one_has_are_said_to_be_left_out(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(results, "a", RIGHT["a"])
    record(results, "b", RIGHT["b"][:3])
    found = compared(capsys, "a-s0", "b-s0")
    assert found["accuracy"][0]["problems"] == 3
    assert found["narrowed"] == [{"benchmark": "arith", "why": "of 4 problems (A) and 3 (B) the 3 that both have are compared"}]
    assert compared(capsys, "a-s0", "a-s0")["narrowed"] == []


def test_names_that_mean_nothing_or_several_things(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(results, "a", RIGHT["a"])
    record(results, "a", RIGHT["a"], seed=1)
    for name, said in (("nothing", "no such run"), ("trial:c", "no records of that suite"), ("a-arith", "several records")):
        assert cli.run(["compare", name, "a-s0"]) == 2
        assert said in capsys.readouterr().err


def test_run_folders_of_training(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lr in (("one", 1e-4), ("two", 2e-4)):
        run = RunFolder(tmp_path / "runs" / name, {"method": "rloo", "seed": 0, "config": {"loop": {"lr": lr, "steps": 3}}})
        diagnostics = {"best_validation_accuracy": lr * 1000, "best_step": 3}
        run.finish({"budget": {"rollouts": 5, "wall_s": 0}, "diagnostics": diagnostics})
    phase = RunFolder(tmp_path / "runs" / "one" / "offline", {"phase": "offline"})
    phase.finish({"budget": {"rollouts": 70, "wall_s": 0}, "diagnostics": {}})
    found = compared(capsys, "one", "runs/two")  # short, and by its path
    assert found["settings"] == [{"name": "loop.lr", "a": 1e-4, "b": 2e-4}]
    assert found["costs"] == [
        {"name": "rollouts", "a": 75, "b": 5},
        {"name": "kept validation accuracy", "a": 0.1, "b": 0.2},
        {"name": "kept step", "a": 3, "b": 3},
    ]
    assert cli.run(["compare", "one", "two"]) == 0
    assert "no evaluation to compare" in capsys.readouterr().out


def test_what_eval_kept(tmp_path: Path, results: Path, policy_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        words = ["--limit", "3", "--samples", "2", "--max-new-tokens", "8", "--seed", str(seed), "--out", f"kept{seed}"]
        assert cli.run(["eval", "--policy", str(policy_folder), "--benchmark", "arith", *words]) == 0
    capsys.readouterr()
    found = compared(capsys, "kept0", "kept1")
    assert [one["metric"] for one in found["accuracy"]] == ["greedy", "avg@2"]
    assert found["settings"] == [{"name": "seed", "a": 0, "b": 1}]
    assert found["accuracy"][0]["difference"]["value"] == 0.0


def other(right: Sequence[str], **changed: Any) -> OtherRun:
    samples = [
        SampleRow(f"p{i}", j, {"0": "wrong", "1": "correct", "u": "ungraded"}[c], "", None, 3, "t")  # type: ignore[arg-type]
        for i, problem in enumerate(right)
        for j, c in enumerate(problem)
    ]
    return OtherRun("x", "card", "data", {"temperature": 1.0} | changed, {"sampled": tuple(samples)})


def test_problems_count_as_right_from_half_of_their_samples() -> None:
    (metric,), (found,) = compare_runs([other(["01", "00", "1u", "uu"])], [other(["00", "11", "10", "11"])])
    assert (metric.metric, metric.paired.problems) == ("avg@2", 3)
    assert (found.fixed, found.broken, found.both_right, found.both_wrong, found.unmeasured) == (1, 1, 1, 0, 1)
    assert metric.paired.interval.value == pytest.approx(((0 - 0.5) + (1 - 0) + (0.5 - 1)) / 3)
    assert "another temperature" in str(obstacle_between(other(["0"]), other(["0"], temperature=0.5)))
    assert compare_runs([other(["01"])], [other(["011"])]) == ([], [])
