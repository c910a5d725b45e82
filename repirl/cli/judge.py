"""`repirl judge`: a process reward on step-labelled sets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from repirl.cli.completing import reward_names, set_names
from repirl.cli.output import JsonFlag, check_output, emit, working

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.cli.tables import Sheet
    from repirl.evals.judging import RewardOnSet, SetReport
    from repirl.rewards.load import LoadedReward
    from repirl.tasks.step_labels import StepFormat


def register(app: typer.Typer) -> None:
    app.command("judge")(judge_command)


def judge_command(
    reward: Annotated[
        str,
        typer.Argument(
            help="Run folder, published PRM, or random, constant, length, confidence, oracle.", autocompletion=reward_names
        ),
    ],
    sets: Annotated[
        list[str],
        typer.Argument(
            metavar="SET...", help="processbench[/SUBSET], prmbench, arith, arith_long, or a file.", autocompletion=set_names
        ),
    ],
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Solutions of each subset, seeded (`arith*`: the first).")] = None,
    threshold: Annotated[
        str | None,
        typer.Option(help="tuned, fixed:VALUE or prmbench (0.5; 0.15 for redundancy). Default: oracle fixed:0.5, else tuned."),
    ] = None,
    step_format: Annotated[
        str | None,
        typer.Option("--format", help="Of a file: prm800k, math-shepherd, trl, processbench. Default: told by its keys."),
    ] = None,
    nulls: Annotated[bool, typer.Option(help="Also random, constant and length, for comparison.")] = True,
    policy: Annotated[str, typer.Option(help="Tokenizer (and model of `confidence`) for rewards given by name.")] = "tiny",
    solver: Annotated[str, typer.Option(help="Policy whose sampled solutions make up `arith` and `arith_long`.")] = "tiny",
    prompt_suffix: Annotated[
        str | None, typer.Option(help="Text after each problem. Default: as in the reward's training.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples of `arith*`, the random reward, and what --limit takes.")] = 0,
    verdicts: Annotated[
        Path | None, typer.Option(help="Write scores and judgement of each solution to this JSONL file.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the policy or published PRM: float32, bfloat16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Folder of files that define further rewards.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Judge REWARD by how well its step scores find the first wrong step (ProcessBench F1) or all of them (PRMBench)."""
    from repirl.engines.loading import default_device
    from repirl.errors import UserError
    from repirl.evals.judged_sets import SetOptions, load_set, natural_separator
    from repirl.evals.judging import default_rule, judge
    from repirl.evals.thresholds import parse_rule
    from repirl.methods.registry import rewards_of
    from repirl.rewards.load import LoadOptions, load_reward
    from repirl.tasks.prm_benchmarks import ARITH_SETS
    from repirl.tasks.step_labels import FORMATS

    rule = None if threshold is None else parse_rule(threshold)
    known = cast("StepFormat | None", step_format if step_format in FORMATS else None)
    if step_format is not None and known is None:
        raise UserError("unknown format of labelled steps", step_format, f"use one of {', '.join(FORMATS)}")
    check_output(verdicts, "--verdicts", sets)
    if reward == "oracle" and (other := next((name for name in sets if name not in ARITH_SETS), None)):
        raise UserError("the oracle knows only arith problems, not", other, f"judge it on {' or '.join(ARITH_SETS)}")
    custom = rewards_of([str(folder) for folder in include or ()])
    place = device or default_device()
    reports, loaded = [], None
    for name in sets:
        loaded = load_reward(reward, LoadOptions(policy, natural_separator(name), seed, dtype, place, custom=custom))
        its_rule = rule or default_rule(loaded)
        with working(f"loading {name}"):
            options = SetOptions(data_dir, limit, known, solver, seed, with_tuning=nulls or its_rule.kind == "tuned")
            judged = load_set(name, options)
        with working(name) as on_progress:
            reports.append(
                judge(loaded, judged, its_rule, nulls=nulls, prompt_suffix=prompt_suffix, seed=seed, on_progress=on_progress)
            )
    assert loaded is not None
    if verdicts is not None:
        _write_rows(verdicts, reports)
    payload = {"reward": _description(loaded, prompt_suffix), "sets": [_summary(report) for report in reports]}
    emit(as_json, payload, lambda: _tables(payload))


def _description(loaded: LoadedReward, prompt_suffix: str | None) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "kind": loaded.reward.name or "energy",
        "digest": loaded.digest,
        "step_separator": loaded.segmentation.separator,
        "template": loaded.template,
        "prompt_suffix": loaded.prompt_suffix if prompt_suffix is None else prompt_suffix,
    }


def _write_rows(path: Path, reports: list[SetReport]) -> None:
    from repirl.errors import UserError

    lines = [json.dumps({"set": report.name} | asdict(row)) + "\n" for report in reports for row in report.judged.rows]
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError("cannot write the verdicts", str(path), error.strerror or "") from None


def _summary(report: SetReport) -> dict[str, Any]:
    return {
        "set": report.name,
        "kind": report.kind,
        "metric": "F1" if report.kind == "first_error" else "PRMScore",
        "digest": report.digest,
        "solutions": report.num_solutions,
        "notes": report.notes,
        "judged": _numbers(report.judged),
        "nulls": [_numbers(null) for null in report.nulls],
    }


def _numbers(result: RewardOnSet) -> dict[str, Any]:
    subsets = {}
    for name, found in result.subsets.items():
        interval = result.intervals[name]
        subsets[name] = asdict(found) | {"ci_low": interval.low, "ci_high": interval.high}
    return {
        "reward": result.reward,
        "threshold": asdict(result.threshold),
        "value": result.headline.value,
        "ci_low": result.headline.low,
        "ci_high": result.headline.high,
        "subsets": subsets,
        "similarity": result.similarity,
        "shortcuts": asdict(result.shortcuts),
        "selection": None if result.selection is None else asdict(result.selection),
        "unscored": result.num_unscored,
        "unscored_reasons": result.unscored,
        "scored_tokens": result.scored_tokens,
    }


def _tables(payload: dict[str, Any]) -> Group:
    from rich.console import Group

    parts: list[Any] = []
    for report in payload["sets"]:
        parts += [_table(report), _shortcuts(report)]
        if report["judged"]["selection"]:
            parts.append(_selection(report))
        parts += _lines(report)
    return Group(*parts)


_COLUMNS = {
    "F1": ("acc_error", "acc_correct", "f1"),
    "PRMScore": ("f1", "negative_f1", "prm_score", "first_error_acc"),
}


def _table(report: dict[str, Any]) -> Sheet:
    from repirl.cli.tables import Sheet

    columns = _COLUMNS[report["metric"]]
    results = (report["judged"], *report["nulls"])
    title = f"{report['set']}: {report['metric']} in percent, {report['solutions']} solutions"
    undefined = ("undefined",) if any(found["undefined"] for one in results for found in one["subsets"].values()) else ()
    names = ("reward", "subset", *columns, "95% interval", *undefined)
    table = Sheet(*names, title=title, below={"95% interval": columns[-1]}, optional=(*undefined, *columns[:-1]))
    for result in results:
        for name, found in result["subsets"].items():
            numbers = (f"{found[column]:.1f}" for column in columns)
            interval = f"[{found['ci_low']:.1f}, {found['ci_high']:.1f}]"
            table.add(result["reward"], name, *numbers, interval, *(", ".join(found[one]) for one in undefined))
        if report["metric"] == "F1" and len(result["subsets"]) > 1:
            interval = f"[{result['ci_low']:.1f}, {result['ci_high']:.1f}]"
            table.add(result["reward"], "mean", "", "", f"{result['value']:.1f}", interval, *("" for _ in undefined))
        table.section()
    return table


def _shortcuts(report: dict[str, Any]) -> Sheet:
    """How well the scores part right from wrong without a threshold, and how far they go by length."""
    from repirl.cli.tables import Sheet

    results = (report["judged"], *report["nulls"])
    names = tuple(report["judged"]["shortcuts"])
    heads = [name.replace("_", " ").replace("auc", "AUC") for name in names]
    title = "the scores alone: AUC (0.5 is chance; within: within a problem), correlation with length"
    table = Sheet("reward", *heads, title=title, right=heads, optional=heads[:2])
    for result in results:
        values = (result["shortcuts"][name] for name in names)
        table.add(result["reward"], *("-" if value is None else f"{value:.2f}" for value in values))
    return table


def _selection(report: dict[str, Any]) -> Sheet:
    """Best-of-N by the reward beside majority, chance and ceiling, in percent."""
    from repirl.cli.tables import Sheet

    found = report["judged"]["selection"]
    percent = lambda one, name: f"{100 * one[name]['value']:.1f}"
    chance = f"majority {percent(found, 'majority')}, any sample {percent(found, 'sampled')}"
    title = (
        f"the best of {found['samples']} samples by its score is right, in percent of {found['problems']} problems "
        f"({chance}, one is right {percent(found, 'any_right')})"
    )
    columns = ("lowest step", "mean step", "lowest step - majority", "95% interval")
    table = Sheet("reward", *columns, title=title, right=columns, below={"95% interval": columns[2]}, optional=columns[1:2])
    for result in (report["judged"], *report["nulls"]):
        if chosen := result["selection"]:
            gain = chosen["over_majority"]
            bounds = f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
            values = (percent(chosen, "lowest_step"), percent(chosen, "mean_step"), f"{100 * gain['value']:+.1f}")
            table.add(result["reward"], *values, bounds)
    return table


def _lines(report: dict[str, Any]) -> list[str]:
    """Thresholds, what has no score, and the notes."""
    lines = []
    for result in (report["judged"], *report["nulls"]):
        used = result["threshold"]
        many = used["rule"] == "tuned" and len(used["values"]) > 1
        found = [f"{value:.6g}" for value in sorted(used["values"])]
        values = f"{found[0]} to {found[-1]}" if many else ", ".join(f"{value:.6g}" for value in used["values"])
        tuned = f" on {used['tuned_on']}" if used["tuned_on"] else ""
        lines.append(f"{result['reward']}: threshold {values} ({used['rule']}{tuned}; {used['ties']})")
        for reason, count in result["unscored_reasons"].items():
            lines.append(f"{result['reward']}: {count} solutions are unscored and count as wrong: {reason}")
    if similarity := report["judged"]["similarity"].get("total"):
        lines.append(f"{report['judged']['reward']}: similarity to the controls, mean absolute difference {similarity:.3f}")
    return lines + [f"{name.replace('_', ' ')}: {count}" for name, count in report["notes"].items()]
