"""`repirl bench SUITE`: the comparison, ending with the table."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.completing import suite_names
from repirl.cli.output import LINE_EVERY_S, JsonFlag, check_folder, emit, note, working

if TYPE_CHECKING:
    from repirl.bench.run import OnEvent


def register(app: typer.Typer) -> None:
    app.command("bench")(bench_command)


def bench_command(
    suite: Annotated[str, typer.Argument(help="A suite; see `repirl list suites`.", autocompletion=suite_names)],
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time.", show_default="one for each core")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only runs whose key starts with this (LABEL-STAGE-sSEED).")] = None,
    work: Annotated[Path | None, typer.Option(help="Run folders.", show_default="runs/SUITE beside the results")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of run records.", show_default="results/")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of methods and suites.")] = None,
    log: Annotated[str | None, typer.Option(help="Curves and samples go also to these of tensorboard,wandb,trackio.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which runs there are and which have a record; run none.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train and evaluate what a suite names, write records, rebuild the leaderboard, show the table.

    Runs that have a record are skipped, and interrupted ones continue.
    """
    from repirl import paths
    from repirl.bench.run import SuiteOptions, recorded_items, run_suite, selected
    from repirl.methods.trackers import known_trackers
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
        trackers=tuple(known_trackers(log)),
        command=command_line(),
    )
    items = selected(suite, options)
    if dry_run:
        recorded = recorded_items(suite, options, items)
        status = {item.key: "has a record" if item.key in recorded else "to run" for item in items}
        title = f"{suite}: {len(items)} runs, {len(recorded)} with a record"
        emit(as_json, {"suite": suite, "runs": status}, lambda: "\n".join([title, *(f"  {k}: {v}" for k, v in status.items())]))
        return
    with _events(suite, [item.key for item in items], options.jobs) as on_event:
        outcome = run_suite(suite, options, on_event)
    with working("tables"):
        pages = build_pages(results=results, folder=results.parent / "leaderboard", include=options.include)
        write_pages(pages)
    board = next((board for board in pages.boards if board.suite == suite), None)
    payload = {"suite": suite, "rows": [] if board is None else to_json_rows(board, results.parent)}
    order = [item.run.label for item in items]
    emit(as_json, payload, lambda: "no records yet" if board is None else to_terminal(board, order))
    note(f"policies and rewards: {os.path.relpath(options.work)}/RUN/")
    folder = os.path.relpath(pages.folder)
    note(f"records: {os.path.relpath(results / suite)}")
    note(f"table: {folder}/{suite}.md and .csv; page: {folder}/index.html")
    for key, why in outcome.failed.items():
        note(f"failed: {key}: {why}")
    if outcome.failed:
        raise typer.Exit(1)


class Standing:
    """Which of a suite's runs are done, and how long the others may take.

    Training is counted as four fifths of a run; the guess is that what is left goes as fast as what was done.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self.share = dict.fromkeys(keys, 0.0)
        self.ended = 0
        self.skipped = 0
        self.start = time.monotonic()

    def heard(self, event: Mapping[str, Any]) -> None:
        """Takes one event of `run_suite` in."""
        key, part = event["key"], event["part"]
        if part in ("skipped", "done", "failed"):
            self.share[key] = 1.0
            self.ended += 1
            self.skipped += part == "skipped"
        elif part == "train":
            self.share[key] = 0.8 * event["done"] / max(event["total"], 1)
        elif part != "remark":
            self.share[key] = max(self.share[key], 0.8)

    def left(self) -> str:
        """`about 3 min left`; empty until there is something to go by."""
        total, done = len(self.share) - self.skipped, sum(self.share.values()) - self.skipped
        elapsed = time.monotonic() - self.start
        if done < 0.1 or elapsed < 10.0 or done >= total:
            return ""
        seconds = elapsed * (total - done) / done
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def line(self) -> str:
        """How many runs have ended, and what is left."""
        return ", ".join(filter(None, (f"{self.ended} of {len(self.share)} runs", self.left())))


@contextmanager
def _events(suite: str, keys: Sequence[str], jobs: int) -> Iterator[OnEvent]:
    """Shows on stderr what will run and what the workers do: a bar for each on a terminal, elsewhere a line now and then."""
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
    say = lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)
    standing, started = Standing(keys), dict[str, float]()
    bars: dict[str, TaskID] = {}
    last_line = time.monotonic()
    console.print(
        f"{suite}: {len(keys)} run{'s' * (len(keys) > 1)}, {min(jobs, len(keys))} at a time: {', '.join(keys)}",
        markup=False,
        highlight=False,
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        whole = progress.add_task(suite, total=len(keys), said="")

        def on_event(event: dict[str, Any]) -> None:
            nonlocal last_line
            key, part = event["key"], event["part"]
            if part == "remark":
                say(f"{key}: {event['said']}")
                return
            standing.heard(event)
            progress.update(whole, completed=standing.ended, said=standing.left())
            if part in ("skipped", "failed", "done"):
                if key in bars:
                    progress.remove_task(bars.pop(key))
                took = f" in {time.monotonic() - started[key]:.0f} s" if key in started else ""
                said = {"skipped": "has a record", "failed": event.get("why", "failed"), "done": f"done{took}"}[part]
                say(f"run {standing.ended} of {len(keys)}: {key}: {said}")
                return
            started.setdefault(key, time.monotonic())
            if key not in bars:
                bars[key] = progress.add_task(key, said="")
            said = ", ".join(f"{name} {value:.3g}" for name, value in event.items() if isinstance(value, float))
            shown = f"{key}: {part}"
            progress.update(bars[key], description=shown, completed=event["done"], total=event["total"], said=said)
            if not console.is_terminal and time.monotonic() - last_line >= LINE_EVERY_S:
                last_line = time.monotonic()
                say(f"{standing.line()}; {shown} {event['done']} of {event['total']}")

        yield on_event
