"""Supervised: a step classifier fitted to labels of steps (the "Supervised" column of docs/method.md section 6), then RL.

Steps up to the first wrong one are labelled, by the exact checker of an embedded family; cross-entropy of each labelled
step. In `tiny` the classifier has the parameters, the pool and the credit of rePIRL's reward: what differs is that it is told
which step was wrong. It is the upper bound of what outcomes can teach the same model (docs/design.md section 6).
"""

from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.step_labels import StepLabelsConfig, exact_labels, fit_step_labels, tiny_step_labels
from repirl.types import Budget


class Supervised(Method[StepLabelsConfig]):
    """Learn which steps are right from being told."""

    name = "supervised"
    title = "supervised step classifier"
    source = "arXiv 2305.20050 (PRM800K), with exact labels"
    status = "loss agrees with the closed form; rate as of the bound in `repirl check testbed`"
    needs = frozenset({"rollouts", "outcomes", "step labels"})
    yields = ("policy", "reward")
    level = "step"
    recipes = {"tiny": tiny_step_labels(StepLabelsConfig)}

    def fit(self, context: FitContext, config: StepLabelsConfig) -> Fitted:
        """The classifier on a labelled pool, then the policy; leaves `policy/` and `reward/` in the run folder."""
        return fit_step_labels(context, config, lambda _, rollouts: (exact_labels(rollouts), Budget()), method=self.name)
