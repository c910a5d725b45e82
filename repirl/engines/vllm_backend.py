"""The two places where vLLM can be, behind one interface; this one is the learner's own environment.

vLLM runs its workers in processes of their own in both cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from repirl.engines.vllm_settings import VllmSettings
from repirl.errors import EngineFault, UserError

WORKER = "vllm_extension.RepirlWorker"
OWNER = "REPIRL_VLLM_OWNER"  # as in the extension, which is not imported here: importing it binds a process to its owner
OnRow = Callable[[int], None]
"""Called with the number of rows that are done."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One completion: a prompt, and fields that vLLM's `SamplingParams` and its server's requests both know."""

    prompt_ids: Sequence[int]
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Tokens int64 [T], their log-probabilities float32 [T], and whether they ended before the limit."""

    token_ids: np.ndarray
    logprobs: np.ndarray
    stopped: bool


class Backend(Protocol):
    """A running vLLM with one model."""

    def sample(self, asks: Sequence[Ask], on_row: OnRow) -> list[Answer]:
        """An answer for each, in order."""
        ...

    def score(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Of a token classifier with one label: its number for each token, float32 [T]."""
        ...

    def call(self, method: str, *arguments: str) -> list[Any]:
        """A method of every worker; what each gives."""
        ...

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of earlier prompts."""
        ...

    def close(self) -> None:
        """End its processes. It can be called twice."""
        ...


def engine_arguments(
    folder: Path, settings: VllmSettings, max_model_len: int, *, on_cpu: bool, pooling: bool
) -> dict[str, Any]:
    """vLLM's engine arguments by name, for one model."""
    chunked = not on_cpu if settings.chunked_prefill is None else settings.chunked_prefill
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": settings.dtype,
        "max_model_len": max_model_len,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "max_num_seqs": settings.max_num_seqs,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": on_cpu if settings.enforce_eager is None else settings.enforce_eager,
        "enable_chunked_prefill": chunked,
        "max_num_batched_tokens": 8192 if chunked else max(8192, max_model_len),
        "disable_log_stats": True,
    }
    kv_cache_gib = 1.0 if on_cpu and settings.kv_cache_gib is None else settings.kv_cache_gib
    if kv_cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_cache_gib * 2**30)
    if pooling:
        return arguments | {"runner": "pooling", "enable_prefix_caching": False}
    # The log-probabilities of what is sampled from (docs/design.md rule 2), and no sampling defaults from the model's folder.
    return arguments | {"logprobs_mode": "processed_logprobs", "generation_config": "vllm"}


def environment() -> dict[str, str]:
    """Variables for a process with vLLM, beside those there are: a quiet log on stderr, no report of its use to others, and as
    many threads as were asked for in the usual way (it would pin one to each core). It ends with this process."""
    wanted = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_NO_USAGE_STATS": "1"}
    if "OMP_NUM_THREADS" in os.environ:
        wanted["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return {name: os.environ.get(name, value) for name, value in wanted.items()} | {OWNER: str(os.getpid())}


def is_of_torchrun(variable: str) -> bool:
    """Whether torchrun sets it. With them vLLM would wait for a store that nobody starts (TORCHELASTIC_USE_AGENT_STORE)."""
    return variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") or (
        variable.startswith(("TORCHELASTIC_", "GROUP_", "ROLE_"))
    )


@contextmanager
def _alone() -> Iterator[None]:
    """Without torchrun's variables for the while."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if is_of_torchrun(name)}
    try:
        yield
    finally:
        os.environ.update(taken)


class LocalBackend:
    """`vllm.LLM` of this environment. UserError if it does not start; EngineFault if it ends later."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        os.environ.update(environment())
        import vllm  # pyright: ignore[reportMissingImports]

        self._vllm = vllm
        try:
            with _alone():
                self._llm = vllm.LLM(**arguments, worker_extension_cls=f"repirl.engines.{WORKER}")
        except (RuntimeError, ValueError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"vLLM does not start ({first})", arguments["model"], "its log above says more") from error

    def sample(self, asks: Sequence[Ask], on_row: OnRow) -> list[Answer]:
        # Text is looked at for stop strings alone, and ours is decoded later.
        made = self._vllm.SamplingParams
        params = [made(**ask.fields, flat_logprobs=True, detokenize=bool(ask.fields["stop"])) for ask in asks]
        engine, outputs = self._llm.llm_engine, []
        with self._alive():
            self._llm.enqueue(_prompts([ask.prompt_ids for ask in asks]), params, use_tqdm=False)
            while engine.has_unfinished_requests():
                outputs += [output for output in engine.step() if output.finished]
                on_row(len(outputs))
        return [_answer(output.outputs[0]) for output in sorted(outputs, key=lambda one: int(one.request_id))]

    def score(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        params = self._vllm.PoolingParams(use_activation=False)
        with self._alive():
            outputs = self._llm.encode(_prompts(rows), params, pooling_task="token_classify", use_tqdm=False)
        return [output.outputs.data.float().numpy()[:, 0] for output in outputs]

    def call(self, method: str, *arguments: str) -> list[Any]:
        with self._alive():
            return self._llm.collective_rpc(method, args=arguments)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        from vllm.v1.engine.exceptions import EngineDeadError  # pyright: ignore[reportMissingImports]

        try:
            yield
        except EngineDeadError as error:
            todo = "its log above says why; run the same command again to go on from the checkpoint"
            raise EngineFault("vLLM's engine ended", todo) from error

    def reset_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise EngineFault("vLLM could not reset its prefix cache", "report this, or use engine torch")

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


def _prompts(rows: Sequence[Sequence[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": list(map(int, row))} for row in rows]


def _answer(output: Any) -> Answer:
    logprobs = np.array(output.logprobs.logprobs, dtype=np.float32)
    return Answer(np.array(output.token_ids, dtype=np.int64), logprobs, output.finish_reason == "stop")
