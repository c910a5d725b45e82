"""A model with its optimiser and learning-rate schedule: what every learner that moves weights owns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from repirl import parallel
from repirl.config import Config
from repirl.errors import NumericalFault
from repirl.learn.gradient import Loss, StepStats, gradient_step
from repirl.rollouts.batching import CPU_TOKENS, has_known_head
from repirl.rollouts.packing import TokenRow


class OptimConfig(Config):
    """AdamW without weight decay, and how a batch is cut."""

    lr: float = Field(default=5e-7, gt=0)
    """AdamW's learning rate at its highest."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the rate rises linearly; the first one gets 1 / `warmup_steps` of it."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """`linear` and `cosine` decay to 0 at the end of training, which averages out the noise of small batches."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is above."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Most padded tokens that go through the model at a time (on a CPU fewer: `CPU_TOKENS`); changes no result."""
    non_finite: Literal["stop", "skip"] = "stop"
    """An update whose loss or gradient is no number ends the run, or is left out and counted (`skipped_updates`)."""

    def scheduled(self) -> list[str]:
        return [] if self.schedule == "constant" else ["schedule"]

    def rate_factor(self, update: int, total_updates: int) -> float:
        """Share of `lr` that update number `update` (from 0) of `total_updates` gets.

        (The scheduler of transformers of the same name gives the first warm-up update a rate of 0.)
        """
        factor = min(1.0, (update + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "linear":
            factor *= max(0.0, 1 - update / total_updates)
        elif self.schedule == "cosine":
            # In float32, as the embedded policy was made.
            factor *= 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * update / total_updates))))
        return factor


class Updater:
    """Moves `model` by gradient steps and counts them. With several processes its weights are cut among them from here on.

    `total_updates` is the number of steps of the whole training, for the schedule. `groups` are AdamW's parameter groups
    (None: all that need a gradient, at `config.lr`).
    """

    def __init__(
        self,
        model: nn.Module,
        pad_id: int,
        config: OptimConfig,
        total_updates: int,
        *,
        groups: list[dict[str, Any]] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        switch_off_dropout(model)
        groups = cut(model, groups)
        self.model = model
        self.pad_id = pad_id
        self.config = config
        trained = groups or [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0, betas=betas)
        self.schedule = LambdaLR(self.optimizer, lambda update: config.rate_factor(update, total_updates))
        self.updates = 0
        self.trained_tokens = 0
        self.skipped = 0

    def step(self, rows: Sequence[TokenRow], loss: Loss) -> StepStats:
        """One gradient step; see `gradient_step`. A skipped one has loss, norm and tokens 0."""
        try:
            stats = gradient_step(
                self.model,
                self.optimizer,
                rows,
                loss,
                pad_id=self.pad_id,
                max_tokens=min(self.config.micro_batch_tokens, CPU_TOKENS if self._on_cpu else sys.maxsize),
                max_norm=self.config.max_grad_norm,
            )
        except NumericalFault:
            if self.config.non_finite == "stop":
                raise
            self.skipped += 1
            stats = StepStats(0.0, 0.0, 0)
        self.schedule.step()
        self.updates += 1
        self.trained_tokens += stats.trained_tokens
        return stats

    def _placed(self, optimizer: dict[str, Any]) -> dict[str, Any]:
        """The optimiser's state with what belongs to a weight placed as the weight is."""
        live = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        placed = {
            i: {name: parallel.placed_like(v, live[i]) if v.shape == live[i].shape else v for name, v in moments.items()}
            for i, moments in optimizer["state"].items()
        }
        return {**optimizer, "state": placed}

    @property
    def _on_cpu(self) -> bool:
        return next(self.model.parameters()).device.type == "cpu"

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "updates": self.updates,
            "trained_tokens": self.trained_tokens,
            "skipped": self.skipped,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        parallel.load_whole(self.model, state["model"])
        self.optimizer.load_state_dict(self._placed(state["optimizer"]))
        self.schedule.load_state_dict(state["schedule"])
        self.updates, self.trained_tokens = state["updates"], state["trained_tokens"]
        self.skipped = state["skipped"]


def cut(model: Any, groups: list[dict[str, Any]] | None = None) -> list[dict[str, Any]] | None:
    """Cut a model among the processes, in place; AdamW's `groups` with its parameters as they are then."""
    if parallel.size() == 1 or parallel.is_cut(model):
        return groups
    if getattr(model, "get_output_embeddings", lambda: None)() is not None:
        has_known_head(model)  # tries the whole model out
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parallel.cut(model)
    now = dict(model.named_parameters())
    if groups is None:
        return None
    return [{**group, "params": [now[names[id(parameter)]] for parameter in group["params"]]} for group in groups]


def switch_off_dropout(model: nn.Module) -> None:
    """No dropout in training mode either: a policy must be trained as it was sampled from, and the same each time."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
