"""Methods by name: built in, dropped into `baselines/`, given with `--include`, or installed by a third party.

A file is loaded by path under a private module name, so that a folder called `baselines` never becomes an import root.
Across processes a method is referred to by its name, never pickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from repirl.errors import UserError
from repirl.methods.base import Method, Need
from repirl.paths import content_dir

BUILT_IN = ("repirl.methods.repirl",)
ENTRY_POINTS = "repirl.methods"


def load_module(path: Path) -> ModuleType:
    """Import a Python file by path, once; UserError naming the file if it cannot be imported."""
    name = f"_repirl_content_{path.parent.name}_{path.stem}_{abs(hash(str(path.resolve())))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError("not a Python file", str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        del sys.modules[name]
        raise UserError(f"cannot import {path.name} ({error})", str(path), "mend the file or leave it out") from error
    return module


def _methods_of(module: ModuleType) -> list[type[Method]]:
    return [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Method) and not inspect.isabstract(value) and value.__module__ == module.__name__
    ]


def methods(include: Sequence[str] = ()) -> dict[str, Method[Any]]:
    """All methods by name, sorted; UserError if two files claim one name, or an include folder is missing."""
    return dict(_methods(tuple(include)))


@cache
def _methods(include: tuple[str, ...]) -> dict[str, Method[Any]]:
    modules = [importlib.import_module(name) for name in BUILT_IN]
    for folder in (content_dir("baselines"), *map(Path, include)):
        if not folder.is_dir():
            raise UserError("no such folder of methods", str(folder))
        modules += [load_module(path) for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
    classes = [kind for module in modules for kind in _methods_of(module)]
    classes += [point.load() for point in entry_points(group=ENTRY_POINTS)]
    found: dict[str, Method[Any]] = {}
    for kind in classes:
        if kind.name in found:
            raise UserError("two methods have one name", kind.name, "rename one of them")
        found[kind.name] = kind()
    return dict(sorted(found.items()))


def load_method(name: str, include: Sequence[str] = ()) -> Method[Any]:
    """A method by name; UserError lists the ones there are."""
    found = methods(include)
    if name not in found:
        raise UserError("unknown method", name, f"choose one of {', '.join(found)}")
    return found[name]


def described(method: Method[Any]) -> dict[str, str]:
    """What a method says of itself, in words."""
    return {
        "name": method.name,
        "title": method.title,
        "kind": method.kind,
        "source": method.source,
        "needs": ", ".join(need for need in get_args(Need) if need in method.needs) or "nothing",
        "yields": ", ".join(method.yields),
        "level": method.level,
        "status": method.status,
        "recipes": ", ".join(method.recipes),
    }
