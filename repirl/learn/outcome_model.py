"""An outcome reward model: one score a solution, read at its last token (docs/recipes.md B4).

`pointwise`: cross-entropy of sigmoid(z) against the outcome. `bradley_terry`: -log sigmoid(z_correct - z_failed) over all such
pairs of a prompt. The last token is known from each completion's length, never inferred from padding, so that an EOS that is
also the padding token counts; completions are never cut.
Shapes: R rollouts, B rows of a micro-batch, N completion tokens of it laid end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from repirl.config import Config
from repirl.errors import UserError
from repirl.learn.policy_gradient import batch_of
from repirl.learn.updater import OptimConfig, Updater
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import EnergyReward, parameter_groups, token_rewards
from repirl.rewards.saved import write_reward
from repirl.rollouts.batching import map_rows
from repirl.rollouts.packing import TokenBatch, TokenRow, padding_id
from repirl.separation import auc
from repirl.types import Budget, Metrics, RolloutGroup


class OutcomeModelConfig(Config):
    """How the model is made and learns."""

    loss: Literal["pointwise", "bradley_terry"] = "pointwise"
    """Each outcome by itself, or pairs of a prompt's correct and failed rollouts."""
    layers: int | None = None
    """The first so many of the policy's layers; None: all."""
    steps: int = Field(default=150, ge=1)
    """Gradient steps."""
    prompts: int = Field(default=12, ge=1)
    """Prompts of the pool in each of them."""
    head_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the new head; None: that of the backbone."""
    optim: OptimConfig = OptimConfig(lr=1e-6)


class OutcomeReward(EnergyReward):
    """Every token of a solution is paid sigmoid of the solution's score: the chance that it is right."""

    name = "outcome"

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        last = [float(scores_T[-1]) for scores_T in super().token_scores(groups)]
        lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
        return [np.full(length, 1 / (1 + np.exp(-z)), dtype=np.float32) for length, z in zip(lengths, last, strict=True)]


def outcome_loss(scores_R: Tensor, correct_R: Tensor, prompt_R: Tensor, kind: str) -> Tensor:
    """Scalar loss of a batch's scores: a mean over rollouts, or over pairs (0 without any)."""
    if kind == "pointwise":
        return functional.binary_cross_entropy_with_logits(scores_R, correct_R.to(scores_R))
    pairs_RR = correct_R[:, None] & ~correct_R[None] & (prompt_R[:, None] == prompt_R[None])
    gaps_RR = scores_R[:, None] - scores_R[None]
    return -functional.logsigmoid(gaps_RR)[pairs_RR].sum() / pairs_RR.sum().clamp(min=1)


class OutcomeFitting:
    """`Learner`: each step is an update on the graded rollouts of some prompts, in a new order every pass.

    `spent` is what the rollouts cost. UserError unless there are correct and failed ones (of one prompt, for pairs).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: OutcomeModelConfig,
        contract: RewardContract,
        groups: Sequence[RolloutGroup],
        seed: int,
        spent: Budget,
    ) -> None:
        outcomes = [{v.reward for v in group.verdicts if v.outcome != "ungraded"} for group in groups]
        pairs = config.loss == "bradley_terry"
        self.groups = [group for group, seen in zip(groups, outcomes, strict=True) if (len(seen) > 1 if pairs else seen)]
        if len(set().union(*outcomes)) < 2 or not self.groups:
            what = "no prompt has both correct and failed rollouts" if pairs else "the pool has one outcome alone"
            raise UserError(what, f"{len(groups)} prompts", "give more rollouts, or other levels")
        self.config, self.contract, self.seed, self.spent, self.tokenizer = config, contract, seed, spent, tokenizer
        lr = config.optim.lr
        parameters = parameter_groups(model, lr, lr if config.head_lr is None else config.head_lr)
        self.updater = Updater(model, padding_id(tokenizer), config.optim, config.steps, groups=parameters)

    @property
    def reward(self) -> OutcomeFitting:
        """What has `save`: itself."""
        return self

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"reward": self.updater.model}

    @property
    def budget(self) -> Budget:
        return self.spent + Budget(trained_tokens=self.updater.trained_tokens)

    def step(self, index: int) -> Metrics:
        """One update; metrics are those before it. The loss couples rows, so its slopes are taken of the whole batch first."""
        chosen = batch_of(self.groups, index, min(self.config.prompts, len(self.groups)), self.seed)
        seen = [
            (g, TokenRow(rollout.prompt_ids, rollout.token_ids), verdict.reward == 1)
            for g, group in enumerate(chosen)
            for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
            if verdict.outcome != "ungraded"
        ]
        rows = [row for _, row, _ in seen]
        model, pad_id = self.updater.model, self.updater.pad_id
        before = map_rows(model, rows, lambda batch: token_rewards(model, batch), pad_id=pad_id)
        scores_R = torch.stack([values[-1] for values in before]).double().requires_grad_()
        correct_R = torch.tensor([right for _, _, right in seen])
        value = outcome_loss(scores_R, correct_R, torch.tensor([g for g, _, _ in seen]), self.config.loss)
        (slopes_R,) = torch.autograd.grad(value, scores_R)
        share = float(value.detach()) / len(rows)
        self.spent += Budget(scored_tokens=sum(map(len, rows)))

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            ends = torch.tensor([len(rows[i].response_ids) for i in chunk]).cumsum(0) - 1
            last_B = token_rewards(model, batch)[ends.to(batch.ids_BT.device)]
            linear = (slopes_R[chunk].to(last_B) * last_B).sum()
            return linear - linear.detach() + share * len(chunk)

        stats = self.updater.step(rows, loss)
        found = {"loss": stats.loss, "grad_norm": stats.grad_norm}
        separation = auc(scores_R.tolist(), correct_R.tolist())
        return {f"prm/{name}": number for name, number in (found | ({} if separation is None else {"auc": separation})).items()}

    def state(self) -> dict[str, Any]:
        """All that resuming needs; the rollouts are read again."""
        return {"updater": self.updater.state(), "scored_tokens": self.spent.scored_tokens}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updater.load_state(state["updater"])
        self.spent += Budget(scored_tokens=state["scored_tokens"] - self.spent.scored_tokens)

    def save(self, folder: Path) -> None:
        """Model, tokenizer and contract as one transformers folder (token classification with one label)."""
        write_reward(folder, self.updater.model, self.tokenizer, self.contract)
