"""A new evaluation against a stored one, or two stored ones: the same problems, sampled in the same way, compared problem by
problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repirl.errors import UserError
from repirl.evals.metrics import part_of, problem_values
from repirl.evals.protocol import GREEDY, SAMPLED, EvalProtocol
from repirl.rollouts.pool import read_samples
from repirl.stats import PairedDifference, clustered_interval, paired_difference, seeded_interval
from repirl.tasks.benchmarks import Benchmark
from repirl.types import Interval, Report, SampleRow

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAMPLED_WITH = ("max_new_tokens", "chat_template", "temperature")
_STRICT = "strict"  # of samples that do not say how their answers were found


@dataclass(frozen=True, slots=True)
class OtherRun:
    """Graded samples of an earlier evaluation: part -> rows. `name` as the user gave it.

    `sampling` has max_new_tokens, chat_template, temperature and the seed. `policy_digest` None: not known.
    """

    name: str
    card_digest: str
    data_digest: str
    sampling: Mapping[str, Any]
    samples: Mapping[str, tuple[SampleRow, ...]]
    policy_digest: str | None = None


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """One metric of two runs: `other` the earlier one's value, `paired` the difference new - earlier.

    None where no problem has a value in both.
    """

    other: Interval
    paired: PairedDifference


def other_from_file(name: str, path: Path) -> OtherRun:
    """The run whose samples `evaluate_policy` kept at `path`. Raises UserError if the file is not one of these."""
    stored = read_samples(path)
    fingerprint = stored.fingerprint
    try:
        return OtherRun(
            name=name,
            card_digest=fingerprint["card"],
            data_digest=fingerprint["data"],
            sampling={key: fingerprint[key] for key in (*_SAMPLED_WITH, "seed")},
            samples=stored.samples,
            policy_digest=fingerprint["policy"],
        )
    except KeyError as missing:
        raise UserError(f"{path} does not say how it was sampled", missing.args[0]) from missing


def obstacle(other: OtherRun, benchmark: Benchmark, protocol: EvalProtocol) -> str | None:
    """Why `benchmark` under `protocol` cannot be compared with `other`, or None if it can.

    Card (prompt, stop rule, grader), data, sampling settings, problems and the number of samples must be the same; the
    seed may differ, as in the leaderboard's columns.
    """
    if other.card_digest != benchmark.card.digest:
        return f"another task file of {benchmark.name} (card digest {other.card_digest[:12]}, now {benchmark.card.digest[:12]})"
    if other.data_digest != benchmark.data_digest:
        return f"other data of {benchmark.name} (digest {other.data_digest[:12]}, now {benchmark.data_digest[:12]})"
    parts = protocol.parts()
    now = {
        "max_new_tokens": protocol.max_new_tokens or benchmark.max_new_tokens,
        "chat_template": protocol.chat_template,
        "temperature": protocol.temperature,
    }
    for key in _SAMPLED_WITH:
        if (key != "temperature" or SAMPLED in parts) and other.sampling.get(key) != now[key]:
            return f"another {key} ({other.sampling.get(key)!r}, now {now[key]!r})"
    if (way := other.sampling.get("extraction", _STRICT)) != protocol.extraction:
        return f"another extraction ({way!r}, now {protocol.extraction!r})"
    problems = {problem.id for problem in benchmark.problems[: protocol.limit]}
    for part in (GREEDY, SAMPLED):
        if (found := _other_samples(part, other.samples.get(part, ()), parts.get(part, 0), problems)) is not None:
            return found
    return None


def _other_samples(part: str, rows: Sequence[SampleRow], wanted: int, problems: set[str]) -> str | None:
    counts = Counter(row.problem_id for row in rows)
    if not wanted or not counts:
        return f"{'no' if wanted else 'also'} {part} samples" if bool(wanted) != bool(counts) else None
    if counts.keys() != problems:
        shared = len(counts.keys() & problems)
        return f"other problems ({len(counts)} have {part} samples, now {len(problems)}, shared {shared})"
    differing = sorted({count for count in counts.values() if count != wanted})
    if differing:
        return f"another number of {part} samples of each problem ({', '.join(map(str, differing))}, now {wanted})"
    return None


def problems_of(other: OtherRun) -> set[str]:
    """Ids of the problems of which it has samples."""
    return {row.problem_id for rows in other.samples.values() for row in rows}


def check_comparable(other: OtherRun, benchmark: Benchmark, protocol: EvalProtocol) -> None:
    """Raises UserError, in one line, if a comparison would not be one of like with like."""
    if (why := obstacle(other, benchmark, protocol)) is not None:
        raise UserError("cannot compare with", other.name, f"it has {why}")


def differences(report: Report, other: OtherRun) -> dict[str, MetricDifference | None]:
    """Metric -> `report` minus `other`, paired by problem; a problem not measured in either is left out.

    To be called with runs that `check_comparable` has let pass.
    """
    found: dict[str, MetricDifference | None] = {}
    for metric in report.metrics:
        part = part_of(metric, report.samples)
        assert part is not None, "a metric of a report has a part"
        new, old = problem_values(metric, report.samples[part]), problem_values(metric, other.samples[part])
        ids = sorted(new)
        pairs = [(new[i], old[i]) for i in ids]
        if all(math.isnan(a - b) for a, b in pairs):
            found[metric] = None
            continue
        paired = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
        found[metric] = MetricDifference(clustered_interval([old[i] for i in ids]), paired)
    return found


# ------------------------------------------------------------------------------------- two runs that are both there


@dataclass(frozen=True, slots=True)
class MetricOfBoth:
    """A metric of two runs of S seeds on the same problems: their values, and `paired` the second minus the first."""

    metric: str
    first: Interval
    second: Interval
    paired: PairedDifference


@dataclass(frozen=True, slots=True)
class VerdictsOfBoth:
    """Problems (of all seeds) by what became of them from the first run to the second. A problem counts as right if at least
    half of its graded samples are; `unmeasured` were graded in one run at most."""

    part: str
    fixed: int
    broken: int
    both_right: int
    both_wrong: int
    unmeasured: int


def obstacle_between(first: OtherRun, second: OtherRun) -> str | None:
    """Why two evaluations of one benchmark are not of like with like, or None; seeds and the number of problems may differ."""
    if first.card_digest != second.card_digest:
        return "another task file (card digest)"
    if first.data_digest != second.data_digest:
        return "other data (digest)"
    sampled = [SAMPLED in one.samples for one in (first, second)]
    keys = [key for key in _SAMPLED_WITH if key != "temperature" or all(sampled)]
    for key, default in [*((key, None) for key in keys), ("extraction", _STRICT)]:
        one, other = first.sampling.get(key, default), second.sampling.get(key, default)
        if one != other:
            return f"another {key} ({one!r}, {other!r})"
    if not problems_of(first) & problems_of(second):
        return "no problem in common"
    return None


def compare_runs(first: Sequence[OtherRun], second: Sequence[OtherRun]) -> tuple[list[MetricOfBoth], list[VerdictsOfBoth]]:
    """Two runs, S evaluations of one benchmark each (seed by seed), on the problems that all of them have.

    `greedy`, and `avg@n` where all have n samples. To be called with evaluations between which there is no obstacle.
    """
    metrics, verdicts = [], []
    for part in (GREEDY, SAMPLED):
        if not all(one.samples.get(part) for one in (*first, *second)):
            continue
        counts = {count for one in (*first, *second) for count in Counter(r.problem_id for r in one.samples[part]).values()}
        metric = part if part == GREEDY else f"avg@{min(counts)}"
        if len(counts) > 1:
            continue
        values = [[problem_values(metric, one.samples[part]) for one in side] for side in (first, second)]
        ids = sorted(set.intersection(*(set(found) for side in values for found in side)))
        grids = [np.array([[found[i] for i in ids] for found in side], dtype=float) for side in values]
        if not ids or np.isnan(grids[0] - grids[1]).all():
            continue
        intervals = [seeded_interval(grid) for grid in grids]
        metrics.append(MetricOfBoth(metric, intervals[0], intervals[1], paired_difference(grids[1], grids[0])))
        measured = ~np.isnan(grids[0] - grids[1])
        right = [grid >= 0.5 for grid in grids]
        found = [int((a & b & measured).sum()) for a in (~right[0], right[0]) for b in (~right[1], right[1])]
        verdicts.append(VerdictsOfBoth(part, found[1], found[2], found[3], found[0], int((~measured).sum())))
    return metrics, verdicts
