"""Records of a suite -> a board: rows of methods, columns of benchmark numbers, cells with intervals.

A row is one (method, recipe, stage, config); its runs differ in the seed only. A column is one (benchmark, metric)
under one card, data and protocol digest: numbers with different digests never share a column (DESIGN rule 7).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from repirl.errors import UserError
from repirl.evals.metrics import part_of, problem_values
from repirl.records.schema import EvaluationRecord, Kind, digest_without_seed, without_seed
from repirl.records.store import StoredRun
from repirl.stats import PairedDifference, paired_difference, seeded_interval
from repirl.types import Budget, Interval

BASELINE = "rloo"
MIN_SEEDS_FOR_RANK = 3


@dataclass(frozen=True, slots=True)
class Column:
    """What a number is of."""

    benchmark: str
    metric: str
    card_digest: str
    data_digest: str
    protocol_digest: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A number: mean over seeds with its two-level interval (no bounds if the metric has no per-sample values).

    `versus_baseline` is the paired difference from the row's baseline on the seeds that both have. `ungraded` and
    `total` count the samples behind it. `runs` are those of the row that measured it.
    """

    interval: Interval
    runs: tuple[StoredRun, ...]
    rank: int | None
    versus_baseline: PairedDifference | None
    ungraded: int
    total: int

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.record.seed for run in self.runs)


@dataclass(frozen=True, slots=True)
class Row:
    """One method as it was run, sorted by seed. `budget` maps each counter to its mean over runs."""

    method: str
    recipe: str
    stage: str
    config_digest: str
    kind: Kind
    runs: tuple[StoredRun, ...]
    budget: Mapping[str, float]
    cells: Mapping[Column, Cell]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.record.seed for run in self.runs)


@dataclass(frozen=True, slots=True)
class Difference:
    """A named comparison of two methods in one column."""

    better: str
    worse: str
    stage: str
    column: Column
    result: PairedDifference


@dataclass(frozen=True, slots=True)
class Board:
    """A suite's standing. `superseded`: runs of which a later one with the same settings and seed is shown."""

    suite: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    superseded: tuple[StoredRun, ...]
    protocols: Mapping[str, Mapping[str, object]]

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.stage for row in self.rows))

    def rows_of(self, stage: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.stage == stage)

    def columns_of(self, stage: str) -> tuple[Column, ...]:
        """Columns in which some row of the stage has a number."""
        rows = self.rows_of(stage)
        return tuple(column for column in self.columns if any(column in row.cells for row in rows))


@dataclass(frozen=True, slots=True)
class _Measured:
    """One row's numbers in one column: seed -> problem id -> value; or only the recorded means."""

    by_seed: dict[int, dict[str, float]]
    recorded: dict[int, float]
    ungraded: int
    total: int


_Key = tuple[str, str, str, str]


def collect(suite: str, runs: Sequence[StoredRun]) -> Board:
    """The board of `runs`. Raises UserError when a per-sample file does not bear out its record."""
    latest, superseded = _latest(runs)
    groups: dict[_Key, list[StoredRun]] = defaultdict(list)
    for run in latest:
        groups[_key(run)].append(run)
    protocols: dict[str, Mapping[str, object]] = {}
    measured: dict[_Key, dict[Column, _Measured]] = {}
    for key, members in groups.items():
        members.sort(key=lambda run: run.record.seed)
        measured[key] = _measure(members, protocols)
    rows = [
        Row(
            *key,
            kind=members[0].record.kind,
            runs=tuple(members),
            budget=_mean_budget([run.record.budget for run in members]),
            cells=_cells(key, members, measured),
        )
        for key, members in groups.items()
    ]
    found = {column for row in rows for column in row.cells}
    columns = tuple(sorted(found, key=lambda c: (c.benchmark, c.metric != "greedy", c.metric, *_digests(c))))
    rows = _ranked(rows, columns)
    rows.sort(key=lambda row: _standing(row, columns))
    return Board(suite, columns, tuple(rows), _claims(rows, columns), tuple(superseded), protocols)


def budget_fields() -> tuple[str, ...]:
    return tuple(field.name for field in fields(Budget))


def _key(run: StoredRun) -> _Key:
    record = run.record
    return record.method, record.recipe, record.stage, record.config_digest


def _digests(column: Column) -> tuple[str, str, str]:
    return column.card_digest, column.data_digest, column.protocol_digest


def _latest(runs: Iterable[StoredRun]) -> tuple[list[StoredRun], list[StoredRun]]:
    """Of runs with the same settings and seed the latest; and the others."""
    shown: dict[tuple[object, ...], StoredRun] = {}
    superseded: list[StoredRun] = []
    for run in sorted(runs, key=lambda run: (run.record.created_utc, run.record.run_id)):
        key = (*_key(run), run.record.seed)
        if key in shown:
            superseded.append(shown[key])
        shown[key] = run
    return list(shown.values()), superseded


def _measure(runs: Sequence[StoredRun], protocols: dict[str, Mapping[str, object]]) -> dict[Column, _Measured]:
    found: dict[Column, _Measured] = {}
    for run in runs:
        seed = run.record.seed
        for evaluation in run.record.evaluations:
            protocol = digest_without_seed(evaluation.protocol)
            protocols[protocol] = without_seed(evaluation.protocol)
            samples = run.samples(evaluation)
            for metric, recorded in evaluation.metrics.items():
                column = Column(evaluation.benchmark, metric, evaluation.card_digest, evaluation.data_digest, protocol)
                so_far = found.get(column, _Measured({}, {}, 0, 0))
                part = part_of(metric, samples)
                by_seed = so_far.by_seed
                if part is not None:
                    values = problem_values(metric, samples[part])
                    _must_agree(run, evaluation, metric, recorded.value, values)
                    by_seed = by_seed | {seed: values}
                counts = [evaluation.counts[part]] if part is not None else list(evaluation.counts.values())
                found[column] = _Measured(
                    by_seed,
                    so_far.recorded | {seed: recorded.value},
                    so_far.ungraded + sum(count.ungraded for count in counts),
                    so_far.total + sum(count.total for count in counts),
                )
    return found


def _must_agree(
    run: StoredRun, evaluation: EvaluationRecord, metric: str, recorded: float, values: Mapping[str, float]
) -> None:
    """The number in the record must follow from its samples; `maj@k` (random subsets) within 0.05."""
    again = float(np.nanmean(list(values.values())))
    if abs(again - recorded) > (0.05 if metric.startswith("maj@") else 1e-6):
        raise UserError(
            f"{metric} of {evaluation.benchmark} does not follow from the samples ({again:.6f} against {recorded:.6f})",
            f"{run.record.suite}/{run.record.run_id}",
        )


def _cells(key: _Key, runs: Sequence[StoredRun], measured: Mapping[_Key, Mapping[Column, _Measured]]) -> dict[Column, Cell]:
    baseline = _baseline(key, measured)
    cells: dict[Column, Cell] = {}
    for column, own in measured[key].items():
        if own.by_seed.keys() == own.recorded.keys():
            interval = seeded_interval(_grid([own.by_seed[seed] for seed in sorted(own.by_seed)]))
        else:
            interval = Interval(float(np.mean(list(own.recorded.values()))))
        other = measured[baseline].get(column) if baseline is not None and baseline != key else None
        versus = _paired(own, other) if other is not None else None
        having = tuple(run for run in runs if run.record.seed in own.recorded)
        cells[column] = Cell(interval, having, None, versus, own.ungraded, own.total)
    return cells


def _baseline(key: _Key, measured: Iterable[_Key]) -> _Key | None:
    """The row to compare with: same stage and, where there are several, same recipe; None if ambiguous."""
    candidates = [other for other in measured if other[0] == BASELINE and other[2] == key[2]]
    if len(candidates) > 1:
        candidates = [other for other in candidates if other[1] == key[1]]
    return candidates[0] if len(candidates) == 1 else None


def _paired(a: _Measured, b: _Measured) -> PairedDifference | None:
    """a - b over the seeds both have; None if they share none, or were not tested on the same problems."""
    seeds = sorted(a.by_seed.keys() & b.by_seed.keys())
    if not seeds or any(a.by_seed[seed].keys() != b.by_seed[seed].keys() for seed in seeds):
        return None
    if len({frozenset(a.by_seed[seed]) for seed in seeds}) > 1:
        return None
    return paired_difference(_grid([a.by_seed[seed] for seed in seeds]), _grid([b.by_seed[seed] for seed in seeds]))


def _grid(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    """[S, P] in the order of the problem ids; NaN where a seed has no such problem."""
    problems = sorted(set().union(*rows))
    return np.array([[row.get(problem, np.nan) for problem in problems] for row in rows])


def _mean_budget(budgets: Sequence[Budget]) -> dict[str, float]:
    return {name: float(np.mean([getattr(budget, name) for budget in budgets])) for name in budget_fields()}


def _ranked(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Ranks within each stage and column among rows of at least 3 seeds; equal values share a rank.

    References (the base, the oracle) have none: they mark the ends of the scale. Null rewards have: to be behind one
    must show.
    """
    ranks: dict[tuple[int, Column], int] = {}
    for column in columns:
        for stage in {row.stage for row in rows}:
            eligible = [
                index
                for index, row in enumerate(rows)
                if row.stage == stage
                and row.kind != "reference"
                and column in row.cells
                and len(row.cells[column].runs) >= MIN_SEEDS_FOR_RANK
            ]
            values = {index: rows[index].cells[column].interval.value for index in eligible}
            for index in eligible:
                ranks[index, column] = 1 + sum(value > values[index] for value in values.values())
    return [
        replace(row, cells={column: replace(cell, rank=ranks.get((i, column))) for column, cell in row.cells.items()})
        for i, row in enumerate(rows)
    ]


def _standing(row: Row, columns: Sequence[Column]) -> tuple[object, ...]:
    """Stages by length of their history, then the best first, by the first column that the row has."""
    values = [-row.cells[column].interval.value for column in columns if column in row.cells]
    return len(row.stage.split()), row.stage, values[:1] or [1.0], row.method, row.recipe, row.config_digest


def _claims(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[Difference, ...]:
    """The two differences that are printed with every table.

    Fit for purpose (DESIGN section 6): oracle - rloo, sampled accuracy on `arith`: the room in which process rewards
    compete. And the paper's claim: repirl - rloo, in every column.
    """
    found: list[Difference] = []
    for row in rows:
        for column in columns:
            cell = row.cells.get(column)
            if cell is None or cell.versus_baseline is None:
                continue
            room = row.method == "oracle" and column.benchmark == "arith" and column.metric.startswith("avg@")
            if room or row.method == "repirl":
                found.append(Difference(row.method, BASELINE, row.stage, column, cell.versus_baseline))
    return tuple(sorted(found, key=lambda difference: difference.better != "oracle"))
