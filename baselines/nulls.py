"""Null rewards: random, constant, length and confidence, paid exactly like a learned process reward.

They bound from below what any process reward must beat: a gain that a random or length reward also shows comes from the
mixing rule or from length, not from knowledge about steps (DESIGN rule 5). `confidence` pays the starting policy's own
log-probabilities: what it gains is sharpening, which needs neither demonstrations nor outcomes.
"""

from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop, tiny_process_mix
from repirl.rewards.energy import energy_from_policy
from repirl.rewards.nulls import ConfidenceReward, ConstantReward, LengthReward, RandomReward
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks.training_sets import TrainingSet

_RECIPES = {"tiny": RLConfig(data=tiny_data(), loop=tiny_loop(tiny_process_mix()))}


class RandomNull(Method[RLConfig]):
    """Independent noise for every token."""

    name = "random"
    title = "random reward"
    source = "null"
    status = "exact"
    kind = "null"
    recipes = _RECIPES

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop with noise as process reward."""
        tokenizer, segmentation = context.policy.tokenizer, StepSegmentation(config.data.step_separator)
        return fit_policy(context, config, lambda data: RandomReward(tokenizer, segmentation, context.seed))


class ConstantNull(Method[RLConfig]):
    """The same for every token."""

    name = "constant"
    title = "constant reward"
    source = "null"
    status = "exact"
    kind = "null"
    recipes = _RECIPES

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop with a constant process reward."""
        tokenizer, segmentation = context.policy.tokenizer, StepSegmentation(config.data.step_separator)
        return fit_policy(context, config, lambda data: ConstantReward(tokenizer, segmentation))


class LengthNull(Method[RLConfig]):
    """Longer completions earn more."""

    name = "length"
    title = "length reward"
    source = "null"
    status = "exact"
    kind = "null"
    recipes = _RECIPES

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop with the completion's length as process reward."""
        tokenizer, segmentation = context.policy.tokenizer, StepSegmentation(config.data.step_separator)
        return fit_policy(context, config, lambda data: LengthReward(tokenizer, segmentation))


class ConfidenceNull(Method[RLConfig]):
    """Tokens that the starting policy found likely earn more."""

    name = "confidence"
    title = "confidence reward"
    source = "null"
    status = "exact"
    kind = "null"
    recipes = _RECIPES

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop with the frozen starting policy's log-probabilities as process reward."""
        tokenizer, segmentation = context.policy.tokenizer, StepSegmentation(config.data.step_separator)

        def make_reward(data: TrainingSet) -> ConfidenceReward:
            model = energy_from_policy(context.policy.model, base_measure=1.0).requires_grad_(False)
            return ConfidenceReward(model, tokenizer, segmentation)

        return fit_policy(context, config, make_reward)
