"""Inverse RL on an MDP of 2 steps and 3 tokens, where z is a sum over 9 trajectories (docs/recipes.md B0, item 8).

Trajectory (a, b) has return R = first[a] + second[a, b]: a tabular reward. The soft-optimal distribution is exp(R) / z.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from repirl.learn.advantages import outcome_advantages
from repirl.learn.gradient import Counts
from repirl.learn.irl import IRLConfig, irl_loss, signed_weights
from repirl.learn.policy_losses import PolicyLossConfig, policy_loss

TOKENS = 3
PATHS = torch.tensor([(a, b) for a in range(TOKENS) for b in range(TOKENS)])
PRM_ONLY = IRLConfig(weights="sequence", objective="sum", use_outcome=False)


class Table:
    """One number per (state, token): `first` [3] in the empty state, `second` [3, 3] after each first token."""

    def __init__(self, seed: int | None = None, scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        draw = (lambda *shape: scale * rng.normal(size=shape)) if seed is not None else (lambda *shape: np.zeros(shape))
        self.first = torch.tensor(draw(TOKENS), requires_grad=True)
        self.second = torch.tensor(draw(TOKENS, TOKENS), requires_grad=True)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.first, self.second]

    def returns(self, paths: Tensor) -> Tensor:
        """Sums of the table's entries along trajectories [N, 2]."""
        return self.first[paths[:, 0]] + self.second[paths[:, 0], paths[:, 1]]

    def token_logprobs(self, paths: Tensor) -> Tensor:
        """[N, 2], the table read as logits of a policy."""
        first = self.first.log_softmax(0)[paths[:, 0]]
        return torch.stack([first, self.second.log_softmax(1)[paths[:, 0], paths[:, 1]]], 1)

    def soft_optimal(self) -> Tensor:
        """exp(R) / z over the nine trajectories."""
        return self.returns(PATHS).softmax(0)

    def policy(self) -> Tensor:
        """Probabilities of the nine trajectories under the policy."""
        return self.token_logprobs(PATHS).sum(1).exp()


def exact_gradient(reward: Table, expert_9: Tensor) -> list[Tensor]:
    """Eq 2: E_expert grad R - E_soft-optimal grad R, both exactly; with log z itself, not its gradient, as a check."""
    returns_9 = reward.returns(PATHS)
    objective = (expert_9 * returns_9).sum() - torch.logsumexp(returns_9, 0)
    eq1 = torch.autograd.grad(objective, reward.parameters, retain_graph=True)
    difference = expert_9 - reward.soft_optimal().detach()
    eq2 = torch.autograd.grad((difference * returns_9).sum(), reward.parameters)
    assert all(torch.allclose(a, b) for a, b in zip(eq1, eq2, strict=True))
    return list(eq2)


def sampled_gradient(reward: Table, expert: Tensor, sampled: Tensor, logprobs: Tensor, sign: float = 1.0) -> list[Tensor]:
    """Minus the gradient of `irl_loss` with demonstrations as positives and all rollouts as negatives."""
    returns = reward.returns(sampled)
    weights = signed_weights(
        PRM_ONLY,
        returns,
        logprobs,
        torch.full((len(sampled),), 2),
        torch.zeros(len(sampled)),
        torch.zeros(len(sampled)),
        torch.zeros(len(expert)),
    )
    rows = torch.cat([weights.rollouts_B, weights.demonstrations_E])
    loss = irl_loss(torch.cat([returns, reward.returns(expert)]), sign * rows)
    return [-g for g in torch.autograd.grad(loss, reward.parameters)]


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    return float(torch.cat([(x - y).flatten() for x, y in zip(a, b, strict=True)]).norm())


EXPERT_COUNTS = torch.tensor([8, 1, 1, 2, 5, 1, 1, 1, 4])
EXPERT = PATHS.repeat_interleave(EXPERT_COUNTS, 0)
EXPERT_9 = EXPERT_COUNTS.double() / EXPERT_COUNTS.sum()


def test_a_sample_that_is_the_sampling_distribution_gives_eq_2_exactly():
    """Twice as many copies, twice the density: the weights undo any sampling policy, soft-optimal or not."""
    reward = Table(seed=1)
    for copies in ([1] * 9, [4, 1, 2, 1, 7, 1, 3, 2, 1]):
        copies_9 = torch.tensor(copies)
        logprobs_9 = (copies_9.double() / copies_9.sum()).log()
        gradient = sampled_gradient(
            reward, EXPERT, PATHS.repeat_interleave(copies_9, 0), logprobs_9.repeat_interleave(copies_9)
        )
        assert distance(gradient, exact_gradient(reward, EXPERT_9)) < 1e-9


@pytest.mark.parametrize("sampler_seed", [None, 2, 3])
def test_importance_sampled_gradient_converges_to_eq_2(sampler_seed):
    """Error falls like one over the root of the sample size, for samplers that are not the soft-optimal policy."""
    reward, sampler = Table(seed=1), Table(sampler_seed, scale=0.7)
    exact = exact_gradient(reward, EXPERT_9)
    assert (sampler.policy() - reward.soft_optimal()).abs().max().item() > 0.05
    generator = torch.Generator().manual_seed(0)
    errors = []
    for size in (100, 2500):
        found = []
        for _ in range(20):
            paths = PATHS[torch.multinomial(sampler.policy().detach(), size, replacement=True, generator=generator)]
            logprobs = sampler.token_logprobs(paths).sum(1).detach()
            found.append(distance(sampled_gradient(reward, EXPERT, paths, logprobs), exact))
        errors.append(float(np.mean(found)))
    assert errors[1] < 0.15 * distance(exact, [torch.zeros_like(g) for g in exact])
    assert 3 < errors[0] / errors[1] < 8  # five, for 25 times the sample


def test_without_weights_the_gradient_goes_elsewhere():
    """What the weights are for: the plain policy average is not Eq 2."""
    reward, sampler = Table(seed=1), Table(seed=2)
    exact = exact_gradient(reward, EXPERT_9)
    sampler_9 = sampler.policy().detach()
    unweighted = torch.autograd.grad(((EXPERT_9 - sampler_9) * reward.returns(PATHS)).sum(), reward.parameters)
    assert distance(list(unweighted), exact) > 0.2


def train(sign: float, iterations: int = 150) -> tuple[float, float, float]:
    """Alternate a reward step and a maximum-entropy policy step; KL(expert || .) of start, reward's optimum, and policy."""
    reward, policy = Table(), Table()
    reward_optimizer = torch.optim.Adam(reward.parameters, lr=0.05)
    policy_optimizer = torch.optim.Adam(policy.parameters, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    size = 256
    lengths, counts = torch.full((size,), 2), Counts(2 * size, size)
    config = PolicyLossConfig(reduction="sequence_sum")
    start = kl_from_expert(policy.policy())
    for _ in range(iterations):
        paths = PATHS[torch.multinomial(policy.policy().detach(), size, replacement=True, generator=generator)]
        logprobs = policy.token_logprobs(paths)
        ascent = sampled_gradient(reward, EXPERT, paths, logprobs.sum(1).detach(), sign)
        for parameter, gradient in zip(reward.parameters, ascent, strict=True):
            parameter.grad = -gradient
        reward_optimizer.step()
        # Eq 6 with beta = 1: the return and minus the path's log-probability are one soft return.
        soft = (reward.returns(paths) - logprobs.sum(1)).detach().numpy()
        advantages = torch.from_numpy(outcome_advantages(soft, "rloo")).repeat_interleave(2)
        policy_optimizer.zero_grad()
        policy_loss(logprobs.flatten(), None, advantages, lengths, counts, config).loss.backward()
        policy_optimizer.step()
    return start, kl_from_expert(reward.soft_optimal()), kl_from_expert(policy.policy())


def kl_from_expert(probabilities_9: Tensor) -> float:
    return float((EXPERT_9 * (EXPERT_9.log() - probabilities_9.detach().log())).sum())


def test_alternating_training_recovers_the_expert():
    start, recovered_reward, recovered_policy = train(sign=1.0)
    assert start > 0.2
    assert recovered_reward < 0.02
    assert recovered_policy < 0.02


def test_with_the_sign_flipped_it_runs_away_from_the_expert():
    start, recovered_reward, recovered_policy = train(sign=-1.0)
    assert recovered_reward > 2 * start
    assert recovered_policy > 2 * start
