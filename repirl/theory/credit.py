"""Which credit rules have the gradient of what they promise, on the mean (docs/recipes.md C4)?

Every group of three trajectories of a small tree, in which an episode may end at any token, is enumerated with its
probability; so the mean of the estimator `sum_t A_t grad log pi(a_t | s_t)` is exact, with the advantages A of the rule that
training uses. A rule that is biased is one on purpose, for its variance or its scale, and is named here.
Shapes: S states, V vocabulary, N trajectories, T tokens; every token is a step.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor

from repirl.learn.advantages import min_form
from repirl.learn.credit import LeaveOneOut
from repirl.learn.credit_config import (
    AlphaCredit,
    MinFormCredit,
    OutcomeCredit,
    ProcessCredit,
    ReturnToGoCredit,
    SequenceCredit,
    StepCredit,
)
from repirl.theory.checks import Check, gradient, leaf, relative, turned
from repirl.theory.trees import Tree, make_tree, random_table
from repirl.types import Problem, Rollout, RolloutGroup, StepRewards, Verdict

GROUP = 3
Config = OutcomeCredit | ProcessCredit | AlphaCredit
_PROBLEM = Problem("p", "tree", "?", "integer")


class _Instance:
    """A tree of two tokens a trajectory at most, with a policy, rewards of tokens and outcomes in [0, 1]."""

    def __init__(self, rng: np.random.Generator, *, ends: bool) -> None:
        self.tree: Tree = make_tree(3, 2, ends=ends)
        self.logits_SV = leaf(random_table(rng, self.tree))
        self.log_policy_SV = self.logits_SV.log_softmax(1)
        self.reward_SV = random_table(rng, self.tree) + 1.0  # a mean: what pays for going on pays something
        self.outcome_N = torch.tensor(rng.random(len(self.tree.paths_NT)))
        self.p_N = self.tree.sums(self.log_policy_SV).exp()
        self.paths = [
            path[: int(length)].tolist() for path, length in zip(self.tree.paths_NT, self.tree.lengths_N, strict=True)
        ]
        flat = self.reward_SV.flatten()
        self.scored = [_steps(flat[path].numpy()) for path in self.paths]

    def group(self, rows: tuple[int, ...]) -> RolloutGroup:
        rollouts = tuple(_rollout(i, len(self.paths[n])) for i, n in enumerate(rows))
        verdicts = tuple(Verdict("wrong", score=float(self.outcome_N[n])) for n in rows)
        return RolloutGroup(_PROBLEM, rollouts, verdicts)

    def estimated(self, config: Config) -> Tensor:
        """[S, V]: the exact mean of the rule's estimator, per trajectory."""
        rows = list(product(range(len(self.paths)), repeat=GROUP))
        scored = [[self.scored[n] for n in one] for one in rows]
        found = LeaveOneOut(config).advantages([self.group(one) for one in rows], scored, 0.0)
        weight_N = self.p_N.detach()
        credit = torch.zeros(self.tree.child_SV.numel(), dtype=torch.float64)
        for one, advantages in zip(rows, found, strict=True):
            weight = float(weight_N[list(one)].prod()) / GROUP
            for n, advantage_T in zip(one, advantages, strict=True):
                credit[self.paths[n]] += weight * torch.from_numpy(advantage_T.astype(np.float64))
        return gradient((credit.view(self.tree.shape) * self.log_policy_SV).sum(), self.logits_SV)

    def exact(self, value_N: Tensor) -> Tensor:
        """[S, V]: gradient of the mean of a trajectory's value."""
        return gradient((self.p_N * value_N).sum(), self.logits_SV)

    @property
    def returns_N(self) -> Tensor:
        return self.tree.sums(self.reward_SV)

    def myopic(self) -> Tensor:
        """[S, V]: every token's own reward, whatever it leads to."""
        earned_SV = self.tree.visits(self.log_policy_SV).detach() * self.reward_SV
        return gradient((earned_SV * self.log_policy_SV).sum(), self.logits_SV)


def _rollout(index: int, length: int) -> Rollout:
    none = np.zeros(length)
    return Rollout("p", index, (0,), none.astype(np.int64), none.astype(np.float32), "", "stop", 1.0)


def _steps(rewards_T: np.ndarray) -> StepRewards:
    rewards_T = rewards_T.astype(np.float64)
    return StepRewards(rewards_T, np.arange(len(rewards_T)), rewards_T, np.ones(len(rewards_T), dtype=bool))


_SAME, _TURNED = 1e-6, 1e-3
"""The loop's advantages are float32."""

_OUTCOME = OutcomeCredit(fraction_of_tests=True)
_GRPO = _OUTCOME.model_copy(update={"outcome": "grpo"})
_SEQUENCE = SequenceCredit(process_weight=1.0, outcome_weight=0.0)
_STEP = StepCredit(process_weight=1.0, outcome_weight=0.0)
_RETURN_TO_GO = ReturnToGoCredit(process_weight=1.0, outcome_weight=0.0)
_MIN_FORM = MinFormCredit(process_weight=1.0, outcome_weight=0.0, temperature=0.5)
_ALPHA = AlphaCredit(alpha=1.0, outcome_weight=0.0)


def _score(one: _Instance) -> Tensor:
    return one.outcome_N


def _total(one: _Instance) -> Tensor:
    return one.returns_N


def _mean(one: _Instance) -> Tensor:
    return one.returns_N / one.tree.lengths_N


def _least(one: _Instance) -> Tensor:
    """[N]: what the min form pays a trajectory in all, before baselines."""
    nobody = _steps(np.zeros(1))
    return torch.tensor([float(min_form([mine, nobody], _MIN_FORM.temperature)[0][0]) for mine in one.scored])


def _same(name: str, config: Config, value: Callable[[_Instance], Tensor] | None, *, ends: bool = True) -> Check:
    """The rule's mean is the gradient of the mean of `value`; None: of each step's own reward."""

    def residual(rng: np.random.Generator) -> float:
        one = _Instance(rng, ends=ends)
        return relative(one.estimated(config), one.myopic() if value is None else one.exact(value(one)))

    return Check(name, "recipes C4", residual, _SAME)


def _biased(name: str, config: Config, value: Callable[[_Instance], Tensor], *, ends: bool = True) -> Check:
    """It points elsewhere."""

    def residual(rng: np.random.Generator) -> float:
        one = _Instance(rng, ends=ends)
        return turned(one.estimated(config), one.exact(value(one)))

    return Check(name, "recipes C4", residual, _TURNED, "differs")


CHECKS = (
    _same("rloo of outcomes has the gradient of their mean", _OUTCOME, _score),
    _biased("grpo of outcomes is turned by the std", _GRPO, _score),
    _same("credit `sequence` has the gradient of the mean token reward", _SEQUENCE, _mean),
    _same("credit `step` has the gradient of each step's own reward", _STEP, None),
    _biased("credit `step` has not that of the return", _STEP, _total),
    _biased("credit `return_to_go` pays for going on", _RETURN_TO_GO, _total),
    _biased("credit `return_to_go` is biased at one length as well", _RETURN_TO_GO, _total, ends=False),
    _biased("credit `min_form` has not the gradient of its return", _MIN_FORM, _least),
    _biased("credit `min_form` has not at one length either", _MIN_FORM, _least, ends=False),
    _biased("credit `alpha` is turned by standardising", _ALPHA, _total),
)
