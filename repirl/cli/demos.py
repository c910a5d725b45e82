"""`repirl demos`: expert demonstrations from any engine, into a file that `repirl train` reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.cli.chat import ChatFlag, chat_for
from repirl.cli.engine_choice import TORCH, BaseUrlOption, EngineOption, EngineSetOption, ModelOption, Weights, open_sampler
from repirl.cli.output import JsonFlag, check_output, emit, note, working
from repirl.cli.tables import Sheet
from repirl.errors import UserError

if TYPE_CHECKING:
    from repirl.rollouts.collect import Grader
    from repirl.types import Problem

DEFAULT_MAX_NEW_TOKENS = 1024


def register(app: typer.Typer) -> None:
    app.command("demos")(demos_command)


def demos_command(
    out: Annotated[Path, typer.Option(help="The training file to write; samples are kept beside it in OUT.samples/.")],
    data: Annotated[
        str | None, typer.Option(help="Training problems: a JSONL file, arith, minicode, math-train, eurus-2-rl-data:math, ...")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Setting of --data: key=value, as num_problems=500.")] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Its problems instead; what learns them cannot be evaluated on it.")
    ] = None,
    policy: Annotated[str, typer.Option(help="The expert: embedded name, folder, or hub id.")] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub policy.")] = None,
    engine: EngineOption = TORCH,
    base_url: BaseUrlOption = None,
    model: ModelOption = None,
    engine_set: EngineSetOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Most completions of each problem.")] = 16,
    keep: Annotated[int, typer.Option(min=1, help="Demonstrations wanted of each problem.")] = 4,
    longest: Annotated[int | None, typer.Option(min=1, help="Keep none of more tokens than this.")] = None,
    temperature: Annotated[float, typer.Option(help="Temperature of the samples; above 0.")] = 1.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Default: what the benchmark says, else {DEFAULT_MAX_NEW_TOKENS}.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first problems.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    chat_template: ChatFlag = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local folder of benchmark data.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="Further folder of benchmark cards.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "float32",
    device: Annotated[str | None, typer.Option(help="Default: cuda if there is one.")] = None,
    max_batch_rows: Annotated[int, typer.Option(min=1, help="Completions sampled at a time.")] = 512,
    max_cache_tokens: Annotated[int | None, typer.Option(min=1, help="Their tokens; default: what fits the GPU.")] = None,
    allow_weak_sandbox: Annotated[bool, typer.Option(help="Run generated code with less isolation.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Sample problems until enough completions of each are right, and write these as demonstrations to train on.

    Wrong, cut-off and repeated completions are left out, and so are problems without a right one. The same command
    continues an interrupted run, and with more --samples or --keep a finished one.
    """
    from repirl.engines.base import SamplingParams
    from repirl.grading.dispatch import check_ungraded
    from repirl.processes import only_user_of
    from repirl.rng import seed_for
    from repirl.rollouts.collect import Collector, Decoding
    from repirl.rollouts.demonstrations import PART, DemonstrationRules, collect_demonstrations, counts, training_rows
    from repirl.rollouts.pool import SamplePool
    from repirl.tasks.training_files import write_rows
    from repirl.types import Verdict

    if temperature <= 0:
        raise UserError("samples that may differ need a temperature above 0", temperature)
    check_output(out, "--out", [data] if data is not None else [])
    rules = DemonstrationRules(samples=samples, keep=keep, longest=longest)
    with working("loading"):
        given = _problems(data, set_ or (), benchmark, data_dir, include or (), allow_weak_sandbox)
        weights = Weights(policy, revision, dtype, device, max_batch_rows, max_cache_tokens)
        chat = chat_for(chat_template, policy, revision, engine, "its samples")
        sampler = open_sampler(engine, weights, base_url, model, engine_set, chat)
        problems = given.problems[:limit]
        # What the grader refuses (too weak a sandbox) is to be seen before anything is sampled.
        given.grader(problems[:1], ["```python\n0\n```"], ["stop"])
    params = SamplingParams(max_new_tokens or given.max_new_tokens, temperature, stop=given.stop)
    fingerprint = {
        "policy": sampler.policy.digest,
        "data": given.digest,
        "max_new_tokens": params.max_new_tokens,
        "chat_template": chat,
        "temperature": temperature,
        "seed": seed,
        "dtype": sampler.policy.dtype,
    }
    if given.warning is not None:
        note(f"warning: {given.warning}")
    folder = out.with_name(f"{out.name}.samples")
    with only_user_of(folder), closing(sampler), working(given.name) as on_progress:
        pool = SamplePool(folder, "demos", fingerprint)
        decoding = Decoding(params, chat, ungraded_limit=None)  # the pool has the limit
        selected = collect_demonstrations(
            pool,
            Collector(sampler.policy.tokenizer, sampler.engine, given.grader, decoding),
            problems,
            rules,
            seed_for(seed, PART),
            chunk_rows=sampler.chunk_rows,
            on_progress=on_progress,
        )
        check_ungraded([Verdict(row.outcome, row.reason) for p in problems for row in pool.rows(PART, p.id)])
        rows = training_rows(problems, selected, sampler.policy.name)
        if not rows:
            raise UserError("no right completion of any problem", len(problems), "raise --samples, or ask a better expert")
        write_rows(out, rows, given.prompt_suffix)
    payload = {
        "policy": sampler.policy.name,
        "policy_digest": sampler.policy.digest,
        **sampler.described,
        "data": given.name,
        "out": str(out),
        "rules": rules.model_dump(mode="json"),
        "counts": counts(pool, problems, selected, rules),
        "wall_s": pool.wall_s,
        "warning": given.warning,
    }
    emit(as_json, payload, lambda: _table(payload))


@dataclass(frozen=True, slots=True)
class _Given:
    """Problems and what belongs to them; `digest` is over all of them, `prompt_suffix` ends each prompt."""

    name: str
    problems: Sequence[Problem]
    digest: str
    grader: Grader
    stop: tuple[str, ...] = ()
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    prompt_suffix: str = ""
    warning: str | None = None


def _problems(
    data: str | None,
    settings: Sequence[str],
    benchmark: str | None,
    data_dir: Path | None,
    include: Sequence[Path],
    allow_weak_sandbox: bool,
) -> _Given:
    from repirl.config import with_overrides
    from repirl.grading.dispatch import grade_rollouts
    from repirl.tasks.benchmarks import data_digest, load_benchmark
    from repirl.tasks.training_files import PUBLISHED_SOURCES
    from repirl.tasks.training_sets import FAMILIES, TrainingSetConfig, load_training_set

    if (data is None) == (benchmark is None):
        raise UserError("which problems?", f"--data {data}, --benchmark {benchmark}", "give one of the two")
    grader = partial(grade_rollouts, allow_weak_sandbox=allow_weak_sandbox)
    if benchmark is not None:
        if settings:
            raise UserError("--set belongs to --data", settings[0], "leave it out with --benchmark")
        one = load_benchmark(benchmark, data_dir=data_dir, include=include)
        if one.grade is not None:
            raise UserError("a task of lm-eval has no answers to write into a training file", benchmark, "use another one")
        warning = f"these are the problems that {one.name} measures with: what is trained on them cannot be evaluated on it"
        return _Given(one.name, one.problems, one.data_digest, grader, one.stop, one.max_new_tokens, warning=warning)
    assert data is not None
    own = data in FAMILIES or data in PUBLISHED_SOURCES
    # All rows of a file; of a published set those that training takes, without the ones that it holds out.
    all_rows = {} if own else {"file": data, "num_problems": 10**9, "validation_problems": 0}
    config = with_overrides(TrainingSetConfig(source=data if own else "file", **all_rows), list(settings))
    problems = load_training_set(config, with_demonstrations=False).problems
    suffix = "" if data in FAMILIES else config.prompt_suffix
    return _Given(Path(data).name, problems, data_digest(problems), grader, prompt_suffix=suffix)


def _table(payload: dict[str, Any]) -> Sheet:
    found = payload["counts"]
    title = f"{payload['out']}: demonstrations of {payload['data']} by {payload['policy']}"
    table = Sheet("what", "value", title=title, texts=("what", "value"), header=False)
    unlisted = ("fewer_than_wanted", "with_demonstrations", "without")
    problems = f"{found['problems']}; {found['with_demonstrations']} with demonstrations ({found['fewer_than_wanted']} with"
    table.add("problems", f"{problems} fewer than {payload['rules']['keep']}), {found['without']} left out")
    for name, value in found.items():
        if name != "problems" and name not in unlisted:
            table.add(name.replace("_", " "), str(value))
    return table
