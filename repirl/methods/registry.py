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
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from repirl.errors import UserError
from repirl.methods.base import Method
from repirl.methods.described import BUILT_IN, ENTRY_POINTS, FACTS, in_words, method_files
from repirl.rewards.base import StepReward
from repirl.rewards.load import rewards_in


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
    """The methods that a file defines; UserError for one that lacks something, unless others derive from it or its name begins
    with `_`."""
    kinds = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Method) and value.__module__ == module.__name__
    ]
    for kind in kinds:
        if not kind.__name__.startswith("_") and not any(other is not kind and issubclass(other, kind) for other in kinds):
            _check_whole(kind)
    return [kind for kind in kinds if not inspect.isabstract(kind)]


def _check_whole(kind: type[Method]) -> None:
    """UserError for a class that is no whole method, with what it lacks and what may be meant to be that."""
    lacking = [*sorted(getattr(kind, "__abstractmethods__", ())), *(fact for fact in FACTS if not hasattr(kind, fact))]
    if not lacking:
        return
    own = [name for name in vars(kind) if not name.startswith("_") and name not in (*FACTS, *vars(Method))]
    meant = [f"is `{near[0]}` meant to be `{name}`?" for name in lacking if (near := get_close_matches(name, own, 1))]
    file = Path(inspect.getfile(kind)).name
    todo = " ".join(meant) or "add it, or let the name of a class that is only derived from begin with _"
    raise UserError(f"the method {kind.__name__} in {file} lacks {', '.join(lacking)}", todo=todo)


def methods(include: Sequence[str] = ()) -> dict[str, Method[Any]]:
    """All methods by name, sorted; UserError if two files claim one name, or an include folder is missing."""
    return dict(_methods(tuple(include)))


@cache
def _methods(include: tuple[str, ...]) -> dict[str, Method[Any]]:
    modules = [importlib.import_module(name) for name in BUILT_IN]
    modules += [load_module(path) for path in method_files(include)]
    classes = [kind for module in modules for kind in _methods_of(module)]
    installed = [point.load() for point in entry_points(group=ENTRY_POINTS)]
    for kind in installed:
        _check_whole(kind)
    classes += installed
    found: dict[str, Method[Any]] = {}
    for kind in classes:
        if kind.name in found:
            raise UserError("two methods have one name", kind.name, "rename one of them")
        found[kind.name] = kind()
    return dict(sorted(found.items()))


def rewards_of(include: Sequence[str]) -> dict[str, type[StepReward]]:
    """The rewards that files of `baselines/` and of the given folders define, by name, with or without a method."""
    return rewards_in(load_module(path) for path in method_files(include))


def load_method(name: str, include: Sequence[str] = ()) -> Method[Any]:
    """A method by name; UserError lists the ones there are."""
    found = methods(include)
    if name not in found:
        raise UserError("unknown method", name, f"choose one of {', '.join(found)}")
    return found[name]


def described(method: Method[Any]) -> dict[str, str]:
    """What a method says of itself, in words."""
    return in_words({fact: getattr(method, fact) for fact in FACTS})
