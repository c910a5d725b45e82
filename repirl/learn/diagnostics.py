"""What to look at while a process reward learns: separation, shortcuts, and agreement with the exact checker.

Taken by the training loop, the same for every reward (docs/design.md rule 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repirl.engines.sampling import decode
from repirl.rewards.base import RewardLearner
from repirl.rewards.nulls import exact_step_labels
from repirl.separation import auc, grouped_auc, pearson
from repirl.tasks.training_sets import has_step_checker
from repirl.types import Metrics, Rollout, RolloutGroup, Scored, StepRewards, Verdict

EXPLAINED = {
    "prm/score_expert": "mean token reward of demonstrations; with a base measure it starts as the base policy's "
    "log-probability, in which another style is far below the policy's own rollouts: see expert_margin",
    "prm/expert_margin": "score_expert minus the mean of the negatives in the last update; inverse RL promises that it grows",
    "prm/expert_margin_start": "the same before the first update",
    "best_step": "the checkpoint that was kept; 0 is the start, untrained",
    "entropy": "nats, mean over the tokens that were run: updated_share of the batch",
    "engine_logprob_gap_max": "largest difference between sampler and trainer of any token",
}
"""What a number says that its name does not; printed beside it."""

PROBED_ROLLOUTS = 16
REPETITIONS = 4


def reward_diagnostics(groups: Sequence[RolloutGroup], scored: Scored) -> Metrics:
    """Metrics of one scored batch; what has no value (a class is empty, a side is constant) is left out.

    `auc`, `auc_within`: mean reward (of the tokens that carry one) against the true outcome, over all rollouts and within
    groups. `length_correlation`: the same against length. Rollouts that were not scored are left out. `step_auc`,
    `step_auc_within`: step rewards of right steps against first wrong steps (exact checker; later steps left out), over all
    and within a group at the same step index.
    """
    means = np.array([s.mean for group in scored for s in group])
    rewards = np.array([v.reward for group in groups for v in group.verdicts])
    lengths = np.array([len(s.token_rewards) for group in scored for s in group])
    group_ids = np.array([g for g, group in enumerate(scored) for _ in group])
    known = ~np.isnan(means)
    graded = ~np.isnan(rewards) & known
    out = {
        "score_correct": _mean(means[(rewards == 1) & known]),
        "score_failed": _mean(means[(rewards == 0) & known]),
        "auc": auc(means[graded], rewards[graded]),
        "auc_within": grouped_auc(means[graded], rewards[graded], group_ids[graded].tolist()),
        "length_correlation": pearson(means[known], lengths[known]),
    }
    if all(has_step_checker(group.problem) for group in groups):
        out |= _step_agreement(groups, scored)
    return {name: float(value) for name, value in out.items() if value is not None}


def shortcut_scores(reward: RewardLearner, tokenizer: Any, groups: Sequence[RolloutGroup]) -> Metrics:
    """Mean reward of outputs that should earn nothing, made from the first rollouts of the batch, of those that are scored.

    `score_empty`: nothing but EOS; `score_one_token`: the first token and EOS; `score_repeated`: the first half,
    said four times; `score_truncated`: the first half, cut off.
    """
    probed = [(group, rollout) for group in groups for rollout in group.rollouts][:PROBED_ROLLOUTS]
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]

    def half(ids: list[int]) -> list[int]:
        return ids[: max(1, len(ids) // 2)]

    probes: dict[str, Callable[[list[int]], list[int]]] = {
        "score_empty": lambda ids: end or ids[:1],
        "score_one_token": lambda ids: ids[:1] + end,
        "score_repeated": lambda ids: half(ids) * REPETITIONS + end,
        "score_truncated": half,
    }
    found: Metrics = {}
    for name, change in probes.items():
        changed = [_with_tokens(tokenizer, group, rollout, change(rollout.token_ids.tolist())) for group, rollout in probed]
        scores = np.array([rewards.mean for row in reward.score(changed) for rewards in row])
        if not np.isnan(scores).all():
            found[name] = float(np.nanmean(scores))
    return found


def _with_tokens(tokenizer: Any, group: RolloutGroup, rollout: Rollout, ids: list[int]) -> RolloutGroup:
    """A group of the one rollout, with other tokens."""
    finished = ids[-1] == tokenizer.eos_token_id
    made = replace(
        rollout,
        token_ids=np.array(ids, dtype=np.int64),
        logprobs=np.full(len(ids), np.nan, dtype=np.float32),
        text=decode(tokenizer, np.array(ids[:-1] if finished else ids, dtype=np.int64)),
        finish_reason="stop" if finished else "length",
    )
    return RolloutGroup(group.problem, (made,), (Verdict("ungraded", "made up"),))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _step_agreement(groups: Sequence[RolloutGroup], scored: Sequence[Sequence[StepRewards]]) -> dict[str, float | None]:
    labels, scores, places = [], [], []
    for g, (group, rewards) in enumerate(zip(groups, scored, strict=True)):
        for rollout, reward in zip(group.rollouts, rewards, strict=True):
            right = exact_step_labels(group.problem, rollout, len(reward.step_rewards))
            alive = right.index(False) + 1 if False in right else len(right)
            for s in np.flatnonzero(reward.step_mask[:alive]).tolist():
                labels.append(right[s])
                scores.append(float(reward.step_rewards[s]))
                places.append((g, s))
    return {"step_auc": auc(scores, labels), "step_auc_within": grouped_auc(scores, labels, places)}
