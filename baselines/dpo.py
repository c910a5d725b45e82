"""DPO (Rafailov et al., arXiv 2305.18290): pairs of a right and a wrong solution of one problem.

rho = sum_t [log pi(y_t) - log pi_ref(y_t)]; loss = -log sigmoid(beta (rho_right - rho_wrong)), a mean over pairs. What it
trains, against its start, is a process reward too, read as ImplicitPRM's (docs/recipes.md B1).

pi starts as the policy, pi_ref is the policy, frozen. Of each prompt come as many pairs as its rarer outcome has rollouts,
every rollout in one pair at most, drawn anew each time; ungraded rollouts take no part, and prompts without a pair are left out
of the pool and counted (`pool/skipped_prompts`). Deviation: the published method has pairs that people chose.
"""

from collections.abc import Sequence

import numpy as np
import torch

from repirl.learn.log_ratios import RatioLoss, graded
from repirl.learn.preference import dpo_losses
from repirl.learn.reward_fitting import has_contrast
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.implicit import ImplicitConfig, fit_implicit, tiny_implicit
from repirl.rewards.implicit import ImplicitReward
from repirl.rng import stream
from repirl.rollouts.packing import TokenRow
from repirl.types import RolloutGroup


class DPO(Method[ImplicitConfig]):
    """Right above wrong, pair by pair."""

    name = "dpo"
    title = "DPO"
    source = "arXiv 2305.18290"
    status = "loss agrees with TRL's and the closed form; rate of the tiny recipe searched"
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "token"
    recipes = {"tiny": tiny_implicit(ImplicitConfig, lr=3e-5, beta=0.1)}

    def fit(self, context: FitContext, config: ImplicitConfig) -> Fitted:
        """Sample and grade a pool, train on its pairs; leaves `policy/` and `reward/` in the run folder."""

        def pairs(groups: Sequence[RolloutGroup], step: int, reward: ImplicitReward) -> RatioLoss:
            drawn = [
                pair
                for place, group in enumerate(groups)
                for pair in pairs_of(group, stream(context.seed, "pairs", step, place))
            ]
            rows = [right for right, _ in drawn] + [wrong for _, wrong in drawn]
            return RatioLoss(
                rows,
                torch.arange(len(rows)) < len(drawn),
                lambda ratios_R: dpo_losses(ratios_R[: len(drawn)], ratios_R[len(drawn) :], config.beta).mean(),
            )

        return fit_implicit(context, config, pairs, method=self.name, usable=has_contrast)


def pairs_of(group: RolloutGroup, random: np.random.Generator) -> list[tuple[TokenRow, TokenRow]]:
    """(right, wrong) rollouts of a prompt, as many as the rarer outcome has, none in two pairs."""
    seen = graded([group])
    sides = [
        [row for row, verdict in zip(seen.rows, seen.verdicts, strict=True) if verdict.reward == outcome] for outcome in (1, 0)
    ]
    fewer = min(map(len, sides))
    right, wrong = ([side[i] for i in random.permutation(len(side))[:fewer]] for side in sides)
    return list(zip(right, wrong, strict=True))
