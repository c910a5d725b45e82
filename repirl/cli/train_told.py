"""What `repirl train` says at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from repirl.cli.output import note

if TYPE_CHECKING:
    from rich.console import Group


def ending_of(run: Mapping[str, Any]) -> str:
    """What a run came to: accuracy, costs, where things are, and the numbers that want a word; the rest stays in its files."""
    from repirl.learn.diagnostics import EXPLAINED as explained

    numbers = run["diagnostics"]
    start, kept, last = (numbers.get(f"{when}_validation_accuracy") for when in ("start", "best", "last"))
    step = numbers.get("best_step")
    at = "" if step is None else f" (step {step:g})"
    lines = [f"{run['method']}, {run['recipe']}, seed {run['seed']}: {run['folder']}"]
    if kept is not None:
        lines.append(f"validation accuracy: start {_accuracy(start)}, kept {_accuracy(kept)}{at}, last {_accuracy(last)}")
    lines += [f"cost: {_costs(run['budget'])}", f"validation besides: {_costs(run['validation_budget'])}"]
    lines += [f"{what}: {run[what]}" for what in ("policy", "reward") if run[what] is not None]
    said = [name for name in numbers if name.startswith("data/") or (name in explained and name.startswith("prm/"))]
    lines += [f"{name}: {_shown(numbers[name])}" + (f"  ({explained[name]})" if name in explained else "") for name in said]
    return "\n".join([*lines, "all numbers: done.json there; those of each update: metrics.jsonl"])


def table_of(runs: Sequence[Mapping[str, Any]]) -> Group:
    """What each seed's run kept, by its accuracy on the validation problems, and the mean."""
    from rich.console import Group

    from repirl.cli.tables import Sheet

    table = Sheet("seed", "kept step", "start", "kept", "last", "folder", title="validation accuracy", optional=("folder",))
    names = ("start_validation_accuracy", "best_validation_accuracy", "last_validation_accuracy")
    rows = [[run["diagnostics"].get(name) for name in names] for run in runs]
    for run, values in zip(runs, rows, strict=True):
        step = run["diagnostics"].get("best_step")
        table.add(str(run["seed"]), "-" if step is None else f"{step:g}", *map(_accuracy, values), run["folder"])
    table.section()
    means = [None if None in column else sum(column) / len(column) for column in zip(*rows, strict=True)]
    table.add("mean", "", *map(_accuracy, means), "")
    return Group(table)


def warn_of_nothing_right(runs: Sequence[Mapping[str, Any]]) -> None:
    """A line where no validation completion was right, before or after."""
    for run in runs:
        seen = [run["diagnostics"].get(f"{when}_validation_accuracy") for when in ("start", "best", "last")]
        if seen == [0.0] * 3:
            note(
                f"{run['folder']}: no completion of a validation problem was right, before or after training. Where all are "
                "wrong outcomes tell nothing: look at some (repirl eval --out), at prompt and form of the answers, or begin "
                "with easier problems"
            )


def _costs(budget: Mapping[str, Any]) -> str:
    named = {"demonstrations": "demonstrations read", "wall_s": "seconds"}
    said = [(named.get(name, name.replace("_", " ")), value) for name, value in budget.items() if value]
    return (
        ", ".join(f"{value:,} {name}" if isinstance(value, int) else f"{value:.0f} {name}" for name, value in said) or "nothing"
    )


def _accuracy(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def lines_of(payload: Mapping[str, Any], indent: str = "") -> str:
    """One line for each value; what is nested stands indented below its name."""
    lines = []
    for name, value in payload.items():
        nested = isinstance(value, dict)
        lines.append(f"{indent}{name}:\n{lines_of(value, indent + '  ')}" if nested else f"{indent}{name}: {_shown(value)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
