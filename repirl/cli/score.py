"""`repirl score`: a process reward's scores of any solutions, step by step and token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.completing import reward_names
from repirl.cli.output import JsonFlag, check_output, emit, note, working

if TYPE_CHECKING:
    from rich.console import Group

    from repirl.evals.scored_solutions import ScoredSolution
    from repirl.rewards.load import LoadedReward

SHOWN = 20
"""Solutions that the terminal gets; files get all."""


def register(app: typer.Typer) -> None:
    app.command("score")(score_command)


def score_command(
    reward: Annotated[str, typer.Argument(help="A process reward, as in `repirl judge`.", autocompletion=reward_names)],
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
    include: Annotated[list[Path] | None, typer.Option(help="Folder of files that define further rewards.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score solutions with REWARD; nothing need be known of them."""
    from repirl.engines.loading import default_device
    from repirl.errors import UserError
    from repirl.evals.scored_solutions import score_given
    from repirl.methods.registry import rewards_of
    from repirl.paths import replace_file
    from repirl.rewards.load import LoadOptions, load_reward
    from repirl.tasks.given_solutions import read_solutions

    if reward == "oracle":
        raise UserError("the oracle knows only arith problems, and these are texts", str(file), "score with another reward")
    check_output(out, "--out", [file])
    check_output(html, "--html", [file])
    solutions = read_solutions(file)[:limit]
    custom = rewards_of([str(folder) for folder in include or ()])
    with working("scoring") as on_progress:
        options = LoadOptions(policy, separator.replace("\\n", "\n"), seed, dtype, device or default_device(), custom=custom)
        loaded = load_reward(reward, options)
        scored = score_given(loaded, solutions, threshold, prompt_suffix, on_progress)
    if all(one.reason for one in scored):
        reasons = ", ".join(dict.fromkeys(one.reason for one in scored))
        raise UserError("no solution can be scored", reasons, "give other solutions, or score with another reward")
    lines = [one.given.text.strip().count("\n") for one in scored if one.given.text is not None]
    if lines and max(lines) > 0 and all(len(one.steps) == 1 for one in scored):
        note(f"every solution is one step, though some have several lines: steps end at '{separator}' here (--separator)")
    if foreign := _foreign(loaded, scored):
        said = f"{foreign} of {len(scored)} problems or solutions have tokens that the reward's tokenizer does not know"
        note(f"{said}: their scores say little")
    limit_used = scored[0].threshold
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
        "aggregation": loaded.reward.aggregation,
        "solutions": len(scored),
        "unscored": sum(bool(one.reason) for one in scored),
        "suspected": sum(one.first_suspected is not None for one in scored),
    }
    emit(as_json, payload | {"scores": rows}, lambda: _shown(payload, scored))


def _foreign(loaded: LoadedReward, scored: list[ScoredSolution]) -> int:
    """How many have a token, in problem or solution, that the tokenizer has no name for."""
    unknown = getattr(loaded.tokenizer, "unk_token_id", None)
    texts = [f"{one.given.problem}\n{one.text}" for one in scored]
    read = loaded.tokenizer(texts, add_special_tokens=False)["input_ids"] if unknown is not None else []
    return sum(unknown in ids for ids in read)


def _row(one: ScoredSolution) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"text": step.text, "score": None if step.score is None else round(step.score, 6)} for step in one.steps
    ]
    found: dict[str, Any] = {"id": one.given.id, "sample": one.given.sample, "problem": one.given.problem, "steps": steps}
    if one.reason:
        return found | {"reason": one.reason}
    for row, step in zip(steps, one.steps, strict=True):
        if step.tokens:
            row["tokens"] = [{"text": token.text, "reward": round(token.reward, 6)} for token in step.tokens]
    whole = {how: round(value, 6) for how, value in one.aggregates.items()}
    return found | {"first_suspected": one.first_suspected, "scores": whole}


def _shown(payload: dict[str, Any], scored: list[ScoredSolution]) -> Group:
    """Scores and tokens in colours, each among its like in the file."""
    from rich.console import Group
    from rich.text import Text

    from repirl.reporting.heat_map import heat_of, place_in

    place = place_in([score for one in scored for score in one.scores])
    token_place = place_in([token.reward for one in scored for token in one.tokens])
    colour = lambda share: f"rgb({','.join(map(str, heat_of(share)))})"
    lines = []
    for one in scored[:SHOWN]:
        sample = f", sample {one.given.sample}" if one.given.sample else ""
        whole = ", ".join(f"{how} {value:.3g}" for how, value in one.aggregates.items())
        lines.append(Text(f"{one.given.id}{sample}: {whole or one.reason}", style="bold"))
        for i, step in enumerate(one.steps):
            line = Text("  ")
            if step.score is not None:
                line.append(f"{step.score:8.3f} ", style=colour(place(step.score)))
            if step.tokens:
                body = Text.assemble(*((token.text, colour(token_place(token.reward))) for token in step.tokens))
                body.rstrip()
                line.append_text(Text(" ").join(body.split("\n")))
            else:
                line.append(" ".join(step.text.split()))
            if i == one.first_suspected:
                line.append("  <- first suspected", style="bold")
            lines.append(line)
    if len(scored) > SHOWN:
        lines.append(Text(f"... and {len(scored) - SHOWN} more: --out or --html has them all"))
    limit = (
        "no threshold: its scores have no point that means wrong (`repirl judge` finds one, --threshold sets it)"
        if payload["threshold"] is None
        else (f"{payload['suspected']} with a step below {payload['threshold']:g}")
    )
    lines.append(Text(f"{payload['solutions']} solutions, {payload['unscored']} unscored; {limit}"))
    if any(one.tokens for one in scored):
        lines.append(Text(f"a step's score is the {payload['aggregation']} of its tokens'"))
    return Group(*lines)
