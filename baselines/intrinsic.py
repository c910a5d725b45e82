"""Intrinsic rewards: RL on how sure the policy is of its own tokens, without outcomes or demonstrations.

`self_certainty` (Intuitor, arXiv 2505.19590): the mean over tokens of KL(uniform || p) = logsumexp(z) - mean(z) - log V, with z
the V logits. `negative_entropy` (RENT, arXiv 2505.22660): the mean of sum_v p log p. Both are of the policy as it is when the
batch is sampled, not of its start, and paid as the mean over the rollout's tokens, standardised by nothing but the
leave-one-out baseline (deviation: Intuitor uses GRPO's). What they do to the policy shows in the metric `entropy`: in the
papers it falls to 0 long before accuracy says so (docs/recipes.md C3); on `tiny` it rises (docs/baselines.md).
"""

from repirl.learn.credit_config import SequenceCredit
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop
from repirl.rewards.intrinsic import Certainty, IntrinsicReward
from repirl.rollouts.steps import StepSegmentation


class IntrinsicConfig(RLConfig):
    """The loop's configuration, and which of the two is paid."""

    signal: Certainty = "self_certainty"
    """Divergence of the token's distribution from uniform, or minus its entropy."""


class Intrinsic(Method[IntrinsicConfig]):
    """The policy's own certainty as reward."""

    name = "intrinsic"
    title = "intrinsic reward (certainty)"
    source = "arXiv 2505.19590, arXiv 2505.22660"
    status = "rewards agree with the closed form; rate of the tiny recipe searched; not run at the papers' size"
    needs = frozenset({"rollouts"})
    level = "token"
    recipes = {
        "tiny": IntrinsicConfig(
            data=tiny_data(), loop=tiny_loop(SequenceCredit(process_weight=1.0, outcome_weight=0.0), lr=2e-5)
        ),
    }

    def fit(self, context: FitContext, config: IntrinsicConfig) -> Fitted:
        """Run the loop with the certainty of the policy that is being trained."""
        policy, segmentation = context.policy, StepSegmentation(config.data.step_separator)
        reward = IntrinsicReward(policy.model, policy.tokenizer, segmentation, config.signal)
        return fit_policy(context, config, lambda data: reward, method=self.name)
