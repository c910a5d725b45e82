"""`repirl verify`: the theory in numbers, on decision processes that can be summed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.output import JsonFlag, emit, working
from repirl.cli.tables import Sheet

if TYPE_CHECKING:
    from rich.console import Group


def register(app: typer.Typer) -> None:
    app.command("verify")(verify_command)


def verify_command(
    instances: Annotated[int, typer.Option(min=1, help="Random instances of every check.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the instances.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Check the theory (docs/method.md section 9) against exact sums and the trained losses; exit 1 if a check fails.

    Where a statement needs a condition, what becomes of it without the condition is a check too.
    """
    from dataclasses import asdict

    from repirl.theory.verify import verify

    with working("verify") as on_progress:
        found = verify(instances, seed, on_progress)
    checks = [asdict(one) for one in found.checks]
    payload = {"seed": seed, "instances": instances, "checks": checks, "unification": found.unification, "ok": found.ok}
    emit(as_json, payload, lambda: _tables(payload))
    if not found.ok:
        raise typer.Exit(1)


def _tables(payload: dict[str, Any]) -> Group:
    from rich.console import Group

    title = f"{payload['instances']} random instances each, seed {payload['seed']}"
    table = Sheet("source", "check", "residual", "wanted", "holds", title=title, texts=("source", "check", "wanted"))
    for row in payload["checks"]:
        equal = row["kind"] == "equal"
        worst = row["max_residual"] if equal else row["min_residual"]
        wanted = f"{'<=' if equal else '>='} {row['tolerance']:g}"
        table.add(row["source"], row["name"], _number(worst), wanted, "yes" if row["passed"] else "NO")
    parts: list[Any] = [table]
    for row in payload["unification"]:
        title = f"{row['method']} is rePIRL's {row['objective']} with"
        choices = Sheet("what", "choice", title=title, texts=("what", "choice"), header=False)
        for key in ("reward", "supervision", "demonstrations", "negatives", "weights", "condition"):
            choices.add(key, row[key])
        choices.add("gradients differ by at most", _number(row["max_difference"]))
        choices.add(row["otherwise"], f"at least {_number(row['min_difference_otherwise'])}")
        parts.append(choices)
    failed = sum(not row["passed"] for row in payload["checks"])
    count = len(payload["checks"])
    return Group(*parts, f"{failed} of {count} checks fail" if failed else f"all {count} checks hold")


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.2g}"
