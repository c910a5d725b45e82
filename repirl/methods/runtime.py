"""Where and with which bounds a run computes, and what it samples and grades with there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from repirl import parallel
from repirl.config import Config
from repirl.engines.base import Engine
from repirl.engines.loading import LoadedPolicy, PolicyAddress, load_policy
from repirl.engines.lora import LoRAConfig, add_adapters
from repirl.engines.ray_workers import RaySettings
from repirl.engines.vllm_settings import VllmSettings, allowed_gap
from repirl.engines.weights import ModelWeights, SyncedEngine
from repirl.grading.dispatch import grade_rollouts
from repirl.precision import training_dtype
from repirl.rewards.base import StepReward
from repirl.rewards.ray_reward import RayReward
from repirl.rollouts.collect import Grader
from repirl.rollouts.following import FollowingEngine
from repirl.rollouts.ray_grading import RayGrader


class Runtime(Config):
    """Where, in which precision and with which bounds a run computes. The bounds change no result (see `TorchEngine`)."""

    device: str = "cpu"
    dtype: str = "float32"
    """Of the matrix products in training; weights and optimiser stay in float32."""
    engine: Literal["torch", "vllm"] = "torch"
    """What samples from the policy in training; its verifiers and completers are always sampled by torch."""
    vllm: VllmSettings | None = None
    """How vLLM is run; None: as by default."""
    ray: RaySettings | None = None
    """Workers that Ray places sample, grade or score; None: this machine does."""
    max_batch_rows: int = Field(default=512, ge=1)
    """Completions sampled at a time."""
    max_cache_tokens: int | None = Field(default=None, ge=1)
    """Their tokens, prompts included; None: what fits the GPU."""
    gradient_checkpointing: bool = False
    lora: LoRAConfig | None = None
    """Train low-rank adapters of the policy instead of all its weights."""
    reward_lora: LoRAConfig | None = None
    """The same of a reward that starts on the policy's backbone; its head is trained whole."""

    @model_validator(mode="after")
    def _settings_have_an_engine(self) -> Runtime:
        if self.vllm is not None and self.engine != "vllm":
            raise ValueError("settings of vLLM need engine vllm")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not used is left out: records of before there was vLLM or Ray keep their digests."""
        later = ("vllm", "ray", "reward_lora")
        return {name: value for name, value in handler(self).items() if name not in later or value is not None}

    @property
    def sampling_bounds(self) -> dict[str, Any]:
        """Of a torch engine."""
        return {"max_batch_rows": self.max_batch_rows, "max_cache_tokens": self.max_cache_tokens}

    @property
    def sampler(self) -> dict[str, Any]:
        """What of it makes samples differ, by name: empty for torch, of which the streams of random numbers were always."""
        if self.engine == "torch":
            return {}
        return {"engine": self.engine, "vllm_dtype": (self.vllm or VllmSettings()).dtype}

    @property
    def settings(self) -> dict[str, Any]:
        """What of it changes the result, by name."""
        named = {"dtype", "lora"} | ({"reward_lora"} if self.reward_lora is not None else set())
        return self.model_dump(mode="json", include=named) | self.sampler


def start_policy(name: str | Path, runtime: Runtime, seed: int, revision: str | None = None) -> LoadedPolicy:
    """A policy made ready for training as the runtime says; raises what `load_policy` and `add_adapters` raise.

    Weights are float32 whatever `runtime.dtype`: steps of 5e-7 are lost in bfloat16.
    """
    policy = load_policy(name, device=runtime.device, revision=revision)
    if runtime.lora is not None:
        add_adapters(policy.model, runtime.lora, seed)
    if runtime.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


def make_engine(policy: LoadedPolicy, runtime: Runtime) -> Engine:
    """A sampler over a policy within the runtime's bounds, which follows the weights of its model."""
    if runtime.ray is not None and runtime.ray.samplers:
        import torch

        from repirl.engines.ray_engine import RayEngine

        device, dtype = "cuda" if runtime.ray.sampler_gpus else "cpu", None
        if runtime.engine == "vllm":
            settings = runtime.vllm or VllmSettings()
            make: Callable[[], SyncedEngine] = partial(_vllm_worker, policy.address, settings, device)
            dtype = getattr(torch, settings.dtype)
        else:
            make = _copied_engine(policy, runtime, device)
        return _following(policy, runtime, RayEngine(make, runtime.ray, dtype))
    if runtime.engine == "vllm":
        from repirl.engines.vllm_engine import VllmEngine

        return _following(policy, runtime, VllmEngine(policy, runtime.vllm or VllmSettings()))
    return torch_engine(policy, runtime)


def torch_engine(policy: LoadedPolicy, runtime: Runtime) -> Engine:
    """The one in this process, over the model itself."""
    from repirl.engines.torch_engine import TorchEngine

    if parallel.size() == 1:
        return TorchEngine(policy.model, policy.tokenizer, **runtime.sampling_bounds)
    return _following(policy, runtime, _copied_engine(policy, runtime, runtime.device)())


def _following(policy: LoadedPolicy, runtime: Runtime, engine: SyncedEngine) -> FollowingEngine:
    settings = runtime.vllm or VllmSettings()
    tolerance = settings.allowed_gap(training_dtype()) if runtime.engine == "vllm" else allowed_gap(training_dtype())
    return FollowingEngine(engine, ModelWeights(policy.model), policy.model, policy.tokenizer, tolerance)


def _copied_engine(policy: LoadedPolicy, runtime: Runtime, device: str) -> Callable[[], SyncedEngine]:
    """What makes a torch engine with weights of its own, here or elsewhere."""
    from repirl.engines.copied import Architecture, CopiedEngine

    return partial(CopiedEngine, Architecture.of(policy.model), policy.tokenizer, device, **runtime.sampling_bounds)


def _vllm_worker(address: PolicyAddress, settings: VllmSettings, device: str) -> SyncedEngine:
    """vLLM in a worker, over the policy as that finds it: by a hub id, or in a folder that its machine sees too."""
    from repirl.engines.vllm_engine import VllmEngine

    policy = load_policy(address.name, dtype="auto", revision=address.revision)
    policy.model.to("meta")  # vLLM reads the folder: weights here would only take its room
    return VllmEngine(policy, settings, device)


@contextmanager
def opened_engine(policy: LoadedPolicy, runtime: Runtime) -> Iterator[Engine]:
    """`make_engine` for the while: processes that it started end afterwards."""
    engine = make_engine(policy, runtime)
    try:
        yield engine
    finally:
        if isinstance(engine, FollowingEngine):
            engine.close()


class Resources:
    """What a run has started elsewhere: the sampler of its policy, where that holds weights of its own, graders and scorers.
    One for all who ask, while somebody is in the `with` block."""

    def __init__(self) -> None:
        self._engine: FollowingEngine | None = None
        self._grader: RayGrader | None = None
        self._scorers: list[RayReward] = []
        self._users = 0

    def engine(self, policy: LoadedPolicy, runtime: Runtime) -> Engine:
        """Made when it is first asked for; the one of another model (a phase before) is closed then."""
        if self._engine is not None and self._engine.model is policy.model:
            return self._engine
        self._close_engine()
        engine = make_engine(policy, runtime)
        self._engine = engine if isinstance(engine, FollowingEngine) else None
        return engine

    def grader(self, runtime: Runtime) -> Grader:
        """The problems' own graders, in this process or by workers."""
        if runtime.ray is None or not runtime.ray.graders:
            return grade_rollouts
        if self._grader is None:
            self._grader = RayGrader(runtime.ray)
        return self._grader

    def scorer(self, make: Callable[[str], StepReward], here: StepReward, runtime: Runtime) -> StepReward:
        """A frozen reward: `here`, or the one that `make(device)` gives in workers, until the run ends."""
        if runtime.ray is None or not runtime.ray.scorers:
            return here
        reward = RayReward(make, here, runtime.ray)
        self._scorers.append(reward)
        return reward

    def _close_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> None:
        self._users += 1

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if self._users:
            return
        self._close_engine()
        grader, self._grader = self._grader, None
        scorers, self._scorers = self._scorers, []
        for one in [*([] if grader is None else [grader]), *scorers]:
            one.close()
