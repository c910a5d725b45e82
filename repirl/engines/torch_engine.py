"""The embedded engine: samples from and scores with any transformers causal LM, on CPU or GPU.

Requests are cut into units (one prompt, some samples), longest prompt first. A prompt is prefilled once and its cache
rows are repeated for its samples. Rows are padded on the left, so that all of them write the same column of the cache
at each step. A finished row leaves at once; when a quarter of the rows is free, waiting units enter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from repirl.engines.base import Request, SamplingParams
from repirl.engines.batch import Batch, Unit
from repirl.engines.causal_lm import CausalLM
from repirl.engines.weights import ModelWeights
from repirl.errors import UserError
from repirl.types import Rollout


class TorchEngine:
    """`Engine` over a transformers causal LM in this process.

    The model may be one that is being trained: it is put into evaluation mode while it is used, no gradient is
    recorded, and each module's mode is put back afterwards. At most `max_batch_rows` completions are sampled at a time,
    fewer if `max_cache_tokens` (rows times longest row, prompt and completion) would be passed; without it, on a GPU, so
    many as its free memory allows. Neither changes what is sampled.
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
        self.model = model.to(device) if device is not None else model
        self.tokenizer = tokenizer
        self.max_batch_rows = max_batch_rows
        self.max_cache_tokens = max_cache_tokens
        self.eos_ids = eos_ids(model, tokenizer)
        self._lm = CausalLM(self.model)
        self._weights = ModelWeights(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._lm.device

    @property
    def max_length(self) -> int | None:
        """Most tokens of prompt and completion together that the model was made for, if it says."""
        return self._lm.max_length

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Groups of rollouts in the order of `requests`; `on_progress(rows_done, rows_total)`.

        A completion ends with an end-of-sequence token or a stop string (`stop`), or with `max_new_tokens` or the
        model's longest sequence (`length`). Raises UserError for a prompt that is empty or too long.
        """
        for request in requests:
            self._lm.check_prompt(request.prompt_ids, f"the prompt of problem {request.problem_id}")
        limit = self._row_limit(max((self._longest(request, params) for request in requests), default=1))
        units = [unit for i, request in enumerate(requests) for unit in self._units(i, request, params, limit)]
        units.sort(key=lambda unit: -len(unit.prompt_ids))
        total = sum(unit.count for unit in units)
        found: dict[tuple[int, int], Rollout] = {}
        if units:
            capacity = min(limit, total)
            with self._lm.in_use():
                batch = Batch(self._lm, self.tokenizer, self.eos_ids, params, capacity, self._weights.version)
                while len(found) < total:
                    batch.admit(units)
                    for row in batch.step():
                        found[row.request, row.rollout.sample_index] = row.rollout
                    if on_progress is not None:
                        on_progress(len(found), total)
        return [[found[i, request.first_sample + j] for j in range(request.num_samples)] for i, request in enumerate(requests)]

    def _row_limit(self, longest: int) -> int:
        """Rows at a time, of which each may get as long as the longest."""
        tokens = self.max_cache_tokens
        if tokens is None and self.device.type == "cuda":
            tokens = cache_tokens_that_fit(self._lm.config, self.model.dtype.itemsize, free_memory(self.device))
        if tokens is None:
            return self.max_batch_rows
        return max(1, min(self.max_batch_rows, tokens // longest))

    def _max_new_tokens(self, request: Request, params: SamplingParams) -> int:
        limit = request.limit(params)
        return limit if self.max_length is None else min(limit, self.max_length - len(request.prompt_ids))

    def _longest(self, request: Request, params: SamplingParams) -> int:
        return len(request.prompt_ids) + self._max_new_tokens(request, params)

    def _units(self, index: int, request: Request, params: SamplingParams, limit: int) -> Iterator[Unit]:
        """The request's samples in pieces of at most `limit` rows."""
        max_new_tokens = self._max_new_tokens(request, params)
        for start in range(0, request.num_samples, limit):
            yield Unit(
                request=index,
                problem_id=request.problem_id,
                stream=request.stream_name,
                prompt_ids=tuple(request.prompt_ids),
                first_sample=request.first_sample + start,
                count=min(limit, request.num_samples - start),
                max_new_tokens=max_new_tokens,
            )


_CACHE_SHARE = 0.4
"""Of the free memory, for keys and values: their buffer grows by half at a time, and activations need room as well."""


def free_memory(device: torch.device) -> int:
    """Bytes that a CUDA device can still give, with those that torch holds and does not use."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def cache_tokens_that_fit(config: Any, itemsize: int, free_bytes: int) -> int | None:
    """Tokens whose keys and values fit into a share of the free memory; None for a model that does not say their size."""
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", None)
    size = getattr(config, "head_dim", None)
    if size is None and getattr(config, "num_attention_heads", None) and getattr(config, "hidden_size", None):
        size = config.hidden_size // config.num_attention_heads
    if not (heads and layers and size):
        return None
    return max(1, int(_CACHE_SHARE * free_bytes) // (2 * layers * heads * size * itemsize))


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-sequence tokens of the generation config, the model's config and the tokenizer."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)
