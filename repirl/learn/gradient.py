"""The gradient step: the only code that cuts a batch into micro-batches, runs backward, clips and steps.

A loss is a sum over the rows of a micro-batch, divided by *global* counts (`global_counts`), so that it does not depend on
how the batch is cut (docs/design.md rule 3), nor on the number of processes: each takes some of the micro-batches. What a loss
adds up on the side it has to add up over them (`parallel.total`).
Shapes: B rows, N completion tokens of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repirl import parallel
from repirl.errors import NumericalFault
from repirl.rollouts.batching import can_share_prompts, map_rows, token_logprobs
from repirl.rollouts.packing import TokenBatch, TokenRow, check_prompts_were_read, chunked

Loss = Callable[[TokenBatch, list[int]], Tensor]
"""Scalar with gradient of one micro-batch; the list holds the places of its rows among those given to the step. It runs the
model by `hidden_states` or what is built on it (`token_logprobs`, `token_rewards`): prompts may lie before the batch's rows."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Global counts of the rows that one step sees: denominators."""

    tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class StepStats:
    """`loss` is the sum over micro-batches, `grad_norm` that before clipping, `trained_tokens` those of whole rows."""

    loss: float
    grad_norm: float
    trained_tokens: int


def global_counts(rows: Sequence[TokenRow]) -> Counts:
    """Completion tokens and rows of the whole batch, over all processes."""
    return Counts(sum(len(row.response_ids) for row in rows), len(rows))


def gradient_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[TokenRow],
    loss: Loss,
    *,
    pad_id: int,
    max_tokens: int,
    max_norm: float,
) -> StepStats:
    """One optimiser step on the summed loss of all micro-batches of at most `max_tokens` padded tokens.

    Without rows nothing moves. NumericalFault, before anything has moved, if the loss or its gradient is not finite.
    """
    device = next(model.parameters()).device
    model.train()
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for chunk in parallel.own(chunked(rows, max_tokens, share=can_share_prompts(model))):
        if chunk is None:
            value = parallel.idle_loss(model)
        else:
            batch = chunk.batch(rows, pad_id, device)
            value = parallel.run(model, loss, batch, list(chunk.rows))
            check_prompts_were_read(batch)
        (value * parallel.size()).backward()  # FSDP takes the mean over processes, and a loss is a sum
        total += float(value.detach())
    (total,) = parallel.total([total])
    norm = float(parallel.whole(nn.utils.clip_grad_norm_(model.parameters(), max_norm)))
    if not (math.isfinite(total) and math.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        raise NumericalFault(f"loss {total:.4g}, gradient norm {norm:.4g}: not finite", "lower the learning rate")
    optimizer.step()
    return StepStats(total, norm, sum(map(len, rows)))


def row_logprobs(
    model: nn.Module, rows: Sequence[TokenRow], temperature: float = 1.0, *, pad_id: int = 0, max_tokens: int | None = None
) -> list[Tensor]:
    """Float32 log-probabilities [T_i] of every row's completion at a temperature, without gradient, on the CPU."""
    per_token = lambda batch: token_logprobs(model, batch, temperature).logprobs_N
    return map_rows(model, rows, per_token, pad_id=pad_id, max_tokens=max_tokens)
