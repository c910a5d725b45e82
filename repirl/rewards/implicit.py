"""The implicit process reward: what a language model learned, against what it was (docs/recipes.md B1).

r(s_t, a_t) = beta [log pi_phi(a_t | s_t) - log pi_ref(a_t | s_t)], and q_t is the sum up to token t. A step is worth the
difference of q between its ends, the sum over its tokens (EOS is the last step's). pi_phi lies in the reward's folder, an
ordinary causal language model; pi_ref is named in the contract, and must have the digest that it had in training.
Shapes: N completion tokens of a batch laid end to end, T of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repirl.engines.loading import LoadedPolicy, load_policy
from repirl.errors import UserError
from repirl.rewards.aggregate import Aggregation
from repirl.rewards.artifact import CONTRACT_FILE, LogRatioTerms, RewardContract
from repirl.rewards.base import StepReward
from repirl.rollouts.batching import can_share_prompts, map_rows, token_logprobs
from repirl.rollouts.packing import TokenBatch, TokenRow, padding_id, rollout_rows
from repirl.rollouts.steps import StepSegmentation
from repirl.types import Budget, RolloutGroup

KIND = "implicit"


class ImplicitReward(StepReward):
    """beta times the log-ratio of `model` and the frozen `reference`, token by token.

    It has no optimiser; where `model` is trained elsewhere, it scores with the weights of the moment.
    """

    name = KIND

    def __init__(
        self,
        model: Any,
        reference: Any,
        tokenizer: Any,
        segmentation: StepSegmentation,
        beta: float,
        aggregation: Aggregation = "sum",
    ) -> None:
        super().__init__(tokenizer, segmentation, aggregation)
        self.model, self.reference, self.beta = model, reference, beta

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        return [self.beta * ratios_T.numpy() for ratios_T in self.log_ratios(rollout_rows(groups))]

    def log_ratios(self, rows: Sequence[TokenRow]) -> list[Tensor]:
        """log pi_phi - log pi_ref [T] of every row's completion tokens, float32 without gradient, on the CPU.

        Every row counts twice as scored: it goes through both models.
        """
        self.budget += Budget(scored_tokens=2 * sum(map(len, rows)))

        def per_token(batch: TokenBatch) -> Tensor:
            return token_logprobs(self.model, batch).logprobs_N - token_logprobs(self.reference, batch).logprobs_N

        share = can_share_prompts(self.reference)  # of a published pair it may be a model of another kind
        return map_rows(self.model, rows, per_token, pad_id=padding_id(self.tokenizer), share=share)


def log_ratio_terms(reference: LoadedPolicy, beta: float) -> LogRatioTerms:
    """What the contract of an implicit reward says of its reference."""
    return LogRatioTerms(beta=beta, reference=reference.address.name, revision=reference.address.revision)


def load_implicit(folder: Path, tokenizer: Any, contract: RewardContract, device: str | torch.device) -> ImplicitReward:
    """A saved implicit reward, frozen; UserError if its weights or its reference cannot be loaded, or the reference is
    another one than in training."""
    terms = contract.log_ratio
    if terms is None:
        raise UserError("the reward's contract lacks what an implicit reward needs", str(folder), f"{CONTRACT_FILE}: log_ratio")
    model = load_policy(folder, device=device).model
    todo = f"name a copy of the policy as log_ratio.reference in {CONTRACT_FILE}"
    try:
        reference = load_policy(terms.reference, device=device, revision=terms.revision)
    except UserError as error:
        raise UserError(f"no reference for the reward ({error})", str(folder), todo) from error
    if reference.digest != contract.base_digest:
        raise UserError(f"{terms.reference} is not the reference that the reward was fitted with", str(folder), todo)
    return ImplicitReward(
        model.requires_grad_(False),
        reference.model.requires_grad_(False),
        tokenizer,
        contract.segmentation,
        terms.beta,
        contract.step_aggregation,
    )
