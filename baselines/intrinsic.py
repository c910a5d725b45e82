"""Intrinsic rewards: RL on how sure the policy is of its own tokens, without outcomes or demonstrations.

`self_certainty` (Intuitor, arXiv 2505.19590): the mean over tokens of KL(uniform || p) = logsumexp(z) - mean(z) - log V, with z
the V logits. `negative_entropy` (RENT, arXiv 2505.22660): the mean of sum_v p log p. Both are of the policy as it is when the
batch is sampled, not of its start, and paid as the mean over the rollout's tokens, standardised by nothing but the
leave-one-out baseline (deviation: Intuitor uses GRPO's). What they do to the policy shows in the metric `entropy`: it falls
to 0 long before accuracy says so (docs/recipes.md C3).
"""

from typing import Any, Literal

from torch import Tensor

from repirl.learn.credit_config import SequenceCredit
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop
from repirl.rewards.base import ModelReward
from repirl.rollouts.batching import TokenBatch, completion_logits
from repirl.rollouts.steps import StepSegmentation

Signal = Literal["self_certainty", "negative_entropy"]


class IntrinsicConfig(RLConfig):
    """The loop's configuration, and which of the two is paid."""

    signal: Signal = "self_certainty"
    """Divergence of the token's distribution from uniform, or minus its entropy."""


class IntrinsicReward(ModelReward):
    """How sure a policy is at each token: a function of its distribution there, whichever token was drawn."""

    name = "intrinsic"

    def __init__(self, model: Any, tokenizer: Any, segmentation: StepSegmentation, signal: Signal) -> None:
        super().__init__(model, tokenizer, segmentation)
        self.signal = signal

    def per_token(self, batch: TokenBatch) -> Tensor:
        log_p_NV = completion_logits(self.model, batch).log_softmax(-1)
        if self.signal == "negative_entropy":
            return (log_p_NV.exp() * log_p_NV).sum(-1)
        return -log_p_NV.mean(-1) - log_p_NV.new_tensor(log_p_NV.shape[-1]).log()


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
