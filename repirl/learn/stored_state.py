"""A checkpoint on disk: `checkpoint.pt`, and beside it what is cut among processes, by torch's distributed checkpoint.

A run goes on with another number of processes: each takes its part of what the others wrote.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor

from repirl import parallel
from repirl.paths import replace_file

CHECKPOINT_FILE = "checkpoint.pt"
_PARTS = "checkpoint-"
"""Folders of what is cut begin with it; the number of steps follows."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Stands in `checkpoint.pt` for a tensor that lies in `folder`."""

    folder: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def save_torch(path: Path, value: Any) -> None:
    """torch.save, atomically and durably."""
    replace_file(path, lambda file: torch.save(value, file))


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Keep a state, in place of the one before it; `state["step"]` counts the completed steps."""
    cut: dict[str, Tensor] = {}
    name = f"{_PARTS}{state['step']}"
    small = _map_tensors(state, lambda tensor, path: _take_out(tensor, path, name, cut))
    if cut:
        from torch.distributed.checkpoint.state_dict_saver import save

        if parallel.is_first():
            shutil.rmtree(folder / name, ignore_errors=True)  # what a process wrote that was killed then
        parallel.barrier()
        save(cut, checkpoint_id=folder / name)
    save_torch(folder / CHECKPOINT_FILE, small)
    _drop_parts(folder, name if cut else None)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that was written last; None if there is none. What was cut is cut again, or whole in a single process."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    small = torch.load(path, weights_only=False, map_location="cpu")
    parts: dict[str, tuple[_Part, Tensor]] = {}
    _map_parts(small, lambda part: parts.setdefault(part.name, (part, parallel.empty(part.shape, part.dtype))))
    if parts:
        from torch.distributed.checkpoint.state_dict_loader import load

        tensors = {name: tensor for name, (_, tensor) in parts.items()}
        where = next(part.folder for part, _ in parts.values())
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # that a single process is one
            load(tensors, checkpoint_id=folder / where, no_dist=parallel.size() == 1)
    return _map_parts(small, lambda part: parts[part.name][1])


def has_checkpoint(folder: Path) -> bool:
    """Whether `read_checkpoint` would find a state."""
    return (folder / CHECKPOINT_FILE).is_file()


def drop_checkpoint(folder: Path) -> None:
    """Delete it, if there is one."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    _drop_parts(folder, None)


def _drop_parts(folder: Path, kept: str | None) -> None:
    if parallel.is_first():
        for path in folder.glob(f"{_PARTS}*"):
            if path.name != kept:
                shutil.rmtree(path)


def _take_out(tensor: Tensor, path: str, folder: str, cut: dict[str, Tensor]) -> Tensor | _Part:
    if not hasattr(tensor, "full_tensor"):
        return tensor
    cut[path] = tensor
    return _Part(folder, path, tuple(tensor.shape), tensor.dtype)


def _map_tensors(value: Any, change: Any, path: str = "") -> Any:
    if isinstance(value, Tensor):
        return change(value, path)
    return _inside(value, lambda inner, key: _map_tensors(inner, change, f"{path}/{key}"))


def _map_parts(value: Any, change: Any) -> Any:
    return change(value) if isinstance(value, _Part) else _inside(value, lambda inner, _: _map_parts(inner, change))


def _inside(value: Any, change: Any) -> Any:
    """A dictionary or list with every value changed, with its key; anything else as it is."""
    if isinstance(value, dict):
        return {key: change(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(change(inner, i) for i, inner in enumerate(value))
    return value
