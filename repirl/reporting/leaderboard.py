"""The generated files of `leaderboard/`: one page and one CSV for each suite, the index, and the page of all (`page.py`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repirl import paths
from repirl.bench.known import same_method
from repirl.bench.suites import load_suite, plan, suite_names
from repirl.records import index, store
from repirl.reporting.board import Board
from repirl.reporting.collect import collect
from repirl.reporting.figures import KINDS, of_board
from repirl.reporting.flat import to_csv
from repirl.reporting.forest import Forest
from repirl.reporting.markdown import to_markdown
from repirl.reporting.page import PAGE, PROBLEMS_SHOWN, render
from repirl.reporting.plots import Figure, digest_in
from repirl.reporting.published import load_published, render_published
from repirl.reporting.text import column_labels, evidence, finding
from repirl.reporting.transitions import Bars

# Suites whose results and pages are each user's own (git ignores them): they are not in the committed index.
LOCAL_SUITES = frozenset({"tiny"})
INDEX = "README.md"
_HEADLINES = 3
"""So many findings of each suite are in the index; all are on its page."""


@dataclass(frozen=True, slots=True)
class Pages:
    """File name -> content, and that of pictures -> figure, to be written into `folder`; `boards` they were made from, with
    suites of the folders `include`."""

    folder: Path
    files: dict[str, str]
    figures: dict[str, Figure | Forest | Bars]
    boards: tuple[Board, ...]
    include: tuple[str | Path, ...] = ()


def leaderboard_dir(results: Path | None = None) -> Path:
    """Where pages go: `leaderboard/` beside the results, where the user sees them (they may be a link)."""
    return Path(os.path.abspath(results or paths.results_dir())).parent / "leaderboard"


def build_board(suite: str, *, results: Path | None = None, include: Sequence[str | Path] = ()) -> Board:
    """The board of one suite's verified records. Raises UserError on a corrupt one.

    Which differences it states is in the suite's file, looked for in `include` too; without a file there are none.
    """
    runs = store.find(suite, root=results)
    index.check_complete((results or paths.results_dir()) / suite)
    if suite not in suite_names(include):
        return collect(suite, runs)
    told = load_suite(suite, include)
    said = {"title": told.title, "settings": {run.label: run.set for run in told.runs}}
    if not told.shares:
        return collect(suite, runs, told.contrasts, told.baseline, **said)
    planned = {item.key: item for item in plan(suite, told)}
    for other in told.shares:
        missing = planned.keys() - {run.record.key for run in runs}
        others = [run for run in store.find(other, root=results) if run.record.key in missing]
        runs += [run for run in others if same_method(planned[run.record.key], run.record, tuple(map(str, include)))]
    return collect(suite, runs, told.contrasts, told.baseline, told.evaluated, **said)


def build_pages(*, results: Path | None = None, folder: Path | None = None, include: Sequence[str | Path] = ()) -> Pages:
    """All pages, from all records under `results` (default: the project's)."""
    folder = folder or leaderboard_dir(results)
    suites = store.suites_with_records(root=results)
    boards = tuple(build_board(suite, results=results, include=include) for suite in suites)
    files = {INDEX: _index(boards)}
    figures: dict[str, Figure | Forest | Bars] = {}
    for board in boards:
        own = {f"{board.suite}-{name}.svg": figure for name, figure in of_board(board).items()}
        files[f"{board.suite}.md"] = to_markdown(board, folder, list(own))
        files[f"{board.suite}.csv"] = to_csv(board, folder)
        figures |= own
    return Pages(folder, files, figures, boards, tuple(include))


def stale_files(pages: Pages) -> list[str]:
    """Names of files that are missing, differ from what the records give, or belong to a (shared) suite without records."""
    present = {path.name for suffix in ("md", "csv", "svg") for path in pages.folder.glob(f"*.{suffix}")}
    orphans = {name for name in present if not _is_local(name)} - pages.files.keys() - pages.figures.keys()
    return sorted([*_changed(pages), *orphans])


def _changed(pages: Pages) -> list[str]:
    """Pages whose text, and pictures of which what they were drawn from, is not what the records give."""
    texts = [name for name, text in pages.files.items() if _read(pages.folder / name) != text.encode()]
    drawn = {name: digest_in((_read(pages.folder / name) or b"").decode(errors="replace")) for name in pages.figures}
    return texts + [name for name, figure in pages.figures.items() if drawn[name] != figure.digest]


def _is_local(name: str) -> bool:
    return any(name.startswith((f"{suite}.", *(f"{suite}-{kind}" for kind in KINDS))) for suite in LOCAL_SUITES)


def write_pages(pages: Pages, problems: int | None = PROBLEMS_SHOWN) -> list[Path]:
    """Writes each file that differs (through a temporary one); returns the paths written. Removes nothing.

    Also `index.html`, which git ignores, with completions of `problems` problems (None: of all).
    """
    pages.folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name in _changed(pages):
        written.append(_write(pages.folder / name, pages.files[name] if name in pages.files else pages.figures[name].svg()))
    pictures = {name: (pages.folder / name).read_text(encoding="utf-8") for name in pages.figures}
    page = render(pages.boards, pages.folder, pictures, pages.include, problems)
    if _read(pages.folder / PAGE) != page.encode():
        written.append(_write(pages.folder / PAGE, page))
    return written


def _write(path: Path, text: str) -> Path:
    paths.replace_file(path, lambda file: file.write(text.encode()))
    return path


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _headlines(board: Board) -> list[str]:
    """The first findings of the suite's first stage: those against its baseline, where there are such."""
    labels = column_labels(board.columns)
    stage = board.stages[0]
    kept = [d for d in board.differences if d.stage == stage and d.column in board.primary_of(stage)]
    main = [d for d in kept if d.worse.label == board.baseline] or kept
    return [f"  - **{finding(d)}** in {evidence(d, labels, stage=False)}" for d in main[:_HEADLINES]]


def _index(boards: tuple[Board, ...]) -> str:
    shared = [board for board in boards if board.suite not in LOCAL_SUITES]
    lines = [
        "# Leaderboard",
        "",
        "Made by `repirl leaderboard` from the run records in `results/`; not edited by hand.",
        "`repirl leaderboard --check` says whether it is up to date. `index.html`, which it also makes and git does not keep,",
        "is all of it for a browser: rows, records and samples, to sort, filter and compare.",
        "",
        "## Measured here",
        "",
    ]
    lines += [
        line
        for board in shared
        for line in (
            f"- [{board.suite}]({board.suite}.md) ([CSV]({board.suite}.csv)), {len(board.rows)} rows, "
            f"{sum(len(row.runs) for row in board.rows)} runs: {board.title}.",
            *_headlines(board),
        )
    ]
    local = ", ".join(f"`{name}`" for name in sorted(LOCAL_SUITES))
    lines += [f"- {local}: made on your machine by `make bench`; not kept in git", ""]
    return "\n".join([*lines, *render_published(load_published())]) + "\n"
