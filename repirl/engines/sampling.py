"""From logits to tokens: truncation, inverse-CDF draws from per-sample random streams, and stop strings.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repirl import rng
from repirl.engines.base import SamplingParams
from repirl.errors import NumericalFault

UNIFORMS_PER_DRAW = 64
"""Uniforms fetched from a stream at a time. The stream is the same whatever this is."""

FLOAT64_ELEMENTS = 1 << 22
"""Most logits that are turned into float64 at once (32 MiB)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Chosen tokens int64 [B] and their log-probabilities float32 [B]."""

    token_ids: Tensor
    logprobs: Tensor


def truncate(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits [B, V] with -inf outside of the `top_k` highest and of the smallest set of probability >= `top_p`.

    The same rule as the warpers of transformers: top_k first (ties of the k-th are kept), then top_p on what is left;
    the most probable token always stays.
    """
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.double().softmax(dim=-1)
        outside = probs.cumsum(dim=-1) - probs >= top_p
        outside[:, 0] = False
        logits = logits.masked_fill(outside.scatter(-1, index, outside), -torch.inf)
    return logits


def choose(logits: Tensor, params: SamplingParams, uniforms: Tensor | None) -> Choice:
    """Picks one token per row of `logits` [B, V].

    Greedy (temperature 0) takes the argmax and reports its log-probability at temperature 1. Otherwise the token is the
    inverse of the float64 cumulative distribution at `uniforms` float64 [B]: as the distribution varies by a rounding
    error (another batch shape), the token changes only if a boundary happens to lie within that error. NumericalFault for
    logits that are no numbers.
    """
    step = max(1, FLOAT64_ELEMENTS // logits.shape[-1])
    if logits.shape[0] <= step:
        return _choose(logits, params, uniforms)
    parts = [
        _choose(logits[i : i + step], params, None if uniforms is None else uniforms[i : i + step])
        for i in range(0, logits.shape[0], step)
    ]
    return Choice(torch.cat([part.token_ids for part in parts]), torch.cat([part.logprobs for part in parts]))


def _choose(logits: Tensor, params: SamplingParams, uniforms: Tensor | None) -> Choice:
    logits = logits.float()
    if uniforms is not None and params.temperature != 1:
        logits = logits / params.temperature
    if uniforms is not None and (params.top_k or params.top_p < 1):
        logits = truncate(logits, params.top_k, params.top_p)
    logprobs = logits.double().log_softmax(dim=-1)
    # One logit that is no number makes all log-probabilities of its row so.
    if bool(torch.isnan(logprobs[:, 0]).any()):
        raise NumericalFault("the model's logits are not finite", "its weights are damaged: lower the learning rate")
    if uniforms is None:
        token_ids = logits.argmax(dim=-1)
    else:
        cumulative = logprobs.exp().cumsum(dim=-1)
        total = cumulative[:, -1:]
        # Strictly below the total, so that the token found has a probability above zero.
        target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        token_ids = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return Choice(token_ids, logprobs.gather(-1, token_ids[:, None]).squeeze(-1).float())


class UniformStreams:
    """Uniform numbers in [0, 1), float64, one independent stream per (seed, name, sample index).

    Streams sit in `seats`; `draw` gives the number at each seat's own position, so who else is present does not matter.
    """

    def __init__(self, num_seats: int) -> None:
        self._block = np.zeros((num_seats, UNIFORMS_PER_DRAW))
        self._generators: dict[int, np.random.Generator] = {}

    def take(self, seat: int, seed: int, name: str, sample_index: int) -> None:
        """Puts a fresh stream in a seat."""
        self._generators[seat] = rng.stream(seed, "sample", name, sample_index)

    def draw(self, seats: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Uniforms [B] for `seats` [B] at token `positions` [B]; a seat's positions are 0, 1, 2, ... call by call."""
        columns = positions % UNIFORMS_PER_DRAW
        for seat in seats[columns == 0]:
            self._block[seat] = self._generators[int(seat)].random(UNIFORMS_PER_DRAW)
        return self._block[seats, columns]


class StopStrings:
    """Finds where a completion's text first contains one of the `stop` strings.

    Only tokens whose text holds the last character of some stop string can complete it, so only after those is text
    decoded. Tokens that are part of a character, or empty by themselves, always count.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...], vocab_size: int) -> None:
        self.stop = tuple(s for s in stop if s)
        self._tokenizer = tokenizer
        self._may_end = np.zeros(vocab_size, dtype=bool)
        if not self.stop:
            return
        last_characters = {s[-1] for s in self.stop}
        if any(c.isspace() for c in last_characters):
            self._may_end[:] = True  # decoding a token by itself may strip its space
            return
        for token_id, text in enumerate(tokenizer.batch_decode([[i] for i in range(vocab_size)])):
            self._may_end[token_id] = not text or "\ufffd" in text or any(c in text for c in last_characters)

    def __bool__(self) -> bool:
        return bool(self.stop)

    def candidates(self, token_ids: np.ndarray) -> np.ndarray:
        """Indices of those tokens [B] that may have completed a stop string."""
        return np.flatnonzero(self._may_end[token_ids])

    def end_of_first(self, token_ids: np.ndarray) -> int | None:
        """Number of characters of the text up to and with the first stop string that it contains, or None."""
        text = decode(self._tokenizer, token_ids)
        ends = [text.find(s) + len(s) for s in self.stop if s in text]
        return min(ends) if ends else None


def decode(tokenizer: Any, token_ids: np.ndarray) -> str:
    """The text of tokens, exactly: special tokens stay, nothing is tidied."""
    return tokenizer.decode(token_ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
