"""`repirl show`: a method, and a recipe of it with what each setting means."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.completing import method_names
from repirl.cli.output import JsonFlag, emit, working
from repirl.cli.tables import Sheet

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Group


def register(app: typer.Typer) -> None:
    app.command("show")(show_command)


def show_command(
    method: Annotated[str, typer.Argument(help="A method; see `repirl list methods`.", autocompletion=method_names)],
    recipe: Annotated[str, typer.Argument(help="Which of its recipes.")] = "tiny",
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of methods.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show METHOD: where it comes from, what it needs and yields, and a RECIPE with what each setting means."""
    from repirl.methods.registry import described, load_method

    with working("looking"):
        chosen = load_method(method, tuple(map(str, include or ())))
        settings = _settings(chosen.recipe(recipe))
    payload = described(chosen) | {
        "about": inspect.getdoc(inspect.getmodule(type(chosen))) or inspect.getdoc(type(chosen)) or "",
        "recipe": recipe,
        "settings": settings,
    }
    emit(as_json, payload, lambda: _page(payload))


def _settings(config: BaseModel, prefix: str = "") -> list[dict[str, Any]]:
    """`setting` (dotted path, as `--set` takes it), `value` and `meaning` of every setting, in the order of the classes."""
    from pydantic import BaseModel

    found = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            found += _settings(value, f"{prefix}{name}.")
        else:
            shown = config.model_dump(mode="json")[name]
            found.append({"setting": prefix + name, "value": shown, "meaning": " ".join((field.description or "").split())})
    return found


def _page(payload: dict[str, Any]) -> Group:
    import json

    from rich.console import Group

    facts = [
        f"{name}: {payload[name]}" for name in ("title", "kind", "source", "status", "needs", "yields", "level", "recipes")
    ]
    title = f"{payload['name']}, recipe {payload['recipe']}"
    table = Sheet("setting", "value", "meaning", title=title, texts=("value", "meaning"))
    for one in payload["settings"]:
        table.add(one["setting"], json.dumps(one["value"]), one["meaning"])
    return Group(payload["about"], "", *facts, "", table, "Change a setting with `repirl train --set SETTING=VALUE`.")
