"""`repirl scale`: test-time scaling from one pool of samples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from repirl.cli.chat import ChatFlag, chat_for
from repirl.cli.completing import approach_names, benchmark_names, reward_names
from repirl.cli.engine_choice import (
    OPENAI,
    TORCH,
    BaseUrlOption,
    EngineOption,
    EngineSetOption,
    ModelOption,
    Weights,
    open_sampler,
)
from repirl.cli.output import JsonFlag, check_folder, check_output, emit, note, working

if TYPE_CHECKING:
    from repirl.evals.pools import GradedPool
    from repirl.rewards.aggregate import Aggregation
    from repirl.rewards.load import LoadedReward
    from repirl.tasks.benchmarks import Benchmark
    from repirl.types import Problem


def register(app: typer.Typer) -> None:
    app.command("scale")(scale_command)


def scale_command(
    benchmark: Annotated[
        str | None, typer.Option(help="Problems to sample, or whose answers grade the pool.", autocompletion=benchmark_names)
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="File (or folder) of samples in place of sampling; formats: docs/verbs.md.")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="Process reward to choose by: as in `repirl judge`; may be given several times.", autocompletion=reward_names
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="Embedded name, folder, or hub id.")] = "tiny",
    samples: Annotated[int, typer.Option(min=1, help="Completions of each problem.")] = 16,
    number: Annotated[list[int] | None, typer.Option("--n", help="Only these N; default: powers of two.")] = None,
    approach: Annotated[
        str | None,
        typer.Option(
            help="Search step by step instead of sampling: beam, lookahead, dvts, rebase, particles.",
            autocompletion=approach_names,
        ),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Setting of the search: key=value.")] = None,
    aggregation: Annotated[
        list[str] | None, typer.Option(help="How step scores become one: mean, min, last, prod, sum; default: all.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Temperature of the samples.")] = 0.8,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default: what the benchmark says.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems.")] = None,
    later: Annotated[
        str | None, typer.Option(help="A policy trained later: do scores of failed attempts tell which problems it solves?")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples, and of the subsets that vote.")] = 0,
    chat_template: ChatFlag = None,
    extraction: Annotated[str, typer.Option(help="Answers: strict (marked ones), flexible (else the last value).")] = "strict",
    prompt_suffix: Annotated[
        str | None, typer.Option(help="Text after each problem. Default: as in the reward's training.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of benchmark cards.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep samples here; an interrupted run continues.")] = None,
    save_pool: Annotated[Path | None, typer.Option(help="Write the pool with all scores to this JSONL file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this SVG file.")] = None,
    against: Annotated[str, typer.Option(help="What --plot draws them against: n, tokens or flops (of a problem).")] = "n",
    dtype: Annotated[str, typer.Option(help="Of policy and published PRMs: float32, bfloat16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    engine: EngineOption = TORCH,
    base_url: BaseUrlOption = None,
    model: ModelOption = None,
    engine_set: EngineSetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Test-time scaling: best-of-N, majority and PRM-weighted majority by N, all from one pool of samples."""
    from repirl.cli.scale_tables import AXES, costs_of, payload_of, tables
    from repirl.errors import UserError
    from repirl.evals.origin import agreement
    from repirl.evals.pools import pool_of_file, with_scores, write_pool
    from repirl.evals.scaling import AGGREGATIONS, scaling
    from repirl.evals.solvability import foretold
    from repirl.grading.math.grader import known_extraction
    from repirl.tasks.benchmarks import load_benchmark

    if against not in AXES:
        raise UserError("curves are not drawn against", against, f"use one of {', '.join(AXES)}")
    if (pool is None) and benchmark is None:
        raise UserError("nothing to choose from", "no --benchmark, no --pool", "name a benchmark, or give a pool of samples")
    if later is not None and (pool is not None or approach is not None):
        raise UserError(
            "a later policy is sampled on a benchmark's problems", later, "give --benchmark, and no --pool or --approach"
        )
    served = {
        "--engine": None if engine == TORCH else engine,
        "--base-url": base_url,
        "--model": model,
        "--engine-set": engine_set,
    }
    told = [name for name, value in served.items() if value]
    if told and (pool is not None or approach is not None):
        what = "a pool is read, not sampled" if pool is not None else "a search samples with the engine of torch"
        raise UserError(what, told[0], "leave it out")
    if engine == OPENAI and (late := later or next((one for one in reward or () if one == "confidence"), None)):
        raise UserError("this takes the policy's weights, which lie behind a server", late, "leave it out")
    if set_ and approach is None:
        raise UserError("--set belongs to a search", set_[0], "give --approach too")
    for how in aggregation or ():
        if how not in AGGREGATIONS:
            raise UserError("unknown aggregation", how, f"use one of {', '.join(AGGREGATIONS)}")
    check_output(save_pool, "--save-pool", () if pool is None else [pool])
    check_output(plot, "--plot")
    check_folder(out, "--out")
    way = known_extraction(extraction)
    place = device
    if place is None:
        from repirl.engines.loading import default_device

        place = default_device()
    with working("loading"):
        problems = None if benchmark is None else load_benchmark(benchmark, data_dir=data_dir, include=include or ())
        chat = pool is None and chat_for(chat_template, policy, engine=engine)
    if approach is not None:
        if problems is None or pool is not None or len(reward or ()) != 1:
            raise UserError("a search needs one benchmark and one reward", approach, "give --benchmark and --reward once")
        unused = {"--aggregation": aggregation, "--out": out, "--prompt-suffix": prompt_suffix}
        if given := [name for name, value in unused.items() if value]:
            todo = "say --set aggregation=..." if given[0] == "--aggregation" else "leave it out"
            raise UserError(f"a search knows no {given[0]}", approach, todo)
        from repirl.cli.scale_search import Asked, draw_search, search_curve, search_tables

        asked = Asked(
            approach=approach,
            reward=(reward or [""])[0],
            policy=policy,
            numbers=tuple(number or (4,)),
            limit=limit,
            settings=tuple(set_ or ()),
            given={"temperature": temperature, "seed": seed, "max_new_tokens": max_new_tokens},
            chat_template=chat,
            extraction=way,
            dtype=dtype,
            device=place,
        )
        searched = search_curve(problems, asked, save_pool)
        if plot is not None:
            draw_search(plot, searched, against)
        emit(as_json, searched, lambda: search_tables(searched))
        return
    from repirl.engines.loading import parameters_of

    parameters: dict[str, int] = {}
    sampling: dict[str, Any] = {}
    names = short_names(reward or ())
    if pool is not None:
        with working("grading") as on_progress:
            graded = pool_of_file(pool, problems, extraction=way, limit=limit, on_progress=on_progress)
    else:
        assert problems is not None
        if later is not None:
            from repirl.engines.loading import policy_dir

            policy_dir(later)
        for given in names.values():  # a mistake is to be seen before anything is sampled
            reward_for(given, problems.problems[:limit], policy, seed, dtype, place, chat=chat)
        if number and max(number) > samples:
            raise UserError("N is more than the samples of a problem", max(number), f"--samples is {samples}")
        sampling = {
            "samples": samples,
            "temperature": temperature,
            "greedy": False,
            "max_new_tokens": max_new_tokens,
            "limit": limit,
            "seed": seed,
            "chat_template": chat,
            "extraction": extraction,
        }
        where = (engine, base_url, model, engine_set)
        graded, size = sampled_pool(problems, Weights(policy, None, dtype, place, 512, None), where, sampling, out)
        parameters |= {} if size is None else {"policy": size}
    for name, given in names.items():
        loaded = reward_for(given, graded.problems.values(), policy, seed, dtype, place, chat=chat)
        with working(f"scoring {name}") as on_progress:
            graded = with_scores(graded, name, loaded, prompt_suffix=prompt_suffix, on_progress=on_progress)
        parameters[name] = parameters_of(getattr(loaded.reward, "model", None))
    if save_pool is not None:
        write_pool(save_pool, graded)
        note(f"pool: {save_pool}")
    found = scaling(graded.candidates(), number, cast("list[Aggregation]", aggregation) or AGGREGATIONS, seed=seed)
    payload = payload_of(graded, found, parameters) | {"origin": [asdict(one) for one in agreement(graded)], "later": []}
    if later is not None:
        assert problems is not None
        note(f"sampling {later}")
        weights = Weights(later, None, dtype, place, 512, None)
        solved, _ = sampled_pool(problems, weights, where, sampling, None if out is None else out / "later")
        shares = {one.problem: float(one.correct.mean()) for one in solved.candidates() if len(one.correct)}
        payload["later"] = [asdict(one) for one in foretold(graded.candidates(), shares)]
    if plot is not None:
        from repirl.reporting.figures import of_scaling
        from repirl.reporting.plots import draw

        costs = None if against == "n" else costs_of(payload, against)
        draw(plot, of_scaling(found, costs, AXES[against]))
        note(f"plot: {plot}")
    emit(as_json, payload, lambda: tables(payload))


Where = tuple[str, str | None, str | None, list[str] | None]
"""Engine, base URL, name of the model and settings of the engine, as the options say them."""


def sampled_pool(
    problems: Benchmark, weights: Weights, where: Where, sampling: dict[str, Any], out: Path | None
) -> tuple[GradedPool, int | None]:
    """A pool sampled from the policy, and how many parameters that has; None behind a server."""
    from repirl.config import parse_config
    from repirl.engines.loading import parameters_of
    from repirl.evals.policy import evaluate_policy
    from repirl.evals.pools import pool_of_samples
    from repirl.evals.protocol import SAMPLED, EvalProtocol

    protocol = parse_config(EvalProtocol, sampling)
    engine, base_url, model, settings = where
    with (
        working(problems.name) as on_progress,
        closing(open_sampler(engine, weights, base_url, model, settings, protocol.chat_template)) as sampler,
    ):
        report = evaluate_policy(
            sampler.policy,
            problems,
            protocol,
            folder=out,
            engine=sampler.engine,
            on_progress=on_progress,
            chunk_rows=sampler.chunk_rows,
        )
    size = None if sampler.policy.model is None else parameters_of(sampler.policy.model)
    return pool_of_samples(problems, report.samples[SAMPLED]), size


def reward_for(
    name: str, problems: Collection[Problem], policy: str, seed: int, dtype: str, device: str, *, chat: bool = False
) -> LoadedReward:
    """A reward by name or folder, to score solutions of these problems; one that is named takes the policy's tokens, and its
    prompts as the policy had them."""
    from repirl.errors import UserError
    from repirl.evals.step_scoring import separator_of
    from repirl.rewards.load import LoadOptions, load_reward
    from repirl.tasks import arith

    if name == "oracle" and (unknown := [problem.id for problem in problems if problem.family != arith.FAMILY]):
        raise UserError("the oracle knows only arith problems, not", unknown[0], "choose by another reward")
    return load_reward(name, LoadOptions(policy, separator_of(problems), seed, dtype, device, chat))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name in tables -> reward as it was given: the folder's last part that says something, or all where two have the same."""
    given = list(dict.fromkeys(names))
    paths = [Path(name) for name in given]
    short = [path.parent.name if path.name == "reward" and path.parent.name else path.name for path in paths]
    return {own if short.count(own) == 1 else name: name for own, name in zip(short, given, strict=True)}
