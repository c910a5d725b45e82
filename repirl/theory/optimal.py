"""Theorem 1 and Propositions 1 and 2: policies that are optimal for a given reward (docs/method.md sections 3, 9).

Eq 6 is summed over all trajectories and differentiated by autograd; the soft Bellman recursion knows nothing of it.
Shapes: S states, V vocabulary, N trajectories, R rows, T tokens of all rows, P pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from repirl.learn import policy_losses
from repirl.learn.gradient import Counts
from repirl.theory.checks import (
    APART,
    Check,
    gradient,
    kl,
    leaf,
    minimised,
    relative,
    total_variation,
)
from repirl.theory.trees import Tree, exact_sample, make_tree, random_policy, random_table, random_tree

FOUND = 1e-6
"""Total variation between what a numerical search finds and the solution."""
CLIMBING_STEPS = 12


def eq6(tree: Tree, logits_SV: Tensor, reward_SV: Tensor, beta: float, sign: float = 1.0) -> Tensor:
    """E_pi[r(tau)] + beta H(pi), over all trajectories. `sign` -1: as the second line of Eq 6 is printed (section 10)."""
    logprobs_N = tree.sums(logits_SV.log_softmax(1))
    return (logprobs_N.exp() * (tree.sums(reward_SV) - sign * beta * logprobs_N)).sum()


def random_beta(rng: np.random.Generator) -> float:
    """Not 1 in particular."""
    return float(rng.uniform(0.5, 2.0))


def climb(tree: Tree, log_policy_SV: Tensor, reward_SV: Tensor, beta: float, step: float = 1.0) -> Tensor:
    """[S, V]: log-probabilities after a step of natural gradient ascent on Eq 6: autograd's gradient over the visits."""
    at = leaf(log_policy_SV)
    uphill_SV = gradient(eq6(tree, at, reward_SV, beta), at) / tree.visits(log_policy_SV)
    return (log_policy_SV + step * uphill_SV / beta).log_softmax(1)


def climbed(tree: Tree, reward_SV: Tensor, beta: float, start_SV: Tensor) -> Tensor:
    """[N]: trajectories of the policy at which such steps end. The Bellman recursion has no part in it."""
    log_policy_SV = start_SV.log_softmax(1)
    for _ in range(CLIMBING_STEPS):
        log_policy_SV = climb(tree, log_policy_SV, reward_SV, beta)
    return tree.sums(log_policy_SV).exp()


# ------------------------------------------------------------------------------------------------ Theorem 1


def _left_gradient(rng: np.random.Generator, sign: float) -> float:
    """|gradient of Eq 6| at pi*, in units of that at another policy."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV, other_SV = random_table(rng, tree), leaf(random_table(rng, tree))
    best_SV = leaf(tree.soft_optimum(reward_SV, beta).log_policy_SV)
    norms = [gradient(eq6(tree, at, reward_SV, beta, sign), at).norm() for at in (best_SV, other_SV)]
    return float(norms[0] / norms[1])


def stationary(rng: np.random.Generator) -> float:
    return _left_gradient(rng, 1.0)


def printed_sign(rng: np.random.Generator) -> float:
    return _left_gradient(rng, -1.0)


def boltzmann(rng: np.random.Generator) -> float:
    """pi*(tau) of the recursion against exp(r(tau) / beta) / Z of the enumeration."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV = random_table(rng, tree)
    found_N = tree.sums(tree.soft_optimum(reward_SV, beta).log_policy_SV).exp()
    weights_N = (tree.sums(reward_SV) / beta).exp()
    return total_variation(found_N, weights_N / weights_N.sum())


def shortfall(rng: np.random.Generator) -> float:
    """V*(s_0) - J(pi) = beta KL(pi || pi*) for any policy, so that none is better than pi*."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV, logits_SV = random_table(rng, tree), random_table(rng, tree)
    best = tree.soft_optimum(reward_SV, beta)
    short = float(best.v_S[0] - eq6(tree, logits_SV, reward_SV, beta))
    probabilities_N = tree.sums(logits_SV.log_softmax(1)).exp()
    return abs(short / (beta * kl(probabilities_N, tree.sums(best.log_policy_SV).exp())) - 1)


def searched(rng: np.random.Generator) -> float:
    """An ascent on Eq 6 from a random policy against exp((Q* - V*) / beta)."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV = random_table(rng, tree)
    found_N = climbed(tree, reward_SV, beta, random_table(rng, tree))
    return total_variation(found_N, tree.sums(tree.soft_optimum(reward_SV, beta).log_policy_SV).exp())


def trained_policy(rng: np.random.Generator) -> float:
    """`policy_loss` on an exact sample whose advantage is the return minus beta log pi(tau), against Eq 6's gradient."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV, sample = random_table(rng, tree), exact_sample(rng, tree)
    logits_SV = leaf(tree.conditionals(sample.probabilities_N))
    log_policy = torch.cat([logits_SV.log_softmax(1).flatten(), torch.zeros(1)])
    paths_RT, lengths_R = tree.paths_NT[sample.rows_R], tree.lengths_N[sample.rows_R]
    logprobs_T = log_policy[paths_RT[paths_RT < reward_SV.numel()]]
    soft_R = tree.sums(reward_SV)[sample.rows_R] - beta * sample.logprobs_R
    config = policy_losses.PolicyLossConfig(reduction="sequence_sum")
    counts = Counts(len(logprobs_T), len(lengths_R))
    advantages_T = soft_R.repeat_interleave(lengths_R)
    loss = policy_losses.policy_loss(logprobs_T, None, advantages_T, lengths_R, counts, config).loss
    return relative(-gradient(loss, logits_SV), gradient(eq6(tree, logits_SV, reward_SV, beta), logits_SV))


# ------------------------------------------------------------------------------------ Propositions 1 and 2


def _reference_optimum(rng: np.random.Generator, tree: Tree) -> float:
    """Of r' = r + beta log pi_ref: the recursion and an ascent to the maximum against pi_ref exp(r / beta) / Z."""
    beta = random_beta(rng)
    reward_SV, reference_SV = random_table(rng, tree), random_policy(rng, tree)
    with_reference_SV = reward_SV + beta * reference_SV
    expected_N = (tree.sums(reference_SV) + tree.sums(reward_SV) / beta).softmax(0)
    recursion_N = tree.sums(tree.soft_optimum(with_reference_SV, beta).log_policy_SV).exp()
    found_N = climbed(tree, with_reference_SV, beta, random_table(rng, tree))
    return max(total_variation(one, expected_N) for one in (recursion_N, found_N))


def bandit_reference(rng: np.random.Generator) -> float:
    return _reference_optimum(rng, make_tree(int(rng.integers(3, 6)), 1))


def steps_reference(rng: np.random.Generator) -> float:
    return _reference_optimum(rng, random_tree(rng))


def bradley_terry(rng: np.random.Generator) -> float:
    """DPO's loss at the optimal policy of r, differentiated through the recursion, against Bradley-Terry's loss of r."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV, reference_SV = leaf(random_table(rng, tree)), random_policy(rng, tree)
    better_P, worse_P = torch.tensor(rng.integers(len(tree.paths_NT), size=(2, 32)))
    returns_N = tree.sums(reward_SV)
    plain = -functional.logsigmoid(returns_N[better_P] - returns_N[worse_P]).mean()
    policy_SV = tree.soft_optimum(reward_SV + beta * reference_SV, beta).log_policy_SV
    implicit_N = beta * (tree.sums(policy_SV) - tree.sums(reference_SV))
    dpo = -functional.logsigmoid(implicit_N[better_P] - implicit_N[worse_P]).mean()
    return relative(gradient(dpo, reward_SV), gradient(plain, reward_SV))


def dqo_loss(
    logits_SV: Tensor,
    v_S: Tensor,
    later_SV: Tensor,
    reward_SV: Tensor,
    reference_SV: Tensor,
    beta: float,
    data_SV: Tensor,
) -> Tensor:
    """DQO (arXiv 2410.09302): E_data (beta log pi/pi_ref - (r + V(s') - V(s)))^2; `later`: V(s'), `data`: weights of steps."""
    log_ratio_SV = logits_SV.log_softmax(1) - reference_SV
    return (data_SV * (beta * log_ratio_SV - (reward_SV + later_SV - v_S[:, None])).square()).sum()


def dqo_bellman(rng: np.random.Generator) -> float:
    """Squared soft Bellman errors of Q = V + beta log pi, V(s') taken from Q itself, against DQO's loss: the gradients in
    policy and V, with the target held fixed (as DQO does) and not."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV, reference_SV = random_table(rng, tree), random_policy(rng, tree)
    data_SV = torch.tensor(rng.dirichlet(np.ones(reward_SV.numel()))).view(tree.shape)
    logits_SV, v_S = leaf(random_table(rng, tree)), leaf(torch.tensor(rng.normal(size=tree.shape[0])))
    q_SV = v_S[:, None] + beta * logits_SV.log_softmax(1)
    backup_SV = reward_SV + beta * reference_SV + tree.next_values(beta * torch.logsumexp(q_SV / beta, 1))
    later_SV = tree.next_values(v_S)
    gaps = []
    for target_SV, next_SV in ((backup_SV, later_SV), (backup_SV.detach(), later_SV.detach())):
        bellman = (data_SV * (q_SV - target_SV).square()).sum()
        dqo = dqo_loss(logits_SV, v_S, next_SV, reward_SV, reference_SV, beta, data_SV)
        gaps += [relative(gradient(bellman, at), gradient(dqo, at)) for at in (logits_SV, v_S)]
    return max(gaps)


def dqo_minimum(rng: np.random.Generator) -> float:
    """A search for DQO's minimum on data that have every step, against the recursion's policy."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV, reference_SV = random_table(rng, tree), random_policy(rng, tree)
    data_SV = torch.ones(tree.shape, dtype=torch.float64)
    start = torch.cat([random_table(rng, tree), torch.zeros(tree.shape[0], 1)], 1)

    def loss(at: Tensor) -> Tensor:
        logits_SV, v_S = at[:, :-1], at[:, -1]
        return dqo_loss(logits_SV, v_S, tree.next_values(v_S), reward_SV, reference_SV, beta, data_SV)

    found_SV = minimised(loss, start)[:, :-1].log_softmax(1)
    best_SV = tree.soft_optimum(reward_SV + beta * reference_SV, beta).log_policy_SV
    return total_variation(tree.sums(found_SV).exp(), tree.sums(best_SV).exp())


CHECKS = (
    Check("pi* = exp((Q*-V*)/beta) leaves no gradient of Eq 6", "Theorem 1", stationary),
    Check("trajectories of pi* are exp(r/beta)/Z", "Theorem 1", boltzmann),
    Check("any other policy falls short of pi* by beta KL", "Theorem 1", shortfall),
    Check("ascent on Eq 6 ends at pi*", "Theorem 1", searched, FOUND),
    # Its weights of tokens are float32.
    Check("the trained policy loss has the gradient of Eq 6", "Eq 6", trained_policy, 1e-6),
    Check("Eq 6 with the sign as printed has a gradient at pi*", "Eq 6, second line", printed_sign, APART, "differs"),
    Check("one step: the optimum is pi_ref exp(r/beta)/Z", "Prop 1", bandit_reference, FOUND),
    Check("several steps: the same, for whole trajectories", "Prop 1", steps_reference, FOUND),
    Check("DPO's loss at the optimal policy is Bradley-Terry's of r", "Prop 1", bradley_terry),
    Check("soft Bellman errors of Q = V + beta log pi are DQO's loss", "Prop 2", dqo_bellman),
    Check("the minimum of DQO's loss is pi*", "Prop 2", dqo_minimum, 1e-5),
)
