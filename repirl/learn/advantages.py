"""Baselines: from rewards to advantages, within groups of rollouts of one problem.

Ungraded rollouts are given as NaN: they get advantage 0 and stay out of every baseline (docs/design.md rule 1).
Shapes: G rollouts of a group, S steps, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from repirl.types import StepRewards

OutcomeAdvantage = Literal["rloo", "grpo", "grpo_no_std"]


def outcome_advantages(rewards_G: np.ndarray, how: OutcomeAdvantage, eps: float = 1e-4) -> np.ndarray:
    """float64 [G] advantages of one group of outcome rewards.

    `rloo`: r - mean of the others (TRL), which is n/(n-1) (r - mean), verl's formula.
    `grpo`: (r - mean) / (unbiased std + eps) (TRL). `grpo_no_std`: r - mean. A group of fewer than two graded rollouts,
    or without variance, has advantage 0. docs/recipes.md B10 gives [1, 0, 0, 0] -> [1, -1/3, -1/3, -1/3] and [1.5, -0.5, ...].
    """
    rewards_G = np.asarray(rewards_G, dtype=np.float64)
    graded_G = ~np.isnan(rewards_G)
    n = int(graded_G.sum())
    out_G = np.zeros(len(rewards_G))
    if n < 2:
        return out_G
    graded = rewards_G[graded_G]
    if how == "rloo":
        advantages = graded - (graded.sum() - graded) / (n - 1)
    elif how == "grpo":
        advantages = (graded - graded.mean()) / (graded.std(ddof=1) + eps)
    elif how == "grpo_no_std":
        advantages = graded - graded.mean()
    else:
        raise ValueError(f"unknown advantage {how!r}")
    out_G[graded_G] = advantages
    return out_G


def leave_one_out_sequence(group: Sequence[StepRewards]) -> list[np.ndarray]:
    """Per rollout float64 [T]: mean reward of the tokens that have one minus the mean of the others' means, on every token."""
    means_G = np.array([rewards.mean for rewards in group])
    return [
        np.full(len(rewards.token_rewards), advantage)
        for rewards, advantage in zip(group, outcome_advantages(means_G, "rloo"), strict=True)
    ]


def leave_one_out_return_to_go(group: Sequence[StepRewards]) -> list[np.ndarray]:
    """Per rollout float64 [T]: undiscounted return-to-go of token rewards centred leave-one-out (docs/recipes.md B2, item 3).

    With m_i the mean token reward of rollout i and n rollouts: r'_{i,t} = r_{i,t} n/(n-1) - (sum_j m_j)/(n-1), and the
    result at t is the sum of r' from t to the end. Its value at t = 0 is T_i (m_i - mean of the other m_j).
    """
    n = len(group)
    if n < 2:
        return [np.zeros(len(rewards.token_rewards)) for rewards in group]
    total = sum(float(rewards.token_rewards.mean(dtype=np.float64)) for rewards in group)
    centred = [rewards.token_rewards.astype(np.float64) * n / (n - 1) - total / (n - 1) for rewards in group]
    return [np.cumsum(r_T[::-1])[::-1] for r_T in centred]


def leave_one_out_steps(group: Sequence[StepRewards]) -> list[np.ndarray]:
    """Per rollout float64 [T]: each token earns its step's reward minus the mean of the other rollouts' at that step index.

    Only rewarded steps count (`step_mask`): a step without reward has advantage 0 and is in nobody's baseline. Where no
    other rollout has a reward at that index, the baseline is the mean of all their rewarded steps; without any, 0.
    """
    out = []
    for i, rewards in enumerate(group):
        others = [other for j, other in enumerate(group) if j != i]
        pooled = np.concatenate([o.step_rewards[o.step_mask] for o in others]) if others else np.zeros(0)
        steps_S = np.zeros(len(rewards.step_rewards))
        for s in np.flatnonzero(rewards.step_mask):
            peers = [o.step_rewards[s] for o in others if s < len(o.step_rewards) and o.step_mask[s]]
            if peers or len(pooled):
                steps_S[s] = rewards.step_rewards[s] - float(np.mean(peers if peers else pooled))
        lengths_S = np.diff(np.concatenate([[-1], rewards.step_ends]))
        out.append(np.repeat(steps_S, lengths_S))
    return out


def min_form(group: Sequence[StepRewards], temperature: float) -> list[np.ndarray]:
    """Per rollout float64 [T]: return-to-go in which the worst step counts (PURE, docs/recipes.md B7).

    Step s earns w_s r_s at its last token, w = softmax(-r / temperature) over the rollout's rewarded steps, so that the return
    is close to the lowest reward. With R_i the return of rollout i of T_i tokens, the mean of the other R_j is taken off,
    spread over its tokens: at t = 0 the advantage is R_i minus that mean.
    """
    tokens = []
    for rewards in group:
        r_S = np.where(rewards.step_mask, rewards.step_rewards.astype(np.float64), np.inf)
        paid_S = np.zeros(len(r_S))
        if rewards.step_mask.any():
            weight_S = np.exp((r_S.min() - r_S) / temperature)
            paid_S[rewards.step_mask] = (weight_S[rewards.step_mask] / weight_S.sum()) * r_S[rewards.step_mask]
        paid_T = np.zeros(len(rewards.token_rewards))
        paid_T[rewards.step_ends] = paid_S
        tokens.append(paid_T)
    returns_G = np.array([paid_T.sum() for paid_T in tokens])
    if len(group) < 2:
        return [np.zeros(len(paid_T)) for paid_T in tokens]
    others_G = (returns_G.sum() - returns_G) / (len(group) - 1)
    centred = [paid_T - other / len(paid_T) for paid_T, other in zip(tokens, others_G, strict=True)]
    return [np.cumsum(paid_T[::-1])[::-1] for paid_T in centred]


def standardised_steps(group: Sequence[StepRewards], eps: float = 1e-6) -> list[np.ndarray]:
    """Per rollout float64 [T]: return-to-go of step rewards that are standardised over all steps of the group (RL-Tango, B8).

    A step's z = (r - mean) / (unbiased std + eps) is paid at its last token. Fewer than two rewarded steps, or steps without
    variance, earn 0.
    """
    pooled = np.concatenate([rewards.step_rewards[rewards.step_mask] for rewards in group]).astype(np.float64)
    mean, std = (float(pooled.mean()), float(pooled.std(ddof=1))) if len(pooled) > 1 else (0.0, 0.0)
    out = []
    for rewards in group:
        z_S = (rewards.step_rewards.astype(np.float64) - mean) / (std + eps) if std > 0 else np.zeros(len(rewards.step_rewards))
        paid_T = np.zeros(len(rewards.token_rewards))
        paid_T[rewards.step_ends] = np.where(rewards.step_mask, z_S, 0.0)
        out.append(np.cumsum(paid_T[::-1])[::-1])
    return out
