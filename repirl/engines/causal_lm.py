"""What the engine needs to know of a transformers causal LM, and the forward passes it makes.

Shapes: B rows, L tokens (padded), V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from repirl.engines.attention import grouped_heads
from repirl.engines.kv_cache import empty_cache, has_recurrent_layers, keeps_all_keys
from repirl.errors import UserError
from repirl.precision import lowered


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled:
    """Left-padded prompts after one forward pass: their cache, and the logits [B, V] of the next token."""

    cache: DynamicCache
    logits: Tensor
    width: int


class CausalLM:
    """A model with its abilities looked up once."""

    def __init__(self, model: Any) -> None:
        parameters = inspect.signature(model.forward).parameters
        if "past_key_values" not in parameters:
            todo = f"use a causal language model (transformers {transformers.__version__}; repirl knows versions below 5.24)"
            raise UserError("the model takes no key-value cache as `past_key_values`", type(model).__name__, todo)
        self.model = model
        self.config = model.config.get_text_config(decoder=True)
        self.vocab_size = int(self.config.vocab_size)
        self.keeps_all_keys = keeps_all_keys(self.config)
        self.needs_equal_lengths = has_recurrent_layers(self.config)
        self.grouped = False
        self._takes_positions = "position_ids" in parameters
        self._takes_logits_to_keep = "logits_to_keep" in parameters

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def max_length(self) -> int | None:
        """Most tokens of prompt and completion together that the model was made for, if it says."""
        return getattr(self.config, "max_position_embeddings", None)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """No gradients, evaluation mode and our attention for the while; afterwards everything is as it was.

        `no_grad`, not `inference_mode`: a buffer that the model replaces meanwhile (dynamic RoPE) must stay usable in training.
        """
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.no_grad(), lowered(self.device.type), grouped_heads(self.model) as self.grouped:
                yield
        finally:
            self.grouped = False
            for module in training:
                module.training = True

    def check_prompt(self, prompt_ids: Sequence[int], whose: str) -> None:
        """Raises UserError for an empty prompt, a token that the model does not know, or a prompt without room after it."""
        if not len(prompt_ids):
            raise UserError(f"{whose} has no tokens", None, "give at least a start token")
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < self.vocab_size:
            raise UserError(f"{whose} has a token outside of the model's vocabulary", max(prompt_ids), "other tokenizer?")
        if self.max_length is not None and len(prompt_ids) >= self.max_length:
            limit = f"the model's limit is {self.max_length} tokens"
            raise UserError(f"{whose} leaves no room for a completion", len(prompt_ids), limit)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """One forward pass over prompts."""
        padded = pad_left(prompts)
        cache = empty_cache(self.config)
        keep = {"logits_to_keep": 1} if self._takes_logits_to_keep else {}
        inputs = self._inputs(padded)
        logits = self.model(**inputs, **keep, past_key_values=cache, use_cache=True).logits
        return Prefilled(cache, logits[:, -1].contiguous(), padded.width)

    def step(self, token_ids: Tensor, starts: Tensor, end: int, first: int, cache: Cache, padded: bool) -> Tensor:
        """Logits [B, V] after one more token per row, `token_ids` [B], at column `end`.

        Row b's tokens are in columns `starts[b]`..`end`; the cache shows columns from `first` on; `padded` says whether any
        row starts later than that.
        """
        inputs: dict[str, Any] = {"input_ids": token_ids[:, None]}
        if self._takes_positions:
            inputs["position_ids"] = (end - starts)[:, None]
        can_do_without = self.grouped and self.keeps_all_keys
        if padded or not can_do_without:
            columns = torch.arange(first, end + 1, device=token_ids.device)
            mask = columns >= starts[:, None]
            # A ready four-dimensional mask spares the model from making it.
            inputs["attention_mask"] = mask[:, None, None, :] if can_do_without else mask.long()
        return self.model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1]

    def _inputs(self, padded: Padded) -> dict[str, Any]:
        """Inputs of a forward pass over whole rows. Rows of one length need no mask: the attention takes its fastest path."""
        ids = padded.ids.to(self.device)
        if not (padded.offsets > 0).any():
            return {"input_ids": ids}
        mask = padded.mask().to(self.device)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return inputs


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Left-padded token ids int64 [B, width]; row b's tokens start at column `offsets[b]`."""

    ids: Tensor
    offsets: np.ndarray

    @property
    def width(self) -> int:
        return self.ids.shape[1]

    def mask(self) -> Tensor:
        """1 for a token, 0 for padding; int64 [B, width]."""
        return torch.from_numpy((np.arange(self.width) >= self.offsets[:, None]).astype(np.int64))


def pad_left(rows: Sequence[Sequence[int]]) -> Padded:
    """Pads to the longest row, on the left, with the row's own first token (any token would do)."""
    lengths = np.array([len(row) for row in rows])
    width = int(lengths.max())
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for b, row in enumerate(rows):
        ids[b] = row[0]
        ids[b, width - len(row) :] = row
    return Padded(torch.from_numpy(ids), width - lengths)
