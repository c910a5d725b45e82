"""Run folders: atomic checkpoints and a metrics log that a killed run continues exactly.

A folder holds `config.json` (what the run is), `checkpoint.pt` (after the last completed step), `best-STEP.pt` (weights of
the best validation: of the policy, and of the reward as it was then), `metrics.jsonl`, and at the end `policy/`, `reward/`
and `done.json`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from repirl import parallel
from repirl.errors import UserError
from repirl.learn.stored_state import drop_checkpoint, read_checkpoint, save_torch, write_checkpoint
from repirl.paths import replace_file


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


class RunFolder:
    """One training run on disk. Opening a folder in which a run of another configuration has begun is a UserError."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if parallel.is_first():
            for litter in path.glob(".*.tmp"):  # of a process that was killed while it wrote
                litter.unlink()
        config = path / "config.json"
        identity = json.loads(json.dumps(identity))
        begun = any((path / name).exists() for name in ("metrics.jsonl", "checkpoint.pt", "done.json")) or self._best_files()
        if begun and config.is_file() and json.loads(config.read_text()) != identity:
            raise UserError("the run folder holds a run with other settings", str(path), "choose another folder or remove it")
        write_json(config, identity)
        if self.done is not None:
            self._drop_what_resuming_needs()  # a kill right after it had finished

    @property
    def metrics_file(self) -> Path:
        """The log of metrics: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def done(self) -> dict[str, Any] | None:
        """The summary of a finished run, None if it has not finished."""
        path = self.path / "done.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished and drop what only resuming needs."""
        write_json(self.path / "done.json", summary)
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
