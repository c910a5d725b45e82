"""One run of a suite in its own process: fit, evaluate, write the record. Progress goes to stdout as JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repirl.bench import apart
from repirl.bench.evaluating import POOLS, Sources, evaluate
from repirl.bench.evaluations import SuiteEvaluation
from repirl.bench.rewards import attack_reward, judge_reward, scale_reward, search_reward
from repirl.bench.suites import Suite, WorkItem, load_suite, plan
from repirl.config import Config, digest_of, flat
from repirl.engines.loading import LoadedPolicy, folder_digest, policy_dir
from repirl.errors import EngineFault, GradingFault, NumericalFault, UserError
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.registry import load_method
from repirl.methods.runtime import start_policy
from repirl.methods.suited import sampling_of
from repirl.methods.trackers import Followed, known_trackers
from repirl.precision import training_in
from repirl.processes import die_with_parent
from repirl.records import store
from repirl.records.build import new_record
from repirl.records.provenance import portable
from repirl.records.schema import BasePolicy, ParentStage, RunRecord
from repirl.rollouts.prompts import plain_prompts


def run_item(
    item: WorkItem,
    suite: Suite,
    *,
    work: Path,
    results: Path | None,
    include: tuple[str, ...] = (),
    data_dir: Path | None = None,
    trackers: tuple[str, ...] = (),
    command: str = "",
) -> store.StoredRun:
    """Fit and evaluate one item and store its record; every finished part is kept in `work` and not done again."""
    method = load_method(item.run.method, include)
    config = placed = apart.configuration(item, method)
    folder = work / item.key
    parent = _parent(item, results)
    start = str(item.policy if parent is None else _left_policy(item, parent, work))
    places = apart.Places(work, results, include, data_dir, trackers)
    paying = None if item.reward_key is None else _record_of(item.reward_key, item, results)
    if item.run.problems is not None:
        _say(item, "train", 0, 1)
        reward = None if item.reward_key is None else apart.left_reward(item.reward_key, paying, work)
        placed = apart.train(item, suite, start, reward, places, lambda done, total: _say(item, "train", done, total))
    settings = {"suite": item.suite, "run": item.key} | dict(flat(config))
    observer = Followed(trackers, folder, settings, lambda said: _remark(item, said))
    with closing(observer), training_in(suite.runtime.dtype):
        policy = start_policy(start, suite.runtime, item.seed)
        if (said := _plain_parts(suite.evaluations_of(item.run.label), config, policy)) is not None:
            _remark(item, said)
        _say(item, "train", 0, 1)
        on_step = lambda step, steps, metrics: _say(item, "train", step, steps, metrics)
        fitted = method.fit(FitContext(policy, folder, item.seed, on_step, runtime=suite.runtime, observer=observer), placed)
    sources = Sources(folder, work / POOLS, start, include, data_dir)
    on_part = lambda part, done, total: _say(item, part, done, total)
    reports = evaluate(item, suite, fitted, sources, on_part)
    judgements = judge_reward(item, suite, fitted, sources, on_part)
    scalings = scale_reward(item, suite, fitted, sources, on_part)
    searches = search_reward(item, suite, fitted, sources, on_part)
    attacks = attack_reward(item, suite, fitted, sources, on_part)
    if item.run.problems is not None:
        curve, moved = apart.measured(item, suite, start, reports, places)
        fitted = replace(fitted, curve=curve, diagnostics={**fitted.diagnostics, **moved})
    record = _record(item, suite, method, config, policy, fitted, parent, paying, command)
    return store.write(record, reports, judgements, scalings, searches, attacks, curve=fitted.curve, root=results)


def _plain_parts(evaluations: Sequence[SuiteEvaluation], config: Config, policy: LoadedPolicy) -> str | None:
    """What of a run gives plain prompts to a policy that has a chat template, as a remark; None where nothing does."""
    sampled = sampling_of(config)
    parts = [] if sampled is None or sampled[1].chat_template else ["training"]
    parts += [one.title for one in evaluations if not getattr(one, "chat_template", True)]
    return plain_prompts(policy.tokenizer, ", ".join(parts)) if parts else None


def _parent(item: WorkItem, results: Path | None) -> RunRecord | None:
    """The latest record of the run that an item starts from, None if it starts from a policy by name."""
    return None if item.parent_key is None else _record_of(item.parent_key, item, results)


def _record_of(key: str, item: WorkItem, results: Path | None) -> RunRecord:
    """The latest record of a run that an item needs."""
    found = [run.record for run in store.find(item.suite, root=results) if run.record.key == key]
    if not found:
        raise UserError(f"{key}, which {item.key} needs, has no record", todo="run it first")
    return max(found, key=lambda record: record.created_utc)


def _left_policy(item: WorkItem, parent: RunRecord, work: Path) -> Path:
    """What the parent left in the work folder: the policy of which its record tells."""
    folder = work / parent.key / "policy"
    todo = f"give the work folder that has it, or take {parent.key} out of the results, so that it is trained again"
    if not folder.is_dir():
        raise UserError(f"{parent.key}, from which {item.key} starts, left no policy", str(folder), todo)
    if parent.policy_digest not in (None, folder_digest(folder)):
        raise UserError(f"the policy of {parent.key} is not the one of its record", str(folder), todo)
    return folder


def _record(
    item: WorkItem,
    suite: Suite,
    method: Method[Any],
    config: Config,
    policy: LoadedPolicy,
    fitted: Fitted,
    parent: RunRecord | None,
    paying: RunRecord | None,
    command: str,
) -> RunRecord:
    values = config.model_dump(mode="json")
    identity = digest_of([item.key, values, policy.digest, datetime.now(UTC).isoformat()])[:8]
    root = portable(item.policy)
    base = BasePolicy(
        name=root if parent is None else f"{root}, trained with {item.run.label} on {item.run.after}",
        digest=policy.digest,
        root_name=root,
        root_digest=policy.digest if parent is None else folder_digest(policy_dir(item.policy)),
    )
    return new_record(
        suite=item.suite,
        run_id=f"{item.key}-{identity}",
        label=item.run.label,
        method=item.run.method,
        kind=method.kind,
        recipe=item.run.recipe,
        seed=item.seed,
        stage=item.run.stage,
        after=item.run.after,
        config=values,
        base_policy=base,
        runtime=portable(suite.runtime.model_dump(mode="json")),
        budget=fitted.budget,
        validation_budget=fitted.validation_budget,
        parents=_stages_to(parent),
        reward_run=None if paying is None else _stage(paying),
        problems=None if item.run.problems is None else item.run.problems.model_dump(mode="json"),
        policy_digest=None if fitted.policy_folder is None else folder_digest(fitted.policy_folder),
        reward_digest=None if fitted.reward_folder is None else folder_digest(fitted.reward_folder),
        diagnostics=fitted.diagnostics,
        command=command,
    )


def _stages_to(parent: RunRecord | None) -> tuple[ParentStage, ...] | None:
    """The parent's earlier stages and the parent; None if its record does not tell of its own."""
    if parent is None:
        return ()
    if parent.parents is None:
        return None
    return (*parent.parents, _stage(parent))


def _stage(run: RunRecord) -> ParentStage:
    return ParentStage(key=run.key, run_id=run.run_id, budget=run.budget, validation_budget=run.validation_budget)


def _remark(item: WorkItem, said: str) -> None:
    """One line for the user by way of the parent."""
    print(json.dumps({"key": item.key, "part": "remark", "done": 1, "total": 1, "said": said}), flush=True)


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
    parser.add_argument("--log", default="")
    parser.add_argument("--command", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parent-pid", type=int)
    given = parser.parse_args()
    if given.parent_pid is not None:
        die_with_parent(given.parent_pid)
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
            trackers=tuple(known_trackers(given.log)),
            command=given.command,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (GradingFault, NumericalFault, EngineFault, OSError) as error:
        print(f"fault: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"key": item.key, "part": "done", "done": 1, "total": 1, "record": stored.record.run_id}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
