"""`repirl score`: a process reward's scores of any solutions, step by step and token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.output import JsonFlag, check_output, emit, note, working

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.evals.scored_solutions import ScoredSolution

SHOWN = 20
"""Solutions that the terminal gets; files get all."""


def register(app: typer.Typer) -> None:
    app.command("score")(score_command)


def score_command(
    reward: Annotated[str, typer.Argument(help="A process reward, as in `repirl judge`.")],
    file: Annotated[Path, typer.Argument(help='Solutions: {"problem", "solution" or "steps"}, a pool, or labelled steps.')],
    threshold: Annotated[
        float | None, typer.Option(help="Steps below it are suspected. Default: the reward's own, if its scores have one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write every solution with its scores to this JSONL file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the scores of steps and tokens as colours.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first solutions.")] = None,
    separator: Annotated[
        str, typer.Option(help="What ends a step, for rewards that have no separator of their own; \\n is a newline.")
    ] = "\\n\\n",
    prompt_suffix: Annotated[
        str | None, typer.Option(help="Text after each problem. Default: as in the reward's training.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Tokenizer (and model of `confidence`) for rewards given by name.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Of the random reward.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the policy or published PRM: float32, bfloat16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score solutions with REWARD; nothing need be known of them."""
    from repirl.cli.evaluate import default_device
    from repirl.errors import UserError
    from repirl.evals.scored_solutions import score_given
    from repirl.paths import replace_file
    from repirl.rewards.load import LoadOptions, load_reward
    from repirl.tasks.given_solutions import read_solutions

    if reward == "oracle":
        raise UserError("the oracle knows only arith problems, and these are texts", str(file), "score with another reward")
    check_output(out, "--out", [file])
    check_output(html, "--html", [file])
    solutions = read_solutions(file)[:limit]
    with working("scoring") as on_progress:
        options = LoadOptions(policy, separator.replace("\\n", "\n"), seed, dtype, device or default_device())
        loaded = load_reward(reward, options)
        scored = score_given(loaded, solutions, threshold, prompt_suffix, on_progress)
    limit_used = loaded.natural_threshold if threshold is None else threshold
    rows = [_row(one) for one in scored]
    if out is not None:
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        replace_file(out, lambda target: target.write(text.encode()))
        note(f"scores: {out}")
    if html is not None:
        from repirl.reporting.heat_map import page

        text_of_page = page(scored, reward=loaded.name, threshold=limit_used)
        replace_file(html, lambda target: target.write(text_of_page.encode()))
        note(f"page: {html}")
    payload: dict[str, Any] = {
        "reward": loaded.name,
        "threshold": limit_used,
        "solutions": len(scored),
        "unscored": sum(one.scores is None for one in scored),
        "suspected": sum(one.suspect is not None for one in scored),
    }
    emit(as_json, payload | {"scores": rows}, lambda: _shown(payload, scored))


def _row(one: ScoredSolution) -> dict[str, Any]:
    found: dict[str, Any] = {"id": one.given.id, "sample": one.given.sample, "problem": one.given.problem}
    if one.scores is None:
        return found | {"steps": [{"text": text, "score": None} for text in one.steps], "reason": one.reason}
    found["steps"] = [{"text": text, "score": round(score, 6)} for text, score in zip(one.steps, one.scores, strict=True)]
    found |= {"first_suspected": one.suspect, "scores": {how: round(value, 6) for how, value in one.whole.items()}}
    if one.tokens is not None:
        for step, tokens in zip(found["steps"], one.tokens, strict=True):
            step["tokens"] = [{"text": token.text, "reward": round(token.reward, 6)} for token in tokens]
    return found


def _shown(payload: dict[str, Any], scored: list[ScoredSolution]) -> Group:
    from rich.console import Group
    from rich.text import Text

    from repirl.reporting.heat_map import heat_of, place_in

    place = place_in([score for one in scored for score in one.scores or ()])
    lines = []
    for one in scored[:SHOWN]:
        sample = f", sample {one.given.sample}" if one.given.sample else ""
        whole = ", ".join(f"{how} {value:.3g}" for how, value in one.whole.items())
        lines.append(Text(f"{one.given.id}{sample}: {whole or one.reason}", style="bold"))
        for i, step in enumerate(one.steps):
            line = Text("  ")
            if one.scores is not None:
                line.append(f"{one.scores[i]:8.3f} ", style=f"rgb({','.join(map(str, heat_of(place(one.scores[i]))))})")
            line.append(" ".join(step.split()))
            if i == one.suspect:
                line.append("  <- first suspected", style="bold")
            lines.append(line)
    if len(scored) > SHOWN:
        lines.append(Text(f"... and {len(scored) - SHOWN} more: --out or --html has them all"))
    limit = (
        "no threshold: its scores have no point that means wrong"
        if payload["threshold"] is None
        else (f"{payload['suspected']} with a step below {payload['threshold']:g}")
    )
    lines.append(Text(f"{payload['solutions']} solutions, {payload['unscored']} unscored; {limit}"))
    return Group(*lines)
