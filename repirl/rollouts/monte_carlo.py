"""Step labels by continuation: how often is the answer right that a policy reaches from there (docs/recipes.md B3)?

Every convention that changes the labels is a setting: how many continuations, hard or soft, the last step, the rollout's own
outcome, completions that could not be graded, what lies behind the first step from which nothing was reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from repirl.config import Config
from repirl.rng import seed_for
from repirl.rollouts.collect import Collector, Prefix
from repirl.rollouts.steps import StepSegmentation, step_end_tokens, token_char_ends
from repirl.types import Rollout, RolloutGroup, Verdict


class MonteCarloConfig(Config):
    """How a step's label is estimated. The continuations are sampled as all rollouts of the run are."""

    continuations: int = Field(default=8, ge=1)
    """Samples from the end of each step."""
    label: Literal["hard", "soft"] = "hard"
    """1 if any of them is right, or the share of them that is."""
    own_outcome: bool = False
    """The rollout's own ending counts as one of them."""
    last_step: Literal["outcome", "continue"] = "outcome"
    """The last step has the rollout's outcome, or is continued from its end as all others."""
    ungraded: Literal["drop", "wrong"] = "drop"
    """A continuation that could not be graded is left out (a step without any has no label), or counts as wrong."""
    after_failure: Literal["label", "wrong", "none"] = "label"
    """Steps behind the first from which nothing was reached: sampled like all others, taken as wrong, or without a label."""


@dataclass(frozen=True, slots=True)
class SteppedRollout:
    """A rollout, its problem's group and verdict, and the index of the last token of each of its steps."""

    group: RolloutGroup
    rollout: Rollout
    verdict: Verdict
    ends: tuple[int, ...]


def stepped(groups: Sequence[RolloutGroup], tokenizer: Any, segmentation: StepSegmentation) -> list[SteppedRollout]:
    """The rollouts of the groups with their steps; equal completions of a problem once."""
    found: dict[tuple[int, bytes], SteppedRollout] = {}
    for g, group in enumerate(groups):
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            key = g, np.asarray(rollout.token_ids).tobytes()
            if key not in found:
                ends = step_end_tokens(tokenizer, rollout.token_ids, segmentation, rollout.text)
                found[key] = SteppedRollout(group, rollout, verdict, tuple(ends.tolist()))
    return list(found.values())


def monte_carlo_labels(
    rollouts: Sequence[SteppedRollout], collector: Collector, config: MonteCarloConfig, seed: int
) -> list[tuple[float | None, ...]]:
    """Labels [S] of every rollout's steps, 0 to 1; None: no label.

    Steps are taken in order, one place of all rollouts at a time, so that `after_failure` can spare what lies behind.
    """
    labels: list[list[float | None]] = [[None] * len(one.ends) for one in rollouts]
    alive = [True] * len(rollouts)
    for s in range(max((len(one.ends) for one in rollouts), default=0)):
        here = [i for i, one in enumerate(rollouts) if s < len(one.ends)]
        asked: list[tuple[int, Prefix]] = []
        for i in here:
            one, last = rollouts[i], s == len(rollouts[i].ends) - 1
            if not alive[i] and config.after_failure != "label":
                labels[i][s] = 0.0 if config.after_failure == "wrong" else None
            elif last and config.last_step == "outcome":
                labels[i][s] = _share([one.verdict], config)
            elif (prefix := _prefix(one, s, collector)) is not None:
                asked.append((i, prefix))
        groups = collector.continue_from([prefix for _, prefix in asked], config.continuations, seed_for(seed, "step", s))
        for (i, _), group in zip(asked, groups, strict=True):
            verdicts = [*group.verdicts, *([rollouts[i].verdict] if config.own_outcome else [])]
            labels[i][s] = _share(verdicts, config)
        for i in here:
            alive[i] = alive[i] and labels[i][s] != 0.0
    return [tuple(one) for one in labels]


def _prefix(one: SteppedRollout, s: int, collector: Collector) -> Prefix | None:
    """The rollout up to the end of step s (no EOS), or None if that leaves no room to go on."""
    rollout = one.rollout
    body = rollout.token_ids[: len(rollout.token_ids) - (rollout.finish_reason == "stop")]
    end = min(one.ends[s] + 1, len(body))
    if end >= collector.decoding.params.max_new_tokens:
        return None
    chars = int(token_char_ends(collector.tokenizer, body.tolist(), rollout.text)[end - 1]) if end else 0
    return Prefix(one.group.problem, tuple(int(token) for token in body[:end]), rollout.text[:chars])


def _share(verdicts: Sequence[Verdict], config: MonteCarloConfig) -> float | None:
    known = [v.reward for v in verdicts if v.outcome != "ungraded"]
    if config.ungraded == "wrong":
        known += [0.0] * (len(verdicts) - len(known))
    if not known:
        return None
    return float(max(known)) if config.label == "hard" else float(np.mean(known))
