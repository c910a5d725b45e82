"""The unification table: which choices turn rePIRL's objectives into DPO, PRIME, Math-Shepherd and DQO.

The first three are Eq 3 and Eq 5 with a z of its own for every *pool* of two candidates of equal density, one of which is the
demonstration: log sigmoid(r_1 - r_2) = r_1 - log(exp r_1 + exp r_2). DQO learns a policy for a given reward: it is Eq 6.
Each side is differentiated by itself: rePIRL's by its trained loss and by `eq5_objective`, the other by its published loss.
Shapes: S states, V vocabulary, N trajectories, P pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from repirl.learn import discriminator, irl
from repirl.theory.checks import APART, Check, gradient, leaf, relative, turned
from repirl.theory.inverse import EQ_3, Rows, ascent
from repirl.theory.logistic import PrimeBatch, prime_batch
from repirl.theory.optimal import dqo_loss, eq6, random_beta
from repirl.theory.trees import Tree, exact_sample, random_policy, random_table, random_tree

POOLS = 64
CONTINUATIONS = 4
PER_POOL = EQ_3.model_copy(update={"normalize": "prompt"})


@dataclass(frozen=True, slots=True)
class Unified:
    """A row of the table: rePIRL's choices, the check that they give the method's gradient, and one of what they are for."""

    method: str
    objective: str
    reward: str
    supervision: str
    demonstrations: str
    negatives: str
    weights: str
    condition: str
    same: Check
    otherwise: Check


def pooled(at: Tensor, demonstrations_P: Tensor, others_P: Tensor, negatives: str = "both") -> list[Tensor]:
    """Ascent directions of rePIRL on pools of a demonstration and another candidate, given their rewards: by its trained
    loss and by autograd of Eq 5 of each pool. `negatives` "others": as in Algorithm 1, without the demonstration."""
    pool_P = torch.arange(len(others_P))
    both = negatives == "both"
    returns_B = torch.cat([demonstrations_P, others_P]) if both else others_P
    prompt_B = pool_P.repeat(2) if both else pool_P
    rollouts, demos = (
        Rows(returns, torch.ones_like(prompt), prompt)
        for returns, prompt in ((returns_B, prompt_B), (demonstrations_P, pool_P))
    )
    logprobs_B = torch.full((len(returns_B),), -np.log(2.0 if both else 1.0), dtype=torch.float64)
    trained = ascent(at, rollouts, logprobs_B, demos, PER_POOL)
    values = []
    for i in range(len(others_P)):
        mine_B = prompt_B == i
        values.append(irl.eq5_objective(demonstrations_P[i : i + 1], returns_B[mine_B], logprobs_B[mine_B]))
    return [trained, gradient(torch.stack(values).mean(), at)]


# ------------------------------------------------------------------------------------------------------ DPO


def _dpo(rng: np.random.Generator, negatives: str) -> tuple[list[Tensor], Tensor]:
    tree, beta = random_tree(rng), random_beta(rng)
    logits_SV, reference_SV = leaf(random_table(rng, tree)), random_policy(rng, tree)
    chosen_P, rejected_P = torch.from_numpy(rng.random((POOLS, len(tree.paths_NT))).argsort(1)[:, :2].T)
    logprobs_N, reference_N = tree.sums(logits_SV.log_softmax(1)), tree.sums(reference_SV)
    margin_P = (logprobs_N[chosen_P] - logprobs_N[rejected_P]) - (reference_N[chosen_P] - reference_N[rejected_P])
    dpo = -functional.logsigmoid(beta * margin_P).mean()
    returns_N = beta * tree.sums(logits_SV.log_softmax(1) - reference_SV)
    return pooled(logits_SV, returns_N[chosen_P], returns_N[rejected_P], negatives), -gradient(dpo, logits_SV)


def dpo(rng: np.random.Generator) -> float:
    found, expected = _dpo(rng, "both")
    return max(relative(one, expected) for one in found)


def dpo_rejected_only(rng: np.random.Generator) -> float:
    found, expected = _dpo(rng, "others")
    return min(turned(one, expected) for one in found)


# ---------------------------------------------------------------------------------------------------- PRIME


def pools_with_nothing(at: Tensor, rewards_P: Tensor, positive_P: Tensor) -> list[Tensor]:
    """Pools of a candidate and nothing, whose reward is 0; which of them is the demonstration, `positive_P` says."""
    nothing_P = torch.zeros_like(rewards_P)
    demonstrations_P = torch.where(positive_P, rewards_P, nothing_P)
    return pooled(at, demonstrations_P, torch.where(positive_P, nothing_P, rewards_P))


def _first(rng: np.random.Generator, batch: PrimeBatch) -> PrimeBatch:
    rows_R = batch.rows_R[torch.from_numpy(rng.permutation(len(batch.rows_R))[:POOLS])]
    return PrimeBatch(batch.one, batch.logits_SV, rows_R)


def prime(rng: np.random.Generator) -> float:
    batch = _first(rng, prime_batch(rng))
    expected = -gradient(batch.cross_entropy(), batch.logits_SV)
    found = pools_with_nothing(batch.logits_SV, batch.returns_N[batch.rows_R], batch.outcome_R == 1)
    return max(relative(one, expected) for one in found)


def prime_in_one_pool(rng: np.random.Generator) -> float:
    """Eq 3 itself, without 1/pi: correct rollouts against failed ones, weighted by exp(r) in one pool."""
    batch = _first(rng, prime_batch(rng))
    returns_R = batch.returns_N[batch.rows_R]
    rows = lambda returns: Rows(returns, torch.ones(len(returns)), torch.zeros(len(returns), dtype=torch.long))
    config = EQ_3.model_copy(update={"use_outcome": True})
    zeros_R = torch.zeros(len(returns_R), dtype=torch.float64)
    found = ascent(batch.logits_SV, rows(returns_R), zeros_R, rows(returns_R[:0]), config, batch.outcome_R)
    return turned(found, -gradient(batch.cross_entropy(), batch.logits_SV))


# --------------------------------------------------------------------------------------------- Math-Shepherd


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Steps [P] of sampled rollouts, as places in the table, the policy that took them, and labels by continuations."""

    tree: Tree
    policy_SV: Tensor
    step_P: Tensor
    right_P: Tensor


def labelled_steps(rng: np.random.Generator) -> Labelled:
    """A step is right if one of `CONTINUATIONS` sampled from behind it ends in a right answer (the last: if its own does)."""
    tree = random_tree(rng)
    policy_SV = random_policy(rng, tree)
    count = len(tree.paths_NT)
    correct_N = rng.random(count) < 0.3
    probabilities_N = tree.sums(policy_SV).exp().numpy()
    paths = tree.paths_NT.numpy()
    over = tree.child_SV.numel()
    steps, right = [], []
    while len(steps) < POOLS or len(set(right)) < 2:
        path = paths[rng.choice(count, p=probabilities_N / probabilities_N.sum())]
        for t, step in enumerate(path[path < over]):
            behind_N = np.where(paths[:, t] == step, probabilities_N, 0.0)
            ends = rng.choice(count, CONTINUATIONS, p=behind_N / behind_N.sum())
            steps.append(int(step))
            right.append(bool(correct_N[ends].any()))
    return Labelled(tree, policy_SV, torch.tensor(steps), torch.tensor(right))


def _shepherd(rng: np.random.Generator) -> tuple[Labelled, Tensor, Tensor]:
    """Labelled steps, a table of logits, and Math-Shepherd's direction: cross-entropy of the steps' labels."""
    one = labelled_steps(rng)
    score_SV = leaf(random_table(rng, one.tree))
    loss = functional.binary_cross_entropy_with_logits(score_SV.flatten()[one.step_P], one.right_P.double())
    return one, score_SV, -gradient(loss, score_SV)


def _logistic(one: Labelled, reward_SV: Tensor, at: Tensor) -> Tensor:
    """Ascent of the trained logistic form with the policy's density in D, each step a solution of one token."""
    logits_P = (reward_SV - one.policy_SV).flatten()[one.step_P]
    losses_P = discriminator.logistic_losses(logits_P, torch.arange(len(logits_P)), one.right_P)
    return -gradient(losses_P.mean(), at)


def shepherd(rng: np.random.Generator) -> float:
    """Pools of a step and nothing; and Proposition 3 on steps, where the reward is the logit plus log pi."""
    one, score_SV, expected = _shepherd(rng)
    found = pools_with_nothing(score_SV, score_SV.flatten()[one.step_P], one.right_P)
    found.append(_logistic(one, score_SV + one.policy_SV, score_SV))
    return max(relative(each, expected) for each in found)


def shepherd_logit_as_reward(rng: np.random.Generator) -> float:
    """The logit itself as the reward while the policy's density stays in D."""
    one, score_SV, expected = _shepherd(rng)
    return turned(_logistic(one, score_SV, score_SV), expected)


# ------------------------------------------------------------------------------------------------------ DQO


def _dqo(rng: np.random.Generator, *, own_values: bool, own_states: bool) -> tuple[Tensor, Tensor]:
    """Gradient of Eq 6 with r + beta log pi_ref, and minus that of DQO's policy loss over 2 beta, V held fixed there."""
    tree, beta = random_tree(rng), random_beta(rng)
    reward_SV, reference_SV = random_table(rng, tree), random_policy(rng, tree)
    logits_SV = leaf(random_table(rng, tree))
    log_policy_SV = logits_SV.detach().log_softmax(1)
    soft_SV = reward_SV + beta * (reference_SV - log_policy_SV)
    v_S = tree.values(log_policy_SV, soft_SV) if own_values else torch.tensor(rng.normal(size=tree.shape[0]))
    data_SV = tree.visits(log_policy_SV if own_states else tree.conditionals(exact_sample(rng, tree).probabilities_N))
    loss = dqo_loss(logits_SV, v_S, tree.next_values(v_S), reward_SV, reference_SV, beta, data_SV)
    objective = eq6(tree, logits_SV, reward_SV + beta * reference_SV, beta)
    return gradient(objective, logits_SV), -gradient(loss, logits_SV) / (2 * beta)


def dqo(rng: np.random.Generator) -> float:
    return relative(*_dqo(rng, own_values=True, own_states=True))


def dqo_other_values(rng: np.random.Generator) -> float:
    """The smaller of the differences with other values and with states of another policy."""
    other_values = _dqo(rng, own_values=False, own_states=True)
    other_states = _dqo(rng, own_values=True, own_states=False)
    return min(turned(*other_values), turned(*other_states))


TABLE = (
    Unified(
        "DPO",
        "Eq 5",
        "beta log(pi_theta/pi_ref) of a response",
        "preferences",
        "the chosen response",
        "both responses of the pair, each with density 1/2",
        "exp(r), normalised within the pair",
        "any number of steps; the chosen response must be among the negatives too",
        Check("DPO's gradient is Eq 5's on pairs", "Prop 1, unification", dpo),
        Check("rejected responses as only negatives: not DPO", "Prop 1, unification", dpo_rejected_only, APART, "differs"),
    ),
    Unified(
        "PRIME",
        "Eq 5",
        "beta log(pi_theta/pi_ref) of a rollout",
        "outcomes",
        "a correct rollout; nothing (r = 0) in the place of a failed one",
        "the rollout and nothing, with equal density: 1/pi is left out",
        "exp(r), normalised within the pool",
        "one pool for each rollout; z of a prompt is taken to be 1",
        Check("PRIME's gradient is Eq 5's on pools with nothing", "Prop 4, unification", prime),
        Check(
            "all rollouts in one pool, exp(r) as weights: not PRIME", "Prop 4, unification", prime_in_one_pool, APART, "differs"
        ),
    ),
    Unified(
        "Math-Shepherd",
        "Eq 5",
        "a logit of each step; it is r - log pi - log z",
        "step labels, from continuations",
        "a right step; nothing (r = 0) in the place of a wrong one",
        "the step and nothing, with equal density; or, in Prop 3, labelled steps with density (p~ + pi)/2",
        "exp(logit), normalised within the pool",
        "a step is an episode; what it learns is a logit, and the reward of Eq 5 is that plus log pi",
        Check("Math-Shepherd's gradient is Eq 5's on steps", "Prop 3, unification", shepherd),
        Check(
            "its logit as reward, pi left in D: not Math-Shepherd",
            "Prop 3, unification",
            shepherd_logit_as_reward,
            APART,
            "differs",
        ),
    ),
    Unified(
        "DQO",
        "Eq 6",
        "given for each token; r + beta log pi_ref in Eq 6",
        "token rewards",
        "none",
        "none",
        "none",
        "V held fixed at the policy's own soft value, states of the policy itself: -1/(2 beta) of DQO's gradient",
        Check("DQO's gradient is Eq 6's, V and states its own", "Prop 2, unification", dqo),
        Check("another V, or states of another policy: not Eq 6's", "Prop 2, unification", dqo_other_values, APART, "differs"),
    ),
)

CHECKS = tuple(check for row in TABLE for check in (row.same, row.otherwise))
