"""What a verb shows: one JSON object or a rendering on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from repirl import parallel
from repirl.errors import UserError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one machine-readable object on stdout.")]


class OnProgress(Protocol):
    """Told how much of a part of the work is done; the last part need not have a name."""

    def __call__(self, done: int, total: int, part: str = "") -> None: ...


LINE_EVERY_S = 15.0
"""Where stderr is a file or a pipe, progress is a line this often."""


def emit(as_json: bool, payload: Mapping[str, Any], render: Callable[[], Any]) -> None:
    """Prints `payload` as one line of JSON, or what `render()` gives (anything that Rich can print); of several processes that
    work together the first does."""
    if not parallel.is_first():
        return
    if as_json:
        sys.stdout.write(json.dumps(payload, ensure_ascii=False, allow_nan=False) + "\n")
        return
    from rich.console import Console

    console = Console(width=_width(), highlight=False, markup=False)
    console.print(render())


def _width() -> int | None:
    """None: that of the terminal. In a pipe what COLUMNS says, else wide: tables would be cut at 80 columns there."""
    asked = os.environ.get("COLUMNS", "")
    return None if sys.stdout.isatty() else int(asked) if asked.isdecimal() and int(asked) else 160


@contextmanager
def working(label: str) -> Iterator[OnProgress]:
    """For the time of the work, prints of libraries go to stderr, and progress is shown there.

    Yields `on_progress(done, total)`: a bar on a terminal, elsewhere a line every `LINE_EVERY_S` seconds, with the seconds
    where nothing was said yet.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and parallel.is_first()))
    task = bar.add_task(label, total=None)

    started, said = time.monotonic(), ""

    def on_progress(done: int, total: int, part: str = "") -> None:
        nonlocal said
        what = f"{label}, {part}" if part else label
        bar.update(task, description=what, completed=done, total=total)
        said = f"{what}: {done} of {total}"

    def keep_saying(ended: threading.Event) -> None:
        before = ""
        while not ended.wait(LINE_EVERY_S):
            elapsed = time.monotonic() - started
            now = said or (f"{label}: {elapsed:.0f} s" if elapsed >= 2 * LINE_EVERY_S else "")
            if now != before:
                note(now)
            before = now

    ended = threading.Event()
    speaker = threading.Thread(target=keep_saying, args=(ended,), daemon=True)
    if parallel.is_first() and not console.is_terminal:
        speaker.start()
    try:
        with redirect_stdout(sys.stderr), bar:
            yield on_progress
    finally:
        ended.set()


def note(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def check_folder(path: Path | None, option: str) -> None:
    """UserError if a folder cannot be at `path`, because it or something above it is a file."""
    if path is None:
        return
    above = path.expanduser().absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise UserError(f"{option} must be a folder, and there is a file", str(path), "give another one")


def check_output(path: Path | None, option: str, inputs: Iterable[str | Path] = ()) -> None:
    """UserError if a file cannot be written at `path`, or if it is one of the files that are read."""
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"{option} must be a file in a folder that there is", str(path))
    if path.exists() and any(Path(given).exists() and path.samefile(given) for given in inputs):
        raise UserError(f"{option} would write over the file that is read", str(path), "give another file")
