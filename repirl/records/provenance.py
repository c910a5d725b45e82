"""Where a number comes from: commit, package versions, hardware, command; without naming the machine or its user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repirl import paths
from repirl.records.schema import Hardware, is_machine_path

# Only what can change a number: an edited README, test or generated table does not make a run dirty.
CODE_PATHS = ("repirl", "baselines", "benchmarks", "pyproject.toml", "constraints.txt")
PACKAGES = (
    "repirl",
    "torch",
    "transformers",
    "numpy",
    "lm-eval",
    "datasets",
    "math-verify",
    "sympy",
    "tokenizers",
    "safetensors",
    "vllm",
    "trl",
)


@dataclass(frozen=True, slots=True)
class Commit:
    """`sha` None: not in a git checkout of this project, or no git; then `dirty` is None too."""

    sha: str | None
    dirty: bool | None


def git_commit(root: Path | None = None) -> Commit:
    """Commit of the checkout at `root` (default: this one), and whether code in it was changed or is untracked."""
    root = root or paths.CHECKOUT_DIR
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed copy may lie inside some other project's repository.
    if top is None or Path(top).resolve() != root.resolve():
        return Commit(None, None)
    sha = _git(root, "rev-parse", "--verify", "HEAD")
    status = _git(root, "status", "--porcelain", "--", *CODE_PATHS)
    return Commit(None, None) if sha is None or status is None else Commit(sha, bool(status))


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a number."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> Hardware:
    """CPU model, usable cores, memory in GiB, GPU model (imports torch to ask for it)."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory_gib = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        memory_gib = None
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return Hardware(cpu=_cpu_model(), cores=cores, memory_gib=memory_gib, gpu=gpu)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def python_version() -> str:
    return platform.python_version()


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command as one could type it in the checkout: `repirl bench tiny`."""
    words = (sys.argv if argv is None else argv)[1:]
    return shlex.join(["repirl", *(_portable_word(word) for word in words)])


def _portable_word(word: str) -> str:
    option, sign, value = word.partition("=")
    return f"{option}={portable(value)}" if sign and option.startswith("--") else portable(word)


def portable(value: Any) -> Any:
    """`value` (JSON-like) with absolute paths made relative to the checkout.

    A path further away than the checkout's neighbours keeps its last name only, as `<outside>/name`: what
    lies above it says nothing to others and may hold a user's name.
    """
    if isinstance(value, dict):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [portable(inner) for inner in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not is_machine_path(value):
        return value
    base = paths.CHECKOUT_DIR if paths.is_checkout() else Path.cwd()
    path = Path(value).expanduser()
    if path.is_relative_to(base.parent):
        return Path(os.path.relpath(path, base)).as_posix()
    return f"<outside>/{path.name}"
