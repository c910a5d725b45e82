"""`repirl scale --approach`: search with a live policy, by the number of solutions that may grow at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repirl.cli.output import note, working
from repirl.cli.tables import Sheet

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.evals.approaches import SearchConfig
    from repirl.grading.math.grader import Extraction
    from repirl.tasks.benchmarks import Benchmark


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of a search."""

    approach: str
    reward: str
    policy: str
    numbers: tuple[int, ...]
    limit: int | None
    settings: tuple[str, ...]
    given: dict[str, Any]
    chat_template: bool
    extraction: Extraction
    dtype: str
    device: str


def search_curve(benchmark: Benchmark, asked: Asked, save_pool: Path | None) -> dict[str, Any]:
    """One search for each n: accuracy of what it chooses, and what it cost. The pool of the last n is written."""
    from repirl.cli.scale import reward_for, short_names
    from repirl.engines.loading import load_policy, parameters_of
    from repirl.engines.torch_engine import TorchEngine
    from repirl.errors import UserError
    from repirl.evals.approaches import APPROACHES
    from repirl.evals.pools import write_pool
    from repirl.evals.searched import search_points

    if asked.approach not in APPROACHES:
        raise UserError("unknown approach", asked.approach, f"use one of {', '.join(APPROACHES)}")
    settings = [_config(asked, n, benchmark.max_new_tokens) for n in asked.numbers]
    problems = benchmark.problems[: asked.limit]
    if not problems:
        raise UserError("the benchmark has no problems", benchmark.name)
    policy = load_policy(asked.policy, dtype=asked.dtype, device=asked.device)
    loaded = reward_for(
        asked.reward, problems, asked.policy, asked.given["seed"], asked.dtype, asked.device, chat=asked.chat_template
    )
    engine = TorchEngine(policy.model, policy.tokenizer)
    (name,) = short_names([asked.reward])
    sizes = {"policy": parameters_of(policy.model), "reward": parameters_of(getattr(loaded.reward, "model", None))}
    points, pool = [], None
    for config in settings:
        with working(f"{asked.approach} n={config.n}") as on_progress:
            (point,) = search_points(
                problems,
                policy,
                engine,
                loaded,
                [config],
                name=name,
                extraction=asked.extraction,
                chat=asked.chat_template,
                on_progress=lambda _, done, total, said=on_progress: said(done, total),
            )
        pool = point.pool
        points.append(
            {
                "n": point.n,
                "accuracy": {label: asdict(interval) for label, interval in point.accuracy.items()},
                "left_out": point.left_out,
                "solutions": point.solutions,
                "cost": dict(point.tokens),
                "flops": point.flops(**sizes),
            }
        )
    if save_pool is not None and pool is not None:
        write_pool(save_pool, pool)
        note(f"pool: {save_pool}")
    return {
        "benchmark": benchmark.name,
        "problems": len(problems),
        "approach": asked.approach,
        "reward": asked.reward,
        "config": settings[-1].model_dump(mode="json"),
        "parameters": sizes,
        "points": points,
    }


def _config(asked: Asked, n: int, longest: int) -> SearchConfig:
    """The settings of one search. UserError for one that is none, or does not fit the approach."""
    from repirl.config import parse_config, with_overrides
    from repirl.evals.approaches import SearchConfig

    given = asked.given | {"approach": asked.approach, "n": n, "max_new_tokens": asked.given["max_new_tokens"] or longest}
    return with_overrides(parse_config(SearchConfig, given), list(asked.settings))


def draw_search(path: Path, payload: dict[str, Any], against: str) -> None:
    """The curve of a search against its n, or the tokens (all that were generated, and scored) or FLOPs of a problem."""
    from repirl.cli.scale_tables import AXES
    from repirl.evals.searched import tokens_of
    from repirl.reporting.figures import of_search
    from repirl.reporting.plots import draw

    points = payload["points"]
    spent = {
        "n": [point["n"] for point in points],
        "tokens": [tokens_of(point["cost"]) for point in points],
        "flops": [point["flops"] for point in points],
    }
    label = f"n of {payload['approach']}" if against == "n" else AXES[against]
    draw(path, of_search(points, spent[against], label))
    note(f"plot: {path}")


def search_tables(payload: dict[str, Any]) -> Group:
    """Accuracy by n in percent, and tokens of a problem."""
    from rich.console import Group

    columns: Sequence[str] = list(payload["points"][0]["accuracy"])
    title = f"{payload['approach']} by {payload['reward']}: accuracy in percent, {payload['problems']} problems"
    shares = [f"{name} [95%]" for name in columns]
    table = Sheet("n", *shares, title=title, texts=shares, right=("n", *shares))
    prices = ("solutions", "policy tokens", "discarded", "lookahead", "reward tokens", "FLOPs")
    costs = Sheet("n", *prices, title="of a problem", right=("n", *prices))
    for point in payload["points"]:
        cells = (point["accuracy"][name] for name in columns)
        shown = (f"{100 * c['value']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in cells)
        table.add(str(point["n"]), *shown)
        cost = point["cost"]
        tokens = (f"{cost[key]:.0f}" for key in ("generated", "discarded", "lookahead", "scored"))
        costs.add(str(point["n"]), f"{point['solutions']:.1f}", *tokens, f"{point['flops']:.3g}")
    left_out = [
        f"n={point['n']}: {point['left_out']} problems left out, of which no solution could be graded"
        for point in payload["points"]
        if point["left_out"]
    ]
    return Group(table, costs, *left_out)
