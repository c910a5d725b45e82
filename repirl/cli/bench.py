"""`repirl bench SUITE`: the comparison, ending with the table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.output import JsonFlag, check_folder, emit, note

if TYPE_CHECKING:
    from repirl.bench.run import OnEvent


def register(app: typer.Typer) -> None:
    app.command("bench")(bench_command)


def bench_command(
    suite: Annotated[str, typer.Argument(help="A suite; see `repirl list suites`.")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time.", show_default="one for each core")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only runs whose key starts with this (LABEL-STAGE-sSEED).")] = None,
    work: Annotated[Path | None, typer.Option(help="Run folders.", show_default="runs/SUITE beside the results")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of run records.", show_default="results/")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of methods and suites.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train and evaluate what a suite names, write records, rebuild the leaderboard, show the table.

    Runs that have a record are skipped, and interrupted ones continue.
    """
    from repirl import paths
    from repirl.bench.run import SuiteOptions, run_suite
    from repirl.records.provenance import command_line
    from repirl.reporting.flat import to_json_rows
    from repirl.reporting.leaderboard import build_pages, write_pages
    from repirl.reporting.terminal import to_terminal

    check_folder(work, "--work")
    check_folder(results, "--results")
    results = Path(os.path.abspath(results or paths.results_dir()))
    options = SuiteOptions(
        work=work or results.parent / "runs" / suite,
        results=results,
        jobs=jobs or len(os.sched_getaffinity(0)),
        only=tuple(only or ()),
        include=tuple(map(str, include or ())),
        data_dir=data_dir,
        command=command_line(),
    )
    with _events() as on_event:
        outcome = run_suite(suite, options, on_event)
    pages = build_pages(results=results, folder=results.parent / "leaderboard", include=options.include)
    write_pages(pages)
    board = next((board for board in pages.boards if board.suite == suite), None)
    payload = {"suite": suite, "rows": [] if board is None else to_json_rows(board, results.parent)}
    emit(as_json, payload, lambda: "no records yet" if board is None else to_terminal(board))
    note(f"records: {os.path.relpath(results / suite)}; table: {os.path.relpath(pages.folder / suite)}.md and .csv")
    for key, why in outcome.failed.items():
        note(f"failed: {key}: {why}")
    if outcome.failed:
        raise typer.Exit(1)


@contextmanager
def _events() -> Iterator[OnEvent]:
    """Shows what the workers do on stderr: a bar for each on a terminal, else a line when one ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}"),
    )
    console = Console(stderr=True)
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def on_event(event: dict[str, Any]) -> None:
            key, part = event["key"], event["part"]
            if part == "remark":
                console.print(f"{key}: {event['said']}", markup=False, highlight=False, soft_wrap=True)
                return
            if part in ("skipped", "failed", "done"):
                if key in bars:
                    progress.remove_task(bars.pop(key))
                said = {"skipped": "has a record", "failed": event.get("why", "failed"), "done": "done"}[part]
                console.print(f"{key}: {said}", markup=False, highlight=False)
                return
            if key not in bars:
                bars[key] = progress.add_task(key, said="")
            said = ", ".join(f"{name} {value:.3g}" for name, value in event.items() if isinstance(value, float))
            shown = f"{key}: {part}"
            progress.update(bars[key], description=shown, completed=event["done"], total=event["total"], said=said)

        yield on_event
