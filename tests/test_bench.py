"""Suites: planning, running in worker processes, resuming, and what is reported of failures."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repirl.bench import apart
from repirl.bench.evaluations import JudgeEvaluation, PolicyEvaluation
from repirl.bench.known import Today, check_same
from repirl.bench.rewards import judges
from repirl.bench.run import SuiteOptions, _event, run_suite
from repirl.bench.suites import Suite, SuiteRun, load_suite, plan, suite_names
from repirl.bench.worker import _left_policy, _parent
from repirl.config import with_overrides
from repirl.engines.loading import folder_digest, policy_dir
from repirl.engines.lora import LoRAConfig
from repirl.errors import UserError
from repirl.evals.attacks import ATTACKS, SEARCH
from repirl.methods.registry import load_method
from repirl.methods.runtime import Runtime
from repirl.paths import CHECKOUT_DIR
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy
from repirl.reporting.leaderboard import build_board
from repirl.types import Budget

SMALL = """
title = "small runs, one that builds on another, one with a process reward and one without a policy"
baseline = "rloo"

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

MORE = """
[[runs]]
method = "repirl"
label = "ours"
set = ["loop.steps=1", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "data.num_problems=20",
       "loop.validation.num_problems=4", "loop.validation.samples=1", "offline.updates=2", "offline.problems=8",
       "irl.balance=false"]

[[runs]]
method = "tale"

[[evaluations]]
kind = "judge"
set = "arith"
limit = 12

[[evaluations]]
benchmark = "arith"
samples = 0
limit = 4
max_new_tokens = 16

[[evaluations]]
kind = "scale"
benchmark = "arith"
samples = 4
limit = 6

[[evaluations]]
benchmark = "arith"
of = ["base"]
samples = 4
limit = 5
greedy = false
metrics = ["maj@4"]

[[evaluations]]
kind = "search"
approach = "beam"
benchmark = "arith"
of = ["ours"]
numbers = [1, 4]
limit = 6
settings = { width = 2, aggregation = "mean" }

[[evaluations]]
kind = "attack"
benchmark = "arith"
of = ["ours"]
samples = 2
limit = 9
rounds = 1

[[contrasts]]
better = "ours"
worse = "rloo"
metric = "greedy"
"""

TALE = '''
"""A method that leaves neither policy nor reward, only a curve."""

from repirl.config import Config
from repirl.methods.base import FitContext, Fitted, Method
from repirl.types import Budget


class Nothing(Config):
    """Nothing to set."""


class Tale(Method[Nothing]):
    name = "tale"
    title = source = status = "test"
    recipes = {"tiny": Nothing()}

    def fit(self, context: FitContext, config: Nothing) -> Fitted:
        context.folder.mkdir(parents=True, exist_ok=True)
        curve = context.folder / "metrics.jsonl"
        curve.write_text(\'{"step": 0, "validation_accuracy": 0.5}\\n{"step": 3, "validation_accuracy": 0.25}\\n\')
        told = {"best_step": 0.0, "step": 3.0}
        return Fitted(None, None, Budget(rollouts=3), told, validation_budget=Budget(rollouts=2), curve=curve)
'''


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
        evaluations=(PolicyEvaluation(benchmark="arith"),),
    )
    assert [item.key for item in plan("t", suite)] == ["rloo-arith-s0", "rloo-b-s0"]
    orphan = suite.model_copy(update={"runs": (SuiteRun(method="rloo", stage="b", after="arith"),)})
    with pytest.raises(UserError, match="not in it"):
        plan("t", orphan)
    twice = suite.model_copy(update={"runs": (SuiteRun(method="rloo"), SuiteRun(method="rloo"))})
    with pytest.raises(UserError, match="twice"):
        plan("t", twice)


COMMITTED = [suite for suite in store.suites_with_records(root=CHECKOUT_DIR / "results") if suite != "tiny"]


@pytest.mark.parametrize("suite", COMMITTED)
def test_the_keys_of_committed_runs_are_those_of_their_suite(suite: str) -> None:
    keys = {item.key for item in plan(suite, load_suite(suite))}
    runs = store.find(suite, root=CHECKOUT_DIR / "results")
    assert {run.record.key for run in runs} <= keys
    assert all(run.record.run_id.startswith(f"{run.record.key}-") for run in runs)


@pytest.mark.parametrize("suite", COMMITTED)
def test_committed_records_are_those_of_today_s_suite(suite: str, tmp_path: Path) -> None:
    """Nothing of what the suite says has changed its meaning: `repirl bench` has nothing to do for them."""
    keys = tuple(run.record.key for run in store.find(suite, root=CHECKOUT_DIR / "results"))
    options = SuiteOptions(work=tmp_path, results=CHECKOUT_DIR / "results", jobs=1, only=keys)
    outcome = run_suite(suite, options, lambda event: None)
    assert (len(outcome.skipped), outcome.done, outcome.failed) == (len(keys), (), {})


def test_labels_stand_in_keys_and_runs_have_policies() -> None:
    suite = Suite(
        title="t",
        policy="first",
        runs=(
            SuiteRun(method="rloo", stage="c", after="b", label="x"),
            SuiteRun(method="rloo", stage="b", after="arith", label="x"),
            SuiteRun(method="bc", label="x", policy="second"),
            SuiteRun(method="rloo", set=("loop.steps=1",)),
        ),
        evaluations=(PolicyEvaluation(benchmark="arith"),),
    )
    items = plan("t", suite)
    # Stages of one label may be of different methods: supervised learning, then RL.
    assert [(item.key, item.run.method, item.policy) for item in items] == [
        ("x-arith-s0", "bc", "second"),
        ("rloo-arith-s0", "rloo", "first"),
        ("x-b-s0", "rloo", "second"),
        ("x-c-s0", "rloo", "second"),
    ]
    both = suite.model_copy(update={"runs": (SuiteRun(method="rloo", stage="b", after="arith", policy="p"), *suite.runs)})
    with pytest.raises(UserError, match="starts from a run and from a policy"):
        plan("t", both)
    circle = (SuiteRun(method="rloo", stage="a", after="b"), SuiteRun(method="rloo", stage="b", after="a"))
    with pytest.raises(UserError, match="from itself"):
        plan("t", suite.model_copy(update={"runs": circle}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[[evaluations]]\nkind = "weigh"\nset = "arith"',
            "no such kind of evaluation; there are policy, judge, scale, search and attack",
        ),
        ('[[evaluations]]\nkind = "judge"\nbenchmark = "arith"', "set"),
        ('[[evaluations]]\nbenchmark = "arith"\nof = ["ours"]', "of a run that is not in it: 'ours'; labels: base, rloo"),
        (
            '[[evaluations]]\nkind = "search"\nbenchmark = "arith"\nnumbers = [2]\napproach = "best"',
            "no such approach; there are beam",
        ),
        (
            '[[evaluations]]\nkind = "search"\nbenchmark = "arith"\nnumbers = [6]\napproach = "beam"\nsettings = { width = 4 }',
            "n=6 is no multiple of width=4",
        ),
        ('[[evaluations]]\nbenchmark = "arith"\nthreshold = "tuned"', "threshold"),
        ('[[contrasts]]\nbetter = "ours"\nworse = "rloo"', "compares with a run that is not in it: 'ours'; labels: base, rloo"),
        ('[[contrasts]]\nbetter = "rloo"\nworse = "base"\nbenchmark = "arit"', "a benchmark that is not in it: 'arit'"),
        ('[[contrasts]]\nbetter = "rloo"\nworse = "base"\nstage = "agian"', "a stage that is not in it: 'agian'"),
        ('[[runs]]\nmethod = "base"\nlabel = "no/folder"', "runs.3.label"),
    ],
)
def test_a_suite_that_says_something_wrong_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    include = _include(tmp_path, f"{SMALL}\n{text}\n")
    with pytest.raises(UserError) as caught:
        load_suite("small", [include])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_judged() -> None:
    arith, other = (JudgeEvaluation(kind="judge", set=name) for name in ("arith", "processbench"))
    assert judges("repirl", True, other)
    assert not judges("repirl", False, arith)
    assert judges("random", False, other)
    assert judges("oracle", False, arith)
    assert not judges("oracle", False, other)  # the checker knows arith problems only
    assert arith.protocol(3)["seed"] == 3
    said = {"samples": 8, "temperature": 1.0, "greedy": True, "limit": None, "chat_template": False, "extraction": "strict"}
    assert PolicyEvaluation(benchmark="arith").sampling(3) == {**said, "seed": 3}


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
    include = _include(tmp_path / "more", SMALL + MORE)
    (tmp_path / "more" / "tale.py").write_text(TALE)
    options = SuiteOptions(work=tmp_path / "work", results=tmp_path / "results", jobs=2, include=(include,), command="x")
    events: list[dict] = []
    outcome = run_suite("small", options, events.append)
    assert outcome.failed == {}
    assert sorted(outcome.done) == ["base-arith-s0", "ours-arith-s0", "rloo-again-s0", "rloo-arith-s0", "tale-arith-s0"]
    stored = {run.record.key: run for run in store.find("small", root=options.results)}
    runs = {key: run.record for key, run in stored.items()}
    first, again = runs["rloo-arith-s0"], runs["rloo-again-s0"]
    tiny = folder_digest(policy_dir("tiny"))
    assert again.base_policy.name == "tiny, trained with rloo on arith"
    assert again.base_policy.digest == folder_digest(options.work / "rloo-arith-s0" / "policy") == first.policy_digest
    assert (again.base_policy.root_name, again.base_policy.root_digest) == ("tiny", tiny)
    assert again.parents is not None
    assert [(one.key, one.run_id, one.budget) for one in again.parents] == [("rloo-arith-s0", first.run_id, first.budget)]
    assert (first.parents, first.base_policy.root_digest, first.runtime and first.runtime["device"]) == ((), tiny, "cpu")
    assert first.validation_budget is not None
    # One step, and validation before and after it.
    assert (first.budget + first.validation_budget).rollouts == 4 * 2 + 2 * 4
    evaluation, short, voted = runs["base-arith-s0"].evaluations
    assert (voted.counts["sampled"].total, "maj@4" in voted.metrics, "maj@4" in evaluation.metrics) == (20, True, False)
    assert {key: len(record.evaluations) for key, record in runs.items() if key != "base-arith-s0"} == {
        "ours-arith-s0": 2, "rloo-again-s0": 2, "rloo-arith-s0": 2, "tale-arith-s0": 0
    }  # fmt: skip
    assert evaluation.counts["sampled"].total == 16
    assert evaluation.counts["greedy"].total == 8
    assert (short.counts["greedy"].total, short.protocol["max_new_tokens"]) == (4, 16)
    assert [(key, len(record.judgements)) for key, record in runs.items() if record.judgements] == [("ours-arith-s0", 1)]
    (judged,) = runs["ours-arith-s0"].judgements
    assert (judged.set, judged.reward, judged.num_solutions) == ("arith", "fitted", 12)
    reward = folder_digest(options.work / "ours-arith-s0" / "reward")
    assert (judged.reward_digest, runs["ours-arith-s0"].reward_digest) == (reward, reward)
    assert len(stored["ours-arith-s0"].judged(judged)) == 12
    assert [(key, len(record.scalings)) for key, record in runs.items() if record.scalings] == [("ours-arith-s0", 1)]
    (scaled,) = runs["ours-arith-s0"].scalings
    assert (scaled.benchmark, scaled.reward, scaled.reward_digest, scaled.policy_digest) == ("arith", "fitted", reward, tiny)
    assert (scaled.counts.total, set(scaled.curves["majority"])) == (24, {"1", "2", "4"})
    assert [len(row.scores) for row in stored["ours-arith-s0"].scaled(scaled)] == [4] * 6
    (searched,) = runs["ours-arith-s0"].searches
    assert (searched.reward_digest, searched.policy_digest, list(searched.points)) == (reward, tiny, ["1", "4"])
    assert searched.protocol["width"] == 2
    assert "max_new_tokens" not in searched.protocol
    narrow, wide = searched.points["1"], searched.points["4"]
    assert (narrow.solutions, set(wide.accuracy)) == (1.0, {"best", "weighted", "majority", "pass"})
    assert wide.tokens["generated"] > 2 * narrow.tokens["generated"] > 0
    assert wide.tokens["scored"] > 0
    assert searched.parameters["policy"] > 0
    assert [row.n for row in stored["ours-arith-s0"].searched(searched)] == [1] * 6 + [4] * 6
    (attacked,) = runs["ours-arith-s0"].attacks
    assert (attacked.reward_digest, attacked.policy_digest, attacked.protocol["rounds"]) == (reward, tiny, 1)
    assert set(attacked.lifts) == {*ATTACKS, SEARCH}
    assert attacked.lifts["empty"].attacked + attacked.lifts["empty"].unscored == attacked.solutions
    rows = stored["ours-arith-s0"].attacked(attacked)
    assert Counter(row.attack for row in rows) == {name: one.attacked for name, one in attacked.lifts.items() if one.attacked}
    tale = runs["tale-arith-s0"]
    assert (tale.policy_digest, tale.reward_digest, tale.evaluations) == (None, None, ())
    assert tale.validation_budget == Budget(rollouts=2)
    assert [line["step"] for line in stored["tale-arith-s0"].curve()] == [0, 3]
    board = build_board("small", results=options.results, include=options.include)
    assert {row.label for row in board.rows} == {"base", "rloo", "ours", "tale"}
    chosen = [column.metric for column in board.columns if column.kind == "scale"]
    assert chosen == ["best-of-4", "maj@4", "weighted@4"]
    assert [column.metric for column in board.columns if column.kind == "search"] == ["beam-1", "beam-4"]
    lifts = {column.metric for column in board.columns if column.kind == "attack"}
    assert lifts == {name for name, one in attacked.lifts.items() if one.lift is not None}
    assert {(d.better.label, d.worse.label) for d in board.differences} == {("ours", "rloo")}
    (row,) = [row for row in board.rows if row.label == "tale"]
    assert row.checkpoints is not None
    assert (row.checkpoints.chosen, row.checkpoints.accuracy_at_last) == ((0,), 0.25)
    assert run_suite("small", options, events.append).skipped == tuple(
        item.key for item in plan("small", load_suite("small", options.include))
    )
    file = tmp_path / "more" / "suites" / "small.toml"
    file.write_text(file.read_text().replace("limit = 12", "limit = 13"))
    with pytest.raises(UserError, match=r"ours-arith-s0 was made with other settings \(judge arith\)"):
        run_suite("small", options, events.append)
    file.write_text(
        file.read_text().replace("limit = 13", "limit = 12").replace("samples = 4\nlimit = 6", "samples = 4\nlimit = 7")
    )
    with pytest.raises(UserError, match=r"ours-arith-s0 was made with other settings \(scale arith\)"):
        run_suite("small", options, events.append)
    file.write_text(
        file.read_text().replace("samples = 4\nlimit = 7", "samples = 4\nlimit = 6").replace("width = 2", "width = 4")
    )
    with pytest.raises(UserError, match=r"ours-arith-s0 was made with other settings \(beam arith\)"):
        run_suite("small", options, events.append)
    file.write_text(file.read_text().replace("width = 4", "width = 2").replace("maj@4", "maj@2"))
    with pytest.raises(UserError, match=r"base-arith-s0 was made with other settings \(benchmark arith\)"):
        run_suite("small", options, events.append)
    file.write_text(file.read_text().replace("maj@2", "maj@4").replace("rounds = 1", "rounds = 2"))
    with pytest.raises(UserError, match=r"ours-arith-s0 was made with other settings \(attack arith\)"):
        run_suite("small", options, events.append)


POOLED = """
title = "two seeds of a reward without an artifact, which look at the same samples"

[[runs]]
method = "length"
seeds = [0, 1]
set = ["loop.steps=1", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "data.num_problems=20",
       "loop.validation.num_problems=4", "loop.validation.samples=1"]

[[evaluations]]
kind = "judge"
set = "arith"
limit = 12

[[evaluations]]
kind = "scale"
benchmark = "arith"
samples = 4
limit = 6

[[evaluations]]
kind = "attack"
benchmark = "arith"
samples = 2
limit = 6
rounds = 1
"""


def test_what_all_runs_of_a_suite_look_at_is_sampled_once(tmp_path: Path) -> None:
    include = _include(tmp_path / "more", POOLED)
    options = SuiteOptions(work=tmp_path / "work", results=tmp_path / "results", jobs=2, include=(include,), command="x")
    assert run_suite("small", options, lambda event: None).failed == {}
    files = sorted((options.work / "pools").rglob("evaluation-*.jsonl"))
    judged = ["evaluation-judge-arith-test.jsonl", "evaluation-judge-arith-validation.jsonl"]
    # Candidates are drawn at another temperature than what is attacked.
    assert sorted(path.name for path in files) == ["evaluation-arith.jsonl", "evaluation-arith.jsonl", *judged]
    for path in files:
        chunks = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        sampled = [(chunk["part"], row["problem_id"], row["sample_index"]) for chunk in chunks for row in chunk["rows"]]
        assert len(sampled) == len(set(sampled)) > 0
    one, other = store.find("small", root=options.results)
    assert one.record.seed != other.record.seed
    # A score of length needs no model, and the solutions are the same.
    assert one.scaled(one.record.scalings[0]) == other.scaled(other.record.scalings[0])
    for run in (one.record, other.record):
        budget = run.scalings[0].budget
        assert (budget.rollouts, budget.generated_tokens > 0, budget.wall_s > 0) == (24, True, True)


APART = """
title = "a reward, a run that it pays apart from the answers, and a control that is told them"
[[runs]]
method = "repirl"
label = "ours"
set = ["loop.steps=1", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "data.num_problems=20",
       "loop.validation.num_problems=4", "loop.validation.samples=1", "offline.updates=2", "offline.problems=8",
       "irl.balance=false"]

[[runs]]
method = "test_time"
label = "paid"
stage = "adapt"
problems = { benchmark = "arith", limit = 8 }
reward = "ours"
set = ["signal=prm", "loop.steps=2", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2", "watch.problems=2"]

[[runs]]
method = "rloo"
label = "told"
stage = "adapt"
problems = { benchmark = "arith", limit = 6, answers = "wrong" }
set = ["loop.steps=1", "loop.sampling.prompts_per_step=4", "loop.sampling.group_size=2"]

[[evaluations]]
benchmark = "arith"
samples = 2
limit = 8
"""


def test_a_run_that_trains_apart_from_the_answers(tmp_path: Path) -> None:
    """It waits for the reward that pays it, and its record says on what it was trained, by which run's reward, what it
    unlearned, and how right it was while it could not know."""
    include = _include(tmp_path / "more", APART)
    trackers = ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    places = {"work": tmp_path / "work", "results": tmp_path / "results"}
    options = SuiteOptions(**places, jobs=2, include=(include,), trackers=trackers, command="x")
    outcome = run_suite("small", options, lambda event: None)
    assert outcome.failed == {}
    for key in ("ours-arith-s0", "paid-adapt-s0"):  # trained here, and apart
        followed = list((options.work / key).glob("tensorboard/*"))
        assert bool(followed) is bool(trackers)
        assert all(b"entropy" in file.read_bytes() for file in followed)
    stored = {run.record.key: run for run in store.find("small", root=options.results)}
    ours, paid, told = (stored[key].record for key in ("ours-arith-s0", "paid-adapt-s0", "told-adapt-s0"))
    assert paid.problems == {"benchmark": "arith", "limit": 8, "answers": "none"}
    assert (told.problems or {})["answers"] == "wrong"
    assert paid.reward_run is not None
    assert (paid.reward_run.run_id, paid.reward_run.budget, told.reward_run) == (ours.run_id, ours.budget, None)
    given = (options.work / "paid-adapt-s0" / "problems.jsonl").read_text()
    assert len(given.splitlines()) == 8
    assert "answer" not in given
    assert "answer" in (options.work / "told-adapt-s0" / "problems.jsonl").read_text()
    assert json.dumps(paid.config).count(str(tmp_path)) == 0
    moved = [paid.diagnostics[f"arith/{name}"] for name in ("learned", "kept", "corrupted", "never")]
    assert sum(value or 0 for value in moved) == 8
    curve = stored["paid-adapt-s0"].curve()
    assert [line["step"] for line in curve] == [1, 2]
    assert all({"accuracy", "prm/signal", "prm/agreement"} <= line.keys() for line in curve)
    assert "watch/accuracy" in curve[0]
    row = next(row for row in build_board("small", results=options.results, include=[include]).rows if row.label == "paid")
    assert row.cost.parents is not None
    assert row.cost.parents["rollouts"] == (ours.budget + (ours.validation_budget or Budget())).rollouts
    again = run_suite("small", options, lambda event: None)
    assert (again.done, len(again.skipped)) == ((), 3)
    (tmp_path / "more" / "suites" / "small.toml").write_text(APART.replace("limit = 8 }", "limit = 7 }"))
    with pytest.raises(UserError, match="other settings"):
        run_suite("small", options, lambda event: None)


def test_a_run_apart_cannot_open_what_others_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    include = _include(tmp_path / "more", APART)
    suite = load_suite("small", [include])
    (told,) = [item for item in plan("small", suite) if item.key == "told-adapt-s0"]
    hidden: list[Path] = []
    monkeypatch.setattr(apart, "train_apart", lambda arguments, unreadable, on_progress: hidden.extend(unreadable))
    places = apart.Places(tmp_path / "work", tmp_path / "results", (include,), None)
    apart.train(told, suite, "tiny", None, places)
    names = {path.relative_to(tmp_path).as_posix() for path in hidden if path.is_relative_to(tmp_path)}
    assert {"work/pools", "results", "work/ours-arith-s0/eval", "work/paid-adapt-s0/problems.jsonl"} <= names


@pytest.mark.parametrize("reward", ["nobody", "paid"])
def test_a_run_is_paid_by_one_that_is_there(tmp_path: Path, reward: str) -> None:
    include = _include(tmp_path, APART.replace('reward = "ours"', f'reward = "{reward}"'))
    with pytest.raises(UserError, match="is paid by a run that is not in it"):
        plan("small", load_suite("small", [include]))


def test_a_suite_that_was_changed_does_not_show_old_records(tmp_path: Path) -> None:
    only = SMALL[: SMALL.index('[[runs]]\nmethod = "rloo"')] + SMALL[SMALL.index("[[evaluations]]") :]
    only = only.replace('method = "base"', 'method = "base"\n\n[[runs]]\nmethod = "rloo"\nset = ["loop.steps=1"]')
    only = only.replace("limit = 8\n", "limit = 8\nmax_new_tokens = 16\n")
    include = _include(tmp_path / "more", only)
    options = SuiteOptions(work=tmp_path / "work", results=tmp_path / "results", jobs=1, include=(include,), only=("base",))
    assert run_suite("small", options, lambda event: None).done == ("base-arith-s0",)
    file = tmp_path / "more" / "suites" / "small.toml"
    for old, new, said in (
        ("samples = 2", "samples = 3", "benchmark arith"),
        ('benchmark = "arith"', 'benchmark = "minicode"', "benchmark minicode"),
        ("limit = 8\n", "", "benchmark arith"),
        ("max_new_tokens = 16\n", "", "benchmark arith"),
        ("limit = 8\n", 'limit = 8\nextraction = "flexible"\n', "benchmark arith"),
    ):
        file.write_text(only.replace(old, new))
        with pytest.raises(UserError, match=rf"base-arith-s0 was made with other settings \({said}\)"):
            run_suite("small", options, lambda event: None)
    file.write_text(only)
    assert run_suite("small", options, lambda event: None).skipped == ("base-arith-s0",)


def test_a_run_that_two_suites_have_is_made_once(tmp_path: Path) -> None:
    """With the settings of both; columns are those of the suite that asks; other settings are another run."""
    include = _include(tmp_path / "more", "")
    suites = tmp_path / "more" / "suites"
    evaluation = '[[evaluations]]\nbenchmark = "{}"\nsamples = 2\nlimit = 4\ngreedy = false\nmax_new_tokens = 16\n'
    base = 'title = "t"\n{}[[runs]]\nmethod = "base"\nseeds = {}\n'
    one = base.format("", [0]) + evaluation.format("arith") + evaluation.format("minicode")
    two = base.format('shares = "small"\n', [0, 1]) + evaluation.format("arith")
    (suites / "small.toml").write_text(one)
    (suites / "two.toml").write_text(two)
    (suites / "three.toml").write_text(two.replace("samples = 2", "samples = 3"))
    (suites / "four.toml").write_text(two.replace("small", "smaller"))
    options = SuiteOptions(work=tmp_path / "work", results=tmp_path / "results", jobs=1, include=(include,))
    assert run_suite("small", options, lambda event: None).done == ("base-arith-s0",)
    outcome = run_suite("two", options, lambda event: None)
    assert (outcome.skipped, outcome.done) == (("base-arith-s0",), ("base-arith-s1",))
    board = build_board("two", results=options.results, include=options.include)
    assert [(row.label, row.seeds) for row in board.rows] == [("base", (0, 1))]
    assert {column.benchmark for column in board.columns} == {"arith"}
    outcome = run_suite("three", options, lambda event: None)
    assert (outcome.skipped, outcome.done) == ((), ("base-arith-s0", "base-arith-s1"))
    # Of several suites the first that has a run with these settings gives it: seed 1 of `two`, with 2 samples and not 3.
    several = two.replace('"small"', '["three", "two", "small"]').replace("[0, 1]", "[0, 1, 2]")
    (suites / "five.toml").write_text(several)
    outcome = run_suite("five", options, lambda event: None)
    assert (outcome.skipped, outcome.done) == (("base-arith-s0", "base-arith-s1"), ("base-arith-s2",))
    with pytest.raises(UserError, match="shares runs with an unknown suite: 'smaller'"):
        load_suite("four", options.include)


def test_a_record_of_another_configuration_or_policy_is_told_apart() -> None:
    (item,) = [one for one in plan("tiny", load_suite("tiny")) if one.key == "rloo-arith-s0"]
    suite = load_suite("tiny")
    config = with_overrides(load_method("rloo").recipe("tiny"), list(item.run.set)).model_dump(mode="json")
    digest = folder_digest(policy_dir("tiny"))
    evaluations = [
        SimpleNamespace(benchmark=one.benchmark, card_digest="c", protocol=one.sampling(suite.eval_seed), metrics={})
        for one in suite.evaluations
        if isinstance(one, PolicyEvaluation)
    ]
    plain = {"dtype": "float32", "lora": None, "device": "cuda"}

    def check(config: dict, digest: str, cards: dict[str, str], method: str = "rloo", runtime: dict | None = plain) -> None:
        policy = SimpleNamespace(digest=digest, root_digest=digest)
        record = SimpleNamespace(
            run_id="rloo-arith-s0-r",
            schema_version=2,
            method=method,
            config=config,
            base_policy=policy,
            policy_digest="p",
            reward_digest=None,
            evaluations=evaluations,
            judgements=(),
            problems=None,
            runtime=runtime,
        )
        check_same(item, suite, record, (), Today(cards, {"tiny": folder_digest(policy_dir("tiny"))}))  # pyright: ignore[reportArgumentType]

    with pytest.raises(UserError, match="method"):
        check(config, digest, {}, method="bc")
    for other in ({"dtype": "bfloat16"}, {"lora": {"rank": 4, "alpha": 32}}, {"engine": "vllm"}):
        with pytest.raises(UserError, match=r"settings \(runtime\)"):
            check(config, digest, {}, runtime=plain | other)
    check(config, digest, {}, runtime=None)  # schema 1 did not say it
    check(config, digest, {"arith_long": "c"})
    del config["data"]["prompt_suffix"]  # a record from before this setting had its default
    check(config, digest, {})
    with pytest.raises(UserError, match="policy"):
        check(config, "0" * 64, {})
    with pytest.raises(UserError, match="benchmark arith_long"):
        check(config, digest, {"arith_long": "d"})
    judged = JudgeEvaluation(kind="judge", set="arith")
    suite = suite.model_copy(update={"evaluations": (*suite.evaluations, judged)})
    check(config, digest, {})  # rloo leaves no reward
    config["loop"]["steps"] = 7
    with pytest.raises(UserError, match="method"):
        check(config, digest, {})


def test_a_later_stage_starts_from_the_policy_of_its_parents_record(tmp_path: Path) -> None:
    suite = Suite(
        title="t",
        runs=(SuiteRun(method="rloo"), SuiteRun(method="rloo", stage="b", after="arith")),
        evaluations=(PolicyEvaluation(benchmark="arith"),),
    )
    first, later = plan("t", suite)
    assert _parent(first, tmp_path) is None
    with pytest.raises(UserError, match="rloo-arith-s0, which rloo-b-s0 needs, has no record"):
        _parent(later, tmp_path)
    folder = tmp_path / "work" / "rloo-arith-s0" / "policy"
    given: dict[str, Any] = {"method": "rloo", "kind": "method", "recipe": "tiny", "seed": 0, "stage": "arith", "config": {}}
    given |= {"base_policy": BasePolicy(name="tiny", digest="ab"), "budget": Budget(), "command": "repirl bench t"}
    for run_id, digest in (("rloo-arith-s0-a", None), ("rloo-arith-s0-b", folder_digest(policy_dir("tiny")))):
        store.write(new_record(suite="t", run_id=run_id, policy_digest=digest, **given), [], root=tmp_path)
        parent = _parent(later, tmp_path)
        assert parent is not None
        if not folder.is_dir():
            with pytest.raises(UserError, match="left no policy"):
                _left_policy(later, parent, tmp_path / "work")
            shutil.copytree(policy_dir("tiny"), folder)
        assert _left_policy(later, parent, tmp_path / "work") == folder
    (folder / "config.json").write_text("{}")
    changed = store.load(tmp_path / "t" / "rloo-arith-s0-b").record
    with pytest.raises(UserError, match="not the one of its record"):
        _left_policy(later, changed, tmp_path / "work")


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


def test_a_run_apart_is_told_of_all_adapters() -> None:
    lora = LoRAConfig(rank=4)
    said = apart._runtime(Runtime(lora=lora, reward_lora=LoRAConfig(rank=2)))
    assert said[-6:] == ["--lora-rank", "4", "--reward-lora-rank", "2", "--lora-alpha", "32"]
    assert "--lora-alpha" not in apart._runtime(Runtime())
    with pytest.raises(UserError, match="one alpha"):
        apart._runtime(Runtime(lora=lora, reward_lora=LoRAConfig(rank=2, alpha=8)))
