"""Token batches and log-probabilities, the same for every loss.

Shapes: B rows, T tokens (prompt + completion, right-padded), N completion tokens of a batch laid end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from repirl import parallel
from repirl.engines.modeling_repirl import adjusted_logits
from repirl.precision import lowered
from repirl.types import RolloutGroup

CPU_TOKENS = 1024
"""Most (padded) tokens in a pass on a CPU, where a small batch stays in the caches: the tiny model scores a tenth faster than
with 2,048, and learns a quarter faster than with 8,192."""
SCORING_TOKENS_GPU = 16384
"""Most (padded) tokens in a pass without gradient on a GPU."""


class Prefix(Protocol):
    """What lies before a batch's blocks."""

    def inputs(self, backbone: torch.nn.Module, attention_mask_BT: Tensor) -> dict[str, Any]:
        """What a backbone's forward pass is given beside the block's ids: mask, positions, cache."""
        ...


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Right-padded rows. `response_mask_BT` is True exactly on completion tokens (a final EOS included).

    With `prefix` the rows are blocks of tokens that continue what is cached there; a block's first token is no completion
    token, as it only predicts the second.
    """

    ids_BT: Tensor
    attention_mask_BT: Tensor
    response_mask_BT: Tensor
    prefix: Prefix | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TokenRow:
    """One prompt with one completion, as token ids."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int] | np.ndarray

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def rollout_rows(groups: Sequence[RolloutGroup]) -> list[TokenRow]:
    """All rollouts of the groups as rows, group by group."""
    return [TokenRow(rollout.prompt_ids, rollout.token_ids) for group in groups for rollout in group.rollouts]


def padding_id(tokenizer) -> int:
    """The token to pad with: the tokenizer's own, or any other where it has none, since padding is masked."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return 0 if found is None else int(found)


def pad_batch(rows: Sequence[TokenRow], pad_id: int, device: torch.device | str = "cpu") -> TokenBatch:
    """Pack rows into one right-padded batch."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    attention = np.zeros((len(rows), width), dtype=np.int64)
    response = np.zeros((len(rows), width), dtype=bool)
    for i, row in enumerate(rows):
        start, end = len(row.prompt_ids), len(row)
        ids[i, :start] = row.prompt_ids
        ids[i, start:end] = row.response_ids
        attention[i, :end] = 1
        response[i, start:end] = True
    ids_BT, attention_BT, response_BT = (torch.from_numpy(array).to(device) for array in (ids, attention, response))
    return TokenBatch(ids_BT, attention_BT, response_BT)


def length_sorted_chunks(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Row indices in chunks of at most `max_tokens` padded tokens (at least one row), longest first.

    Rows of like length share a chunk, so little is padding; the longest chunk comes first, so that memory that does not
    suffice shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    chunks: list[list[int]] = []
    for i in order:
        if chunks and (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] <= max_tokens:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks


def distinct_rows(rows: Sequence[TokenRow]) -> tuple[list[TokenRow], list[int]]:
    """The rows without repetitions, in order of first occurrence, and for each given row its place among them."""
    places: dict[bytes, int] = {}
    place_of = [places.setdefault(_key(row), len(places)) for row in rows]
    distinct: list[TokenRow] = []
    for row, place in zip(rows, place_of, strict=True):
        if place == len(distinct):
            distinct.append(row)
    return distinct, place_of


def _key(row: TokenRow) -> bytes:
    """What tells one row from another."""
    prompt, response = (np.asarray(ids, dtype=np.int64).tobytes() for ids in (row.prompt_ids, row.response_ids))
    return len(prompt).to_bytes(4, "little") + prompt + response


@torch.no_grad()
def map_rows(
    model: torch.nn.Module,
    rows: Sequence[TokenRow],
    per_token: Callable[[TokenBatch], Tensor],
    *,
    pad_id: int,
    max_tokens: int | None = None,
) -> list[Tensor]:
    """`per_token(batch)` [N] of each row's completion tokens, float32 [T_i] on the CPU, in the order given.

    The one loop over batches without gradient: the model is in evaluation mode for the while, batches are sorted by
    length and hold at most `max_tokens` (None: by device), and groups of short completions hold many rows that are the
    same: each is run once. Several processes share the batches; all must call it with the same rows.
    """
    device = next(model.parameters()).device
    if max_tokens is None:
        max_tokens = CPU_TOKENS if device.type == "cpu" else SCORING_TOKENS_GPU
    unique, same_as = distinct_rows(rows)
    was_training = model.training
    model.eval()
    chunks = length_sorted_chunks([len(row) for row in unique], max_tokens)
    scored: list[tuple[int, Tensor]] = []
    for chunk in parallel.own(chunks):
        rows_of_chunk = chunks[0] if chunk is None else chunk  # all processes make as many passes
        batch = pad_batch([unique[i] for i in rows_of_chunk], pad_id, device)
        values_N = parallel.run(model, per_token, batch).float().cpu()
        if chunk is not None:
            scored += zip(chunk, values_N.split([len(unique[i].response_ids) for i in chunk]), strict=True)
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
        else:
            logits = model(input_ids=batch.ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False).logits
            logits_NV = logits[:, :-1][before_BT]
    return logits_NV.float()
