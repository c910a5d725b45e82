"""Policy evaluation against hand-made samples with known answers, against plain lm-eval, and across interruptions."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from repirl.config import parse_config
from repirl.engines.base import Request, SamplingParams
from repirl.engines.loading import LoadedPolicy, load_policy
from repirl.engines.scripted import END, ScriptedEngine, encode
from repirl.errors import GradingFault, UserError
from repirl.evals.policy import evaluate_policy
from repirl.evals.protocol import EvalProtocol
from repirl.evals.report import build_report, group_sizes, metrics_of
from repirl.paths import ASSETS_DIR, content_dir
from repirl.records.store import evaluation_from_report
from repirl.rollouts.collect import cut_at_stop
from repirl.tasks.benchmarks import Benchmark, load_benchmark
from repirl.types import Problem, Rollout, Verdict


@dataclass
class CodePointTokenizer:
    """Gives the token ids that `ScriptedEngine` uses."""

    chat_template: str | None = None
    name_or_path: str = "code points"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [*encode(text)]}


class CountingEngine(ScriptedEngine):
    """Remembers what it was asked for; stops with KeyboardInterrupt at call `interrupt_at`."""

    def __init__(self, texts: Mapping[str, Sequence[str]], interrupt_at: int | None = None) -> None:
        super().__init__(texts)
        self.interrupt_at = interrupt_at
        self.requests: list[tuple[Request, SamplingParams]] = []
        self.calls = 0

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        self.requests += [(request, params) for request in requests]
        return super().generate(requests, params, on_progress)


POLICY = LoadedPolicy(None, CodePointTokenizer(), "scripted", Path("."), "d" * 64)
RIGHT, WRONG, LONG = r"\boxed{5}", r"\boxed{6}", "x" * 40

# Problem a: 4 of 4 samples right; b: 1 of 4; c: 0 of 4, two of them cut by the limit of 20 tokens. Sample 0 is also the
# greedy one, as the script knows no temperature.
SCRIPT = {"a": [RIGHT] * 4, "b": [WRONG, RIGHT, WRONG, "no box"], "c": [LONG, WRONG, LONG, WRONG]}


def problem(key: str, level: int) -> Problem:
    return Problem(key, "hand", f"{key}?\n", "integer", "5", level=level, subject=f"subject {level}", source=f"{key}?")


@pytest.fixture(scope="module")
def arith() -> Benchmark:
    return load_benchmark("arith")


@pytest.fixture
def benchmark_(arith: Benchmark) -> Benchmark:
    """Three problems of two levels."""
    return three_problems(arith)


def three_problems(arith: Benchmark) -> Benchmark:
    return replace(arith, problems=(problem("a", 1), problem("b", 2), problem("c", 2)), max_new_tokens=20)


def run(benchmark: Benchmark, protocol: EvalProtocol, engine: Any = None, **options: Any):
    return evaluate_policy(POLICY, benchmark, protocol, engine=engine or ScriptedEngine(SCRIPT), **options)


def without_time(report):
    return replace(report, budget=replace(report.budget, wall_s=0.0))


def test_metrics_counts_levels_and_budget_of_known_samples(benchmark_: Benchmark) -> None:
    report = run(benchmark_, EvalProtocol(samples=4))
    values = {name: interval.value for name, interval in report.metrics.items()}
    # pass@2 of b: 1 - C(3,2)/C(4,2) = 1/2.
    assert values == pytest.approx({"greedy": 1 / 3, "avg@4": 1.25 / 3, "pass@2": 1.5 / 3, "pass@4": 2 / 3})
    assert report.counts == {
        "greedy": {"correct": 1, "wrong": 1, "truncated": 1, "ungraded": 0, "total": 3},
        "sampled": {"correct": 5, "wrong": 5, "truncated": 2, "ungraded": 0, "total": 12},
    }
    assert report.by_level["avg@4"] == pytest.approx({"1": 1.0, "2": 0.125})
    assert report.by_level["greedy"] == {"1": 1.0, "2": 0.0}
    assert report.by_subject["avg@4"] == pytest.approx({"subject 1": 1.0, "subject 2": 0.125})
    assert group_sizes(report) == {"level": {"1": 1, "2": 2}, "subject": {"subject 1": 1, "subject 2": 2}}
    assert report.problems_measured == dict.fromkeys(report.metrics, 3)
    assert report.protocol["max_new_tokens"] == 20
    tokens = sum(min(20, len(text) + 1) for texts in SCRIPT.values() for text in [texts[0], *texts])
    assert (report.budget.generated_tokens, report.budget.rollouts, report.budget.grader_calls) == (tokens, 15, 15)
    rows = report.samples["sampled"]
    assert [(row.problem_id, row.sample_index) for row in rows] == [(key, i) for key in "abc" for i in range(4)]
    assert [row.extracted for row in rows[4:8]] == ["6", "5", "6", None]
    # What a record takes: counts add up and nothing is infinite or NaN.
    evaluation_from_report(report, "samples.jsonl.gz", "0" * 64)


def test_intervals_are_over_problems(benchmark_: Benchmark) -> None:
    """Eight copies of the same sample of three problems say no more than one."""
    one = run(benchmark_, EvalProtocol(samples=1, greedy=False), ScriptedEngine({k: v[:1] for k, v in SCRIPT.items()}))
    eight = run(benchmark_, EvalProtocol(samples=8, greedy=False), ScriptedEngine({k: v[:1] for k, v in SCRIPT.items()}))
    assert one.metrics["avg@1"] == eight.metrics["avg@8"]
    assert "pass@8" in eight.metrics
    assert list(one.metrics) == ["avg@1"]


def test_the_request_is_what_the_protocol_says(benchmark_: Benchmark) -> None:
    engine = CountingEngine(SCRIPT)
    run(benchmark_, EvalProtocol(samples=3, temperature=0.6, max_new_tokens=11, limit=2, seed=4), engine)
    assert [(r.problem_id, r.num_samples, p.temperature) for r, p in engine.requests] == [
        ("a", 1, 0.0),
        ("b", 1, 0.0),
        ("a", 3, 0.6),
        ("b", 3, 0.6),
    ]
    request, params = engine.requests[0]
    assert request.prompt_ids == encode("a?\n")
    assert (params.max_new_tokens, params.top_p, params.top_k) == (11, 1.0, 0)
    other = CountingEngine(SCRIPT)
    run(benchmark_, EvalProtocol(samples=3, seed=5), other)
    assert other.requests[0][1].seed != params.seed


def test_a_stop_string_is_left_out_as_in_lm_eval(benchmark_: Benchmark) -> None:
    texts = {key: [rf"\boxed{{5}} Q: \boxed{{7}}{chr(END)}"] for key in "abc"}
    with_stop = run(replace(benchmark_, stop=("Q:",), max_new_tokens=99), EvalProtocol(samples=0), ScriptedEngine(texts))
    assert {row.text for row in with_stop.samples["greedy"]} == {r"\boxed{5} "}
    assert with_stop.metrics["greedy"].value == 1.0
    without = run(replace(benchmark_, max_new_tokens=99), EvalProtocol(samples=0), ScriptedEngine(texts))
    assert without.metrics["greedy"].value == 0.0
    assert cut_at_stop("one two three", ("three", "", "two")) == "one "


def test_progress_counts_every_completion(benchmark_: Benchmark) -> None:
    seen: list[tuple[int, int]] = []
    run(benchmark_, EvalProtocol(samples=4), on_progress=lambda done, total: seen.append((done, total)), chunk_rows=4)
    assert seen[-1] == (15, 15)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_interrupted_evaluation_samples_only_what_is_missing(benchmark_: Benchmark, tmp_path: Path) -> None:
    protocol = EvalProtocol(samples=4)
    whole = run(benchmark_, protocol)
    broken = CountingEngine(SCRIPT, interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(benchmark_, protocol, broken, folder=tmp_path, chunk_rows=4)
    assert [r.problem_id for r, _ in broken.requests] == ["a", "b", "c", "a"]
    # The process may also die in the middle of a line.
    file = next(tmp_path.glob("*.jsonl"))
    with file.open("a") as stream:
        stream.write('{"part": "sampled", "rows": [{"problem')
    rest = CountingEngine(SCRIPT)
    resumed = run(benchmark_, protocol, rest, folder=tmp_path, chunk_rows=4)
    assert [(r.problem_id, r.num_samples) for r, _ in rest.requests] == [("b", 4), ("c", 4)]
    assert without_time(resumed) == without_time(whole)
    nothing = CountingEngine(SCRIPT)
    assert run(benchmark_, protocol, nothing, folder=tmp_path) == resumed
    assert nothing.calls == 0


# What an evaluation does until it is killed: nothing runs after SIGKILL, no handler and no `finally`.
_KILLED = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import test_eval

class KilledEngine(test_eval.CountingEngine):
    def generate(self, *arguments):
        groups = super().generate(*arguments)
        if self.calls == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return groups

benchmark = test_eval.three_problems(test_eval.load_benchmark("arith"))
test_eval.run(
    benchmark, test_eval.EvalProtocol(samples=4), KilledEngine(test_eval.SCRIPT), folder=Path({folder!r}), chunk_rows=4
)
"""


def test_a_killed_evaluation_samples_only_what_is_missing(benchmark_: Benchmark, tmp_path: Path) -> None:
    """Killed after its fourth chunk was sampled and before that was stored."""
    code = _KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    rest = CountingEngine(SCRIPT)
    resumed = run(benchmark_, EvalProtocol(samples=4), rest, folder=tmp_path, chunk_rows=4)
    # Stored: the greedy chunk, and the samples of a and b.
    assert [(r.problem_id, r.num_samples, p.temperature) for r, p in rest.requests] == [("c", 4, 1.0)]
    assert without_time(resumed) == without_time(run(benchmark_, EvalProtocol(samples=4)))


def test_more_samples_continue_and_fewer_are_a_part(benchmark_: Benchmark, tmp_path: Path) -> None:
    run(benchmark_, EvalProtocol(samples=2, greedy=False), folder=tmp_path)
    engine = CountingEngine(SCRIPT)
    four = run(benchmark_, EvalProtocol(samples=4, greedy=False), engine, folder=tmp_path)
    assert [(r.first_sample, r.num_samples) for r, _ in engine.requests] == [(2, 2)] * 3
    assert four.metrics == run(benchmark_, EvalProtocol(samples=4, greedy=False)).metrics
    three = run(benchmark_, EvalProtocol(samples=3, greedy=False), CountingEngine({}), folder=tmp_path)
    assert three.counts["sampled"]["total"] == 9


@pytest.mark.parametrize(("change", "said"), [({"seed": 1}, "another seed"), ({"temperature": 0.5}, "another temperature")])
def test_a_folder_of_another_evaluation_is_refused(
    benchmark_: Benchmark, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    run(benchmark_, EvalProtocol(samples=1), folder=tmp_path)
    with pytest.raises(UserError, match=said):
        run(benchmark_, EvalProtocol(samples=1, **change), folder=tmp_path)
    with pytest.raises(UserError, match="another policy"):
        evaluate_policy(
            replace(POLICY, digest="e" * 64),
            benchmark_,
            EvalProtocol(samples=1),
            folder=tmp_path,
            engine=ScriptedEngine(SCRIPT),
        )


def test_a_damaged_file_is_named_with_its_line(benchmark_: Benchmark, tmp_path: Path) -> None:
    run(benchmark_, EvalProtocol(samples=1), folder=tmp_path)
    file = next(tmp_path.glob("*.jsonl"))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{broken", *lines[1:]]) + "\n")
    with pytest.raises(UserError, match=r"line 2 of .*arith\.jsonl"):
        run(benchmark_, EvalProtocol(samples=1), folder=tmp_path)


def test_ungraded_is_not_wrong_and_is_graded_again(
    benchmark_: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import repirl.evals.policy as module

    working = module.grade_rollouts

    def failing(problems: Sequence[Problem], texts: Sequence[str], reasons: Sequence[str], **options: Any) -> list[Verdict]:
        graded = working(problems, texts, reasons, **options)
        return [
            Verdict("ungraded", "timeout") if p.id == "b" and text == WRONG else v
            for p, text, v in zip(problems, texts, graded, strict=True)
        ]

    monkeypatch.setattr(module, "grade_rollouts", failing)
    protocol = EvalProtocol(samples=4, greedy=False)
    with pytest.raises(GradingFault, match="2 x timeout"):
        run(benchmark_, protocol)
    report = run(benchmark_, protocol, folder=tmp_path, ungraded_limit=0.5)
    assert report.counts["sampled"] == {"correct": 5, "wrong": 3, "truncated": 2, "ungraded": 2, "total": 12}
    # b: 1 of its 2 graded samples; pass@4 is not measured for b.
    assert report.metrics["avg@4"].value == pytest.approx((1 + 0.5 + 0) / 3)
    assert report.metrics["pass@4"].value == pytest.approx(0.5)
    assert not any(math.isnan(value) for levels in report.by_level.values() for value in levels.values())
    monkeypatch.setattr(module, "grade_rollouts", working)
    mended = run(benchmark_, protocol, CountingEngine({}), folder=tmp_path)
    assert mended.metrics == run(benchmark_, protocol).metrics


def test_the_limit_of_ungraded_is_over_all_completions(benchmark_: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of fifteen is below a limit of a tenth, though it is one of the three greedy ones."""
    import repirl.evals.policy as module

    working, seen = module.grade_rollouts, []

    def once(problems: Sequence[Problem], texts: Sequence[str], reasons: Sequence[str], **options: Any) -> list[Verdict]:
        graded = working(problems, texts, reasons, **options)
        first = not seen
        seen.append(len(graded))
        return [Verdict("ungraded", "timeout"), *graded[1:]] if first else graded

    monkeypatch.setattr(module, "grade_rollouts", once)
    report = run(benchmark_, EvalProtocol(samples=4), ungraded_limit=0.1)
    assert report.counts["greedy"]["ungraded"] == 1
    assert seen == [3, 12]
    seen.clear()
    with pytest.raises(GradingFault, match="1 of 15"):
        run(benchmark_, EvalProtocol(samples=4), ungraded_limit=0.05)


def test_metrics_may_be_asked_for(benchmark_: Benchmark) -> None:
    report = run(benchmark_, EvalProtocol(samples=4), metrics=["pass@3", "maj@4", "maj@3", "avg@4"])
    assert list(report.metrics) == ["greedy", "avg@4", "pass@2", "pass@4", "pass@3", "maj@4", "maj@3"]
    # b says 6, 5, 6 and nothing: 6 wins all four, and of the subsets of three {6, 5, nothing} (twice) is a tie.
    assert report.metrics["maj@4"].value == pytest.approx((1 + 0 + 0) / 3)
    assert report.metrics["maj@3"].value == pytest.approx((1 + 2 * 0.5 / 4 + 0) / 3)
    assert report.metrics["pass@3"].value == pytest.approx((1 + 0.75 + 0) / 3)
    assert report.protocol == run(benchmark_, EvalProtocol(samples=4)).protocol
    evaluation_from_report(report, "samples.jsonl.gz", "0" * 64)


@pytest.mark.parametrize(
    ("metric", "said"),
    [("pass@5", "does not fit"), ("avg@3", "does not fit"), ("maj@2:first", "unknown metric"), ("other", "without samples")],
)
def test_a_metric_that_does_not_fit_is_refused_before_sampling(benchmark_: Benchmark, metric: str, said: str) -> None:
    engine = CountingEngine(SCRIPT)
    with pytest.raises(UserError, match=said):
        run(benchmark_, EvalProtocol(samples=4), engine, metrics=[metric])
    assert engine.calls == 0


def test_programs_have_no_majority(benchmark_: Benchmark) -> None:
    programs = replace(benchmark_, problems=tuple(replace(p, grader="code") for p in benchmark_.problems))
    with pytest.raises(UserError, match=r"maj@4 is not defined where there are no answers to compare: 'arith'; use pass@k"):
        metrics_of(EvalProtocol(samples=4), programs, ["maj@4"])
    assert "maj@4" in metrics_of(EvalProtocol(samples=4), benchmark_, ["maj@4"])


def test_a_report_whose_counts_do_not_add_up_is_not_made(benchmark_: Benchmark) -> None:
    samples = run(benchmark_, EvalProtocol(samples=4)).samples
    rows = samples["sampled"]
    for broken in (
        rows[:-1],
        (*rows, replace(rows[0], sample_index=4)),
        (*rows[:-1], rows[0]),
        (*rows[:-1], replace(rows[-1], outcome="lost")),
    ):
        with pytest.raises(ValueError, match="verdicts of sampled do not add up"):
            build_report(benchmark_, EvalProtocol(samples=4), {"strict": {**samples, "sampled": broken}}, wall_s=0.0)


def test_empty_benchmark_and_empty_protocol(benchmark_: Benchmark) -> None:
    with pytest.raises(UserError, match="has no problems"):
        run(replace(benchmark_, problems=()), EvalProtocol())
    with pytest.raises(UserError, match="nothing to evaluate"):
        run(benchmark_, EvalProtocol(samples=0, greedy=False))
    with pytest.raises(UserError, match="samples"):
        parse_config(EvalProtocol, {"samples": -1})


# ------------------------------------------------------------------------------------- a real policy


@pytest.fixture(scope="module")
def policy(request: pytest.FixtureRequest) -> LoadedPolicy:
    """The embedded policy, or a random one in a checkout without it."""
    if (ASSETS_DIR / "tiny" / "config.json").is_file():
        return load_policy("tiny")
    return load_policy(request.getfixturevalue("policy_folder"))


def test_the_same_seed_gives_the_same_samples_in_any_chunks(policy: LoadedPolicy, arith: Benchmark) -> None:
    protocol = EvalProtocol(samples=2, greedy=False, max_new_tokens=24, limit=5)
    first = evaluate_policy(policy, arith, protocol)
    assert without_time(evaluate_policy(policy, arith, protocol, chunk_rows=2)) == without_time(first)
    other = evaluate_policy(policy, arith, EvalProtocol(**{**protocol.model_dump(), "seed": 1}))
    assert other.samples != first.samples
    texts = [row.text for row in first.samples["sampled"]]
    assert len(set(texts)) > 5


@pytest.mark.parametrize(("name", "limit", "max_new_tokens"), [("arith", 8, 96), ("minicode", 4, 96)])
def test_plain_lm_eval_gives_the_same_texts_and_verdicts(
    policy: LoadedPolicy, name: str, limit: int, max_new_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager

    hf_model: Any = huggingface.HFLM  # its decorated constructor has no types
    monkeypatch.setenv("REPIRL_ALLOW_WEAK_SANDBOX", "1")
    benchmark = load_benchmark(name)
    protocol = EvalProtocol(samples=0, max_new_tokens=max_new_tokens, limit=limit)
    ours = evaluate_policy(policy, benchmark, protocol, allow_weak_sandbox=True).samples["greedy"]
    output: Any = simple_evaluate(
        model=hf_model(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=limit, device="cpu"),
        tasks=[name],
        task_manager=TaskManager(include_path=str(content_dir("benchmarks")), include_defaults=False),
        limit=limit,
        gen_kwargs=f"max_gen_toks={max_new_tokens}",
        bootstrap_iters=0,
    )
    assert output is not None
    theirs = sorted(output["samples"][name], key=lambda sample: sample["doc_id"])
    assert [sample["arguments"][0][0] for sample in theirs] == [p.prompt for p in benchmark.problems[:limit]]
    assert [sample["resps"][0][0] for sample in theirs] == [row.text for row in ours]
    assert [sample["acc"] for sample in theirs] == [float(row.outcome == "correct") for row in ours]
    assert output["results"][name]["acc,none"] == sum(row.outcome == "correct" for row in ours) / limit
    if policy.name == "tiny":
        assert any(row.outcome == "correct" for row in ours)
    json.dumps(output["results"])
