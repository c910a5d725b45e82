"""Runs by name, for `repirl compare`: records, run folders, and folders that `repirl eval --out` filled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repirl.errors import UserError
from repirl.types import Budget

if TYPE_CHECKING:
    from repirl.evals.compare import OtherRun
    from repirl.records.store import StoredRun

_TODO = "give a folder, SUITE/LABEL-sSEED, the start of a record's id, SUITE:LABEL, or a folder in runs/"


@dataclass(frozen=True, slots=True)
class Side:
    """A run (or the same with several seeds): dotted setting -> value, the evaluations of each seed by benchmark, and costs."""

    name: str
    settings: Mapping[str, Any]
    costs: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, OtherRun]] = ()
    seeds: Sequence[int] = ()


def open_side(name: str) -> Side:
    """What NAME says: a path that is there first, then a folder in `runs/`, then records. UserError if it is none of these."""
    from repirl.learn.checkpoint import CONFIG_FILE
    from repirl.records.store import RECORD_FILE, load
    from repirl.rollouts.pool import samples_file

    for path in (Path(name), Path("runs") / name):
        folder = path.parent if path.name == RECORD_FILE else path
        if (folder / RECORD_FILE).is_file():
            return _of_records(name, [load(folder)])
        if (folder / CONFIG_FILE).is_file():
            return _of_run(name, folder)
        if folder.is_dir() and (kept := sorted(folder.glob(samples_file(Path(), "*").name))):
            return _of_samples(name, kept)
    return _of_records(name, _records(name))


def _records(name: str) -> list[StoredRun]:
    """The records that a short name means: of several seeds for SUITE:LABEL, else one."""
    from repirl.paths import results_dir
    from repirl.records.store import RECORD_FILE, find, load, suites_with_records

    suite, colon, label = name.partition(":")
    if colon:
        label, _, stage = label.partition(":")
        runs = [run for run in find(suite) if run.record.label == label and stage in ("", run.record.stage)]
        stages = dict.fromkeys(run.record.stage for run in runs)
        if len(stages) > 1:
            raise UserError(
                "the label has runs of several stages", name, f"add one of {', '.join(f':{one}' for one in stages)}"
            )
        latest = {run.record.seed: run for run in sorted(runs, key=lambda run: run.record.created_utc)}
        if not latest:
            raise UserError("no records of that suite and label", name, _TODO)
        return [latest[seed] for seed in sorted(latest)]
    suite, _, start = name.rpartition("/")
    folders = [one for known in ([suite] if suite else suites_with_records()) for one in (results_dir() / known).glob("*-s*")]
    folders = [one for one in folders if (one / RECORD_FILE).is_file()]
    label, _, seed = start.rpartition("-s")
    matching = [one for one in folders if one.name == start]
    matching = matching or [one for one in folders if start and one.name.startswith(start)]
    matching = matching or [one for one in folders if label and _is_run(one.name, label, seed)]
    if len(matching) != 1:
        what = "several records are meant by" if matching else "no such run"
        examples = ", ".join(f"{one.parent.name}/{one.name}" for one in sorted(matching)[:3])
        raise UserError(what, name, f"name one: {examples}" if matching else _TODO)
    return [load(matching[0])]


def _is_run(run_id: str, label: str, seed: str) -> bool:
    """Whether a record's id `LABEL-STAGE-sSEED-DIGEST` is of that label and seed, whatever the stage."""
    key, _, _ = run_id.rpartition("-")
    return key.startswith(f"{label}-") and key.endswith(f"-s{seed}") and key.count("-") == label.count("-") + 2


def _of_records(name: str, runs: Sequence[StoredRun]) -> Side:
    from repirl.evals.compare import OtherRun

    record = runs[0].record
    settings: dict[str, Any] = {
        "method": record.method,
        "recipe": record.recipe,
        "stage": record.stage,
        "policy": record.base_policy.name,
    }
    if len(runs) == 1:
        settings["seed"] = record.seed
    evaluations = [
        {
            one.benchmark: OtherRun(name, one.card_digest, one.data_digest, one.protocol, run.samples(one))
            for one in run.record.evaluations
        }
        for run in runs
    ]
    costs = [_costs(asdict(run.record.budget), run.record.diagnostics) for run in runs]
    mean = {key: sum(one[key] for one in costs) / len(costs) for key in costs[0] if all(key in one for one in costs)}
    everything = settings | _flat(record.config) | _flat({"runtime": record.runtime or {}})
    return Side(name, everything, mean, evaluations, [run.record.seed for run in runs])


def _of_run(name: str, folder: Path) -> Side:
    """A run folder of `repirl train`: settings, and costs of it and of its phases; its policy is evaluated by
    `repirl eval --out`."""
    from repirl.learn.checkpoint import CONFIG_FILE, DONE_FILE

    identity = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    settings = _flat({key: value for key, value in identity.items() if key != "config"}) | _flat(identity.get("config", {}))
    done = folder / DONE_FILE
    if not done.is_file():
        return Side(name, settings)  # not finished
    summary, *phases = [json.loads(file.read_text(encoding="utf-8")) for file in (done, *folder.glob(f"*/{DONE_FILE}"))]
    budget = sum((Budget(**phase["budget"]) for phase in phases), Budget(**summary["budget"]))
    return Side(name, settings, _costs(asdict(budget), summary["diagnostics"]))


def _of_samples(name: str, kept: Sequence[Path]) -> Side:
    from repirl.evals.compare import other_from_file

    prefix = len("evaluation-")
    found = {path.stem[prefix:]: other_from_file(name, path) for path in kept}
    one = next(iter(found.values()))
    tokens = sum(row.num_tokens for run in found.values() for rows in run.samples.values() for row in rows)
    return Side(
        name,
        {"policy": one.policy_digest, **one.sampling},
        {"generated tokens of the evaluation": tokens},
        [found],
        [int(one.sampling["seed"])],
    )


def _costs(budget: Mapping[str, Any], diagnostics: Mapping[str, Any]) -> dict[str, Any]:
    """What training took, and its accuracy on the validation problems where they chose a checkpoint."""
    named = {"best_validation_accuracy": "kept validation accuracy", "best_step": "kept step"}
    kept = {said: diagnostics[key] for key, said in named.items() if diagnostics.get(key) is not None}
    return {key.replace("_", " "): value for key, value in budget.items() if value} | kept


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) and value else {f"{before}{key}": value}
    return found
