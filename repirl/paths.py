"""Where content lives: the checkout first, then the copy that the wheel carries."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from repirl import parallel

PACKAGE_DIR = Path(__file__).resolve().parent
CHECKOUT_DIR = PACKAGE_DIR.parent
ASSETS_DIR = PACKAGE_DIR / "assets"


def is_checkout() -> bool:
    """True when the package runs from a source tree (and so has its content folders beside it)."""
    return (CHECKOUT_DIR / "pyproject.toml").is_file() and (CHECKOUT_DIR / "baselines").is_dir()


def content_dir(kind: str) -> Path:
    """Folder of shipped content: `baselines`, `benchmarks` or `leaderboard`."""
    return (CHECKOUT_DIR if is_checkout() else PACKAGE_DIR / "_content") / kind


def suite_files(include: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Files of suites of runs by name, sorted: of `benchmarks/suites/` first, then of `suites/` in the given folders."""
    folders = [content_dir("benchmarks") / "suites", *(Path(folder) / "suites" for folder in include)]
    found = {path.stem: path for folder in reversed(folders) if os.path.isdir(folder) for path in folder.glob("*.toml")}
    return dict(sorted(found.items()))


def results_dir() -> Path:
    """Default folder of run records: `$REPIRL_RESULTS`, else `results/` of the checkout or working folder."""
    if env := os.environ.get("REPIRL_RESULTS"):
        return Path(env)
    return (CHECKOUT_DIR if is_checkout() else Path.cwd()) / "results"


def shown(path: Path) -> str:
    """Path for a message: relative to the checkout where it lies in it."""
    return str(path.relative_to(CHECKOUT_DIR)) if path.is_relative_to(CHECKOUT_DIR) else str(path)


def link(target: Path, folder: Path) -> str:
    """How a page in `folder` refers to `target`: as the user named them, not through links of the file system."""
    return Path(os.path.relpath(os.path.abspath(target), os.path.abspath(folder))).as_posix()


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all: beside `path`, through to the disk, then renamed over it.

    Of several processes the first writes, and it is there for all when this returns. OSError naming `path` if that fails; the
    old file is then as it was, and nothing else is left.
    """
    if parallel.is_first():
        _replace(path, write)
    parallel.barrier()


def _replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    pending = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pending.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(pending, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except RuntimeError as error:  # torch's own word for a write that failed, or was interrupted
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise OSError(errno.EIO, str(error).split("\n")[0], str(path)) from error
    finally:
        pending.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Names in the folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
