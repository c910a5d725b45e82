"""Behavioural cloning: maximum likelihood on the expert's solutions (BC of docs/method.md section 6).

Each update sees the same prompts in the same order as the RL methods' update of that number, with all demonstrations of
each; best checkpoint on the same validation. Token mean over the batch, AdamW, no schedule.
"""

from pydantic import Field

from repirl.config import Config
from repirl.errors import UserError
from repirl.learn.policy_gradient import LoopConfig, batch_of
from repirl.learn.run import ValidationConfig
from repirl.learn.supervised import LossBatch, Supervised, negative_log_likelihood
from repirl.learn.updater import OptimConfig, Updater
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.context_length import within_context
from repirl.methods.fitting import fit_learner
from repirl.methods.rl import paper_data, paper_loop, tiny_data, tiny_loop
from repirl.rollouts.batching import padding_id
from repirl.rollouts.collect import SamplingConfig
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.tasks.training_sets import TrainingSetConfig, load_training_set
from repirl.types import Budget


class BCConfig(Config):
    """Behavioural cloning's settings; `sampling` gives prompts per update and how validation samples."""

    data: TrainingSetConfig
    sampling: SamplingConfig
    validation: ValidationConfig
    steps: int = Field(ge=1)
    optim: OptimConfig


def _recipe(data: TrainingSetConfig, loop: LoopConfig, lr: float) -> BCConfig:
    return BCConfig(
        data=data, sampling=loop.sampling, validation=loop.validation, steps=loop.steps, optim=OptimConfig(lr=lr)
    )


class BehaviouralCloning(Method[BCConfig]):
    """Imitate the demonstrations."""

    name = "bc"
    title = "behavioural cloning"
    source = "supervised fine-tuning on demonstrations; settings of arXiv 2602.07832"
    status = "paper recipe not yet run at that size"
    recipes = {
        "tiny": _recipe(tiny_data(), tiny_loop(), 3e-4),
        "paper-qwen2.5-3b": _recipe(paper_data(), paper_loop(chat=True), 1e-5),
        "paper-qwen3-4b": _recipe(paper_data(), paper_loop(chat=False), 1e-5),
    }

    def fit(self, context: FitContext, config: BCConfig) -> Fitted:
        """Train on demonstrations; leaves `policy/` in the run folder."""
        chat = config.sampling.chat_template
        data = within_context(load_training_set(config.data), context.policy, config.data.too_long, chat=chat)
        if not any(data.demonstrations.values()):
            raise UserError("no demonstrations to clone", config.data.source, "give problems with `demonstrations`")
        model, tokenizer = context.policy.model, context.policy.tokenizer

        def batch_of_step(step: int) -> LossBatch:
            rows = [
                encode_solution(
                    tokenizer,
                    encode_prompt(tokenizer, problem.prompt, chat=chat),
                    demonstration.text,
                )
                for problem in batch_of(data.problems, step, config.sampling.prompts_per_step, context.seed)
                for demonstration in data.demonstrations[problem.id]
            ]
            return LossBatch(rows, negative_log_likelihood(model, rows), Budget(demonstrations=len(rows)))

        return fit_learner(
            context,
            config,
            lambda: Supervised(Updater(model, padding_id(tokenizer), config.optim, config.steps), batch_of_step),
            method=self.name,
            data=data,
            steps=config.steps,
            sampling=config.sampling,
            validation=config.validation,
        )
