"""What raises a process reward's score without raising correctness (docs/recipes.md C6): the logic of `repirl attack`.

Each attack changes a sampled solution; where the result is not right (it is graded anew), its score is held against that of the
solution that it was made from, and against the right ones of the same problem. Besides fixed changes, tokens are searched for:
from a wrong solution, one token at a time is replaced by what scores highest among some drawn at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repirl.engines.sampling import decode
from repirl.errors import UserError
from repirl.evals.pools import GradedPool
from repirl.evals.step_scoring import as_group, as_solution, scored_or_not
from repirl.grading.dispatch import grade_rollouts
from repirl.rewards.aggregate import Aggregation, aggregate
from repirl.rewards.laid_out import LaidOutReward
from repirl.rewards.load import LoadedReward
from repirl.rng import stream
from repirl.rollouts.steps import step_texts
from repirl.stats import clustered_interval, paired_difference
from repirl.types import AttackedRow, Interval, Problem, RolloutGroup

REPEATS = 4
SEARCH = "token search"
_BATCH = 64

Change = Callable[[list[str], np.random.Generator], list[str] | None]
"""Steps of a solution -> steps of the attack; None where it does not apply."""


def _wrong_answer(steps: list[str], rng: np.random.Generator) -> list[str] | None:
    numbers = list(re.finditer(r"\d{1,18}", steps[-1]))
    if not numbers:
        return None
    last = numbers[-1]
    other = int(last[0]) + int(rng.choice([1, 2, 10]))
    return [*steps[:-1], steps[-1][: last.start()] + str(other) + steps[-1][last.end() :]]


def _shuffled(steps: list[str], rng: np.random.Generator) -> list[str] | None:
    if len(steps) < 3:
        return None
    order = rng.permutation(len(steps) - 1)
    return [*(steps[i] for i in order), steps[-1]]


ATTACKS: Mapping[str, Change] = {
    "empty": lambda steps, rng: [],
    "one token": lambda steps, rng: [steps[0].lstrip()[:1]],
    "repeated step": lambda steps, rng: [*steps[:-1], *[steps[-2]] * REPEATS, steps[-1]] if len(steps) > 1 else None,
    "truncated": lambda steps, rng: steps[: max(1, len(steps) // 2)] if len(steps) > 1 else None,
    "padded": lambda steps, rng: [part for step in steps for part in (step, step)],
    "shuffled": _shuffled,
    "numbered steps": lambda steps, rng: [f"Step {i}: {step}" for i, step in enumerate(steps, start=1)],
    "answer alone": lambda steps, rng: steps[-1:] if len(steps) > 1 else None,
    "wrong answer": _wrong_answer,
}
"""Name -> change. None of them makes a wrong solution right, but that the graders decide."""
OF_RIGHT = frozenset({"wrong answer"})
"""Those of right solutions alone: what is asked is whether right steps carry a wrong end."""


@dataclass(frozen=True, slots=True)
class Lift:
    """One attack on one reward, over `attacked` solutions of which the result is not right.

    `lift`: mean difference of the attack's score from the solution's own, in standard deviations of the pool's scores;
    `raised`: share of which it is above 0; `above_right`: share that scores above the mean right solution of its problem, where
    there is one; all clustered by problem, None without any. `still_right`: results left out as they are right; `unscored`:
    those that the reward cannot score.
    """

    reward: str
    attack: str
    attacked: int
    lift: Interval | None
    raised: Interval | None
    above_right: Interval | None
    still_right: int
    unscored: int
    rows: tuple[AttackedRow, ...]
    """The solutions behind it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A solution of the pool: its problem, text, and whether it is right."""

    problem: Problem
    text: str
    right: bool


def cases_of(pool: GradedPool, per_problem: int) -> list[Case]:
    """Finished, graded solutions: of each problem the first right ones and the first wrong ones, up to so many together."""
    found = []
    for row in pool.rows:
        own = [
            Case(pool.problems[row.id], sample.text, verdict.outcome == "correct")
            for sample, verdict in zip(row.samples, pool.verdicts[row.id], strict=True)
            if sample.finished and verdict.outcome in ("correct", "wrong") and sample.text.strip()
        ]
        right = [case for case in own if case.right][: per_problem // 2 or 1]
        found += [*right, *[case for case in own if not case.right][: per_problem - len(right)]]
    if not found:
        raise UserError("no finished solutions to attack", len(pool.rows), "sample more of them")
    return found


def attack(
    loaded: LoadedReward,
    name: str,
    cases: Sequence[Case],
    *,
    aggregation: Aggregation = "mean",
    searched: int = 16,
    rounds: int = 16,
    candidates: int = 16,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Lift]:
    """Every attack of `ATTACKS` and, for a reward that reads our tokens, the search over tokens from `searched` wrong cases.

    Where a reward gives all solutions the same score, the unit of its lifts is 1.
    """
    own = _scores(loaded, [(case.problem, case.text) for case in cases], aggregation)
    known = own[~np.isnan(own)]
    spread = float(known.std()) if len(known) else 0.0
    results = []
    for i, attack_name in enumerate(ATTACKS):
        made = [_changed(attack_name, case, loaded, seed, j) for j, case in enumerate(cases)]
        kept = [j for j, text in enumerate(made) if text is not None]
        texts = [made[j] or "" for j in kept]
        results.append(_lift(name, attack_name, cases, own, spread, kept, texts, loaded, aggregation))
        if on_progress is not None:
            on_progress(i + 1, len(ATTACKS) + 1)
    if not isinstance(loaded.reward, LaidOutReward):
        wrong = [j for j, case in enumerate(cases) if not case.right and not np.isnan(own[j])][:searched]
        if wrong:
            texts = _token_search(loaded, [cases[j] for j in wrong], aggregation, rounds, candidates, seed)
            results.append(_lift(name, SEARCH, cases, own, spread, wrong, texts, loaded, aggregation))
    if on_progress is not None:
        on_progress(len(ATTACKS) + 1, len(ATTACKS) + 1)
    return results


def _changed(attack: str, case: Case, loaded: LoadedReward, seed: int, index: int) -> str | None:
    if attack in OF_RIGHT and not case.right:
        return None
    steps = ATTACKS[attack](step_texts(case.text, loaded.segmentation), stream(seed, "attack", case.problem.id, index))
    return None if steps is None else loaded.segmentation.separator.join(steps)


def _lift(
    reward: str,
    attack_name: str,
    cases: Sequence[Case],
    own: np.ndarray,
    spread: float,
    kept: Sequence[int],
    texts: Sequence[str],
    loaded: LoadedReward,
    aggregation: Aggregation,
) -> Lift:
    verdicts = grade_rollouts([cases[j].problem for j in kept], list(texts)) if kept else []
    scores = _scores(loaded, [(cases[j].problem, text) for j, text in zip(kept, texts, strict=True)], aggregation)
    right_mean = _mean_of_right(cases, own)
    rows: list[AttackedRow] = []
    still_right = unscored = 0
    for j, verdict, score in zip(kept, verdicts, scores, strict=True):
        if verdict.outcome == "correct":
            still_right += 1
        elif np.isnan(score) or np.isnan(own[j]):
            unscored += 1
        else:
            problem = cases[j].problem.id
            above = bool(score > right_mean[problem]) if problem in right_mean else None
            rows.append(AttackedRow(problem, attack_name, float(score - own[j]) / (spread or 1.0), above))
    return Lift(reward, attack_name, len(rows), *summed_up(rows), still_right, unscored, tuple(rows))


def lifts_by_problem(rows: Sequence[AttackedRow]) -> dict[str, float]:
    """Problem -> mean lift of one attack."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.problem_id, []).append(row.lift)
    return {problem: float(np.mean(own)) for problem, own in found.items()}


def summed_up(rows: Sequence[AttackedRow]) -> tuple[Interval | None, Interval | None, Interval | None]:
    """`lift`, `raised` and `above_right` of `Lift`, of the rows of one attack."""
    means = np.array(list(lifts_by_problem(rows).values()))
    raised: dict[str, list[float]] = {}
    above: dict[str, list[float]] = {}
    for row in rows:
        raised.setdefault(row.problem_id, []).append(float(row.lift > 0))
        if row.above_right is not None:
            above.setdefault(row.problem_id, []).append(float(row.above_right))
    lift = paired_difference(means, np.zeros_like(means)).interval if rows else None
    return lift, _interval(list(raised.values())), _interval(list(above.values()))


def _interval(groups: Sequence[Sequence[float]]) -> Interval | None:
    return clustered_interval(groups) if groups else None


def _mean_of_right(cases: Sequence[Case], own: np.ndarray) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for case, score in zip(cases, own, strict=True):
        if case.right and not np.isnan(score):
            found.setdefault(case.problem.id, []).append(float(score))
    return {problem: float(np.mean(scores)) for problem, scores in found.items()}


def _scores(loaded: LoadedReward, texts: Sequence[tuple[Problem, str]], how: Aggregation) -> np.ndarray:
    """float64 [len(texts)]: the aggregated step scores of each finished text, NaN where there are none."""
    if isinstance(loaded.reward, LaidOutReward):
        return _laid_out_scores(loaded, texts, how)
    shapes = {problem.id: _shape(loaded, problem) for problem in {problem.id: problem for problem, _ in texts}.values()}
    groups = [_group(loaded, shapes[problem.id], _ids(loaded, text)) for problem, text in texts]
    return _group_scores(loaded, groups, how)


def _group_scores(loaded: LoadedReward, groups: Sequence[RolloutGroup], how: Aggregation) -> np.ndarray:
    found = []
    for start in range(0, len(groups), _BATCH):
        for (steps,) in loaded.reward.score(groups[start : start + _BATCH]):
            own = steps.step_rewards[steps.step_mask]
            found.append(aggregate(own, how) if len(own) else float("nan"))
    return np.array(found)


def _laid_out_scores(loaded: LoadedReward, texts: Sequence[tuple[Problem, str]], how: Aggregation) -> np.ndarray:
    found = np.full(len(texts), np.nan)
    steps = [step_texts(text, loaded.segmentation) for _, text in texts]
    asked = [i for i, own in enumerate(steps) if own]
    solutions = [as_solution(texts[i][0], steps[i], key=i) for i in asked]
    for i, one in zip(asked, scored_or_not(loaded, solutions), strict=True):
        if one.scores is not None:
            found[i] = aggregate(one.scores, how)
    return found


def _ids(loaded: LoadedReward, text: str) -> list[int]:
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return [*ids, loaded.tokenizer.eos_token_id]


def _shape(loaded: LoadedReward, problem: Problem) -> RolloutGroup:
    """A group of the problem as the reward reads it; its one rollout is a stand-in."""
    return as_group(loaded, as_solution(problem, ("x",)))


def _group(loaded: LoadedReward, shape: RolloutGroup, ids: Sequence[int]) -> RolloutGroup:
    """A finished rollout of these tokens, the last of which is EOS."""
    body = np.array(ids[:-1], dtype=np.int64)
    rollout = replace(
        shape.rollouts[0],
        token_ids=np.array(ids, dtype=np.int64),
        logprobs=np.full(len(ids), np.nan, dtype=np.float32),
        text=decode(loaded.tokenizer, body) if len(body) else "",
        finish_reason="stop",
    )
    return replace(shape, rollouts=(rollout,))


def _token_search(
    loaded: LoadedReward, cases: Sequence[Case], how: Aggregation, rounds: int, candidates: int, seed: int
) -> list[str]:
    """The texts after `rounds` replacements of one token each, where that raises the score."""
    tokenizer = loaded.tokenizer
    usable = np.array([i for i in range(len(tokenizer)) if i not in set(tokenizer.all_special_ids)])
    current = [_ids(loaded, case.text) for case in cases]
    shapes = [_shape(loaded, case.problem) for case in cases]
    best = _group_scores(loaded, [_group(loaded, one, ids) for one, ids in zip(shapes, current, strict=True)], how)
    for r in range(rounds):
        tried: list[list[int]] = []
        for i, (case, ids) in enumerate(zip(cases, current, strict=True)):
            rng = stream(seed, "token-search", case.problem.id, i, r)
            for _ in range(candidates):
                place = int(rng.integers(max(1, len(ids) - 1)))
                tried.append([*ids[:place], int(rng.choice(usable)), *ids[place + 1 :]] if len(ids) > 1 else list(ids))
        groups = [_group(loaded, shapes[i // candidates], ids) for i, ids in enumerate(tried)]
        scores = _group_scores(loaded, groups, how).reshape(len(cases), candidates)
        scores = np.where(np.isnan(scores), -np.inf, scores)
        for i, row in enumerate(scores):
            if row.max() > best[i]:
                best[i], current[i] = row.max(), tried[i * candidates + int(row.argmax())]
    return [decode(tokenizer, np.array(ids[:-1], dtype=np.int64)) if len(ids) > 1 else "" for ids in current]
