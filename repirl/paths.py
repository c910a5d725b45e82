"""Where content lives: the checkout first, then the copy that the wheel carries."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent
CHECKOUT_DIR = PACKAGE_DIR.parent
ASSETS_DIR = PACKAGE_DIR / "assets"


def is_checkout() -> bool:
    """True when the package runs from a source tree (and so has its content folders beside it)."""
    return (CHECKOUT_DIR / "pyproject.toml").is_file() and (CHECKOUT_DIR / "baselines").is_dir()


def content_dir(kind: str) -> Path:
    """Folder of shipped content: `baselines`, `benchmarks` or `leaderboard`."""
    return (CHECKOUT_DIR if is_checkout() else PACKAGE_DIR / "_content") / kind


def results_dir() -> Path:
    """Default folder of run records: `$REPIRL_RESULTS`, else `results/` of the checkout or working folder."""
    if env := os.environ.get("REPIRL_RESULTS"):
        return Path(env)
    return (CHECKOUT_DIR if is_checkout() else Path.cwd()) / "results"
