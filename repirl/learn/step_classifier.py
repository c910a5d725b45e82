"""A classifier of steps, fitted to labels of them: 1 right, 0 wrong, between them soft; a step without a label takes no part.

The logit of a step is read at its last token (as published step classifiers have it), or is the sum over its tokens of
r - log pi, as in the logistic form of inverse RL: then it is 0 for every step before learning, and the state's own prediction
of a token is part of it, which a shallow model cannot see from the token's position.
Shapes: R rows, S steps of a row, F labelled or other steps of a micro-batch, N completion tokens of it laid end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from repirl import parallel
from repirl.config import Config
from repirl.errors import UserError
from repirl.learn.discriminator import factor_sums
from repirl.learn.policy_gradient import batch_of
from repirl.learn.updater import OptimConfig, Updater
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import EnergyReward, parameter_groups, token_rewards
from repirl.rewards.saved import write_reward
from repirl.rollouts.packing import TokenBatch, TokenRow, padding_id
from repirl.types import Budget, Metrics


class StepClassifierConfig(Config):
    """How the classifier is made and learns."""

    logit: Literal["last", "sum"] = "last"
    """Where a step's logit is: at its last token, or the sum over its tokens of r - log pi of the sampler."""
    base_measure: float = Field(default=0.0, ge=0)
    """As of rePIRL's reward: 1 starts r as the starting policy's log-probability, which `sum` wants."""
    layers: int | None = None
    """The first so many of the policy's layers; None: all."""
    balance: bool = False
    """Right and wrong steps of an update weigh the same in all; else every labelled step weighs the same."""
    steps: int = Field(default=150, ge=1)
    """Gradient steps."""
    rows: int = Field(default=64, ge=1)
    """Solutions of each."""
    head_lr: float | None = Field(default=None, gt=0)
    """Learning rate of the new head; None: that of the backbone."""
    optim: OptimConfig = OptimConfig(lr=1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSteps:
    """A solution: index of the last token of each step and the steps' labels [S] (None: no label).

    `logprobs_T` are those of the policy that wrote it; only `logit=sum` reads them.
    """

    row: TokenRow
    logprobs_T: np.ndarray
    ends: tuple[int, ...]
    labels: tuple[float | None, ...]


def label_weights(rows: Sequence[LabelledSteps], *, balance: bool) -> tuple[float, float]:
    """Weights of a right and of a wrong step: a soft label p counts as p of the one and 1 - p of the other.

    All weights sum to 1 over the rows; 0 where there is no such step.
    """
    labels = [label for row in rows for label in row.labels if label is not None]
    right, wrong = sum(labels), sum(1 - label for label in labels)
    if not balance:
        return 1 / max(len(labels), 1), 1 / max(len(labels), 1)
    return 0.5 / right if right else 0.0, 0.5 / wrong if wrong else 0.0


class StepClassifier:
    """An energy model with its optimiser, fitted to labelled steps; `total_updates` for the schedule."""

    def __init__(
        self, model: Any, tokenizer: Any, config: StepClassifierConfig, contract: RewardContract, total_updates: int
    ) -> None:
        self.config, self.contract = config, contract
        self.reward = EnergyReward(model, tokenizer, contract.segmentation, contract.step_aggregation)
        lr = config.optim.lr
        groups = parameter_groups(model, lr, lr if config.head_lr is None else config.head_lr)
        self.updater = Updater(model, padding_id(tokenizer), config.optim, total_updates, groups=groups)

    def fit(self, rows: Sequence[LabelledSteps]) -> Metrics:
        """One gradient step on the cross-entropy of the labelled steps; metrics are those before it."""
        weight_right, weight_wrong = label_weights(rows, balance=self.config.balance)
        counted = sum(label is not None for row in rows for label in row.labels)
        found = np.zeros((2, 2))  # right and wrong steps: sum of logits, weight

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            chosen = [rows[i] for i in chunk]
            logits_F = self._logits(token_rewards(self.updater.model, batch), chosen)
            flat = [label for row in chosen for label in row.labels]
            known_F = torch.tensor([label is not None for label in flat], device=logits_F.device)
            labels_F = torch.tensor([0.0 if label is None else label for label in flat]).to(logits_F)
            weights_F = known_F * (labels_F * weight_right + (1 - labels_F) * weight_wrong)
            targets_F = labels_F * weight_right / weights_F.clamp(min=1e-30)  # the share of its weight that says right
            for side, share_F in enumerate((labels_F * known_F, (1 - labels_F) * known_F)):
                found[side] += float((share_F * logits_F.detach()).sum()), float(share_F.sum())
            each_F = functional.binary_cross_entropy_with_logits(logits_F, targets_F.clamp(0, 1), reduction="none")
            return (weights_F * each_F).sum()

        stats = self.updater.step([row.row for row in rows], loss)
        sums = zip(("right", "wrong"), parallel.total(found.tolist()), strict=True)
        means = {f"logit_{name}": total / count for name, (total, count) in sums if count}
        return {"loss": stats.loss, "grad_norm": stats.grad_norm, "labelled_steps": float(counted)} | means

    def _logits(self, rewards_N: Tensor, rows: Sequence[LabelledSteps]) -> Tensor:
        lengths = [len(row.row.response_ids) for row in rows]
        if self.config.logit == "sum":
            reference_N = torch.from_numpy(np.concatenate([row.logprobs_T for row in rows])).to(rewards_N)
            return factor_sums(rewards_N - reference_N, [row.ends for row in rows], lengths)[0]
        starts = np.cumsum([0, *lengths[:-1]])
        places = [int(start) + end for start, row in zip(starts, rows, strict=True) for end in row.ends]
        return rewards_N[torch.tensor(places, dtype=torch.long, device=rewards_N.device)]

    def save(self, folder: Path) -> None:
        """Model, tokenizer and contract as one transformers folder (token classification with one label)."""
        write_reward(folder, self.updater.model, self.reward.tokenizer, self.contract)


class StepFitting:
    """`Learner`: each step is an update of the classifier on some of the rows, in a new order every pass.

    `spent` is what the rows and their labels cost, `told` what is to be logged of the labels. UserError unless there are both
    right and wrong steps.
    """

    def __init__(
        self,
        classifier: StepClassifier,
        rows: Sequence[LabelledSteps],
        seed: int,
        spent: Budget,
        told: Mapping[str, float] = {},
    ) -> None:
        self.reward = classifier
        self.rows = [row for row in rows if any(label is not None for label in row.labels)]
        labels = [label for row in self.rows for label in row.labels if label is not None]
        if not labels or min(labels) > 0.5 or max(labels) < 0.5:
            what = "a step classifier needs both right and wrong steps"
            raise UserError(what, f"{len(labels)} labelled steps", "give more solutions, or other levels")
        if classifier.config.logit == "sum" and any(np.isnan(row.logprobs_T).any() for row in self.rows):
            raise UserError("logit=sum needs the rollouts' log-probabilities", todo="give `logprobs`, or set logit=last")
        self.seed = seed
        self.spent = spent
        self.told = {f"labels/{name}": value for name, value in told.items()}

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"reward": self.reward.updater.model}

    @property
    def budget(self) -> Budget:
        return self.spent + Budget(trained_tokens=self.reward.updater.trained_tokens)

    def step(self, index: int) -> Metrics:
        """One update; the last batch of a pass is filled from the next."""
        chosen = batch_of(self.rows, index, min(self.reward.config.rows, len(self.rows)), self.seed)
        return {f"prm/{name}": value for name, value in self.reward.fit(chosen).items()} | self.told

    def state(self) -> dict[str, Any]:
        """All that resuming needs; the rows are made again."""
        return {"updater": self.reward.updater.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.reward.updater.load_state(state["updater"])
