"""vLLM as a sampler and as a scorer that follows weights in training.

Every sample is a request of its own with a seed made of (seed, stream, sample index), so that what else is sampled does not
matter. vLLM's random streams are not those of `TorchEngine`: the same settings give other samples of the same distribution.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from repirl.engines.base import Request, SamplingParams
from repirl.engines.causal_lm import CausalLM
from repirl.engines.loading import LoadedPolicy, save_model
from repirl.engines.sampling import decode
from repirl.engines.torch_engine import eos_ids
from repirl.engines.vllm_backend import Answer, Ask, Backend, LocalBackend, engine_arguments
from repirl.engines.vllm_server import ServerBackend
from repirl.engines.vllm_settings import VllmSettings
from repirl.engines.weights import SyncReport, WeightSource
from repirl.errors import NumericalFault, UserError
from repirl.rng import seed_for
from repirl.types import Rollout

SHARED_MEMORY = Path("/dev/shm")


class _Synced:
    """A running vLLM with a copy of some weights. It is to be closed."""

    def __init__(self, folder: Path, settings: VllmSettings, max_model_len: int, device: str, *, pooling: bool) -> None:
        arguments = engine_arguments(folder, settings, max_model_len, device, pooling=pooling)
        self.settings = settings
        self.version: int | None = None
        self.backend: Backend = LocalBackend(arguments) if settings.python is None else ServerBackend(arguments, settings)

    def sync(self, source: WeightSource) -> SyncReport:
        """Replace the weights where they lie. They go through files in shared memory, of which there is one at a time."""
        started, version, size = time.perf_counter(), source.version, 0
        self.version = None  # until all are there
        with tempfile.TemporaryDirectory(prefix="repirl-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
            file = Path(folder) / "weights.safetensors"
            self.backend.call("repirl_begin_weights")
            for piece in pieces(source.tensors(), self.settings.dtype, self.settings.sync_chunk_mib * 2**20):
                save_file(piece, file)
                size += file.stat().st_size
                self.backend.call("repirl_load_weights", str(file))
                file.unlink()  # not written over: a worker may still read the mapped file
            self.backend.call("repirl_end_weights")
            self.backend.call("repirl_refresh_tied_head")
        self.backend.reset_prefix_cache()
        self.version = version
        return SyncReport(version, time.perf_counter() - started, size)

    def close(self) -> None:
        """End vLLM's processes."""
        self.backend.close()


class VllmEngine(_Synced):
    """`SyncedEngine` over the policy's own folder, from whose weights it starts.

    Prompts and completions are those of the policy's tokenizer, as token ids. Raises what starting vLLM raises.
    """

    def __init__(self, policy: LoadedPolicy, settings: VllmSettings, device: str) -> None:
        self.tokenizer = policy.tokenizer
        self.eos_ids = eos_ids(policy.model, policy.tokenizer)
        self._lm = CausalLM(policy.model)
        self.max_length = longest(policy.model.config, settings)
        super().__init__(policy.path, settings, self.max_length, device, pooling=False)

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """As `TorchEngine.generate`; NumericalFault for a log-probability that is no number."""
        rows = [(request, request.first_sample + i) for request in requests for i in range(request.num_samples)]
        for request in requests:
            self._check_prompt(request)
        asks = [Ask(request.prompt_ids, self._fields(request, index, params)) for request, index in rows]
        answers = self.backend.sample(asks, lambda done: on_progress(done, len(rows)) if on_progress is not None else None)
        made = iter([self._rollout(*row, params, answer) for row, answer in zip(rows, answers, strict=True)])
        return [[next(made) for _ in range(request.num_samples)] for request in requests]

    def _check_prompt(self, request: Request) -> None:
        whose = f"the prompt of problem {request.problem_id}"
        self._lm.check_prompt(request.prompt_ids, whose)
        if len(request.prompt_ids) >= self.max_length:
            limit = f"vLLM was started for {self.max_length} tokens (setting max_model_len)"
            raise UserError(f"{whose} leaves no room for a completion", len(request.prompt_ids), limit)

    def _fields(self, request: Request, index: int, params: SamplingParams) -> dict[str, Any]:
        return {
            "seed": seed_for(params.seed, "sample", request.stream_name, index),
            "max_tokens": min(request.limit(params), self.max_length - len(request.prompt_ids)),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "stop": list(params.stop),
            "include_stop_str_in_output": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            # Ours are those of the generation config, the model's config and the tokenizer; vLLM's own list is shorter.
            "ignore_eos": True,
            "stop_token_ids": sorted(self.eos_ids),
            "logprobs": 0,
        }

    def _rollout(self, request: Request, index: int, params: SamplingParams, answer: Answer) -> Rollout:
        if not np.isfinite(answer.logprobs).all() or len(answer.logprobs) != len(answer.token_ids):
            raise NumericalFault("vLLM's log-probabilities are not finite", "its weights are damaged: lower the learning rate")
        ended = int(answer.token_ids[-1]) in self.eos_ids
        text = decode(self.tokenizer, answer.token_ids[:-1] if ended else answer.token_ids)
        ends = [text.find(stop) + len(stop) for stop in params.stop if stop and stop in text]
        return Rollout(
            problem_id=request.problem_id,
            sample_index=index,
            prompt_ids=tuple(request.prompt_ids),
            token_ids=answer.token_ids,
            logprobs=answer.logprobs,
            text=text[: min(ends)] if ends else text,
            finish_reason="stop" if answer.stopped else "length",
            temperature=params.temperature,
            policy_version=self.version,
        )


class VllmPrmEngine(_Synced):
    """A token classifier with one label (an energy-based PRM) behind vLLM. The model is handed over as a folder at the start."""

    def __init__(self, model: Any, tokenizer: Any, settings: VllmSettings, device: str) -> None:
        self.max_length = longest(model.config, settings)
        with tempfile.TemporaryDirectory(prefix="repirl-prm-") as folder:
            save_model(Path(folder), model, tokenizer)
            super().__init__(Path(folder), settings, self.max_length, device, pooling=True)

    def score(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The head's number for every token of each row, float32 [T]. UserError for a row that is too long."""
        if (most := max(map(len, rows), default=0)) > self.max_length:
            raise UserError("a solution is too long to be scored", most, f"vLLM was started for {self.max_length} tokens")
        return self.backend.score(rows)


def longest(config: Any, settings: VllmSettings) -> int:
    """Most tokens that vLLM is started for. UserError if neither the model nor the settings say."""
    known = [one for one in (settings.max_model_len, config.get_text_config().max_position_embeddings) if one is not None]
    if not known:
        raise UserError("the model does not say how long a sequence may be", todo="give vLLM's setting max_model_len")
    return min(known)


def pieces(tensors: Iterator[tuple[str, Tensor]], dtype: str, most_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Named tensors in groups of at most so many bytes (or one tensor), on the CPU, numbers with a point in `dtype`."""
    piece: dict[str, Tensor] = {}
    size = 0
    for name, value in tensors:
        kind = getattr(torch, dtype) if value.is_floating_point() else value.dtype
        value = value.to(device="cpu", dtype=kind).contiguous()
        if piece and size + value.nbytes > most_bytes:
            yield piece
            piece, size = {}, 0
        piece[name] = value
        size += value.nbytes
    if piece:
        yield piece
