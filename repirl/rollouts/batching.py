"""Passes over token batches (packing.py) and log-probabilities, the same for every loss.

Shapes: B rows, T tokens (right-padded), N completion tokens of a batch laid end to end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from repirl import parallel
from repirl.engines.kv_cache import keeps_all_keys
from repirl.engines.modeling_repirl import adjusted_logits
from repirl.errors import NumericalFault
from repirl.precision import lowered
from repirl.rollouts.packing import TokenBatch, TokenRow, check_prompts_were_read, chunked, distinct_rows

CPU_TOKENS = 1024
"""Most (padded) tokens in a pass on a CPU, where a small batch stays in the caches: the tiny model scores a tenth faster than
with 2,048, and learns a quarter faster than with 8,192."""
SCORING_TOKENS_GPU = 16384
"""Most (padded) tokens in a pass without gradient on a GPU."""


def can_share_prompts(model: torch.nn.Module) -> bool:
    """Whether completions can go through a model behind the keys of their prompts, with gradient (packing.py).

    Not with gradient checkpointing, which keeps no keys; nor in several processes: passes through weights that are cut are made
    by all of them at once, and one that has nothing to do would have to make two (tried: they wait for each other forever).
    """
    return (
        parallel.size() == 1
        and isinstance(model, PreTrainedModel)
        and not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        and {"past_key_values", "position_ids"} <= inspect.signature(model.base_model.forward).parameters.keys()
        and keeps_all_keys(model.config)
        and (model.get_output_embeddings() is None or has_known_head(model))
    )


@torch.no_grad()
def map_rows(
    model: torch.nn.Module,
    rows: Sequence[TokenRow],
    per_token: Callable[[TokenBatch], Tensor],
    *,
    pad_id: int,
    max_tokens: int | None = None,
    share: bool = True,
) -> list[Tensor]:
    """`per_token(batch)` [N] of each row's completion tokens, float32 [T_i] on the CPU, in the order given.

    The one loop over batches without gradient: the model is in evaluation mode for the while, batches are sorted by
    length and hold at most `max_tokens` (None: by device), and groups of short completions hold many rows that are the
    same: each is run once. Several processes share the batches; all must call it with the same rows. `share`: rows of one
    prompt may share it, since `per_token` runs no model but by `hidden_states`, and none that cannot (`can_share_prompts`).
    """
    device = next(model.parameters()).device
    if max_tokens is None:
        max_tokens = CPU_TOKENS if device.type == "cpu" else SCORING_TOKENS_GPU
    unique, same_as = distinct_rows(rows)
    was_training = model.training
    model.eval()
    chunks = chunked(unique, max_tokens, share=share and can_share_prompts(model))
    scored: list[tuple[int, Tensor]] = []
    for chunk in parallel.own(chunks):
        batch = (chunk or chunks[0]).batch(unique, pad_id, device)  # all processes make as many passes
        values_N = parallel.run(model, per_token, batch).float().cpu()
        check_prompts_were_read(batch)
        if values_N.isnan().any():
            raise NumericalFault(
                "what a model says of a token is not a number", "its weights are damaged, or its dtype too small"
            )
        if chunk is not None:
            scored += zip(chunk.rows, values_N.split([len(unique[i].response_ids) for i in chunk.rows]), strict=True)
    model.train(was_training)
    found = dict(chain.from_iterable(parallel.gathered(scored)))
    return [found[i] for i in same_as]


def hidden_states(backbone: torch.nn.Module, batch: TokenBatch) -> Tensor:
    """Last hidden states [B, T, H] of a transformers backbone, behind the batch's prefix if it has one."""
    given = {"attention_mask": batch.attention_mask_BT, "use_cache": False}
    if batch.prefix is not None:
        given = batch.prefix.inputs(backbone, batch.attention_mask_BT)
    return backbone(input_ids=batch.ids_BT, **given).last_hidden_state


_PLAIN_HEADS: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def has_known_head(model) -> bool:
    """Whether output layer and `adjusted_logits` on the backbone's states give the model's own logits: tried once a model.

    Heads with a transformation of their own, and changes that `adjusted_logits` does not know, are so found out.
    """
    if model not in _PLAIN_HEADS:
        was_training = model.training
        model.eval()
        device = next(model.parameters()).device
        probe = {"input_ids": torch.arange(min(8, model.config.get_text_config().vocab_size), device=device)[None]}
        own = model(**probe, use_cache=False).logits
        states = getattr(model.base_model(**probe, use_cache=False), "last_hidden_state", None)
        made = None if states is None else adjusted_logits(model.config, model.get_output_embeddings()(states))
        _PLAIN_HEADS[model] = made is not None and made.shape == own.shape and torch.allclose(made, own, rtol=1e-2, atol=1e-2)
        model.train(was_training)
    return _PLAIN_HEADS[model]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """`logprobs_N` of the completion tokens, row by row; `entropy_N` of the distributions they were drawn from (nats)."""

    logprobs_N: Tensor
    entropy_N: Tensor


def token_logprobs(model, batch: TokenBatch, temperature: float = 1.0, *, with_entropy: bool = False) -> TokenLogprobs:
    """Float32 log-probabilities of the completion tokens at a temperature; entropy is empty unless asked for."""
    logits_NV = completion_logits(model, batch)
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    targets_N = batch.ids_BT[batch.response_mask_BT]
    if not with_entropy:
        return TokenLogprobs(-F.cross_entropy(logits_NV, targets_N, reduction="none"), logits_NV.new_empty(0))
    log_p_NV = F.log_softmax(logits_NV, dim=-1)
    entropy_N = -(log_p_NV.exp() * log_p_NV).sum(-1)
    return TokenLogprobs(log_p_NV.gather(1, targets_N[:, None])[:, 0], entropy_N)


def completion_logits(model, batch: TokenBatch) -> Tensor:
    """Float32 logits [N, V] from which the batch's completion tokens were drawn.

    The output layer runs on completion positions only (on all, where it is none that we know). The token at position t is
    predicted at t - 1.
    """
    before_BT = batch.response_mask_BT[:, 1:]
    with lowered(batch.ids_BT.device.type):
        if has_known_head(model):
            hidden = hidden_states(model.base_model, batch)
            logits_NV = adjusted_logits(model.config, model.get_output_embeddings()(hidden[:, :-1][before_BT]))
        elif batch.prefix is not None:
            raise ValueError(
                "a model whose output layer is not known, run as a whole, knows nothing of what lies before the rows"
            )
        else:
            logits = model(input_ids=batch.ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False).logits
            logits_NV = logits[:, :-1][before_BT]
    return logits_NV.float()
