"""Benchmarks by name: lm-eval task files with a metadata block `repirl`, listed without lm-eval, loaded through it.

The prompt of a problem is the text that plain lm-eval sends; an embedded or third-party task file is treated alike.
"""

from __future__ import annotations

import ast
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.paths import content_dir
from repirl.tasks.documents import (
    CardMetadata,
    EmbeddedData,
    FileData,
    check_number,
    encode_tests,
    local_file,
    parse_metadata,
    problem_of,
)
from repirl.types import Problem

_DESCRIPTIVE = ("title", "source", "licence")
_TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class BenchmarkCard:
    """What a benchmark is.

    `digest` is SHA-256 over the task file without title, source and licence (included files merged) and the source
    of every function that it refers to. `status` is `embedded` (no data needed), `local` (its file is in the data
    folder), `hub` (to be downloaded at a pinned revision), `needs data` (only with a data folder), or
    `own loader` (the task file loads its data itself).
    """

    name: str
    title: str
    source: str
    licence: str
    version: str
    num_problems: int
    grader: str
    path: Path
    digest: str
    status: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A card with its problems. `data_digest` is over ids, prompts, graders, answers and tests, in order."""

    card: BenchmarkCard
    problems: tuple[Problem, ...]
    data_digest: str
    stop: tuple[str, ...]
    max_new_tokens: int

    @property
    def name(self) -> str:
        return self.card.name


def benchmark_cards(include: Sequence[str | Path] = (), data_dir: str | Path | None = None) -> list[BenchmarkCard]:
    """The cards of `benchmarks/` and of the `include` folders, by name.

    Raises UserError for a missing folder, a malformed card, or two cards of one name.
    """
    return [_card(path, config, data_dir) for path, config in _task_files(include).values()]


def load_benchmark(name: str, data_dir: str | Path | None = None, include: Sequence[str | Path] = ()) -> Benchmark:
    """The benchmark with its problems, in the order of the data.

    Raises UserError for an unknown name (listing the known ones), data that is missing, empty or malformed, two
    problems of one id, or a number of problems other than the card states.
    """
    files = _task_files(include)
    if name not in files:
        raise UserError("unknown benchmark", name, f"choose one of {', '.join(files)}")
    path, config = files[name]
    metadata = _metadata(path, config)
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise UserError("no such data folder", str(data_dir))
    task = _lm_eval_task(name, path, data_dir)
    problems = tuple(_problems(task, metadata, name))
    check_number(metadata, len(problems))
    if len({p.id for p in problems}) != len(problems):
        raise UserError("two problems of the benchmark have one id", name, "make the column `id` unique")
    kwargs = task.config.generation_kwargs or {}
    until = kwargs.get("until") or []
    limits = [int(kwargs[key]) for key in _TOKEN_LIMITS if kwargs.get(key) is not None]
    return Benchmark(
        card=_card(path, config, data_dir),
        problems=problems,
        data_digest=_data_digest(problems),
        stop=(until,) if isinstance(until, str) else tuple(until),
        max_new_tokens=limits[0] if limits else _DEFAULT_MAX_NEW_TOKENS,
    )


def _problems(task: Any, metadata: CardMetadata, name: str) -> Iterator[Problem]:
    for doc in task.eval_docs:
        prompt = task.fewshot_context(doc, task.config.num_fewshot or 0, gen_prefix=task.doc_to_prefix(doc))
        if not isinstance(prompt, str):
            raise UserError("a benchmark with several prompts for one problem is not generative", name)
        yield problem_of(
            doc,
            grader=metadata.grader,
            family=metadata.family or name,
            prompt=prompt,
            answer=task.doc_to_target(doc) if metadata.grader != "code" else None,
        )


def _data_digest(problems: Sequence[Problem]) -> str:
    return digest_of([[p.id, p.prompt, p.grader, p.answer, encode_tests(p.tests) if p.tests else None] for p in problems])


def _lm_eval_task(name: str, path: Path, data_dir: str | Path | None) -> Any:
    """lm-eval's own task object of a task file; what it raises about data becomes a UserError."""
    with _quiet():
        from lm_eval.tasks import TaskManager

        given: dict[str, Any] = {} if data_dir is None else {"data_dir": str(data_dir)}
        try:
            task = TaskManager(include_path=[str(path.parent)], include_defaults=False, metadata=given).load([name])
        except (OSError, KeyError, ValueError, IndexError, ImportError, AttributeError) as error:
            what = f"lm-eval cannot load the benchmark {name} ({type(error).__name__}: {str(error)[:200]})"
            raise UserError(what, todo=f"check {path.name} and its data (is it empty?)") from error
    return task["tasks"][name]


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval warns of every custom dataset; only errors are shown for the while."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# ------------------------------------------------------------------------------------------- task files


def _task_files(include: Sequence[str | Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Name -> (path, merged YAML) of every single task below the folders; files without `task` are parts or groups."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in (content_dir("benchmarks"), *(Path(part).expanduser() for part in include)):
        if not folder.is_dir():
            raise UserError("no such folder of benchmarks", str(folder))
        for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
            config = read_task_file(path)
            name = config.get("task")
            if not isinstance(name, str) or "group" in config:
                continue
            if name in found and found[name][0].resolve() != path.resolve():
                raise UserError("two benchmarks have one name", name, f"rename the one in {path}")
            found[name] = (path, config)
    return dict(sorted(found.items()))


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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("cannot read the task file", str(path), str(error).splitlines()[0]) from error
    if not isinstance(config, dict):
        raise UserError("a task file must be a YAML mapping", str(path))
    functions = {key: _located(value, path) for key, value in config.items()}
    included = functions.pop("include", [])
    merged: dict[str, Any] = {}
    for part in included if isinstance(included, list) else [included]:
        merged |= read_task_file(path.parent / part, (*_seen, path))
    return merged | functions


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


def _metadata(path: Path, config: Mapping[str, Any]) -> CardMetadata:
    block = config.get("metadata")
    return parse_metadata(block.get("repirl") if isinstance(block, Mapping) else None, str(path))


def _card(path: Path, config: Mapping[str, Any], data_dir: str | Path | None) -> BenchmarkCard:
    metadata = _metadata(path, config)
    return BenchmarkCard(
        name=config["task"],
        title=metadata.title,
        source=metadata.source,
        licence=metadata.licence,
        version=str(config["metadata"].get("version", "")),
        num_problems=metadata.num_problems,
        grader=metadata.grader,
        path=path,
        digest=_card_digest(config),
        status=_status(metadata, data_dir),
    )


def _status(metadata: CardMetadata, data_dir: str | Path | None) -> str:
    match metadata.data:
        case EmbeddedData():
            return "embedded"
        case FileData() as data:
            if local_file(data, data_dir) is not None:
                return "local"
            return "hub" if data.hub is not None and data.revision is not None else "needs data"
    return "own loader"


def _card_digest(config: Mapping[str, Any]) -> str:
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
    if not file.is_file():
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
