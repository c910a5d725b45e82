"""`repirl grade`: verdicts on given completions, no model needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.completing import benchmark_names
from repirl.cli.output import JsonFlag, check_output, emit, note, working
from repirl.cli.tables import Sheet

if TYPE_CHECKING:
    from rich.console import Group

# Of the disagreements that an audit finds; --json has all.
MAX_SHOWN = 50


def register(app: typer.Typer) -> None:
    app.command("grade")(grade_command)


def grade_command(
    benchmark: Annotated[
        str,
        typer.Argument(
            help="A benchmark, `math` for rows with their own `answer`, `code` for rows with their own `tests`.",
            autocompletion=benchmark_names,
        ),
    ],
    file: Annotated[Path, typer.Argument(help="JSONL (or .jsonl.gz) of completions.")],
    verdicts: Annotated[Path | None, typer.Option(help="Write each verdict to this JSONL file.")] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Check the verdicts a second way; list where the two disagree.")
    ] = False,
    extraction: Annotated[str, typer.Option(help="Answers: strict (marked ones), flexible (else the last value).")] = "strict",
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of benchmark cards.")] = None,
    limit_ungraded: Annotated[float, typer.Option(min=0, max=1, help="Stop above this share of ungraded.")] = 0.02,
    allow_weak_sandbox: Annotated[
        bool, typer.Option("--allow-weak-sandbox", help="Run code where this machine cannot isolate it fully.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Grade completions in FILE: rows {"id" or "problem", "completion" or "completions"}."""
    from repirl.errors import UserError
    from repirl.grading.dispatch import check_ungraded
    from repirl.grading.files.grade import grade_file, write_verdicts
    from repirl.grading.files.problems import OWN_GOLD, OWN_TESTS
    from repirl.grading.math.grader import known_extraction

    if not file.is_file():
        raise UserError("a folder, not a file" if file.is_dir() else "no such file", str(file), "give a JSONL file")
    if audit and benchmark == OWN_TESTS:
        raise UserError("--audit is for mathematical answers", benchmark, "leave it out: tests are run, not compared")
    check_output(verdicts, "--verdicts", [file])
    chosen = known_extraction(extraction)
    problems = None
    with working("grading") as on_progress:
        if benchmark not in (OWN_GOLD, OWN_TESTS):
            from repirl.tasks.benchmarks import load_benchmark

            problems = load_benchmark(benchmark, data_dir=data_dir, include=include or ()).problems
        grades = grade_file(
            benchmark,
            file,
            problems,
            extraction=chosen,
            allow_weak_sandbox=allow_weak_sandbox,
            audit=audit,
            on_progress=on_progress,
        )
    if verdicts is not None:
        write_verdicts(grades, verdicts)
    payload = grades.summary()
    emit(as_json, payload, lambda: _tables(payload))
    for reason, count in grades.ungraded_reasons.items():
        note(f"ungraded, {count} x: {reason}")
    check_ungraded(grades.verdicts, limit_ungraded)


def _tables(payload: dict[str, Any]) -> Group:
    from rich.console import Group

    title = f"{payload['benchmark']}: {payload['file']}"
    table = Sheet("what", "value", title=title, texts=("what",), right=("value",), header=False)
    for name, count in payload["counts"].items():
        table.add(name, str(count))
        if payload["without_answer"].get(name):
            table.add("  without an answer", str(payload["without_answer"][name]))
    table.add("problems graded", f"{payload['problems_graded']} of {payload['problems']}")
    accuracy = payload["accuracy"]
    if accuracy is not None:
        table.add(
            "accuracy over graded problems",
            f"{accuracy['value']:.3f} [{accuracy['ci_low']:.3f}, {accuracy['ci_high']:.3f}]",
        )
    found = payload.get("audit")
    if found is None:
        return Group(table)
    for name in ("plain_match", "agree", "disagree", "no_opinion", "unchecked"):
        table.add(f"audit: {name.replace('_', ' ')}", str(found[name]))
    if not found["disagreements"]:
        return Group(table)
    shown = found["disagreements"][:MAX_SHOWN]
    title = f"disagreements ({len(shown)} of {found['disagree']}; verdicts stand)"
    columns = ("id", "line", "gold", "answer", "verdict", "second check", "by")
    listing = Sheet(*columns, title=title, texts=("gold", "answer", "by"), right=("line",))
    for row in shown:
        listing.add(row["id"], str(row["line"]), row["gold"], row["answer"], row["verdict"], row["second"], row["how"])
    return Group(table, listing)
