"""Behavioural cloning: maximum likelihood on the expert's solutions (BC of PAPER section 6).

Each update sees the same prompts in the same order as the RL methods' update of that number, with all demonstrations of
each; best checkpoint on the same validation. Token mean over the batch, AdamW, no schedule.
"""

import time
from dataclasses import asdict

import torch
from pydantic import Field

from repirl.config import Config
from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.learn.checkpoint import RunFolder
from repirl.learn.collect import Collector, SamplingConfig, ValidationConfig, Validator
from repirl.learn.loop import LoopResult, batch_of
from repirl.learn.mixing import MixConfig
from repirl.learn.supervised import encode_solution, supervised_step, switch_off_dropout
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import (
    fitted_from,
    paper_data,
    paper_loop,
    run_identity,
    save_policy,
    summary,
    tiny_data,
    tiny_loop,
)
from repirl.rollouts.batching import padding_id
from repirl.rollouts.prompts import encode_prompt
from repirl.tasks.training_sets import TrainingSet, TrainingSetConfig, load_training_set
from repirl.types import Budget


class BCConfig(Config):
    """Behavioural cloning's settings; `sampling` gives prompts per update and how validation samples."""

    data: TrainingSetConfig
    sampling: SamplingConfig
    validation: ValidationConfig
    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    micro_batch_tokens: int = Field(default=8192, ge=1)


def _recipe(data: TrainingSetConfig, loop, lr: float) -> BCConfig:
    return BCConfig(data=data, sampling=loop.sampling, validation=loop.validation, steps=loop.steps, lr=lr)


class BehaviouralCloning(Method[BCConfig]):
    """Imitate the demonstrations."""

    name = "bc"
    title = "behavioural cloning"
    source = "supervised fine-tuning on demonstrations; settings of arXiv 2602.07832"
    status = "paper recipe not yet run at that size"
    recipes = {
        "tiny": _recipe(tiny_data(), tiny_loop(MixConfig()), 3e-4),
        "paper-qwen2.5-3b": _recipe(paper_data(), paper_loop(MixConfig(), chat=True), 1e-5),
        "paper-qwen3-4b": _recipe(paper_data(), paper_loop(MixConfig(), chat=False), 1e-5),
    }

    def fit(self, context: FitContext, config: BCConfig) -> Fitted:
        """Train on demonstrations; leaves `policy/` in the run folder."""
        data = load_training_set(config.data)
        if not any(data.demonstrations.values()):
            raise UserError("no demonstrations to clone", config.data.source, "give problems with `demonstrations`")
        run = RunFolder(context.folder, run_identity(context, config, self.name, data))
        folder = context.folder / "policy"
        if run.done is None:
            run.finish(summary(_Cloning(context, config, run, data).train()))
        return fitted_from(run, folder)


class _Cloning:
    """One resumable run."""

    def __init__(self, context: FitContext, config: BCConfig, run: RunFolder, data: TrainingSet) -> None:
        self.context, self.config, self.run, self.data = context, config, run, data
        self.model, self.tokenizer = context.policy.model, context.policy.tokenizer
        switch_off_dropout(self.model)
        collector = Collector(self.tokenizer, context.engine(), grade_rollouts, config.sampling)
        self.validator = Validator(collector, self.data.validation, config.validation, run, context.seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=0.0)
        self.budget = Budget()

    def train(self) -> LoopResult:
        """All updates, from the last checkpoint if there is one."""
        step = self._resume()
        if not self.validator.history:
            self.validator.run(0, self.model)
        metrics: dict = {}
        while step < self.config.steps:
            started = time.monotonic()
            metrics = self._step(step)
            step += 1
            if step % self.config.validation.every == 0 or step == self.config.steps:
                metrics["validation_accuracy"] = self.validator.run(step, self.model)
            wall_s = time.monotonic() - started
            self.budget += Budget(wall_s=wall_s)
            metrics = {"step": step, **metrics, "wall_s": round(wall_s, 3)}
            self.run.log(metrics)
            self._checkpoint(step)
            if self.context.on_step is not None:
                self.context.on_step(step, self.config.steps, metrics)
        best_step, best = self.validator.load_best(self.model)
        save_policy(self.context.folder / "policy", self.model, self.tokenizer)
        metrics = metrics or self.run.metrics()[-1]
        budget = self.budget + self.validator.collector.budget
        return LoopResult(best_step, best, tuple(self.validator.history), budget, metrics)

    def _step(self, step: int) -> dict:
        problems = batch_of(self.data.problems, step, self.config.sampling.prompts_per_step, self.context.seed)
        rows = [
            encode_solution(
                self.tokenizer,
                encode_prompt(self.tokenizer, problem.prompt, chat=self.config.sampling.chat_template),
                demonstration.text,
            )
            for problem in problems
            for demonstration in self.data.demonstrations[problem.id]
        ]
        self.model.train()
        metrics = supervised_step(
            self.model,
            self.optimizer,
            rows,
            pad_id=padding_id(self.tokenizer),
            max_grad_norm=self.config.max_grad_norm,
            max_tokens=self.config.micro_batch_tokens,
        )
        self.budget += Budget(policy_updates=1, demonstrations=len(rows), trained_tokens=int(metrics["trained_tokens"]))
        return metrics

    def _checkpoint(self, step: int) -> None:
        self.run.save_checkpoint(
            {
                "step": step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "budget": asdict(self.budget),
                "collected": asdict(self.validator.collector.budget),
                "validation": self.validator.history,
            }
        )

    def _resume(self) -> int:
        state = self.run.load_checkpoint()
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.budget = Budget(**state["budget"])
        self.validator.collector.budget = Budget(**state["collected"])
        self.validator.history = [tuple(entry) for entry in state["validation"]]
        return int(state["step"])
