"""What to look at while a process reward learns: separation, shortcuts, and agreement with the exact checker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from repirl.learn.mixing import progress
from repirl.rewards.nulls import exact_step_labels
from repirl.stats import auc, grouped_auc, pearson
from repirl.tasks import arith
from repirl.types import RolloutGroup, StepRewards


def reward_diagnostics(groups: Sequence[RolloutGroup], scored: Sequence[Sequence[StepRewards]]) -> dict[str, float]:
    """Metrics of one scored batch; NaN where a class is empty.

    `auc`, `auc_within`: mean token reward against the true outcome, over all rollouts and within groups.
    `length_correlation`: mean token reward against length. `step_auc`, `step_auc_within`: step rewards of right steps
    against first wrong steps (exact `arith` checker; later steps left out), over all and within a group at the same step
    index; `progress_auc_within`: the same for the change of the step reward.
    """
    means = np.array([float(s.token_rewards.mean()) for group in scored for s in group])
    rewards = np.array([v.reward for group in groups for v in group.verdicts])
    lengths = np.array([len(s.token_rewards) for group in scored for s in group])
    group_ids = np.array([g for g, group in enumerate(scored) for _ in group])
    graded = ~np.isnan(rewards)
    out = {
        "score_correct": _mean(means[rewards == 1]),
        "score_failed": _mean(means[rewards == 0]),
        "auc": auc(means[graded], rewards[graded]),
        "auc_within": grouped_auc(means[graded], rewards[graded], group_ids[graded].tolist()),
        "length_correlation": pearson(means, lengths),
    }
    if all(group.problem.family == arith.FAMILY for group in groups):
        out |= _step_agreement(groups, scored)
    return {name: float("nan") if value is None else float(value) for name, value in out.items()}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _step_agreement(groups: Sequence[RolloutGroup], scored: Sequence[Sequence[StepRewards]]) -> dict[str, float | None]:
    labels, scores, changes, places = [], [], [], []
    for g, (group, rewards) in enumerate(zip(groups, scored, strict=True)):
        for rollout, reward in zip(group.rollouts, rewards, strict=True):
            right = exact_step_labels(group.problem, rollout, len(reward.step_rewards))
            alive = right.index(False) + 1 if False in right else len(right)
            change_S = progress(reward).step_rewards
            for s in range(alive):
                labels.append(right[s])
                scores.append(float(reward.step_rewards[s]))
                changes.append(float(change_S[s]))
                places.append((g, s))
    return {
        "step_auc": auc(scores, labels),
        "step_auc_within": grouped_auc(scores, labels, places),
        "progress_auc_within": grouped_auc(changes, labels, places),
    }
