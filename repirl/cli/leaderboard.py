"""`repirl leaderboard`: the generated tables and the page, rebuilt from the records or checked against them."""

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
    page_samples: Annotated[
        str | None,
        typer.Option(
            metavar="N|all", help="Problems of each benchmark whose completions the page has, of every run.", show_default="24"
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rebuild the tables and the page (index.html, to open in a browser) in leaderboard/ from results/."""
    from repirl.errors import UserError
    from repirl.paths import results_dir
    from repirl.reporting.leaderboard import build_pages, stale_files, write_pages
    from repirl.reporting.page import PAGE

    if results is not None and not results.is_dir():
        raise UserError("no such folder of records", str(results))
    check_folder(out, "--out")
    problems = _problems(page_samples)
    if check and accept:
        raise UserError("--check writes nothing, --accept does", todo="give one of them")
    if accept:
        _accept(results or results_dir())
    with working("leaderboard"):
        pages = build_pages(results=results, folder=out, include=tuple(include or ()))
        written = [] if check else write_pages(pages, problems)
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
    names = [path.name for path in written]
    changed = ", ".join(names) or "nothing changed"
    page = f"{folder}/{PAGE}"
    emit(as_json, payload | {"written": names, "page": page}, lambda: f"{folder}: {changed}\nThe page, for a browser: {page}")


def _problems(asked: str | None) -> int | None:
    """What `--page-samples` says; None: all."""
    from repirl.errors import UserError
    from repirl.reporting.page import PROBLEMS_SHOWN

    if asked is None:
        return PROBLEMS_SHOWN
    if asked != "all" and not (asked.isascii() and asked.isdigit()):
        raise UserError("--page-samples takes a whole number or `all`", asked)
    return None if asked == "all" else int(asked)


def _accept(results: Path) -> None:
    from repirl.records import index
    from repirl.records.store import suites_with_records

    for suite in suites_with_records(root=results):
        changes = index.accept(results / suite)
        for word in ("added", "changed", "gone"):
            for run_id in getattr(changes, word):
                note(f"{suite}/{run_id}: {word}")
