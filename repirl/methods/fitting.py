"""From a learner to a finished run folder: what every method that trains something shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from repirl import parallel
from repirl.config import Config, digest_of
from repirl.engines.loading import load_policy, save_model
from repirl.engines.lora import adapter_weights, add_adapters, load_merged
from repirl.errors import UserError
from repirl.learn.checkpoint import Extension, RunFolder
from repirl.learn.outcome_model import OutcomeFitting
from repirl.learn.reward_fitting import RewardFitting
from repirl.learn.run import Learner, RunResult, ValidationConfig, Validator, run_steps
from repirl.learn.step_classifier import StepFitting
from repirl.learn.written_verifier import VerifierFitting
from repirl.methods.base import FitContext, Fitted
from repirl.methods.extending import beside_loop, extension_of
from repirl.precision import training_dtype
from repirl.processes import only_user_of
from repirl.rewards.aggregate import Aggregation
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import energy_from_policy
from repirl.rollouts.collect import Collector, Grader, SamplingConfig
from repirl.tasks.training_sets import FAMILIES, TrainingSet, TrainingSetConfig
from repirl.types import Budget, Metrics


def fit_learner(
    context: FitContext,
    config: Config,
    make_learner: Callable[[], Learner],
    *,
    method: str,
    data: TrainingSet,
    steps: int,
    sampling: SamplingConfig,
    validation: ValidationConfig,
    checkpoint_every: int = 1,
    save_reward: Callable[[Learner, Path], None] | None = None,
    stop: Callable[[Metrics], bool] | None = None,
) -> Fitted:
    """Run (or continue) a learner that trains the context's policy, and save what it made in the context's folder. Without
    validation problems nothing is validated.

    Afterwards the model in memory has the weights of the chosen checkpoint, also where the run had finished before. UserError
    while another process uses the folder.
    """
    with only_user_of(context.folder):
        return _fit(
            context,
            _opened(context, run_identity(context, config, method, data), extension_of(config, steps), context.keep_checkpoint),
            make_learner,
            lambda: _validator(context, sampling, data, validation),
            steps,
            checkpoint_every,
            save_reward,
            stop,
            data.left_out,
        )


def _fit(
    context: FitContext,
    run: RunFolder,
    make_learner: Callable[[], Learner],
    make_validator: Callable[[], Validator | None],
    steps: int,
    checkpoint_every: int,
    save_reward: Callable[[Learner, Path], None] | None,
    stop: Callable[[Metrics], bool] | None,
    left_out: Mapping[str, int],
) -> Fitted:
    policy = context.policy
    policy_folder = context.folder / "policy"
    fresh = adapter_weights(policy.model)
    finished = _was_done(context, steps, run)
    if not finished:
        learner, validator = make_learner(), make_validator()
        result = run_steps(
            learner,
            steps,
            run,
            validator,
            checkpoint_every=checkpoint_every,
            on_step=context.on_step,
            stop=stop,
            on_resume=lambda step: context.observer.opened(context.phase, context.folder, step, steps, done=False),
            on_samples=lambda step, groups: context.observer.sampled(context.phase, step, groups),
        )
        save_model(policy_folder, policy.model, policy.tokenizer)
        if save_reward is not None:
            save_reward(learner, context.folder / "reward")
        run.finish(summary(result, left_out))
    # A phase that follows starts from merged weights and fresh adapters, resumed or not (a cut model: `FitContext.part`).
    if (finished or fresh) and not parallel.is_cut(policy.model):
        load_merged(policy.model, load_policy(policy_folder).model.state_dict(), fresh)
    return fitted_from(run, policy_folder)


def fit_reward(
    context: FitContext,
    config: Config,
    make_learner: Callable[[], RewardFitting | StepFitting | OutcomeFitting | VerifierFitting],
    *,
    method: str,
    data: TrainingSet,
    steps: int,
) -> Fitted:
    """The same for a learner of which only the reward is kept: the policy stays as it is, and nothing is validated."""
    with only_user_of(context.folder):
        run = _opened(context, run_identity(context, config, method, data), beside_loop(config, steps), keep=False)
        if not _was_done(context, steps, run):
            learner = make_learner()
            on_resume = lambda step: context.observer.opened(context.phase, context.folder, step, steps, done=False)
            result = run_steps(learner, steps, run, checkpoint_every=10, on_step=context.on_step, on_resume=on_resume)
            learner.reward.save(context.folder / "reward")
            run.finish(summary(result, data.left_out))
    return fitted_from(run, None)


def _opened(context: FitContext, identity: dict[str, Any], extension: Extension | None, keep: bool) -> RunFolder:
    return RunFolder(
        context.folder,
        identity,
        extension=extension,
        keep_checkpoint=keep,
        on_log=lambda metrics: context.observer.logged(context.phase, metrics),
    )


def _was_done(context: FitContext, steps: int, run: RunFolder) -> bool:
    """Whether the run had finished before; the observer is told."""
    done = run.done
    if done is None:
        return False
    context.observer.opened(context.phase, context.folder, int(done["diagnostics"].get("step", steps)), steps, done=True)
    return True


def make_collector(context: FitContext, sampling: SamplingConfig) -> Collector:
    """Samples to learn from, of the context's policy; graded by the problems' own graders if the method declares outcomes."""
    return _collector(context, sampling, context.grader if context.gives("outcomes") else None)


def _validator(
    context: FitContext, sampling: SamplingConfig, data: TrainingSet, validation: ValidationConfig
) -> Validator | None:
    """None for a set without validation problems, of which then the last checkpoint is the result."""
    if not data.validation:
        if validation.select == "best":
            todo = "set validation.select=last (loop.validation.select for a policy gradient)"
            raise UserError("no validation problems to choose a checkpoint by", "select=best", todo)
        return None
    return Validator(_collector(context, sampling, context.grader), data.validation, validation, context.seed)


def _collector(context: FitContext, sampling: SamplingConfig, grader: Grader | None) -> Collector:
    return Collector(context.policy.tokenizer, context.engine(), grader, sampling.decoding)


def run_identity(context: FitContext, config: Config, method: str, data: TrainingSet) -> dict[str, Any]:
    """What a run folder is bound to: another value of any of these cannot continue it."""
    adapters = {name: getattr(context.runtime, name) for name in ("lora", "reward_lora")}
    return {
        "method": method,
        "seed": context.seed,
        "policy": context.policy.digest,
        "precision": training_dtype(),
        "data": data.digest,
        "config": config.model_dump(mode="json"),
        **{name: lora.model_dump(mode="json") for name, lora in adapters.items() if lora is not None},
        **context.runtime.sampler,
    }


def energy_model(
    context: FitContext, *, base: str | None = None, layers: int | None = None, base_measure: float = 0.0
) -> nn.Module:
    """A fresh energy on the backbone of the context's policy or of the model `base` (`energy_from_policy`), with adapters if
    the runtime says so. UserError for a base that has other tokens."""
    policy = context.policy
    start = policy.model
    if base is not None:
        parameter = next(start.parameters())
        loaded = load_policy(base, str(parameter.dtype).removeprefix("torch."), parameter.device)
        if loaded.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
            raise UserError("the reward's base has other tokens than the policy", base, "choose one of the same tokenizer")
        start = loaded.model
    model = energy_from_policy(start, layers=layers, base_measure=base_measure)
    if context.runtime.reward_lora is not None:
        add_adapters(model, context.runtime.reward_lora, context.seed)
    return model


def reward_contract(
    context: FitContext,
    config: Config,
    kind: str,
    method: str,
    data: TrainingSetConfig,
    sampling: SamplingConfig,
    data_digest: str,
    aggregation: Aggregation,
    threshold: float | None = None,
) -> RewardContract:
    """What the artifact of a reward that is fitted in this context promises; `data_digest` is of what it learns from."""
    return RewardContract(
        kind=kind,
        method=method,
        step_separator=data.step_separator,
        template="chat" if sampling.chat_template else "plain",
        prompt_suffix=None if data.source in FAMILIES else data.prompt_suffix,
        step_aggregation=aggregation,
        threshold=threshold,
        base_digest=context.policy.digest,
        training_digest=digest_of([config.model_dump(mode="json"), data_digest, context.seed]),
    )


def summary(result: RunResult, left_out: Mapping[str, int]) -> dict[str, Any]:
    """What `done.json` holds; `left_out` of the training set is among the diagnostics."""
    numbers = {
        name: float(value)
        for name, value in result.last_metrics.items()
        if isinstance(value, int | float) and value == value and not name.startswith("time/")
    }
    return {
        "budget": asdict(result.budget),
        "validation_budget": asdict(result.validation_budget),
        "validation": [list(entry) for entry in result.validation],
        "diagnostics": numbers
        | {f"data/left out, {kind}": count for kind, count in left_out.items()}
        | {
            "best_step": result.chosen_step,
            "start_validation_accuracy": result.accuracy_at(0),
            "best_validation_accuracy": result.accuracy_at(result.chosen_step),
            "last_validation_accuracy": result.accuracy_at(result.last_step),
        },
    }


def fitted_from(run: RunFolder, policy_folder: Path | None) -> Fitted:
    """The result of a finished run, read from its folder."""
    done = run.done
    if done is None:
        raise UserError("the run has not finished", str(run.path), "run the same command again to continue it")
    reward_folder = run.path / "reward"
    return Fitted(
        policy_folder,
        reward_folder if reward_folder.is_dir() else None,
        Budget(**done["budget"]),
        json.loads(json.dumps(done["diagnostics"])),
        Budget(**done["validation_budget"]),
        run.metrics_file,
    )
