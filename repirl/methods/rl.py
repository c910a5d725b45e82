"""What all methods that train a policy by RL share: data, loop and run folder; they differ in the process reward."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

from repirl.config import Config
from repirl.engines.loading import quiet_transformers
from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.learn.checkpoint import RunFolder
from repirl.learn.collect import Collector, SamplingConfig, ValidationConfig
from repirl.learn.loop import Loop, LoopConfig, LoopData, LoopResult
from repirl.learn.mixing import MixConfig
from repirl.learn.policy_losses import PolicyLossConfig
from repirl.learn.update import OptimConfig
from repirl.methods.base import FitContext, Fitted
from repirl.precision import training_dtype
from repirl.rewards.base import ProcessReward
from repirl.tasks.training_sets import TrainingSet, TrainingSetConfig, load_training_set
from repirl.types import Budget


class RLConfig(Config):
    """Configuration of a method without a learned reward."""

    data: TrainingSetConfig = TrainingSetConfig()
    loop: LoopConfig = LoopConfig()


def tiny_data() -> TrainingSetConfig:
    """The training set of every `tiny` recipe."""
    return TrainingSetConfig(source="arith", num_problems=4000, validation_problems=96)


def tiny_loop(mix: MixConfig) -> LoopConfig:
    """The loop of every `tiny` recipe: the same sampler, updates and rollouts, only the rewards' mix differs."""
    return LoopConfig(
        steps=40,
        sampling=SamplingConfig(prompts_per_step=48, group_size=8, max_new_tokens=144),
        mix=mix,
        optim=OptimConfig(
            lr=1e-4,
            warmup_steps=4,
            schedule="linear",
            micro_batch_tokens=2048,
            loss=PolicyLossConfig(entropy_weight=0.001),
        ),
        validation=ValidationConfig(every=20, num_problems=96, samples=8),
    )


def tiny_process_loop() -> LoopConfig:
    """How a process reward of unknown scale is paid in the `tiny` recipes: the same for learned rewards and nulls.

    Ranks instead of scores, nothing after the first doubtful step, and less and less weight: on other seeds than those
    reported this agreed most with exact step labels (cosine of the advantages with the oracle's: 0.64, against 0.32 for
    plain step means of the same scores) and did least harm late in training, when the scores tell mostly confidence.
    """
    mix = MixConfig(
        process_weight=0.5, process_credit="step", process_scale="batch_std", step_signal="rank", doubtful_share=0.4
    )
    loop = tiny_loop(mix)
    return loop.model_copy(update={"process_decay_steps": loop.steps})


def paper_loop(mix: MixConfig, *, chat: bool) -> LoopConfig:
    """PAPER section 5: batch 128 prompts x 4, mini-batch 32 prompts, lr 5e-7, clip 0.2, entropy 0.001, no KL.

    218 steps are two passes over 14,000 problems; validation on 2,050 held-out problems.
    """
    return LoopConfig(
        steps=218,
        sampling=SamplingConfig(prompts_per_step=128, group_size=4, max_new_tokens=3000, chat_template=chat),
        mix=mix,
        optim=OptimConfig(lr=5e-7, mini_batches=4, micro_batch_tokens=4535, loss=PolicyLossConfig(entropy_weight=0.001)),
        validation=ValidationConfig(every=20, num_problems=2050, samples=1),
        checkpoint_every=10,
    )


def paper_data() -> TrainingSetConfig:
    r"""Problems as in PAPER section 5, from a JSONL file that the user gives (`data.file`); steps end at blank lines."""
    return TrainingSetConfig(
        source="file",
        num_problems=14000,
        validation_problems=2050,
        prompt_suffix="\nPlease reason step by step, and put your final answer within \\boxed{}.",
        step_separator="\n\n",
    )


def fit_policy(
    context: FitContext,
    config: RLConfig,
    make_reward: Callable[[TrainingSet], ProcessReward | None],
    *,
    method: str,
    uses_demonstrations: bool = False,
) -> Fitted:
    """Run (or continue) the alternating loop in the context's folder and save policy and reward there."""
    policy_folder = context.folder / "policy"
    data = load_training_set(config.data, with_demonstrations=uses_demonstrations)
    run = RunFolder(context.folder, run_identity(context, config, method, data))
    if run.done is None:
        process = make_reward(data)
        model, tokenizer = context.policy.model, context.policy.tokenizer
        collector = Collector(tokenizer, context.engine(), grade_rollouts, config.loop.sampling)
        needs_reference = config.loop.optim.loss.kl_weight > 0
        reference = copy.deepcopy(model).requires_grad_(False).eval() if needs_reference else None
        loop_data = LoopData(data.problems, data.validation, data.demonstrations)
        loop = Loop(model, collector, loop_data, process, config.loop, run, context.seed, context.on_step, reference=reference)
        result = loop.run()
        save_policy(policy_folder, model, tokenizer)
        if process is not None:
            process.save(context.folder / "reward")
        run.finish(summary(result))
    return fitted_from(run, policy_folder)


def run_identity(context: FitContext, config: Config, method: str, data: TrainingSet) -> dict:
    """What a run folder is bound to: another value of any of these cannot continue it."""
    return {
        "method": method,
        "seed": context.seed,
        "policy": context.policy.digest,
        "precision": training_dtype(),
        "data": data.digest,
        "config": config.model_dump(mode="json"),
    }


def save_policy(folder: Path, model, tokenizer) -> None:
    """An ordinary transformers folder."""
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def summary(result: LoopResult) -> dict:
    """What `done.json` holds."""
    from dataclasses import asdict

    numbers = {
        name: float(value) if value == value else None
        for name, value in result.last_metrics.items()
        if isinstance(value, int | float) and not name.startswith("time/")
    }
    return {
        "budget": asdict(result.budget),
        "validation": [list(entry) for entry in result.validation],
        "diagnostics": {"best_step": result.best_step, "best_validation_accuracy": result.best_validation, **numbers},
    }


def fitted_from(run: RunFolder, policy_folder: Path) -> Fitted:
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
    )
