"""The training loop, the only one: steps, validation, the choice of a checkpoint, logs, resuming, stopping.

What is trained is a `Learner`; nothing here knows whether it is a policy gradient, supervised learning or pretraining. A
resumed run equals an uninterrupted one if the learner's step is a function of its state and the step's number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import nn

from repirl import parallel
from repirl.config import Config
from repirl.errors import NumericalFault, UserError
from repirl.learn.checkpoint import RunFolder
from repirl.rng import seed_for
from repirl.rollouts.collect import Collector
from repirl.types import Budget, Metrics, Problem, RolloutGroup

OnStep = Callable[[int, int, Metrics], None]
"""Called after every step with (completed steps, all steps, metrics)."""


class Learner(Protocol):
    """Something that gets better step by step."""

    @property
    def budget(self) -> Budget:
        """What training consumed so far, wall time aside."""
        ...

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What a checkpoint holds, by name: of the chosen step all of them are kept together."""
        ...

    def step(self, index: int) -> Metrics:
        """Step number `index`, from 0. NumericalFault if a number is not finite."""
        ...

    def state(self) -> dict[str, Any]:
        """All that resuming needs: tensors, numbers and strings only."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        ...


class ValidationConfig(Config):
    """Checkpoint selection: every `every` steps, `samples` completions of each validation problem."""

    every: int = Field(default=10, ge=1)
    """Updates between two looks at the validation problems."""
    num_problems: int = Field(default=64, ge=1)
    """So many of the held-out problems."""
    samples: int = Field(default=4, ge=1)
    """Completions of each."""
    select: Literal["best", "last"] = "best"
    """Which checkpoint is the result: that of the highest validation accuracy (the earliest of equals; step 0 counts),
    or the last one."""


class Validator:
    """Sampled accuracy of a policy on fixed validation problems, with the same random streams every time.

    `collector` is the validator's own: its budget is that of validation. `due` says after how many steps it looks again.
    """

    def __init__(self, collector: Collector, problems: Sequence[Problem], config: ValidationConfig, seed: int) -> None:
        if not problems:
            raise UserError("no validation problems", todo="check the validation set")
        self.collector = collector
        self.problems = list(problems[: config.num_problems])
        self.config = config
        self.seed = seed_for(seed, "validation")
        self.sampled: list[RolloutGroup] = []
        """What was looked at last."""

    def due(self, step: int, steps: int, metrics: Metrics) -> bool:
        """Whether to look after `step` completed steps: at the start, every so many steps, and at the end."""
        return step % self.config.every == 0 or step == steps

    def accuracy(self) -> float:
        """Mean verdict over all graded completions; NaN if none was graded."""
        self.sampled = self.collector.groups(self.problems, self.config.samples, self.seed)
        rewards = np.array([v.reward for group in self.sampled for v in group.verdicts])
        return float(np.nanmean(rewards)) if not np.isnan(rewards).all() else float("nan")


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run. `validation` has (step, accuracy) from step 0 on; the learner holds the weights of `chosen_step`.

    `budget` is that of training, `validation_budget` that of choosing the checkpoint.
    """

    chosen_step: int
    last_step: int
    validation: tuple[tuple[int, float], ...]
    budget: Budget
    validation_budget: Budget
    last_metrics: Metrics

    def accuracy_at(self, step: int) -> float | None:
        """Validation accuracy after `step` steps, None if nobody looked."""
        return dict(self.validation).get(step)


@dataclass(slots=True)
class _Progress:
    """What the loop itself remembers between steps, and in a checkpoint."""

    step: int = 0
    stopped: bool = False
    wall_s: float = 0.0
    validation_wall_s: float = 0.0
    validation: list[tuple[int, float]] = field(default_factory=list)
    last_metrics: Metrics = field(default_factory=dict)

    def chosen(self, select: str) -> int:
        if select == "last" or not self.validation:
            return self.step
        # Nothing graded (NaN) is no better than nothing right.
        return max(self.validation, key=lambda entry: (0.0 if math.isnan(entry[1]) else entry[1], -entry[0]))[0]


def run_steps(
    learner: Learner,
    steps: int,
    folder: RunFolder,
    validator: Validator | None = None,
    *,
    checkpoint_every: int = 1,
    on_step: OnStep | None = None,
    stop: Callable[[Metrics], bool] | None = None,
    on_resume: Callable[[int], None] | None = None,
    on_samples: Callable[[int, Sequence[RolloutGroup]], None] | None = None,
) -> RunResult:
    """Run (or continue) to the last step, or until `stop(metrics)` of a step says so, and load the chosen weights.

    Metrics of every step go to the folder's log, validation accuracy among them (step 0 has a line of its own). A
    NumericalFault names the step and leaves the last good checkpoint in place. `on_resume` gets the number of completed steps
    before the first one, `on_samples` what validation looked at.
    """
    progress = _resume(learner, folder, validator)
    if on_resume is not None:
        on_resume(progress.step)
    kept = progress.step
    if validator is not None and progress.step == 0 and not progress.validation and validator.due(0, steps, {}):
        accuracy = _validate(learner, folder, validator, progress, on_samples)
        folder.log({"step": 0, "validation_accuracy": accuracy})
    while progress.step < steps and not progress.stopped:
        started = time.monotonic()
        try:
            metrics = learner.step(progress.step)
            progress.step += 1
            wall_s = time.monotonic() - started
            _check_weights(learner)
            looked = validator is not None and validator.due(progress.step, steps, metrics)
            if validator is not None and looked:
                metrics["validation_accuracy"] = _validate(learner, folder, validator, progress, on_samples)
        except NumericalFault as fault:
            rest = f"the checkpoint of step {kept} is in {folder.path}" if kept else "there is no checkpoint yet"
            raise NumericalFault(f"training ended after step {progress.step}: {fault}", rest) from fault
        progress.wall_s += wall_s
        progress.stopped = stop is not None and stop(metrics)
        progress.last_metrics = {"step": progress.step, **metrics, "wall_s": round(wall_s, 3)}
        folder.log(progress.last_metrics)
        if progress.step % checkpoint_every == 0 or progress.step == steps or progress.stopped or looked:
            _checkpoint(learner, folder, validator, progress)
            kept = progress.step
        if on_step is not None:
            on_step(progress.step, steps, progress.last_metrics)
    return _finish(learner, folder, validator, progress)


def _check_weights(learner: Learner) -> None:
    """NumericalFault if a weight is no number: what is not finite must not become a checkpoint."""
    for name, module in learner.modules.items():
        finite = all(bool(torch.isfinite(parallel.local(parameter)).all()) for parameter in module.parameters())
        if not all(parallel.gathered(finite)):
            raise NumericalFault(f"weights of the {name} are not finite", "lower the learning rate")


def _validate(
    learner: Learner,
    folder: RunFolder,
    validator: Validator,
    progress: _Progress,
    on_samples: Callable[[int, Sequence[RolloutGroup]], None] | None,
) -> float:
    """Accuracy now; the weights are kept if they are the best so far."""
    started = time.monotonic()
    accuracy = validator.accuracy()
    progress.validation.append((progress.step, accuracy))
    if validator.config.select == "best" and progress.chosen("best") == progress.step:
        weights = {name: parallel.whole_state(module.state_dict().items()) for name, module in learner.modules.items()}
        folder.save_best(progress.step, weights)
    progress.validation_wall_s += time.monotonic() - started
    if on_samples is not None:
        on_samples(progress.step, validator.sampled)
    return accuracy


def _finish(learner: Learner, folder: RunFolder, validator: Validator | None, progress: _Progress) -> RunResult:
    chosen = progress.chosen("last" if validator is None else validator.config.select)
    if chosen != progress.step:
        best = folder.load_best(chosen)
        for name, module in learner.modules.items():
            parallel.load_whole(module, best[name])
    spent = validator.collector.budget if validator is not None else Budget()
    return RunResult(
        chosen_step=chosen,
        last_step=progress.step,
        validation=tuple(progress.validation),
        budget=learner.budget + Budget(wall_s=progress.wall_s),
        validation_budget=spent + Budget(wall_s=progress.validation_wall_s),
        last_metrics=progress.last_metrics,
    )


def _checkpoint(learner: Learner, folder: RunFolder, validator: Validator | None, progress: _Progress) -> None:
    spent = validator.collector.budget if validator is not None else Budget()
    folder.save_checkpoint(
        {
            "step": progress.step,
            "progress": asdict(progress),
            "learner": learner.state(),
            "validation_budget": asdict(spent),
        }
    )
    if validator is not None and validator.config.select == "best":
        folder.keep_best(progress.chosen("best"))


def _resume(learner: Learner, folder: RunFolder, validator: Validator | None) -> _Progress:
    state = folder.load_checkpoint()
    if state is None:
        return _Progress()
    learner.load_state(state["learner"])
    if validator is not None:
        validator.collector.budget = Budget(**state["validation_budget"])
    progress = _Progress(**state["progress"])
    progress.validation = [(step, accuracy) for step, accuracy in progress.validation]
    return progress
