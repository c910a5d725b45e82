"""Maximum likelihood on demonstrations: what behavioural cloning is, and the warm start of methods that go on from it."""

from __future__ import annotations

from pydantic import Field

from repirl.config import Config
from repirl.errors import UserError
from repirl.learn.policy_gradient import LoopConfig, batch_of
from repirl.learn.run import ValidationConfig
from repirl.learn.supervised import LossBatch, Supervised, negative_log_likelihood
from repirl.learn.updater import OptimConfig, Updater
from repirl.methods.base import FitContext, Fitted
from repirl.methods.context_length import within_context
from repirl.methods.fitting import fit_learner
from repirl.rollouts.collect import SamplingConfig
from repirl.rollouts.packing import padding_id
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.tasks.training_sets import TrainingSetConfig, load_training_set
from repirl.types import Budget


class BCConfig(Config):
    """Behavioural cloning's settings; `sampling` gives prompts per update and how validation samples."""

    data: TrainingSetConfig
    sampling: SamplingConfig
    validation: ValidationConfig
    steps: int = Field(ge=1)
    """Updates."""
    optim: OptimConfig


def bc_config(data: TrainingSetConfig, loop: LoopConfig, lr: float) -> BCConfig:
    """Cloning beside an RL loop: its prompts, updates and validation."""
    return BCConfig(data=data, sampling=loop.sampling, validation=loop.validation, steps=loop.steps, optim=OptimConfig(lr=lr))


def clone(context: FitContext, config: BCConfig, *, method: str) -> Fitted:
    """Train on demonstrations (or continue) in the context's folder; leaves `policy/`. UserError if there are none.

    Each update sees the same prompts in the same order as the RL methods' update of that number, with all demonstrations of
    each. Token mean over the batch.
    """
    chat = config.sampling.chat_template
    data = load_training_set(config.data, with_demonstrations=context.gives("demonstrations"))
    data = within_context(data, context.policy, config.data.too_long, chat=chat)
    if not any(data.demonstrations.values()):
        raise UserError("no demonstrations to clone", config.data.source, "give problems with `demonstrations`")
    model, tokenizer = context.policy.model, context.policy.tokenizer

    def batch_of_step(step: int) -> LossBatch:
        rows = [
            encode_solution(tokenizer, encode_prompt(tokenizer, problem.prompt, chat=chat), demonstration.text)
            for problem in batch_of(data.problems, step, config.sampling.prompts_per_step, context.seed)
            for demonstration in data.demonstrations[problem.id]
        ]
        return LossBatch(rows, negative_log_likelihood(model, rows), Budget(demonstrations=len(rows)))

    return fit_learner(
        context,
        config,
        lambda: Supervised(Updater(model, padding_id(tokenizer), config.optim, config.steps), batch_of_step),
        method=method,
        data=data,
        steps=config.steps,
        sampling=config.sampling,
        validation=config.validation,
    )
