"""Attention of one new token per row over grouped key-value heads without repeating them.

The `sdpa` attention of transformers copies keys and values once per query head of a group when a mask is given: at
decoding, that is most of the time. Here the query heads of a group become the query positions of their key-value head
(there is only one new token, so that no causal order is needed among them).

Shapes: B rows, N query heads, H key-value heads, T columns, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "repirl_sdpa"


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends from `query` [B, N, Q, D] to `key` and `value` [B, H, T, D]; returns [B, Q, N, D].

    Grouped when Q is 1 and the mask, if any, is the same for all heads; otherwise what transformers does.
    """
    rows, heads, length, size = query.shape
    kv_heads = key.shape[1]
    same_mask = attention_mask is None or attention_mask.shape[1] == 1
    if length != 1 or heads == kv_heads or not same_mask or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, size)
    attended = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(rows, 1, heads, value.shape[-1]), None


@contextmanager
def grouped_heads(model: Any) -> Iterator[bool]:
    """Lets the model use `grouped_attention` for the while, if it can; says whether it does."""
    config = model.config
    able = (
        getattr(model, "_supports_attention_backend", False)
        and config._attn_implementation == "sdpa"
        and config.get_text_config(decoder=True) is config
    )
    if not able:
        yield False
        return
    config._attn_implementation = NAME
    try:
        yield True
    finally:
        config._attn_implementation = "sdpa"


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
