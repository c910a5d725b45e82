"""The command line's verbs, arguments and options are those of `cli_options.txt`, so that no change goes unseen.

After a wanted change, write the listing anew and commit it: WRITE_CLI_OPTIONS=1 python -m pytest tests/test_cli_options.py
"""

from __future__ import annotations

import difflib
import enum
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from repirl.cli.main import app
from repirl.cli.output import JsonFlag

LISTING = Path(__file__).parent / "cli_options.txt"


def listing(of: typer.Typer) -> list[str]:
    """A line for each verb, and for each of its arguments and options: `verb names: type, default`.

    Verbs and options are in alphabetical order, arguments in their own. Names are those of the parser that typer makes; types,
    bounds and defaults are those of the signatures: no rendered text is read.
    """
    parser: Any = typer.main.get_command(of)
    verbs = {verb.name: verb.callback for verb in of.registered_commands}
    lines = list(_lines("", parser.params, of.registered_callback.callback)) if of.registered_callback else []
    for verb, command in sorted(parser.commands.items()):
        lines += [verb, *_lines(f"{verb} ", command.params, verbs[verb])]
    return lines


def _lines(prefix: str, parameters: list[Any], callback: Callable[..., Any]) -> Iterator[str]:
    hints = typing.get_type_hints(callback, include_extras=True)
    defaults = {name: parameter.default for name, parameter in inspect.signature(callback).parameters.items()}
    parameters = [parameter for parameter in parameters if parameter.name in hints]  # typer's own install the completion
    is_option = {parameter.name: parameter.opts[0].startswith("-") for parameter in parameters}
    for parameter in sorted(parameters, key=lambda one: (is_option[one.name], is_option[one.name] and one.opts)):
        hint, default = hints[parameter.name], defaults[parameter.name]
        if typing.get_origin(hint) is Annotated:
            hint, info = typing.get_args(hint)
        else:  # the older style, with typer's description in place of the default
            info, default = default, default.default
        names = "/".join((*parameter.opts, *parameter.secondary_opts)) if is_option[parameter.name] else parameter.name.upper()
        if parameter.required:
            given = "required"
        elif default is None:
            given = "optional"
        else:
            given = f"default {default.value if isinstance(default, enum.Enum) else default}"
        low, high = ("" if bound is None else f" {word} {bound}" for word, bound in (("from", info.min), ("to", info.max)))
        yield f"{prefix}{names}: {_type(hint)}{low}{high}, {given}"


def _type(hint: Any) -> str:
    """`int` for `int | None`, `str...` for `list[str]`, the values of an enumeration."""
    if isinstance(hint, types.UnionType):
        (hint,) = [one for one in typing.get_args(hint) if one is not types.NoneType]
    if typing.get_origin(hint) is list:
        return f"{_type(typing.get_args(hint)[0])}..."
    return "|".join(str(one.value) for one in hint) if issubclass(hint, enum.Enum) else hint.__name__


def test_options_are_those_of_the_listing() -> None:
    found = listing(app)
    if os.environ.get("WRITE_CLI_OPTIONS"):
        LISTING.write_text("\n".join(found) + "\n", encoding="utf-8")
    frozen = LISTING.read_text(encoding="utf-8").splitlines()
    # Without the two lines of file names and the places of the changes.
    changes = [line for line in [*difflib.unified_diff(frozen, found, lineterm="", n=0)][2:] if not line.startswith("@@")]
    if changes:
        again = f"if this is wanted: WRITE_CLI_OPTIONS=1 python -m pytest tests/{Path(__file__).name}"
        pytest.fail("\n".join([f"the command line is not that of {LISTING.name}:", *changes, again]), pytrace=False)


class Colour(enum.StrEnum):
    red = "red"
    dark_blue = "dark-blue"


def test_the_listing_says_all_that_a_caller_depends_on() -> None:
    toy = typer.Typer(add_completion=False)

    @toy.callback()
    def root(version: bool = typer.Option(False, "--version", "-V")) -> None: ...

    @toy.command("paint")
    def paint(
        wall: Annotated[str, typer.Argument()],
        colour: Annotated[Colour | None, typer.Argument()] = None,
        out: Annotated[Path | None, typer.Option()] = None,
        coats: Annotated[int, typer.Option(min=1, max=9)] = 2,
        two_sided: Annotated[bool, typer.Option()] = True,
        tint: Annotated[Colour, typer.Option("--tint", "-t")] = Colour.dark_blue,
        as_json: JsonFlag = False,
    ) -> None: ...

    @toy.command("bare")
    def bare(
        given: Annotated[list[str], typer.Option("--these")],
        share: Annotated[float, typer.Option(max=1)] = 0.5,
    ) -> None: ...

    @toy.command("still")
    def still() -> None: ...

    assert listing(toy) == [
        "--version/-V: bool, default False",
        "bare",
        "bare --share: float to 1, default 0.5",
        "bare --these: str..., required",
        "paint",
        "paint WALL: str, required",
        "paint COLOUR: red|dark-blue, optional",
        "paint --coats: int from 1 to 9, default 2",
        "paint --json: bool, default False",
        "paint --out: Path, optional",
        "paint --tint/-t: red|dark-blue, default dark-blue",
        "paint --two-sided/--no-two-sided: bool, default True",
        "still",
    ]
