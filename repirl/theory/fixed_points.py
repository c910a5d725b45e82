"""Where rePIRL ends: the reward of Eq 1 and the policy of Eq 6 on it (docs/method.md sections 2-4).

Shapes: S states, V vocabulary, N trajectories, R rows, E demonstrations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from repirl.learn import irl
from repirl.theory.checks import APART, Check, kl, leaf, minimised, total_variation
from repirl.theory.inverse import EQ_3, Instance, ascent, drawn, one_prompt, random_instance
from repirl.theory.optimal import FOUND, climb, climbed
from repirl.theory.trees import Tree, exact_sample, make_tree

ROUNDS, ROLLOUTS, REWARD_STEP = 300, 256, 2.0


def learned_reward(one: Instance) -> Tensor:
    """[S, V]: where the reward ends that climbs Eq 5 along Eq 3 from zero, on samples of a policy that does not move."""

    def value(reward_SV: Tensor) -> Tensor:
        returns_N = one.tree.sums(reward_SV)
        return -irl.eq5_objective(returns_N[one.expert.rows_R], returns_N[one.sampler.rows_R], one.sampler.logprobs_R)

    slope = lambda reward_SV: -Instance(one.tree, reward_SV, one.expert, one.sampler).ascent()
    return minimised(value, torch.zeros(one.tree.shape, dtype=torch.float64), slope)


def soft_probabilities(tree: Tree, reward_SV: Tensor, beta: float) -> Tensor:
    """[N]: trajectories of the policy that is optimal for Eq 6."""
    return tree.sums(tree.soft_optimum(reward_SV, beta).log_policy_SV).exp()


def recovered_reward(rng: np.random.Generator) -> float:
    """KL(expert || soft-optimal policy of the learned reward)."""
    one = random_instance(rng)
    return kl(one.expert.probabilities_N, soft_probabilities(one.tree, learned_reward(one), 1.0))


def recovered_policy(rng: np.random.Generator) -> float:
    """KL(expert || policy at which ascent on Eq 6 with beta = 1 and the learned reward ends)."""
    one = random_instance(rng)
    start_SV = one.tree.conditionals(one.sampler.probabilities_N)
    return kl(one.expert.probabilities_N, climbed(one.tree, learned_reward(one), 1.0, start_SV))


def _beta_of_the_policy(rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Policy of Eq 6 with beta 1/2 or 2 on the learned reward; the expert; beta."""
    one, beta = random_instance(rng), float(rng.choice([0.5, 2.0]))
    return soft_probabilities(one.tree, learned_reward(one), beta), one.expert.probabilities_N, beta


def sharpened_expert(rng: np.random.Generator) -> float:
    policy_N, expert_N, beta = _beta_of_the_policy(rng)
    return total_variation(policy_N, (expert_N.log() / beta).softmax(0))


def not_the_expert(rng: np.random.Generator) -> float:
    policy_N, expert_N, _ = _beta_of_the_policy(rng)
    return total_variation(policy_N, expert_N)


def expert_is_stationary(rng: np.random.Generator) -> float:
    """|Eq 3| where exp(r) / z is the expert, in units of that at another reward."""
    one = random_instance(rng)
    there = Instance(one.tree, leaf(one.tree.conditionals(one.expert.probabilities_N)), one.expert, one.sampler)
    return float(there.ascent().norm() / one.ascent().norm())


def alternated(rng: np.random.Generator) -> float:
    """KL(expert || policy) after alternating as in Algorithm 1 without outcomes: rollouts of the present policy, a step of the
    reward along Eq 3 on them, a part of the way to the maximum of Eq 6. The steps of the reward become shorter."""
    tree = make_tree(3, 3, ends=bool(rng.integers(2)))
    expert = exact_sample(rng, tree)
    reward_SV = torch.zeros(tree.shape, dtype=torch.float64)
    policy_SV = torch.zeros(tree.shape, dtype=torch.float64).log_softmax(1)
    for i in range(ROUNDS):
        at, logprobs_N = leaf(reward_SV), tree.sums(policy_SV)
        rows_R = drawn(rng, logprobs_N, ROLLOUTS)
        returns_N = tree.sums(at)
        rollouts, demonstrations = (one_prompt(tree, returns_N, rows) for rows in (rows_R, expert.rows_R))
        step_SV = ascent(at, rollouts, logprobs_N[rows_R], demonstrations)
        reward_SV = reward_SV + REWARD_STEP * min(1.0, 2 - 2 * i / ROUNDS) * step_SV
        policy_SV = climb(tree, policy_SV, reward_SV, 1.0, 0.5)
        if not policy_SV.isfinite().all():
            return math.inf
    return kl(expert.probabilities_N, tree.sums(policy_SV).exp())


def failures_only(rng: np.random.Generator) -> float:
    """Algorithm 1: | |gradient in the returns|_1 - 2 |. It is 2 at any reward where no positive has failed: no fixed point."""
    one = random_instance(rng)
    returns_N = leaf(one.tree.sums(one.reward_SV))
    correct_N = torch.tensor(rng.permutation(len(returns_N)) % 2, dtype=torch.float64)
    rows_R = one.sampler.rows_R
    demos_E = one.expert.rows_R[correct_N[one.expert.rows_R] == 1]
    rollouts, demonstrations = (one_prompt(one.tree, returns_N, rows) for rows in (rows_R, demos_E))
    config = EQ_3.model_copy(update={"use_outcome": True})
    found_N = ascent(returns_N, rollouts, one.sampler.logprobs_R, demonstrations, config, correct_N[rows_R])
    return abs(float(found_N.abs().sum()) - 2)


CHECKS = (
    Check("no gradient of Eq 3 is left where exp(r)/z is the expert", "Eq 1, 3", expert_is_stationary),
    Check("the policy optimal for the learned reward is the expert: KL", "Eq 1, 3", recovered_reward, FOUND),
    Check("ascent on Eq 6 with that reward ends at the expert: KL", "Eq 1, 3, 6", recovered_policy, FOUND),
    Check("alternating on sampled rollouts ends at the expert: KL", "Algorithm 1, PRM only", alternated, 0.01),
    Check("beta other than 1: it ends at expert^(1/beta)", "Eq 3, 6", sharpened_expert, 1e-5),
    Check("beta other than 1: that is not the expert", "Eq 3, 6", not_the_expert, APART, "differs"),
    Check("failures as only negatives: no reward is a fixed point", "Algorithm 1, step 5", failures_only),
)
