"""From scores to judgements: where the threshold between right and wrong comes from. Shapes: N solutions, S steps, F folds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from repirl.errors import UserError
from repirl.evals import prm_quality as quality
from repirl.evals.judged_sets import JudgedSet
from repirl.evals.step_scoring import ScoredSteps
from repirl.tasks.prm_benchmarks import CONTROL
from repirl.tasks.step_labels import RIGHT_FROM, LabelledSolution

FOLDS = 5
_REDUNDANCY_CLASS = "redundency"  # spelled as in the data

Pairs = Sequence[tuple[LabelledSolution, ScoredSteps]]


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """How a score becomes a judgement.

    `fixed`: `value` everywhere. `prmbench`: 0.5, and 0.15 in the class of redundant steps, for scores that are probabilities.
    `tuned`: the threshold with the best headline number on the set's tuning solutions (ProcessBench: the GSM8K subset, reused
    for all), or, in a set without any, in folds: each fold of problems is judged with the threshold tuned on the others.
    """

    kind: Literal["fixed", "prmbench", "tuned"]
    value: float = math.nan


@dataclass(frozen=True, slots=True)
class UsedThreshold:
    """What a rule came to: one value, or one for each fold (`prmbench`: the usual one and that for redundancy)."""

    rule: str
    values: tuple[float, ...]
    tuned_on: str | None
    ties: str


def parse_rule(text: str) -> ThresholdRule:
    """`tuned`, `prmbench`, or `fixed:VALUE`; UserError for anything else."""
    if text in ("tuned", "prmbench"):
        return ThresholdRule(text)
    match = re.fullmatch(r"fixed:([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)", text)
    if match is None or not math.isfinite(float(match[1])):
        raise UserError("unknown threshold rule", text, "use tuned, prmbench, or fixed:VALUE")
    return ThresholdRule("fixed", float(match[1]))


def thresholds_for(judged: JudgedSet, rule: ThresholdRule, pairs: Pairs, tuning: Pairs) -> tuple[np.ndarray, UsedThreshold]:
    """float64 [N]: a threshold for each solution of `pairs`; and what it is called. `tuning` as `JudgedSet.tuning`, scored."""
    ties = "a score equal to the threshold is " + ("right" if judged.kind == "first_error" else "wrong")
    if rule.kind == "fixed":
        return np.full(len(pairs), rule.value), UsedThreshold(f"fixed:{rule.value}", (rule.value,), None, ties)
    if rule.kind == "prmbench":
        values = np.array([0.15 if one.subset == _REDUNDANCY_CLASS else 0.5 for one, _ in pairs])
        return values, UsedThreshold("prmbench", (0.5, 0.15), None, ties)
    if tuning:
        value = _tune(judged.kind, tuning)
        return np.full(len(pairs), value), UsedThreshold("tuned", (value,), judged.tuned_on, ties)
    folds_N = quality.fold_of([one.cluster for one, _ in pairs], FOLDS)
    used = sorted(set(folds_N.tolist()))
    values_F = []
    for fold in used:
        rest = [pair for pair, f in zip(pairs, folds_N, strict=True) if f != fold and pair[0].subset != CONTROL]
        values_F.append(_tune(judged.kind, rest))
    where = f"the other folds of the set, {len(used)} folds of whole problems"
    return np.array(values_F)[folds_N], UsedThreshold("tuned", tuple(values_F), where, ties)


def _tune(kind: str, pairs: Pairs) -> float:
    scores = [scored.scores for _, scored in pairs]
    if kind == "first_error":
        return quality.tune_first_error(scores, [one.first_error_index for one, _ in pairs])
    return quality.tune_prm_score(scores, [right_steps(one) for one, _ in pairs])


def right_steps(solution: LabelledSolution) -> np.ndarray:
    """bool [S]: which steps are labelled right."""
    return np.array([label is not None and label >= RIGHT_FROM for label in solution.labels])
