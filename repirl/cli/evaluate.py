"""`repirl eval`: a policy on benchmarks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.output import JsonFlag, emit, working

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.types import Report


def register(app: typer.Typer) -> None:
    app.command("eval")(eval_command)


def eval_command(
    benchmark: Annotated[list[str], typer.Option(help="Benchmark; may be given several times.")],
    policy: Annotated[str, typer.Option(help="Embedded name, folder, or hub id.")] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub policy.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Completions of each problem at the temperature.")] = 8,
    temperature: Annotated[float, typer.Option(help="Temperature of the samples.")] = 1.0,
    greedy: Annotated[bool, typer.Option(help="Also one greedy completion of each problem.")] = True,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default: what the benchmark says.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    chat_template: Annotated[bool, typer.Option(help="Apply the policy's chat template.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of benchmark cards.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep samples here; an interrupted run continues.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    allow_weak_sandbox: Annotated[bool, typer.Option(help="Run generated code with less isolation.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Evaluate a policy: greedy accuracy, avg@n and pass@k with intervals."""
    from repirl.config import parse_config
    from repirl.engines.loading import load_policy
    from repirl.evals.policy import EvalProtocol, evaluate_policy
    from repirl.tasks.benchmarks import load_benchmark

    protocol = parse_config(
        EvalProtocol,
        {
            "samples": samples,
            "temperature": temperature,
            "greedy": greedy,
            "max_new_tokens": max_new_tokens,
            "limit": limit,
            "seed": seed,
            "chat_template": chat_template,
        },
    )
    protocol.parts()
    with working("loading"):
        loaded = [load_benchmark(name, data_dir=data_dir, include=include or ()) for name in benchmark]
        model = load_policy(policy, dtype=dtype, device=device or default_device(), revision=revision)
    reports = []
    for one in loaded:
        with working(one.name) as on_progress:
            reports.append(
                evaluate_policy(
                    model, one, protocol, folder=out, on_progress=on_progress, allow_weak_sandbox=allow_weak_sandbox
                )
            )
    payload = {"policy": policy, "policy_digest": model.digest, "reports": [_summary(report) for report in reports]}
    emit(as_json, payload, lambda: _tables(payload))


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _summary(report: Report) -> dict[str, Any]:
    return {
        "benchmark": report.benchmark,
        "card_digest": report.card_digest,
        "data_digest": report.data_digest,
        "protocol": dict(report.protocol),
        "metrics": {
            name: {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}
            for name, interval in report.metrics.items()
        },
        "counts": {part: dict(counts) for part, counts in report.counts.items()},
        "by_level": {metric: dict(levels) for metric, levels in report.by_level.items()},
        "budget": asdict(report.budget),
    }


def _tables(payload: dict[str, Any]) -> Group:
    from rich.console import Group
    from rich.table import Table

    tables = []
    for report in payload["reports"]:
        metrics = Table(title=f"{report['benchmark']}, policy {payload['policy']}", title_justify="left")
        for column in ("metric", "value", "95% interval"):
            metrics.add_column(column)
        for name, cell in report["metrics"].items():
            metrics.add_row(name, f"{cell['value']:.3f}", f"[{cell['ci_low']:.3f}, {cell['ci_high']:.3f}]")
        counts = Table("part", "correct", "wrong", "truncated", "ungraded", "total")
        for part, cells in report["counts"].items():
            counts.add_row(part, *(str(cells[name]) for name in ("correct", "wrong", "truncated", "ungraded", "total")))
        tables += [metrics, counts]
    return Group(*tables)
