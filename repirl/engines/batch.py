"""The rows that are being sampled together: they enter, get one token per step, and leave.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repirl.engines.base import SamplingParams
from repirl.engines.causal_lm import CausalLM
from repirl.engines.kv_cache import BufferCache, GenericCache, RowCache
from repirl.engines.sampling import StopStrings, UniformStreams, choose, decode
from repirl.types import Rollout

PREFILL_TOKENS = 16384
"""Most (padded) prompt tokens in one forward pass."""


@dataclass(frozen=True, slots=True)
class Unit:
    """`count` samples of the request with index `request`, numbered from `first_sample`, that enter together."""

    request: int
    problem_id: str
    stream: str
    prompt_ids: tuple[int, ...]
    first_sample: int
    count: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A row that left, and the index of its request."""

    request: int
    rollout: Rollout


class Batch:
    """Up to `capacity` rows.

    A row has a seat for as long as it is in: its tokens, log-probabilities and random stream lie there. The arrays named
    `row_*` are in the order of the cache's rows, which changes when rows leave.
    """

    def __init__(
        self,
        lm: CausalLM,
        tokenizer: Any,
        eos_ids: Iterable[int],
        params: SamplingParams,
        capacity: int,
        policy_version: int,
    ) -> None:
        self._lm, self._tokenizer, self._params = lm, tokenizer, params
        self._capacity, self._policy_version = capacity, policy_version
        self._cache: RowCache | None = None
        self._logits: Tensor | None = None
        self._end = 0  # columns in use
        self._stop = StopStrings(tokenizer, params.stop, lm.vocab_size)
        self._is_eos = np.zeros(lm.vocab_size, dtype=bool)
        self._is_eos[[i for i in eos_ids if i < lm.vocab_size]] = True

        self._free_seats = list(range(capacity))[::-1]
        self._seat_unit: dict[int, Unit] = {}
        self._seat_sample = np.zeros(capacity, dtype=np.int64)
        self._seat_tokens = np.zeros((capacity, params.max_new_tokens), dtype=np.int64)
        self._seat_logprobs = np.zeros((capacity, params.max_new_tokens), dtype=np.float32)
        self._uniforms = UniformStreams(capacity)

        self._row_seat = np.zeros(0, dtype=np.int64)
        self._row_start = np.zeros(0, dtype=np.int64)  # column of the prompt's first token
        self._row_count = np.zeros(0, dtype=np.int64)  # tokens sampled so far
        self._row_limit = np.zeros(0, dtype=np.int64)  # tokens to sample at most

    @property
    def rows(self) -> int:
        """Rows that are in."""
        return len(self._row_seat)

    def admit(self, waiting: list[Unit]) -> None:
        """Moves units from the front of `waiting` (longest prompt first) into the batch if it is worth it."""
        few_free = 4 * len(self._free_seats) < self._capacity
        if self.rows and (few_free or isinstance(self._cache, GenericCache)):
            return
        while waiting and waiting[0].count <= len(self._free_seats):
            self._enter(self._next_units(waiting))
            if isinstance(self._cache, GenericCache):
                return

    def _next_units(self, waiting: list[Unit]) -> list[Unit]:
        """Takes from the front what fits into the free seats and into one forward pass."""
        width, seats, size = len(waiting[0].prompt_ids), len(self._free_seats), 0
        for unit in waiting:
            too_many = size > 0 and (size + 1) * width > PREFILL_TOKENS
            unequal = self._lm.needs_equal_lengths and len(unit.prompt_ids) != width
            if unit.count > seats or too_many or unequal:
                break
            seats -= unit.count
            size += 1
        units = waiting[:size]
        del waiting[:size]
        return units

    def _enter(self, units: Sequence[Unit]) -> None:
        """Prefills the units' prompts and gives each of their samples a row."""
        prefilled = self._lm.prefill([unit.prompt_ids for unit in units])
        counts = np.array([unit.count for unit in units])
        index = torch.from_numpy(np.repeat(np.arange(len(units)), counts)).to(prefilled.logits.device)
        if not self.rows:
            self._logits, self._end = None, prefilled.width
            if self._lm.keeps_all_keys:
                self._cache = BufferCache(
                    len(prefilled.cache.layers), self._capacity, prefilled.width, self._params.max_new_tokens
                )
            else:
                self._cache = GenericCache(prefilled.cache, index)
        if isinstance(self._cache, BufferCache):
            self._cache.enter(prefilled.cache, index, prefilled.width)
        logits = prefilled.logits.index_select(0, index)
        self._logits = logits if self._logits is None else torch.cat([self._logits, logits])

        seats = [self._seat(unit, unit.first_sample + j) for unit in units for j in range(unit.count)]
        starts = np.repeat([self._end - len(unit.prompt_ids) for unit in units], counts)
        limits = np.repeat([unit.max_new_tokens for unit in units], counts)
        self._row_seat = np.append(self._row_seat, np.array(seats, dtype=np.int64))
        self._row_start = np.append(self._row_start, starts)
        self._row_count = np.append(self._row_count, np.zeros_like(starts))
        self._row_limit = np.append(self._row_limit, limits)

    def _seat(self, unit: Unit, sample_index: int) -> int:
        seat = self._free_seats.pop()
        self._seat_unit[seat], self._seat_sample[seat] = unit, sample_index
        if self._params.temperature > 0:
            self._uniforms.take(seat, self._params.seed, unit.stream, sample_index)
        return seat

    def step(self) -> list[Finished]:
        """Samples one token per row; the rows that are finished by it leave."""
        assert self._logits is not None
        uniforms = None
        if self._params.temperature > 0:
            drawn = self._uniforms.draw(self._row_seat, self._row_count)
            uniforms = torch.from_numpy(drawn).to(self._logits.device)
        choice = choose(self._logits, self._params, uniforms)
        tokens = choice.token_ids.cpu().numpy()
        self._seat_tokens[self._row_seat, self._row_count] = tokens
        self._seat_logprobs[self._row_seat, self._row_count] = choice.logprobs.cpu().numpy()
        self._row_count += 1

        ended = self._is_eos[tokens]
        text_ends = self._text_ends(tokens, ended)
        done = ended | (self._row_count >= self._row_limit)
        done[list(text_ends)] = True
        finished = [self._finish(int(row), bool(ended[row]), text_ends.get(int(row))) for row in np.flatnonzero(done)]
        token_ids = self._leave(done, choice.token_ids) if finished else choice.token_ids
        if self.rows:
            self._forward(token_ids)
        return finished

    def _text_ends(self, tokens: np.ndarray, ended: np.ndarray) -> dict[int, int]:
        """Rows whose text now contains a stop string, with the number of characters up to its end."""
        ends: dict[int, int] = {}
        if self._stop:
            for row in self._stop.candidates(tokens):
                if not ended[row]:
                    end = self._stop.end_of_first(self._seat_tokens[self._row_seat[row], : self._row_count[row]])
                    if end is not None:
                        ends[int(row)] = end
        return ends

    def _finish(self, row: int, ended: bool, text_end: int | None) -> Finished:
        """The row's rollout; its seat is free again."""
        seat, count = int(self._row_seat[row]), int(self._row_count[row])
        unit = self._seat_unit[seat]
        token_ids = self._seat_tokens[seat, :count].copy()
        text = decode(self._tokenizer, token_ids[:-1] if ended else token_ids)
        self._free_seats.append(seat)
        rollout = Rollout(
            problem_id=unit.problem_id,
            sample_index=int(self._seat_sample[seat]),
            prompt_ids=unit.prompt_ids,
            token_ids=token_ids,
            logprobs=self._seat_logprobs[seat, :count].copy(),
            text=text[:text_end],
            finish_reason="stop" if ended or text_end is not None else "length",
            temperature=self._params.temperature,
            policy_version=self._policy_version,
        )
        return Finished(unit.request, rollout)

    def _leave(self, done: np.ndarray, token_ids: Tensor) -> Tensor:
        """Fills the finished rows' places with rows from the end; returns the remaining rows' `token_ids`."""
        assert self._cache is not None
        num_left = int((~done).sum())
        targets = np.flatnonzero(done[:num_left])
        sources = num_left + np.flatnonzero(~done[num_left:])
        order = np.arange(num_left)
        order[targets] = sources
        self._row_seat, self._row_start = self._row_seat[order], self._row_start[order]
        self._row_count, self._row_limit = self._row_count[order], self._row_limit[order]
        if not num_left:
            return token_ids[:0]
        device = token_ids.device
        self._cache.leave(num_left, torch.from_numpy(targets).to(device), torch.from_numpy(sources).to(device))
        return token_ids.index_select(0, torch.from_numpy(order).to(device))

    def _forward(self, token_ids: Tensor) -> None:
        """One decoding step: the logits after `token_ids` [B]."""
        assert self._cache is not None
        first = int(self._row_start.min()) if isinstance(self._cache, BufferCache) else 0
        shift = self._cache.reserve(first)
        self._row_start -= shift
        self._end -= shift
        first -= shift
        starts = torch.from_numpy(self._row_start).to(token_ids.device)
        padded = bool(self._row_start.max() > first)
        self._logits = self._lm.step(token_ids, starts, self._end, first, self._cache.model_cache, padded)
        self._cache.advance()
        self._end += 1
