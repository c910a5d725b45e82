"""Suites: planning, running in worker processes, resuming, and what is reported of failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repirl.bench.run import SuiteOptions, run_suite
from repirl.bench.suites import Suite, SuiteEvaluation, SuiteRun, load_suite, plan, suite_names
from repirl.engines.loading import folder_digest
from repirl.errors import UserError
from repirl.records import store
from repirl.reporting.leaderboard import build_board

SMALL = """
title = "two small runs and one that builds on another"

[[runs]]
method = "base"

[[runs]]
method = "rloo"
set = ["loop.steps=1", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "data.num_problems=20",
       "loop.validation.num_problems=4", "loop.validation.samples=1"]

[[runs]]
method = "rloo"
stage = "again"
after = "arith"
set = ["loop.steps=1", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "data.num_problems=20",
       "loop.validation.num_problems=4", "loop.validation.samples=1"]

[[evaluations]]
benchmark = "arith"
samples = 2
limit = 8
"""


def _include(folder: Path, text: str) -> str:
    (folder / "suites").mkdir(parents=True)
    (folder / "suites" / "small.toml").write_text(text)
    return str(folder)


def test_shipped_suites_load_and_plan() -> None:
    assert {"tiny", "tiny-full"} <= set(suite_names())
    for name in suite_names():
        items = plan(name, load_suite(name))
        assert len({item.key for item in items}) == len(items)


def test_later_stages_come_after_the_runs_they_start_from() -> None:
    suite = Suite(
        title="t",
        runs=(SuiteRun(method="rloo", stage="b", after="arith"), SuiteRun(method="rloo")),
        evaluations=(SuiteEvaluation(benchmark="arith"),),
    )
    assert [item.key for item in plan("t", suite)] == ["rloo-arith-s0", "rloo-b-s0"]
    orphan = suite.model_copy(update={"runs": (SuiteRun(method="rloo", stage="b", after="arith"),)})
    with pytest.raises(UserError, match="not in it"):
        plan("t", orphan)
    twice = suite.model_copy(update={"runs": (SuiteRun(method="rloo"), SuiteRun(method="rloo"))})
    with pytest.raises(UserError, match="twice"):
        plan("t", twice)


def test_unknown_suite_and_bad_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown suite"):
        load_suite("nothing")
    include = _include(tmp_path, SMALL.replace("method", "methode", 1))
    with pytest.raises(UserError, match="methode"):
        load_suite("small", [include])
    (tmp_path / "suites" / "small.toml").write_text("title = ")
    with pytest.raises(UserError, match="not TOML"):
        load_suite("small", [include])


def test_a_suite_runs_resumes_and_is_reported(tmp_path: Path) -> None:
    options = SuiteOptions(
        work=tmp_path / "work", results=tmp_path / "results", jobs=2, include=(_include(tmp_path / "more", SMALL),), command="x"
    )
    events: list[dict] = []
    outcome = run_suite("small", options, events.append)
    assert outcome.failed == {}
    assert sorted(outcome.done) == ["base-arith-s0", "rloo-again-s0", "rloo-arith-s0"]
    runs = {f"{run.record.method}-{run.record.stage}": run.record for run in store.find("small", root=options.results)}
    assert runs["rloo-again"].base_policy.name == "tiny, trained with rloo on arith"
    assert runs["rloo-again"].base_policy.digest == folder_digest(options.work / "rloo-arith-s0" / "policy")
    assert runs["rloo-arith"].budget.rollouts == 4 * 2 + 2 * 4  # one step, and validation before and after it
    counts = runs["base-arith"].evaluations[0].counts
    assert counts["sampled"].total == 16
    assert counts["greedy"].total == 8
    board = build_board("small", results=options.results)
    assert {row.method for row in board.rows} == {"base", "rloo"}
    assert run_suite("small", options, events.append).skipped == tuple(
        item.key for item in plan("small", load_suite("small", options.include))
    )


def test_a_failed_run_takes_down_only_what_starts_from_it(tmp_path: Path) -> None:
    broken = SMALL.replace('"data.num_problems=20"', '"data.num_problems=0"', 1)
    options = SuiteOptions(
        work=tmp_path / "work", results=tmp_path / "results", jobs=2, include=(_include(tmp_path / "more", broken),)
    )
    outcome = run_suite("small", options, lambda event: None)
    assert outcome.done == ("base-arith-s0",)
    assert "num_problems" in outcome.failed["rloo-arith-s0"]
    assert "rloo-arith-s0" in outcome.failed["rloo-again-s0"]
    assert not json.loads(json.dumps(outcome.failed))["rloo-arith-s0"].startswith("Traceback")


def test_only_must_keep_something(tmp_path: Path) -> None:
    options = SuiteOptions(work=tmp_path, results=tmp_path, jobs=1, only=("nothing",))
    with pytest.raises(UserError, match="no run"):
        run_suite("tiny", options, lambda event: None)
