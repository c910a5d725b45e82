"""`repirl eval`: a policy on benchmarks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.chat import ChatFlag, chat_for
from repirl.cli.completing import benchmark_names, policy_names
from repirl.cli.engine_choice import TORCH, BaseUrlOption, EngineOption, EngineSetOption, ModelOption, Weights, open_sampler
from repirl.cli.output import JsonFlag, check_folder, emit, note, working

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.cli.tables import Sheet
    from repirl.evals.compare import OtherRun
    from repirl.evals.protocol import EvalProtocol
    from repirl.tasks.benchmarks import Benchmark
    from repirl.types import Interval, Report


_INTERVAL = {"95% interval": "value"}


def register(app: typer.Typer) -> None:
    app.command("eval")(eval_command)


def eval_command(
    benchmark: Annotated[
        list[str], typer.Option(help="Benchmark or suite of them; may be given several times.", autocompletion=benchmark_names)
    ],
    policy: Annotated[str, typer.Option(help="Embedded name, folder, or hub id.", autocompletion=policy_names)] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub policy.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Completions of each problem at the temperature.")] = 8,
    temperature: Annotated[float, typer.Option(help="Temperature of the samples.")] = 1.0,
    greedy: Annotated[bool, typer.Option(help="Also one greedy completion of each problem.")] = True,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default: what the benchmark says.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    chat_template: ChatFlag = None,
    extraction: Annotated[str, typer.Option(help="Answers: strict (marked ones), flexible (else the last value).")] = "strict",
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of benchmark cards.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep samples and results.json here; an interrupted run continues.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    max_batch_rows: Annotated[int, typer.Option(min=1, help="Completions sampled at a time.")] = 512,
    max_cache_tokens: Annotated[int | None, typer.Option(min=1, help="Their tokens; default: what fits the GPU.")] = None,
    allow_weak_sandbox: Annotated[bool, typer.Option(help="Run generated code with less isolation.")] = False,
    metric: Annotated[list[str] | None, typer.Option(help="Also pass@K, maj@K, maj@K:lowest-index, maj@K:random.")] = None,
    against: Annotated[str | None, typer.Option(help="Compare with a folder that --out filled, or a run record.")] = None,
    engine: EngineOption = TORCH,
    base_url: BaseUrlOption = None,
    model: ModelOption = None,
    engine_set: EngineSetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Evaluate a policy: greedy accuracy, avg@n (= pass@1), pass@k and maj@n with intervals, by level and subject."""
    from repirl.config import parse_config
    from repirl.evals.lm_eval_files import write_results, write_samples
    from repirl.evals.policy import evaluate_policy
    from repirl.evals.protocol import EvalProtocol

    sampling = {"samples": samples, "temperature": temperature, "greedy": greedy, "max_new_tokens": max_new_tokens}
    more = {"limit": limit, "seed": seed, "extraction": extraction}
    protocol = parse_config(EvalProtocol, sampling | more)
    protocol.parts()
    check_folder(out, "--out")
    with working("loading"):
        chat = chat_for(chat_template, policy, revision, engine)
        protocol = protocol.model_copy(update={"chat_template": chat})
        wanted = _wanted(benchmark, protocol, metric or (), against, data_dir, include or ())
        weights = Weights(policy, revision, dtype, device, max_batch_rows, max_cache_tokens)
        sampler = open_sampler(engine, weights, base_url, model, engine_set, chat)
    summaries = []
    with closing(sampler):
        for one in wanted:
            with working(one.benchmark.name) as on_progress:
                report = evaluate_policy(
                    sampler.policy,
                    one.benchmark,
                    protocol,
                    folder=out,
                    engine=sampler.engine,
                    on_progress=on_progress,
                    allow_weak_sandbox=allow_weak_sandbox,
                    chunk_rows=sampler.chunk_rows,
                    metrics=one.metrics,
                )
                if out is not None:
                    write_samples(out, one.benchmark, report, sampler.policy.tokenizer)
                    write_results(out, one.benchmark, report, sampler.policy)
                summaries.append(_summary(report, one.other))
                _warn_of_nothing_right(report, one.benchmark)
    payload = {"policy": sampler.policy.name, "policy_digest": sampler.policy.digest, **sampler.described, "reports": summaries}
    emit(as_json, payload, lambda: _tables(payload))
    if out is not None:
        note(f"samples and results: {out}")


def _warn_of_nothing_right(report: Report, benchmark: Benchmark) -> None:
    """A policy that solves nothing has often been asked in a form that it does not know."""
    nothing = [name for name, one in report.metrics.items() if name.startswith(("greedy", "avg@")) and one.value == 0]
    if nothing:
        asked = textwrap.shorten(repr(benchmark.problems[0].prompt), 300)
        said = f"{report.benchmark}: no answer was right ({', '.join(nothing)})"
        note(f"{said}; is this how the policy is to be asked? {asked}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A benchmark, what is reported besides the protocol's metrics, and the run to compare with."""

    benchmark: Benchmark
    metrics: list[str]
    other: OtherRun | None


def _wanted(
    names: Sequence[str],
    protocol: EvalProtocol,
    metrics: Sequence[str],
    against: str | None,
    data_dir: Path | None,
    include: Sequence[Path],
) -> list[_Wanted]:
    """All benchmarks, loaded; UserError for a metric or a comparison that does not fit, before any of them is sampled."""
    from repirl.cli.against import open_other
    from repirl.evals.report import majority, metrics_of
    from repirl.tasks.benchmarks import expand_benchmarks, load_benchmark

    found = []
    for name in expand_benchmarks(names, include):
        one = load_benchmark(name, data_dir=data_dir, include=include)
        more = [*majority(one, protocol.samples), *metrics]
        metrics_of(protocol, one, more)
        found.append(_Wanted(one, more, open_other(against, one, protocol) if against is not None else None))
    return found


def _summary(report: Report, other: OtherRun | None) -> dict[str, Any]:
    from repirl.evals.report import group_sizes

    summary = {
        "benchmark": report.benchmark,
        "card_digest": report.card_digest,
        "data_digest": report.data_digest,
        "protocol": dict(report.protocol),
        "metrics": {
            name: _interval(interval) | {"problems": report.problems_measured[name]}
            for name, interval in report.metrics.items()
        },
        "counts": {part: dict(counts) for part, counts in report.counts.items()},
        "by_level": {metric: dict(levels) for metric, levels in report.by_level.items()},
        "by_subject": {metric: dict(subjects) for metric, subjects in report.by_subject.items()},
        "problems_by": group_sizes(report),
        "budget": asdict(report.budget),
    }
    if report.other_extraction is not None:
        other_way = report.other_extraction
        shown = {name: _interval(interval) for name, interval in other_way.metrics.items()}
        summary["other_extraction"] = {"extraction": other_way.extraction, "metrics": shown}
    return summary if other is None else summary | {"against": _against(report, other)}


def _against(report: Report, other: OtherRun) -> dict[str, Any]:
    """The other run's values and the paired differences; a metric's are None where no problem has it in both."""
    from repirl.evals.compare import differences

    found = differences(report, other)
    return {
        "run": other.name,
        "policy_digest": other.policy_digest,
        "seed": other.sampling.get("seed"),
        "metrics": {
            name: None
            if one is None
            else {
                "other": _interval(one.other),
                "difference": _interval(one.paired.interval),
                "p_value": one.paired.p_value,
                "problems": one.paired.problems,
            }
            for name, one in found.items()
        },
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}


def _tables(payload: dict[str, Any]) -> Group:
    from rich.console import Group

    from repirl.cli.tables import Sheet

    tables = []
    for report in payload["reports"]:
        title = f"{report['benchmark']}, policy {payload['policy']}"
        metrics = Sheet("metric", "value", "95% interval", "problems", title=title, below=_INTERVAL)
        for name, cell in report["metrics"].items():
            metrics.add(name, f"{cell['value']:.3f}", _bounds(cell), str(cell["problems"]))
        counts = Sheet("part", "correct", "wrong", "truncated", "ungraded", "total")
        for part, cells in report["counts"].items():
            counts.add(part, *(str(cells[name]) for name in ("correct", "wrong", "truncated", "ungraded", "total")))
        tables += [metrics, *_other_extraction(report), counts, *_breakdowns(report)]
        if "against" in report:
            tables.append(_comparison(report))
    if any(name.startswith("sound@") for report in payload["reports"] for name in report["metrics"]):
        tables.append("sound@n: as avg@n, but of right answers only those count whose every step the exact checker finds right")
    return Group(*tables)


def _other_extraction(report: dict[str, Any]) -> list[str]:
    """A line where it matters how answers are found."""
    other = report.get("other_extraction")
    if other is None:
        return []
    found = ", ".join(f"{name} {cell['value']:.3f}" for name, cell in other["metrics"].items())
    used = report["protocol"]["extraction"]
    return [f"Extraction matters here: above answers are found by `{used}`; by `{other['extraction']}`: {found}"]


def _breakdowns(report: dict[str, Any]) -> list[Sheet]:
    """One table by level and one by subject, where the problems have them; subjects that are the levels again have none."""
    from repirl.cli.tables import Sheet

    tables = []
    levels = {f"level {level}": size for level, size in report["problems_by"]["level"].items()}
    for kind, sizes in report["problems_by"].items():
        if not sizes or (kind == "subject" and sizes == levels):
            continue
        table = Sheet(kind, "problems", *report["metrics"], optional=[*report["metrics"]][:0:-1])
        for group, size in sizes.items():
            cells = [values.get(group) for values in report[f"by_{kind}"].values()]
            table.add(group, str(size), *("-" if value is None else f"{value:.3f}" for value in cells))
        tables.append(table)
    return tables


def _comparison(report: dict[str, Any]) -> Sheet:
    from repirl.cli.tables import Sheet

    against = report["against"]
    title = f"{report['benchmark']}: this run - {against['run']}, paired by problem"
    columns = ("metric", "this", "other", "difference", "95% interval", "p", "problems")
    table = Sheet(*columns, title=title, below={"95% interval": "difference"})
    for name, cell in against["metrics"].items():
        this = f"{report['metrics'][name]['value']:.3f}"
        if cell is None:
            table.add(name, this, *"-----")
            continue
        difference = cell["difference"]
        numbers = (f"{cell['other']['value']:.3f}", f"{difference['value']:+.3f}", _bounds(difference, "+"))
        table.add(name, this, *numbers, f"{cell['p_value']:.3f}", str(cell["problems"]))
    return table


def _bounds(cell: dict[str, Any], sign: str = "") -> str:
    return f"[{cell['ci_low']:{sign}.3f}, {cell['ci_high']:{sign}.3f}]"
