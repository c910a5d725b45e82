"""What a method is: a name, where it comes from, recipes, and `fit`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from repirl import parallel
from repirl.config import Config
from repirl.engines.base import Engine
from repirl.engines.loading import LoadedPolicy, folder_digest
from repirl.errors import UserError
from repirl.methods.described import Level, Need
from repirl.methods.observing import Observer
from repirl.methods.runtime import Resources, Runtime, start_policy, torch_engine
from repirl.rollouts.collect import Grader
from repirl.types import Budget, Metrics

C = TypeVar("C", bound=Config)


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
    resources: Resources = field(default_factory=Resources)
    """Of all phases: the policy's weights may lie in another process, and need their room once."""
    observer: Observer = field(default_factory=Observer)
    phase: str = ""
    """Names of the parts that this is a context of, as a path; empty: of the whole run."""
    keep_checkpoint: bool = False
    """A finished run keeps what it needs to go on to more steps."""

    def gives(self, need: Need) -> bool:
        """Whether the method may learn from it."""
        return self.needs is None or need in self.needs

    def engine(self, policy: LoadedPolicy | None = None) -> Engine:
        """A sampler over a policy (None: the one that is trained; others are verifiers, completers), which follows its
        training."""
        if policy is None or policy.model is self.policy.model:
            return self.resources.engine(self.policy, self.runtime)
        return torch_engine(policy, self.runtime)

    @property
    def grader(self) -> Grader:
        """What grades by the problems' own rules."""
        return self.resources.grader(self.runtime)

    def part(self, name: str, after: Fitted | None = None) -> FitContext:
        """The context of one phase of a method, in a folder of its own.

        With `after` it starts from the policy that an earlier phase left (and whose weights that phase's `fit` has put
        into the model in memory; one that is cut among processes is loaded again).
        """
        policy = self.policy
        if after is not None and after.policy_folder is not None:
            folder = after.policy_folder
            model = start_policy(folder, self.runtime, self.seed).model if parallel.is_cut(policy.model) else policy.model
            label = f"{policy.name}, {folder.parent.name}"
            policy = replace(policy, model=model, name=label, path=folder, digest=folder_digest(folder))
        phase = "/".join(part for part in (self.phase, name) if part not in ("", "."))
        return replace(self, folder=self.folder / name, policy=policy, phase=phase)


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
        with context.resources:
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
