"""The embedded engine: samples from and scores with any transformers causal LM, on CPU or GPU.

Requests are cut into units (one prompt, some samples), longest prompt first. A prompt is prefilled once and its cache
rows are repeated for its samples. Rows are padded on the left, so that all of them write the same column of the cache
at each step. A finished row leaves at once; when a quarter of the rows is free, waiting units enter.

Shapes: B rows, L prompt tokens (padded), T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repirl.engines.base import Request, SamplingParams
from repirl.engines.kv_cache import (
    BufferCache,
    GenericCache,
    RowCache,
    empty_cache,
    has_recurrent_layers,
    keeps_all_keys,
)
from repirl.engines.sampling import StopStrings, UniformStreams, choose, decode
from repirl.errors import UserError
from repirl.types import FinishReason, Rollout

PREFILL_TOKENS = 16384
"""Most (padded) prompt tokens in one forward pass."""

SCORE_TOKENS = 16384
"""Most (padded) tokens in one forward pass of `score`."""

SCORE_LOGITS = 1 << 26
"""Most logits in one forward pass of `score` (256 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Some samples of one request that enter together."""

    request: int
    first_sample: int
    count: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int


class TorchEngine:
    """`Engine` over a transformers causal LM in this process.

    The model may be one that is being trained: it is put into evaluation mode while it is used, no gradient is
    recorded, and each module's mode is put back afterwards. At most `max_batch_rows` completions are sampled at a time,
    fewer if `max_cache_tokens` (rows times longest row, prompt and completion) would be passed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch_rows: int = 512,
        max_cache_tokens: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if max_batch_rows < 1:
            raise UserError("max_batch_rows must be at least 1", max_batch_rows)
        parameters = inspect.signature(model.forward).parameters
        if "past_key_values" not in parameters:
            raise UserError("the model has no key-value cache", type(model).__name__, "use a causal language model")
        self.model = model.to(device) if device is not None else model
        self.tokenizer = tokenizer
        self.max_batch_rows = max_batch_rows
        self.max_cache_tokens = max_cache_tokens
        self.eos_ids = _eos_ids(model, tokenizer)
        self._config = model.config.get_text_config(decoder=True)
        self._takes_positions = "position_ids" in parameters
        self._takes_logits_to_keep = "logits_to_keep" in parameters
        self._keeps_all_keys = keeps_all_keys(self._config)
        self._equal_lengths = has_recurrent_layers(self._config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def max_length(self) -> int | None:
        """Most tokens of prompt and completion together that the model was made for, if it says."""
        return getattr(self._config, "max_position_embeddings", None)

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Groups of rollouts in the order of `requests`. See `Engine.generate`."""
        units = [unit for i, request in enumerate(requests) for unit in self._units(i, request, params)]
        units.sort(key=lambda unit: -len(unit.prompt_ids))
        total = sum(unit.count for unit in units)
        found: dict[tuple[int, int], Rollout] = {}
        if units:
            longest = max(len(unit.prompt_ids) + unit.max_new_tokens for unit in units)
            capacity = self._row_limit(longest)
            with torch.no_grad(), _evaluating(self.model):
                batch = _Batch(self, requests, params, min(capacity, total))
                while batch.rows or units:
                    batch.admit(units)
                    for key, rollout in batch.step():
                        found[key] = rollout
                        if on_progress is not None:
                            on_progress(len(found), total)
        return [
            [found[i, request.first_sample + j] for j in range(request.num_samples)]
            for i, request in enumerate(requests)
        ]

    def _row_limit(self, longest: int) -> int:
        if self.max_cache_tokens is None:
            return self.max_batch_rows
        return max(1, min(self.max_batch_rows, self.max_cache_tokens // longest))

    def _units(self, index: int, request: Request, params: SamplingParams) -> Iterator[_Unit]:
        length = len(request.prompt_ids)
        if not length:
            raise UserError("a prompt has no tokens", request.problem_id, "give at least a start token")
        max_new_tokens = params.max_new_tokens
        if self.max_length is not None:
            if length >= self.max_length:
                raise UserError(
                    f"the prompt of {request.problem_id} leaves no room for a completion",
                    length,
                    f"the model's limit is {self.max_length} tokens",
                )
            max_new_tokens = min(max_new_tokens, self.max_length - length)
        limit = self._row_limit(length + max_new_tokens)
        for start in range(0, request.num_samples, limit):
            count = min(limit, request.num_samples - start)
            yield _Unit(index, request.first_sample + start, count, tuple(request.prompt_ids), max_new_tokens)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Tensor, int]:
        """One forward pass over left-padded prompts: the filled cache, the last logits [B, V], the padded length L."""
        width = max(len(prompt) for prompt in prompts)
        ids, mask = pad(prompts, "left", width)
        cache = empty_cache(self._config)
        inputs = self._inputs(ids.to(self.device), mask.to(self.device))
        if self._takes_logits_to_keep:
            inputs["logits_to_keep"] = 1
        logits = self.model(**inputs, past_key_values=cache, use_cache=True).logits
        return cache, logits[:, -1], width

    def _inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return inputs

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        temperature: float = 1.0,
        padding_side: str = "right",
    ) -> list[np.ndarray]:
        """Float32 log-probabilities of each completion token given prompt and prefix, at `temperature`.

        Rows are sorted by length and cut into batches; the answer is in the order of the question. The padding
        side changes nothing but rounding.
        """
        if temperature <= 0:
            raise UserError("temperature must be positive to score", temperature)
        if len(prompts) != len(completions):
            raise UserError("as many completions as prompts are needed", (len(prompts), len(completions)))
        if any(not len(prompt) for prompt in prompts):
            raise UserError("a prompt has no tokens", None, "give at least a start token")
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        starts = [len(prompt) for prompt in prompts]
        scores: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(rows)
        with torch.no_grad(), _evaluating(self.model):
            for batch in self._score_batches(rows, starts):
                found = self._score_batch(
                    [rows[i] for i in batch], [starts[i] for i in batch], temperature, padding_side
                )
                for i, values in zip(batch, found, strict=True):
                    scores[i] = values
        return scores

    def _score_batches(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> Iterator[list[int]]:
        order = sorted(
            (i for i in range(len(rows)) if len(rows[i]) > starts[i]), key=lambda i: (len(rows[i]), starts[i])
        )
        limit_tokens = min(SCORE_TOKENS, SCORE_LOGITS // self._config.vocab_size)
        batch: list[int] = []
        for i in order:
            full = (len(batch) + 1) * len(rows[i]) > limit_tokens
            if batch and (full or (self._equal_lengths and len(rows[i]) != len(rows[batch[0]]))):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _score_batch(
        self, rows: Sequence[Sequence[int]], starts: Sequence[int], temperature: float, padding_side: str
    ) -> list[np.ndarray]:
        width = max(len(row) for row in rows)
        ids, mask = pad(rows, padding_side, width)
        ids, mask = ids.to(self.device), mask.to(self.device)
        inputs = self._inputs(ids, mask)
        offsets = [width - len(row) if padding_side == "left" else 0 for row in rows]
        first = min(offset + start for offset, start in zip(offsets, starts, strict=True)) - 1
        if self._takes_logits_to_keep:
            inputs["logits_to_keep"] = width - first
            logits = self.model(**inputs, use_cache=False).logits
        else:
            logits = self.model(**inputs, use_cache=False).logits[:, first:]
        logprobs = token_logprobs(logits[:, :-1], ids[:, first + 1 :], temperature).cpu().numpy()
        return [
            logprobs[b, offsets[b] + starts[b] - 1 - first : offsets[b] + len(rows[b]) - 1 - first].copy()
            for b in range(len(rows))
        ]


class _Batch:
    """The rows being sampled. Arrays over `rows` are kept in the cache's order; a row's `seat` never changes."""

    def __init__(self, engine: TorchEngine, requests: Sequence[Request], params: SamplingParams, capacity: int) -> None:
        self.engine, self.requests, self.params, self.capacity = engine, requests, params, capacity
        self.rows = 0
        self.cache: RowCache | None = None
        self.uniforms = UniformStreams(capacity)
        self.stop = StopStrings(engine.tokenizer, params.stop, engine._config.vocab_size)
        self.eos = np.zeros(engine._config.vocab_size, dtype=bool)
        self.eos[[i for i in engine.eos_ids if i < len(self.eos)]] = True
        self.free_seats = list(range(capacity))[::-1]
        self.tokens = np.zeros((capacity, params.max_new_tokens), dtype=np.int64)
        self.logprobs = np.zeros((capacity, params.max_new_tokens), dtype=np.float32)
        self.units: list[_Unit] = [_Unit(0, 0, 0, (), 0)] * capacity
        self.sample_index = np.zeros(capacity, dtype=np.int64)
        # Per row, in the cache's order:
        self.seat = np.zeros(0, dtype=np.int64)
        self.start = np.zeros(0, dtype=np.int64)  # first column in use
        self.count = np.zeros(0, dtype=np.int64)  # tokens sampled so far
        self.limit = np.zeros(0, dtype=np.int64)
        self.end = 0  # columns in use
        self.logits: Tensor | None = None

    def admit(self, units: list[_Unit]) -> None:
        """Moves units from the front of `units` into the batch, as many as there are free seats for."""
        if not units or (self.rows and 4 * len(self.free_seats) < self.capacity):
            return
        if self.rows and not (self.cache is not None and self.cache.can_enter):
            return
        while units and units[0].count <= len(self.free_seats):
            chunk = self._next_chunk(units)
            self._enter(chunk)
            if isinstance(self.cache, GenericCache):
                return

    def _next_chunk(self, units: list[_Unit]) -> list[_Unit]:
        """Takes from the front of `units` what fits into the free seats and into one forward pass."""
        width, seats, size = len(units[0].prompt_ids), len(self.free_seats), 0
        while size < len(units):
            unit = units[size]
            too_long = size > 0 and (size + 1) * width > PREFILL_TOKENS
            unequal = self.engine._equal_lengths and len(unit.prompt_ids) != width
            if unit.count > seats or too_long or unequal:
                break
            seats -= unit.count
            size += 1
        chunk = units[:size]
        del units[:size]
        return chunk

    def _enter(self, chunk: Sequence[_Unit]) -> None:
        engine = self.engine
        filled, logits, width = engine.prefill([unit.prompt_ids for unit in chunk])
        counts = [unit.count for unit in chunk]
        index = torch.repeat_interleave(torch.arange(len(chunk)), torch.tensor(counts)).to(logits.device)
        if not engine._keeps_all_keys:
            self.cache, self.end = GenericCache(filled, index), width
        else:
            if self.cache is None or not self.rows:
                self.cache = BufferCache(len(filled.layers), self.capacity, width, self.params.max_new_tokens)
                self.end = width
            assert isinstance(self.cache, BufferCache)
            self.cache.enter(filled, index, width)
        new = logits.index_select(0, index)
        self.logits = new if not self.rows or self.logits is None else torch.cat([self.logits, new])
        seats = []
        for unit in chunk:
            for j in range(unit.count):
                seat = self.free_seats.pop()
                self.units[seat], self.sample_index[seat] = unit, unit.first_sample + j
                if self.params.temperature > 0:
                    problem_id = self.requests[unit.request].problem_id
                    self.uniforms.take(seat, self.params.seed, problem_id, unit.first_sample + j)
                seats.append(seat)
        self.seat = np.concatenate([self.seat[: self.rows], seats]).astype(np.int64)
        starts = np.repeat([self.end - len(unit.prompt_ids) for unit in chunk], counts)
        self.start = np.concatenate([self.start[: self.rows], starts])
        self.count = np.concatenate([self.count[: self.rows], np.zeros(len(seats), dtype=np.int64)])
        limits = np.repeat([unit.max_new_tokens for unit in chunk], counts)
        self.limit = np.concatenate([self.limit[: self.rows], limits])
        self.rows = len(self.seat)

    def step(self) -> list[tuple[tuple[int, int], Rollout]]:
        """Samples one token per row; rows that it finishes leave and are returned with (request, sample index)."""
        assert self.logits is not None
        uniforms = None
        if self.params.temperature > 0:
            uniforms = torch.from_numpy(self.uniforms.draw(self.seat, self.count)).to(self.logits.device)
        choice = choose(self.logits, self.params, uniforms)
        tokens = choice.token_ids.cpu().numpy()
        self.tokens[self.seat, self.count] = tokens
        self.logprobs[self.seat, self.count] = choice.logprobs.cpu().numpy()
        self.count += 1
        ended = self.eos[tokens]
        text_ends = self._stop_strings(tokens, ended)
        stopped = ended.copy()
        stopped[list(text_ends)] = True
        done = stopped | (self.count >= self.limit)
        finished = [
            self._rollout(int(row), bool(ended[row]), text_ends.get(int(row)), "stop" if stopped[row] else "length")
            for row in np.flatnonzero(done)
        ]
        next_ids = choice.token_ids
        if finished:
            next_ids = self._leave(done, next_ids)
        if self.rows:
            self._forward(next_ids)
        return finished

    def _stop_strings(self, tokens: np.ndarray, ended: np.ndarray) -> dict[int, int]:
        """Rows whose text now contains a stop string, with the number of characters up to its end."""
        if not self.stop:
            return {}
        ends = {}
        for row in self.stop.candidates(tokens):
            if not ended[row]:
                end = self.stop.end_of_first(self.tokens[self.seat[row], : self.count[row]])
                if end is not None:
                    ends[int(row)] = end
        return ends

    def _rollout(
        self, row: int, ended: bool, text_end: int | None, reason: FinishReason
    ) -> tuple[tuple[int, int], Rollout]:
        seat = int(self.seat[row])
        unit, sample_index = self.units[seat], int(self.sample_index[seat])
        token_ids = self.tokens[seat, : self.count[row]].copy()
        text = decode(self.engine.tokenizer, token_ids[:-1] if ended else token_ids)
        self.free_seats.append(seat)
        return (unit.request, sample_index), Rollout(
            problem_id=self.requests[unit.request].problem_id,
            sample_index=sample_index,
            prompt_ids=unit.prompt_ids,
            token_ids=token_ids,
            logprobs=self.logprobs[seat, : self.count[row]].copy(),
            text=text if text_end is None else text[:text_end],
            finish_reason=reason,
            temperature=self.params.temperature,
        )

    def _leave(self, done: np.ndarray, next_ids: Tensor) -> Tensor:
        """Fills the finished rows' places with rows from the end."""
        assert self.cache is not None
        left = int((~done).sum())
        targets = np.flatnonzero(done[:left])
        sources = left + np.flatnonzero(~done[left:])
        order = np.arange(left)
        order[targets] = sources
        self.seat, self.start = self.seat[order], self.start[order]
        self.count, self.limit = self.count[order], self.limit[order]
        self.rows = left
        if left:
            device = next_ids.device
            self.cache.leave(left, torch.from_numpy(targets).to(device), torch.from_numpy(sources).to(device))
            next_ids = next_ids.index_select(0, torch.from_numpy(order).to(device))
        return next_ids

    def _forward(self, next_ids: Tensor) -> None:
        """One decoding step: the logits after `next_ids` [B]."""
        assert self.cache is not None
        engine = self.engine
        first = 0 if isinstance(self.cache, GenericCache) else int(self.start.min())
        shift = self.cache.reserve(first)
        self.start -= shift
        self.end -= shift
        first -= shift
        columns = torch.arange(first, self.end + 1, device=next_ids.device)
        start = torch.from_numpy(self.start).to(next_ids.device)
        inputs: dict[str, Any] = {"input_ids": next_ids[:, None]}
        inputs["attention_mask"] = (columns[None, :] >= start[:, None]).long()
        if engine._takes_positions:
            inputs["position_ids"] = (self.end - start)[:, None]
        self.logits = engine.model(**inputs, past_key_values=self.cache.model_cache, use_cache=True).logits[:, -1]
        self.cache.advance()
        self.end += 1


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for the while; each module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-sequence tokens of the generation config and of the tokenizer."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)


def pad(rows: Sequence[Sequence[int]], side: str, width: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 and mask (1 = token) int64, both [B, width]; padding repeats the row's first token."""
    ids, mask = np.zeros((len(rows), width), dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
    for b, row in enumerate(rows):
        part = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[b] = row[0]
        ids[b, part], mask[b, part] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def token_logprobs(logits: Tensor, token_ids: Tensor, temperature: float) -> Tensor:
    """Float32 log-probabilities [B, T] of `token_ids` [B, T] under softmax(`logits` [B, T, V] / `temperature`)."""
    logits = logits.float()
    if temperature != 1:
        logits = logits / temperature
    chosen = logits.gather(-1, token_ids[..., None]).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)
