"""Tables in narrow terminals: no name and no number is cut, and what is left out is named."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from repirl.cli import main as cli
from repirl.cli.listing import Listed
from repirl.cli.tables import Sheet


def printed(sheet: Sheet, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, markup=False).print(sheet)
    return out.getvalue()


def results() -> Sheet:
    sheet = Sheet("run", "value", "interval", "cost", "note", below={"interval": "value"}, texts=("note",), optional=("cost",))
    sheet.add("a-rather-long-name-of-a-run", "0.123", "[0.100, 0.150]", "1,234,567", "ends where it began, or nearly")
    return sheet


def test_intervals_go_below_then_columns_are_left_out_and_named() -> None:
    wide, at_90, at_75, narrow = (printed(results(), width) for width in (140, 90, 75, 40))
    assert re.search(r"0\.123\W+\[0\.100, 0\.150\]\W+1,234,567\W+ends where it began, or nearly", wide)
    for text in (at_90, at_75):  # the interval stands on the second line
        (first,) = [line for line in text.splitlines() if "0.123" in line]
        assert "[0.100" not in first
        assert "[0.100, 0.150]" in text
    assert "1,234,567" in at_90
    assert "1,234,567" not in at_75
    assert "Left out at this width: cost" in at_75
    assert narrow.splitlines()[0] == "a-rather-long-name-of-a-run"
    assert "  interval: [0.100, 0.150]" in narrow
    for text, width in ((wide, 140), (at_90, 90), (at_75, 75)):
        assert all(len(line) <= width for line in text.splitlines())
        assert "a-rather-long-name-of-a-run" in text


def test_texts_wrap_between_words_only() -> None:
    text = printed(results(), 75)
    for word in ["ends", "where", "it", "began,", "or", "nearly"]:
        assert word in text


def test_a_line_is_drawn_under_a_section() -> None:
    sheet = Sheet("seed", "kept")
    sheet.add("0", "0.25")
    sheet.section()
    sheet.add("mean", "0.25")
    lines = printed(sheet, 40).splitlines()
    assert lines.index(next(line for line in lines if "mean" in line)) - lines.index(next(x for x in lines if "│ 0 " in x)) == 2


@pytest.mark.parametrize("width", [60, 80, 120])
def test_list_cuts_no_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.run(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {one.value for one in Listed}
    assert cli.run(["list"]) == 0
    shown = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= width
    words = set(shown.split())
    for entries in found.values():
        assert {entry["name"] for entry in entries} <= words
