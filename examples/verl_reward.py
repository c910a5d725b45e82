"""A process reward of repirl as verl's reward function: the outcome, and what the steps are worth.

    custom_reward_function.path=examples/verl_reward.py
    custom_reward_function.name=compute_score
    +custom_reward_function.reward_kwargs.reward=runs/repirl-tiny-s0
    +custom_reward_function.reward_kwargs.process_weight=0.2
    +custom_reward_function.reward_kwargs.floor=-5

The problem's text, which the process reward reads first, is taken from the data's `extra_info` (`question`, or `problem_key`).
verl puts a completion's score at its last token: steps are not told apart by its advantages, as `repirl train` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from threading import Lock
from typing import Any

import repirl

_ONE_AT_A_TIME = Lock()
"""verl calls from several threads."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward: str,
    process_weight: float = 0.2,
    aggregation: str = "min",
    floor: float = -5.0,
    problem_key: str = "question",
    separator: str = "\n\n",
    device: str | None = None,
    **others: Any,
) -> dict[str, Any]:
    """`score` is the outcome (1 or 0) and `process_weight` times the step scores' aggregate (mean, min or last; of
    probabilities also prod).

    What cannot be scored (an empty completion, say) is worth `floor`, and nothing is worth less: it would pay to write nothing.
    For a reward whose scores are probabilities the floor is 0. The further fields are logged by verl: `acc`, `process`,
    `first_suspected` (-1: none), and how often something was `ungraded` or `unscored`. ValueError for data without the problem.
    """
    problem = (extra_info or {}).get(problem_key)
    if not isinstance(problem, str):
        raise ValueError(f"extra_info of {data_source} has no text {problem_key!r}: name the key as problem_key")
    verdict = repirl.grade(solution_str, answer=ground_truth)
    with _ONE_AT_A_TIME:
        (scored,) = _loaded(reward, separator, device).score_many([(problem, solution_str)])
    outcome = 0.0 if math.isnan(verdict.reward) else verdict.reward
    process = floor if scored.reason else max(floor, scored.aggregates[aggregation])
    return {
        "score": outcome + process_weight * process,
        "acc": outcome,
        "process": process,
        "first_suspected": -1 if scored.first_suspected is None else scored.first_suspected,
        "ungraded": float(verdict.outcome == "ungraded"),
        "unscored": float(bool(scored.reason)),
    }


@cache
def _loaded(reward: str, separator: str, device: str | None) -> repirl.Reward:
    """Once in each of verl's processes."""
    return repirl.load_reward(reward, separator=separator, device=device)
