"""Pools of samples made ready for `evals.scaling`: sampled or read, graded, and scored by any process reward."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repirl.errors import UserError
from repirl.evals.scaling import Candidates
from repirl.evals.step_scoring import as_solution, score_solutions
from repirl.grading.dispatch import check_ungraded, grade_rollouts
from repirl.grading.math.grader import Extraction
from repirl.grading.math.votes import ballots
from repirl.paths import replace_file
from repirl.rewards.load import LoadedReward
from repirl.rollouts.steps import step_texts
from repirl.tasks.benchmarks import Benchmark
from repirl.tasks.sample_pools import PooledProblem, PooledSample, read_pool
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Problem, SampleRow, Verdict

OnProgress = Callable[[int, int], None]
TEXT = "the text has no steps"
_WITH_ANSWERS = ("math", "integer")
"""Graders of completions that end in answers, of which one can say that two are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class GradedPool:
    """A pool with the verdict of every sample, and `problems` as the graders and rewards know them.

    `token_rewards`: reward -> problem -> [n] float32 [T], None where a sample has none; of rewards that this process asked.
    `unscored`: reward -> reason -> samples. `scored_tokens`: reward -> what scoring took.
    """

    rows: tuple[PooledProblem, ...]
    problems: Mapping[str, Problem]
    verdicts: Mapping[str, tuple[Verdict, ...]]
    token_rewards: Mapping[str, Mapping[str, list[np.ndarray | None]]]
    unscored: Mapping[str, Mapping[str, int]]
    scored_tokens: Mapping[str, int]

    def candidates(self) -> list[Candidates]:
        """What `scaling` chooses from: ungraded samples left out, equal answers merged. What is no answer has no votes."""
        answers = {
            row.id: [None if v.outcome == "truncated" else v.extracted for v in self.verdicts[row.id]]
            for row in self.rows
            if self.problems[row.id].grader in _WITH_ANSWERS
        }
        rewards = {row.id: [verdict.reward for verdict in self.verdicts[row.id]] for row in self.rows}
        votes = ballots(answers, {problem: rewards[problem] for problem in answers})
        return [_candidates(row, np.array(rewards[row.id]), votes.get(row.id, ())) for row in self.rows]

    def counts(self) -> dict[str, int]:
        """Verdicts of all samples by outcome."""
        outcomes = [verdict.outcome for own in self.verdicts.values() for verdict in own]
        return {name: outcomes.count(name) for name in ("correct", "wrong", "truncated", "ungraded")}


def _candidates(row: PooledProblem, correct_n: np.ndarray, votes: Sequence[Hashable | None]) -> Candidates:
    graded = np.flatnonzero(~np.isnan(correct_n)).tolist()
    tokens = [sample.tokens for sample in row.samples]
    lengths = [len(sample.text) for sample in row.samples] if None in tokens else tokens
    names = dict.fromkeys(name for sample in row.samples for name in sample.scores)
    steps = {
        name: tuple(None if (own := row.samples[i].scores.get(name)) is None else np.array(own) for i in graded)
        for name in names
    }
    return Candidates(
        row.id,
        correct_n[graded],
        tuple(votes[i] for i in graded) if votes else (),
        np.array(lengths, dtype=np.float64)[graded],
        steps,
    )


def pool_of_file(
    path: Path,
    benchmark: Benchmark | None,
    *,
    extraction: Extraction = "strict",
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> GradedPool:
    """Read and graded: by `benchmark`'s own problems where it is given, else by the rows' answers as mathematics.

    UserError where a row has no answer and no benchmark is given, or the benchmark has no problem of a row's id.
    """
    rows = tuple(read_pool(path)[:limit])
    known = None if benchmark is None else {problem.id: problem for problem in benchmark.problems}
    problems = {}
    for row in rows:
        if known is not None:
            if row.id not in known:
                raise UserError(f"{benchmark.name if benchmark else ''} has no problem with this id", row.id)
            problems[row.id] = known[row.id]
        elif row.answer is None:
            raise UserError("a problem of the pool has no answer to grade by", row.id, "name its benchmark")
        else:
            problems[row.id] = Problem(row.id, row.benchmark, row.problem, "math", row.answer)
    return grade_pool(rows, problems, extraction=extraction, on_progress=on_progress)


def grade_pool(
    rows: Sequence[PooledProblem],
    problems: Mapping[str, Problem],
    *,
    extraction: Extraction = "strict",
    on_progress: OnProgress | None = None,
) -> GradedPool:
    """Every sample graded, as a completion of `problems[row.id]`. GradingFault if too many cannot be."""
    flat = [(row, sample) for row in rows for sample in row.samples]
    verdicts = grade_rollouts(
        [problems[row.id] for row, _ in flat],
        [sample.text for _, sample in flat],
        ["stop" if sample.finished else "length" for _, sample in flat],
        extraction=extraction,
        on_progress=on_progress,
    )
    check_ungraded(verdicts)
    return _pool(tuple(rows), problems, verdicts)


def pool_of_samples(benchmark: Benchmark, rows: Sequence[SampleRow]) -> GradedPool:
    """From an evaluation's samples of one part, as they were graded there."""
    by_problem: dict[str, list[SampleRow]] = {}
    for row in rows:
        by_problem.setdefault(row.problem_id, []).append(row)
    problems = {problem.id: problem for problem in benchmark.problems if problem.id in by_problem}
    pooled = tuple(
        PooledProblem(
            id=key,
            problem=problem.prompt,
            answer=problem.answer,
            samples=tuple(PooledSample(row.text, row.num_tokens, row.outcome != "truncated") for row in by_problem[key]),
            benchmark=benchmark.name,
        )
        for key, problem in problems.items()
    )
    verdicts = [Verdict(row.outcome, row.reason, row.extracted) for one in pooled for row in by_problem[one.id]]
    return _pool(pooled, problems, verdicts)


def _pool(rows: tuple[PooledProblem, ...], problems: Mapping[str, Problem], verdicts: Sequence[Verdict]) -> GradedPool:
    left = iter(verdicts)
    return GradedPool(rows, problems, {row.id: tuple(next(left) for _ in row.samples) for row in rows}, {}, {}, {})


def with_scores(
    pool: GradedPool,
    name: str,
    loaded: LoadedReward,
    *,
    prompt_suffix: str | None = None,
    on_progress: OnProgress | None = None,
) -> GradedPool:
    """The pool with the reward's step scores and token rewards of every sample, under `name`; equal samples are scored once.

    A sample that cannot be scored has none, and why is counted. UserError if none can, or a problem has no text to read first.
    """
    if empty := [row.id for row in pool.rows if not pool.problems[row.id].prompt.strip()]:
        todo = "give `problem` in the file, or --benchmark"
        raise UserError("a problem of the pool has no text, which a reward reads first", empty[0], todo)
    places: dict[tuple[str, str, bool], int] = {}
    solutions: list[LabelledSolution] = []
    for row in pool.rows:
        for sample in row.samples:
            key = (row.id, sample.text, sample.finished)
            if key not in places and (steps := step_texts(sample.text, loaded.segmentation)):
                places[key] = len(solutions)
                solutions.append(as_solution(pool.problems[row.id], steps, finished=sample.finished, key=len(solutions)))
    before = loaded.reward.budget.scored_tokens
    scored = score_solutions(loaded, solutions, prompt_suffix, on_progress)
    reasons: dict[str, int] = {}
    tokens: dict[str, list[np.ndarray | None]] = {}
    rows = []
    for row in pool.rows:
        samples = []
        for sample in row.samples:
            place = places.get((row.id, sample.text, sample.finished))
            one = None if place is None else scored[place]
            steps = None if one is None or one.scores is None or np.isnan(one.scores).any() else tuple(one.scores.tolist())
            if steps is None:
                reason = TEXT if one is None else one.reason
                reasons[reason] = reasons.get(reason, 0) + 1
            tokens.setdefault(row.id, []).append(None if one is None else one.token_rewards)
            samples.append(replace(sample, scores={**sample.scores, name: steps}))
        rows.append(replace(row, samples=tuple(samples)))
    return replace(
        pool,
        rows=tuple(rows),
        token_rewards={**pool.token_rewards, name: tokens},
        unscored={**pool.unscored, name: reasons},
        scored_tokens={**pool.scored_tokens, name: loaded.reward.budget.scored_tokens - before},
    )


def write_pool(path: Path, pool: GradedPool) -> None:
    """One problem a line, in search-and-learn's columns and ours (`tasks.sample_pools`); atomically."""
    text = "".join(json.dumps(_row(pool, row), ensure_ascii=False, allow_nan=False) + "\n" for row in pool.rows)
    replace_file(path, lambda file: file.write(text.encode()))


def _row(pool: GradedPool, row: PooledProblem) -> dict[str, Any]:
    verdicts = pool.verdicts[row.id]
    names = list(dict.fromkeys(name for sample in row.samples for name in sample.scores))
    rewards: dict[str, Any] = {}
    for name in names:
        rewards[name] = {"steps": [None if (own := s.scores.get(name)) is None else list(own) for s in row.samples]}
        tokens = pool.token_rewards.get(name, {}).get(row.id, [])
        if any(own is not None for own in tokens):
            rewards[name]["tokens"] = [None if own is None else [round(float(x), 6) for x in own] for own in tokens]
    found: dict[str, Any] = {
        "problem_id": row.id,
        "problem": row.problem,
        "answer": row.answer,
        "benchmark": row.benchmark,
        "completions": [sample.text for sample in row.samples],
        "completion_tokens": [sample.tokens for sample in row.samples],
        "finish_reasons": ["stop" if sample.finished else "length" for sample in row.samples],
        "verdicts": [verdict.outcome for verdict in verdicts],
        "extracted": [verdict.extracted for verdict in verdicts],
    }
    if names:
        found["scores"] = [own or [] for own in rewards[names[0]]["steps"]]
        found["rewards"] = rewards
    return found
