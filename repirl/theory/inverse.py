"""Eq 2-5 with exact sums, and the error of the importance-sampled gradient (docs/method.md sections 2, 4).

One side of every comparison is what is trained: `signed_weights` and `irl_loss` of learn/irl.py on rows of trajectories that
occur as often as their distribution says. The reward is a table: a gradient that is right there is right for every r_phi.
Shapes: S states, V vocabulary, N trajectories, R rows, B rollouts, E demonstrations, P prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repirl.learn import irl
from repirl.theory.checks import APART, Check, gradient, leaf, relative, turned
from repirl.theory.trees import (
    ExactSample,
    Tree,
    exact_sample,
    random_policy,
    random_table,
    random_tree,
)

EQ_3 = irl.IRLConfig(weights="sequence", objective="sum", use_outcome=False)
SIZES = (100, 400, 1600, 6400)
REPEATS = 64
PROMPTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Returns [R] (with gradient), lengths and prompts of rows of the loss."""

    returns_R: Tensor
    lengths_R: Tensor
    prompt_R: Tensor


def one_prompt(tree: Tree, returns_N: Tensor, rows_R: Tensor) -> Rows:
    """The trajectories of these numbers, all of prompt 0."""
    return Rows(returns_N[rows_R], tree.lengths_N[rows_R], torch.zeros_like(rows_R))


def ascent(
    at: Tensor,
    rollouts: Rows,
    logprobs_B: Tensor,
    demonstrations: Rows,
    config: irl.IRLConfig = EQ_3,
    outcome_B: Tensor | None = None,
) -> Tensor:
    """The direction in which rePIRL moves `at`: minus the gradient of its loss. Without outcomes all rollouts have failed."""
    weights = irl.signed_weights(
        config,
        rollouts.returns_R,
        logprobs_B,
        rollouts.lengths_R,
        rollouts.prompt_R,
        torch.zeros(len(logprobs_B), dtype=torch.float64) if outcome_B is None else outcome_B,
        demonstrations.prompt_R,
    )
    scores_R = torch.cat([rollouts.returns_R, demonstrations.returns_R])
    if config.objective == "mean":
        scores_R = scores_R / torch.cat([rollouts.lengths_R, demonstrations.lengths_R])
    return -gradient(irl.irl_loss(scores_R, torch.cat([weights.rollouts_B, weights.demonstrations_E])), at)


def eq5(tree: Tree, reward_SV: Tensor, expert_N: Tensor, policy_N: Tensor) -> Tensor:
    """E_D r(tau) - log E_pi[exp(r(tau)) / pi(tau)], each term of it summed over the trajectories."""
    returns_N = tree.sums(reward_SV)
    return (expert_N * returns_N).sum() - torch.log((policy_N * returns_N.exp() / policy_N).sum())


def eq2(tree: Tree, reward_SV: Tensor, expert_N: Tensor) -> Tensor:
    """[S, V]: visits of the expert minus those of the soft-optimal policy, by passes over the tree, without trajectories."""
    soft_SV = tree.soft_optimum(reward_SV.detach(), 1.0).log_policy_SV
    return tree.visits(tree.conditionals(expert_N)) - tree.visits(soft_SV)


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """A random tree, a reward to be differentiated at, an expert and a sampling policy that are unlike each other."""

    tree: Tree
    reward_SV: Tensor
    expert: ExactSample
    sampler: ExactSample

    def ascent(self, config: irl.IRLConfig = EQ_3) -> Tensor:
        """Of the reward, on the exact samples."""
        returns_N = self.tree.sums(self.reward_SV)
        rollouts = one_prompt(self.tree, returns_N, self.sampler.rows_R)
        demonstrations = one_prompt(self.tree, returns_N, self.expert.rows_R)
        return ascent(self.reward_SV, rollouts, self.sampler.logprobs_R, demonstrations, config)

    def eq5_gradient(self) -> Tensor:
        value = eq5(self.tree, self.reward_SV, self.expert.probabilities_N, self.sampler.probabilities_N)
        return gradient(value, self.reward_SV)


def random_instance(rng: np.random.Generator, *, ends: bool | None = None) -> Instance:
    tree = random_tree(rng, ends=ends)
    return Instance(tree, leaf(random_table(rng, tree)), exact_sample(rng, tree), exact_sample(rng, tree))


# ------------------------------------------------------------------------------------------ exact gradients


def eq3_is_eq5(rng: np.random.Generator) -> float:
    """Eq 3 as trained against autograd of Eq 5, summed and as `eq5_objective` has it."""
    one = random_instance(rng)
    returns_N = one.tree.sums(one.reward_SV)
    sampled = irl.eq5_objective(returns_N[one.expert.rows_R], returns_N[one.sampler.rows_R], one.sampler.logprobs_R)
    expected = (one.eq5_gradient(), gradient(sampled, one.reward_SV))
    return max(relative(one.ascent(), other) for other in expected)


def eq3_is_eq2(rng: np.random.Generator) -> float:
    one = random_instance(rng)
    return relative(one.ascent(), eq2(one.tree, one.reward_SV, one.expert.probabilities_N))


def equal_weights(rng: np.random.Generator) -> float:
    """What the weights are for: without them the gradient is another one, whatever its length."""
    one = random_instance(rng)
    return turned(one.ascent(EQ_3.model_copy(update={"weights": "none"})), one.eq5_gradient())


def mean_of_equal_lengths(rng: np.random.Generator) -> float:
    """Algorithm 1 weights by the sum and averages the mean reward: Eq 5's gradient divided by the length."""
    one = random_instance(rng, ends=False)
    return relative(one.ascent(EQ_3.model_copy(update={"objective": "mean"})), one.eq5_gradient() / one.tree.steps)


def mean_of_unequal_lengths(rng: np.random.Generator) -> float:
    one = random_instance(rng, ends=True)
    return turned(one.ascent(EQ_3.model_copy(update={"objective": "mean"})), one.eq5_gradient())


def _prompts(rng: np.random.Generator, normalize: str) -> tuple[Tensor, Tensor]:
    """Eq 3 as trained on several prompts at once, and the mean of their Eq 5 gradients; their returns differ in level."""
    tree = random_tree(rng)
    reward_PSV = leaf(torch.stack([random_table(rng, tree) + rng.normal() for _ in range(PROMPTS)]))
    experts, samplers = ([exact_sample(rng, tree) for _ in range(PROMPTS)] for _ in range(2))

    def rows(samples: list[ExactSample]) -> Rows:
        returns_R = torch.cat([tree.sums(reward_PSV[i])[one.rows_R] for i, one in enumerate(samples)])
        prompt_R = torch.cat([torch.full_like(one.rows_R, i) for i, one in enumerate(samples)])
        return Rows(returns_R, torch.cat([tree.lengths_N[one.rows_R] for one in samples]), prompt_R)

    logprobs_B = torch.cat([one.logprobs_R for one in samplers])
    config = EQ_3.model_copy(update={"normalize": normalize})
    found = ascent(reward_PSV, rows(samplers), logprobs_B, rows(experts), config)
    values = [eq5(tree, reward_PSV[i], experts[i].probabilities_N, samplers[i].probabilities_N) for i in range(PROMPTS)]
    return found, gradient(torch.stack(values).mean(), reward_PSV)


def z_of_each_prompt(rng: np.random.Generator) -> float:
    return relative(*_prompts(rng, "prompt"))


def z_of_the_batch(rng: np.random.Generator) -> float:
    return turned(*_prompts(rng, "batch"))


# ----------------------------------------------------------------------------------------------- sampling


def drawn(rng: np.random.Generator, logprobs_N: Tensor, size: int) -> Tensor:
    """Trajectories [size], by number, of a policy."""
    return torch.from_numpy(rng.choice(len(logprobs_N), size, p=logprobs_N.softmax(0).numpy()))


def sampling_slope(rng: np.random.Generator) -> float:
    """|slope + 1/2| of log error over log M: root mean square distance of Eq 3 on M rollouts from its exact value.

    Reward and sampler are not far apart: where few rollouts have all the weight, more of them than here are needed.
    """
    tree = random_tree(rng)
    reward_SV, sampler_SV = leaf(random_table(rng, tree, 0.4)), random_policy(rng, tree, 0.4)
    returns_N, logprobs_N = tree.sums(reward_SV), tree.sums(sampler_SV)
    expert = exact_sample(rng, tree)
    demonstrations = one_prompt(tree, returns_N, expert.rows_R)
    exact_SV = eq2(tree, reward_SV, expert.probabilities_N)
    errors = []
    for size in SIZES:
        squares = []
        for _ in range(REPEATS):
            rows_R = drawn(rng, logprobs_N, size)
            found_SV = ascent(reward_SV, one_prompt(tree, returns_N, rows_R), logprobs_N[rows_R], demonstrations)
            squares.append(float((found_SV - exact_SV).square().sum()))
        errors.append(np.mean(squares) ** 0.5)
    return abs(float(np.polyfit(np.log(SIZES), np.log(errors), 1)[0]) + 0.5)


CHECKS = (
    Check("Eq 3 as trained is the gradient of Eq 5", "Eq 3, 5", eq3_is_eq5),
    Check("Eq 3 as trained is Eq 2", "Eq 2, 3", eq3_is_eq2),
    Check("with equal weights it points elsewhere", "Eq 4", equal_weights, APART, "differs"),
    Check("its error on M rollouts falls as 1/sqrt(M): |slope + 1/2|", "Eq 3, 4", sampling_slope, 0.15),
    Check("prompts: z of each, the mean of their gradients", "Eq 5, normalize=prompt", z_of_each_prompt),
    Check("prompts: one z for the batch points elsewhere", "Eq 5, normalize=batch", z_of_the_batch, APART, "differs"),
    Check("mean rewards, equal lengths: Eq 5's gradient over T", "Algorithm 1, step 5", mean_of_equal_lengths),
    Check("mean rewards, other lengths: points elsewhere", "Algorithm 1, step 5", mean_of_unequal_lengths, 0.01, "differs"),
)
