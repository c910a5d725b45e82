"""Records of a suite -> a board: which runs are one row, and what each row measured, cost and kept.

A row is one (label, method, recipe, stage, config, base policy); its runs differ in the seed only. A column is one (benchmark,
metric) under one card, data and protocol digest: numbers with different digests never share a column (docs/design.md rule 7).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from repirl.bench.known import settings_digest
from repirl.bench.suites import Contrast
from repirl.errors import UserError
from repirl.records.schema import RunRecord, run_key
from repirl.records.store import StoredRun
from repirl.reporting.board import Board, Cell, Checkpoints, Column, Cost, Rank, Row, primary
from repirl.reporting.comparing import Numbers, baseline_of, stated_differences
from repirl.reporting.measuring import Protocols, measure
from repirl.reporting.ranking import ranks
from repirl.types import Budget


class _Key(NamedTuple):
    """What the runs of a row have in common."""

    label: str
    method: str
    recipe: str
    stage: str
    config_digest: str
    base_digest: str
    runtime: str


def collect(
    suite: str,
    runs: Sequence[StoredRun],
    contrasts: Sequence[Contrast] = (),
    baseline: str | None = None,
    evaluated: frozenset[tuple[str, str]] | None = None,
    title: str = "",
    settings: Mapping[str, tuple[str, ...]] | None = None,
) -> Board:
    """The board of `runs`, with the differences that the suite states. UserError when rows do not bear out a record.

    `title` and `settings` (see `Board`) are what the suite says. `evaluated`: only columns of these (kind, benchmark or set);
    None: of all that the records have.
    """
    lineage = _Lineage(runs)
    _check_seeds(runs)
    latest, superseded = _latest(runs, lineage)
    groups: dict[_Key, list[StoredRun]] = defaultdict(list)
    for run in latest:
        groups[_key(run.record, lineage)].append(run)
    protocols: Protocols = {}
    rows, numbers = [], []
    for key, members in groups.items():
        members.sort(key=lambda run: run.record.seed)
        rows.append(_row(key, members, lineage))
        numbers.append(measure(members, protocols))
    rows = _named(rows)
    if evaluated is not None:
        numbers = [{c: v for c, v in one.items() if (c.kind, c.benchmark) in evaluated} for one in numbers]
    found = {column for one in numbers for column in one}
    columns = tuple(sorted(found, key=_place))
    rows = _with_cells(rows, numbers, columns, baseline)
    order = sorted(range(len(rows)), key=lambda i: _standing(rows[i], columns))
    rows, numbers = [rows[i] for i in order], [numbers[i] for i in order]
    differences = stated_differences(rows, numbers, columns, contrasts)
    return Board(
        suite, title, columns, tuple(rows), differences, tuple(superseded), protocols, baseline, settings or {}, len(contrasts)
    )


def _place(column: Column) -> tuple[Any, ...]:
    """Policies' numbers first, then those of judged sets, of scaling, of search, of attacks."""
    kind = ("policy", "judge", "scale", "search", "attack").index(column.kind)
    return kind, column.benchmark, column.metric != "greedy", column.metric, *_digests(column)


def _check_seeds(runs: Sequence[StoredRun]) -> None:
    """UserError if a run was evaluated with another's seed: evaluation seeds of a suite keep one distance from its runs'."""
    distances: dict[int, str] = {}
    for run in runs:
        for evaluation in run.record.evaluations:
            if isinstance(seed := evaluation.protocol.get("seed"), int):
                distances.setdefault(seed - run.record.seed, run.record.run_id)
    if len(distances) > 1:
        a, b = list(distances.values())[:2]
        raise UserError("the seeds of two records do not fit those of their evaluations alike", f"{a}, {b}", "restore them")


def budget_fields() -> tuple[str, ...]:
    return tuple(field.name for field in fields(Budget))


class _Lineage:
    """Where runs come from. Records of schema 1 do not say it all: there the suite's own record of the parent does."""

    def __init__(self, runs: Iterable[StoredRun]) -> None:
        ordered = sorted(runs, key=lambda run: (run.record.created_utc, run.record.run_id))
        self.by_key = {run.record.key: run.record for run in ordered}

    def _parent(self, record: RunRecord) -> RunRecord | None:
        return None if record.after is None else self.by_key.get(run_key(record.label, record.after, record.seed))

    def root(self, record: RunRecord) -> str:
        """Digest of the policy from which the first stage started; the base policy's name where nothing tells it."""
        if record.base_policy.root_digest is not None:
            return record.base_policy.root_digest
        if record.after is None:
            return record.base_policy.digest
        parent = self._parent(record)
        return record.base_policy.name if parent is None else self.root(parent)

    def parents_cost(self, record: RunRecord) -> Budget | None:
        """All that the earlier stages cost, and the run whose reward pays; None if that is not known."""
        if record.parents is not None:
            earlier = [*record.parents, *([] if record.reward_run is None else [record.reward_run])]
            budgets = [one.budget + (one.validation_budget or Budget()) for one in earlier]
            return sum(budgets, Budget())
        parent = self._parent(record)
        before = None if parent is None else self.parents_cost(parent)
        if parent is None or before is None:
            return None
        return before + parent.budget + (parent.validation_budget or Budget())


def _key(record: RunRecord, lineage: _Lineage) -> _Key:
    return _Key(
        record.label,
        record.method,
        record.recipe,
        record.stage,
        settings_digest(record),
        base_digest=lineage.root(record),
        runtime=_runtime(record),
    )


def _runtime(record: RunRecord) -> str:
    """What of the runtime changes the result, in words: `LoRA rank 16, bfloat16`; empty for float32 and torch."""
    said = record.runtime or {}
    lora, dtype, engine = said.get("lora"), said.get("dtype", "float32"), said.get("engine", "torch")
    words = [f"LoRA rank {lora['rank']}, alpha {lora['alpha']}"] if isinstance(lora, dict) else []
    words += [str(dtype)] if dtype != "float32" else []
    return ", ".join(words + ([f"sampled by {engine}"] if engine != "torch" else []))


def _digests(column: Column) -> tuple[str, str, str]:
    return column.card_digest, column.data_digest, column.protocol_digest


def _latest(runs: Iterable[StoredRun], lineage: _Lineage) -> tuple[list[StoredRun], list[StoredRun]]:
    """Of runs with the same settings and seed the latest; and the others."""
    shown: dict[tuple[object, ...], StoredRun] = {}
    superseded: list[StoredRun] = []
    for run in sorted(runs, key=lambda run: (run.record.created_utc, run.record.run_id)):
        key = (*_key(run.record, lineage), run.record.seed)
        if key in shown:
            superseded.append(shown[key])
        shown[key] = run
    return list(shown.values()), superseded


def _row(key: _Key, runs: Sequence[StoredRun], lineage: _Lineage) -> Row:
    records = [run.record for run in runs]
    cost = Cost(
        training=_mean([record.budget for record in records]),
        validation=_mean_if_known([record.validation_budget for record in records]),
        parents=_mean_if_known([lineage.parents_cost(record) for record in records]),
    )
    newest = max(records, key=lambda record: record.created_utc)
    return Row(
        **key._replace(config_digest=newest.config_digest)._asdict(),
        name=key.label,
        base=records[0].base_policy.root_name or records[0].base_policy.name,
        kind=records[0].kind,
        runs=tuple(runs),
        cost=cost,
        checkpoints=_checkpoints(runs),
        cells={},
    )


def _mean(budgets: Sequence[Budget]) -> dict[str, float]:
    return {name: float(np.mean([getattr(budget, name) for budget in budgets])) for name in budget_fields()}


def _mean_if_known(budgets: Sequence[Budget | None]) -> dict[str, float] | None:
    known = [budget for budget in budgets if budget is not None]
    return _mean(known) if len(known) == len(budgets) else None


# ------------------------------------------------------------------------------------------ checkpoints


def _checkpoints(runs: Sequence[StoredRun]) -> Checkpoints | None:
    """From each run's curve, or, where none was kept, its diagnostics; None if no run chose a checkpoint."""
    chosen = [_step(run.record.diagnostics.get("best_step")) for run in runs]
    if all(step is None for step in chosen):
        return None
    accuracies = [_accuracies(run, step) for run, step in zip(runs, chosen, strict=True)]
    means = [None if None in values else float(np.mean(values)) for values in zip(*accuracies, strict=True)]
    return Checkpoints(tuple(chosen), tuple(_step(run.record.diagnostics.get("step")) for run in runs), *means)


def _step(value: float | None) -> int | None:
    return None if value is None else int(value)


def _accuracies(run: StoredRun, chosen: int | None) -> tuple[float | None, float | None, float | None]:
    """Validation accuracy at the start, at the chosen step, and at the last one."""
    diagnostics = run.record.diagnostics
    best = diagnostics.get("best_validation_accuracy")
    last = diagnostics.get("last_validation_accuracy", diagnostics.get("validation_accuracy"))
    seen = {line["step"]: line["validation_accuracy"] for line in run.curve() if "validation_accuracy" in line}
    if not seen or chosen is None:
        return best if chosen == 0 else None, best, last
    return seen.get(0), seen.get(chosen), seen[max(seen)]


# ---------------------------------------------------------------------------------------- names, cells


def _named(rows: Sequence[Row]) -> list[Row]:
    """Rows with names that tell them apart within their stage, and base policies of different weights likewise."""
    bases = {row.base_digest: row.base for row in rows}
    shown = {
        digest: name if list(bases.values()).count(name) == 1 else f"{name} `{digest[:6]}`" for digest, name in bases.items()
    }
    rows = [replace(row, base=shown[row.base_digest]) for row in rows]
    return [replace(row, name=_name(row, [other for other in rows if other.stage == row.stage])) for row in rows]


def _name(row: Row, rows: Sequence[Row]) -> str:
    twins = [other for other in rows if other.label == row.label]
    name = row.label
    if len({other.base_digest for other in twins}) > 1:
        name += f" from {row.base}"
        twins = [other for other in twins if other.base_digest == row.base_digest]
    if len({(other.method, other.recipe) for other in twins}) > 1:
        name += f" ({row.method}, {row.recipe})"
        twins = [other for other in twins if (other.method, other.recipe) == (row.method, row.recipe)]
    if len({other.runtime for other in twins}) > 1:
        name += f" ({row.runtime or 'all weights, float32'})"
        twins = [other for other in twins if other.runtime == row.runtime]
    return name if len(twins) == 1 else f"{name} `{row.config_digest[:6]}`"


def _with_cells(rows: Sequence[Row], numbers: Numbers, columns: Sequence[Column], baseline: str | None) -> list[Row]:
    placed = _ranks(rows, numbers, columns)
    filled = []
    for i, row in enumerate(rows):
        partner = baseline_of(row, rows, baseline)
        cells = {}
        for column, own in numbers[i].items():
            other = None if partner is None else numbers[partner].get(column)
            cells[column] = Cell(
                interval=own.values.interval(),
                runs=tuple(run for run in row.runs if run.record.seed in own.values.seeds),
                rank=placed.get((i, column)),
                versus_baseline=None if other is None else own.values.minus(other.values),
                ungraded=own.ungraded,
                total=own.total,
            )
        filled.append(replace(row, cells=cells))
    return filled


def _ranks(rows: Sequence[Row], numbers: Numbers, columns: Sequence[Column]) -> dict[tuple[int, Column], Rank]:
    """Ranks within each stage, base policy and primary column: only there a row has a place.

    References have none: they mark the ends of the scale. Null rewards have: to be behind one
    must show.
    """
    rivals: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.kind != "reference":
            rivals[row.stage, row.base_digest].append(i)
    return {
        (i, column): rank
        for members in rivals.values()
        for column in primary(columns)
        if column.kind != "attack"  # what is raised more is not better
        for i, rank in ranks({i: numbers[i][column] for i in members if column in numbers[i]}).items()
    }


def _standing(row: Row, columns: Sequence[Column]) -> tuple[object, ...]:
    """Stages by length of their history, then the best first, by the first column that the row has."""
    first = next((i for i, column in enumerate(columns) if column in row.cells), len(columns))
    value = -row.cells[columns[first]].interval.value if first < len(columns) else 0.0
    return len(row.stage.split()), row.stage, first, value, row.label, row.recipe, row.config_digest, row.base_digest
