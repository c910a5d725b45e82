"""Math-Shepherd (Wang et al., arXiv 2312.08935): step labels by Monte Carlo continuation, a step classifier, RL with it.

From the end of each step of a rollout the policy continues N times; a hard label is 1 if any continuation is right, a soft one
the share that is; cross-entropy of each step (docs/recipes.md B3). Every convention is an option of `monte_carlo`. Deviations
of `tiny`: the completer is the starting policy itself, N = 4; the classifier has the parameters of rePIRL's reward: the sum
over a step of r - log pi is fitted, the step's least r is read (published: the logit at its last token, `classifier.logit=last`
with `step_aggregation=last`); its score of a solution is the least of its steps', as published.
"""

from collections.abc import Sequence

from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.fitting import make_collector
from repirl.methods.step_labels import Labels, StepLabelsConfig, fit_step_labels, tiny_step_labels
from repirl.rollouts.monte_carlo import MonteCarloConfig, SteppedRollout, monte_carlo_labels
from repirl.types import Budget


class MathShepherdConfig(StepLabelsConfig):
    """Those of step classifiers, and how labels are estimated."""

    monte_carlo: MonteCarloConfig = MonteCarloConfig()


class MathShepherd(Method[MathShepherdConfig]):
    """Learn which steps are right from where they lead."""

    name = "math_shepherd"
    title = "Math-Shepherd"
    source = "arXiv 2312.08935"
    status = "labels and loss agree with the closed form; rate of the tiny recipe searched; not run at the paper's size"
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "step"
    recipes = {
        "tiny": tiny_step_labels(
            MathShepherdConfig, 3e-5, problems=250, samples=4, monte_carlo=MonteCarloConfig(continuations=4)
        ),
    }

    def fit(self, context: FitContext, config: MathShepherdConfig) -> Fitted:
        """Labels, classifier, policy; leaves `policy/` and `reward/` in the run folder."""

        def label(part: FitContext, rollouts: Sequence[SteppedRollout]) -> tuple[Labels, Budget]:
            collector = make_collector(part, config.loop.sampling)
            return monte_carlo_labels(rollouts, collector, config.monte_carlo, part.seed), collector.budget

        return fit_step_labels(context, config, label, method=self.name)
