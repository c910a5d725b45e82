"""What searches of several widths choose, and what each cost: one point for each n (`repirl scale --approach`, suites)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from repirl.engines.base import Engine
from repirl.engines.loading import LoadedPolicy
from repirl.evals.approaches import SearchConfig
from repirl.evals.pools import GradedPool, grade_pool
from repirl.evals.scaling import (
    AGGREGATIONS,
    BEST_OF_N,
    MAJORITY,
    PASS,
    WEIGHTED,
    candidates_of,
    scaled_rows,
    scaling,
    title,
    values_by_problem,
)
from repirl.evals.search import search
from repirl.grading.math.grader import Extraction
from repirl.rewards.aggregate import Aggregation
from repirl.rewards.load import LoadedReward
from repirl.types import Interval, Problem, ScaledRow

OnSearch = Callable[[int, int, int], None]
"""Called with n, and how many of the problems are done."""


@dataclass(frozen=True, slots=True)
class SearchPoint:
    """A search with n solutions that grow at a time, over its problems.

    `accuracy` by what chooses among the solutions that it ended with: best, weighted, majority (where answers can be compared)
    and pass. `left_out`: problems of which no solution could be graded. `solutions` of a problem; `tokens` of a problem by
    the names of `SearchCost`.
    """

    n: int
    accuracy: Mapping[str, Interval]
    left_out: int
    solutions: float
    tokens: Mapping[str, float]
    rows: tuple[ScaledRow, ...]
    pool: GradedPool

    def flops(self, policy: int, reward: int) -> float:
        """2 x parameters x tokens, of a problem."""
        written = self.tokens["generated"] + self.tokens["lookahead"]
        return 2.0 * (policy * written + reward * self.tokens["scored"])


def tokens_of(tokens: Mapping[str, float]) -> float:
    """All tokens of a problem's search; discarded ones are among those generated."""
    return tokens["generated"] + tokens["lookahead"] + tokens["scored"]


def choosers(aggregation: Aggregation) -> dict[str, str]:
    """What chooses -> its curve's title."""
    best, weighted = title(BEST_OF_N, aggregation), title(WEIGHTED, aggregation)
    return {"best": best, "weighted": weighted, "majority": MAJORITY, "pass": PASS}


def search_points(
    problems: Sequence[Problem],
    policy: LoadedPolicy,
    engine: Engine,
    loaded: LoadedReward,
    configs: Sequence[SearchConfig],
    *,
    name: str,
    extraction: Extraction = "strict",
    chat: bool = False,
    on_progress: OnSearch | None = None,
) -> Iterator[SearchPoint]:
    """One point for each of `configs`, as it is found; scores are under `name`. UserError as in sampling and scoring."""
    by_id = {problem.id: problem for problem in problems}
    for config in configs:
        said = None if on_progress is None else lambda done, total, n=config.n: on_progress(n, done, total)
        found = search(problems, policy, engine, loaded, config, name=name, chat=chat, on_progress=said)
        pool = grade_pool(found.problems, by_id, extraction=extraction)
        candidates = pool.candidates()
        most = max(len(one.correct) for one in candidates)
        chosen = scaling(candidates, [most], [config.aggregation], ragged=True)
        curves = {curve.short_title: curve.points[0].accuracy for curve in chosen.curves}
        shown = choosers(config.aggregation)
        yield SearchPoint(
            n=config.n,
            accuracy={label: curves[of] for label, of in shown.items() if of in curves},
            left_out=chosen.left_out,
            solutions=sum(len(row.samples) for row in pool.rows) / len(pool.rows),
            tokens={part: value / len(problems) for part, value in asdict(found.cost).items()},
            rows=tuple(replace(row, n=config.n) for row in scaled_rows(candidates, name)),
            pool=pool,
        )


def searched_values(rows: Sequence[ScaledRow], n: int, aggregation: str) -> dict[str, dict[str, float]]:
    """What chooses -> problem -> its accuracy, again from the rows of a search with that n."""
    how: Aggregation = next(known for known in AGGREGATIONS if known == aggregation)
    own = candidates_of([row for row in rows if row.n == n], "reward")
    most = max((len(one.correct) for one in own), default=0)
    values = values_by_problem(own, most, [how], ragged=True)
    return {label: values[of] for label, of in choosers(how).items() if of in values}
