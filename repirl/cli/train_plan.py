"""What `repirl train` would do: settings from a file, seeds, and the plan that `--dry-run` shows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repirl.errors import UserError

if TYPE_CHECKING:
    from repirl.config import Config
    from repirl.methods.runtime import Runtime

_ADAM_BYTES = 16
"""Of a trained weight in float32: itself, its gradient, and two moments."""


def settings_in(path: Path) -> dict[str, Any]:
    """Settings of a recipe in a TOML or JSON file, as `--print-config` prints them; UserError for a file that has none."""
    from repirl.files import parse, read_lines, read_toml

    found = read_toml(path) if path.suffix == ".toml" else parse("".join(read_lines(path)), path.name)
    if not isinstance(found, dict):
        raise UserError("a file of settings must be one JSON object, or TOML in a file *.toml", str(path))
    return found


def seeds_of(text: str) -> list[int]:
    """`0-4`, `0,2,5` or `0-2,7` as numbers, in order; UserError for anything else, or one that comes twice."""
    found = []
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        last = int(ends[2] or ends[1]) if ends else -1
        if ends is None or not int(ends[1]) <= last < int(ends[1]) + 1000:
            raise UserError("no list of seeds", text, "give something like 0-4 or 0,2,5")
        found += range(int(ends[1]), last + 1)
    if len(set(found)) < len(found):
        raise UserError("a seed comes twice", text, "give something like 0-4 or 0,2,5")
    return found


def plan(
    config: Config, model_config: Any, policy: str, runtime: Runtime, folders: Mapping[int, Path], *, with_reward: bool
) -> dict[str, Any]:
    """What a run would load, do, need and write; nothing is written, and no weights are loaded."""
    from repirl.engines.loading import load_config, num_parameters, policy_dir

    parameters = of_reward = num_parameters(model_config)
    trained = runtime.lora is None
    memory = {"policy": parameters * (_ADAM_BYTES if trained else 4)}
    base = getattr(getattr(config, "irl", None), "base", None)
    if base is not None:
        of_reward = num_parameters(load_config(policy_dir(base)))
    if with_reward:
        memory["reward"] = of_reward * (_ADAM_BYTES if runtime.reward_lora is None else 4)
    return {
        "policy": {"name": policy, "parameters": parameters},
        "reward": None if base is None else {"name": base, "parameters": of_reward},
        "data": _data(config),
        **_work(config),
        "memory_bytes": memory,
        "memory_of": "weights, gradients and optimiser in float32" + ("" if trained else " (adapters not counted)"),
        "runs": [{"seed": seed, "folder": str(folder), "state": _state(folder, config)} for seed, folder in folders.items()],
    }


def _data(config: Config) -> dict[str, Any] | None:
    """The training set: loaded, where it is made here or lies in a file; of one on the hub what is asked for."""
    from repirl.tasks.training_sets import FAMILIES, UNLABELLED, TrainingSetConfig, load_training_set

    asked = getattr(config, "data", None)
    if not isinstance(asked, TrainingSetConfig):
        return None
    if asked.source in (*FAMILIES, "file", UNLABELLED):
        data = load_training_set(asked)
        counts = {"problems": len(data.problems), "validation_problems": len(data.validation)}
        return {"source": asked.file or asked.source, **counts, "demonstrations": sum(map(len, data.demonstrations.values()))}
    where = asked.file or "the hub, or its cache"
    counts = {"problems": asked.num_problems, "validation_problems": asked.validation_problems}
    return {"source": f"{asked.source} from {where}", **counts, "demonstrations": None}


def _work(config: Config) -> dict[str, Any]:
    """Updates, and how many completions are sampled for them, for a pool before them, and for validation."""
    from repirl.methods.offline import PoolConfig
    from repirl.methods.rl import RLConfig

    loop: Any = config.loop if isinstance(config, RLConfig) else config
    steps = getattr(loop, "steps", None)
    if steps is None:
        return {"updates": 0, "samples": 0, "pool_samples": 0, "validation_samples": 0}
    sampling, validation, pool = loop.sampling, loop.validation, getattr(config, "offline", None)
    has_pool = isinstance(pool, PoolConfig) and getattr(pool, "updates", 1) and not getattr(config, "pool", None)
    looks = steps // validation.every + 1 + bool(steps % validation.every)
    held_out = min(validation.num_problems, getattr(getattr(config, "data", None), "validation_problems", 0))
    return {
        "updates": steps,
        "samples": steps * sampling.prompts_per_step * sampling.group_size if isinstance(config, RLConfig) else 0,
        "pool_samples": pool.problems * pool.samples if has_pool and isinstance(pool, PoolConfig) else 0,
        "validation_samples": looks * held_out * validation.samples,
    }


def _state(folder: Path, config: Config) -> str:
    """What lies in a run folder."""
    from repirl.learn.checkpoint import CONFIG_FILE, DONE_FILE, METRICS_FILE
    from repirl.methods.extending import extension_of

    kept = folder / CONFIG_FILE
    if not kept.is_file():
        return "new"
    stored, now = json.loads(kept.read_text(encoding="utf-8")).get("config"), config.model_dump(mode="json")
    if stored != now:
        steps = getattr(getattr(config, "loop", config), "steps", None)
        extension = None if steps is None else extension_of(config, steps)
        added = None if extension is None else extension.added({"config": stored}, {"config": now})
        if extension is None or added is None:
            return "holds a run with other settings"
        if extension.scheduled:
            names = ", ".join(extension.scheduled)
            return f"holds a run of {added[0]} steps, which cannot go on, as {names} depends on their number"
        return f"goes on from step {added[0]} to {added[1]}"
    if (folder / DONE_FILE).is_file():
        return "already done"
    log = folder / METRICS_FILE
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return f"begun, {len(lines)} lines of metrics" if lines else "begun"


def plan_lines(found: Mapping[str, Any]) -> str:
    """A plan as a user reads it."""
    policy, data = found["policy"], found["data"]
    lines = [f"loads:   policy {policy['name']}, {policy['parameters']:,} parameters"]
    if (start := found["reward"]) is not None:
        lines.append(f"         the reward's start {start['name']}, {start['parameters']:,} parameters")
    if data is not None:
        demos = "" if data["demonstrations"] is None else f", {data['demonstrations']:,} demonstrations"
        lines.append(
            f"         {data['problems']:,} problems of {data['source']}, {data['validation_problems']:,} held out{demos}"
        )
    lines.append(f"does:    {found['updates']:,} updates on {found['samples']:,} samples")
    if found["pool_samples"]:
        lines.append(f"         {found['pool_samples']:,} samples of a pool before them")
    lines.append(f"         {found['validation_samples']:,} samples for validation")
    memory = ", ".join(f"{name} {count / 2**20:,.0f} MiB" for name, count in found["memory_bytes"].items())
    lines.append(f"needs:   {memory} ({found['memory_of']}); activations and samples besides")
    lines += [f"writes:  {os.path.join(run['folder'], '')} (seed {run['seed']}): {run['state']}" for run in found["runs"]]
    return "\n".join([*lines, "nothing was done: --dry-run"])
