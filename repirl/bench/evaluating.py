"""The policy that a run left, on the benchmarks of its suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from repirl.bench.evaluations import PolicyEvaluation
from repirl.bench.suites import Suite, WorkItem
from repirl.engines.base import Engine
from repirl.engines.loading import LoadedPolicy, load_policy
from repirl.evals.policy import evaluate_policy
from repirl.evals.protocol import EvalProtocol
from repirl.methods.base import Fitted
from repirl.methods.runtime import opened_engine
from repirl.tasks.benchmarks import load_benchmark
from repirl.types import Report

POOLS = "pools"
"""Folder beside those of the runs: samples that all of them look at, with verdicts."""
OnPart = Callable[[str, int, int], None]
"""Called with a part's name and how much of it is done, of how much."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where evaluations find things: the run's folder, samples that all runs of the suite look at, the policy the run
    started from, further content, local data."""

    folder: Path
    pools: Path
    start: str
    include: tuple[str, ...] = ()
    data_dir: Path | None = None


def evaluate(item: WorkItem, suite: Suite, fitted: Fitted, sources: Sources, on_part: OnPart) -> list[Report]:
    """The policy on every benchmark of the suite, nothing without one; completions are kept in the run folder."""
    reports: list[Report] = []
    if fitted.policy_folder is None:
        return reports
    policies: dict[str, tuple[LoadedPolicy, Engine]] = {}
    with ExitStack() as opened:
        for name, evaluation in _named(suite, item.run.label):
            benchmark = load_benchmark(evaluation.benchmark, data_dir=sources.data_dir, include=sources.include)
            device = evaluation.device or suite.runtime.device
            if device not in policies:
                policy = load_policy(str(fitted.policy_folder), device=device)
                policies[device] = policy, opened.enter_context(opened_engine(policy, suite.runtime))
            policy, engine = policies[device]
            reports.append(
                evaluate_policy(
                    policy,
                    benchmark,
                    EvalProtocol(**evaluation.sampling(suite.eval_seed + item.seed)),
                    metrics=evaluation.metrics,
                    folder=sources.folder / "eval" / name,
                    engine=engine,
                    on_progress=lambda done, total, name=name: on_part(f"eval {name}", done, total),
                )
            )
    return reports


def _named(suite: Suite, label: str) -> Iterator[tuple[str, PolicyEvaluation]]:
    """Evaluations of a label's policies, with a name each: that of the benchmark, numbered from the second protocol on."""
    seen: list[str] = []
    for evaluation in suite.evaluations:
        if isinstance(evaluation, PolicyEvaluation):
            seen.append(evaluation.benchmark)
            count = seen.count(evaluation.benchmark)
            if evaluation.of is not None and label not in evaluation.of:
                continue
            yield evaluation.benchmark + (f" {count}" if count > 1 else ""), evaluation
