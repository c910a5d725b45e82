"""Oracle: the exact step checker of an embedded family as process reward: the room in which process rewards compete.

A right step earns 1, the first wrong step 0, later steps nothing; paid as a step advantage: minus the mean of the other
rollouts of the group that were still right before that step. No real method can know this; it shows what a perfect
process reward is worth on the testbed (docs/design.md section 6).
"""

from repirl.learn.credit_config import StepCredit
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop
from repirl.rewards.nulls import OracleReward
from repirl.rollouts.steps import StepSegmentation


class Oracle(Method[RLConfig]):
    """Exact step rewards, mixed with the outcome."""

    name = "oracle"
    title = "oracle step reward"
    source = "exact checker of the embedded task family"
    status = "exact"
    needs = frozenset({"rollouts", "outcomes", "step labels"})
    level = "step"
    kind = "reference"
    recipes = {
        "tiny": RLConfig(data=tiny_data(), loop=tiny_loop(StepCredit(outcome_weight=0.5, process_weight=2.0))),
    }

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop with the checker's step rewards."""
        tokenizer, segmentation = context.policy.tokenizer, StepSegmentation(config.data.step_separator)
        return fit_policy(context, config, lambda data: OracleReward(tokenizer, segmentation), method=self.name)
