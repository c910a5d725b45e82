"""In which precision the forward passes of training run: float32 weights, and matrix products in bfloat16 if asked for.

Steps of 5e-7 are lost in bfloat16 weights (half a unit in the last place of 0.01 is 3e-5), so weights, gradients and
optimiser stay in float32 and autocast makes the lower precision. It is entered for each forward pass: its cache of
lowered weights lives as long as it, and must not outlive an optimiser step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from repirl.errors import UserError

TRAINING_DTYPES = ("float32", "bfloat16")

_training_dtype: ContextVar[str] = ContextVar("training_dtype", default="float32")


@contextmanager
def training_in(dtype: str) -> Iterator[None]:
    """Forward passes of training run in `dtype` for the while; UserError for one that training does not know."""
    if dtype not in TRAINING_DTYPES:
        raise UserError("unknown precision for training", dtype, f"use one of {', '.join(TRAINING_DTYPES)}")
    token = _training_dtype.set(dtype)
    try:
        yield
    finally:
        _training_dtype.reset(token)


def training_dtype() -> str:
    """The dtype of forward passes now; `float32` unless `training_in` says otherwise."""
    return _training_dtype.get()


def lowered(device_type: str) -> AbstractContextManager[object]:
    """Context of one forward pass on a device of this type."""
    if training_dtype() == "float32":
        return nullcontext()
    import torch

    return torch.autocast(device_type, getattr(torch, training_dtype()))
