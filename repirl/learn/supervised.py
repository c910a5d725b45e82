"""Learning from given texts: any loss on rows of tokens; maximum likelihood is the one of cloning and of pretraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from repirl.learn.gradient import Loss, global_counts
from repirl.learn.updater import Updater
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.packing import TokenBatch, TokenRow
from repirl.types import Budget, Metrics


@dataclass(frozen=True, slots=True, eq=False)
class LossBatch:
    """What one step learns from: rows, their loss, what reading it cost, and metrics known once the step is done."""

    rows: Sequence[TokenRow]
    loss: Loss
    budget: Budget = field(default_factory=Budget)
    metrics: Callable[[], Metrics] = field(default=dict)


class Supervised:
    """`Learner` that takes one gradient step on each batch; `batch_of_step` must be a function of the step's number alone.

    `spent` is what came before the first step: data that were sampled for it.
    """

    def __init__(
        self, updater: Updater, batch_of_step: Callable[[int], LossBatch], name: str = "policy", spent: Budget | None = None
    ) -> None:
        self.updater = updater
        self.batch_of_step = batch_of_step
        self.name = name
        self._spent = Budget() if spent is None else spent

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {self.name: self.updater.model}

    @property
    def budget(self) -> Budget:
        """What batches cost, and the updates."""
        return self._spent + Budget(policy_updates=self.updater.updates, trained_tokens=self.updater.trained_tokens)

    def step(self, index: int) -> Metrics:
        batch = self.batch_of_step(index)
        stats = self.updater.step(batch.rows, batch.loss)
        self._spent += batch.budget
        found = {"loss": stats.loss, "grad_norm": stats.grad_norm, "trained_tokens": float(stats.trained_tokens)}
        found |= {"skipped_updates": self.updater.skipped} if self.updater.config.non_finite == "skip" else {}
        return found | batch.metrics()

    def state(self) -> dict[str, Any]:
        return {"updater": self.updater.state(), "spent": asdict(self._spent)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.updater.load_state(state["updater"])
        self._spent = Budget(**state["spent"])


def negative_log_likelihood(model: nn.Module, rows: Sequence[TokenRow]) -> Loss:
    """Mean negative log-likelihood (nats) of all completion tokens of `rows`: a global token mean."""
    tokens = global_counts(rows).tokens

    def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
        return -token_logprobs(model, batch).logprobs_N.sum() / tokens

    return loss
