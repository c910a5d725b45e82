"""`repirl compare A B`: two runs, problem by problem: what differs between them, what was fixed and broken, what each cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.output import JsonFlag, emit, working

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.cli.runs import Side
    from repirl.evals.compare import OtherRun

_NAME = (
    "Run folder, record or eval --out folder: a path, SUITE/LABEL-sSEED, the start of a record's id, or SUITE:LABEL (seeds)."
)


def register(app: typer.Typer) -> None:
    app.command("compare")(compare_command)


def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help=_NAME)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one; differences are B - A.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare runs A and B: settings that differ, accuracy paired by problem, verdicts that changed, costs."""
    from repirl.cli.runs import open_side

    with working("comparing"):
        first, second = open_side(a), open_side(b)
        payload = {
            "a": {"name": first.name, "seeds": len(first.evaluations)},
            "b": {"name": second.name, "seeds": len(second.evaluations)},
            "settings": _differing(first.settings, second.settings),
            **_evaluations(first, second),
            "costs": _both(first.costs, second.costs),
        }
    emit(as_json, payload, lambda: _tables(payload))


def _both(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "a": first.get(name), "b": second.get(name)} for name in {**first, **second}]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that both have first."""
    found = [one for one in _both(first, second) if one["a"] != one["b"]]
    return sorted(found, key=lambda one: one["a"] is None or one["b"] is None)


def _evaluations(first: Side, second: Side) -> dict[str, Any]:
    """Accuracies and verdicts of every benchmark that both have, and why another is not compared."""
    from repirl.evals.compare import compare_runs, obstacle_between

    accuracy, verdicts, not_compared, narrowed = [], [], [], []
    one_each = len(first.evaluations) == len(second.evaluations) == 1
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    ours = first.evaluations if one_each else [first.evaluations[first.seeds.index(seed)] for seed in seeds]
    theirs = second.evaluations if one_each else [second.evaluations[second.seeds.index(seed)] for seed in seeds]
    for name in dict.fromkeys(name for one in (*first.evaluations, *second.evaluations) for name in one):
        pairs = [(x[name], y[name]) for x, y in zip(ours, theirs, strict=True) if name in x and name in y]
        why = next((why for x, y in pairs if (why := obstacle_between(x, y)) is not None), None)
        if not pairs or why is not None:
            alone = (
                "the runs have no seed of it in common" if first.evaluations and second.evaluations else "only one run has it"
            )
            not_compared.append({"benchmark": name, "why": why or alone})
            continue
        narrowed += [{"benchmark": name, "why": why} for why in dict.fromkeys(chain(*(_left_out(x, y) for x, y in pairs)))]
        metrics, changed = compare_runs([x for x, _ in pairs], [y for _, y in pairs])
        for one in metrics:
            values = {"a": asdict(one.first), "b": asdict(one.second), "difference": asdict(one.paired.interval)}
            counts = {"p_value": one.paired.p_value, "problems": one.paired.problems, "seeds": one.paired.seeds}
            accuracy.append({"benchmark": name, "metric": one.metric, **values, **counts})
        verdicts += [{"benchmark": name, **asdict(one)} for one in changed]
    return {"accuracy": accuracy, "verdicts": verdicts, "not_compared": not_compared, "narrowed": narrowed}


def _left_out(first: OtherRun, second: OtherRun) -> Iterator[str]:
    """What only one of two evaluations has: problems, and metrics of another number of samples."""
    from repirl.evals.compare import problems_of

    a, b = problems_of(first), problems_of(second)
    if a != b:
        yield f"of {len(a)} problems (A) and {len(b)} (B) the {len(a & b)} that both have are compared"
    for part in first.samples.keys() & second.samples.keys():
        each = [max(Counter(row.problem_id for row in one.samples[part]).values(), default=0) for one in (first, second)]
        if each[0] != each[1] and all(each):
            many = f"a problem has {each[0]} {part} answers in A and {each[1]} in B"
            yield f"{many}: they are not compared; as many with `repirl eval --samples` into the same --out"


def _tables(payload: Mapping[str, Any]) -> Group:
    from rich.console import Group

    from repirl.cli.tables import Sheet

    settings = _pairs("setting", "settings that differ", payload["settings"])
    accuracy = Sheet(
        "benchmark", "metric", "A", "B", "B - A", "95% interval", "p", "problems", "seeds",
        title="accuracy, paired by problem; p is not corrected for several",
        below={"95% interval": "B - A"}, optional=("seeds", "p"),
    )  # fmt: skip
    for one in payload["accuracy"]:
        gap = one["difference"]
        values = (f"{one['a']['value']:.3f}", f"{one['b']['value']:.3f}", f"{gap['value']:+.3f}")
        bounds = f"[{gap['low']:+.3f}, {gap['high']:+.3f}]"
        counts = (f"{one['p_value']:.3f}", str(one["problems"]), str(one["seeds"]))
        accuracy.add(one["benchmark"], one["metric"], *values, bounds, *counts)
    kinds = ("fixed", "broken", "both_right", "both_wrong", "unmeasured")
    verdicts = Sheet(
        "benchmark",
        "part",
        *(kind.replace("_", " ") for kind in kinds),
        title="problems, from A to B (right: at least half of its answers)",
        optional=("unmeasured",),
    )
    for one in payload["verdicts"]:
        verdicts.add(one["benchmark"], one["part"], *(str(one[kind]) for kind in kinds))
    parts = [f"A: {payload['a']['name']}", f"B: {payload['b']['name']}"]
    nothing = "no evaluation to compare; folders that `repirl eval --policy RUN/policy --out FOLDER` fills have some"
    parts += [accuracy, verdicts] if payload["accuracy"] else [nothing]
    parts += [f"{one['benchmark']}: {one['why']}" for one in payload["narrowed"]]
    parts += [f"{one['benchmark']} is not compared: {one['why']}" for one in payload["not_compared"]]
    parts += [settings] if payload["settings"] else ["no setting differs"]
    several = max(payload["a"]["seeds"], payload["b"]["seeds"]) > 1
    title = f"what it took, and the checkpoint that was kept{' (mean over seeds)' * several}"
    return Group(*parts, _pairs("cost", title, payload["costs"]))


def _pairs(kind: str, title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    from repirl.cli.tables import Sheet

    table = Sheet(kind, "A", "B", title=title, texts=("A", "B"))
    for one in rows:
        table.add(one["name"], _shown(one["a"]), _shown(one["b"]))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{40,64}", value):
        return value[:12]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
