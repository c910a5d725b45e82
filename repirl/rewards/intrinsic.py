"""How sure a policy is of its own tokens, as a reward that needs no label (docs/recipes.md C3).

`self_certainty`: KL(uniform || p) = logsumexp(z) - mean(z) - log V, with z the V logits; `negative_entropy`: sum_v p log p.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch import Tensor

from repirl.rewards.base import ModelReward
from repirl.rollouts.batching import completion_logits
from repirl.rollouts.packing import TokenBatch
from repirl.rollouts.steps import StepSegmentation

Certainty = Literal["self_certainty", "negative_entropy"]
CERTAINTIES: tuple[Certainty, ...] = get_args(Certainty)


class IntrinsicReward(ModelReward):
    """How sure a policy is at each token: a function of its distribution there, whichever token was drawn."""

    name = "intrinsic"

    def __init__(self, model: Any, tokenizer: Any, segmentation: StepSegmentation, signal: Certainty) -> None:
        super().__init__(model, tokenizer, segmentation)
        self.signal = signal

    def per_token(self, batch: TokenBatch) -> Tensor:
        log_p_NV = completion_logits(self.model, batch).log_softmax(-1)
        if self.signal == "negative_entropy":
            return (log_p_NV.exp() * log_p_NV).sum(-1)
        return -log_p_NV.mean(-1) - log_p_NV.new_tensor(log_p_NV.shape[-1]).log()
