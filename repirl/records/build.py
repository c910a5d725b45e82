"""Makes a record: the caller says what ran and what came of it, this adds where and on what."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from pydantic_core import to_jsonable_python

from repirl.records import provenance
from repirl.records.measured import AttackRecord, Counts, EvaluationRecord, JudgementRecord, ScalingRecord, SearchRecord
from repirl.records.schema import (
    SCHEMA_VERSION,
    BasePolicy,
    Kind,
    ParentStage,
    RunRecord,
    digest_without_seed,
)
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Budget, Outcome, Report, SampleRow, ScaledRow

if TYPE_CHECKING:
    from repirl.evals.attacks import Lift
    from repirl.evals.judging import SetReport
    from repirl.evals.scaling import Scaling
    from repirl.evals.searched import SearchPoint


@dataclass(frozen=True, slots=True)
class Judgement:
    """A process reward on a step-labelled set, to be recorded: what was asked for, what came of it, what it cost.

    `solutions`: the set, where it was sampled here and its texts are to be kept beside the records (`judged_texts`).
    """

    report: SetReport
    protocol: Mapping[str, Any]
    reward: str
    reward_digest: str | None
    wall_s: float
    solutions: tuple[LabelledSolution, ...] = ()


@dataclass(frozen=True, slots=True)
class OfReward:
    """What a process reward was measured by, to be recorded: on what, with which policy, and its cost."""

    benchmark: str
    card_digest: str
    data_digest: str
    protocol: Mapping[str, Any]
    policy_digest: str
    reward: str
    reward_digest: str | None
    budget: Budget


@dataclass(frozen=True, slots=True)
class PoolScaling(OfReward):
    """A process reward choosing among samples of a policy, to be recorded: what was asked for, what came of it, its cost."""

    scaling: Scaling
    counts: Mapping[str, int]
    unscored: Mapping[str, int]
    rows: tuple[ScaledRow, ...]


@dataclass(frozen=True, slots=True)
class Searched(OfReward):
    """A process reward steering searches with a policy, to be recorded: what was asked for, what came of it, its cost."""

    points: Sequence[SearchPoint]
    parameters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Attacked(OfReward):
    """Attacks on a process reward, to be recorded: what was asked for, what came of it, its cost."""

    solutions: int
    right: int
    lifts: Sequence[Lift]


def new_record(
    *,
    suite: str,
    run_id: str,
    method: str,
    kind: Kind,
    recipe: str,
    seed: int,
    stage: str,
    config: Mapping[str, Any],
    base_policy: BasePolicy,
    budget: Budget,
    diagnostics: Mapping[str, float | None] | None = None,
    label: str | None = None,
    after: str | None = None,
    parents: Sequence[ParentStage] | None = (),
    reward_run: ParentStage | None = None,
    problems: Mapping[str, Any] | None = None,
    runtime: Mapping[str, Any] | None = None,
    validation_budget: Budget | None = None,
    policy_digest: str | None = None,
    reward_digest: str | None = None,
    command: str | None = None,
) -> RunRecord:
    """A record without evaluations yet (`store.write` adds them, and the files beside it), with provenance filled in.

    `config` may hold dataclasses, paths and tuples; it becomes JSON with portable paths. Diagnostics that are
    not finite become None (not measured). `label` defaults to the method, `command` to the running process's.
    """
    plain = provenance.portable(to_jsonable_python(dict(config)))
    commit = provenance.git_commit()
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        suite=suite,
        label=method if label is None else label,
        method=method,
        kind=kind,
        recipe=recipe,
        seed=seed,
        stage=stage,
        after=after,
        created_utc=datetime.now(UTC).replace(microsecond=0),
        command=provenance.command_line() if command is None else command,
        config=plain,
        config_digest=digest_without_seed(plain),
        base_policy=base_policy,
        commit=commit.sha,
        commit_known=commit.sha is not None,
        dirty=commit.dirty,
        packages=provenance.package_versions(),
        python=provenance.python_version(),
        hardware=provenance.hardware(),
        runtime=None if runtime is None else dict(runtime),
        budget=budget,
        validation_budget=validation_budget,
        parents=None if parents is None else tuple(parents),
        reward_run=reward_run,
        problems=None if problems is None else dict(problems),
        policy_digest=policy_digest,
        reward_digest=reward_digest,
        diagnostics={name: _finite(value) for name, value in (diagnostics or {}).items()},
        curve=None,
        evaluations=(),
        judgements=(),
        scalings=(),
        searches=(),
        attacks=(),
        digest=None,
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def evaluation_from_report(report: Report, samples_file: str, samples_sha256: str) -> EvaluationRecord:
    """The record's view of a report. Raises ValueError if its counts are not those of its samples."""
    counts = {part: count_outcomes(found) for part, found in report.samples.items()}
    given = {part: Counts(**values) for part, values in report.counts.items()}
    if counts != given:
        raise ValueError(f"counts of {report.benchmark} are not those of its samples: {given} against {counts}")
    return EvaluationRecord.model_validate(
        {
            "benchmark": report.benchmark,
            "card_digest": report.card_digest,
            "data_digest": report.data_digest,
            "protocol": dict(report.protocol),
            "metrics": dict(report.metrics),
            "counts": counts,
            "by_level": {metric: dict(levels) for metric, levels in report.by_level.items()},
            "budget": report.budget,
            "samples_file": samples_file,
            "samples_sha256": samples_sha256,
        }
    )


def judgement_from_report(judgement: Judgement, rows_file: str, rows_sha256: str) -> JudgementRecord:
    """The record's view of a judged set."""
    report, result = judgement.report, judgement.report.judged
    subsets = {
        name: asdict(found) | {"ci_low": result.intervals[name].low, "ci_high": result.intervals[name].high}
        for name, found in result.subsets.items()
    }
    values = {
        "set": report.name,
        "kind": report.kind,
        "metric": "F1" if report.kind == "first_error" else "PRMScore",
        "data_digest": report.digest,
        "reward": judgement.reward,
        "reward_digest": judgement.reward_digest,
        "protocol": dict(judgement.protocol),
        "threshold": asdict(result.threshold),
        "headline": asdict(result.headline),
        "subsets": subsets,
        "similarity": result.similarity,
        "shortcuts": asdict(result.shortcuts),
        "notes": report.notes,
        "num_solutions": report.num_solutions,
        "unscored": result.unscored,
        "budget": asdict(Budget(scored_tokens=result.scored_tokens, wall_s=judgement.wall_s)),
        "rows_file": rows_file,
        "rows_sha256": rows_sha256,
    }
    return JudgementRecord.model_validate_json(json.dumps(values))


def scaling_from_pool(pool: PoolScaling, rows_file: str, rows_sha256: str) -> ScalingRecord:
    """The record's view of a scored pool."""
    curves = {
        curve.short_title: {str(point.samples): asdict(point.accuracy) for point in curve.points}
        for curve in pool.scaling.curves
    }
    counts = {**pool.counts, "total": sum(pool.counts.values())}
    values = {"curves": curves, "counts": counts, "unscored": dict(pool.unscored)}
    return ScalingRecord.model_validate_json(json.dumps(_of_reward(pool, rows_file, rows_sha256) | values))


def search_from_points(found: Searched, rows_file: str, rows_sha256: str) -> SearchRecord:
    """The record's view of searches."""
    values = {"points": {str(point.n): _point(point) for point in found.points}, "parameters": dict(found.parameters)}
    return SearchRecord.model_validate_json(json.dumps(_of_reward(found, rows_file, rows_sha256) | values))


def attacks_from(found: Attacked, rows_file: str, rows_sha256: str) -> AttackRecord:
    """The record's view of attacks."""
    lifts = {one.attack: _without(asdict(one), "reward", "attack", "rows") for one in found.lifts}
    values = {"solutions": found.solutions, "right": found.right, "lifts": lifts}
    return AttackRecord.model_validate_json(json.dumps(_of_reward(found, rows_file, rows_sha256) | values))


def _of_reward(found: OfReward, rows_file: str, rows_sha256: str) -> dict[str, Any]:
    names = ("benchmark", "card_digest", "data_digest", "policy_digest", "reward", "reward_digest")
    said = {name: getattr(found, name) for name in names} | {"protocol": dict(found.protocol), "budget": asdict(found.budget)}
    return said | {"rows_file": rows_file, "rows_sha256": rows_sha256}


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _point(point: SearchPoint) -> dict[str, Any]:
    counts = point.pool.counts()
    return {
        "accuracy": {label: asdict(interval) for label, interval in point.accuracy.items()},
        "left_out": point.left_out,
        "solutions": point.solutions,
        "tokens": dict(point.tokens),
        "counts": {**counts, "total": sum(counts.values())},
    }


def count_outcomes(samples: Sequence[SampleRow]) -> Counts:
    """Verdicts of `samples`, counted."""
    seen = Counter(row.outcome for row in samples)
    return Counts(total=len(samples), **{outcome: seen[outcome] for outcome in get_args(Outcome)})
