"""One policy update: from rollouts and per-token advantages to optimiser steps.

Shapes: B rollouts, N completion tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from repirl import parallel
from repirl.engines.lora import adapters_off, has_adapters
from repirl.learn.gradient import StepStats, global_counts, row_logprobs
from repirl.learn.policy_losses import PolicyLoss, PolicyLossConfig, policy_loss
from repirl.learn.updater import OptimConfig, Updater, cut
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.packing import TokenBatch, TokenRow
from repirl.types import Metrics, Rollout


class PolicyOptimConfig(OptimConfig):
    """How a batch of rollouts becomes policy updates."""

    mini_batches: int = Field(default=1, ge=1)
    """Optimiser steps per batch of rollouts; later ones are off-policy and use the clipped ratio."""
    epochs: int = Field(default=1, ge=1)
    """Passes over each batch of rollouts."""
    loss: PolicyLossConfig = PolicyLossConfig()

    @property
    def updates_per_batch(self) -> int:
        return self.mini_batches * self.epochs


@dataclass(slots=True)
class _Tally:
    """Sums over the completion tokens that went through the model, and what the optimiser steps said."""

    tokens: int = 0
    clipped: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    gap: float = 0.0
    steps: list[StepStats] = field(default_factory=list)

    def add(self, result: PolicyLoss, gap_N: Tensor) -> None:
        self.tokens += len(gap_N)
        self.clipped += result.clipped_sum
        self.entropy += result.entropy_sum
        self.kl += result.kl_sum
        self.gap = float(np.maximum(self.gap, float(gap_N.abs().max())))  # what is no number stays visible

    def add_up(self) -> None:
        """Over all processes."""
        sums = parallel.total([float(self.tokens), self.clipped, self.entropy, self.kl])
        self.tokens, (self.clipped, self.entropy, self.kl) = round(sums[0]), sums[1:]
        self.gap = float(np.max(parallel.gathered(self.gap)))


class PolicyUpdater:
    """Owns the policy's optimiser. `reference` is a frozen copy, needed only for a KL penalty of a policy without adapters:
    with them it is the policy itself, its adapters switched off.

    `num_batches` of rollouts make up the whole training, for the learning-rate schedule.
    """

    def __init__(
        self, model: nn.Module, pad_id: int, config: PolicyOptimConfig, num_batches: int, reference: nn.Module | None = None
    ) -> None:
        if config.loss.kl is not None and reference is None and not has_adapters(model):
            raise ValueError("a KL penalty needs a reference policy")
        self.updater = Updater(model, pad_id, config, num_batches * config.updates_per_batch)
        self.reference = reference
        if reference is not None:
            cut(reference)
        self.config = config
        self.scored_tokens = 0

    def update(self, rollouts: Sequence[Rollout], advantages: Sequence[np.ndarray], order_seed: int) -> Metrics:
        """All mini-batches and epochs over one batch of rollouts.

        With a single optimiser step the batch is exactly on-policy and no old log-probabilities are computed. Losses and
        gradient norms are means over optimiser steps; `entropy`, `kl_k1` and `clip_fraction` are means over the tokens that
        were run, whose share of the batch is `updated_share` (rows without advantage are left out where they add nothing);
        `engine_logprob_gap_max` is the largest difference of any token. What had no token is not among the metrics.
        """
        rows = [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]
        temperature = rollouts[0].temperature
        old = None if self.config.updates_per_batch == 1 else self._logprobs(self.updater.model, rows, temperature)
        reference = None if self.config.loss.kl is None else self._reference_logprobs(rows, temperature)
        tally = _Tally()
        for epoch in range(self.config.epochs):
            order = np.random.default_rng((order_seed, epoch)).permutation(len(rows))
            for part in np.array_split(order, min(self.config.mini_batches, len(rows))):
                self._step(part.tolist(), rows, rollouts, advantages, old, reference, tally)
        tally.add_up()
        return self._metrics(tally, self.config.epochs * global_counts(rows).tokens)

    def _step(
        self,
        part: list[int],
        rows: Sequence[TokenRow],
        rollouts: Sequence[Rollout],
        advantages: Sequence[np.ndarray],
        old: Sequence[Tensor] | None,
        reference: Sequence[Tensor] | None,
        tally: _Tally,
    ) -> None:
        """One optimiser step over the rows of `part`; denominators count all of them."""
        config = self.config.loss
        counts = global_counts([rows[i] for i in part])
        # A row whose advantages are all zero adds nothing to the gradient of a pure policy loss: it need not be run.
        needs_all = config.entropy_weight != 0 or config.kl is not None
        used = [i for i in part if needs_all or np.any(advantages[i])]

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            indices = [used[j] for j in chunk]
            device = batch.ids_BT.device
            new = token_logprobs(self.updater.model, batch, rollouts[0].temperature, with_entropy=True)
            old_N = None if old is None else torch.cat([old[i] for i in indices]).to(device)
            result = policy_loss(
                new.logprobs_N,
                old_N,
                _flat([advantages[i] for i in indices], device),
                torch.tensor([len(rows[i].response_ids) for i in indices], device=device),
                counts,
                config,
                entropy_N=new.entropy_N,
                reference_logprobs_N=None if reference is None else torch.cat([reference[i] for i in indices]).to(device),
            )
            # Later mini-batches have a changed policy: the engine is held against the one it sampled from.
            trainer_N = new.logprobs_N.detach() if old_N is None else old_N
            tally.add(result, trainer_N - _flat([rollouts[i].logprobs for i in indices], device))
            return result.loss

        tally.steps.append(self.updater.step([rows[i] for i in used], loss))

    def _metrics(self, tally: _Tally, batch_tokens: int) -> Metrics:
        metrics = {
            "policy_loss": float(np.mean([stats.loss for stats in tally.steps])),
            "policy_grad_norm": float(np.mean([stats.grad_norm for stats in tally.steps])),
            "updated_share": tally.tokens / batch_tokens,
        }
        if tally.tokens:
            metrics |= {
                "clip_fraction": tally.clipped / tally.tokens,
                "entropy": tally.entropy / tally.tokens,
                "engine_logprob_gap_max": tally.gap,
            }
            metrics |= {"kl_k1": tally.kl / tally.tokens} if self.config.loss.kl is not None else {}
        if self.config.non_finite == "skip":
            metrics["skipped_updates"] = self.updater.skipped
        return metrics

    def logprobs(self, rows: Sequence[TokenRow], temperature: float) -> list[Tensor]:
        """Of every row's completion under the policy as it is, on the CPU without gradient."""
        return self._logprobs(self.updater.model, rows, temperature) if rows else []

    def _reference_logprobs(self, rows: Sequence[TokenRow], temperature: float) -> list[Tensor]:
        if self.reference is not None:
            return self._logprobs(self.reference, rows, temperature)
        with adapters_off(self.updater.model):
            return self._logprobs(self.updater.model, rows, temperature)

    def _logprobs(self, model: nn.Module, rows: Sequence[TokenRow], temperature: float) -> list[Tensor]:
        """Log-probabilities of every row's completion under the old policy or the reference: counted as scored tokens."""
        self.scored_tokens += sum(map(len, rows))
        max_tokens = self.config.micro_batch_tokens
        return row_logprobs(model, rows, temperature, pad_id=self.updater.pad_id, max_tokens=max_tokens)

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return self.updater.state() | {"scored_tokens": self.scored_tokens}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updater.load_state(state)
        self.scored_tokens = state["scored_tokens"]


def _flat(arrays: Sequence[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.float32)).to(device)
