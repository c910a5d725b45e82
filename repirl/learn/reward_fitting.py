"""Fits a reward alone, on graded rollouts that are there: the offline half of inverse RL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from repirl.errors import UserError
from repirl.learn.inverse_rl import InverseRL
from repirl.learn.policy_gradient import batch_of
from repirl.types import Budget, Metrics, RolloutGroup


class RewardFitting:
    """`Learner`: each step is an update of the reward on the groups of some prompts, in a new order every pass.

    `spent` is what the rollouts cost. With `balance` only prompts with correct and failed rollouts are gone through; UserError
    if there are none.
    """

    def __init__(
        self, reward: InverseRL, groups: Sequence[RolloutGroup], prompts_per_update: int, seed: int, spent: Budget
    ) -> None:
        self.reward = reward
        self.groups = [group for group in groups if not reward.config.balance or has_contrast(group)]
        if not self.groups:
            verdicts = [verdict for group in groups for verdict in group.verdicts]
            right = sum(verdict.outcome == "correct" for verdict in verdicts)
            todo = (
                "nothing can be learned from these problems: look at the prompts and the form of the answers, or teach the "
                "policy by the demonstrations first (`repirl train sft_rloo`, or bc)"
                if not right
                else "give more rollouts (offline.samples, offline.problems) or other problems, or set irl.balance=false"
            )
            what = f"no prompt has both correct and failed rollouts: {right} of {len(verdicts)} are correct"
            raise UserError(what, todo=todo)
        if reward.needs_logprobs and any(np.isnan(r.logprobs).any() for group in self.groups for r in group.rollouts):
            todo = "give `logprobs`, or set irl.weights=none, or irl.form=logistic with irl.reference=start"
            raise UserError("importance weights need the rollouts' log-probabilities", todo=todo)
        self.prompts = min(prompts_per_update, len(self.groups))
        self.seed = seed
        self.spent = spent

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.reward.modules

    @property
    def budget(self) -> Budget:
        return self.reward.budget + self.spent

    def step(self, index: int) -> Metrics:
        """One update; the last batch of a pass is filled from the next."""
        chosen = batch_of(self.groups, index, self.prompts, self.seed)
        found = self.reward.fit(chosen, index * self.prompts // len(self.groups))
        return {f"prm/{name}": value for name, value in found.items()}

    def state(self) -> dict[str, Any]:
        return self.reward.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.reward.load_state(state)


def has_contrast(group: RolloutGroup) -> bool:
    """Whether the prompt has both correct and failed rollouts."""
    return {"correct"} < {"correct" if verdict.reward == 1 else "failed" for verdict in group.verdicts if verdict.reward >= 0}
