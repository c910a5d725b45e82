"""Where a run's curves and some of its completions can be followed: a class for each tracker, each an extra of its name."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from repirl import parallel
from repirl.errors import UserError
from repirl.methods.observing import Observer
from repirl.types import Metrics, RolloutGroup

PROJECT = __name__.partition(".")[0]
SHOWN = 3
"""Completions that trackers get at each look at the validation problems."""


class Tracker(Protocol):
    """Made for a run folder and the run's settings. A run that goes on logs some steps again, with the same values."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name after `step` steps."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """A completion after `step` steps."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/` of the run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.text(0, "settings", "\n".join(f"{key} = {value}" for key, value in settings.items()))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self.writer.add_text(name, "\n".join(f"    {line}" for line in text.split("\n")), step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases, named as the folder, which keeps its id; `WANDB_MODE=offline` needs no network."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        id_file = folder / "wandb-id.txt"
        if not id_file.is_file():
            id_file.write_text(secrets.token_hex(8))
        self.library: Any = importlib.import_module("wandb")
        self.run: Any = self.library.init(
            project=PROJECT,
            name=folder.name,
            id=id_file.read_text().strip(),
            resume="allow",
            dir=str(folder),
            config=dict(settings),
        )
        self.run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})

    def text(self, step: int, name: str, text: str) -> None:
        self.run.log({name: self.library.Table(columns=["step", "text"], data=[[step, text]]), "step": step})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of Trackio, named as the folder, in its local database."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.library: Any = importlib.import_module("trackio")
        self.run: Any = self.library.init(project=PROJECT, name=folder.name, config=dict(settings), resume="allow", embed=False)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self.run.log({name: self.library.Markdown(f"```\n{text}\n```")}, step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}
"""By the name of the package that each needs, which is also that of its extra."""


def known_trackers(text: str | None) -> list[str]:
    """`tensorboard,wandb` as names; UserError for an unknown one, or one whose package is not installed."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in TRACKERS:
            raise UserError("unknown tracker", name, f"choose of {', '.join(TRACKERS)}")
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError("the package of a tracker is not installed", name, f"pip install 'repirl[{name}]'") from None
    return names


class Followed(Observer):
    """Says where a run continues or is done, and hands on what it logs to the trackers of these names."""

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.names, self.folder, self.settings, self.say = names, folder, settings, say
        self.trackers: list[Tracker] | None = None
        self.phase = ""

    def opened(self, phase: str, folder: Path, step: int, steps: int, *, done: bool) -> None:
        self.phase = phase
        if not parallel.is_first():
            return
        what = f"already done: {steps} steps" if done else f"resuming from step {step} of {steps}"
        if step:
            self.say(f"{phase}{': ' if phase else ''}{what} ({folder})")
        if self.trackers is None and not done:
            self.trackers = [TRACKERS[name](self.folder, self.settings) for name in self.names]

    def logged(self, phase: str, metrics: Metrics) -> None:
        values = {_named(phase, name): float(value) for name, value in metrics.items() if name != "step"}
        for tracker in self.trackers or ():
            tracker.scalars(int(metrics["step"]), {name: value for name, value in values.items() if value == value})

    def sampled(self, phase: str, step: int, groups: Sequence[RolloutGroup]) -> None:
        for i, group in enumerate(groups[:SHOWN]):
            text = f"{group.problem.prompt}\n\n--- {group.verdicts[0].outcome} ---\n\n{group.rollouts[0].text}"
            for tracker in self.trackers or ():
                tracker.text(step, _named(phase, f"samples/{i + 1}"), text)

    def close(self) -> None:
        """End the trackers, if there are any."""
        for tracker in self.trackers or ():
            tracker.close()


def _named(phase: str, name: str) -> str:
    return f"{phase}/{name}" if phase else name
