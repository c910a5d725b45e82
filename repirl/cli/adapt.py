"""`repirl adapt`: test-time training on a benchmark's problems without their answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.chat import ChatFlag, chat_for
from repirl.cli.completing import benchmark_names, reward_names
from repirl.cli.output import JsonFlag, check_folder, emit, note, working
from repirl.cli.tables import Sheet

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.types import AnswersGiven

SIGNALS = ("prm", "majority", "random", "format", "self_certainty", "negative_entropy", "outcome", "incorrect")
TOLD: dict[str, AnswersGiven] = {"outcome": "right", "incorrect": "wrong"}
"""Controls that are told answers: the right ones, or those of other problems."""


def register(app: typer.Typer) -> None:
    app.command("adapt")(adapt_command)


def adapt_command(
    reward: Annotated[
        str | None, typer.Argument(help="A frozen process reward, as in `repirl judge`.", autocompletion=reward_names)
    ] = None,
    signal: Annotated[
        str | None,
        typer.Option(
            help="Instead: majority, random, format, self_certainty, negative_entropy; outcome and incorrect, which are told."
        ),
    ] = None,
    benchmark: Annotated[str, typer.Option(help="Whose problems.", autocompletion=benchmark_names)] = "arith_long",
    problems: Annotated[int, typer.Option(min=2, help="So many, from the first, are adapted to.")] = 64,
    held_out: Annotated[int, typer.Option(min=2, help="The next ones show what else changed.")] = 64,
    watch: Annotated[
        int, typer.Option(min=0, help="So many of those are sampled while training: it stops if the signal hacks them.")
    ] = 16,
    policy: Annotated[str, typer.Option(help="Embedded name, folder, or hub id.")] = "tiny",
    recipe: Annotated[str, typer.Option(help="Of the method `test_time`.")] = "tiny",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change of the recipe: key.path=value.")] = None,
    chat_template: ChatFlag = None,
    samples: Annotated[int, typer.Option(min=2, help="Completions of each problem before and after.")] = 8,
    seed: Annotated[int, typer.Option(help="Of training and of the samples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder.", show_default="runs/adapt-SIGNAL-sSEED")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Test-time training: a process without the answers trains the policy, this one measures it before and after."""
    from repirl.engines.loading import default_device, load_policy
    from repirl.errors import UserError
    from repirl.evals import adapting as apart
    from repirl.evals.policy import evaluate_policy
    from repirl.evals.protocol import EvalProtocol
    from repirl.reporting.figures import of_adapting
    from repirl.reporting.plots import draw
    from repirl.tasks.benchmarks import load_benchmark

    chosen = signal or "prm"
    if (chosen == "prm") != (reward is not None) or chosen not in SIGNALS:
        todo = f"signals: {', '.join(SIGNALS[1:])}"
        raise UserError("give a reward, or one signal in its place", signal or str(reward), todo)
    folder = out or Path("runs") / f"adapt-{chosen}-s{seed}"
    check_folder(folder, "--out")
    with working("loading"):
        card = load_benchmark(benchmark, data_dir=data_dir)
        chat = chat_for(chat_template, policy)
    if len(card.problems) < problems + held_out:
        raise UserError(f"{benchmark} has too few problems", len(card.problems), "lower --problems or --held-out")
    if watch > held_out:
        raise UserError("--watch is a part of the held-out problems", watch, f"give at most {held_out}")
    place = device or default_device()
    sides = {"before": folder / "before", "after": folder / "after"}
    file = folder / apart.PROBLEMS_FILE
    told = [other for other in folder.parent.glob(f"*/{apart.PROBLEMS_FILE}") if other != file]  # of runs by other signals
    refused = apart.answers_at(folder, data_dir, [*sides.values(), *told])
    given = TOLD.get(chosen, "none")
    watched = 0 if chosen in TOLD else watch
    more = [f"loop.sampling.chat_template={json.dumps(chat)}", *(settings or ())]
    training = _training(chosen, reward, file, watched, recipe, more)
    folder.mkdir(parents=True, exist_ok=True)
    apart.write_problems(file, card.problems[: problems + watched], given)
    protocol = EvalProtocol(samples=samples, seed=seed, limit=problems + held_out, chat_template=chat)
    metrics = [f"maj@{samples}"]
    reports = {}
    run = folder / "run"
    for side, place_of_samples in sides.items():
        if side == "after":
            note(f"training on {problems} problems by {chosen}, in a process of its own")
            at = ["--policy", policy, "--seed", str(seed), "--out", str(run), "--device", place, "--json"]
            apart.train_apart([*training, *at], refused)
        with working(side) as on_progress:
            measured = load_policy(policy if side == "before" else run / "policy", device=place)
            reports[side] = evaluate_policy(
                measured, card, protocol, folder=place_of_samples, on_progress=on_progress, metrics=metrics
            )
    curve = apart.graded_curve(run, card)
    plot = folder / "curve.svg"
    draw(plot, of_adapting(curve))
    before, after = reports["before"], reports["after"]
    payload = {
        "benchmark": benchmark,
        "signal": chosen,
        "reward": reward,
        "folder": str(folder),
        "adapted": asdict(apart.adapted(before, after, card.problems[:problems])),
        "held_out": asdict(apart.adapted(before, after, card.problems[problems : problems + held_out])),
        "stopped_early": curve[-1].get("prm/watch/stop") == 1.0,
        "curve": [{name: line[name] for name in SHOWN if name in line} for line in curve if "entropy" in line],
    }
    note(f"run: {run}")
    note(f"plot: {plot}")
    emit(as_json, payload, lambda: _tables(payload))


SHOWN = (
    "step",
    "accuracy",
    "reward",
    "prm/signal",
    "prm/agreement",
    "prm/specific_agreement",
    "prm/different_answers",
    "prm/repetition",
    "prm/watch/signal",
    "prm/watch/specific_agreement",
    "watch/accuracy",
    "entropy",
    "length_mean",
    "truncated",
)


def _training(signal: str, reward: str | None, file: Path, watched: int, recipe: str, more: list[str]) -> list[str]:
    """What the child process is told: `test_time` by its recipe, or `rloo` with the loop's settings of that recipe.

    UserError for settings and rewards that there are not, before anything is sampled.
    """
    from repirl.config import with_overrides
    from repirl.methods.registry import load_method
    from repirl.rewards.load import LoadOptions, load_reward

    if reward is not None:
        load_reward(reward, LoadOptions())
    at = json.dumps(str(file.resolve()))
    if signal not in TOLD:
        settings = ["data.source=unlabelled", f"data.file={at}", f"signal={signal}", f"watch.problems={watched}"]
        settings += [f"reward={json.dumps(_place(reward))}"] if reward is not None else []
        method, chosen = "test_time", recipe
    else:
        loop = load_method("test_time").recipe(recipe).model_dump(mode="json")["loop"]
        settings = ["data.source=file", f"data.file={at}", "data.validation_problems=0"]
        settings += [f"loop.{name}={json.dumps(value)}" for name, value in loop.items() if name != "credit"]
        method, chosen = "rloo", "tiny"
    settings += more
    with_overrides(load_method(method).recipe(chosen), settings)
    return [method, "--recipe", chosen, *(part for setting in settings for part in ("--set", setting))]


def _place(reward: str) -> str:
    return str(Path(reward).resolve()) if Path(reward).is_dir() else reward


def _tables(payload: dict[str, Any]) -> Group:
    from rich.console import Group

    title = f"{payload['benchmark']}: test-time training by {payload['reward'] or payload['signal']}"
    columns = ("problems", "metric", "before", "after", "difference", "95% interval")
    table = Sheet(*columns, title=title, texts=("problems",), right=columns[2:5], below={"95% interval": "difference"})
    lines = []
    for name in ("adapted", "held_out"):
        side = payload[name]
        for metric, change in side["changes"].items():
            gap = change["difference"]["interval"]
            table.add(
                f"{side['problems']} {name.replace('_', ' ')}",
                metric,
                f"{change['before']['value']:.3f}",
                f"{change['after']['value']:.3f}",
                f"{gap['value']:+.3f}",
                f"[{gap['low']:+.3f}, {gap['high']:+.3f}]",
            )
        table.section()
        moves = ", ".join(f"{count} {kind}" for kind, count in side["transitions"].items())
        answers = f"different answers a problem {side['answers_before']:.1f} -> {side['answers_after']:.1f}"
        lines.append(f"{name.replace('_', ' ')}, greedy: {moves}; {answers}")
    first, last = payload["curve"][0], payload["curve"][-1]
    titles = {
        "prm/signal": "signal",
        "prm/agreement": "agreement",
        "prm/specific_agreement": "specific",
        "accuracy": "accuracy",
        "entropy": "entropy",
    }
    moved = [f"{title} {first[name]:.3f} -> {last[name]:.3f}" for name, title in titles.items() if name in first]
    moved.append(f"length {first['length_mean']:.0f} -> {last['length_mean']:.0f} tokens")
    stopped = " (stopped: the signal rose while specific agreement fell)" if payload["stopped_early"] else ""
    lines.append(f"{last['step']} updates{stopped}, batch: " + ", ".join(moved))
    return Group(table, *lines)
