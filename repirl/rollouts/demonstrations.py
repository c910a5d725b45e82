"""Expert demonstrations from a sampler: completions of each problem until enough are right, and what is kept of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import Field

from repirl.config import Config
from repirl.rollouts.collect import Collector, OnProgress
from repirl.rollouts.pool import CHUNK_ROWS, SamplePool
from repirl.tasks.training_files import TrainingRow
from repirl.types import Demonstration, Outcome, Problem, SampleRow

PART = "demonstrations"
"""Of a pool: where the samples are."""


class DemonstrationRules(Config):
    """How many completions are asked for, and which are kept."""

    samples: int = Field(default=16, ge=1)
    """Most completions of each problem."""
    keep: int = Field(default=4, ge=1)
    """Demonstrations wanted of each problem: no further completions are asked for once they are there."""
    longest: int | None = Field(default=None, ge=1)
    """Longer ones, in tokens of the sampler, are not kept. None: any that was not cut off."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What is kept of a problem's completions, in order of their index, and how many right ones were not."""

    texts: tuple[str, ...]
    num_tokens: int
    duplicates: int
    too_long: int


def select(rows: Sequence[SampleRow], rules: DemonstrationRules) -> Selected:
    """The first `keep` right completions that are not too long and differ in more than white space."""
    texts: dict[str, SampleRow] = {}
    duplicates = too_long = 0
    for row in rows:
        if row.outcome != "correct":
            continue
        key = " ".join(row.text.split())
        if rules.longest is not None and row.num_tokens > rules.longest:
            too_long += 1
        elif key in texts:
            duplicates += 1
        elif len(texts) < rules.keep:
            texts[key] = row
    kept = texts.values()
    return Selected(tuple(row.text for row in kept), sum(row.num_tokens for row in kept), duplicates, too_long)


def further(rows: Sequence[SampleRow], rules: DemonstrationRules) -> int:
    """How many completions to ask for next: as many as demonstrations are lacking, or, where few were right so far, half as
    many as it takes at that rate. So little is asked for in vain, and a hard problem does not take a round for each."""
    found = len(select(rows, rules).texts)
    lacking = rules.keep - found
    return min(rules.samples - len(rows), max(lacking, lacking * len(rows) // (2 * (found + 1))))


def collect_demonstrations(
    pool: SamplePool,
    collector: Collector,
    problems: Sequence[Problem],
    rules: DemonstrationRules,
    seed: int,
    *,
    chunk_rows: int = CHUNK_ROWS,
    on_progress: OnProgress | None = None,
) -> dict[str, Selected]:
    """What is kept of each problem, by its id; everything that was sampled is in `pool`, and is not asked for again.

    In rounds. How many completions a problem gets depends on its own alone, not on other problems, chunks or interruptions.
    `on_progress(done, total)` counts completions; those that need not be asked for are done. Raises GradingFault as
    `SamplePool.fill`.
    """
    total = rules.samples * len(problems)
    while True:
        rows = {problem.id: pool.rows(PART, problem.id) for problem in problems}
        wanted = {key: len(of) + more for key, of in rows.items() if (more := further(of, rules)) > 0}
        asked = [p for p in problems if p.id in wanted]
        if not asked:
            break
        report = None
        if on_progress is not None:
            not_done = rules.samples * len(asked) - sum(wanted.values())
            report = lambda done, of, left=not_done: on_progress(total - left - (of - done), total)
        pool.fill(PART, collector, asked, wanted, seed, chunk_rows=chunk_rows, on_progress=report)
    return {problem.id: select(pool.rows(PART, problem.id), rules) for problem in problems}


def training_rows(problems: Sequence[Problem], selected: Mapping[str, Selected], source: str) -> list[TrainingRow]:
    """Problems with at least one demonstration; `source` names the expert."""
    return [
        TrainingRow(problem, tuple(Demonstration(problem.id, text, source) for text in texts))
        for problem in problems
        if (texts := selected[problem.id].texts)
    ]


def counts(
    pool: SamplePool, problems: Sequence[Problem], selected: Mapping[str, Selected], rules: DemonstrationRules
) -> dict[str, int]:
    """What was asked for, found and kept. Right completions beyond those wanted are `correct`, and in no other count."""
    rows = [row for problem in problems for row in pool.rows(PART, problem.id)]
    outcomes = Counter(row.outcome for row in rows)
    found = [selected[problem.id] for problem in problems]
    return {
        "problems": len(problems),
        "with_demonstrations": sum(bool(one.texts) for one in found),
        "fewer_than_wanted": sum(0 < len(one.texts) < rules.keep for one in found),
        "without": sum(not one.texts for one in found),
        "sampled": len(rows),
        **{outcome: outcomes[outcome] for outcome in get_args(Outcome)},
        "duplicates": sum(one.duplicates for one in found),
        "too_long": sum(one.too_long for one in found),
        "demonstrations": sum(len(one.texts) for one in found),
        "tokens_sampled": sum(row.num_tokens for row in rows),
        "tokens_kept": sum(one.num_tokens for one in found),
    }
