"""A metric's value on each problem, from the per-sample rows: the one place where a metric's name gets its meaning.

Names: `greedy` (or any part's own name): share of correct samples; `avg@n`: the same over the n samples (which is
pass@1); `sound@n`: share with the right answer *and* every step right, by the family's exact checker; `pass@k`: unbiased,
from all samples; `maj@k`: majority vote of k samples, averaged over subsets, a tie giving the share of the tied answers
that are right; `maj@k:lowest-index` and `maj@k:random` break ties otherwise. See `stats` for the formulas. The mean over
problems is the benchmark's number.

Ungraded samples are left out (docs/design.md rule 1): `pass@k` and `maj@k` are of the graded ones, and NaN for a problem that
has fewer than k of them. A sample without an answer, or cut by the token limit, does not vote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

from repirl import stats
from repirl.errors import UserError
from repirl.grading.math.votes import ballots
from repirl.rng import seed_for
from repirl.types import Outcome, SampleRow

_CORRECT: Mapping[Outcome, float] = {"correct": 1.0, "wrong": 0.0, "truncated": 0.0, "ungraded": float("nan")}
_MEANS = ("avg", "sound")
_AT_K = re.compile(r"^(avg|sound|pass|maj)@(\d+)(?::(.+))?$")
_KNOWN = "known are: greedy, avg@N, sound@N, pass@K, maj@K, maj@K:lowest-index, maj@K:random"


@dataclass(frozen=True, slots=True)
class Metric:
    """A parsed name. `kind` avg, sound, pass or maj; `k` None for all samples there are; `ties` is of `maj` only."""

    name: str
    kind: str
    k: int | None
    ties: stats.Ties = "split"


def parse_metric(name: str) -> Metric:
    """What a metric's name says. Raises UserError on one that is not known."""
    match = _AT_K.match(name)
    if match is None:
        if "@" in name or ":" in name:
            raise UserError("unknown metric", name, _KNOWN)
        return Metric(name, "avg", None)
    kind, k = match[1], int(match[2])
    ties = next((rule for rule in get_args(stats.Ties) if rule == match[3]), None)
    if k < 1 or (match[3] is not None and (kind != "maj" or ties is None)):
        raise UserError("unknown metric", name, _KNOWN)
    return Metric(name, kind, k, ties or "split")


def metric_values(
    metric: str,
    correct: Mapping[str, Sequence[float]],
    answers: Mapping[str, Sequence[str | None]] | None = None,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Problem id -> the metric on that problem's samples; NaN where nothing was graded.

    `correct`: problem id -> 1.0, 0.0 or NaN (ungraded) of each sample; `answers` the extracted answers of the same
    samples (None or empty: no answer), needed by `maj@k` only, which merges those that are the same. `seed` picks the
    subsets of `maj@k` and breaks its ties, for each problem on its own.
    Raises UserError on an unknown metric, or a number of samples that does not fit it.
    """
    parsed = parse_metric(metric)
    k = parsed.k
    for problem_id, verdicts in correct.items():
        if k is not None and (len(verdicts) < k or (parsed.kind in _MEANS and len(verdicts) != k)):
            raise UserError(f"{metric} does not fit {len(verdicts)} samples of problem", problem_id)
    if k is None or parsed.kind in _MEANS:
        means = stats.avg_at_n(list(correct.values()))
        return dict(zip(correct, map(float, means), strict=True))
    if parsed.kind == "pass":
        return {problem_id: _pass_at_k(verdicts, k) for problem_id, verdicts in correct.items()}
    if answers is None:
        raise UserError(f"{metric} needs the answers of the samples")
    votes = ballots(answers, correct)
    return {
        problem_id: stats.maj_at_k(votes[problem_id], verdicts, k, ties=parsed.ties, seed=seed_for(seed, problem_id))
        for problem_id, verdicts in correct.items()
    }


def problem_values(metric: str, rows: Sequence[SampleRow], *, seed: int = 0) -> dict[str, float]:
    """`metric_values` of per-sample `rows`, problems in the order of their first row, samples in order of index."""
    value = _sound if parse_metric(metric).kind == "sound" else _correct
    groups: dict[str, list[SampleRow]] = {}
    for row in rows:
        groups.setdefault(row.problem_id, []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: row.sample_index)
    values = {problem_id: [value(row) for row in group] for problem_id, group in groups.items()}
    if parse_metric(metric).kind != "maj":
        return metric_values(metric, values)
    answers = {
        problem_id: [None if row.outcome == "truncated" else row.extracted for row in group]
        for problem_id, group in groups.items()
    }
    return metric_values(metric, values, answers, seed=seed)


def _correct(row: SampleRow) -> float:
    return _CORRECT[row.outcome]


def _sound(row: SampleRow) -> float:
    """NaN where the sample is ungraded, or its steps were not checked."""
    return _CORRECT[row.outcome] * (float("nan") if row.steps_right is None else row.steps_right)


def _pass_at_k(verdicts: Sequence[float], k: int) -> float:
    graded = [verdict for verdict in verdicts if verdict == verdict]  # without NaN
    return _pass_of(len(graded), int(sum(graded)), k) if len(graded) >= k else float("nan")


@cache
def _pass_of(samples: int, correct: int, k: int) -> float:
    """A table asks for few of them, many times each."""
    return float(stats.pass_at_k(samples, correct, k)[0])


def part_of(metric: str, samples: Mapping[str, object]) -> str | None:
    """The protocol part whose rows `metric` is computed from.

    The part of that name, else for an `@` metric the only part with several samples (`sampled`), else None.
    """
    if metric in samples:
        return metric
    if _AT_K.match(metric):
        if "sampled" in samples:
            return "sampled"
        others = [name for name in samples if name != "greedy"]
        return others[0] if len(others) == 1 else None
    return None
