"""Run folders: atomic checkpoints and a metrics log that a killed run continues exactly.

A folder holds `config.json` (what the run is), `checkpoint.pt` (after the last completed step), `best-STEP.pt` (weights of
the best validation: of the policy, and of the reward as it was then), `metrics.jsonl`, and at the end `policy/`, `reward/`
and `done.json`. A finished run that kept its checkpoint can go on to more steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from repirl import parallel
from repirl.errors import UserError
from repirl.learn.stored_state import (
    CHECKPOINT_FILE,
    drop_checkpoint,
    has_checkpoint,
    read_checkpoint,
    save_torch,
    write_checkpoint,
)
from repirl.paths import replace_file
from repirl.types import Metrics

CONFIG_FILE, METRICS_FILE, DONE_FILE = "config.json", "metrics.jsonl", "done.json"


def write_json(path: Path, value: Any) -> None:
    """Write valid JSON atomically and durably: what is no number becomes null."""
    text = json.dumps(_finite(value), indent=1, sort_keys=True, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    """The value with None for every float that is no finite number, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Extension:
    """What of a run's identity may be more than it was: `at` is where the number of steps stands, `steps` what this run has in
    all, `scheduled` the settings by which every step depends on that number."""

    at: tuple[str, ...]
    steps: int
    scheduled: tuple[str, ...] = ()

    def added(self, stored: Any, now: Any) -> tuple[int, int] | None:
        """The number as it was and as it is, where it is more and nothing else differs; else None."""
        old, new = [*_inside(stored, self.at)], [*_inside(now, self.at)]
        if len(old) <= len(self.at) or len(new) <= len(self.at) or not isinstance(old[-1], int) or not old[-1] < new[-1]:
            return None
        return (old[-1], new[-1]) if _with(stored, self.at, new[-1]) == now else None


def _inside(value: Any, at: tuple[str, ...]) -> Iterator[Any]:
    """A value of objects, what is in it, and so on along `at`, as far as there is something."""
    yield value
    if at and isinstance(value, dict) and at[0] in value:
        yield from _inside(value[at[0]], at[1:])


def _with(value: Any, at: tuple[str, ...], leaf: Any) -> Any:
    return {**value, at[0]: _with(value[at[0]], at[1:], leaf)} if at else leaf


def _differing(stored: Any, now: Any, path: str = "") -> list[str]:
    """`loop.steps 4, now 7` for what differs, without the word `config` before a setting; of several the first three. Of
    digests and other long values there is the beginning."""
    if not (isinstance(stored, dict) and isinstance(now, dict)):
        return [] if stored == now else [f"{path.removeprefix('config.')} {str(stored)[:40]}, now {str(now)[:40]}"]
    inner = {key: f"{path}.{key}".strip(".") for key in {**stored, **now}}
    return [line for key, name in inner.items() for line in _differing(stored.get(key), now.get(key), name)][:3]


class RunFolder:
    """One training run on disk. Opening a folder in which a run of another configuration has begun is a UserError, unless it
    differs by more steps alone and `extension` allows that: then it goes on to these.

    With `keep_checkpoint` a finished run stays one that can go on. `on_log` is told every line of the metrics log.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        *,
        extension: Extension | None = None,
        keep_checkpoint: bool = False,
        on_log: Callable[[Metrics], None] | None = None,
    ) -> None:
        self.path, self.keep_checkpoint, self.on_log = path, keep_checkpoint, on_log
        path.mkdir(parents=True, exist_ok=True)
        if parallel.is_first():
            for litter in path.glob(".*.tmp"):  # of a process that was killed while it wrote
                litter.unlink()
        config = path / CONFIG_FILE
        identity = json.loads(json.dumps(identity))
        begun = any((path / name).exists() for name in (METRICS_FILE, CHECKPOINT_FILE, DONE_FILE)) or self._best_files()
        if begun and config.is_file() and (stored := json.loads(config.read_text())) != identity:
            added = None if extension is None else extension.added(stored, identity)
            if extension is None or added is None:
                what = f"the run folder holds a run with other settings ({'; '.join(_differing(stored, identity))})"
                raise UserError(what, str(path), "choose another folder or remove it")
            self._extend(extension, *added)
        write_json(config, identity)
        if self.done is not None and not keep_checkpoint:
            self._drop_what_resuming_needs()  # a kill right after it had finished

    def _extend(self, extension: Extension, was: int, now: int) -> None:
        """Open a run of `was` steps again, for `now`; UserError where that is not what `now` steps from the start had given."""
        done = self.done
        if done is not None and done["diagnostics"].get("step") == extension.steps:
            return  # a phase of its own length
        if extension.scheduled:
            what = f"a run of {was} steps cannot go on to {now}, as {', '.join(extension.scheduled)} depends on their number"
            rates = [f"--set {name}=constant" for name in extension.scheduled if name.endswith("schedule")]
            todo = "train anew in another folder" + (f", with {' '.join(rates)} if more steps may follow" if rates else "")
            raise UserError(what, str(self.path), todo)
        if done is not None and not has_checkpoint(self.path):
            what = f"the finished run of {was} steps kept no checkpoint from which it could go on to {now}"
            raise UserError(what, str(self.path), "train anew in another folder")
        parallel.barrier()
        if parallel.is_first():  # before its new settings are written: a kill in between leaves a run that can go on
            (self.path / DONE_FILE).unlink(missing_ok=True)

    @property
    def metrics_file(self) -> Path:
        """The log of metrics: one JSON object a line."""
        return self.path / METRICS_FILE

    @property
    def done(self) -> dict[str, Any] | None:
        """The summary of a finished run, None if it has not finished."""
        path = self.path / DONE_FILE
        return json.loads(path.read_text()) if path.is_file() else None

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished and drop what only resuming needs, unless it is kept."""
        write_json(self.path / DONE_FILE, summary)
        if not self.keep_checkpoint:
            self._drop_what_resuming_needs()

    def _drop_what_resuming_needs(self) -> None:
        drop_checkpoint(self.path)
        self.keep_best(None)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, None if there is none; metrics after it are cut off."""
        state = read_checkpoint(self.path)
        if state is None:
            if parallel.is_first():
                self.metrics_file.unlink(missing_ok=True)
            return None
        self._truncate_metrics(state["step"])
        return state

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """`state["step"]` is the number of completed steps."""
        write_checkpoint(self.path, state)

    def save_best(self, step: int, weights: dict[str, dict[str, torch.Tensor]]) -> None:
        """Weights of all modules after `step` steps, by the module's name. Those of other steps stay until `keep_best`."""
        save_torch(self._best_file(step), weights)

    def load_best(self, step: int) -> dict[str, dict[str, torch.Tensor]]:
        """What `save_best` kept of this step."""
        return torch.load(self._best_file(step), map_location="cpu", weights_only=True)

    def keep_best(self, step: int | None) -> None:
        """Drop the best weights of all other steps: called once a checkpoint says that this step is the best."""
        for path in self._best_files():
            if step is None or path != self._best_file(step):
                path.unlink(missing_ok=True)

    def _best_file(self, step: int) -> Path:
        return self.path / f"best-{step}.pt"

    def _best_files(self) -> list[Path]:
        return list(self.path.glob("best-*.pt"))

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to the metrics log; what is no number becomes null."""
        if self.on_log is not None:
            self.on_log(metrics)
        if not parallel.is_first():
            return
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(_finite(metrics), allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All logged lines; a half-written last line (a killed run) is dropped."""
        path = self.metrics_file
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines]

    def _truncate_metrics(self, steps: int) -> None:
        kept = [line for line in self.metrics() if line["step"] <= steps]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        replace_file(self.metrics_file, lambda file: file.write(text.encode()))
