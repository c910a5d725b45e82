"""One run of a suite in its own process: fit, evaluate, write the record. Progress goes to stdout as JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repirl.bench.suites import Suite, WorkItem, load_suite, parent_key, plan
from repirl.config import Config, digest_of, with_overrides
from repirl.engines.loading import LoadedPolicy, load_policy
from repirl.errors import GradingFault, UserError
from repirl.evals.policy import EvalProtocol, evaluate_policy
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.registry import load_method
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.schema import BasePolicy, RunRecord
from repirl.tasks.benchmarks import load_benchmark
from repirl.types import Report


def run_item(
    item: WorkItem,
    suite: Suite,
    *,
    work: Path,
    results: Path | None,
    include: tuple[str, ...] = (),
    data_dir: Path | None = None,
    command: str = "",
) -> store.StoredRun:
    """Fit and evaluate one item and store its record; every finished part is kept in `work` and not done again."""
    method = load_method(item.run.method, include)
    config = with_overrides(method.recipe(item.run.recipe), list(item.run.set))
    folder = work / item.key
    policy = load_policy(str(_start(item, suite, work)))
    _say(item, "train", 0, 1)
    fitted = method.fit(
        FitContext(policy, folder, item.seed, lambda step, steps, metrics: _say(item, "train", step, steps, metrics)),
        config,
    )
    reports = _evaluate(item, suite, fitted, folder, include, data_dir)
    record = _record(item, suite, method, config, policy, fitted, command)
    return store.write(record, reports, root=results)


def _start(item: WorkItem, suite: Suite, work: Path) -> Path | str:
    """The policy an item starts from: the suite's, or what an earlier stage left in the work folder."""
    parent = parent_key(item)
    if parent is None:
        return suite.policy
    folder = work / parent / "policy"
    if not folder.is_dir():
        todo = f"give the work folder that has it, or take {parent} out of the results, so that it is trained again"
        raise UserError(f"{parent}, from which {item.key} starts, left no policy", str(folder), todo)
    return folder


def _evaluate(
    item: WorkItem, suite: Suite, fitted: Fitted, folder: Path, include: tuple[str, ...], data_dir: Path | None
) -> list[Report]:
    """The policy on every benchmark of the suite; completions are kept in the run folder."""
    policy = load_policy(str(fitted.policy_folder))
    reports = []
    for evaluation in suite.evaluations:
        benchmark = load_benchmark(evaluation.benchmark, data_dir=data_dir, include=include)
        protocol = EvalProtocol(**evaluation.sampling(suite.eval_seed + item.seed))
        reports.append(
            evaluate_policy(
                policy,
                benchmark,
                protocol,
                folder=folder / "eval" / evaluation.benchmark,
                on_progress=lambda done, total, name=evaluation.benchmark: _say(item, f"eval {name}", done, total),
            )
        )
    return reports


def _record(
    item: WorkItem,
    suite: Suite,
    method: Method[Any],
    config: Config,
    policy: LoadedPolicy,
    fitted: Fitted,
    command: str,
) -> RunRecord:
    values = config.model_dump(mode="json")
    identity = digest_of([item.key, values, policy.digest, datetime.now(UTC).isoformat()])[:8]
    name = suite.policy if item.run.after is None else f"{suite.policy}, trained with {item.run.method} on {item.run.after}"
    return new_record(
        suite=item.suite,
        run_id=f"{item.key}-{identity}",
        method=item.run.method,
        kind=method.kind,
        recipe=item.run.recipe,
        seed=item.seed,
        stage=item.run.stage,
        config=values,
        base_policy=BasePolicy(name=name, digest=policy.digest),
        budget=fitted.budget,
        diagnostics=fitted.diagnostics,
        command=command,
    )


_last_said = 0.0


def _say(item: WorkItem, part: str, done: int, total: int, metrics: dict[str, Any] | None = None) -> None:
    """One progress line for the parent, at most five a second."""
    global _last_said
    now = time.monotonic()
    if done < total and now - _last_said < 0.2:
        return
    _last_said = now
    shown = {k: round(v, 4) for k, v in (metrics or {}).items() if k in ("reward", "validation_accuracy", "loss") and v == v}
    print(json.dumps({"key": item.key, "part": part, "done": done, "total": total, **shown}), flush=True)


def main() -> int:
    """Entry point of the child process; exit codes as for the verbs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("suite")
    parser.add_argument("key")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--command", default="")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    include = tuple(given.include)
    try:
        suite = load_suite(given.suite, include)
        item = next(item for item in plan(given.suite, suite) if item.key == given.key)
        stored = run_item(
            item,
            suite,
            work=given.work,
            results=given.results,
            include=include,
            data_dir=given.data_dir,
            command=given.command,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except GradingFault as error:
        print(f"fault: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"key": item.key, "part": "done", "done": 1, "total": 1, "record": stored.record.run_id}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
