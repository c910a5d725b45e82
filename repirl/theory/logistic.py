"""Propositions 3 and 4: the logistic form, and log(pi/pi_ref) as the reward (docs/method.md section 9).

Shapes: S states, V vocabulary, N trajectories, R rows (M of the mixture: demonstrations, then rollouts).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from repirl.learn import discriminator
from repirl.theory.checks import APART, EXACT, Check, gradient, leaf, relative, turned
from repirl.theory.inverse import EQ_3, Instance, ascent, eq2, one_prompt, random_instance
from repirl.theory.optimal import random_beta
from repirl.theory.trees import Tree, exact_sample, random_policy, random_table, random_tree

BISECTIONS = 60

# --------------------------------------------------------------------------------------------- Proposition 3


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Half demonstrations, half rollouts of the policy, and D = p~ / (p~ + pi) with p~ = exp(r) / z on them."""

    one: Instance

    @property
    def rows_M(self) -> Tensor:
        return torch.cat([self.one.expert.rows_R, self.one.sampler.rows_R])

    @property
    def ratio_M(self) -> Tensor:
        """r - log pi of every row, with gradient."""
        return (self.one.tree.sums(self.one.reward_SV) - self.one.sampler.probabilities_N.log())[self.rows_M]

    def log_z(self) -> float:
        """The z at which E[log D] + E[log(1 - D)] is stationary: p~ / mixture density has mean 1 over the mixture."""
        ratio_M = self.ratio_M.detach()
        low, high = float(ratio_M.min()), float(ratio_M.max())
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            too_low = float(torch.sigmoid(ratio_M - middle).mean()) > 0.5
            low, high = (middle, high) if too_low else (low, middle)
        return low

    def true_log_z(self) -> float:
        """log sum over all trajectories of exp(r)."""
        return float(torch.logsumexp(self.one.tree.sums(self.one.reward_SV.detach()), 0))

    def logistic_ascent(self, log_z: float) -> Tensor:
        """Gradient of E_D log D + E_pi log(1 - D) by the trained loss, z a constant."""
        positive_M = torch.arange(len(self.rows_M)) < len(self.one.expert.rows_R)
        losses_M = discriminator.logistic_losses(self.ratio_M - log_z, torch.arange(len(self.rows_M)), positive_M)
        return -gradient(losses_M[positive_M].mean() + losses_M[~positive_M].mean(), self.one.reward_SV)

    def log_density_M(self, log_z: float) -> Tensor:
        """log((p~ + pi) / 2), with the energy model in the place of the unknown expert."""
        modelled_N = self.one.tree.sums(self.one.reward_SV.detach()) - log_z
        return (torch.logaddexp(modelled_N, self.one.sampler.probabilities_N.log()) - math.log(2))[self.rows_M]

    def eq3_ascent(self, log_z: float) -> Tensor:
        """Eq 3 as trained, with the mixture's rows as rollouts and their density so modelled."""
        returns_N = self.one.tree.sums(self.one.reward_SV)
        rollouts, demos = (one_prompt(self.one.tree, returns_N, rows) for rows in (self.rows_M, self.one.expert.rows_R))
        return ascent(self.one.reward_SV, rollouts, self.log_density_M(log_z), demos)


def mixture(rng: np.random.Generator) -> Mixture:
    return Mixture(random_instance(rng))


def stationary_z(rng: np.random.Generator) -> float:
    mixed = mixture(rng)
    log_z = mixed.log_z()
    return relative(mixed.logistic_ascent(log_z), mixed.eq3_ascent(log_z))


def true_z(rng: np.random.Generator) -> float:
    """With z = sum of exp(r), weights that sum to one are others."""
    mixed = mixture(rng)
    log_z = mixed.true_log_z()
    return relative(mixed.logistic_ascent(log_z), mixed.eq3_ascent(log_z))


def true_z_as_it_is(rng: np.random.Generator) -> float:
    """With z = sum of exp(r), the weights p~ / density divided by the number of rows, not by their sum."""
    mixed = mixture(rng)
    log_z, one = mixed.true_log_z(), mixed.one
    returns_N = one.tree.sums(one.reward_SV)
    weights_M = (returns_N.detach()[mixed.rows_M] - log_z - mixed.log_density_M(log_z)).exp()
    value = returns_N[one.expert.rows_R].mean() - (weights_M * returns_N[mixed.rows_M]).mean()
    return relative(mixed.logistic_ascent(log_z), gradient(value, one.reward_SV))


def sampled_from_the_model(rng: np.random.Generator) -> float:
    """Rows drawn from (p~ + pi) / 2 itself: Eq 5's gradient is then Eq 2, which the logistic one is not."""
    mixed = mixture(rng)
    expected = eq2(mixed.one.tree, mixed.one.reward_SV, mixed.one.expert.probabilities_N)
    return relative(mixed.logistic_ascent(mixed.true_log_z()), expected)


# --------------------------------------------------------------------------------------------- Proposition 4


def reference_values(tree: Tree, reward_SV: Tensor, reference_SV: Tensor, beta: float) -> Tensor:
    """[S]: beta log E_ref[exp(what is still to be earned / beta)], by the recursion with r + beta log pi_ref."""
    return tree.soft_optimum(reward_SV + beta * reference_SV, beta).v_S


def implicit_reward(tree: Tree, returns_N: Tensor, reference_SV: Tensor, beta: float) -> Tensor:
    """[S, V]: beta log(pi/pi_ref) of the optimal policy, from its trajectories pi_ref exp(r/beta) / Z, by enumeration."""
    best_N = (tree.sums(reference_SV) + returns_N / beta).softmax(0)
    return beta * (tree.conditionals(best_N) - reference_SV)


def progress_reward(tree: Tree, outcome_N: Tensor, reference_SV: Tensor, beta: float) -> Tensor:
    """[S, V]: V(s_t) - V(s_{t-1}) of a reward that is paid at the end; V of what has ended is its outcome."""
    paid_SV = tree.at_end(outcome_N)
    v_S = reference_values(tree, paid_SV, reference_SV, beta)
    return paid_SV + tree.next_values(v_S) - v_S[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class Graded:
    """A tree with a reference policy, beta, and an outcome for each trajectory."""

    tree: Tree
    reference_SV: Tensor
    beta: float
    outcome_N: Tensor

    @property
    def start_value(self) -> Tensor:
        """V(s_0) = beta log E_ref exp(outcome / beta)."""
        paid_SV = self.tree.at_end(self.outcome_N)
        return reference_values(self.tree, paid_SV, self.reference_SV, self.beta)[0]

    def implicit(self) -> Tensor:
        return implicit_reward(self.tree, self.outcome_N, self.reference_SV, self.beta)

    def progress(self) -> Tensor:
        return progress_reward(self.tree, self.outcome_N, self.reference_SV, self.beta)


def graded(rng: np.random.Generator, *, binary: bool = False) -> Graded:
    tree = random_tree(rng)
    count = len(tree.paths_NT)
    outcome_N = torch.tensor(rng.permutation(count) % 2 if binary else rng.normal(size=count), dtype=torch.float64)
    return Graded(tree, random_policy(rng, tree), random_beta(rng), outcome_N)


def both_assumptions(rng: np.random.Generator) -> float:
    """With V(s_0) = 0 and r = V(s_t) - V(s_{t-1}): the log-ratio is r and adds up to the outcome, whichever of the two the
    policy is optimal for."""
    one = graded(rng)
    one = Graded(one.tree, one.reference_SV, one.beta, one.outcome_N - one.start_value)
    process_SV = one.progress()
    paid_for_steps_SV = one.tree.soft_optimum(process_SV + one.beta * one.reference_SV, one.beta).log_policy_SV
    ratios = (one.implicit(), one.beta * (paid_for_steps_SV - one.reference_SV))
    gaps = [max(relative(ratio, process_SV), relative(one.tree.sums(ratio), one.outcome_N)) for ratio in ratios]
    return max(gaps)


def in_general(rng: np.random.Generator) -> float:
    """For any outcome: the log-ratio is V(s_t) - V(s_{t-1}), and adds up to outcome - V(s_0)."""
    one = graded(rng)
    ratio_SV = one.implicit()
    total_N = one.tree.sums(ratio_SV)
    return max(relative(ratio_SV, one.progress()), relative(total_N, one.outcome_N - one.start_value))


def other_process(rng: np.random.Generator) -> float:
    """Rewards that add up to the outcome, V(s_0) = 0, but are no differences of V: the log-ratio is not the process reward."""
    one = graded(rng)
    process_SV = random_table(rng, one.tree)
    start = reference_values(one.tree, process_SV, one.reference_SV, one.beta)[0]
    process_SV[0] -= start
    ratio_SV = implicit_reward(one.tree, one.tree.sums(process_SV), one.reference_SV, one.beta)
    assert relative(one.tree.sums(ratio_SV), one.tree.sums(process_SV)) < EXACT
    return relative(ratio_SV, process_SV)


def zero_one_outcomes(rng: np.random.Generator) -> float:
    """Outcomes of 0 and 1: V(s_0) > 0 as soon as one can succeed, so the log-ratio never adds up to the outcome."""
    one = graded(rng, binary=True)
    return relative(one.tree.sums(one.implicit()), one.outcome_N)


@dataclass(frozen=True, slots=True, eq=False)
class PrimeBatch:
    """Rollouts of an exact sample with outcomes, as many correct as failed, and the implicit reward of `logits_SV`."""

    one: Graded
    logits_SV: Tensor
    rows_R: Tensor

    @property
    def returns_N(self) -> Tensor:
        """beta log(pi/pi_ref) of every trajectory, with gradient in the logits."""
        return self.one.beta * self.one.tree.sums(self.logits_SV.log_softmax(1) - self.one.reference_SV)

    @property
    def outcome_R(self) -> Tensor:
        return self.one.outcome_N[self.rows_R]

    def cross_entropy(self) -> Tensor:
        """PRIME's loss (docs/recipes.md B2, item 6)."""
        return functional.binary_cross_entropy_with_logits(self.returns_N[self.rows_R], self.outcome_R)


def prime_batch(rng: np.random.Generator, *, start: bool = False) -> PrimeBatch:
    """At random logits, or at the start: the reference's."""
    one = graded(rng, binary=True)
    rows_R = exact_sample(rng, one.tree).rows_R
    sides = [rows_R[one.outcome_N[rows_R] == side] for side in (0, 1)]
    fewer = min(map(len, sides))
    rows_R = torch.cat([side[torch.from_numpy(rng.permutation(len(side))[:fewer])] for side in sides])
    logits_SV = leaf(one.reference_SV if start else random_table(rng, one.tree))
    return PrimeBatch(one, logits_SV, rows_R)


def prime_is_logistic(rng: np.random.Generator) -> float:
    """PRIME's loss against the trained logistic loss with r itself as logit: the policy's density is left out of D."""
    batch = prime_batch(rng)
    logits_R = batch.returns_N[batch.rows_R]
    losses_R = discriminator.logistic_losses(logits_R, torch.arange(len(logits_R)), batch.outcome_R == 1)
    return relative(gradient(losses_R.mean(), batch.logits_SV), gradient(batch.cross_entropy(), batch.logits_SV))


def _unweighted(batch: PrimeBatch) -> float:
    """Between PRIME's direction and that of Eq 3 with equal weights, correct rollouts up and failed ones down."""
    rollouts = one_prompt(batch.one.tree, batch.returns_N, batch.rows_R)
    none = one_prompt(batch.one.tree, batch.returns_N, batch.rows_R[:0])
    config = EQ_3.model_copy(update={"weights": "none", "use_outcome": True})
    logprobs_R = torch.zeros(len(batch.rows_R), dtype=torch.float64)
    found = ascent(batch.logits_SV, rollouts, logprobs_R, none, config, batch.outcome_R)
    return turned(found, -gradient(batch.cross_entropy(), batch.logits_SV))


def unweighted_at_the_start(rng: np.random.Generator) -> float:
    return _unweighted(prime_batch(rng, start=True))


def unweighted_later(rng: np.random.Generator) -> float:
    return _unweighted(prime_batch(rng))


CHECKS = (
    Check("the logistic gradient is Eq 3's, z at its stationary point", "Prop 3", stationary_z),
    Check("z = sum exp(r): the same, if weights are not normalised", "Prop 3", true_z_as_it_is),
    Check("z = sum exp(r): not with the normalised weights of Eq 3", "Prop 3", true_z, APART, "differs"),
    Check("samples of the model in the expert's place: not Eq 5's", "Prop 3", sampled_from_the_model, APART, "differs"),
    Check("under both assumptions log(pi/pi_ref) is both rewards", "Prop 4", both_assumptions),
    Check("without r = V' - V it is not the process reward", "Prop 4", other_process, APART, "differs"),
    Check("outcomes of 0 and 1: it does not add up to them", "Prop 4", zero_one_outcomes, APART, "differs"),
    Check("in general it is V' - V and adds up to outcome - V(s_0)", "Prop 4", in_general),
    Check("PRIME's loss is the logistic form without the density", "Prop 4", prime_is_logistic),
    Check("PRIME at the start has the direction of equal weights", "Prop 4", unweighted_at_the_start),
    Check("PRIME later points elsewhere", "Prop 4", unweighted_later, APART, "differs"),
)
