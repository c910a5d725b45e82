"""Going on with a run to more steps than it was begun with: where that gives what more steps from the start had given."""

from __future__ import annotations

from collections.abc import Iterator

from repirl.config import Config
from repirl.learn.checkpoint import Extension


def extension_of(config: Config, steps: int) -> Extension | None:
    """What of `config` may become more for a run of `steps`; None where it does not say how many there are."""
    parts = {"loop.steps": getattr(config, "loop", None), "steps": config}
    for at, part in parts.items():
        if getattr(part, "steps", None) == steps:
            return Extension(("config", *at.split(".")), steps, tuple(_scheduled(config, "", at)))
    return None


def beside_loop(config: Config, steps: int) -> Extension | None:
    """The same of a phase of `steps` beside the policy's training, whose length is another matter."""
    loop = getattr(config, "loop", None)
    return None if loop is None else Extension(("config", "loop", "steps"), steps, ())


def _scheduled(node: Config, path: str, at: str) -> Iterator[str]:
    """Settings that depend on the number of steps `at`, in parts without such a number of their own."""
    if "steps" in type(node).model_fields and path and f"{path}steps" != at:
        return
    yield from (path + name for name in node.scheduled())
    for name in type(node).model_fields:
        if isinstance(inner := getattr(node, name), Config):
            yield from _scheduled(inner, f"{path}{name}.", at)
