"""What a method is: a name, where it comes from, recipes, and `fit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from repirl import parallel
from repirl.config import Config
from repirl.engines.base import Engine
from repirl.engines.loading import LoadedPolicy, folder_digest, load_policy
from repirl.engines.lora import LoRAConfig, add_adapters
from repirl.engines.vllm_settings import VllmSettings
from repirl.engines.weights import ModelWeights
from repirl.errors import UserError
from repirl.precision import training_dtype
from repirl.rollouts.following import FollowingEngine
from repirl.types import Budget, Metrics

C = TypeVar("C", bound=Config)

Need = Literal["rollouts", "outcomes", "demonstrations", "step labels"]
"""What a method learns from: samples of the policy, the grader's verdicts on them, solutions of experts, labels of steps."""
Level = Literal["token", "step", "outcome", "none"]
"""The smallest part of a solution that gets a reward of its own."""


class Runtime(Config):
    """Where, in which precision and with which bounds a run computes. The bounds change no result (see `TorchEngine`)."""

    device: str = "cpu"
    dtype: str = "float32"
    """Of the matrix products in training; weights and optimiser stay in float32."""
    engine: Literal["torch", "vllm"] = "torch"
    """What samples from the policy in training; its verifiers and completers are always sampled by torch."""
    vllm: VllmSettings | None = None
    """How vLLM is run; None: as by default."""
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
    def _as_before_vllm(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without vLLM it reads as it did before there was one: records and their digests stay as they are."""
        return {name: value for name, value in handler(self).items() if name != "vllm" or value is not None}

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
    if runtime.engine == "vllm":
        from repirl.engines.vllm_engine import VllmEngine

        settings = runtime.vllm or VllmSettings()
        engine, tolerance = VllmEngine(policy, settings), settings.allowed_gap(training_dtype())
        return FollowingEngine(engine, ModelWeights(policy.model), policy.model, policy.tokenizer, tolerance)
    return torch_engine(policy, runtime)


def torch_engine(policy: LoadedPolicy, runtime: Runtime) -> Engine:
    """The one in this process, over the model itself."""
    from repirl.engines.torch_engine import TorchEngine

    bounds = {"max_batch_rows": runtime.max_batch_rows, "max_cache_tokens": runtime.max_cache_tokens}
    if parallel.size() == 1:
        return TorchEngine(policy.model, policy.tokenizer, **bounds)
    from repirl.engines.copied import Architecture, CopiedEngine

    engine = CopiedEngine(Architecture.of(policy.model), policy.tokenizer, runtime.device, **bounds)
    tolerance = 1e-4 if runtime.dtype == "float32" else 0.05
    return FollowingEngine(engine, ModelWeights(policy.model), policy.model, policy.tokenizer, tolerance)


@contextmanager
def opened_engine(policy: LoadedPolicy, runtime: Runtime) -> Iterator[Engine]:
    """`make_engine` for the while: processes that it started end afterwards."""
    engine = make_engine(policy, runtime)
    try:
        yield engine
    finally:
        if isinstance(engine, FollowingEngine):
            engine.close()


class SharedEngine:
    """The sampler of a policy in training that holds weights of its own: one for all who ask, while somebody is in the `with`
    block."""

    def __init__(self) -> None:
        self._engine: FollowingEngine | None = None
        self._users = 0

    def get(self, policy: LoadedPolicy, runtime: Runtime) -> Engine:
        """Made when it is first asked for; the one of another model (a phase before) is closed then."""
        if self._engine is not None and self._engine.model is policy.model:
            return self._engine
        self._close()
        engine = make_engine(policy, runtime)
        self._engine = engine if isinstance(engine, FollowingEngine) else None
        return engine

    def _close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> None:
        self._users += 1

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        if not self._users:
            self._close()


@dataclass(frozen=True, slots=True)
class FitContext:
    """Where and from what a method is fitted. `policy.model` is trained in place; `folder` is the run folder."""

    policy: LoadedPolicy
    folder: Path
    seed: int
    on_step: Callable[[int, int, Metrics], None] | None = None
    runtime: Runtime = field(default_factory=Runtime)
    needs: frozenset[Need] | None = None
    """What the method that is fitted has declared; it is given nothing else. None: all."""
    shared_engine: SharedEngine = field(default_factory=SharedEngine)
    """Of the policy that is trained, in all phases: its weights may lie in another process, and need their room once."""

    def gives(self, need: Need) -> bool:
        """Whether the method may learn from it."""
        return self.needs is None or need in self.needs

    def engine(self, policy: LoadedPolicy | None = None) -> Engine:
        """A sampler over a policy (None: the one that is trained; others are verifiers, completers), which follows its
        training."""
        if policy is None or policy.model is self.policy.model:
            return self.shared_engine.get(self.policy, self.runtime)
        return torch_engine(policy, self.runtime)

    def part(self, name: str, after: Fitted | None = None) -> FitContext:
        """The context of one phase of a method, in a folder of its own.

        With `after` it starts from the policy that an earlier phase left (and whose weights that phase's `fit` has put
        into the model in memory; one that is cut among processes is loaded again).
        """
        policy = self.policy
        if after is not None and after.policy_folder is not None:
            folder = after.policy_folder
            model = start_policy(folder, self.runtime, self.seed).model if parallel.is_cut(policy.model) else policy.model
            name = f"{policy.name}, {folder.parent.name}"
            policy = replace(policy, model=model, name=name, path=folder, digest=folder_digest(folder))
        return replace(self, folder=self.folder / name, policy=policy)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished run. Folders are None where a method makes no such thing; a diagnostic that is None was not measured.

    `budget` is that of training alone, `validation_budget` that of choosing the checkpoint. `curve` is the log of metrics,
    one JSON object a step.
    """

    policy_folder: Path | None
    reward_folder: Path | None
    budget: Budget
    diagnostics: Mapping[str, float | None] = field(default_factory=dict)
    validation_budget: Budget = field(default_factory=Budget)
    curve: Path | None = None

    def after(self, *earlier: Fitted) -> Fitted:
        """The result of a method of several phases, this one the last: what all of them cost is added up, and where this
        one leaves no policy or reward, the latest that an earlier one left is the method's."""
        phases = [self, *reversed(earlier)]
        return replace(
            self,
            policy_folder=next((part.policy_folder for part in phases if part.policy_folder is not None), None),
            reward_folder=next((part.reward_folder for part in phases if part.reward_folder is not None), None),
            budget=sum((part.budget for part in earlier), self.budget),
            validation_budget=sum((part.validation_budget for part in earlier), self.validation_budget),
        )


def _only_with_declared(fit: Callable[..., Fitted]) -> Callable[..., Fitted]:
    """`fit` in a context that gives what the method declares and nothing else."""

    @wraps(fit)
    def fitted(self: Method[Any], context: FitContext, config: Config) -> Fitted:
        with context.shared_engine:
            return fit(self, replace(context, needs=self.needs), config)

    return fitted


class Method(ABC, Generic[C]):
    """One way to get a process reward and (or) a policy. Subclasses set the class variables and implement `fit`.

    `kind`: `method` competes, `null` knows nothing on purpose, `reference` marks an end of the scale (the untouched
    base, the exact checker). `recipes` are complete configurations by name; `tiny` runs on a laptop.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    """Paper or project that the method comes from."""
    status: ClassVar[str]
    """What was reproduced, and how far."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it learns from. What is not declared is kept from it: training samples are not graded, demonstrations not loaded.
    (Choosing a checkpoint by validation accuracy is the loop's, not the method's.)"""
    yields: ClassVar[tuple[Literal["policy", "reward"], ...]] = ("policy",)
    level: ClassVar[Level] = "none"
    kind: ClassVar[Literal["method", "null", "reference"]] = "method"
    recipes: ClassVar[Mapping[str, Config]]

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "fit" in vars(cls):
            cls.fit = _only_with_declared(cls.fit)

    @abstractmethod
    def fit(self, context: FitContext, config: C) -> Fitted:
        """Train (or continue) in `context.folder`; the same context and configuration give the same result."""

    def recipe(self, name: str) -> Config:
        """A recipe by name; UserError lists the ones there are."""
        if name not in self.recipes:
            raise UserError(f"{self.name} has no recipe", name, f"choose one of {', '.join(self.recipes)}")
        return self.recipes[name]
