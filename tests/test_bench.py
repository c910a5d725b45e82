"""Suites: planning, running in worker processes, resuming, and what is reported of failures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from repirl.bench.run import SuiteOptions, _check_same, _event, run_suite
from repirl.bench.suites import Suite, SuiteEvaluation, SuiteRun, load_suite, plan, suite_names
from repirl.engines.loading import folder_digest, policy_dir
from repirl.errors import UserError
from repirl.methods.registry import load_method
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


def test_a_suite_that_was_changed_does_not_show_old_records(tmp_path: Path) -> None:
    only = SMALL[: SMALL.index('[[runs]]\nmethod = "rloo"')] + SMALL[SMALL.index("[[evaluations]]") :]
    only = only.replace('method = "base"', 'method = "base"\n\n[[runs]]\nmethod = "rloo"\nset = ["loop.steps=1"]')
    include = _include(tmp_path / "more", only)
    options = SuiteOptions(work=tmp_path / "work", results=tmp_path / "results", jobs=1, include=(include,), only=("base",))
    assert run_suite("small", options, lambda event: None).done == ("base-arith-s0",)
    file = tmp_path / "more" / "suites" / "small.toml"
    for old, new, said in (
        ("samples = 2", "samples = 3", "benchmark arith"),
        ('benchmark = "arith"', 'benchmark = "minicode"', "benchmark minicode"),
        ("limit = 8\n", "", "benchmark arith"),
    ):
        file.write_text(only.replace(old, new))
        with pytest.raises(UserError, match=rf"base-arith-s0 was made with other settings \({said}\)"):
            run_suite("small", options, lambda event: None)
    file.write_text(only)
    assert run_suite("small", options, lambda event: None).skipped == ("base-arith-s0",)


def test_a_record_of_another_configuration_or_policy_is_told_apart(tmp_path: Path) -> None:
    (item,) = [one for one in plan("tiny", load_suite("tiny")) if one.key == "rloo-arith-s0"]
    suite = load_suite("tiny")
    config = load_method("rloo").recipe("tiny").model_dump(mode="json")
    digest = folder_digest(policy_dir("tiny"))
    evaluations = [
        SimpleNamespace(benchmark=one.benchmark, card_digest="c", protocol=one.sampling(suite.eval_seed))
        for one in suite.evaluations
    ]
    options = SuiteOptions(work=tmp_path, results=tmp_path, jobs=1)

    def check(config: dict, digest: str, cards: dict[str, str]) -> None:
        policy = SimpleNamespace(digest=digest)
        record = SimpleNamespace(run_id="r", config=config, base_policy=policy, evaluations=evaluations)
        _check_same(item, suite, record, options, cards)  # pyright: ignore[reportArgumentType]

    check(config, digest, {"arith": "c"})
    del config["loop"]["mix"]["fraction_of_tests"]  # a record from before this setting had its default
    check(config, digest, {})
    with pytest.raises(UserError, match="policy"):
        check(config, "0" * 64, {})
    with pytest.raises(UserError, match="benchmark arith"):
        check(config, digest, {"arith": "d"})
    config["loop"]["steps"] = 7
    with pytest.raises(UserError, match="method"):
        check(config, digest, {})


def test_what_a_library_prints_is_no_event() -> None:
    assert _event('{"key": "a", "part": "train"}') == {"key": "a", "part": "train"}
    for line in ("{not json", "[1]", "progress", '{"other": 1}', ""):
        assert _event(line) is None


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
