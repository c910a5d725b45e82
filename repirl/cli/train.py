"""`repirl train` and `repirl pretrain`: policies (and rewards) into run folders."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl import parallel
from repirl.cli.chat import ChatFlag
from repirl.cli.completing import method_names, policy_names
from repirl.cli.output import JsonFlag, check_folder, emit, note, working
from repirl.cli.train_told import ending_of, lines_of, table_of, warn_of_nothing_right
from repirl.errors import UserError

if TYPE_CHECKING:
    from repirl.methods.base import Fitted


def register(app: typer.Typer) -> None:
    app.command("train")(train_command)
    app.command("pretrain")(pretrain_command)


def train_command(
    method: Annotated[str, typer.Argument(help="A method; see `repirl list methods`.", autocompletion=method_names)],
    recipe: Annotated[str, typer.Option(help="Which of its recipes.")] = "tiny",
    policy: Annotated[
        str, typer.Option(help="Where to start: embedded name, folder, or hub id.", autocompletion=policy_names)
    ] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub policy.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    seeds: Annotated[str | None, typer.Option(help="Several runs, one after the other: 0-4, or 0,2,5.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change of the recipe: key.path=value.")] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="Changes in a JSON or TOML file, as --print-config prints; --set goes over it."),
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print all settings as JSON, and exit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be loaded, done and written, and exit.")] = False,
    log: Annotated[str | None, typer.Option(help="Curves and samples go also to these of tensorboard,wandb,trackio.")] = None,
    chat_template: ChatFlag = None,
    optimizer: Annotated[
        str | None, typer.Option(help="rloo, grpo or ppo in place of the recipe's (methods with a policy gradient).")
    ] = None,
    mixing: Annotated[
        str | None,
        typer.Option(help="How the process reward is paid: sequence, return_to_go, step, right, progress, min_form or alpha."),
    ] = None,
    problems: Annotated[
        str, typer.Option(help="all, or hard: only those that the policy fails in --hard-samples before training.")
    ] = "all",
    hard_samples: Annotated[int, typer.Option(min=1, help="Of --problems hard: completions of each training problem.")] = 16,
    pool: Annotated[
        Path | None, typer.Option(help="File of graded rollouts to learn from instead of sampling (rePIRL: the reward alone).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; with --seeds OUT/sSEED.", show_default="runs/METHOD-RECIPE-sSEED")
    ] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of methods.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the matrix products: float32 or bfloat16. Weights stay float32.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    lora_rank: Annotated[int | None, typer.Option(min=1, help="Train adapters of this rank instead of all weights.")] = None,
    lora_alpha: Annotated[
        int | None, typer.Option(min=1, help="Adapters are scaled by this over their rank; default 32.")
    ] = None,
    reward_lora_rank: Annotated[
        int | None, typer.Option(min=1, help="The same of a reward on the policy's backbone; its head is trained whole.")
    ] = None,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time; the same result.")] = False,
    ray: Annotated[
        list[str] | None, typer.Option(help="Sample (and grade, score) by workers that Ray places: key=value, as samplers=8.")
    ] = None,
    max_batch_rows: Annotated[int, typer.Option(min=1, help="Completions sampled at a time.")] = 512,
    max_cache_tokens: Annotated[int | None, typer.Option(min=1, help="Their tokens; default: what fits the GPU.")] = None,
    engine: Annotated[str, typer.Option(help="What samples from the policy: torch or vllm.")] = "torch",
    vllm: Annotated[
        list[str] | None, typer.Option("--vllm", "--engine-set", help="Setting of vLLM: key=value, as python=PATH.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train METHOD into a run folder; the same command again continues an interrupted run, and with more steps (`--set
    loop.steps=100`) a finished one, if no setting follows a schedule."""
    from repirl.cli.train_plan import plan, plan_lines, seeds_of, settings_in
    from repirl.config import flat, overrides_of, parse_config, with_overrides
    from repirl.engines.loading import default_device, load_config, load_tokenizer, policy_dir
    from repirl.engines.ray_workers import RaySettings
    from repirl.engines.vllm_settings import VllmSettings
    from repirl.methods.base import FitContext
    from repirl.methods.mixing import credit_settings, critic_of
    from repirl.methods.registry import load_method
    from repirl.methods.rl import RLConfig
    from repirl.methods.runtime import Runtime, start_policy
    from repirl.methods.suited import chat_setting, headless, plain_training, scalar_head
    from repirl.methods.trackers import Followed, known_trackers
    from repirl.precision import training_in

    if engine == "openai":
        raise UserError("the weights of a model behind a server cannot be trained", engine, "use torch or vllm")
    if problems not in ("all", "hard"):
        raise UserError("unknown choice of problems", problems, "choose all or hard")
    if lora_rank is None and reward_lora_rank is None and lora_alpha is not None:
        raise UserError("--lora-alpha scales adapters, and there are none", lora_alpha, "give --lora-rank too")
    if seeds is not None and seed:
        raise UserError("--seed and --seeds say two things", seeds, "leave out one of them")
    several = seeds is not None
    default = Path("runs") / f"{method}-{recipe}"
    at = {one: default.with_name(f"{default.name}-s{one}") for one in (seeds_of(seeds) if seeds is not None else [seed])}
    folders = at if out is None else {one: out / f"s{one}" if several else out for one in at}
    for folder in folders.values():
        check_folder(folder, "--out")
    trackers = known_trackers(log)
    with parallel.joined(device or default_device()) as place:
        with working("loading"), training_in(dtype):
            chosen = load_method(method, tuple(map(str, include or ())))
            config = of_recipe = chosen.recipe(recipe)
            paid = credit_settings(config, optimizer, mixing, critic_of(recipe))
            if problems == "hard" and not isinstance(config, RLConfig):
                raise UserError("this method samples no policy in training", method, "leave out --problems hard")
            paid += [f'hard={{"samples": {hard_samples}}}'] if problems == "hard" else []
            in_file = overrides_of(of_recipe, settings_in(config_file)) if config_file is not None else []
            given = [*in_file, *paid, *(settings or ()), *([f"pool={json.dumps(str(pool))}"] if pool else ())]
            config = with_overrides(config, given)
            runtime = parse_config(
                Runtime,
                {
                    "device": place,
                    "dtype": dtype,
                    "max_batch_rows": max_batch_rows,
                    "max_cache_tokens": max_cache_tokens,
                    "gradient_checkpointing": gradient_checkpointing,
                    "engine": engine,
                    "vllm": None if vllm is None else with_overrides(VllmSettings(), vllm),
                    "ray": None if ray is None else with_overrides(RaySettings(), ray),
                    "lora": _adapters(lora_rank, lora_alpha),
                    "reward_lora": _adapters(reward_lora_rank, lora_alpha),
                },
            )
            path = policy_dir(policy, revision)
            model_config, tokenizer = load_config(path), load_tokenizer(path)
            chat = chat_setting(of_recipe, tokenizer, chat_template)
            head = scalar_head(of_recipe, model_config, given)
            config = with_overrides(of_recipe, [*chat, *head, *given])
        if print_config:
            values = config.model_dump(mode="json")
            if not as_json and parallel.is_first():
                print(json.dumps(values, indent=1))  # not by way of Rich, which breaks long lines
            elif as_json:
                emit(as_json, values, str)
            return
        for remark in (headless(head), plain_training(config, tokenizer)):
            if remark is not None and parallel.is_first():
                note(remark)
        if dry_run:
            with working("looking"):
                found = plan(config, model_config, policy, runtime, folders, with_reward="reward" in chosen.yields)
            emit(as_json, {"method": method, "recipe": recipe} | found, lambda: plan_lines(found))
            return
        runs = []
        for one, folder in folders.items():
            observer = Followed(trackers, folder, {"method": method, "recipe": recipe, "seed": one} | dict(flat(config)), note)
            label = f"{method}, {recipe}" + (f", seed {one}" if several else "")
            with closing(observer), working(label) as on_progress, training_in(dtype):
                start = start_policy(policy, runtime, one, revision)
                on_step = lambda step, steps, metrics, tell=on_progress, run=observer: tell(step, steps, run.phase)
                context = FitContext(start, folder, one, on_step, runtime, observer=observer, keep_checkpoint=True)
                runs.append(_run(method, recipe, one, folder, chosen.fit(context, config)))
        if parallel.is_first():
            warn_of_nothing_right(runs)
        if not several:
            emit(as_json, runs[0], lambda: ending_of(runs[0]))
        else:
            emit(as_json, {"method": method, "recipe": recipe, "runs": runs}, lambda: table_of(runs))


def _run(method: str, recipe: str, seed: int, folder: Path, fitted: Fitted) -> dict[str, Any]:
    return {
        "method": method,
        "recipe": recipe,
        "seed": seed,
        "folder": str(folder),
        "policy": _path(fitted.policy_folder),
        "reward": _path(fitted.reward_folder),
        "budget": asdict(fitted.budget),
        "validation_budget": asdict(fitted.validation_budget),
        "diagnostics": {name: _finite(value) for name, value in fitted.diagnostics.items()},
    }


def _adapters(rank: int | None, alpha: int | None) -> dict[str, int] | None:
    """What `LoRAConfig` is made of; None: all weights are trained."""
    return None if rank is None else {"rank": rank} | ({} if alpha is None else {"alpha": alpha})


def pretrain_command(
    name: Annotated[str, typer.Argument(help="Which one: tiny or mini.")] = "tiny",
    out: Annotated[Path, typer.Option(help="Folder to write the policy into.")] = Path("runs/pretrain"),
    steps: Annotated[int | None, typer.Option(min=1, help="Default: as for the shipped policy.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: as for the shipped policy.")] = None,
    hard: Annotated[
        bool | None, typer.Option(help="Also find the problems that it fails (arith_hard), some minutes. Default: for tiny.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rebuild an embedded policy from nothing."""
    from repirl.config import parse_config
    from repirl.errors import UserError
    from repirl.methods.pretrain import SHIPPED, PretrainConfig, pretrain_tiny

    if name not in SHIPPED:
        raise UserError("no such embedded policy", name, f"choose one of {', '.join(SHIPPED)}")
    check_folder(out, "--out")
    said = {key: value for key, value in (("steps", steps), ("seed", seed), ("hard", hard)) if value is not None}
    given = SHIPPED[name].model_dump() | said
    with working("pretrain") as on_progress:
        made = pretrain_tiny(out, parse_config(PretrainConfig, given), lambda step, total, metrics: on_progress(step, total))
    payload = {"folder": str(out)} | made
    emit(as_json, payload, lambda: lines_of(payload))


def _path(folder: Path | None) -> str | None:
    return None if folder is None else os.path.relpath(folder)


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None
