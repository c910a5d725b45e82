"""Runs that train on a benchmark's problems in a process which cannot read the answers (`problems` of a suite's run)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repirl.bench.evaluating import POOLS
from repirl.bench.suites import Suite, WorkItem, plan
from repirl.config import Config, with_overrides
from repirl.engines.loading import folder_digest
from repirl.errors import UserError
from repirl.evals.adapting import PROBLEMS_FILE, OnProgress, answers_at, graded_curve, train_apart, transitions, write_problems
from repirl.evals.policy import evaluate_policy
from repirl.evals.protocol import EvalProtocol
from repirl.methods.base import Method
from repirl.methods.registry import load_method
from repirl.methods.runtime import Runtime, start_policy
from repirl.methods.suited import sampling_of
from repirl.paths import replace_file
from repirl.records.schema import RunRecord
from repirl.rewards.artifact import CONTRACT_FILE
from repirl.rewards.load import saved_at
from repirl.tasks.benchmarks import load_benchmark
from repirl.types import Report

BEFORE = "before"
"""Folder of what the start answered."""
VERDICTS = ("eval", "judge", "scale", "attack", BEFORE)
"""Folders of a run in which verdicts lie."""
CURVE = "graded.jsonl"


def configuration(item: WorkItem, method: Method) -> Config:
    """A run's configuration, as its record has it: without the places of its problems and of the reward that pays it."""
    return with_overrides(method.recipe(item.run.recipe), _settings(item))


def _settings(item: WorkItem) -> list[str]:
    settings = list(item.run.set)
    if item.run.problems is not None:
        source = "unlabelled" if item.run.problems.answers == "none" else "file"
        settings = [f"data.source={source}", "data.validation_problems=0", *settings]
    return settings


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie: work folders of all runs, records, further content, local data; and who is told of training."""

    work: Path
    results: Path | None
    include: tuple[str, ...]
    data_dir: Path | None
    trackers: tuple[str, ...] = ()


def train(
    item: WorkItem, suite: Suite, start: str, reward: Path | None, places: Places, on_progress: OnProgress | None = None
) -> Config:
    """Train in a process of its own, or go on; returns the configuration with the places in it, by which `fit` knows the
    finished run."""
    problems = item.run.problems
    assert problems is not None, "a run that trains apart has problems"
    folder = (places.work / item.key).resolve()
    file = folder / PROBLEMS_FILE
    card = load_benchmark(problems.benchmark, places.data_dir, places.include)
    folder.mkdir(parents=True, exist_ok=True)
    write_problems(file, card.problems[: problems.limit], problems.answers)
    settings = [*_settings(item), f"data.file={json.dumps(str(file))}"]
    settings += [] if reward is None else [f"reward={json.dumps(str(reward.resolve()))}"]
    arguments = [item.run.method, "--recipe", item.run.recipe, "--policy", start, "--seed", str(item.seed)]
    arguments += ["--out", str(folder), "--json", *_runtime(suite.runtime)]
    arguments += ["--log", ",".join(places.trackers)]
    arguments += [part for extra in places.include for part in ("--include", extra)]
    sampled = sampling_of(configuration(item, load_method(item.run.method, places.include)))
    if sampled is not None:
        arguments += ["--chat-template" if sampled[1].chat_template else "--no-chat-template"]
    arguments += [part for setting in settings for part in ("--set", setting)]
    runs = [places.work / one.key for one in plan(item.suite, suite)]  # those too that have not begun
    verdicts = [place / name for place in runs for name in (*VERDICTS, CURVE)]
    verdicts += [place / PROBLEMS_FILE for place in runs if place.resolve() != folder]  # some are told the answers
    verdicts += [places.work / POOLS, *([] if places.results is None else [places.results])]
    train_apart(arguments, answers_at(folder, places.data_dir, verdicts), on_progress)
    return with_overrides(load_method(item.run.method, places.include).recipe(item.run.recipe), settings)


def _runtime(runtime: Runtime) -> list[str]:
    said = ["--device", runtime.device, "--dtype", runtime.dtype, "--max-batch-rows", str(runtime.max_batch_rows)]
    said += [] if runtime.max_cache_tokens is None else ["--max-cache-tokens", str(runtime.max_cache_tokens)]
    said += ["--gradient-checkpointing"] if runtime.gradient_checkpointing else []
    if runtime.engine != "torch":
        given = {} if runtime.vllm is None else runtime.vllm.model_dump(mode="json", exclude_defaults=True)
        said += ["--engine", runtime.engine, *(part for name, value in given.items() for part in ("--vllm", f"{name}={value}"))]
    if runtime.ray is not None:
        given = runtime.ray.model_dump(mode="json", exclude_defaults=True) or {"samplers": runtime.ray.samplers}
        said += [part for name, value in given.items() for part in ("--ray", f"{name}={value}")]
    adapters = {"--lora-rank": runtime.lora, "--reward-lora-rank": runtime.reward_lora}
    used = {option: lora for option, lora in adapters.items() if lora is not None}
    if len(alphas := {lora.alpha for lora in used.values()}) > 1:
        todo = "give policy and reward the same alpha"
        raise UserError("a run apart from the answers has one alpha for all adapters", sorted(alphas), todo)
    said += [part for option, lora in used.items() for part in (option, str(lora.rank))]
    return said + [part for alpha in alphas for part in ("--lora-alpha", str(alpha))]


def left_reward(key: str, record: RunRecord | None, work: Path) -> Path:
    """The reward that a run left in the work folder: the one of which its record tells. UserError if it is not there."""
    folder = saved_at(work / key)
    todo = f"give the work folder that has it, or take {key} out of the results, so that it is trained again"
    if record is None or not (folder / CONTRACT_FILE).is_file():
        raise UserError(f"{key}, by whose reward others are paid, left none", str(folder), todo)
    if record.reward_digest not in (None, folder_digest(folder)):
        raise UserError(f"the reward of {key} is not the one of its record", str(folder), todo)
    return folder


def measured(
    item: WorkItem, suite: Suite, start: str, reports: Sequence[Report], places: Places
) -> tuple[Path, dict[str, float]]:
    """The metrics of training with the accuracy that it could not know, as a file; and how many problems were learned, kept,
    corrupted and never solved by greedy answers, on every benchmark of the suite."""
    assert item.run.problems is not None, "a run that trains apart has problems"
    folder = places.work / item.key
    curve = folder / CURVE
    lines = graded_curve(folder, load_benchmark(item.run.problems.benchmark, places.data_dir, places.include))
    replace_file(curve, lambda file: file.write("".join(json.dumps(line) + "\n" for line in lines).encode()))
    moved = {}
    policy = start_policy(start, Runtime(device=suite.runtime.device), item.seed)
    for report in reports:
        if "greedy" not in report.samples:
            continue
        card = load_benchmark(report.benchmark, places.data_dir, places.include)
        said = {name: value for name, value in report.protocol.items() if name in EvalProtocol.model_fields}
        protocol = EvalProtocol.model_validate({**said, "samples": 0})
        before = evaluate_policy(policy, card, protocol, folder=folder / BEFORE / report.benchmark)
        counts = transitions(before, report, [problem.id for problem in card.problems[: protocol.limit]])
        moved |= {f"{report.benchmark}/{name}": float(getattr(counts, name)) for name in counts.__slots__}
    return curve, moved
