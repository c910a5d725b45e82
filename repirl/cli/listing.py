"""`repirl list`: what there is, with source and status."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repirl.cli.output import JsonFlag, emit, working

if TYPE_CHECKING:
    from rich.console import Group

Entry = dict[str, str]


class Listed(StrEnum):
    methods = "methods"
    benchmarks = "benchmarks"
    suites = "suites"
    policies = "policies"
    engines = "engines"


def register(app: typer.Typer) -> None:
    app.command("list")(list_command)


def list_command(
    kind: Annotated[Listed | None, typer.Argument(help="One kind only; all without it.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of methods or benchmark cards.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List methods, benchmarks, suites, policies and engines."""
    wanted = [kind] if kind is not None else list(Listed)
    with working("looking"):
        found = {one.value: _SOURCES[one](tuple(include or ())) for one in wanted}
    emit(as_json, found, lambda: _tables(found))


def _methods(include: tuple[Path, ...]) -> list[Entry]:
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
    from repirl.bench.suites import load_suite, plan, suite_names
    from repirl.paths import results_dir
    from repirl.records.store import RECORD_FILE
    from repirl.tasks.benchmarks import benchmark_suites

    entries = []
    for name in suite_names(include):
        suite = load_suite(name, include)
        recorded = len(list((results_dir() / name).glob(f"*/{RECORD_FILE}")))
        status = f"{len(plan(name, suite))} runs; {recorded} records here"
        entries.append({"name": name, "source": suite.title, "status": status})
    for name, members in benchmark_suites(include).items():
        entries.append({"name": name, "source": ", ".join(members), "status": "benchmarks, for `repirl eval`"})
    return entries


def _policies(include: tuple[Path, ...]) -> list[Entry]:
    from repirl.engines.loading import EMBEDDED
    from repirl.paths import ASSETS_DIR

    entries = [
        {
            "name": name,
            "source": "embedded",
            "status": "ready" if (ASSETS_DIR / name / "config.json").is_file() else "missing; run `repirl pretrain`",
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
    Listed.policies: _policies,
    Listed.engines: _engines,
}


def _tables(found: dict[str, list[Entry]]) -> Group:
    from rich.console import Group
    from rich.table import Table

    tables = []
    for kind, entries in found.items():
        table = Table(title=kind, title_justify="left")
        for column in entries[0] if entries else ("name", "source", "status"):
            table.add_column(column)
        for entry in entries:
            table.add_row(*entry.values())
        tables.append(table)
    return Group(*tables)
