"""Tables that never cut a name or a number: where the terminal is narrow, intervals go to a second line, then columns are left
out and named, and at the end each row is a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_TEXT_WIDTH = 20
"""A column of text may be as narrow as this, if its longest word is not longer."""
_FRAME = 3
"""Of each column: two spaces and a line; the table has one line more."""


class Sheet:
    """Rows of texts for Rich, which are laid out when the width is known.

    Columns in `texts` may be wrapped between words, all others are not. `below` says which column is written under which other
    where there is no room beside it; then columns of `optional` are left out, the first one first.
    """

    def __init__(
        self,
        *columns: str,
        title: str = "",
        texts: Sequence[str] = (),
        right: Sequence[str] = (),
        below: Mapping[str, str] | None = None,
        optional: Sequence[str] = (),
        header: bool = True,
    ) -> None:
        self.columns, self.title, self.texts, self.right = columns, title, frozenset(texts), frozenset(right)
        self.below, self.optional, self.header = dict(below or {}), list(optional), header
        self.rows: list[dict[str, str]] = []
        self.sections: set[int] = set()

    def add(self, *cells: str) -> None:
        """One row: a text for each column."""
        self.rows.append(dict(zip(self.columns, cells, strict=True)))

    def section(self) -> None:
        """A line under the last row."""
        self.sections.add(len(self.rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        columns = {name: [row[name] for row in self.rows] for name in self.columns}
        heads = {name: name if self.header else "" for name in self.columns}
        width = options.max_width
        for under, above in self.below.items():
            if not self._fits(columns, heads, width):
                columns[above] = [f"{a}\n{b}".rstrip() for a, b in zip(columns[above], columns.pop(under), strict=True)]
                heads[above] = f"{heads[above]}\n{heads.pop(under)}"
        left_out = []
        for name in self.optional:
            if name in columns and not self._fits(columns, heads, width):
                del columns[name]
                left_out.append(heads.pop(name).replace("\n", ", "))
        if self._fits(columns, heads, width):
            yield self._table(columns, heads, width)
        else:
            yield from self._lists()
            return
        if left_out:
            yield f"Left out at this width: {', '.join(left_out)} (--json has all)"

    def _fits(self, columns: Mapping[str, list[str]], heads: Mapping[str, str], width: int) -> bool:
        return sum(self._least(name, columns[name], heads[name]) + _FRAME for name in columns) < width

    def _least(self, name: str, cells: Sequence[str], head: str) -> int:
        """The smallest width of a column that cuts nothing."""
        words = _widest(word for text in (head, *(cells if name in self.texts else ())) for word in text.split())
        return max(words, min(_TEXT_WIDTH, _widest(cells)) if name in self.texts else _widest(_lines(cells)))

    def _table(self, columns: Mapping[str, list[str]], heads: Mapping[str, str], width: int) -> RenderableType:
        from rich.table import Table

        widths = {name: self._least(name, columns[name], heads[name]) for name in columns}
        wanted = {name: max(_widest(_lines(columns[name])), _widest(_lines([heads[name]]))) for name in columns}
        for _ in range(width - 1 - sum(one + _FRAME for one in widths.values())):
            name = max(widths, key=lambda one: wanted[one] - widths[one])
            widths[name] += wanted[name] > widths[name]
        table = Table(title=self.title or None, title_justify="left", show_header=self.header)
        for name in columns:
            table.add_column(heads[name], width=widths[name], justify="right" if name in self.right else "left")
        for i in range(len(self.rows)):
            table.add_row(*(cells[i] for cells in columns.values()), end_section=i + 1 in self.sections)
        return table

    def _lists(self) -> Iterator[RenderableType]:
        """Each row as lines `column: text`."""
        from rich.text import Text

        if self.title:
            yield Text(self.title, style="italic")
        for row in self.rows:
            (_, first), *others = row.items()
            yield Text(first, style="bold")
            for name, text in others:
                if text:
                    yield Text(f"  {name}: {' '.join(text.split())}")


def _lines(cells: Sequence[str]) -> list[str]:
    return [line for text in cells for line in text.split("\n")]


def _widest(texts: Any) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)
