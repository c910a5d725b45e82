"""A metric's value on each problem, from the per-sample rows: the one place where a metric's name gets its meaning.

Names: `greedy` (or any part's own name): share of correct samples; `avg@n`: the same over the n samples;
`pass@k` and `maj@k`: see `stats`. The mean over problems is the benchmark's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from repirl import stats
from repirl.errors import UserError
from repirl.types import Outcome, SampleRow

_CORRECT: Mapping[Outcome, float] = {"correct": 1.0, "wrong": 0.0, "truncated": 0.0, "ungraded": float("nan")}
_AT_K = re.compile(r"^(avg|pass|maj)@(\d+)$")


def problem_values(metric: str, rows: Sequence[SampleRow], *, seed: int = 0) -> dict[str, float]:
    """Problem id -> the metric on that problem's `rows`; NaN where nothing was graded (DESIGN rule 1).

    `pass@k` is over the graded samples; a problem with fewer than k of them is NaN. `avg@n` and `maj@n` need
    n samples of each problem. `seed` picks the subsets of `maj@k`. Raises UserError on an unknown metric name or
    too few samples.
    """
    groups: dict[str, list[SampleRow]] = {}
    for row in rows:
        groups.setdefault(row.problem_id, []).append(row)
    match = _AT_K.match(metric)
    if match is None and "@" in metric:
        raise UserError("unknown metric", metric, "known are: greedy, avg@N, pass@K, maj@K")
    kind, k = (match[1], int(match[2])) if match else ("avg", 0)
    for problem_id, group in groups.items():
        if len(group) < k or (kind == "avg" and k and len(group) != k):
            raise UserError(f"{metric} does not fit {len(group)} samples of problem", problem_id)
    return {problem_id: _value(kind, k, group, seed) for problem_id, group in groups.items()}


def _value(kind: str, k: int, group: Sequence[SampleRow], seed: int) -> float:
    rewards = [_CORRECT[row.outcome] for row in group]
    if kind == "maj":
        return stats.maj_at_k([row.extracted for row in group], rewards, k, seed=seed)
    if kind == "pass":
        graded = [reward for reward in rewards if reward == reward]
        return float(stats.pass_at_k(len(graded), int(sum(graded)), k)[0]) if len(graded) >= k else float("nan")
    return float(stats.problem_means([rewards])[0])


def part_of(metric: str, samples: Mapping[str, Sequence[SampleRow]]) -> str | None:
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
