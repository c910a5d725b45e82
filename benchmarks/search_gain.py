"""What search adds to sampling: the best of each search against the best of N samples by the same reward, from run records.

    python benchmarks/search_gain.py [SUITE]

For each reward and search two differences, paired by problem, with intervals over problems and seeds: from the best of as many
samples as the search grows at a time, and from the best of the fewest samples that cost as many tokens (policy and reward
together), or of all where the search costs more. A record whose pool was sampled otherwise, or of other problems, is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from repirl.errors import UserError
from repirl.evals.scaling import BEST_OF_N, candidates_of, title, values_by_problem
from repirl.evals.searched import searched_values, tokens_of
from repirl.records.store import StoredRun
from repirl.reporting.leaderboard import build_board
from repirl.rewards.aggregate import Aggregation
from repirl.stats import PairedDifference, paired_difference, seeded_interval

SHARED = ("limit", "temperature", "chat_template", "extraction")


def main(suite: str) -> None:
    """Print the table."""
    table = Table("reward", "search", "n", "right", "tokens", "- best-of-n", "N of as many tokens", "- best-of-N")
    rows = {
        row.name: [run for run in row.runs if run.record.searches and run.record.scalings] for row in build_board(suite).rows
    }
    if not any(rows.values()):
        raise UserError("no run of the suite has both searches and samples", suite)
    for label, own in rows.items():
        for place, search in enumerate(own[0].record.searches if own else ()):
            for n in search.points:
                table.add_row(label, str(search.protocol["approach"]), n, *compared(own, place, int(n)))
    Console(width=160).print(table)


def compared(runs: Sequence[StoredRun], place: int, n: int) -> list[str]:
    """Accuracy, tokens of a problem, and both differences, of one search of the same reward's runs."""
    found, same, costly, tokens, numbers = [], [], [], [], []
    for run in runs:
        search, pool = run.record.searches[place], run.record.scalings[0]
        if (search.benchmark, search.data_digest, search.policy_digest) != (
            pool.benchmark,
            pool.data_digest,
            pool.policy_digest,
        ):
            raise UserError("search and samples are of other problems or another policy", run.record.run_id)
        if differ := [name for name in SHARED if search.protocol.get(name) != pool.protocol.get(name)]:
            raise UserError(f"search and samples differ in {', '.join(differ)}", run.record.run_id)
        how = str(search.protocol["aggregation"])
        found.append(searched_values(run.searched(search), n, how)["best"])
        each = (pool.budget.generated_tokens + pool.budget.scored_tokens) / pool.counts.total
        tokens.append(tokens_of(search.points[str(n)].tokens))
        known = sorted(int(number) for number in pool.curves[title(BEST_OF_N, how)])
        numbers.append(next((number for number in known if number * each >= tokens[-1]), known[-1]))
        same.append(best_of(run, n, how))
        costly.append(best_of(run, numbers[-1], how))
    accuracy = seeded_interval(grid(found))
    return [
        f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]",
        f"{np.mean(tokens):.0f}",
        shown(paired_difference(grid(found), grid(same))),
        ", ".join(map(str, sorted(set(numbers)))),
        shown(paired_difference(grid(found), grid(costly))),
    ]


def best_of(run: StoredRun, number: int, how: str) -> Mapping[str, float]:
    """Problem -> expected accuracy of the best of that many samples."""
    aggregation: Aggregation = next(known for known in ("mean", "min", "last", "prod", "sum") if known == how)
    pool = candidates_of(run.scaled(run.record.scalings[0]), "reward")
    return values_by_problem(pool, number, [aggregation])[title(BEST_OF_N, how)]


def grid(by_seed: Sequence[Mapping[str, float]]) -> np.ndarray:
    """[S, P], in the order of the problems."""
    return np.array([[values[problem] for problem in sorted(by_seed[0])] for values in by_seed])


def shown(difference: PairedDifference) -> str:
    """`+0.120 [+0.050, +0.190]`."""
    of = difference.interval
    return f"{of.value:+.3f} [{of.low:+.3f}, {of.high:+.3f}]"


if __name__ == "__main__":
    try:
        main(*(sys.argv[1:2] or ["scaling"]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
