"""A process reward on a step-labelled set, with null rewards beside it: the logic of `repirl judge`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from repirl.errors import UserError
from repirl.evals import prm_quality as quality
from repirl.evals.judged_sets import JudgedSet
from repirl.evals.selection import Selection, selection
from repirl.evals.step_scoring import ScoredSteps, score_solutions
from repirl.evals.thresholds import Pairs, ThresholdRule, UsedThreshold, right_steps, thresholds_for
from repirl.rewards.load import LoadedReward, model_free_nulls
from repirl.separation import auc, grouped_auc, pearson
from repirl.tasks.prm_benchmarks import CONTROL
from repirl.tasks.step_labels import RIGHT_FROM, LabelledSolution
from repirl.types import Interval, JudgedRow

OnProgress = Callable[[int, int], None]

NO_SCORES = "a score that is no number"
"""Why a solution counts as unscored though the reward was asked."""


@dataclass(frozen=True, slots=True)
class Shortcuts:
    """What else the scores follow (docs/design.md rule 5); None where a class is empty or a side is constant.

    Pearson correlation of the mean step score with the solution's number of tokens, and of step scores with steps' tokens;
    AUC of step scores, right steps against first wrong ones (over all, and the mean of that within the solutions of a problem
    at one step), and of the lowest step score against the final answer.
    """

    length_correlation: float | None
    step_length_correlation: float | None
    step_auc: float | None
    step_auc_within: float | None
    outcome_auc: float | None


@dataclass(frozen=True, slots=True)
class RewardOnSet:
    """One reward's numbers. `headline` is the mean F1 over subsets (`first_error`) or the total PRMScore (`steps`), in percent.

    `similarity` (`steps` only): class -> mean absolute difference between the share of steps called right in a solution
    and in its unmodified control; 0 means that the reward does not see the modification. `unscored`: reason -> solutions,
    which count as wrong.
    """

    reward: str
    threshold: UsedThreshold
    headline: Interval
    subsets: dict[str, quality.FirstErrorQuality | quality.StepQuality]
    intervals: dict[str, Interval]
    similarity: dict[str, float]
    shortcuts: Shortcuts
    selection: Selection | None
    unscored: dict[str, int]
    scored_tokens: int
    rows: tuple[JudgedRow, ...] = field(repr=False)

    @property
    def num_unscored(self) -> int:
        return sum(self.unscored.values())


@dataclass(frozen=True, slots=True)
class SetReport:
    """A set, the judged reward's numbers on it, and those of the null rewards."""

    name: str
    kind: str
    digest: str
    num_solutions: int
    notes: dict[str, int]
    judged: RewardOnSet
    nulls: tuple[RewardOnSet, ...]


def default_rule(loaded: LoadedReward) -> ThresholdRule:
    """A reward that says itself where wrong begins is taken at its word; others are tuned."""
    if loaded.natural_threshold is not None:
        return ThresholdRule("fixed", loaded.natural_threshold)
    return ThresholdRule("tuned")


def judge(
    loaded: LoadedReward,
    judged: JudgedSet,
    rule: ThresholdRule,
    *,
    nulls: bool = True,
    prompt_suffix: str | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> SetReport:
    """The reward on the set; with `nulls` also random, constant and length, always tuned, which favours them.

    Raises UserError for the rule `prmbench` on another kind of set, and where a threshold cannot be tuned.
    """
    if rule.kind == "prmbench" and judged.kind != "steps":
        raise UserError("the rule prmbench belongs to PRMBench, not to", judged.name, "use tuned or fixed:VALUE")
    if not judged.solutions:
        raise UserError("no solutions to judge in", judged.name, "raise --limit, or choose another set")
    rewards = [(loaded, rule)]
    if nulls:
        rewards += [(null, ThresholdRule("tuned")) for null in model_free_nulls(loaded, seed)]
    results = []
    for i, (reward, its_rule) in enumerate(rewards):

        def shown(done: int, total: int, before: int = i) -> None:
            if on_progress is not None:
                on_progress(before * total + done, len(rewards) * total)

        results.append(_judge_one(reward, judged, its_rule, prompt_suffix, shown))
    return SetReport(
        name=judged.name,
        kind=judged.kind,
        digest=judged.digest,
        num_solutions=sum(one.subset != CONTROL for one in judged.solutions),
        notes=dict(judged.notes),
        judged=results[0],
        nulls=tuple(results[1:]),
    )


def _judge_one(
    loaded: LoadedReward, judged: JudgedSet, rule: ThresholdRule, prompt_suffix: str | None, on_progress: OnProgress
) -> RewardOnSet:
    """Scores the set and, where a threshold is tuned on others, those; a solution that is in both is scored once."""
    tuning = judged.tuning if rule.kind == "tuned" else ()
    inside = {_key(one) for one in judged.solutions}
    outside = [one for one in tuning if _key(one) not in inside]
    tokens_before = loaded.reward.budget.scored_tokens
    scored = score_solutions(loaded, [*judged.solutions, *outside], prompt_suffix, on_progress)
    pairs = list(zip([*judged.solutions, *outside], scored, strict=True))
    by_key = {_key(one): steps for one, steps in pairs}
    return _measure(
        loaded.name,
        judged,
        rule,
        pairs[: len(judged.solutions)],
        [(one, by_key[_key(one)]) for one in tuning],
        loaded.reward.budget.scored_tokens - tokens_before,
    )


def _key(solution: LabelledSolution) -> tuple[str, str, tuple[str, ...], bool]:
    """What its scores depend on."""
    return solution.id, solution.problem, solution.steps, solution.finished


def _measure(name: str, judged: JudgedSet, rule: ThresholdRule, pairs: Pairs, tuning: Pairs, scored_tokens: int) -> RewardOnSet:
    thresholds, used = thresholds_for(judged, rule, pairs, tuning)
    measure = _first_errors if judged.kind == "first_error" else _steps
    headline, subsets, intervals, similarity = measure(pairs, thresholds)
    return RewardOnSet(
        reward=name,
        threshold=used,
        headline=headline,
        subsets=subsets,
        intervals=intervals,
        similarity=similarity,
        shortcuts=_shortcuts([pair for pair in pairs if pair[0].subset != CONTROL]),
        selection=selection(judged.draws, [scored.scores for _, scored in pairs]),
        unscored=dict(Counter(scored.reason or NO_SCORES for _, scored in pairs if not quality.usable(scored.scores))),
        scored_tokens=scored_tokens,
        rows=tuple(_row(judged.kind, one, scored, t) for (one, scored), t in zip(pairs, thresholds, strict=True)),
    )


# ---------------------------------------------------------------------------------------------- metrics

_Measured = tuple[Interval, dict[str, quality.FirstErrorQuality | quality.StepQuality], dict[str, Interval], dict[str, float]]


def _interval(value: float, resamples_R: np.ndarray) -> Interval:
    low, high = np.quantile(resamples_R, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _first_errors(pairs: Pairs, thresholds: np.ndarray) -> _Measured:
    subsets, intervals, draws = {}, {}, []
    for name in dict.fromkeys(one.subset for one, _ in pairs):
        members = [(one, s, t) for (one, s), t in zip(pairs, thresholds, strict=True) if one.subset == name]
        predictions = [quality.first_error_prediction(s.scores, t) for _, s, t in members]
        labels = [one.first_error_index for one, _, _ in members]
        found = quality.first_error_quality(predictions, labels)
        counts = [quality.first_error_counts(p, y) for p, y in zip(predictions, labels, strict=True)]
        clusters = [one.cluster for one, _, _ in members]
        draws.append(quality.resampled(counts, clusters, quality.first_error_f1, name=name))
        subsets[name], intervals[name] = found, _interval(found.f1, draws[-1])
    mean = float(np.mean([found.f1 for found in subsets.values()]))
    return _interval(mean, np.mean(draws, axis=0)), subsets, intervals, {}


def _steps(pairs: Pairs, thresholds: np.ndarray) -> _Measured:
    called = [
        quality.called_right(s.scores, t) if s.scores is not None and quality.usable(s.scores) else None
        for (_, s), t in zip(pairs, thresholds, strict=True)
    ]
    subsets, intervals = {}, {}
    judged = [(one, c) for (one, _), c in zip(pairs, called, strict=True) if one.subset != CONTROL]
    controls = [(one, c) for (one, _), c in zip(pairs, called, strict=True) if one.subset == CONTROL]
    classes = dict.fromkeys(one.subset for one, _ in judged)
    groups = {"total": judged} | {kind: [j for j in judged if j[0].subset == kind] for kind in classes}
    for name, members in (groups | ({CONTROL: controls} if controls else {})).items():
        counts = [quality.step_counts(c, right_steps(one)) for one, c in members]
        found = quality.step_quality(counts, sum(c is None for _, c in members))
        clusters = [one.cluster for one, _ in members]
        subsets[name] = found
        intervals[name] = _interval(found.prm_score, quality.resampled(counts, clusters, quality.prm_score, name=name))
    share = {one.cluster: float(c.mean()) for one, c in controls if c is not None}
    similarity = {}
    for name, members in groups.items():
        gaps = [abs(float(c.mean()) - share[one.cluster]) for one, c in members if c is not None and one.cluster in share]
        similarity |= {name: float(np.mean(gaps))} if gaps else {}
    return intervals["total"], subsets, intervals, similarity


def _shortcuts(pairs: Pairs) -> Shortcuts:
    scored = [
        (one, s.scores, s.step_tokens)
        for one, s in pairs
        if s.scores is not None and s.step_tokens is not None and quality.usable(s.scores)
    ]
    if not scored:
        return Shortcuts(None, None, None, None, None)
    known: list[tuple[float, bool, tuple[str, int]]] = []
    for one, scores, _ in scored:
        alive = len(scores) if one.first_error_index < 0 else one.first_error_index + 1
        labels = one.labels[:alive]
        known += [
            (float(score), label >= RIGHT_FROM, (one.cluster, s))
            for s, (score, label) in enumerate(zip(scores, labels, strict=False))
            if label is not None
        ]
    answered = [
        (float(scores.min()), one.final_answer_correct) for one, scores, _ in scored if one.final_answer_correct is not None
    ]
    return Shortcuts(
        length_correlation=pearson([s.mean() for _, s, _ in scored], [t.sum() for _, _, t in scored]),
        step_length_correlation=pearson(np.concatenate([s for _, s, _ in scored]), np.concatenate([t for _, _, t in scored])),
        step_auc=auc([score for score, _, _ in known], [label for _, label, _ in known]),
        step_auc_within=grouped_auc(*map(list, zip(*known, strict=True))) if known else None,
        outcome_auc=auc([score for score, _ in answered], [label for _, label in answered]),
    )


def _row(kind: str, one: LabelledSolution, scored: ScoredSteps, threshold: float) -> JudgedRow:
    scores = scored.scores
    if scores is None or not quality.usable(scores) or kind == "first_error":
        predicted = quality.first_error_prediction(scores, threshold)
    else:
        wrong_S = ~quality.called_right(scores, threshold)
        predicted = int(wrong_S.argmax()) if wrong_S.any() else quality.NO_ERROR
    return JudgedRow(
        id=one.id,
        subset=one.subset,
        threshold=float(threshold),
        scores=None if scores is None else tuple(scores.tolist()),
        labels=one.labels,
        first_error_index=one.first_error_index,
        predicted_first_error=predicted,
        cluster=one.cluster,
    )
