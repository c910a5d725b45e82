"""Solutions of which nothing is known, with a reward's scores of their steps and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from repirl.evals.step_scoring import ScoredSteps, as_group, scored_or_not
from repirl.rewards.aggregate import Aggregation, aggregate
from repirl.rewards.load import LoadedReward
from repirl.rollouts.steps import step_texts, token_char_ends
from repirl.tasks.given_solutions import GivenSolution
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Rollout

NO_STEPS = "it has no steps"


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token's part `text[start:end]` of a solution's text (the end of the sequence has none), and its reward."""

    text: str
    start: int
    end: int
    reward: float


@dataclass(frozen=True, slots=True)
class ScoredStep:
    """A step as it was given, its place `text[start:end]` in the solution's text with the separator that ends it, its score
    (None in a solution that cannot be scored), and its tokens (none where the reward scores steps alone)."""

    text: str
    start: int
    end: int
    score: float | None
    tokens: tuple[ScoredToken, ...]


@dataclass(frozen=True, slots=True)
class ScoredSolution:
    """A solution's steps with their scores.

    `text` is what the reward read as the solution: the steps, joined by its separator. `aggregates`: all step scores as one
    number, by the way of aggregation (`prod` of probabilities alone); empty for a solution that cannot be scored, and `reason`
    says why. `threshold`: steps below it are suspected; None for a reward whose scores have no point that means wrong.
    """

    given: GivenSolution
    text: str
    steps: tuple[ScoredStep, ...]
    threshold: float | None
    aggregates: Mapping[str, float]
    reason: str = ""

    @property
    def scores(self) -> tuple[float, ...]:
        """Of all steps; none of a solution that cannot be scored."""
        return tuple(step.score for step in self.steps if step.score is not None)

    @property
    def tokens(self) -> tuple[ScoredToken, ...]:
        """Of all steps."""
        return tuple(token for step in self.steps for token in step.tokens)

    @property
    def first_suspected(self) -> int | None:
        """Index of the first step below the threshold; None if there is none, or no threshold."""
        limit = self.threshold
        return None if limit is None else next((i for i, score in enumerate(self.scores) if score < limit), None)


def score_given(
    loaded: LoadedReward,
    solutions: Sequence[GivenSolution],
    threshold: float | None = None,
    prompt_suffix: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ScoredSolution]:
    """Every solution, in order. `threshold` None: the reward's own, if its scores have a point that means wrong."""
    limit = loaded.natural_threshold if threshold is None else threshold
    cut = [one.steps or tuple(step_texts(one.text or "", loaded.segmentation)) for one in solutions]
    kept = [i for i, steps in enumerate(cut) if steps]
    labelled = [_labelled(solutions[i], cut[i], i) for i in kept]
    scored = dict(zip(kept, scored_or_not(loaded, labelled, prompt_suffix, on_progress), strict=True))
    asked = dict(zip(kept, labelled, strict=True))
    ways: tuple[Aggregation, ...] = ("mean", "min", "last", *(("prod",) if loaded.reward.probabilities else ()))
    found = []
    for i, (one, texts) in enumerate(zip(solutions, cut, strict=True)):
        got = scored.get(i)
        if got is None or got.scores is None:
            steps, aggregates, reason = _placed(loaded, texts, None), {}, NO_STEPS if got is None else got.reason
        else:
            aggregates, reason = {how: aggregate(got.scores, how) for how in ways}, ""
            rollout = as_group(loaded, asked[i], prompt_suffix).rollouts[0]
            steps = _from_tokens(loaded, texts, rollout, got) or _placed(loaded, texts, got.scores)
        text = "".join(token.text for step in steps for token in step.tokens) or loaded.segmentation.separator.join(texts)
        found.append(ScoredSolution(one, text, steps, limit, aggregates, reason))
    return found


def _labelled(one: GivenSolution, steps: tuple[str, ...], number: int) -> LabelledSolution:
    return LabelledSolution(f"{one.id}.{number}", one.problem, steps, (None,) * len(steps), finished=one.finished)


def _placed(loaded: LoadedReward, texts: Sequence[str], scores_S: np.ndarray | None) -> tuple[ScoredStep, ...]:
    """Steps without tokens, one after the other."""
    gap = len(loaded.segmentation.separator)
    lengths = [len(text) + gap * (i + 1 < len(texts)) for i, text in enumerate(texts)]
    scores = [None] * len(texts) if scores_S is None else scores_S.tolist()
    places = pairwise([0, *np.cumsum(lengths).tolist()])
    return tuple(ScoredStep(text, *place, score, ()) for text, place, score in zip(texts, places, scores, strict=True))


def _from_tokens(loaded: LoadedReward, texts: Sequence[str], rollout: Rollout, got: ScoredSteps) -> tuple[ScoredStep, ...]:
    """Steps by their tokens; none for a reward that scores steps alone."""
    if got.scores is None or got.token_rewards is None or got.step_tokens is None:
        return ()
    flat = _tokens(loaded, rollout, got.token_rewards)
    found = []
    ends = pairwise([0, *np.cumsum(got.step_tokens).tolist()])
    for text, score, (start, end) in zip(texts, got.scores.tolist(), ends, strict=True):
        found.append(ScoredStep(text, flat[start].start, flat[end - 1].end, score, flat[start:end]))
    return tuple(found)


def _tokens(loaded: LoadedReward, rollout: Rollout, rewards_T: np.ndarray) -> tuple[ScoredToken, ...]:
    finished = rollout.finish_reason == "stop"
    body = rollout.token_ids[:-1] if finished else rollout.token_ids
    ends = [0, *token_char_ends(loaded.tokenizer, body.tolist(), rollout.text).tolist()]
    places = [*pairwise(ends), *([(ends[-1], ends[-1])] if finished else [])]
    return tuple(
        ScoredToken(rollout.text[start:end], start, end, float(reward))
        for (start, end), reward in zip(places, rewards_T, strict=True)
    )
