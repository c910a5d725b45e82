"""What the page holds of a run's samples: every verdict, and the texts of some problems, the same ones for all runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repirl.records.measured import EvaluationRecord, JudgementRecord
from repirl.records.store import StoredRun
from repirl.tasks.benchmarks import Benchmark, benchmark_cards, load_benchmark
from repirl.types import JudgedRow, Problem, SampleRow, ScaledRow

_LETTERS = {"correct": "c", "wrong": "w", "truncated": "t", "ungraded": "u"}


@dataclass(slots=True)
class ProblemSet:
    """The problems of a benchmark's data: id -> level, sorted by it. Completions of `shown` are on the page, and the texts of
    those that are at hand."""

    benchmark: str
    data_digest: str
    levels: dict[str, int | None]
    shown: frozenset[str]
    texts: dict[str, Problem] = field(default_factory=dict)

    def places(self, rows: Iterable[SampleRow]) -> dict[str, int]:
        """Id -> number of each problem; those of `rows` that were not there yet come last."""
        for row in rows:
            self.levels.setdefault(row.problem_id, row.level)
        return {problem: i for i, problem in enumerate(self.levels)}

    def add_texts(self, benchmark: Benchmark) -> None:
        """Those of the problems shown, if the benchmark's data are the same."""
        if benchmark.data_digest == self.data_digest:
            self.texts = {problem.id: problem for problem in benchmark.problems if problem.id in self.shown}


class ProblemSets:
    """The problems that runs were evaluated on, by benchmark and digest of its data."""

    def __init__(self, runs: Iterable[StoredRun], problems: int | None, include: Sequence[str | Path] = ()) -> None:
        most: dict[tuple[str, str], tuple[int, StoredRun, EvaluationRecord]] = {}
        cards: dict[tuple[str, str], set[str]] = {}
        for run in runs:
            for one in run.record.evaluations:
                key, total = _key(one), sum(counts.total for counts in one.counts.values())
                cards.setdefault(key, set()).add(one.card_digest)
                if key not in most or total > most[key][0]:
                    most[key] = (total, run, one)
        self.limit = problems
        self.all = [_problem_set(run, one, problems) for _, run, one in most.values()]
        self._index = {key: i for i, key in enumerate(most)}
        known = {card.name: card for card in benchmark_cards(include)} if self.all else {}
        for one, digests in zip(self.all, cards.values(), strict=True):
            card = known.get(one.benchmark.partition(":")[0])
            # Loading takes seconds: only where the data can be those of the records.
            if card is not None and card.status in ("embedded", "local") and card.digest in digests:
                one.add_texts(load_benchmark(one.benchmark, include=include))

    def index(self, evaluation: EvaluationRecord) -> int:
        return self._index[_key(evaluation)]

    def of(self, evaluation: EvaluationRecord) -> ProblemSet:
        return self.all[self.index(evaluation)]

    def described(self) -> list[dict[str, Any]]:
        """For the page: ids and levels of all problems, prompt and answer by number of those that are at hand."""
        return [
            {
                "ids": list(one.levels),
                "levels": list(one.levels.values()),
                "texts": {
                    place: [one.texts[name].prompt, one.texts[name].answer]
                    for name, place in one.places(()).items()
                    if name in one.texts
                },
            }
            for one in self.all
        ]


def _key(evaluation: EvaluationRecord) -> tuple[str, str]:
    return evaluation.benchmark, evaluation.data_digest


def _problem_set(run: StoredRun, evaluation: EvaluationRecord, problems: int | None) -> ProblemSet:
    levels = {row.problem_id: row.level for rows in run.samples(evaluation).values() for row in rows}
    ids = sorted(levels, key=lambda problem: (levels[problem] is None, levels[problem] or 0, problem))
    return ProblemSet(*_key(evaluation), {problem: levels[problem] for problem in ids}, frozenset(evenly(ids, problems)))


def evenly(items: Sequence[str], count: int | None) -> list[str]:
    """`count` of the items, at even distances; all if there are no more, or for None."""
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def contents(run: StoredRun, sets: ProblemSets) -> dict[str, Any]:
    """A run's verdicts and samples by evaluation and part, and what its reward's scores are of."""
    record = run.record
    return {
        "evaluations": [_evaluation(run, one, sets.of(one)) for one in record.evaluations],
        "scored": [_judged(run.judged(one), sets.limit) for one in record.judgements]
        + [_scaled(run.scaled(one), sets.limit) for one in record.scalings]
        + [_scaled(_widest(run.searched(one)), sets.limit) for one in record.searches],
    }


def _widest(rows: Sequence[ScaledRow]) -> list[ScaledRow]:
    """Of searches those with the largest n."""
    most = max(row.n or 0 for row in rows)
    return [row for row in rows if row.n == most]


def _evaluation(run: StoredRun, evaluation: EvaluationRecord, problems: ProblemSet) -> dict[str, Any]:
    return {part: _part(rows, problems) for part, rows in run.samples(evaluation).items()}


def _part(rows: Sequence[SampleRow], problems: ProblemSet) -> dict[str, Any]:
    """`verdicts`: for each problem of the set a letter for each sample; columns of the samples whose text is there."""
    places = problems.places(rows)
    ordered = sorted(rows, key=lambda row: (places[row.problem_id], row.sample_index))
    verdicts = [""] * len(places)
    for row in ordered:
        verdicts[places[row.problem_id]] += _LETTERS[row.outcome]
    shown = [row for row in ordered if row.problem_id in problems.shown]
    return {
        "verdicts": verdicts,
        "problem": [places[row.problem_id] for row in shown],
        "sample": [row.sample_index for row in shown],
        "outcome": "".join(_LETTERS[row.outcome] for row in shown),
        "reason": [row.reason for row in shown],
        "extracted": [row.extracted for row in shown],
        "tokens": [row.num_tokens for row in shown],
        "sound": [row.steps_right for row in shown],
        "text": [row.text for row in shown],
    }


def _judged(rows: Sequence[JudgedRow], problems: int | None) -> dict[str, Any]:
    """Labelled solutions of some problems, with their step scores; their texts are `judged_texts`."""
    clusters = sorted({row.cluster for row in rows})
    chosen = set(evenly(clusters, problems))
    shown = [row for row in rows if row.cluster in chosen]
    return {
        "of": len(rows),
        "rows": [
            {
                "id": row.id,
                "problem": row.cluster,
                "scores": _scores(row.scores),
                "labels": row.labels,
                "threshold": _short(row.threshold),
                "first_error": row.first_error_index,
                "predicted": row.predicted_first_error,
            }
            for row in shown
        ],
    }


def judged_texts(run: StoredRun, judgement: JudgementRecord, problems: int | None) -> dict[str, Any]:
    """Id -> problem and steps of the solutions on the page; empty where the texts were not kept."""
    found = run.judged_texts(judgement)
    chosen = set(evenly(sorted({one.cluster for one in found.values()}), problems))
    return {name: [one.problem, one.steps] for name, one in found.items() if one.cluster in chosen}


def _scaled(rows: Sequence[ScaledRow], problems: int | None) -> dict[str, Any]:
    """Samples of some problems, among which the reward chooses, with their step scores."""
    chosen = set(evenly(sorted(row.problem_id for row in rows), problems))
    return {
        "of": sum(len(row.correct) for row in rows),
        "rows": [
            {"id": f"{row.problem_id}.{i}", "problem": row.problem_id, "scores": _scores(scores), "correct": correct == 1.0}
            for row in rows
            if row.problem_id in chosen
            for i, (scores, correct) in enumerate(zip(row.scores, row.correct, strict=True))
        ],
    }


def _scores(scores: Sequence[float] | None) -> list[float | None] | None:
    return None if scores is None else [_short(score) for score in scores]


def _short(score: float) -> float | None:
    """Four significant digits; None for a score that is no number."""
    return float(f"{score:.4g}") if abs(score) < float("inf") else None
