"""Log-probabilities of given completions: sorted by length, cut into batches, little padding.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from repirl.engines.causal_lm import CausalLM, pad

TOKENS_CPU = 4096
TOKENS_GPU = 32768
"""Most (padded) tokens in one forward pass. On CPU what fits the cache; on GPU what fills it."""

MAX_LOGITS = 1 << 26
"""Most logits in one forward pass (256 MiB in float32)."""


def score_rows(
    lm: CausalLM,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    temperature: float,
    padding_side: str,
) -> list[np.ndarray]:
    """Float32 log-probabilities of each completion's tokens, in the order given."""
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    starts = [len(prompt) for prompt in prompts]
    scores = [np.zeros(0, dtype=np.float32)] * len(rows)
    for batch in _batches(lm, rows, starts):
        found = _score(lm, [rows[i] for i in batch], [starts[i] for i in batch], temperature, padding_side)
        for i, values in zip(batch, found, strict=True):
            scores[i] = values
    return scores


def _batches(lm: CausalLM, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows with something to score, of similar length, each batch within the limits."""
    order = [i for i in range(len(rows)) if len(rows[i]) > starts[i]]
    order.sort(key=lambda i: (len(rows[i]), starts[i]))
    limit = min(TOKENS_CPU if lm.device.type == "cpu" else TOKENS_GPU, MAX_LOGITS // lm.vocab_size)
    batch: list[int] = []
    for i in order:
        full = (len(batch) + 1) * len(rows[i]) > limit
        unequal = lm.needs_equal_lengths and batch and len(rows[i]) != len(rows[batch[0]])
        if batch and (full or unequal):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _score(
    lm: CausalLM, rows: Sequence[Sequence[int]], starts: Sequence[int], temperature: float, padding_side: str
) -> list[np.ndarray]:
    padded = pad(rows, padding_side)
    begins, ends = padded.offsets + np.array(starts), padded.offsets + padded.lengths
    first = int(begins.min()) - 1  # the position that predicts the first scored token of all
    logits = lm.logits(padded, first)
    targets = padded.ids[:, first + 1 :].to(logits.device)
    logprobs = token_logprobs(logits[:, :-1], targets, temperature).cpu().numpy()
    return [logprobs[b, begins[b] - 1 - first : ends[b] - 1 - first].copy() for b in range(len(rows))]


def token_logprobs(logits: Tensor, token_ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Float32 log-probabilities [B, T] of `token_ids` [B, T] under softmax(`logits` [B, T, V] / `temperature`)."""
    logits = logits.float()
    if temperature != 1:
        logits = logits / temperature
    chosen = logits.gather(-1, token_ids[..., None]).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)
