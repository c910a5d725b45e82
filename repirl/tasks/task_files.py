"""lm-eval task files read without lm-eval: YAML with what it includes, groups, and a digest that follows functions."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.files import is_file, is_folder, levels
from repirl.paths import content_dir

_MAX_DEPTH = 50
_MAX_ENTRIES = 100_000

# Of a card's block `repirl`: they describe, and do not change any number.
_DESCRIPTIVE = ("title", "source", "licence", "gold_exceptions")


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """Task files by the name of their task, and groups (suites of benchmarks) by theirs; both sorted."""

    tasks: dict[str, tuple[Path, dict[str, Any]]]
    groups: dict[str, tuple[Path, dict[str, Any]]]


def find_task_files(include: Sequence[str | Path]) -> TaskFiles:
    """Every task and group file of `benchmarks/` and of the `include` folders; other files are parts of these.

    Raises UserError for a missing folder, a malformed file, or two files of one name.
    """
    tasks: dict[str, tuple[Path, dict[str, Any]]] = {}
    groups: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in (content_dir("benchmarks"), *(Path(part).expanduser() for part in include)):
        if not is_folder(folder):
            raise UserError("no such folder of benchmarks", str(folder))
        for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
            config = read_task_file(path)
            found, name = (groups, config["group"]) if "group" in config else (tasks, config.get("task"))
            if not isinstance(name, str):
                continue
            for known in (tasks, groups):
                if name in known and known[name][0].resolve() != path.resolve():
                    raise UserError("two benchmarks have one name", name, f"rename the one in {path}")
            found[name] = (path, config)
    return TaskFiles(dict(sorted(tasks.items())), dict(sorted(groups.items())))


class _FunctionName(str):
    """What stands behind `!function`, not imported."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """Plain YAML plus the tag `!function`."""


_Loader.add_constructor("!function", lambda loader, node: _FunctionName(loader.construct_scalar(node)))  # type: ignore[arg-type]


def read_task_file(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The YAML of a task file with what it includes merged in (its own keys win, as in lm-eval); nothing is imported."""
    path = path.resolve()
    if path in _seen:
        raise UserError("a task file includes itself", str(path))
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise UserError("cannot read the task file", str(path), _first_line(error)) from error
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UserError("a task file must be a YAML mapping of names", str(path))
    _check_size(config, path)
    functions = {key: _located(value, path) for key, value in config.items()}
    included = functions.pop("include", [])
    merged: dict[str, Any] = {}
    for part in included if isinstance(included, list) else [included]:
        if not isinstance(part, str) or (file := _included(path, part)) is None:
            raise UserError(f"`include` of {path.name} names no file", part, f"it must lie in {path.parent}")
        merged |= read_task_file(file, (*_seen, path))
    return merged | functions


def _included(path: Path, part: str) -> Path | None:
    """The file that a task file includes: beside it, else one of `benchmarks/` (which lm-eval alone would not find)."""
    return next((file for folder in (path.parent, content_dir("benchmarks")) if is_file(file := folder / part)), None)


@contextmanager
def folder_for_lm_eval(path: Path) -> Iterator[Path]:
    """A folder from which lm-eval can load a task file: its own, or, where that includes a file of `benchmarks/` that is not
    there, one for the while that has both."""
    ours = content_dir("benchmarks")
    own = [one for one in path.parent.iterdir() if not one.name.startswith(".")]
    files = [one for one in own if one.suffix in (".yaml", ".yml")]
    lacking = {part for one in files for part in _parts(one) if not is_file(one.parent / part) and is_file(ours / part)}
    if not lacking:
        yield path.parent
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        for one in own:
            # lm-eval follows links before it looks beside a file: what includes must be here, functions may be elsewhere.
            place = folder / one.name
            place.write_bytes(one.read_bytes()) if one in files else place.symlink_to(one.resolve())
        for part in lacking:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (folder / part).symlink_to((ours / part).resolve())
        yield folder


def _parts(path: Path) -> list[str]:
    """What a readable task file includes."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        return []
    parts = config.get("include", []) if isinstance(config, dict) else []
    return [part for part in (parts if isinstance(parts, list) else [parts]) if isinstance(part, str)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_size(config: Any, path: Path) -> None:
    """UserError for a mapping that its own anchors blow up, or that holds itself."""
    entries = 0
    for depth, level in enumerate(levels(config)):
        entries += len(level)
        if depth > _MAX_DEPTH or entries > _MAX_ENTRIES:
            break
    else:
        return
    raise UserError(f"a task file is nested deeper than {_MAX_DEPTH} or has more than {_MAX_ENTRIES} entries", str(path))


@dataclass(frozen=True, slots=True)
class _Function:
    """A function that a task file refers to, and the folder of that file."""

    name: str
    folder: Path


def _located(value: Any, path: Path) -> Any:
    if isinstance(value, _FunctionName):
        return _Function(str(value), path.parent)
    if isinstance(value, Mapping):
        return {key: _located(inner, path) for key, inner in value.items()}
    return [_located(inner, path) for inner in value] if isinstance(value, list) else value


def task_file_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 over the merged task file without title, source and licence, and the source of every function."""
    block = config["metadata"]
    lean = {key: value for key, value in block["repirl"].items() if key not in _DESCRIPTIVE}
    return digest_of(_with_sources({**config, "metadata": {**block, "repirl": lean}}))


def _with_sources(value: Any) -> Any:
    """A JSON value in which each function is its name and the digest of its source."""
    if isinstance(value, _Function):
        return ["!function", value.name, _source_digest(value)]
    if isinstance(value, Mapping):
        return {str(key): _with_sources(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_sources(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _source_digest(function: _Function) -> str | None:
    """SHA-256 of the function's source with the top-level names that it uses; None if it lies in no file beside it."""
    module, _, name = function.name.rpartition(".")
    file = function.folder / f"{module.replace('.', '/')}.py"
    if not is_file(file):
        return None
    text = file.read_text(encoding="utf-8")
    try:
        top_level = ast.parse(text).body
    except SyntaxError as error:
        raise UserError("cannot read the functions of a task file", str(file), f"line {error.lineno}") from error
    nodes = {defined: node for node in top_level for defined in _names_defined(node)}
    if name not in nodes:
        raise UserError(f"{file.name} has no function", name, f"a task file in {file.parent.name}/ refers to it")
    waiting, used = [name], set()
    while waiting:
        current = waiting.pop()
        if current in used or current not in nodes:
            continue
        used.add(current)
        waiting += [node.id for node in ast.walk(nodes[current]) if isinstance(node, ast.Name)]
    segments = [ast.get_source_segment(text, nodes[part]) or "" for part in sorted(used)]
    return hashlib.sha256("\n".join(segments).encode()).hexdigest()


def _names_defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    return []
