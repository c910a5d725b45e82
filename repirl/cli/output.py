"""What a verb shows: one JSON object or a rendering on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one machine-readable object on stdout.")]
OnProgress = Callable[[int, int], None]


def emit(as_json: bool, payload: Mapping[str, Any], render: Callable[[], Any]) -> None:
    """Prints `payload` as one line of JSON, or what `render()` gives (anything that Rich can print)."""
    if as_json:
        sys.stdout.write(json.dumps(payload, ensure_ascii=False, allow_nan=False) + "\n")
        return
    from rich.console import Console

    # Rich reads the width of the terminal; in a pipe it would cut tables at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)
    console.print(render())


@contextmanager
def working(label: str) -> Iterator[OnProgress]:
    """For the time of the work, prints of libraries go to stderr, and progress is shown there.

    Yields `on_progress(done, total)`. Without a terminal nothing is drawn.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(label, total=None)

    def on_progress(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    with redirect_stdout(sys.stderr), bar:
        yield on_progress


def note(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)
