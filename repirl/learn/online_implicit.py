"""An implicit reward that learns online: the log-ratio of a language model to its start, fitted to outcomes (PRIME).

docs/recipes.md B2. Each convention in which public implementations differ is an option of `ImplicitUpdate`.
Shapes: T tokens of a rollout, N completion tokens of a micro-batch, B rows of it, R rollouts of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from repirl.config import Config
from repirl.grading.dispatch import outcome_rewards
from repirl.learn.gradient import row_logprobs
from repirl.learn.preference import outcome_losses
from repirl.learn.updater import OptimConfig, Updater
from repirl.rewards.artifact import RewardContract
from repirl.rewards.base import Learned
from repirl.rewards.implicit import ImplicitReward
from repirl.rewards.saved import write_reward
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.packing import TokenBatch, padding_id, rollout_rows
from repirl.types import Budget, Metrics, RolloutGroup, Scored


class ImplicitUpdate(Config):
    """How the implicit reward learns and is read."""

    beta: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Of the cross-entropy."""
    score: Literal["before", "after"] = "before"
    """The batch is scored before the reward learns from it (original: its update is `after`), or after that (verl)."""
    scale: Literal["log_ratio", "beta"] = "log_ratio"
    """A token is paid the log-ratio (original) or beta times it (verl). With `norm=batch` it is the same."""
    last_token: Literal["keep", "zero"] = "keep"
    """The last token has its score (original) or 0 (verl)."""
    norm: Literal["none", "batch"] = "batch"
    """`batch`: scores are divided by the largest absolute return of any token of the batch, + 1e-6."""
    reference: Literal["start", "sampler"] = "start"
    """The starting policy, or the policy that sampled the batch, by its recorded log-probabilities."""
    soft_labels: bool = False
    """A wrong program's label is the share of tests that it passed; all else is right or wrong."""
    optim: OptimConfig = OptimConfig(lr=1e-6, max_grad_norm=10.0)


class OnlineImplicit:
    """`RewardLearner`: pi_phi learns from every batch. Ungraded rollouts are scored and teach nothing."""

    def __init__(self, policy: Any, tokenizer: Any, config: ImplicitUpdate, contract: RewardContract, steps: int) -> None:
        self.config, self.contract = config, contract
        start = copy.deepcopy(policy).eval()
        reference = copy.deepcopy(start).requires_grad_(False)
        self.reward = ImplicitReward(start, reference, tokenizer, contract.segmentation, config.beta)
        self.updater = Updater(start, padding_id(tokenizer), config.optim, steps)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"reward": self.updater.model}

    @property
    def budget(self) -> Budget:
        return self.reward.budget + Budget(trained_tokens=self.updater.trained_tokens)

    def score(self, groups: Sequence[RolloutGroup]) -> Scored:
        return self.reward.score(groups)

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> Learned:
        """One update on the batch's outcomes, and its scores from before or after it."""
        reference = self._reference(groups)
        now = self._logprobs(groups) if self.config.score == "before" else None
        metrics = self._update(groups, [float(one.double().sum()) for one in reference])
        now = self._logprobs(groups) if now is None else now
        ratios = [(a - b).numpy() for a, b in zip(now, reference, strict=True)]
        return Learned(self.reward.steps(groups, token_scores(ratios, self.config)), metrics)

    def _logprobs(self, groups: Sequence[RolloutGroup], model: Any = None) -> list[Tensor]:
        rows = rollout_rows(groups)
        self.reward.budget += Budget(scored_tokens=sum(map(len, rows)))
        return row_logprobs(self.updater.model if model is None else model, rows, pad_id=self.updater.pad_id)

    def _reference(self, groups: Sequence[RolloutGroup]) -> list[Tensor]:
        if self.config.reference == "sampler":
            return [torch.from_numpy(rollout.logprobs) for group in groups for rollout in group.rollouts]
        return self._logprobs(groups, self.reward.reference)

    def _update(self, groups: Sequence[RolloutGroup], reference_R: Sequence[float]) -> Metrics:
        verdicts = [verdict for group in groups for verdict in group.verdicts]
        used = [i for i, verdict in enumerate(verdicts) if verdict.outcome != "ungraded"]
        rows, labels = rollout_rows(groups), outcome_rewards(verdicts, self.config.soft_labels)

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            logprobs_N = token_logprobs(self.updater.model, batch).logprobs_N
            chosen = [used[i] for i in chunk]
            lengths = torch.tensor([len(rows[i].response_ids) for i in chosen], device=logprobs_N.device)
            row_N = torch.arange(len(chosen), device=logprobs_N.device).repeat_interleave(lengths)
            sums_B = logprobs_N.new_zeros(len(chosen)).index_add(0, row_N, logprobs_N)
            ratios_B = sums_B - torch.tensor([reference_R[i] for i in chosen]).to(sums_B)
            return outcome_losses(ratios_B, torch.tensor([labels[i] for i in chosen]), self.config.beta).sum() / len(used)

        if not used:
            return {}
        stats = self.updater.step([rows[i] for i in used], loss)
        return {"loss": stats.loss, "grad_norm": stats.grad_norm}

    def state(self) -> dict[str, Any]:
        """All that resuming needs; the reference is the start again."""
        return {"updater": self.updater.state(), "budget": asdict(self.reward.budget)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updater.load_state(state["updater"])
        self.reward.budget = Budget(**state["budget"])

    def save(self, folder: Path) -> None:
        """As an implicit reward: a causal language model whose reference is named."""
        write_reward(folder, self.updater.model, self.reward.tokenizer, self.contract)


def token_scores(ratios: Sequence[np.ndarray], config: ImplicitUpdate) -> list[np.ndarray]:
    """What the tokens of a batch are paid, float32 [T] a rollout, from their log-ratios."""
    scores = [one.astype(np.float64) * (config.beta if config.scale == "beta" else 1.0) for one in ratios]
    if config.last_token == "zero":
        scores = [np.append(one[:-1], 0.0) for one in scores]
    if config.norm == "batch":
        largest = max(float(np.abs(np.cumsum(one[::-1])).max()) for one in scores)
        scores = [one / (largest + 1e-6) for one in scores]
    return [one.astype(np.float32) for one in scores]
