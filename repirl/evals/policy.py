"""A policy on a benchmark: sampled, every completion graded and kept; `report` makes the numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from repirl.config import Config
from repirl.engines.base import Engine, Request, SamplingParams
from repirl.errors import UserError
from repirl.evals.report import build_report, metrics_of
from repirl.evals.stored import StoredSamples
from repirl.grading.dispatch import check_ungraded, grade_rollouts
from repirl.rng import seed_for
from repirl.rollouts.prompts import encode_prompt
from repirl.tasks.benchmarks import Benchmark
from repirl.types import Problem, Report, Rollout, SampleRow, Verdict

if TYPE_CHECKING:
    from repirl.engines.loading import LoadedPolicy

GREEDY, SAMPLED = "greedy", "sampled"
CHUNK_ROWS = 512
# With fewer completions one failure of the grader would pass the limit.
_ROWS_BEFORE_STOPPING = 200

OnProgress = Callable[[int, int], None]


class EvalProtocol(Config):
    """How a policy is evaluated."""

    samples: int = Field(default=8, ge=0)
    """Completions of each problem at `temperature`; 0 for none."""
    temperature: float = Field(default=1.0, gt=0)
    greedy: bool = True
    """Also the one greedy completion of each problem."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """None: what the benchmark says."""
    seed: int = 0
    limit: int | None = Field(default=None, ge=1)
    """Only the first problems of the benchmark."""
    chat_template: bool = False

    def parts(self) -> dict[str, int]:
        """Protocol part -> completions of each problem."""
        parts = ({GREEDY: 1} if self.greedy else {}) | ({SAMPLED: self.samples} if self.samples else {})
        if not parts:
            raise UserError("nothing to evaluate", "samples=0, greedy=False", "ask for samples, or for greedy")
        return parts

    def metric_names(self) -> list[str]:
        """`greedy`; `avg@n`; for n > 1 also pass@2, pass@4, ... up to n (pass@1 is avg@n)."""
        names = [GREEDY] if self.greedy else []
        names += [f"avg@{self.samples}"] if self.samples else []
        return names + [f"pass@{2**i}" for i in range(1, max(1, self.samples).bit_length())]


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

    The same protocol gives the same samples whatever `chunk_rows` and the order of problems: each problem and sample
    has its own random stream. In `folder`, samples are stored as they come; a later call with the same policy, data
    and sampling settings takes them from there (also with more samples or another `limit`), and grades those again
    that could not be graded. `policy.digest` must be that of the weights for this to be right.
    `on_progress(done, total)` counts completions. `engine` defaults to a TorchEngine over the policy. `metrics` are
    reported besides those of the protocol (names as in `evals.metrics`).

    Raises UserError for an empty benchmark, an empty protocol, a metric that does not fit it or a folder of another
    evaluation; GradingFault if more than `ungraded_limit` of the completions could not be graded.
    """
    protocol = protocol or EvalProtocol()
    problems = benchmark.problems[: protocol.limit]
    if not problems:
        raise UserError("the benchmark has no problems", benchmark.name)
    metrics_of(protocol, benchmark, metrics)  # before anything is sampled
    max_new_tokens = protocol.max_new_tokens or benchmark.max_new_tokens
    sampled_with = {
        "policy": policy.digest,
        "card": benchmark.card.digest,
        "data": benchmark.data_digest,
        "max_new_tokens": max_new_tokens,
        "chat_template": protocol.chat_template,
        "temperature": protocol.temperature,
        "seed": protocol.seed,
    }
    if policy.dtype != "float32":
        sampled_with["dtype"] = policy.dtype
    store = StoredSamples(folder, benchmark.name, sampled_with)
    grader = _Grader(benchmark, allow_weak_sandbox)
    if engine is None:
        from repirl.engines.torch_engine import TorchEngine

        engine = TorchEngine(policy.model, policy.tokenizer)
    total = sum(protocol.parts().values()) * len(problems)
    done = 0
    for part, count in protocol.parts().items():
        params = SamplingParams(
            max_new_tokens,
            0.0 if part == GREEDY else protocol.temperature,
            stop=benchmark.stop,
            seed=seed_for(protocol.seed, "evaluation"),
        )
        _grade_again(store, part, problems, grader)
        done += sum(min(count, len(store.rows(part, p.id))) for p in problems)
        for chunk in _chunks(store, part, problems, count, chunk_rows):
            started = time.monotonic()
            requests = [
                Request(p.id, encode_prompt(policy.tokenizer, p.prompt, chat=protocol.chat_template), n, first)
                for p, n, first in chunk
            ]
            base = done
            report = None if on_progress is None else lambda rows, _, base=base: on_progress(base + rows, total)
            groups = engine.generate(requests, params, report)
            flat = [(p, rollout) for (p, _, _), group in zip(chunk, groups, strict=True) for rollout in group]
            store.add(part, grader.rows(flat), time.monotonic() - started)
            done += len(flat)
            seen = [row for p in problems for row in store.rows(part, p.id)]
            if len(seen) >= _ROWS_BEFORE_STOPPING:
                check_ungraded(_verdicts(seen), ungraded_limit)
    samples = {
        part: tuple(row for p in problems for row in store.rows(part, p.id)[:count]) for part, count in protocol.parts().items()
    }
    check_ungraded([v for rows in samples.values() for v in _verdicts(rows)], ungraded_limit)
    return build_report(benchmark, protocol, samples, wall_s=store.wall_s, metrics=metrics)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The completion up to its first stop string, which lm-eval leaves out before it grades."""
    for term in stop:
        if term:
            text = text.split(term)[0]
    return text


class _Grader:
    """Rollouts to graded rows."""

    def __init__(self, benchmark: Benchmark, allow_weak_sandbox: bool) -> None:
        self.stop, self.own = benchmark.stop, benchmark.grade
        self.allow_weak_sandbox = allow_weak_sandbox

    def rows(self, rollouts: Sequence[tuple[Problem, Rollout]]) -> list[SampleRow]:
        texts = [cut_at_stop(rollout.text, self.stop) for _, rollout in rollouts]
        reasons = [rollout.finish_reason for _, rollout in rollouts]
        verdicts = self.verdicts([problem for problem, _ in rollouts], texts, reasons)
        return [
            SampleRow(
                problem_id=problem.id,
                sample_index=rollout.sample_index,
                outcome=verdict.outcome,
                reason=verdict.reason,
                extracted=verdict.extracted,
                num_tokens=len(rollout.token_ids),
                text=text,
                level=problem.level,
                subject=problem.subject,
            )
            for (problem, rollout), text, verdict in zip(rollouts, texts, verdicts, strict=True)
        ]

    def verdicts(self, problems: Sequence[Problem], texts: Sequence[str], reasons: Sequence[str]) -> list[Verdict]:
        if self.own is not None:
            graded = self.own(problems, texts)
            return [Verdict("truncated") if r == "length" else v for v, r in zip(graded, reasons, strict=True)]
        return grade_rollouts(problems, texts, reasons, allow_weak_sandbox=self.allow_weak_sandbox)


def _grade_again(store: StoredSamples, part: str, problems: Sequence[Problem], grader: _Grader) -> None:
    """Stored samples without a verdict get another chance: what stopped an earlier run may have been mended."""
    failed = [(p, row) for p in problems for row in store.rows(part, p.id) if row.outcome == "ungraded"]
    if not failed:
        return
    started = time.monotonic()
    # An output cut by the token limit has the verdict `truncated`: these all stopped by themselves.
    verdicts = grader.verdicts([p for p, _ in failed], [row.text for _, row in failed], ["stop"] * len(failed))
    rows = [
        replace(row, outcome=verdict.outcome, reason=verdict.reason, extracted=verdict.extracted)
        for (_, row), verdict in zip(failed, verdicts, strict=True)
    ]
    store.add(part, rows, time.monotonic() - started)


def _chunks(
    store: StoredSamples, part: str, problems: Sequence[Problem], count: int, chunk_rows: int
) -> Iterator[list[tuple[Problem, int, int]]]:
    """(problem, missing samples, index of the first missing one), about `chunk_rows` samples at a time."""
    chunk: list[tuple[Problem, int, int]] = []
    for problem in problems:
        first = len(store.rows(part, problem.id))
        if first >= count:
            continue
        chunk.append((problem, count - first, first))
        if sum(n for _, n, _ in chunk) >= chunk_rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _verdicts(rows: Sequence[SampleRow]) -> list[Verdict]:
    return [Verdict(row.outcome, row.reason) for row in rows]
