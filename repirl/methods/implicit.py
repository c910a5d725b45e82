"""What the offline methods share whose reward is implicit: a pool of graded rollouts, a frozen start, and both results.

They differ in the loss alone: the policy that it trains is the policy, and against its start it is the process reward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.learn.diagnostics import reward_diagnostics, shortcut_scores
from repirl.learn.log_ratios import RatioLoss, graded, linearized
from repirl.learn.policy_gradient import batch_of
from repirl.learn.run import Learner
from repirl.learn.supervised import LossBatch, Supervised
from repirl.learn.updater import OptimConfig, Updater
from repirl.methods.base import FitContext, Fitted
from repirl.methods.cloning import BCConfig
from repirl.methods.context_length import within_context
from repirl.methods.fitting import fit_learner, reward_contract
from repirl.methods.offline import OfflinePool, PoolConfig
from repirl.methods.rl import tiny_data, tiny_loop
from repirl.rewards import implicit
from repirl.rewards.implicit import ImplicitReward
from repirl.rewards.saved import write_reward
from repirl.rollouts.packing import padding_id
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks.training_sets import load_training_set
from repirl.types import Budget, Metrics, RolloutGroup

MakeLoss = Callable[[Sequence[RolloutGroup], int, ImplicitReward], RatioLoss]
"""(groups of the step's prompts, number of the step, the reward as it is now) -> what is learned from them."""


class ImplicitConfig(BCConfig):
    """Settings of cloning, with a pool in place of demonstrations: each update sees `sampling.prompts_per_step` of its
    prompts."""

    beta: float = Field(gt=0, allow_inf_nan=False)
    """Of the reward beta (log pi - log pi_ref)."""
    offline: PoolConfig = PoolConfig()
    pool: str | None = None
    """A file of graded rollouts (rollouts/stored.py): nothing is sampled to learn from."""


C = TypeVar("C", bound=ImplicitConfig)


def tiny_implicit(kind: type[C], lr: float, beta: float, **own: Any) -> C:
    """A `tiny` recipe: the updates, prompts and validation of the RL methods, on the pool of easier levels of rePIRL's."""
    loop = tiny_loop()
    optim = OptimConfig(lr=lr, warmup_steps=4, schedule="linear", micro_batch_tokens=2048)
    return kind(
        data=tiny_data(),
        sampling=loop.sampling,
        validation=loop.validation,
        steps=loop.steps,
        optim=optim,
        beta=beta,
        offline=PoolConfig(levels=(2, 3, 4, 5, 6)),
        **own,
    )


def fit_implicit(
    context: FitContext,
    config: ImplicitConfig,
    make_loss: MakeLoss,
    *,
    method: str,
    usable: Callable[[RolloutGroup], bool] = lambda group: bool(graded([group]).rows),
) -> Fitted:
    """Train the context's policy against its frozen start on a pool (or continue); leaves `policy/` and `reward/`.

    Groups that are not `usable` (without graded rollouts) are left out, and counted. UserError unless the others hold both
    correct and failed rollouts.
    """
    policy, sampling = context.policy, config.sampling
    data = load_training_set(config.data, with_demonstrations=context.gives("demonstrations"))
    data = within_context(data, policy, config.data.too_long, chat=sampling.chat_template)
    pool = OfflinePool(context, config.data, config.offline, sampling, config.pool)
    left_out = data.left_out | {f"{kind} of the pool": count for kind, count in pool.data.left_out.items()}
    data = replace(data, digest=digest_of([data.digest, pool.data.digest]), left_out=left_out)

    def make_learner() -> Supervised:
        groups = pool.groups()
        used = [group for group in groups if usable(group)]
        found = _pool_metrics(groups, used)
        reference = copy.deepcopy(policy.model).requires_grad_(False).eval()
        segmentation = StepSegmentation(config.data.step_separator)
        reward = ImplicitReward(policy.model, reference, policy.tokenizer, segmentation, config.beta)
        prompts = min(sampling.prompts_per_step, len(used))

        def batch_of_step(step: int) -> LossBatch:
            before = reward.budget.scored_tokens
            chosen = batch_of(used, step, prompts, context.seed)
            objective = make_loss(chosen, step, reward)
            loss, metrics = linearized(reward, objective)
            if step + 1 == config.steps:
                metrics |= _looked_at(reward, chosen)
            spent = Budget(scored_tokens=reward.budget.scored_tokens - before)
            return LossBatch(objective.rows, loss, spent, lambda: metrics | found)

        updater = Updater(policy.model, padding_id(policy.tokenizer), config.optim, config.steps)
        return Supervised(updater, batch_of_step, spent=pool.cost(groups))

    def save_reward(learner: Learner, folder: Path) -> None:
        contract = reward_contract(context, config, implicit.KIND, method, config.data, sampling, data.digest, "sum")
        contract = contract.model_copy(update={"log_ratio": implicit.log_ratio_terms(policy, config.beta)})
        write_reward(folder, policy.model, policy.tokenizer, contract)

    return fit_learner(
        context,
        config,
        make_learner,
        method=method,
        data=data,
        steps=config.steps,
        sampling=sampling,
        validation=config.validation,
        save_reward=save_reward,
    )


def _pool_metrics(groups: Sequence[RolloutGroup], used: Sequence[RolloutGroup]) -> Metrics:
    """What the pool is; UserError if nothing can be learned from it."""
    rewards = np.array([verdict.reward for group in groups for verdict in group.verdicts])
    usable = {verdict.reward for group in used for verdict in group.verdicts}
    if not usable >= {0.0, 1.0}:
        what = "the pool has no prompt with both correct and failed rollouts" if not used else "the pool has one outcome alone"
        raise UserError(what, f"{len(groups)} prompts, {int(np.nansum(rewards))} correct", "give more rollouts or other levels")
    return {
        "pool/prompts": len(groups),
        "pool/skipped_prompts": len(groups) - len(used),
        "pool/ungraded": int(np.isnan(rewards).sum()),
        "pool/accuracy": float(np.nanmean(rewards)),
    }


def _looked_at(reward: ImplicitReward, groups: Sequence[RolloutGroup]) -> Metrics:
    """What docs/design.md rule 5 asks for, of the last batch before its update; its prompts may have come up before."""
    found = reward_diagnostics(groups, reward.score(groups)) | shortcut_scores(reward, reward.tokenizer, groups)
    return {f"prm/{name}": value for name, value in found.items()}
