"""Null rewards: random, constant, length and confidence, paid exactly like a learned process reward.

They bound from below what any process reward must beat: a gain that a random or length reward also shows comes from the
mixing rule or from length, not from knowledge about steps (docs/design.md rule 5). `confidence` pays the starting policy's own
log-probabilities: what it gains is sharpening, which needs neither demonstrations nor outcomes.
"""

from abc import abstractmethod

from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_process_loop
from repirl.rewards.base import StepReward
from repirl.rewards.nulls import ConstantReward, LengthReward, RandomReward, confidence_reward
from repirl.rollouts.steps import StepSegmentation


class _Null(Method[RLConfig]):
    """Runs the loop with a process reward that learned nothing."""

    source = "null"
    status = "exact"
    needs = frozenset({"rollouts", "outcomes"})
    level = "token"
    kind = "null"
    recipes = {"tiny": RLConfig(data=tiny_data(), loop=tiny_process_loop())}

    @abstractmethod
    def reward(self, context: FitContext, segmentation: StepSegmentation) -> StepReward:
        """The reward that is paid."""

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Outcome and null reward, mixed as a learned reward would be."""
        segmentation = StepSegmentation(config.data.step_separator)
        return fit_policy(context, config, lambda data: self.reward(context, segmentation), method=self.name)


class RandomNull(_Null):
    """Independent noise for every token."""

    name = "random"
    title = "random reward"

    def reward(self, context: FitContext, segmentation: StepSegmentation) -> RandomReward:
        return RandomReward(context.policy.tokenizer, segmentation, context.seed)


class ConstantNull(_Null):
    """The same for every token."""

    name = "constant"
    title = "constant reward"

    def reward(self, context: FitContext, segmentation: StepSegmentation) -> ConstantReward:
        return ConstantReward(context.policy.tokenizer, segmentation)


class LengthNull(_Null):
    """Longer completions earn more."""

    name = "length"
    title = "length reward"

    def reward(self, context: FitContext, segmentation: StepSegmentation) -> LengthReward:
        return LengthReward(context.policy.tokenizer, segmentation)


class ConfidenceNull(_Null):
    """Tokens that the starting policy found likely earn more."""

    name = "confidence"
    title = "confidence reward"

    def reward(self, context: FitContext, segmentation: StepSegmentation) -> StepReward:
        return confidence_reward(context.policy.model, context.policy.tokenizer, segmentation)
