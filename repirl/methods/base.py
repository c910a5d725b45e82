"""What a method is: a name, where it comes from, recipes, and `fit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from repirl.config import Config
from repirl.engines.base import Engine
from repirl.engines.loading import LoadedPolicy
from repirl.errors import UserError
from repirl.types import Budget

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True)
class FitContext:
    """Where and from what a method is fitted. `policy.model` is trained in place; `folder` is the run folder.

    `max_batch_rows` and `max_cache_tokens` bound the engine's memory (see `TorchEngine`); they change no result.
    """

    policy: LoadedPolicy
    folder: Path
    seed: int
    on_step: Callable[[int, int, dict[str, Any]], None] | None = None
    max_batch_rows: int = 512
    max_cache_tokens: int | None = None

    def engine(self) -> Engine:
        """A sampler over the policy, which follows its training."""
        from repirl.engines.torch_engine import TorchEngine

        return TorchEngine(
            self.policy.model,
            self.policy.tokenizer,
            max_batch_rows=self.max_batch_rows,
            max_cache_tokens=self.max_cache_tokens,
        )


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished run. Folders are None where a method makes no such thing; `diagnostics` None = not measured."""

    policy_folder: Path | None
    reward_folder: Path | None
    budget: Budget
    diagnostics: Mapping[str, float | None] = field(default_factory=dict)


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
    kind: ClassVar[Literal["method", "null", "reference"]] = "method"
    recipes: ClassVar[Mapping[str, Config]]

    @abstractmethod
    def fit(self, context: FitContext, config: C) -> Fitted:
        """Train (or continue) in `context.folder`; the same context and configuration give the same result."""

    def recipe(self, name: str) -> Config:
        """A recipe by name; UserError lists the ones there are."""
        if name not in self.recipes:
            raise UserError(f"{self.name} has no recipe", name, f"choose one of {', '.join(self.recipes)}")
        return self.recipes[name]
