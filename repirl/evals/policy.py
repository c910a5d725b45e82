"""A policy on a benchmark: sampled, every completion graded and kept; `report` makes the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repirl.engines.base import Engine, SamplingParams
from repirl.errors import UserError
from repirl.evals.extraction import flexibly_graded
from repirl.evals.protocol import GREEDY, EvalProtocol
from repirl.evals.report import build_report, has_answers, metrics_of
from repirl.grading.dispatch import check_ungraded, grade_rollouts
from repirl.processes import only_user_of
from repirl.rng import seed_for
from repirl.rollouts.collect import Collector, Decoding, Grader, OnProgress
from repirl.rollouts.pool import CHUNK_ROWS, SamplePool
from repirl.tasks.benchmarks import Benchmark
from repirl.tasks.training_sets import steps_right
from repirl.types import Problem, Report, SampleRow, Verdict

if TYPE_CHECKING:
    from repirl.engines.loading import LoadedPolicy


def evaluate_policy(
    policy: LoadedPolicy,
    benchmark: Benchmark,
    protocol: EvalProtocol | None = None,
    *,
    folder: Path | None = None,
    engine: Engine | None = None,
    on_progress: OnProgress | None = None,
    ungraded_limit: float = 0.02,
    allow_weak_sandbox: bool = False,
    chunk_rows: int = CHUNK_ROWS,
    metrics: Sequence[str] = (),
) -> Report:
    """Samples, grades, and reports.

    The same protocol gives the same samples whatever `chunk_rows` and the order of problems. In `folder`, samples are
    stored as they come; a later call with the same policy, data and sampling settings takes them from there (also with more
    samples or another `limit`). `policy.digest` must be that of the weights for this to be right. `on_progress(done, total)`
    counts completions. `engine` defaults to a TorchEngine over the policy. `metrics` are reported besides those of the
    protocol (names as in `evals.metrics`).

    Raises UserError for an empty benchmark, an empty protocol, a metric that does not fit it, a folder of another
    evaluation or one that another process uses; GradingFault if more than `ungraded_limit` of the completions could not be
    graded.
    """
    protocol = protocol or EvalProtocol()
    problems = benchmark.problems[: protocol.limit]
    if not problems:
        raise UserError("the benchmark has no problems", benchmark.name)
    metrics_of(protocol, benchmark, metrics)  # before anything is sampled
    if engine is None:
        from repirl.engines.torch_engine import TorchEngine

        engine = TorchEngine(policy.model, policy.tokenizer)
    with nullcontext() if folder is None else only_user_of(folder):
        pool = SamplePool(folder, benchmark.name, sampled_with(policy, benchmark, protocol))
        grader = benchmark_grader(benchmark, allow_weak_sandbox)
        parts = protocol.parts()
        total, before = sum(parts.values()) * len(problems), 0
        for part, count in parts.items():
            shown = None if on_progress is None else lambda done, _, base=before: on_progress(base + done, total)
            # The pool has the limit: a chunk can be too small for one of its own.
            decoding = Decoding(_params(part, benchmark, protocol), protocol.chat_template, ungraded_limit=None)
            pool.fill(
                part,
                Collector(policy.tokenizer, engine, grader, decoding),
                problems,
                count,
                seed_for(protocol.seed, "evaluation"),
                chunk_rows=chunk_rows,
                ungraded_limit=ungraded_limit,
                on_progress=shown,
            )
            before += count * len(problems)
    strict = {
        part: tuple(_with_steps(p, row) for p in problems for row in pool.rows(part, p.id)[:n]) for part, n in parts.items()
    }
    by_extraction = {"strict": strict}
    if has_answers(benchmark):
        by_extraction["flexible"] = flexibly_graded(problems, strict)
    for samples in by_extraction.values():
        check_ungraded([Verdict(row.outcome, row.reason) for rows in samples.values() for row in rows], ungraded_limit)
    return build_report(benchmark, protocol, by_extraction, wall_s=pool.wall_s, metrics=metrics)


def _with_steps(problem: Problem, row: SampleRow) -> SampleRow:
    """Samples that were kept before steps were checked are checked now."""
    return row if row.steps_right is not None else replace(row, steps_right=steps_right(problem, row.text))


def sampled_with(policy: LoadedPolicy, benchmark: Benchmark, protocol: EvalProtocol) -> dict[str, Any]:
    """What a pool of this evaluation's samples is bound to."""
    fingerprint = {
        "policy": policy.digest,
        "card": benchmark.card.digest,
        "data": benchmark.data_digest,
        "max_new_tokens": protocol.max_new_tokens or benchmark.max_new_tokens,
        "chat_template": protocol.chat_template,
        "temperature": protocol.temperature,
        "seed": protocol.seed,
    }
    return fingerprint if policy.dtype == "float32" else fingerprint | {"dtype": policy.dtype}


def _params(part: str, benchmark: Benchmark, protocol: EvalProtocol) -> SamplingParams:
    temperature = 0.0 if part == GREEDY else protocol.temperature
    return SamplingParams(protocol.max_new_tokens or benchmark.max_new_tokens, temperature, stop=benchmark.stop)


def benchmark_grader(benchmark: Benchmark, allow_weak_sandbox: bool = False) -> Grader:
    """The benchmark's own metric where it has one (a task of lm-eval), else the problems' graders."""

    def grade(problems: Sequence[Problem], completions: Sequence[str], finish_reasons: Sequence[str]) -> list[Verdict]:
        if benchmark.grade is None:
            return grade_rollouts(problems, completions, finish_reasons, allow_weak_sandbox=allow_weak_sandbox)
        graded = benchmark.grade(problems, completions)
        return [Verdict("truncated") if r == "length" else v for v, r in zip(graded, finish_reasons, strict=True)]

    return grade
