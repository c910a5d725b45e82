"""Solutions of which nothing is known, with a reward's scores of their steps and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from repirl.errors import UserError
from repirl.evals.step_scoring import as_group, score_solutions
from repirl.rewards.aggregate import aggregate
from repirl.rewards.load import LoadedReward
from repirl.rollouts.steps import step_texts, token_char_ends
from repirl.tasks.given_solutions import GivenSolution
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Rollout

NO_STEPS = "it has no steps"


@dataclass(frozen=True, slots=True, eq=False)
class ScoredToken:
    """A token's part of the text (EOS has none), and its reward."""

    text: str
    reward: float


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSolution:
    """S steps with their scores, None (and `reason`) where it cannot be scored.

    `tokens`: those of each step [S][T_s], None for a reward that scores steps alone. `suspect`: index of the first step whose
    score is below the threshold; None if there is none, or no threshold. `whole`: the scores as one number, by aggregation.
    """

    given: GivenSolution
    steps: tuple[str, ...]
    scores: tuple[float, ...] | None
    tokens: tuple[tuple[ScoredToken, ...], ...] | None
    suspect: int | None
    whole: Mapping[str, float]
    reason: str = ""


def score_given(
    loaded: LoadedReward,
    solutions: Sequence[GivenSolution],
    threshold: float | None = None,
    prompt_suffix: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ScoredSolution]:
    """Every solution, in order. `threshold` None: the reward's own, if its scores have a point that means wrong.

    UserError if none can be scored.
    """
    limit = loaded.natural_threshold if threshold is None else threshold
    cut = [one.steps or tuple(step_texts(one.text or "", loaded.segmentation)) for one in solutions]
    kept = [i for i, steps in enumerate(cut) if steps]
    if not kept:
        raise UserError("no solution can be scored", NO_STEPS, "give solutions that are not empty")
    labelled = [_labelled(solutions[i], cut[i], i) for i in kept]
    scored = dict(zip(kept, score_solutions(loaded, labelled, prompt_suffix, on_progress), strict=True))
    asked = dict(zip(kept, labelled, strict=True))
    found = []
    for i, (one, steps) in enumerate(zip(solutions, cut, strict=True)):
        got = scored.get(i)
        if got is None or got.scores is None:
            found.append(ScoredSolution(one, steps, None, None, None, {}, NO_STEPS if got is None else got.reason))
            continue
        suspect = None if limit is None else next((s for s, score in enumerate(got.scores) if score < limit), None)
        tokens = None
        if got.token_rewards is not None and got.step_tokens is not None:
            flat = _tokens(loaded, as_group(loaded, asked[i], prompt_suffix).rollouts[0], got.token_rewards)
            ends = [0, *np.cumsum(got.step_tokens).tolist()]
            tokens = tuple(flat[start:end] for start, end in pairwise(ends))
        whole = {how: aggregate(got.scores, how) for how in ("mean", "min", "last", "prod")}
        found.append(ScoredSolution(one, steps, tuple(got.scores.tolist()), tokens, suspect, whole))
    return found


def _labelled(one: GivenSolution, steps: tuple[str, ...], number: int) -> LabelledSolution:
    return LabelledSolution(f"{one.id}.{number}", one.problem, steps, (None,) * len(steps), finished=one.finished)


def _tokens(loaded: LoadedReward, rollout: Rollout, rewards_T: np.ndarray) -> tuple[ScoredToken, ...]:
    finished = rollout.finish_reason == "stop"
    body = rollout.token_ids[:-1] if finished else rollout.token_ids
    ends = [0, *token_char_ends(loaded.tokenizer, body.tolist(), rollout.text).tolist()]
    pieces = [rollout.text[start:end] for start, end in pairwise(ends)] + ([""] if finished else [])
    return tuple(ScoredToken(piece, float(reward)) for piece, reward in zip(pieces, rewards_T, strict=True))
