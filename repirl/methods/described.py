"""What methods say of themselves, and how that is read from their files without importing them, which takes torch seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args

from repirl.errors import UserError
from repirl.paths import PACKAGE_DIR, content_dir

Need = Literal["rollouts", "outcomes", "demonstrations", "step labels"]
"""What a method learns from: samples of the policy, the grader's verdicts on them, solutions of experts, labels of steps."""
Level = Literal["token", "step", "outcome", "none"]
"""The smallest part of a solution that gets a reward of its own."""

BUILT_IN = ("repirl.methods.repirl",)
ENTRY_POINTS = "repirl.methods"

FACTS = ("name", "title", "kind", "source", "needs", "yields", "level", "status", "recipes")
_METHOD = {"kind": "method", "needs": (), "yields": ("policy",), "level": "none"}
"""What is so of a method that does not say otherwise."""


def in_words(facts: Mapping[str, Any]) -> dict[str, str]:
    """The `FACTS` of a method as texts."""
    lists = {
        "needs": ", ".join(need for need in get_args(Need) if need in facts["needs"]) or "nothing",
        "yields": ", ".join(facts["yields"]),
        "recipes": ", ".join(facts["recipes"]),
    }
    return {fact: lists.get(fact) or str(facts[fact]) for fact in FACTS}


def method_files(include: Sequence[str | Path] = ()) -> Iterator[Path]:
    """Files of methods in `baselines/` and in the `include` folders, each once; UserError for a folder that is not there."""
    seen: set[Path] = set()
    for folder in (content_dir("baselines"), *map(Path, include)):
        if not folder.is_dir():
            raise UserError("no such folder of methods", str(folder))
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_") and path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def described_unread(include: Sequence[str | Path] = ()) -> list[dict[str, str]] | None:
    """What all methods say of themselves, by name; None where that cannot be read off their files: the registry, which imports
    them, then knows it, or what is wrong with them."""
    if entry_points(group=ENTRY_POINTS):
        return None
    built_in = [PACKAGE_DIR.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in BUILT_IN]
    found: dict[str, dict[str, str]] = {}
    try:
        for path in (*built_in, *method_files(include)):
            for facts in _methods_in(ast.parse(path.read_text(encoding="utf-8"))):
                if facts["name"] in found:
                    return None
                found[facts["name"]] = in_words(facts)
    except (UserError, OSError, SyntaxError, ValueError, KeyError):
        return None
    return [found[name] for name in sorted(found)]


def _methods_in(module: ast.Module) -> Iterator[dict[str, Any]]:
    """Facts of the methods that a file defines. KeyError or ValueError for what is not said in plain values, or not whole."""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    if len(classes) != sum(isinstance(node, ast.ClassDef) for node in ast.walk(module)):
        raise ValueError("a class within something")
    facts: dict[str, dict[str, Any]] = {"Method": dict(_METHOD)}
    open_to: dict[str, set[str]] = {"Method": {"fit"}}
    parents = {base for node in classes for base in _bases(node)}
    for node in classes:
        values = dict(_values(node))
        functions = [one for one in node.body if isinstance(one, ast.FunctionDef)]
        known = [base for base in _bases(node) if base in facts]
        if not known:
            if "recipes" in values or any(one.name == "fit" for one in functions):
                raise ValueError("it may be a method, by a class of another file")
            continue
        facts[node.name] = {key: value for base in reversed(known) for key, value in facts[base].items()}
        facts[node.name] |= {key: _literal(key, value) for key, value in values.items() if key in FACTS}
        abstract = {
            one.name for one in functions if any(ast.unparse(how).endswith("abstractmethod") for how in one.decorator_list)
        }
        left = set().union(*(open_to[base] for base in known)) - {one.name for one in functions}
        open_to[node.name] = left | abstract
        if not open_to[node.name]:
            yield {fact: facts[node.name][fact] for fact in FACTS}
        elif node.name not in parents and not node.name.startswith("_"):
            raise ValueError("a method that is not whole")


def _bases(node: ast.ClassDef) -> list[str]:
    """Names of the classes that a class derives from, without what is in brackets behind them."""
    return [ast.unparse(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases]


def _values(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Class variables, also those of `name, title = "a", "b"`."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            yield ast.unparse(statement.target), statement.value
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
                    yield from zip(map(ast.unparse, target.elts), statement.value.elts, strict=True)
                else:
                    yield ast.unparse(target), statement.value


def _literal(fact: str, value: ast.expr) -> Any:
    """The value of a fact; of recipes their names. ValueError where it is not written out."""
    if fact == "recipes":
        if not isinstance(value, ast.Dict) or not all(isinstance(key, ast.Constant) for key in value.keys):
            raise ValueError("recipes that are computed")
        return [ast.literal_eval(key) for key in value.keys if key is not None]
    if fact == "needs" and isinstance(value, ast.Call) and len(value.args) == 1:
        value = value.args[0]
    return ast.literal_eval(value)
