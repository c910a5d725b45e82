"""From records to numbers: each must follow from the rows beside its record, and keeps what comparing it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.evals import prm_quality as quality
from repirl.evals.attacks import lifts_by_problem
from repirl.evals.metrics import part_of, problem_values
from repirl.evals.scaling import BEST_OF_N, MAJORITY, RANDOM, WEIGHTED, candidates_of, title, values_by_problem
from repirl.evals.searched import searched_values
from repirl.records.measured import AttackRecord, Counts, EvaluationRecord, JudgementRecord, ScalingRecord, SearchRecord
from repirl.records.schema import comparable
from repirl.records.store import StoredRun
from repirl.reporting.board import Column
from repirl.rng import stream
from repirl.stats import (
    PairedDifference,
    difference_of_resamples,
    interval_of_resamples,
    paired_difference,
    resample_seeds,
    seeded_interval,
)
from repirl.tasks.prm_benchmarks import CONTROL
from repirl.tasks.step_labels import RIGHT_FROM
from repirl.types import AttackedRow, Interval, JudgedRow


class Values(Protocol):
    """One row's values in one column, by seed."""

    @property
    def seeds(self) -> set[int]: ...

    def interval(self) -> Interval:
        """Mean over seeds with a two-level bootstrap interval."""
        ...

    def minus(self, other: Values) -> PairedDifference | None:
        """The difference over the seeds both have; None if they share none, or were not tested on the same problems."""
        ...


@dataclass(frozen=True, slots=True)
class ProblemValues:
    """A policy's: seed -> problem id -> value."""

    by_seed: Mapping[int, Mapping[str, float]]

    @property
    def seeds(self) -> set[int]:
        return set(self.by_seed)

    def interval(self) -> Interval:
        return seeded_interval(_grid([self.by_seed[seed] for seed in sorted(self.by_seed)]))

    def minus(self, other: Values) -> PairedDifference | None:
        assert isinstance(other, ProblemValues), "values of one column are of one kind"
        seeds = sorted(self.seeds & other.seeds)
        tested = {frozenset(values.by_seed[seed]) for values in (self, other) for seed in seeds}
        if len(tested) != 1:
            return None
        a, b = (_grid([values.by_seed[seed] for seed in seeds]) for values in (self, other))
        return paired_difference(a, b)


@dataclass(frozen=True, slots=True)
class Headline:
    """A reward's number on a set, in percent, and its resamples float64 [R] over `problems`: the same draws for all rewards."""

    value: float
    draws_R: np.ndarray
    problems: int


@dataclass(frozen=True, slots=True)
class JudgedValues:
    """A process reward's: seed -> headline. (The column holds the set's digest: all are of the same solutions.)"""

    by_seed: Mapping[int, Headline]

    @property
    def seeds(self) -> set[int]:
        return set(self.by_seed)

    def interval(self) -> Interval:
        return interval_of_resamples(*self._over(sorted(self.by_seed)))

    def minus(self, other: Values) -> PairedDifference | None:
        assert isinstance(other, JudgedValues), "values of one column are of one kind"
        seeds = sorted(self.seeds & other.seeds)
        if not seeds:
            return None
        gaps = JudgedValues({seed: _gap(self.by_seed[seed], other.by_seed[seed]) for seed in seeds})
        return difference_of_resamples(*gaps._over(seeds), problems=gaps.by_seed[seeds[0]].problems, seeds=len(seeds))

    def _over(self, seeds: Sequence[int]) -> tuple[float, np.ndarray]:
        """Mean and resamples [R] over seeds; problems are drawn jointly for all of them."""
        by_seed_RS = np.stack([self.by_seed[seed].draws_R for seed in seeds], axis=1)
        value = float(np.mean([self.by_seed[seed].value for seed in seeds]))
        return value, resample_seeds(by_seed_RS, stream(0, "judge-bootstrap-seeds"))


def _gap(a: Headline, b: Headline) -> Headline:
    return Headline(a.value - b.value, a.draws_R - b.draws_R, a.problems)


@dataclass(frozen=True, slots=True)
class Measured:
    """One row's numbers in one column, and how many of the samples behind them are ungraded."""

    values: Values
    ungraded: int
    total: int


Protocols = dict[str, Mapping[str, object]]


def measure(runs: Sequence[StoredRun], protocols: Protocols) -> dict[Column, Measured]:
    """What the runs of one row measured; the protocols met are added to `protocols`, by digest.

    Raises UserError when a file of rows does not bear out its record.
    """
    found: dict[Column, Measured] = {}
    for run in runs:
        for evaluation in run.record.evaluations:
            _add_policy(run, evaluation, _protocol(evaluation.protocol, protocols), found)
        for judgement in run.record.judgements:
            _add_judged(run, judgement, _protocol(judgement.protocol, protocols), found)
        for scaling in run.record.scalings:
            _add_scaled(run, scaling, _protocol({**scaling.protocol, "policy": scaling.policy_digest}, protocols), found)
        for one in run.record.searches:
            _add_searched(run, one, _protocol({**one.protocol, "policy": one.policy_digest}, protocols), found)
        for one in run.record.attacks:
            _add_attacks(run, one, _protocol({**one.protocol, "policy": one.policy_digest}, protocols), found)
    return found


def _protocol(protocol: Mapping[str, object], protocols: Protocols) -> str:
    """Its digest."""
    said = comparable(protocol)
    protocols[digest := digest_of(said)] = said
    return digest


def _add_policy(run: StoredRun, evaluation: EvaluationRecord, protocol: str, found: dict[Column, Measured]) -> None:
    samples = run.samples(evaluation)
    for metric, recorded in evaluation.metrics.items():
        column = Column(evaluation.benchmark, metric, evaluation.card_digest, evaluation.data_digest, protocol)
        part = part_of(metric, samples)
        assert part is not None, "a record with such a metric is refused"
        own = problem_values(metric, samples[part])
        again = float(np.nanmean(list(own.values())))
        tolerance = 0.05 if metric.startswith("maj@") else 1e-6  # `maj@k` is of random subsets
        _must_agree(run, f"{metric} of {evaluation.benchmark}", recorded.value, again, tolerance)
        _add_values(run, column, own, evaluation.counts[part], found)


def _add_judged(run: StoredRun, judgement: JudgementRecord, protocol: str, found: dict[Column, Measured]) -> None:
    column = Column(judgement.set, judgement.metric, "", judgement.data_digest, protocol, "judge")
    own = headline(judgement.kind, run.judged(judgement))
    _must_agree(run, f"{judgement.metric} of {judgement.set}", judgement.headline.value, own.value, 1e-6)
    before = found.get(column, Measured(JudgedValues({}), 0, 0))
    assert isinstance(before.values, JudgedValues), "values of one column are of one kind"
    found[column] = Measured(
        JudgedValues({**before.values.by_seed, run.record.seed: own}),
        before.ungraded + sum(judgement.unscored.values()),
        before.total + judgement.num_solutions,
    )


def _add_scaled(run: StoredRun, scaling: ScalingRecord, protocol: str, found: dict[Column, Measured]) -> None:
    """Best-of-N and weighted majority by the mean of the step scores with the most samples, and majority itself."""
    number = max(map(int, scaling.curves[RANDOM]))
    values = values_by_problem(candidates_of(run.scaled(scaling), "reward"), number, ["mean"])
    shown = {f"best-of-{number}": title(BEST_OF_N, "mean"), f"weighted@{number}": title(WEIGHTED, "mean")}
    for label, of in {**shown, f"maj@{number}": MAJORITY}.items():
        if of not in values:
            continue
        column = Column(scaling.benchmark, label, scaling.card_digest, scaling.data_digest, protocol, "scale")
        recorded = scaling.curves[of][str(number)].value
        _must_agree(run, f"{of} of {scaling.benchmark}", recorded, float(np.mean(list(values[of].values()))), 1e-6)
        _add_values(run, column, values[of], scaling.counts, found)


def _add_searched(run: StoredRun, search: SearchRecord, protocol: str, found: dict[Column, Measured]) -> None:
    """The best of the solutions that searches of each n ended with."""
    approach, how = str(search.protocol["approach"]), str(search.protocol["aggregation"])
    rows = run.searched(search)
    for n, point in search.points.items():
        column = Column(search.benchmark, f"{approach}-{n}", search.card_digest, search.data_digest, protocol, "search")
        values = searched_values(rows, int(n), how)["best"]
        again = float(np.mean(list(values.values())))
        _must_agree(run, f"{approach} n={n} of {search.benchmark}", point.accuracy["best"].value, again, 1e-6)
        _add_values(run, column, values, point.counts, found)


def _add_attacks(run: StoredRun, record: AttackRecord, protocol: str, found: dict[Column, Measured]) -> None:
    """The mean lift of each attack that was made on some solution."""
    rows: dict[str, list[AttackedRow]] = {}
    for row in run.attacked(record):
        rows.setdefault(row.attack, []).append(row)
    for name, one in record.lifts.items():
        if one.lift is None:
            continue
        column = Column(record.benchmark, name, record.card_digest, record.data_digest, protocol, "attack")
        values = lifts_by_problem(rows.get(name, ()))
        again = float(np.mean(list(values.values()))) if values else float("nan")
        _must_agree(run, f"attack {name} on {record.benchmark}", one.lift.value, again, 1e-6)
        before = found.get(column, Measured(ProblemValues({}), 0, 0))
        assert isinstance(before.values, ProblemValues), "values of one column are of one kind"
        own = ProblemValues({**before.values.by_seed, run.record.seed: values})
        found[column] = Measured(own, before.ungraded + one.unscored, before.total + one.attacked)


def _add_values(
    run: StoredRun, column: Column, values: Mapping[str, float], counts: Counts, found: dict[Column, Measured]
) -> None:
    before = found.get(column, Measured(ProblemValues({}), 0, 0))
    assert isinstance(before.values, ProblemValues), "values of one column are of one kind"
    found[column] = Measured(
        ProblemValues({**before.values.by_seed, run.record.seed: values}),
        before.ungraded + counts.ungraded,
        before.total + counts.total,
    )


def _must_agree(run: StoredRun, what: str, recorded: float, again: float, tolerance: float) -> None:
    """The number in the record must follow from its rows."""
    if not abs(again - recorded) <= tolerance:
        raise UserError(
            f"{what} does not follow from the samples ({again:.6f} against {recorded:.6f})",
            f"{run.record.suite}/{run.record.run_id}",
        )


def _grid(rows: Sequence[Mapping[str, float]]) -> np.ndarray:
    """[S, P] in the order of the problem ids; NaN where a seed has no such problem."""
    problems = sorted(set().union(*rows))
    return np.array([[row.get(problem, np.nan) for problem in problems] for row in rows])


# ------------------------------------------------------------------------------------------ judged sets


def headline(kind: str, rows: Sequence[JudgedRow]) -> Headline:
    """The mean F1 over subsets (`first_error`) or the PRMScore of all but controls (`steps`), from the solutions' scores."""
    judged = [row for row in rows if row.subset != CONTROL]
    problems = len({row.cluster for row in judged})
    if kind == "steps":
        value, draws_R = _bootstrapped(judged, _step_counts, quality.prm_score, "total")
        return Headline(value, draws_R, problems)
    subsets = list(_by_subset(judged))
    parts = [_bootstrapped(members, _first_error_counts, quality.first_error_f1, name) for name, members in subsets]
    return Headline(float(np.mean([v for v, _ in parts])), np.mean([draws for _, draws in parts], axis=0), problems)


def _by_subset(rows: Sequence[JudgedRow]) -> Iterator[tuple[str, list[JudgedRow]]]:
    for name in dict.fromkeys(row.subset for row in rows):
        yield name, [row for row in rows if row.subset == name]


def _bootstrapped(
    rows: Sequence[JudgedRow],
    count: Callable[[JudgedRow], tuple[int, ...]],
    statistic: Callable[[np.ndarray], np.ndarray],
    name: str,
) -> tuple[float, np.ndarray]:
    counts = [count(row) for row in rows]
    return float(statistic(np.sum(counts, axis=0))), quality.resampled(counts, [r.cluster for r in rows], statistic, name=name)


def _scores(row: JudgedRow) -> np.ndarray | None:
    scores = None if row.scores is None else np.array(row.scores, dtype=np.float64)
    return scores if quality.usable(scores) else None


def _first_error_counts(row: JudgedRow) -> tuple[int, ...]:
    return quality.first_error_counts(quality.first_error_prediction(_scores(row), row.threshold), row.first_error_index)


def _step_counts(row: JudgedRow) -> tuple[int, ...]:
    scores = _scores(row)
    right_S = np.array([label is not None and label >= RIGHT_FROM for label in row.labels])
    return quality.step_counts(None if scores is None else quality.called_right(scores, row.threshold), right_S)
