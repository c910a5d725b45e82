"""One policy update: from rollouts and per-token advantages to an optimiser step.

Shapes: B rollouts, N completion tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from repirl.config import Config
from repirl.learn.policy_losses import Denominators, PolicyLossConfig, policy_loss
from repirl.learn.supervised import switch_off_dropout
from repirl.rollouts.batching import TokenRow, length_sorted_chunks, pad_batch, token_logprobs
from repirl.types import Rollout


class OptimConfig(Config):
    """Optimiser and batching of policy updates (AdamW, weight decay 0)."""

    lr: float = Field(default=5e-7, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear"] = "constant"
    """After warm-up: `linear` decays to 0 at the end of training, which averages out the noise of small batches."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    mini_batches: int = Field(default=1, ge=1)
    """Optimiser steps per batch of rollouts; later ones are off-policy and use the clipped ratio."""
    epochs: int = Field(default=1, ge=1)
    micro_batch_tokens: int = Field(default=8192, ge=1)
    loss: PolicyLossConfig = PolicyLossConfig()


class PolicyUpdater:
    """Owns the policy's optimiser. `reference` is a frozen copy for the KL term (needed only if its weight is > 0).

    `total_updates` is the number of optimiser steps of the whole training, for the learning-rate schedule.
    """

    def __init__(self, model, pad_id: int, config: OptimConfig, reference=None, total_updates: int | None = None) -> None:
        switch_off_dropout(model)
        self.model = model
        self.reference = reference
        self.pad_id = pad_id
        self.config = config
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0)
        self.total_updates = total_updates
        self.updates = 0
        self.trained_tokens = 0

    def update(self, rollouts: Sequence[Rollout], advantages: Sequence[np.ndarray], order_seed: int) -> dict[str, float]:
        """All mini-batches and epochs over one batch of rollouts; metrics are means over its optimiser steps.

        With a single optimiser step the batch is exactly on-policy and no old log-probabilities are computed.
        """
        rows = [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]
        temperature = rollouts[0].temperature
        on_policy = self.config.mini_batches * self.config.epochs == 1
        old = None if on_policy else self._logprobs(self.model, rows, temperature)
        reference = self._logprobs(self.reference, rows, temperature) if self.config.loss.kl_weight > 0 else None
        collected: list[dict[str, float]] = []
        for epoch in range(self.config.epochs):
            order = np.random.default_rng((order_seed, epoch)).permutation(len(rows))
            for part in np.array_split(order, self.config.mini_batches):
                if len(part):
                    collected.append(self._step(part.tolist(), rows, rollouts, advantages, old, reference, temperature))
        return {key: float(np.mean([metrics[key] for metrics in collected])) for key in collected[0]}

    def _step(self, part, rows, rollouts, advantages, old, reference, temperature: float) -> dict[str, float]:
        """One optimiser step over the rows of `part`; denominators count all of them."""
        loss_config = self.config.loss
        counts = Denominators(sum(len(rows[i].response_ids) for i in part), len(part))
        needs_all = loss_config.entropy_weight != 0 or loss_config.kl_weight > 0
        # A row whose advantages are all zero adds nothing to the gradient of a pure policy loss: it need not be run.
        used = [i for i in part if needs_all or np.any(advantages[i])]
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self._rate_factor()
        device = next(self.model.parameters()).device
        total = {"loss": 0.0, "clipped": 0.0, "entropy": 0.0, "kl": 0.0, "gap": 0.0, "tokens": 0.0}
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for chunk in length_sorted_chunks([len(rows[i]) for i in used], self.config.micro_batch_tokens):
            indices = [used[j] for j in chunk]
            batch = pad_batch([rows[i] for i in indices], self.pad_id, device)
            new = token_logprobs(self.model, batch, temperature, with_entropy=True)
            sampled_N = _flat([rollouts[i].logprobs for i in indices], device)
            old_N = None if old is None else torch.cat([old[i] for i in indices]).to(device)
            result = policy_loss(
                new.logprobs_N,
                old_N,
                _flat([advantages[i] for i in indices], device),
                torch.tensor([len(rows[i].response_ids) for i in indices], device=device),
                counts,
                loss_config,
                entropy_N=new.entropy_N,
                reference_logprobs_N=None if reference is None else torch.cat([reference[i] for i in indices]).to(device),
            )
            result.loss.backward()
            total["loss"] += float(result.loss.detach())
            total["clipped"] += result.clipped_sum
            total["entropy"] += result.entropy_sum
            total["kl"] += result.kl_sum
            # Later mini-batches have a changed policy: the engine is held against the one it sampled from.
            trainer_N = new.logprobs_N.detach() if old_N is None else old_N
            total["gap"] = max(total["gap"], float((trainer_N - sampled_N).abs().max()))
            total["tokens"] += len(sampled_N)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm) if used else 0.0
        if used:
            self.optimizer.step()
        self.updates += 1
        self.trained_tokens += sum(len(rows[i]) for i in used)
        tokens = max(1.0, total["tokens"])
        return {
            "policy_loss": total["loss"],
            "clip_fraction": total["clipped"] / tokens,
            "entropy": total["entropy"] / tokens if used else float("nan"),
            "kl_k1": total["kl"] / tokens,
            "engine_logprob_gap_max": total["gap"],
            "policy_grad_norm": float(norm),
        }

    def _rate_factor(self) -> float:
        """Share of the learning rate that the next optimiser step gets."""
        config = self.config
        factor = min(1.0, (self.updates + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if config.schedule == "linear" and self.total_updates is not None:
            factor *= max(0.0, 1 - self.updates / self.total_updates)
        return factor

    @torch.no_grad()
    def _logprobs(self, model, rows: Sequence[TokenRow], temperature: float) -> list[Tensor]:
        """Log-probabilities of every row's completion, on the CPU."""
        if model is None:
            raise ValueError("a KL weight needs a reference policy")
        device = next(model.parameters()).device
        out: list[Tensor] = [torch.empty(0)] * len(rows)
        for chunk in length_sorted_chunks([len(row) for row in rows], self.config.micro_batch_tokens):
            logprobs_N = token_logprobs(model, pad_batch([rows[i] for i in chunk], self.pad_id, device), temperature)
            pieces = logprobs_N.logprobs_N.cpu().split([len(rows[i].response_ids) for i in chunk])
            for i, piece in zip(chunk, pieces, strict=True):
                out[i] = piece
        return out

    def state(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "trained_tokens": self.trained_tokens,
        }

    def load_state(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self.trained_tokens = state["updates"], state["trained_tokens"]


def _flat(arrays: Sequence[np.ndarray], device) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(np.float32)).to(device)
