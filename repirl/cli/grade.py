"""`repirl grade`: verdicts on given completions, no model needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.output import JsonFlag, emit, note, working

if TYPE_CHECKING:
    from rich.table import Table

    from repirl.grading.grade_file import FileGrades


def register(app: typer.Typer) -> None:
    app.command("grade")(grade_command)


def grade_command(
    benchmark: Annotated[str, typer.Argument(help="A benchmark, or `math` for rows with their own gold `answer`.")],
    file: Annotated[Path, typer.Argument(help="JSONL (or .jsonl.gz) of completions.")],
    verdicts: Annotated[Path | None, typer.Option(help="Write each verdict to this JSONL file.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of benchmark cards.")] = None,
    limit_ungraded: Annotated[float, typer.Option(min=0, max=1, help="Stop above this share of ungraded.")] = 0.02,
    as_json: JsonFlag = False,
) -> None:
    """Grade completions in FILE: rows {"id" or "problem", "completion" or "completions"}."""
    from repirl.errors import UserError
    from repirl.grading.dispatch import check_ungraded
    from repirl.grading.grade_file import OWN_GOLD, grade_file, write_verdicts

    if not file.is_file():
        raise UserError("no such file", str(file))
    problems = None
    with working("grading") as on_progress:
        if benchmark != OWN_GOLD:
            from repirl.tasks.benchmarks import load_benchmark

            problems = load_benchmark(benchmark, data_dir=data_dir, include=include or ()).problems
        grades = grade_file(benchmark, file, problems, on_progress=on_progress)
    if verdicts is not None:
        write_verdicts(grades, verdicts)
    payload = summary(grades)
    emit(as_json, payload, lambda: _table(payload))
    for reason, count in grades.ungraded_reasons.items():
        note(f"ungraded, {count} x: {reason}")
    check_ungraded(grades.verdicts, limit_ungraded)


def summary(grades: FileGrades) -> dict[str, Any]:
    """Counts, and the accuracy over problems with its clustered interval (None if nothing was graded)."""
    from repirl.stats import clustered_interval

    scores = grades.scores_by_problem()
    interval = clustered_interval(list(scores.values())) if scores else None
    return {
        "benchmark": grades.benchmark,
        "file": grades.path,
        "problems": grades.num_problems,
        "problems_graded": len(scores),
        "counts": grades.counts,
        "without_answer": grades.answerless,
        "ungraded_reasons": grades.ungraded_reasons,
        "accuracy": None
        if interval is None
        else {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "level": interval.level},
    }


def _table(payload: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=f"{payload['benchmark']}: {payload['file']}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in payload["counts"].items():
        table.add_row(name, str(count))
    table.add_row("problems graded", f"{payload['problems_graded']} of {payload['problems']}")
    accuracy = payload["accuracy"]
    if accuracy is not None:
        table.add_row(
            "accuracy over graded problems",
            f"{accuracy['value']:.3f} [{accuracy['ci_low']:.3f}, {accuracy['ci_high']:.3f}]",
        )
    return table
