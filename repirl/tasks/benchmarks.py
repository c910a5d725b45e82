"""Benchmarks by name: lm-eval task files with a metadata block `repirl`, listed without lm-eval, loaded through it.

The prompt of a problem is the text that plain lm-eval sends; an embedded or third-party task file is treated alike.
A name may carry parameters (`livecodebench:release=v5,date_from=2024-08-01`), and `lm-eval:TASK` is any generative
task of lm-eval itself (see `harness.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.files import is_folder
from repirl.tasks.cards import PARAMETERS, CardMetadata, EmbeddedData, FileData, Selection, parse_metadata
from repirl.tasks.documents import check_number, encode_tests, local_files, problem_of
from repirl.tasks.task_files import find_task_files, folder_for_lm_eval, task_file_digest
from repirl.types import Problem, Verdict

HARNESS_PREFIX = "lm-eval:"
_TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DEFAULT_MAX_NEW_TOKENS = 256

Grade = Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]


@dataclass(frozen=True, slots=True)
class BenchmarkCard:
    """What a benchmark is.

    `digest` is SHA-256 over the task file without title, source and licence (included files merged) and the source
    of every function that it refers to. `status` is `embedded` (no data needed), `local` (its files are in the data
    folder), `hub` (to be downloaded at a pinned revision), `needs data` (only with a data folder), or
    `own loader` (the task file loads its data itself). `gold_exceptions` are problems whose gold is known to be
    malformed, with the reason.
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
    gold_exceptions: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A card with its problems.

    `data_digest` is over ids, prompts, graders, answers and tests, in order. `solutions` are reference programs (or
    solution texts) by problem id, where the source has them; nothing here shows them to a policy. `grade`, where it
    is not None, is the benchmark's own grader, for completions that stopped by themselves.
    """

    card: BenchmarkCard
    problems: tuple[Problem, ...]
    data_digest: str
    stop: tuple[str, ...]
    max_new_tokens: int
    solutions: Mapping[str, str] = field(default_factory=dict, hash=False)
    grade: Grade | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return self.card.name


def benchmark_cards(include: Sequence[str | Path] = (), data_dir: str | Path | None = None) -> list[BenchmarkCard]:
    """The cards of `benchmarks/` and of the `include` folders, by name.

    Raises UserError for a missing folder, a malformed card, or two cards of one name.
    """
    return [_card(name, path, config, Selection(), data_dir) for name, (path, config) in find_task_files(include).tasks.items()]


def benchmark_suites(include: Sequence[str | Path] = ()) -> dict[str, tuple[str, ...]]:
    """The suites of benchmarks (lm-eval groups) by name, each with the names of its benchmarks."""
    files = find_task_files(include)
    return {name: tuple(_members(name, files.groups, files.tasks, ())) for name in files.groups}


def expand_benchmarks(names: Sequence[str], include: Sequence[str | Path] = ()) -> list[str]:
    """The names with each suite replaced by its benchmarks; a benchmark named twice comes once."""
    suites = benchmark_suites(include)
    return list(dict.fromkeys(member for name in names for member in suites.get(name, (name,))))


def _members(name: str, groups: Mapping[str, Any], tasks: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    path, config = groups[name]
    members = config.get("task")
    if name in above or not isinstance(members, list):
        raise UserError("a suite of benchmarks needs a list `task:` in which it is not itself", name, str(path))
    for member in members:
        if not isinstance(member, str):
            raise UserError(f"the suite {name} names no benchmark", str(member), str(path))
        if member in groups:
            yield from _members(member, groups, tasks, (*above, name))
        elif member in tasks:
            yield member
        else:
            raise UserError(f"the suite {name} names an unknown benchmark", str(member), str(path))


def load_benchmark(name: str, data_dir: str | Path | None = None, include: Sequence[str | Path] = ()) -> Benchmark:
    """The benchmark with its problems, in the order of the data.

    Raises UserError for an unknown name (listing the known ones), parameters that mean nothing to the benchmark, data
    that is missing, empty or malformed, two problems of one id, or a number of problems other than the card states.
    """
    if name.startswith(HARNESS_PREFIX):
        from repirl.tasks.harness import load_harness_task

        return load_harness_task(name, include)
    bare, _, given = name.partition(":")
    files = find_task_files(include)
    if bare not in files.tasks:
        suites = f"; {bare} is a suite" if bare in files.groups else ""
        raise UserError("unknown benchmark", bare, f"choose one of {', '.join(files.tasks)}{suites}")
    path, config = files.tasks[bare]
    metadata = _metadata(path, config)
    parameters = _parameters(given, metadata, bare)
    if data_dir is not None and not is_folder(Path(data_dir).expanduser()):
        raise UserError("no such data folder", str(data_dir))
    settings = parameters | ({} if data_dir is None else {"data_dir": str(data_dir)})
    with folder_for_lm_eval(path) as folder:
        task = lm_eval_task(bare, {"include_path": [str(folder)], "include_defaults": False, "metadata": settings})
        docs = list(task.eval_docs)
    problems = tuple(_problems(task, docs, metadata, bare))
    selection = Selection.of(parameters)
    check_number(metadata, len(problems), selection)
    if len({p.id for p in problems}) != len(problems):
        raise UserError("two problems of the benchmark have one id", bare, "make the column `id` unique")
    return Benchmark(
        card=_card(name, path, config, selection, data_dir, len(problems)),
        problems=problems,
        data_digest=data_digest(problems),
        stop=stop_strings(task),
        max_new_tokens=token_limit(task),
        solutions={p.id: doc["solution"] for p, doc in zip(problems, docs, strict=True) if doc.get("solution")},
    )


def _parameters(given: str, metadata: CardMetadata, name: str) -> dict[str, str]:
    """`release=v5,date_from=2024-08-01` as a mapping; UserError for what this benchmark does not take."""
    found: dict[str, str] = {}
    for part in given.split(",") if given else ():
        key, _, value = part.partition("=")
        if key not in PARAMETERS or not metadata.takes(key) or not value:
            known = [parameter for parameter in PARAMETERS if metadata.takes(parameter)]
            raise UserError(f"the benchmark {name} takes no parameter", part, f"it takes {', '.join(known) or 'none'}")
        found[key] = value
    Selection.of(found)
    return found


def _problems(task: Any, docs: Sequence[Any], metadata: CardMetadata, name: str) -> Iterator[Problem]:
    for doc in docs:
        yield problem_of(
            doc,
            grader=metadata.grader,
            family=metadata.family or name,
            prompt=prompt_of(task, doc, name),
            answer=task.doc_to_target(doc) if metadata.grader != "code" else None,
        )


def data_digest(problems: Sequence[Problem]) -> str:
    """SHA-256 over ids, prompts, graders, answers and tests, in order."""
    return digest_of([[p.id, p.prompt, p.grader, p.answer, encode_tests(p.tests) if p.tests else None] for p in problems])


# -------------------------------------------------------------------------------------- lm-eval's task objects


def lm_eval_task(name: str, manager: Mapping[str, Any]) -> Any:
    """lm-eval's own task object (`manager`: arguments of its TaskManager); what it raises about data becomes a UserError."""
    with _quiet():
        from lm_eval.tasks import TaskManager

        try:
            found = TaskManager(**manager).load([name])["tasks"]
        except (OSError, KeyError, ValueError, IndexError, ImportError, AttributeError) as error:
            what = f"lm-eval cannot load the benchmark {name} ({type(error).__name__}: {str(error)[:200]})"
            raise UserError(what, todo="check the name, its task file and its data (is it empty?)") from error
    if name not in found:
        raise UserError("a group or tag of lm-eval is not one task", name, f"name one of {', '.join(list(found)[:5])}")
    return found[name]


def prompt_of(task: Any, doc: Any, name: str) -> str:
    """The text that plain lm-eval sends for a document."""
    prompt = task.fewshot_context(doc, task.config.num_fewshot or 0, gen_prefix=task.doc_to_prefix(doc))
    if not isinstance(prompt, str):
        raise UserError("a benchmark with several prompts for one problem is not generative", name)
    return prompt


def stop_strings(task: Any) -> tuple[str, ...]:
    """Where lm-eval cuts a completion."""
    until = (task.config.generation_kwargs or {}).get("until") or []
    return (until,) if isinstance(until, str) else tuple(until)


def token_limit(task: Any) -> int:
    """The longest completion that the task asks for, else lm-eval's default."""
    kwargs = task.config.generation_kwargs or {}
    limits = [int(kwargs[key]) for key in _TOKEN_LIMITS if kwargs.get(key) is not None]
    return limits[0] if limits else _DEFAULT_MAX_NEW_TOKENS


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


# ------------------------------------------------------------------------------------------------------ cards


def _metadata(path: Path, config: Mapping[str, Any]) -> CardMetadata:
    block = config.get("metadata")
    return parse_metadata(block.get("repirl") if isinstance(block, Mapping) else None, str(path))


def _card(
    name: str,
    path: Path,
    config: Mapping[str, Any],
    selection: Selection,
    data_dir: str | Path | None,
    found: int | None = None,
) -> BenchmarkCard:
    metadata = _metadata(path, config)
    expected = metadata.expected_number(selection)
    return BenchmarkCard(
        name=name,
        title=metadata.title,
        source=metadata.source,
        licence=metadata.licence,
        version=str(config["metadata"].get("version", "")),
        num_problems=expected if expected is not None else found or 0,
        grader=metadata.grader,
        path=path,
        digest=task_file_digest(config),
        status=_status(metadata, selection, data_dir),
        gold_exceptions=metadata.gold_exceptions,
    )


def _status(metadata: CardMetadata, selection: Selection, data_dir: str | Path | None) -> str:
    match metadata.data:
        case EmbeddedData():
            return "embedded"
        case FileData() as data:
            if local_files(data, selection, data_dir) is not None:
                return "local"
            return "hub" if data.hub is not None and data.revision is not None else "needs data"
    return "own loader"
