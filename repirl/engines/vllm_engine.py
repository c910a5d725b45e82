"""vLLM as a sampler and as a scorer that follows weights in training.

Every sample is a request of its own with a seed made of (seed, stream, sample index), so that what else is sampled does not
matter. vLLM's random streams are not those of `TorchEngine`: the same settings give other samples of the same distribution.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from repirl import parallel
from repirl.engines.base import Request, SamplingParams
from repirl.engines.causal_lm import CausalLM
from repirl.engines.loading import LoadedPolicy, save_model, written_to
from repirl.engines.sampling import decode
from repirl.engines.torch_engine import eos_ids
from repirl.engines.vllm_backend import Answer, Ask, Backend, LocalBackend, engine_arguments
from repirl.engines.vllm_server import ServerBackend
from repirl.engines.vllm_settings import VllmSettings, check_gpus, check_is_there
from repirl.engines.weights import SyncReport, WeightSource, pieces
from repirl.errors import EngineFault, NumericalFault, UserError
from repirl.rng import seed_for
from repirl.types import Rollout

SHARED_MEMORY = Path("/dev/shm")


class _Synced:
    """vLLM with a copy of some weights. It is started when it is first needed, and is to be closed.

    Where several processes train together, the first one runs it for all of them.
    """

    def __init__(self, settings: VllmSettings, start: Callable[[VllmSettings], Backend]) -> None:
        check_is_there(settings)
        self.settings = settings
        self.version: int | None = None
        self._start = start

    @cached_property
    def backend(self) -> Backend:
        """The running vLLM."""
        return self._start(self.settings)

    def sync(self, source: WeightSource) -> SyncReport:
        """Replace the weights where they lie. They go through files in shared memory, of which there is one at a time."""
        started, version = time.perf_counter(), source.version
        self.version = None  # until all are there
        tensors = pieces(source.tensors(), self.settings.sync_chunk_mib * 2**20, getattr(torch, self.settings.dtype))
        size = self._take(tensors) if parallel.is_first() else sum(0 for _ in tensors)  # all must gather what is cut
        self.version = version
        return SyncReport(version, time.perf_counter() - started, size)

    def _take(self, tensors: Iterator[dict[str, Tensor]]) -> int:
        """The steps of a sync; how many bytes it were."""
        size = 0
        with tempfile.TemporaryDirectory(prefix="repirl-", dir=self._room()) as folder, written_to(Path(folder)):
            file = Path(folder) / "weights.safetensors"
            self.backend.call("repirl_begin_weights")
            for piece in tensors:
                save_file(piece, file)
                size += file.stat().st_size
                self.backend.call("repirl_load_weights", str(file))
                file.unlink()  # not written over: a worker may still read the mapped file
            missing = sorted({name for names in self.backend.call("repirl_end_weights") for name in names})
            self.backend.call("repirl_refresh_tied_head")
        self.backend.reset_prefix_cache()
        if missing:
            raise EngineFault(f"vLLM got no new weights for {', '.join(missing[:3])}", "report this, or use engine torch")
        return size

    def _room(self) -> Path | None:
        """Shared memory, where it has room for a piece (a container's often has 64 MiB); None: where temporary files go."""
        wanted = 2 * self.settings.sync_chunk_mib * 2**20
        return SHARED_MEMORY if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free >= wanted else None

    def close(self) -> None:
        """End vLLM's processes, if it runs."""
        self.version = None
        if (backend := self.__dict__.pop("backend", None)) is not None:
            backend.close()


class VllmEngine(_Synced):
    """`SyncedEngine` over the policy's own folder, from whose weights it starts.

    Prompts and completions are those of the policy's tokenizer, as token ids. `device`: where vLLM is to run; None: where the
    model is. (Of the model itself no weight is used: it may be on `meta`.) Raises what starting vLLM raises.
    """

    def __init__(self, policy: LoadedPolicy, settings: VllmSettings, device: str | None = None) -> None:
        self.tokenizer = policy.tokenizer
        self.eos_ids = eos_ids(policy.model, policy.tokenizer)
        self._lm = CausalLM(policy.model)
        self.max_length = longest(policy.model.config, settings)
        on_cpu = _on_cpu(policy.model) if device is None else device == "cpu"
        check_gpus(settings, on_cpu)
        arguments = engine_arguments(policy.path, settings, self.max_length, on_cpu=on_cpu, pooling=False)
        super().__init__(settings, lambda settings: started(arguments, settings))

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """As `TorchEngine.generate`; UserError for a temperature that vLLM does not know, NumericalFault for log-probabilities
        that are no numbers."""
        rows = [(request, request.first_sample + i) for request in requests for i in range(request.num_samples)]
        if params.temperature and not 0.01 <= params.temperature <= 2:  # lower ones it would raise without a word
            raise UserError("vLLM samples at temperatures from 0.01 to 2, or greedily", params.temperature, "use engine torch")
        for request in requests:
            self._check_prompt(request)
        asks = [Ask(request.prompt_ids, self._fields(request, index, params)) for request, index in rows]
        on_row = lambda done: on_progress(done, len(rows)) if on_progress is not None else None
        answers = parallel.from_first(lambda: self.backend.sample(asks, on_row)) if asks else []
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
    """A token classifier with one label (an energy-based PRM) behind vLLM, which gets it as a folder at the start."""

    def __init__(self, model: Any, tokenizer: Any, settings: VllmSettings) -> None:
        self.max_length = longest(model.config, settings)
        on_cpu = _on_cpu(model)
        check_gpus(settings, on_cpu)

        def start(settings: VllmSettings) -> Backend:
            with tempfile.TemporaryDirectory(prefix="repirl-prm-") as folder:
                save_model(Path(folder), model, tokenizer)
                arguments = engine_arguments(Path(folder), settings, self.max_length, on_cpu=on_cpu, pooling=True)
                return started(arguments, settings)

        super().__init__(settings, start)

    def score(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The head's number for every token of each row, float32 [T]. UserError for a row that is too long."""
        if (most := max(map(len, rows), default=0)) > self.max_length:
            raise UserError("a solution is too long to be scored", most, f"vLLM was started for {self.max_length} tokens")
        return parallel.from_first(lambda: self.backend.score(rows)) if rows else []


def started(arguments: dict[str, Any], settings: VllmSettings) -> Backend:
    """vLLM where the settings say."""
    return LocalBackend(arguments) if settings.python is None else ServerBackend(arguments, settings)


def _on_cpu(model: Any) -> bool:
    return next(model.parameters()).device.type == "cpu"


def longest(config: Any, settings: VllmSettings) -> int:
    """Most tokens that vLLM is started for. UserError if neither the model nor the settings say."""
    known = [one for one in (settings.max_model_len, config.get_text_config().max_position_embeddings) if one is not None]
    if not known:
        raise UserError("the model does not say how long a sequence may be", todo="give vLLM's setting max_model_len")
    return min(known)
