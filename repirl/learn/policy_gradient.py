"""Policy gradient (docs/method.md section 4): sample, grade, let the reward learn and score, pay the tokens, update.

Nothing in it depends on which method runs: a method is a reward (or none), a credit rule and a configuration. All randomness
comes from (seed, step) streams, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator
from torch import nn

from repirl.config import Config
from repirl.errors import NumericalFault, UserError
from repirl.learn.credit import Credit
from repirl.learn.credit_config import OUTCOME_ALONE, PER_TOKEN_RULES, CreditConfig
from repirl.learn.diagnostics import reward_diagnostics, shortcut_scores
from repirl.learn.policy_update import PolicyOptimConfig, PolicyUpdater
from repirl.learn.run import ValidationConfig
from repirl.rewards.base import RewardLearner
from repirl.rng import seed_for, stream
from repirl.rollouts.collect import Collector, SamplingConfig, kept
from repirl.rollouts.packing import padding_id
from repirl.rollouts.prompts import encode_solution
from repirl.types import Budget, Demonstration, Metrics, Problem, Rollout, RolloutGroup, Scored, Verdict

T = TypeVar("T")


class LoopConfig(Config):
    """All that policy gradient needs beside data and a reward."""

    steps: int = Field(default=40, ge=1)
    """Batches of rollouts, each with its policy update."""
    sampling: SamplingConfig = SamplingConfig()
    credit: CreditConfig = OUTCOME_ALONE
    experts_in_group: int = Field(default=0, ge=0)
    """So many demonstrations of each prompt are paid and trained on with its rollouts, as correct ones; the reward does not
    learn from them as such (R-AIRL)."""
    optim: PolicyOptimConfig = PolicyOptimConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint_every: int = Field(default=1, ge=1)
    """Updates between two checkpoints, from which a run that was stopped goes on."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.optim.loss.ratio == "sequence" and self.credit.rule in PER_TOKEN_RULES:
            raise ValueError(
                "loss.ratio=sequence weighs a completion as a whole: with credit.rule="
                f"{self.credit.rule} the advantages of its tokens would be averaged away; use ratio=token"
            )
        return self


@dataclass(frozen=True, slots=True)
class LoopData:
    """Training problems, and the demonstrations by problem id (empty if a method uses none)."""

    problems: Sequence[Problem]
    demonstrations: Mapping[str, tuple[Demonstration, ...]]


def batch_of(problems: Sequence[T], step: int, size: int, seed: int) -> list[T]:
    """The problems (or their groups) of a step: successive slices of one seeded permutation per pass, the same for every
    method."""
    chosen: list[T] = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, len(problems))
        order = stream(seed, "order", epoch).permutation(len(problems))
        chosen.append(problems[int(order[place])])
    return chosen


def expert_groups(
    policy: PolicyUpdater, tokenizer: Any, groups: Sequence[RolloutGroup], count: int, temperature: float
) -> list[RolloutGroup]:
    """Of each group its first `count` demonstrations as finished, correct rollouts, with the policy's log-probabilities."""
    rows = [
        [encode_solution(tokenizer, group.rollouts[0].prompt_ids, demo.text) for demo in group.demonstrations[:count]]
        for group in groups
    ]
    logprobs = iter(policy.logprobs([row for own in rows for row in own], temperature))
    found = []
    for group, own in zip(groups, rows, strict=True):
        demos = zip(group.demonstrations, own, strict=False)
        rollouts = tuple(
            Rollout(
                problem_id=group.problem.id,
                sample_index=len(group.rollouts) + i,
                prompt_ids=tuple(row.prompt_ids),
                token_ids=np.array(row.response_ids, dtype=np.int64),
                logprobs=next(logprobs).numpy(),
                text=demo.text,
                finish_reason="stop",
                temperature=temperature,
                policy_version=group.rollouts[0].policy_version,
            )
            for i, (demo, row) in enumerate(demos)
        )
        found.append(replace(group, rollouts=rollouts, verdicts=(Verdict("correct", "a demonstration"),) * len(rollouts)))
    return found


class PolicyGradient:
    """`Learner` that trains `model` in place with an optional reward; `reference` is needed for a KL penalty.

    UserError for empty data, a credit rule that pays a process reward where there is none, or sampling from a truncated
    distribution: the gradient, ratios and importance weights are all made of log-probabilities of the full one
    (docs/design.md rule 2).
    """

    def __init__(
        self,
        model: nn.Module,
        collector: Collector,
        data: LoopData,
        reward: RewardLearner | None,
        credit: Credit,
        config: LoopConfig,
        seed: int,
        reference: nn.Module | None = None,
    ) -> None:
        if not data.problems:
            raise UserError("no training problems", todo="check the training set and its levels")
        if not config.sampling.is_full_distribution:
            raise UserError(
                "policy gradients need samples of the full distribution",
                f"top_p={config.sampling.top_p}, top_k={config.sampling.top_k}",
                "use top_p=1 and top_k=0",
            )
        if config.experts_in_group and not any(data.demonstrations.values()):
            todo = "use a method that is given demonstrations, or experts_in_group=0"
            raise UserError("no demonstrations to join the groups", f"experts_in_group={config.experts_in_group}", todo)
        if reward is None and credit.needs_reward:
            rule = config.credit.rule
            raise UserError("the credit rule pays a process reward, and this method has none", rule, "use credit.rule=outcome")
        self.collector, self.data, self.reward, self.credit = collector, data, reward, credit
        self.config, self.seed = config, seed
        self.policy = PolicyUpdater(model, padding_id(collector.tokenizer), config.optim, config.steps, reference)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Policy, reward and what the credit rule trains: a chosen checkpoint holds them as they were together."""
        learned = self.reward.modules if self.reward is not None else {}
        return {"policy": self.policy.updater.model, **learned, **self.credit.modules}

    @property
    def budget(self) -> Budget:
        """Rollouts and grading, the reward's and the credit rule's consumption, and policy updates."""
        spent = self.collector.budget + self.credit.budget
        if self.reward is not None:
            spent += self.reward.budget
        updater = self.policy.updater
        return spent + Budget(
            policy_updates=updater.updates, trained_tokens=updater.trained_tokens, scored_tokens=self.policy.scored_tokens
        )

    def step(self, index: int) -> Metrics:
        """One batch of prompts: rollouts, verdicts, rewards, advantages, policy update."""
        config = self.config
        marks = [("sample", time.monotonic())]
        problems = batch_of(self.data.problems, index, config.sampling.prompts_per_step, self.seed)
        sampled = self.collector.groups(
            problems, config.sampling.group_size, seed_for(self.seed, "rollouts", index), self.data.demonstrations
        )
        metrics = batch_metrics(sampled)
        groups = kept(sampled, config.sampling.keep)
        if config.sampling.keep is not None:
            metrics["kept_groups"] = len(groups) / len(sampled)
        if not groups:
            return metrics
        marks.append(("process", time.monotonic()))
        scored = None
        if self.reward is not None:
            learned = self.reward.learn(groups, index)
            scored = learned.scored
            if not all(np.isfinite(one.token_rewards).all() for group in scored for one in group):
                raise NumericalFault("a token reward is not finite", "lower the reward's learning rate")
            found = learned.metrics | reward_diagnostics(groups, scored)
            if index + 1 == config.steps:
                found |= shortcut_scores(self.reward, self.collector.tokenizer, groups)
            metrics |= {f"prm/{name}": value for name, value in found.items()}
        if config.experts_in_group:
            groups, scored = self._joined_by_experts(groups, scored)
        advantages = self.credit.advantages(groups, scored, index / config.steps)
        metrics |= {f"credit/{name}": value for name, value in self.credit.learn(groups, scored).items()}
        marks.append(("update", time.monotonic()))
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        flat = [advantage for group in advantages for advantage in group]
        metrics |= self.policy.update(rollouts, flat, seed_for(self.seed, "mini", index))
        marks.append(("end", time.monotonic()))
        return metrics | {f"time/{name}_s": round(after - at, 3) for (name, at), (_, after) in pairwise(marks)}

    def _joined_by_experts(
        self, groups: Sequence[RolloutGroup], scored: Scored | None
    ) -> tuple[list[RolloutGroup], Scored | None]:
        """Every group with its first demonstrations behind its rollouts, as rollouts of the policy, and their scores."""
        count, sampling = self.config.experts_in_group, self.config.sampling
        experts = expert_groups(self.policy, self.collector.tokenizer, groups, count, sampling.temperature)
        self.collector.budget += Budget(demonstrations=sum(len(group.rollouts) for group in experts))
        joined = [
            replace(group, rollouts=group.rollouts + own.rollouts, verdicts=group.verdicts + own.verdicts)
            for group, own in zip(groups, experts, strict=True)
        ]
        if scored is None or self.reward is None:
            return joined, None
        return joined, [a + b for a, b in zip(scored, self.reward.score(experts), strict=True)]

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {
            "policy": self.policy.state(),
            "reward": self.reward.state() if self.reward is not None else None,
            "credit": self.credit.state(),
            "collected": asdict(self.collector.budget),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.policy.load_state(state["policy"])
        if self.reward is not None:
            self.reward.load_state(state["reward"])
        self.credit.load_state(state["credit"])
        self.collector.budget = Budget(**state["collected"])


def batch_metrics(groups: Sequence[RolloutGroup]) -> Metrics:
    """Mean reward (if any was graded), share of groups with both right and wrong rollouts, lengths and counts of a batch."""
    rewards = [np.array([v.reward for v in group.verdicts]) for group in groups]
    graded = [r[~np.isnan(r)] for r in rewards]
    flat = np.concatenate(graded)
    outcomes = [v.outcome for group in groups for v in group.verdicts]
    return {
        **({"reward": float(flat.mean())} if len(flat) else {}),
        "mixed_groups": float(np.mean([len(set(r.tolist())) > 1 for r in graded])),
        "length_mean": float(np.mean([len(r.token_ids) for group in groups for r in group.rollouts])),
        "truncated": outcomes.count("truncated"),
        "ungraded": outcomes.count("ungraded"),
    }
