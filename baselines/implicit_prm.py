"""ImplicitPRM (Yuan et al., arXiv 2412.01981): a process reward for free, from outcomes alone (docs/recipes.md B1).

A language model pi is trained such that sigmoid of r(y) = beta sum_t [log pi(y_t) - log pi_ref(y_t)] is the probability that
the solution is right: loss = cross-entropy of sigmoid(r(y)) against the outcome, a mean over rows. Then the sum of the same
terms over a step's tokens is that step's reward, though no step was labelled.

pi starts as the policy, pi_ref is the policy, frozen. A step of training takes all graded rollouts of its prompts; ungraded
ones take no part. Deviations: batches are drawn by prompt and not by row; rates and batch are those of the testbed. The
published evaluation on ProcessBench (cumulative q, scaled, with a threshold chosen by grid) is not what is reported here.
"""

from collections.abc import Sequence

import torch

from repirl.grading.dispatch import outcome_rewards
from repirl.learn.log_ratios import RatioLoss, graded
from repirl.learn.preference import outcome_losses
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.implicit import ImplicitConfig, fit_implicit, tiny_implicit
from repirl.rewards.implicit import ImplicitReward
from repirl.types import RolloutGroup, Verdict


class ImplicitPRMConfig(ImplicitConfig):
    """Those of all implicit rewards, and how an outcome becomes a label."""

    soft_labels: bool = False
    """A wrong program's label is the share of tests that it passed; all else is right or wrong."""

    def label(self, verdict: Verdict) -> float:
        """What a graded rollout is to be told from the others by, 0 to 1."""
        return outcome_rewards([verdict], self.soft_labels)[0]


class ImplicitPRM(Method[ImplicitPRMConfig]):
    """Cross-entropy of the summed log-ratio against the outcome."""

    name = "implicit_prm"
    title = "ImplicitPRM"
    source = "arXiv 2412.01981"
    status = "loss agrees with the closed form; settings of the tiny recipe searched; not run at the paper's size"
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "token"
    recipes = {"tiny": tiny_implicit(ImplicitPRMConfig, lr=1e-5, beta=0.05)}

    def fit(self, context: FitContext, config: ImplicitPRMConfig) -> Fitted:
        """Sample and grade a pool, train on it; leaves `policy/` and `reward/` in the run folder."""

        def outcomes(groups: Sequence[RolloutGroup], step: int, reward: ImplicitReward) -> RatioLoss:
            seen = graded(groups)
            labels_R = torch.tensor([config.label(verdict) for verdict in seen.verdicts], dtype=torch.float64)
            return RatioLoss(seen.rows, seen.correct_R, lambda ratios_R: outcome_losses(ratios_R, labels_R, config.beta).mean())

        return fit_implicit(context, config, outcomes, method=self.name)
