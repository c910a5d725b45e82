"""`repirl leaderboard`: the generated tables, rebuilt from the records or checked against them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from repirl.cli.output import JsonFlag, check_folder, emit, note, working


def register(app: typer.Typer) -> None:
    app.command("leaderboard")(leaderboard_command)


def leaderboard_command(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file is stale.")] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the records as they are into their index (SHA256SUMS), and say what changed.")
    ] = False,
    results: Annotated[Path | None, typer.Option(help="Folder of run records.", show_default="results/")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables.", show_default="leaderboard/ beside it")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of suites.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rebuild the tables in leaderboard/ from results/."""
    from repirl.errors import UserError
    from repirl.paths import results_dir
    from repirl.reporting.leaderboard import build_pages, stale_files, write_pages

    if results is not None and not results.is_dir():
        raise UserError("no such folder of records", str(results))
    check_folder(out, "--out")
    if check and accept:
        raise UserError("--check writes nothing, --accept does", todo="give one of them")
    if accept:
        _accept(results or results_dir())
    with working("leaderboard"):
        pages = build_pages(results=results, folder=out, include=tuple(include or ()))
    folder = os.path.relpath(pages.folder)
    payload = {"folder": folder, "suites": [board.suite for board in pages.boards]}
    if check:
        stale = stale_files(pages)
        emit(as_json, payload | {"stale": stale}, lambda: f"{folder}: " + ("stale" if stale else "up to date"))
        for name in stale:
            known = name in pages.files or name in pages.figures
            note(f"{folder}/{name}: " + ("stale; run `repirl leaderboard`" if known else "no records for it; delete it"))
        if stale:
            raise typer.Exit(1)
        return
    written = [path.name for path in write_pages(pages)]
    changed = ", ".join(written) or "nothing changed"
    emit(as_json, payload | {"written": written}, lambda: f"{folder}: {changed}")


def _accept(results: Path) -> None:
    from repirl.records import index
    from repirl.records.store import suites_with_records

    for suite in suites_with_records(root=results):
        changes = index.accept(results / suite)
        for word in ("added", "changed", "gone"):
            for run_id in getattr(changes, word):
                note(f"{suite}/{run_id}: {word}")
