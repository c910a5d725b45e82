"""Scores of given steps: a labelled solution becomes the rollout that the PRM would have seen in training.

The steps are joined with the PRM's own separator and its template and tokenizer are used (docs/design.md rule 4). A separator
inside a step would make two steps of one: there runs of newlines become one newline (as PURE does), or a space where the
separator itself is a newline; newlines at a step's ends and spaces at its end are dropped. A finished solution ends with EOS,
one that was cut off does not. A reward with a layout of its own (`rewards/laid_out.py`) is given problem and steps as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from repirl.errors import UserError
from repirl.rewards.laid_out import CannotLayOut, LaidOutReward, StepRow
from repirl.rewards.load import LoadedReward
from repirl.rollouts.solutions import solution_group
from repirl.rollouts.steps import step_end_tokens
from repirl.tasks import arith
from repirl.tasks.step_labels import LabelledSolution
from repirl.tasks.training_sets import FAMILIES
from repirl.types import Problem, Rollout, RolloutGroup

_CHUNK = 256

TOO_LONG = "longer than the reward's model allows"
SPANNED = "a token spans two steps"
SAYS_NOTHING = "the reward says nothing of it"


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSteps:
    """Step scores float64 [S] and tokens of each step int64 [S] of one solution; None where it has none, and `reason`.

    `token_rewards` float32 [T]: None too for a reward that scores steps alone.
    """

    scores: np.ndarray | None
    step_tokens: np.ndarray | None
    reason: str = ""
    token_rewards: np.ndarray | None = None


def separator_of(problems: Iterable[Problem]) -> str:
    """What lies between the steps of solutions of these problems, for rewards that have no separator of their own."""
    return "\n" if all(problem.family in FAMILIES for problem in problems) else "\n\n"


def as_solution(problem: Problem, steps: Sequence[str], *, finished: bool = True, key: int = 0) -> LabelledSolution:
    """Steps of which nothing is known, as a solution of the problem. `key` tells those of one problem apart."""
    source = problem.source if problem.family == arith.FAMILY else ""
    labels = (None,) * len(steps)
    return LabelledSolution(f"{problem.id}.{key}", problem.prompt, tuple(steps), labels, finished=finished, source=source)


def as_group(loaded: LoadedReward, solution: LabelledSolution, prompt_suffix: str | None = None) -> RolloutGroup:
    """The solution as a group of one rollout; `prompt_suffix` None: the reward's own."""
    suffix = loaded.prompt_suffix if prompt_suffix is None else prompt_suffix
    return solution_group(solution, loaded.tokenizer, loaded.segmentation, chat=loaded.template == "chat", suffix=suffix)


def score_solutions(
    loaded: LoadedReward,
    solutions: Sequence[LabelledSolution],
    prompt_suffix: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ScoredSteps]:
    """As `scored_or_not`; UserError if none of them can be scored."""
    found = scored_or_not(loaded, solutions, prompt_suffix, on_progress)
    if solutions and all(one.scores is None for one in found):
        reasons = ", ".join(dict.fromkeys(one.reason for one in found))
        raise UserError("no solution can be scored", reasons, "judge other solutions, or with another reward")
    return found


def scored_or_not(
    loaded: LoadedReward,
    solutions: Sequence[LabelledSolution],
    prompt_suffix: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ScoredSteps]:
    """One score for each step of each solution.

    A solution that is longer than the model allows, or in which a token holds text on both sides of a separator (so that the
    PRM sees fewer steps than there are), or that a reward's own layout cannot hold, has none and says why.
    """
    found: list[ScoredSteps] = []
    for start in range(0, len(solutions), _CHUNK):
        chunk = solutions[start : start + _CHUNK]
        if isinstance(loaded.reward, LaidOutReward):
            found += _score_laid_out(loaded, loaded.reward, chunk, prompt_suffix or "")
        else:
            found += _score_chunk(loaded, chunk, [as_group(loaded, solution, prompt_suffix) for solution in chunk])
        if on_progress is not None:
            on_progress(len(found), len(solutions))
    return found


def _score_chunk(
    loaded: LoadedReward, solutions: Sequence[LabelledSolution], groups: Sequence[RolloutGroup]
) -> list[ScoredSteps]:
    ends = [_step_ends(loaded, group.rollouts[0]) for group in groups]
    reasons = [
        _obstacle(loaded, solution, group, ends_S) for solution, group, ends_S in zip(solutions, groups, ends, strict=True)
    ]
    scored = iter(loaded.reward.score([group for group, reason in zip(groups, reasons, strict=True) if not reason]))
    found = []
    for ends_S, reason in zip(ends, reasons, strict=True):
        if reason:
            found.append(ScoredSteps(None, None, reason))
            continue
        steps = next(scored)[0]
        assert np.array_equal(steps.step_ends, ends_S), "scored at other places than the steps' ends"
        if not steps.step_mask.any():
            found.append(ScoredSteps(None, None, SAYS_NOTHING))
            continue
        step_tokens_S = np.diff(ends_S, prepend=-1)
        found.append(ScoredSteps(steps.step_rewards.astype(np.float64), step_tokens_S, token_rewards=steps.token_rewards))
    return found


def _score_laid_out(
    loaded: LoadedReward, reward: LaidOutReward, solutions: Sequence[LabelledSolution], prompt_suffix: str
) -> list[ScoredSteps]:
    rows: list[StepRow | str] = []
    for solution in solutions:
        try:
            row = reward.lay_out(solution.problem + prompt_suffix, solution.steps)
        except CannotLayOut as error:
            rows.append(str(error))
            continue
        rows.append(TOO_LONG if loaded.max_tokens is not None and len(row.row) > loaded.max_tokens else row)
    scores = iter(reward.step_probabilities([row for row in rows if isinstance(row, StepRow)]))
    return [
        ScoredSteps(None, None, row)
        if isinstance(row, str)
        else ScoredSteps(next(scores).astype(np.float64), np.diff(row.ends_S, prepend=-1))
        for row in rows
    ]


def _obstacle(loaded: LoadedReward, solution: LabelledSolution, group: RolloutGroup, ends_S: np.ndarray) -> str:
    """Why the solution cannot be scored; empty if it can."""
    length = len(group.rollouts[0].prompt_ids) + len(group.rollouts[0].token_ids)
    if loaded.max_tokens is not None and length > loaded.max_tokens:
        return TOO_LONG
    return SPANNED if len(ends_S) < len(solution.steps) else ""


def _step_ends(loaded: LoadedReward, rollout: Rollout) -> np.ndarray:
    return step_end_tokens(loaded.tokenizer, rollout.token_ids, loaded.segmentation, rollout.text)
