"""Rows of tokens in padded batches: which rows share a pass, and what lies before them.

The rollouts of a group have one prompt. Where it pays, a batch holds their completions only, and the prompt goes through the
model once, with gradient: its keys and values are those of every rollout of the group.
Shapes: B rows, T tokens (right-padded; prompt and completion, or the completion alone), P prompts of W tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from repirl.types import RolloutGroup

SHARING_PAYS = 0.9
"""Prompts are shared if that leaves at most this part of the padded tokens: a second, short pass has a price of its own."""


CACHED_COLUMNS = 2
"""A shared prompt's keys and values are kept for each row behind it, in all layers: so many columns (rows times the longest
prompt and completion) may there be for each padded token that a pass may have."""


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


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrompts:
    """Prompts without their last token, right-padded [P, W], and which one [B] each row of a batch continues."""

    ids_PW: Tensor
    attention_PW: Tensor
    prompt_B: Tensor
    readers: list[torch.nn.Module] = field(default_factory=list)
    """Backbones that were given them."""

    def inputs(self, backbone: torch.nn.Module, attention_mask_BT: Tensor) -> dict[str, Any]:
        """One pass over the prompts, whose keys and values each row gets; their gradients add up over the rows."""
        self.readers.append(backbone)
        cache = DynamicCache()
        backbone(input_ids=self.ids_PW, attention_mask=self.attention_PW, past_key_values=cache, use_cache=True)
        lengths_B = self.attention_PW.sum(1)[self.prompt_B]
        columns_T = torch.arange(attention_mask_BT.shape[1], device=attention_mask_BT.device)
        return {
            "attention_mask": torch.cat([self.attention_PW[self.prompt_B], attention_mask_BT], dim=1),
            "position_ids": lengths_B[:, None] + columns_T,
            "past_key_values": cache_of_rows(cache, self.prompt_B),
            "use_cache": True,
        }


def check_prompts_were_read(batch: TokenBatch) -> None:
    """ValueError if nothing that ran on the batch had its prompts: completions alone mean something else."""
    if isinstance(batch.prefix, SharedPrompts) and not batch.prefix.readers:
        raise ValueError(
            "the rows have their prompts apart: run the model by `hidden_states`, `token_logprobs` or `token_rewards`"
        )


def cache_of_rows(cache: DynamicCache, index: Tensor) -> DynamicCache:
    """A cache of the rows `index` (repeats allowed); the given one stays as it was."""
    found = DynamicCache()
    for i, layer in enumerate(cache.layers):
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        found.update(layer.keys.index_select(0, index), layer.values.index_select(0, index), i)
    return found


def chunked(rows: Sequence[TokenRow], max_tokens: int, *, share: bool) -> list[Chunk]:
    """Rows in chunks of at most `max_tokens` padded tokens (at least one row), with shared prompts where that pays.

    Rows of like length share a chunk, so that little is padding; or, where prompts are long, those of one prompt do.
    """
    lengths = [len(row) for row in rows]
    plain = [Chunk(tuple(chunk), False) for chunk in length_sorted_chunks(lengths, max_tokens)]
    if not share or min((len(row.prompt_ids) for row in rows), default=0) < 2:
        return plain
    prompts: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        prompts.setdefault(tuple(row.prompt_ids), []).append(i)
    if len(prompts) == len(rows):
        return plain
    by_length = sorted(range(len(rows)), key=lambda i: (-lengths[i], i))
    groups = sorted(prompts.values(), key=lambda group: -max(lengths[i] for i in group))
    by_prompt = [i for group in groups for i in sorted(group, key=lambda i: (-lengths[i], i))]
    number = {i: p for p, group in enumerate(groups) for i in group}
    found = [_sharing_chunks(order, rows, number, max_tokens) for order in (by_length, by_prompt)]
    tokens, best = min(found, key=lambda one: one[0])
    padded = sum(len(one.rows) * max(lengths[i] for i in one.rows) for one in plain)
    return best if tokens <= SHARING_PAYS * padded else plain


def _sharing_chunks(
    order: Sequence[int], rows: Sequence[TokenRow], prompt_of: dict[int, int], max_tokens: int
) -> tuple[int, list[Chunk]]:
    """Rows in this order in chunks whose prompts are shared, and the padded tokens of all, prompts included."""
    chunks: list[list[int]] = []
    costs: list[int] = []
    prompts: set[int] = set()
    width = longest = 0
    for i in order:
        before, after = len(rows[i].prompt_ids) - 1, len(rows[i].response_ids) + 1
        for fresh in (not chunks, True):
            prompts_now = {prompt_of[i]} | (set() if fresh else prompts)
            width_now, longest_now = (before, after) if fresh else (max(width, before), max(longest, after))
            count = 1 if fresh else len(chunks[-1]) + 1
            cost = len(prompts_now) * width_now + count * longest_now
            if fresh or (cost <= max_tokens and count * (width_now + longest_now) <= CACHED_COLUMNS * max_tokens):
                break
        if fresh:
            chunks.append([])
            costs.append(0)
        chunks[-1].append(i)
        costs[-1] = cost
        prompts, width, longest = prompts_now, width_now, longest_now
    return sum(costs), [Chunk(tuple(chunk), True) for chunk in chunks]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Places of rows that go through the model together, and whether their prompts do so apart and once."""

    rows: tuple[int, ...]
    shares: bool

    def batch(self, rows: Sequence[TokenRow], pad_id: int, device: torch.device | str) -> TokenBatch:
        """The chunk of `rows` as a batch."""
        mine = [rows[i] for i in self.rows]
        return sharing_batch(mine, pad_id, device) if self.shares else pad_batch(mine, pad_id, device)


def sharing_batch(rows: Sequence[TokenRow], pad_id: int, device: torch.device | str = "cpu") -> TokenBatch:
    """Prompts (two tokens or more) once, and behind each its rows: the prompt's last token and a completion."""
    places: dict[tuple[int, ...], int] = {}
    of_row = [places.setdefault(tuple(row.prompt_ids), len(places)) for row in rows]
    prompts = pad_batch([TokenRow(prompt[:-1], ()) for prompt in places], pad_id, device)
    blocks = pad_batch([TokenRow(row.prompt_ids[-1:], row.response_ids) for row in rows], pad_id, device)
    before = SharedPrompts(prompts.ids_BT, prompts.attention_mask_BT, torch.tensor(of_row, device=device))
    return TokenBatch(blocks.ids_BT, blocks.attention_mask_BT, blocks.response_mask_BT, before)


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
