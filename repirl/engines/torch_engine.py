"""The embedded engine: samples from and scores with any transformers causal LM, on CPU or GPU.

Requests are cut into units (one prompt, some samples), longest prompt first. A prompt is prefilled once and its cache
rows are repeated for its samples. Rows are padded on the left, so that all of them write the same column of the cache
at each step. A finished row leaves at once; when a quarter of the rows is free, waiting units enter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from repirl.engines.base import Request, SamplingParams
from repirl.engines.batch import Batch, Unit
from repirl.engines.causal_lm import CausalLM
from repirl.engines.scoring import score_rows
from repirl.errors import UserError
from repirl.types import Rollout


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
        self.model = model.to(device) if device is not None else model
        self.tokenizer = tokenizer
        self.max_batch_rows = max_batch_rows
        self.max_cache_tokens = max_cache_tokens
        self.eos_ids = _eos_ids(model, tokenizer)
        self._lm = CausalLM(self.model)

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
        units = [unit for i, request in enumerate(requests) for unit in self._units(i, request, params)]
        units.sort(key=lambda unit: -len(unit.prompt_ids))
        total = sum(unit.count for unit in units)
        found: dict[tuple[int, int], Rollout] = {}
        if units:
            longest = max(len(unit.prompt_ids) + unit.max_new_tokens for unit in units)
            capacity = min(self._row_limit(longest), total)
            with self._lm.in_use():
                batch = Batch(self._lm, self.tokenizer, self.eos_ids, params, capacity)
                while len(found) < total:
                    batch.admit(units)
                    for row in batch.step():
                        found[row.request, row.rollout.sample_index] = row.rollout
                    if on_progress is not None:
                        on_progress(len(found), total)
        return [[found[i, request.first_sample + j] for j in range(request.num_samples)] for i, request in enumerate(requests)]

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        temperature: float = 1.0,
        padding_side: str = "right",
    ) -> list[np.ndarray]:
        """Float32 log-probabilities of each completion token given prompt and prefix, at `temperature`.

        One array per row, in the order given. The padding side changes nothing but rounding.
        """
        if temperature <= 0:
            raise UserError("temperature must be positive to score", temperature)
        if len(prompts) != len(completions):
            raise UserError("as many completions as prompts are needed", (len(prompts), len(completions)))
        for i, prompt in enumerate(prompts):
            self._lm.check_prompt(prompt, f"prompt {i}")
        with self._lm.in_use():
            return score_rows(self._lm, prompts, completions, temperature, padding_side)

    def _row_limit(self, longest: int) -> int:
        if self.max_cache_tokens is None:
            return self.max_batch_rows
        return max(1, min(self.max_batch_rows, self.max_cache_tokens // longest))

    def _units(self, index: int, request: Request, params: SamplingParams) -> Iterator[Unit]:
        """The request's samples in pieces that fit into a batch."""
        self._lm.check_prompt(request.prompt_ids, f"the prompt of problem {request.problem_id}")
        length = len(request.prompt_ids)
        max_new_tokens = params.max_new_tokens
        if self.max_length is not None:
            max_new_tokens = min(max_new_tokens, self.max_length - length)
        limit = self._row_limit(length + max_new_tokens)
        for start in range(0, request.num_samples, limit):
            yield Unit(
                request=index,
                problem_id=request.problem_id,
                prompt_ids=tuple(request.prompt_ids),
                first_sample=request.first_sample + start,
                count=min(limit, request.num_samples - start),
                max_new_tokens=max_new_tokens,
            )


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-sequence tokens of the generation config, the model's config and the tokenizer."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    return frozenset(found)
