"""`repirl attack`: what raises a process reward's score without raising correctness."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from repirl.cli.completing import reward_names
from repirl.cli.engine_choice import TORCH, Weights
from repirl.cli.output import JsonFlag, emit, working
from repirl.cli.tables import Sheet

if TYPE_CHECKING:
    from repirl.rewards.aggregate import Aggregation


def register(app: typer.Typer) -> None:
    app.command("attack")(attack_command)


def attack_command(
    reward: Annotated[
        list[str], typer.Argument(metavar="REWARD...", help="As in `repirl judge`.", autocompletion=reward_names)
    ],
    benchmark: Annotated[
        str | None, typer.Option(help="Whose problems; without a pool solutions are sampled.  [default: arith_long]")
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="File of samples in place of sampling, as for `repirl scale`.")] = None,
    policy: Annotated[str, typer.Option(help="Embedded name, folder, or hub id.")] = "tiny",
    samples: Annotated[int, typer.Option(min=1, help="Completions of each problem to attack some of.")] = 8,
    attacked: Annotated[int, typer.Option(min=1, help="Solutions of each problem, right and wrong ones.")] = 2,
    aggregation: Annotated[str, typer.Option(help="How step scores become one: mean, min, last, prod, sum.")] = "mean",
    rounds: Annotated[int, typer.Option(min=1, help="Of the search over tokens.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems.")] = 64,
    nulls: Annotated[bool, typer.Option(help="Also random, constant and length, for comparison.")] = True,
    seed: Annotated[int, typer.Option(help="Of samples and attacks.")] = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    dtype: Annotated[str, typer.Option(help="Of policy and published PRMs: float32, bfloat16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Attack REWARD with changed solutions that are not right: by how much does its score rise?"""
    from repirl.cli.scale import reward_for, sampled_pool, short_names
    from repirl.engines.loading import default_device
    from repirl.errors import UserError
    from repirl.evals.attacks import attack, cases_of
    from repirl.evals.pools import pool_of_file
    from repirl.evals.scaling import AGGREGATIONS
    from repirl.rewards.load import model_free_nulls
    from repirl.tasks.benchmarks import load_benchmark

    if aggregation not in AGGREGATIONS:
        raise UserError("unknown aggregation", aggregation, f"use one of {', '.join(AGGREGATIONS)}")
    place = device or default_device()
    with working("loading"):
        name = benchmark or ("arith_long" if pool is None else None)
        problems = None if name is None else load_benchmark(name, data_dir=data_dir)
    if pool is not None:
        with working("grading") as on_progress:
            graded = pool_of_file(pool, problems, limit=limit, on_progress=on_progress)
    else:
        assert problems is not None
        sampling = {"samples": samples, "greedy": False, "limit": limit, "seed": seed}
        weights = Weights(policy, None, dtype, place, 512, None)
        graded, _ = sampled_pool(problems, weights, (TORCH, None, None, None), sampling, None)
    cases = cases_of(graded, attacked)
    named = short_names(reward).items()
    rewards = [(short, reward_for(given, graded.problems.values(), policy, seed, dtype, place)) for short, given in named]
    if nulls:
        rewards += [(null.name, null) for null in model_free_nulls(rewards[0][1], seed)]
    how = cast("Aggregation", aggregation)
    lifts = []
    for short, loaded in rewards:
        with working(f"attacking {short}") as on_progress:
            lifts += attack(loaded, short, cases, aggregation=how, rounds=rounds, seed=seed, on_progress=on_progress)
    payload = {
        "benchmark": name or str(pool),
        "solutions": len(cases),
        "right": sum(case.right for case in cases),
        "aggregation": aggregation,
        "attacks": [{name: value for name, value in asdict(one).items() if name != "rows"} for one in lifts],
    }
    emit(as_json, payload, lambda: _table(payload))


def _table(payload: dict[str, Any]) -> Sheet:
    title = (
        f"{payload['solutions']} solutions ({payload['right']} right) of {payload['benchmark']}; lift in standard deviations"
    )
    table = Sheet(
        *("reward", "attack", "n", "lift", "95% interval", "raised", "above right ones", "left out"),
        title=title,
        texts=("reward", "attack", "above right ones", "raised", "left out"),
        right=("n", "lift"),
        below={"95% interval": "lift"},
        optional=("left out", "n", "raised"),
    )
    before = ""
    for one in payload["attacks"]:
        if before not in ("", one["reward"]):
            table.section()
        before = one["reward"]
        lift = one["lift"]
        left_out = [f"{one[key]} {word}" for key, word in (("still_right", "right"), ("unscored", "unscored")) if one[key]]
        table.add(
            one["reward"],
            one["attack"],
            str(one["attacked"]),
            "" if lift is None else f"{lift['value']:+.2f}",
            "" if lift is None else f"[{lift['low']:+.2f}, {lift['high']:+.2f}]",
            _share(one["raised"]),
            _share(one["above_right"]),
            ", ".join(left_out),
        )
    return table


def _share(interval: dict[str, Any] | None) -> str:
    return "" if interval is None else f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"
