"""KTO (Ethayarajh et al., arXiv 2402.01306): learning from single solutions that are right or wrong (docs/recipes.md B9).

rho = sum_t [log pi(y_t) - log pi_ref(y_t)]; z0 = the mean of rho over completions behind prompts that are not theirs, at
least 0, a constant. Loss: w_D (1 - sigmoid(beta (rho - z0))) of right rows, w_U (1 - sigmoid(beta (z0 - rho))) of wrong ones, a
mean over rows. What it trains, against its start, is a process reward too, read as ImplicitPRM's.

pi starts as the policy, pi_ref is the policy, frozen. A step takes all graded rollouts of its prompts; ungraded ones take no
part. Deviations: z0 is taken from the whole batch, each completion behind the next other prompt (TRL: cycled within the
micro-batch), cut where it would be longer than the batch's longest row.
"""

from collections.abc import Sequence

from pydantic import Field

from repirl.learn.log_ratios import RatioLoss, graded, mismatched_rows, ratio_sums
from repirl.learn.preference import kto_losses, reference_point
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.implicit import ImplicitConfig, fit_implicit, tiny_implicit
from repirl.rewards.implicit import ImplicitReward
from repirl.types import RolloutGroup


class KTOConfig(ImplicitConfig):
    """Those of all implicit rewards, and the weights of both sides."""

    desirable_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Of right rollouts. (right rollouts x their weight) : (wrong ones x theirs) is best between 1 : 1 and 4 : 3."""
    undesirable_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Of wrong ones."""


class KTO(Method[KTOConfig]):
    """A saturating gain of right and a saturating loss of wrong rollouts, measured from how far the policy has moved."""

    name = "kto"
    title = "KTO"
    source = "arXiv 2402.01306"
    status = "loss agrees with TRL's and the closed form; settings of the tiny recipe searched"
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "token"
    # A fifth of the pool is right (0.18): with this weight both sides count alike.
    recipes = {"tiny": tiny_implicit(KTOConfig, lr=1e-5, beta=0.1, desirable_weight=4.5)}

    def fit(self, context: FitContext, config: KTOConfig) -> Fitted:
        """Sample and grade a pool, train on it; leaves `policy/` and `reward/` in the run folder."""

        def gains(groups: Sequence[RolloutGroup], step: int, reward: ImplicitReward) -> RatioLoss:
            seen = graded(groups)
            correct_R = seen.correct_R
            z0 = reference_point(ratio_sums(reward, mismatched_rows(seen.rows)))
            weights = {"desirable_weight": config.desirable_weight, "undesirable_weight": config.undesirable_weight}
            return RatioLoss(
                seen.rows,
                correct_R,
                lambda ratios_R: kto_losses(ratios_R, correct_R, z0, config.beta, **weights).mean(),
                {"z0": float(z0)},
            )

        return fit_implicit(context, config, gains, method=self.name)
