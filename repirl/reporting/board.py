"""What a suite's table holds: rows of runs, columns of numbers, cells with intervals, stated differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

from repirl.evals.attacks import SEARCH
from repirl.records.schema import Kind
from repirl.records.store import StoredRun
from repirl.stats import PairedDifference
from repirl.types import Interval

ALPHA = 0.05
"""A difference counts where its corrected p-value is below this."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a number is of: a benchmark's metric for policies, a step-labelled set's for process rewards (`judge`), what
    choosing among samples by a process reward gives (`scale`) or search steered by one (`search`), or by how much attacks
    raise one (`attack`).

    Numbers with different digests never share a column (docs/design.md rule 7). A judged set has no card. Judged
    sets' numbers are in percent, lifts of attacks in standard deviations, all others shares from 0 to 1.
    """

    benchmark: str
    metric: str
    card_digest: str
    data_digest: str
    protocol_digest: str
    kind: Literal["policy", "judge", "scale", "search", "attack"] = "policy"


@dataclass(frozen=True, slots=True)
class Rank:
    """Places `place` to `last`, from 1, among the `of` rows that it may be compared with: after all that are told apart and
    better, before all that are told apart and worse; one place where the row is told apart from all others."""

    place: int
    last: int
    of: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A number: mean over seeds with its two-level interval (no bounds if the metric has no per-sample values).

    `versus_baseline` is the paired difference from the board's baseline on the seeds that both have. `ungraded` and
    `total` count the samples behind it, or the solutions without scores and all. `runs` are those of the row that measured it.
    """

    interval: Interval
    runs: tuple[StoredRun, ...]
    rank: Rank | None
    versus_baseline: PairedDifference | None
    ungraded: int
    total: int

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.record.seed for run in self.runs)


@dataclass(frozen=True, slots=True)
class Cost:
    """Counters of a row's runs, each the mean over them.

    `validation` is what choosing the checkpoint cost, None where it is within `training` (schema 1). `parents` is what the
    earlier stages cost, all of it; None where that is not known.
    """

    training: Mapping[str, float]
    validation: Mapping[str, float] | None
    parents: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Which step each run of a row kept, and the validation accuracy, mean over runs, at three of them.

    None: not known, for at least one run.
    """

    chosen: tuple[int | None, ...]
    last: tuple[int | None, ...]
    accuracy_at_start: float | None
    accuracy_at_chosen: float | None
    accuracy_at_last: float | None

    @property
    def kept_the_start(self) -> bool:
        """No run has a checkpoint that beat the policy it started from: the row is that policy."""
        return all(step == 0 for step in self.chosen)


@dataclass(frozen=True, slots=True)
class Row:
    """One label as it was run: what is the same for its runs, which differ in the seed only and are sorted by it.

    `base` is the policy at the root of its stages, named so that different ones have different names; `base_digest` that of
    its weights. `runtime` says LoRA and precision, where it is not all weights in float32.
    `name` is the label, with what tells it from other rows of the stage where the label does not.
    """

    label: str
    method: str
    recipe: str
    stage: str
    config_digest: str
    base_digest: str
    runtime: str
    name: str
    base: str
    kind: Kind
    runs: tuple[StoredRun, ...]
    cost: Cost
    checkpoints: Checkpoints | None
    cells: Mapping[Column, Cell]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.record.seed for run in self.runs)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference that the suite states, in one column; `says` as in `bench.suites.Contrast`.

    `corrected_p` is the p-value after Holm's correction for all differences of the board.
    """

    better: Row
    worse: Row
    column: Column
    result: PairedDifference
    says: str
    corrected_p: float

    @property
    def stage(self) -> str:
        return self.better.stage

    @property
    def sign(self) -> Literal[-1, 0, 1]:
        """What is found: 1 for above 0, -1 for below; 0 where the interval has 0 in it or the corrected p-value is not below
        0.05."""
        low, high = self.result.interval.low, self.result.interval.high
        if low is None or high is None or self.corrected_p >= ALPHA:
            return 0
        return 1 if low > 0 else -1 if high < 0 else 0


@dataclass(frozen=True, slots=True)
class Board:
    """A suite's standing. `superseded`: runs of which a later one with the same settings and seed is shown. `settings`: what
    each label changes of its recipe, as the suite says it; `stated`: how many contrasts it has."""

    suite: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    superseded: tuple[StoredRun, ...]
    protocols: Mapping[str, Mapping[str, object]]
    baseline: str | None
    settings: Mapping[str, tuple[str, ...]]
    stated: int = 0

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.stage for row in self.rows))

    def rows_of(self, stage: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.stage == stage)

    def columns_of(self, stage: str) -> tuple[Column, ...]:
        """Columns in which some row of the stage has a number."""
        rows = self.rows_of(stage)
        return tuple(column for column in self.columns if any(column in row.cells for row in rows))

    def primary_of(self, stage: str) -> tuple[Column, ...]:
        """The one column by which each benchmark or set of the stage is read: see `primary`."""
        return primary(self.columns_of(stage))


def primary(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Of the columns of each benchmark under one protocol the mean of most samples (`avg@n`), of scaling the best of most
    samples, of search the widest, of attacks the search over tokens, else the first."""

    def place(column: Column) -> tuple[bool, int]:
        widest = column.metric.rpartition("-") if column.kind == "search" else None
        name, _, count = widest or column.metric.replace("best-of-", "best-of@").partition("@")
        return widest is not None or name in ("avg", "best-of", SEARCH), int(count) if count.isdigit() else 0

    tables: dict[tuple[object, ...], list[Column]] = {}
    for column in columns:
        tables.setdefault(astuple(replace(column, metric="")), []).append(column)
    return tuple(max(own, key=place) for own in tables.values())
