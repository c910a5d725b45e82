"""How vLLM is run. Nothing here imports it: the settings can be read, checked and listed where it is not installed."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from repirl.config import Config
from repirl.errors import UserError

VllmDtype = Literal["float32", "bfloat16", "float16"]
_GAPS = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.1}


class VllmSettings(Config):
    """vLLM beside the learner, on the same machine."""

    python: Path | None = None
    """A Python that has vLLM: a server is started with it. None: vLLM of this environment, without a server."""
    dtype: VllmDtype = "float32"
    """Of vLLM's copy of the weights; synced weights are cast to it on the way."""
    tolerance: float | None = Field(default=None, gt=0)
    """Largest mean difference of a token's log-probability (nats) from the policy's own, after a sync. None: by dtype."""
    max_model_len: int | None = Field(default=None, ge=2)
    """Most tokens of prompt and completion together; None: what the model was made for."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Room for keys and values. None: on a GPU what `gpu_memory_utilization` leaves, on a CPU 1 GiB."""
    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1)
    """Share of a GPU's memory for all of vLLM; the learner needs the rest."""
    gpus: str | None = None
    """Of servers: the GPUs that they run on, as CUDA_VISIBLE_DEVICES says them, `tensor_parallel_size` for each in turn; None:
    those that this process sees."""
    servers: int = Field(default=1, ge=1)
    """Servers, each with a copy of the weights, that share out what is asked. Which of them answers changes nothing."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one copy of the weights."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Completions that each server samples at a time."""
    enforce_eager: bool | None = None
    """Run without compiling and CUDA graphs. None: on a CPU, where compiling takes longer than it saves on small models."""
    chunked_prefill: bool | None = None
    """None: on a GPU. On a CPU chunks and seeds together end the engine (vLLM 0.32: its generator has no offset)."""
    sync_chunk_mib: int = Field(default=1024, ge=1)
    """Weights are handed over in pieces of about so much, one at a time in memory."""
    start_timeout_s: float = Field(default=900.0, gt=0)
    """Longest wait for a server to come up."""
    request_timeout_s: float = Field(default=3600.0, gt=0)
    """Longest wait for one answer of a server."""

    @model_validator(mode="after")
    def _gpus_are_a_servers(self) -> VllmSettings:
        if self.gpus is not None and self.python is None:
            raise ValueError("in this process vLLM sees the same GPUs: name a python too, which runs a server")
        if self.servers > 1 and self.python is None:
            raise ValueError("several servers need a python that runs them")
        if self.gpus is not None and len(self.gpus.split(",")) != self.tensor_parallel_size * self.servers:
            raise ValueError("a server runs on tensor_parallel_size GPUs: name as many for each in gpus")
        return self

    @property
    def gpus_of_each(self) -> list[str | None]:
        """What CUDA_VISIBLE_DEVICES is to say for each server; None: what it says here."""
        if self.gpus is None:
            return [None] * self.servers
        named, each = self.gpus.split(","), self.tensor_parallel_size
        return [",".join(named[i * each : (i + 1) * each]) for i in range(self.servers)]

    def allowed_gap(self, scored_in: str = "float32") -> float:
        """The tolerance that applies, where the policy itself computes in `scored_in`."""
        return self.tolerance or max(allowed_gap(self.dtype), allowed_gap(scored_in))


def allowed_gap(dtype: str) -> float:
    """Largest mean difference of a token's log-probability (nats) between two implementations in a precision.

    In float32 they differ by 1e-6 in the mean and 4e-5 at most; a stale layer shows as 0.1 and more. A bfloat16 number has 8
    bits, so logits of 10 to 20 are off by some hundredths, a float16 number 11.
    """
    return _GAPS[dtype]


def check_gpus(settings: VllmSettings, on_cpu: bool) -> None:
    """UserError for several servers that would all take the same GPUs."""
    if settings.servers > 1 and settings.gpus is None and not on_cpu:
        raise UserError("several vLLM servers on the same GPUs", settings.servers, "name those of each in turn: gpus=1,2,3")


def vllm_is_here() -> bool:
    """Whether this environment has vLLM."""
    return importlib.util.find_spec("vllm") is not None


def check_is_there(settings: VllmSettings) -> None:
    """UserError if vLLM is not where the settings say. (Whether another Python has it, its server will say.)"""
    if settings.python is None and not vllm_is_here():
        todo = "pip install 'repirl[vllm]', or name a Python that has it: --engine-set python=PATH"
        raise UserError("this environment has no vLLM", todo=todo)
    if settings.python is not None and shutil.which(settings.python.expanduser()) is None:
        raise UserError("no such Python to run vLLM with", str(settings.python), "give the path of one")
