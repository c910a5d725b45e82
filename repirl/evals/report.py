"""Graded samples -> a report: counts that add up, metrics with intervals, values by level and by subject."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, get_args

from repirl.errors import UserError
from repirl.evals.metrics import parse_metric, part_of, problem_values
from repirl.evals.protocol import EvalProtocol
from repirl.stats import clustered_interval, problem_means
from repirl.tasks.benchmarks import Benchmark
from repirl.tasks.training_sets import has_step_checker
from repirl.types import Budget, Interval, OtherExtraction, Outcome, Report, SampleRow

Samples = Mapping[str, tuple[SampleRow, ...]]
"""Part -> graded rows."""

MATTERS_FROM = 0.01
"""Where a metric differs by more with answers found in the other way, the report has both: a point."""


def metrics_of(protocol: EvalProtocol, benchmark: Benchmark, extra: Sequence[str] = ()) -> list[str]:
    """The protocol's metrics, then those of `extra` that are not among them.

    Raises UserError for an unknown metric, one that the protocol's samples do not allow, or `maj@k` without
    `has_answers`.
    """
    checked = [f"sound@{protocol.samples}"] if protocol.samples and has_step_checker(benchmark.problems[0]) else []
    names = list(dict.fromkeys([*protocol.metric_names(), *checked, *extra]))
    counts = protocol.parts()
    for name in names:
        metric = parse_metric(name)
        part = part_of(name, counts)
        if part is None:
            raise UserError("metric without samples to compute it from", name, f"there are {', '.join(counts)}")
        n = counts[part]
        if metric.k is not None and (n < metric.k or (metric.kind in ("avg", "sound") and n != metric.k)):
            raise UserError(f"{name} does not fit the number of samples of each problem", n, "change --samples or the metric")
        if metric.kind == "maj" and not has_answers(benchmark):
            raise UserError(f"{name} is not defined where there are no answers to compare", benchmark.name, "use pass@k")
        if metric.kind == "sound" and not has_step_checker(benchmark.problems[0]):
            raise UserError(f"{name} needs an exact checker of steps", benchmark.name, "use avg@n")
    return names


def has_answers(benchmark: Benchmark) -> bool:
    """Whether completions end in answers of which one can say that two are the same: what a majority vote needs.

    Not so for programs, whose behaviour cannot be read off their text, nor where lm-eval's own metric gives the verdict.
    """
    return benchmark.grade is None and all(problem.grader != "code" for problem in benchmark.problems)


def majority(benchmark: Benchmark, samples: int) -> list[str]:
    """`maj@n` where it says something: answers can be compared, and a vote of two with ties split is their mean."""
    return [f"maj@{samples}"] if samples > 2 and has_answers(benchmark) else []


def build_report(
    benchmark: Benchmark,
    protocol: EvalProtocol,
    by_extraction: Mapping[str, Samples],
    *,
    wall_s: float,
    metrics: Sequence[str] = (),
) -> Report:
    """The report of graded samples (part -> rows), given by the way in which their answers were found.

    Only `strict` where there are no answers (programs, lm-eval's own metrics): that is then the report's, whatever the
    protocol says. `metrics` are reported besides those of the protocol.

    Raises UserError as `metrics_of`, ValueError if the samples are not those that the protocol asks for.
    """
    names = metrics_of(protocol, benchmark, metrics)
    extraction = protocol.extraction if protocol.extraction in by_extraction else "strict"
    samples = by_extraction[extraction]
    problems = len(benchmark.problems[: protocol.limit])
    counts = {part: _counts(part, samples[part], count * problems) for part, count in protocol.parts().items()}
    values = {name: _values(name, samples) for name in names}
    rows = [row for part in samples.values() for row in part]
    levels = {row.problem_id: row.level for row in rows}
    subjects = {row.problem_id: row.subject for row in rows}
    settings: dict[str, Any] = protocol.model_dump(mode="json")
    settings |= {
        "max_new_tokens": protocol.max_new_tokens or benchmark.max_new_tokens,
        "stop": list(benchmark.stop),
    }
    if has_answers(benchmark):
        settings["extraction"] = extraction
    else:
        del settings["extraction"]
    intervals = _intervals(values, protocol.seed)
    return Report(
        benchmark=benchmark.name,
        card_digest=benchmark.card.digest,
        data_digest=benchmark.data_digest,
        protocol=settings,
        metrics=intervals,
        counts=counts,
        samples=dict(samples),
        by_level={name: _by_group(found, levels) for name, found in values.items()},
        by_subject={name: _by_group(found, subjects) for name, found in values.items()},
        problems_measured={name: sum(not math.isnan(v) for v in found.values()) for name, found in values.items()},
        budget=Budget(
            rollouts=len(rows), generated_tokens=sum(row.num_tokens for row in rows), grader_calls=len(rows), wall_s=wall_s
        ),
        other_extraction=_other_extraction(intervals, by_extraction, extraction, protocol.seed),
    )


def _other_extraction(
    metrics: Mapping[str, Interval], by_extraction: Mapping[str, Samples], used: str, seed: int
) -> OtherExtraction | None:
    """The metrics of the same samples in the other way, if one of them differs by more than a point."""
    for name, samples in by_extraction.items():
        if name != used:
            found = _intervals({metric: _values(metric, samples) for metric in metrics}, seed)
            if any(abs(found[metric].value - metrics[metric].value) > MATTERS_FROM for metric in metrics):
                return OtherExtraction(name, found)
    return None


def _intervals(values: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Interval]:
    """Metric -> interval, from metric -> problem id -> value."""
    return {name: clustered_interval(list(found.values()), seed=seed) for name, found in values.items()}


def group_sizes(report: Report) -> dict[str, dict[str, int]]:
    """`level` and `subject` -> each of them -> its number of problems; a problem without one is in none."""
    rows = {row.problem_id: row for part in report.samples.values() for row in part}.values()
    return {
        "level": _sorted_by_name(Counter(row.level for row in rows if row.level is not None)),
        "subject": _sorted_by_name(Counter(row.subject for row in rows if row.subject is not None)),
    }


def _values(metric: str, samples: Mapping[str, tuple[SampleRow, ...]]) -> dict[str, float]:
    part = part_of(metric, samples)
    assert part is not None, "metrics_of has looked"
    # With the seed that the leaderboard uses, so that `maj@k` comes out the same there.
    return problem_values(metric, samples[part])


def _counts(part: str, rows: Sequence[SampleRow], total: int) -> dict[str, int]:
    """Verdicts of a part. Raises ValueError unless they add up to the `total` that the protocol asks for."""
    seen = Counter(row.outcome for row in rows)
    counts = {outcome: seen[outcome] for outcome in get_args(Outcome)}
    distinct = len({(row.problem_id, row.sample_index) for row in rows})
    if not sum(counts.values()) == len(rows) == distinct == total:
        raise ValueError(f"verdicts of {part} do not add up: {counts}, {distinct} distinct samples, {total} asked for")
    return counts | {"total": total}


def _by_group(values: Mapping[str, float], groups: Mapping[str, Hashable]) -> dict[str, float]:
    """Mean over the measured problems of each group, groups as text in ascending order."""
    found: dict[Any, list[float]] = {}
    for problem_id, value in values.items():
        if (group := groups[problem_id]) is not None and not math.isnan(value):
            found.setdefault(group, []).append(value)
    return _sorted_by_name({group: float(problem_means([members])[0]) for group, members in found.items()})


def _sorted_by_name(cells: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(group): cells[group] for group in sorted(cells)}
