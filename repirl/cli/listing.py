"""`repirl list`: what there is, with source and status. Nothing here imports torch, which takes longer than all the rest."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.output import JsonFlag, emit, working

if TYPE_CHECKING:
    from rich.console import Group

Entry = dict[str, str]


class Listed(StrEnum):
    methods = "methods"
    benchmarks = "benchmarks"
    suites = "suites"
    sets = "sets"
    data = "data"
    rewards = "rewards"
    policies = "policies"
    engines = "engines"


_TITLES = {
    Listed.sets: "step-labelled sets, for `repirl judge`",
    Listed.data: "training sets (data.source)",
    Listed.rewards: "rewards that need no run",
}
_TEXTS = ("title", "source", "needs", "status", "recipes", "licence")
"""Columns that may be wrapped; the others are names and numbers."""
_OPTIONAL = {
    Listed.methods: ("level", "kind", "recipes", "status", "source", "yields"),
    Listed.benchmarks: ("source", "licence"),
    Listed.sets: ("source",),
}
"""What a narrow terminal does without, the first one first."""


def register(app: typer.Typer) -> None:
    app.command("list")(list_command)


def list_command(
    kind: Annotated[Listed | None, typer.Argument(help="One kind only; all without it.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of methods or benchmark cards.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List methods, benchmarks, suites, judged sets, training data, named rewards, policies and engines."""
    wanted = [kind] if kind is not None else list(Listed)
    with working("looking"):
        found = {one.value: _SOURCES[one](tuple(include or ())) for one in wanted}
    emit(as_json, found, lambda: _tables(found))


def _methods(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.methods.described import described_unread

    found = described_unread(include)
    if found is None:
        from repirl.methods.registry import described, methods

        found = [described(method) for method in methods(tuple(map(str, include))).values()]
    return [{key: text for key, text in one.items() if key != "title"} for one in found]


def _benchmarks(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.tasks.benchmarks import benchmark_cards

    return [
        {
            "name": card.name,
            "title": card.title,
            "problems": str(card.num_problems),
            "source": card.source,
            "licence": card.licence,
            "status": card.status,
        }
        for card in benchmark_cards(include=include)
    ]


def _suites(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.paths import results_dir, suite_files
    from repirl.records.index import RECORD_FILE
    from repirl.tasks.benchmarks import benchmark_suites

    entries = []
    for name, path in suite_files(include).items():
        title, runs = _suite(path)
        recorded = len(list((results_dir() / name).glob(f"*/{RECORD_FILE}")))
        entries.append({"name": name, "source": title, "status": f"{runs} runs; {recorded} records here"})
    for name, members in benchmark_suites(include).items():
        entries.append({"name": name, "source": ", ".join(members), "status": "benchmarks, for `repirl eval`"})
    return entries


def _suite(path: Path) -> tuple[str, int]:
    """Title and number of runs; what else is wrong with a suite says `repirl bench`."""
    from repirl.errors import UserError
    from repirl.files import read_toml

    suite: dict[str, Any] = read_toml(path)
    runs = suite.get("runs")
    if not isinstance(suite.get("title"), str) or not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise UserError("a suite needs a title and [[runs]]", str(path))
    return suite["title"], sum(len(run.get("seeds", (0,))) for run in runs)


def _sets(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.tasks.prm_benchmarks import ARITH_PROBLEMS, ARITH_SETS, prm_cards

    exact = "embedded; solutions of --solver, labelled by the exact checker"
    entries = [
        {"name": name, "solutions": str(ARITH_PROBLEMS * samples), "source": exact, "licence": "that of the project"}
        for name, (_, samples) in ARITH_SETS.items()
    ]
    for name, card in prm_cards().items():
        for subset in card.subsets:
            shown = name if len(card.subsets) == 1 else f"{name}/{subset.name}"
            count = str(subset.num_solutions)
            entries.append({"name": shown, "solutions": count, "source": card.source, "licence": card.licence})
    a_file = {"name": "FILE.jsonl", "solutions": "any", "source": f"labelled steps: {_formats()}", "licence": "yours"}
    return [*entries, a_file]


def _formats() -> str:
    from repirl.tasks.step_labels import FORMATS

    return ", ".join(FORMATS)


def _data(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.tasks.training_files import PUBLISHED_SOURCES
    from repirl.tasks.training_sets import FAMILIES, UNLABELLED

    embedded = dict.fromkeys(FAMILIES, "ready, with demonstrations of an exact expert")
    published = dict.fromkeys(PUBLISHED_SOURCES, "from the hub at a pinned revision, or a folder (data.file)")
    files = {
        "file": 'a JSONL of your own (data.file): {"problem", "answer" or "tests", "demonstrations"}',
        UNLABELLED: "the same, of which the problems alone are read",
    }
    return [{"name": name, "status": status} for name, status in (embedded | published | files).items()]


def _rewards(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.rewards.names import NAMED_REWARDS, PUBLISHED_FORMATS

    named = [{"name": name, "title": what, "status": knows} for name, (what, knows) in NAMED_REWARDS.items()]
    return [
        *named,
        {"name": "RUN_FOLDER", "title": "what a method fitted", "status": "of methods that yield a reward: `list methods`"},
        *(
            {"name": f"{name}:FOLDER_OR_ID", "title": what, "status": known}
            for name, (what, known) in PUBLISHED_FORMATS.items()
        ),
    ]


def _policies(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.engines.loading import EMBEDDED
    from repirl.paths import ASSETS_DIR

    entries = [
        {
            "name": name,
            "source": "embedded",
            "status": "ready" if (ASSETS_DIR / name / "config.json").is_file() else f"missing; run `repirl pretrain {name}`",
        }
        for name in EMBEDDED
    ]
    any_folder = {"name": "FOLDER", "source": "a transformers folder", "status": "any causal LM"}
    any_hub = {"name": "HUB_ID", "source": "the Hugging Face hub", "status": "any causal LM; needs a network or its cache"}
    return [*entries, any_folder, any_hub]


def _engines(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.engines.vllm_settings import vllm_is_here

    here = "ready" if vllm_is_here() else "not in this environment; `--engine-set python=PATH` names a Python that has it"
    return [
        {"name": "torch", "source": "repirl/engines/torch_engine.py", "status": "default; any causal LM, CPU or GPU"},
        {
            "name": "openai",
            "source": "repirl/engines/openai_engine.py",
            "status": "a model behind an OpenAI-compatible server; for `repirl eval` and `repirl demos`",
        },
        {"name": "vllm", "source": "repirl/engines/vllm_engine.py", "status": f"for train, eval, demos and suites; {here}"},
        {"name": "scripted", "source": "repirl/engines/scripted.py", "status": "replays given texts; for tests and docs"},
    ]


_SOURCES: dict[Listed, Callable[[tuple[Path, ...]], list[Entry]]] = {
    Listed.methods: _methods,
    Listed.benchmarks: _benchmarks,
    Listed.suites: _suites,
    Listed.sets: _sets,
    Listed.data: _data,
    Listed.rewards: _rewards,
    Listed.policies: _policies,
    Listed.engines: _engines,
}


def _tables(found: dict[str, list[Entry]]) -> Group:
    from rich.console import Group

    from repirl.cli.tables import Sheet

    tables = []
    for kind, entries in found.items():
        columns = list(entries[0]) if entries else ["name", "source", "status"]
        of = Listed(kind)
        table = Sheet(*columns, title=_TITLES.get(of, kind), texts=_TEXTS, optional=_OPTIONAL.get(of, ()))
        for entry in entries:
            table.add(*entry.values())
        tables.append(table)
    return Group(*tables)
