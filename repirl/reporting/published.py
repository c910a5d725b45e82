"""The numbers that the paper printed, from `leaderboard/published.toml`; always shown apart from our own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from repirl import paths
from repirl.errors import UserError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Footnote(_Strict):
    id: str
    text: str


class PublishedRow(_Strict):
    name: str
    values: tuple[float, ...]
    footnotes: tuple[str, ...] = ()


class PublishedTable(_Strict):
    """One table as printed; `footnotes` are about all of it."""

    id: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    footnotes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(f"row {row.name} has {len(row.values)} values for {len(self.columns)} columns")
        return self


class Published(_Strict):
    source: str
    decoding: str
    footnote: tuple[Footnote, ...]
    table: tuple[PublishedTable, ...]

    @model_validator(mode="after")
    def _footnotes_exist(self) -> Self:
        used = {note for table in self.table for note in table.footnotes}
        used |= {note for table in self.table for row in table.rows for note in row.footnotes}
        if used != {note.id for note in self.footnote}:
            raise ValueError("footnotes used and footnotes given differ")
        return self


def load_published(path: Path | None = None) -> Published:
    """Reads and checks the file. Raises UserError naming it."""
    path = path or paths.content_dir("leaderboard") / "published.toml"
    try:
        return Published.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as fault:
        raise UserError("no published numbers", str(path), fault.strerror or "") from fault
    except ValidationError as fault:
        raise UserError("malformed published numbers", str(path), fault.errors()[0]["msg"]) from fault
    except tomllib.TOMLDecodeError as fault:
        raise UserError("malformed published numbers", str(path), str(fault)) from fault


def render_published(published: Published) -> list[str]:
    """Markdown lines: a heading that says whose numbers they are, the tables, the footnotes."""
    number = {note.id: index for index, note in enumerate(published.footnote, start=1)}
    marks = lambda notes: "".join(f"<sup>{number[note]}</sup>" for note in notes)
    lines = [
        "## The paper's numbers (published, not measured here)",
        "",
        f"From {published.source}; {published.decoding}. Other models, data and budgets than our rows: not comparable.",
    ]
    for table in published.table:
        lines += ["", f"### {table.title}{marks(table.footnotes)}", ""]
        lines += markdown_table(
            ["published", *table.columns],
            [[row.name + marks(row.footnotes), *(f"{value:.1f}" for value in row.values)] for row in table.rows],
        )
    lines.append("")
    lines += [f"{number[note.id]}. {note.text}" for note in published.footnote]
    return lines


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A pipe table: first column left, the others right aligned."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    rule = "|---|" + "---:|" * (len(header) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in escaped]
    return [lines[0], rule, *lines[1:]]
