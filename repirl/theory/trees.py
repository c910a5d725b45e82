"""Decision processes that can be summed over: a tree of tokens, its trajectories, policies and soft values (float64).

The setting of docs/method.md section 1 with a vocabulary of a few tokens and a few steps: a state is a prefix, an action
appends a token. A reward or a policy is a table of one number for each state and token.
Shapes: S states (breadth first, 0 is the empty prefix), V vocabulary, T steps, N trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SoftOptimum:
    """Solution of the soft Bellman equations: Q* [S, V], V* [S] and log pi* = (Q* - V*) / beta [S, V] (Theorem 1)."""

    q_SV: Tensor
    v_S: Tensor
    log_policy_SV: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """All sequences of `steps` tokens, or also those that end before that (`make_tree`).

    `paths_NT` has the place of each step in a flattened table, and S * V where the episode is over. `child_SV` is the next
    state, or S where the episode is over. `levels` are the states of each depth.
    """

    vocabulary: int
    steps: int
    paths_NT: Tensor
    lengths_N: Tensor
    child_SV: Tensor
    levels: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Of a table: states, vocabulary."""
        return len(self.child_SV), self.vocabulary

    def sums(self, table_SV: Tensor) -> Tensor:
        """[N]: a table's entries added up along every trajectory (returns, or log-probabilities)."""
        return torch.cat([table_SV.flatten(), table_SV.new_zeros(1)])[self.paths_NT].sum(1)

    def at_end(self, values_N: Tensor) -> Tensor:
        """[S, V]: a table whose last entry on each trajectory is that trajectory's value, and 0 elsewhere."""
        last_N = self.paths_NT.gather(1, self.lengths_N[:, None] - 1)[:, 0]
        return values_N.new_zeros(self.child_SV.numel()).index_add(0, last_N, values_N).view(self.shape)

    def next_values(self, v_S: Tensor) -> Tensor:
        """[S, V]: V(s') of the state that each token leads to, 0 at the end of an episode."""
        return torch.cat([v_S, v_S.new_zeros(1)])[self.child_SV]

    def soft_optimum(self, reward_SV: Tensor, beta: float) -> SoftOptimum:
        """Backward: Q*(s, a) = r(s, a) + V*(s'), V* = beta log sum_a exp(Q* / beta)."""
        below = reward_SV.new_zeros(1)
        for level in reversed(self.levels):
            q_SV = reward_SV[level] + below[self.child_SV[level] - level.stop]
            below = torch.cat([beta * torch.logsumexp(q_SV / beta, 1), below])
        v_S = below[:-1]
        q_SV = reward_SV + self.next_values(v_S)
        return SoftOptimum(q_SV, v_S, (q_SV - v_S[:, None]) / beta)

    def values(self, log_policy_SV: Tensor, reward_SV: Tensor) -> Tensor:
        """[S]: what the policy will earn from each state on (a reward of r - beta log pi gives its soft value)."""
        earned_SV = log_policy_SV.exp() * reward_SV
        below = reward_SV.new_zeros(1)
        for level in reversed(self.levels):
            later_SV = log_policy_SV[level].exp() * below[self.child_SV[level] - level.stop]
            below = torch.cat([(earned_SV[level] + later_SV).sum(1), below])
        return below[:-1]

    def visits(self, log_policy_SV: Tensor) -> Tensor:
        """[S, V]: probability that an episode comes through each state and token, by a pass forward."""
        reach_S, found = log_policy_SV.new_ones(1), []
        for level in self.levels:
            found.append(reach_S[:, None] * log_policy_SV[level].exp())
            reach_S = found[-1][self.child_SV[level] < len(self.child_SV)]
        return torch.cat(found)

    def conditionals(self, probabilities_N: Tensor) -> Tensor:
        """[S, V]: log pi(a|s) of the policy with these trajectories (all probabilities positive), by sums over them."""
        mass_A = probabilities_N.new_zeros(self.child_SV.numel() + 1)
        mass_A = mass_A.index_add(0, self.paths_NT.flatten(), probabilities_N.repeat_interleave(self.steps))
        mass_SV = mass_A[:-1].view(self.shape)
        return mass_SV.log() - mass_SV.sum(1, keepdim=True).log()


def make_tree(vocabulary: int, steps: int, *, ends: bool = False) -> Tree:
    """The tree of all prefixes of fewer than `steps` tokens (without a token 0 in them, if that `ends` an episode)."""
    prefixes: list[tuple[int, ...]] = [()]
    levels: list[slice] = []
    for depth in range(steps):
        start = levels[-1].stop if levels else 0
        levels.append(slice(start, len(prefixes)))
        if depth < steps - 1:
            prefixes += [(*one, v) for one in prefixes[start:] for v in range(vocabulary) if v or not ends]
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    child_SV = torch.tensor([[number.get((*one, v), len(prefixes)) for v in range(vocabulary)] for one in prefixes])
    whole = [(*one, v) for one in prefixes for v in range(vocabulary) if (*one, v) not in number]
    over = len(prefixes) * vocabulary
    paths = [[number[one[:t]] * vocabulary + one[t] if t < len(one) else over for t in range(steps)] for one in whole]
    return Tree(vocabulary, steps, torch.tensor(paths), torch.tensor([*map(len, whole)]), child_SV, tuple(levels))


def random_tree(rng: np.random.Generator, *, ends: bool | None = None) -> Tree:
    """3 to 5 tokens, 3 or 4 steps; episodes that may end early or not, unless `ends` says which."""
    vocabulary, steps, may_end = int(rng.integers(3, 6)), int(rng.integers(3, 5)), bool(rng.integers(2))
    return make_tree(vocabulary, steps, ends=may_end if ends is None else ends)


def random_table(rng: np.random.Generator, tree: Tree, scale: float = 1.0) -> Tensor:
    """[S, V] normal numbers: a reward, or the logits of a policy."""
    return torch.tensor(scale * rng.normal(size=tree.shape))


def random_policy(rng: np.random.Generator, tree: Tree, scale: float = 1.0) -> Tensor:
    """[S, V] log-probabilities with normal logits."""
    return random_table(rng, tree, scale).log_softmax(1)


@dataclass(frozen=True, slots=True, eq=False)
class ExactSample:
    """Trajectories [R], by number, that occur exactly as often as their distribution [N] says: their mean is exact."""

    rows_R: Tensor
    probabilities_N: Tensor

    @property
    def logprobs_R(self) -> Tensor:
        """log pi(tau) of every row."""
        return self.probabilities_N.log()[self.rows_R]


def exact_sample(rng: np.random.Generator, tree: Tree) -> ExactSample:
    """Four rows a trajectory on average, at least one: about those of a random policy, and exactly those of another one
    (every distribution over a tree's trajectories is that of a policy)."""
    count = len(tree.paths_NT)
    drawn_N = tree.sums(random_policy(rng, tree)).softmax(0)
    counts_N = torch.tensor(1 + rng.multinomial(3 * count, drawn_N.numpy()))
    return ExactSample(torch.arange(count).repeat_interleave(counts_N), counts_N.double() / counts_N.sum())
