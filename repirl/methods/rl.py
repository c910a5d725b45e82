"""What all methods that train a policy by RL share: data, loop and recipes; they differ in reward and credit rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from repirl.config import Config
from repirl.engines.lora import has_adapters
from repirl.errors import UserError
from repirl.learn.credit import Credit, LeaveOneOut
from repirl.learn.credit_config import OUTCOME_ALONE, CreditConfig, GAECredit, StepCredit
from repirl.learn.gae import GAE
from repirl.learn.policy_gradient import LoopConfig, LoopData, PolicyGradient
from repirl.learn.policy_losses import PolicyLossConfig
from repirl.learn.policy_update import PolicyOptimConfig
from repirl.learn.run import Learner, ValidationConfig
from repirl.methods.base import FitContext, Fitted
from repirl.methods.context_length import within_context
from repirl.methods.fitting import fit_learner, make_collector
from repirl.methods.hard import HardConfig, only_hard
from repirl.rewards.base import RewardLearner
from repirl.rollouts.collect import SamplingConfig
from repirl.tasks.training_sets import TrainingSet, TrainingSetConfig, load_training_set
from repirl.types import Budget, Metrics


class RLConfig(Config):
    """Configuration of a method without a learned reward."""

    data: TrainingSetConfig = TrainingSetConfig()
    hard: HardConfig | None = None
    """Train on problems alone that the starting policy fails; None: on all of `data`."""
    loop: LoopConfig = LoopConfig()


TINY_LEVELS = (4, 5, 6, 7, 8)
"""Chains on which the embedded policy seldom arrives, so that the outcome says little of a step."""


def tiny_data() -> TrainingSetConfig:
    """The training set of every `tiny` recipe."""
    return TrainingSetConfig(source="arith", levels=TINY_LEVELS, num_problems=4000, validation_problems=96)


def tiny_loop(credit: CreditConfig = OUTCOME_ALONE, lr: float = 2e-4) -> LoopConfig:
    """The loop of every `tiny` recipe: the same sampler, updates and rollouts; credit differs, and the rate where the search
    found a better one."""
    return LoopConfig(
        steps=60,
        sampling=SamplingConfig(prompts_per_step=32, group_size=4, max_new_tokens=144),
        credit=credit,
        optim=PolicyOptimConfig(
            lr=lr,
            warmup_steps=4,
            schedule="linear",
            micro_batch_tokens=2048,
            loss=PolicyLossConfig(entropy_weight=0.001),
        ),
        validation=ValidationConfig(every=10, num_problems=96, samples=8, select="last"),
    )


def tiny_process_loop() -> LoopConfig:
    """How a process reward of unknown scale is paid in the `tiny` recipes: the same for learned rewards and nulls.

    As the oracle is paid, with the reward's judgement in place of the exact checker's: a step is right unless its score is
    below the one that as many rollouts stay above throughout as are correct, and nothing is paid after the first that is not.
    """
    return tiny_loop(StepCredit(process_weight=2.0, outcome_weight=0.5, signal="right", doubtful="outcome"))


def paper_loop(credit: CreditConfig = OUTCOME_ALONE, *, chat: bool) -> LoopConfig:
    """docs/method.md section 5: batch 128 prompts x 4, mini-batch 32 prompts, lr 5e-7, clip 0.2, entropy 0.001, no KL.

    218 steps are two passes over 14,000 problems; validation on 2,050 held-out problems.
    """
    return LoopConfig(
        steps=218,
        sampling=SamplingConfig(prompts_per_step=128, group_size=4, max_new_tokens=3000, chat_template=chat),
        credit=credit,
        optim=PolicyOptimConfig(lr=5e-7, mini_batches=4, micro_batch_tokens=4535, loss=PolicyLossConfig(entropy_weight=0.001)),
        validation=ValidationConfig(every=20, num_problems=2050, samples=1),
        checkpoint_every=10,
    )


def paper_data() -> TrainingSetConfig:
    r"""Problems of docs/method.md section 5, from a JSONL file that the user gives (`data.file`); steps end at blank lines."""
    return TrainingSetConfig(
        source="file",
        num_problems=14000,
        validation_problems=2050,
        prompt_suffix="\nPlease reason step by step, and put your final answer within \\boxed{}.",
        step_separator="\n\n",
    )


def _reference(model: nn.Module) -> nn.Module | None:
    """A frozen copy of the policy as it starts; None where switching its adapters off gives that."""
    return None if has_adapters(model) else copy.deepcopy(model).requires_grad_(False).eval()


def _credit(context: FitContext, loop: LoopConfig) -> Credit:
    if isinstance(loop.credit, GAECredit):
        return GAE(loop.credit, context.policy.model, context.policy.tokenizer, loop.steps)
    return LeaveOneOut(loop.credit)


def check_temperature(loop: LoopConfig, applies: bool, setting: str) -> None:
    """ValueError where log-probabilities of a model (at temperature 1) would be held against those of a sampler at another."""
    if applies and loop.sampling.temperature != 1:
        raise ValueError(f"{setting} holds the reward against the sampler's log-probabilities: set loop.sampling.temperature=1")


def _check_outcomes(loop: LoopConfig) -> None:
    """UserError for settings under which a method that is told no outcomes would learn nothing."""
    credit, keep = loop.credit, loop.sampling.keep
    found = {
        "loop.credit.doubtful=outcome": isinstance(credit, StepCredit) and credit.doubtful == "outcome",
        f"loop.credit.outcome_weight={credit.outcome_weight:g}": credit.outcome_weight > 0,
        "loop.sampling.keep.accuracy": keep is not None and keep.accuracy != (0.0, 1.0),
    }
    for setting, is_set in found.items():
        if is_set:
            raise UserError("this method learns without outcomes, which the setting needs", setting, "leave it out")


def fit_policy(
    context: FitContext,
    config: RLConfig,
    make_reward: Callable[[TrainingSet], RewardLearner | None],
    *,
    method: str,
    make_credit: Callable[[TrainingSet], Credit] | None = None,
    trained_on: Callable[[TrainingSet], TrainingSet] = lambda data: data,
    stop: Callable[[Metrics], bool] | None = None,
) -> Fitted:
    """Policy gradient (or its continuation) in the context's folder, with a reward and a credit rule.

    `make_credit` None: the rule that the configuration names. `trained_on` says what of the set the policy is trained on (the
    reward is made with all of it), `stop` after which metrics of an update training ends early. Leaves `policy/`, and `reward/`
    where the reward has parameters.
    """
    loop = config.loop
    if not context.gives("outcomes"):
        _check_outcomes(loop)
    data = load_training_set(config.data, with_demonstrations=context.gives("demonstrations"))
    data = within_context(data, context.policy, config.data.too_long, chat=loop.sampling.chat_template)
    choosing = Budget()
    if config.hard is not None:
        data, choosing = only_hard(context, data, config.hard, loop.sampling)

    def make_learner() -> PolicyGradient:
        model = context.policy.model
        own = trained_on(data)
        return PolicyGradient(
            model,
            make_collector(context, loop.sampling),
            LoopData(own.problems, own.demonstrations),
            make_reward(data),
            _credit(context, loop) if make_credit is None else make_credit(data),
            loop,
            context.seed,
            reference=_reference(model) if loop.optim.loss.kl is not None else None,
        )

    def save_reward(learner: Learner, folder: Path) -> None:
        if isinstance(learner, PolicyGradient) and learner.reward is not None:
            learner.reward.save(folder)

    fitted = fit_learner(
        context,
        config,
        make_learner,
        method=method,
        data=data,
        steps=loop.steps,
        sampling=loop.sampling,
        validation=loop.validation,
        checkpoint_every=loop.checkpoint_every,
        save_reward=save_reward,
        stop=stop,
    )
    return replace(fitted, budget=fitted.budget + choosing)
