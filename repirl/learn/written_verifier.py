"""A verifier that writes its judgements and learns by RL from outcomes alone (RL-Tango, arXiv 2505.15034; docs/recipes.md B8).

It judges each rollout in words: every step, then the solution. What it is paid: 1 if the last judgement is the outcome, and
`format_weight` times how well the form was kept; nothing for what cannot be read. No step label takes part: that judging
the steps helps to judge the whole is all that teaches it. Advantages are standardised over all judgements of a prompt; each is
weighted by 1 / sqrt(running count of its rollout's outcome), so that the rarer outcome counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import nn

from repirl.config import Config
from repirl.engines.base import Engine
from repirl.learn.advantages import outcome_advantages
from repirl.learn.gradient import StepStats
from repirl.learn.policy_gradient import batch_of
from repirl.learn.policy_losses import PolicyLossConfig
from repirl.learn.policy_update import PolicyOptimConfig, PolicyUpdater
from repirl.learn.supervised import negative_log_likelihood
from repirl.learn.updater import OptimConfig, Updater
from repirl.rewards.artifact import RewardContract, WrittenTerms
from repirl.rewards.base import Learned
from repirl.rewards.saved import write_reward
from repirl.rewards.written import Judged, WrittenReward
from repirl.rng import seed_for, stream
from repirl.rollouts.packing import TokenRow, padding_id
from repirl.rollouts.prompts import encode_solution
from repirl.types import Budget, Metrics, RolloutGroup, Scored, Verdict


class VerifierConfig(Config):
    """How the verifier writes and learns."""

    written: WrittenTerms = WrittenTerms()
    format_weight: float = Field(default=0.8, ge=0)
    """What a judgement of the right form earns; one of another number of steps the share that it is off by less."""
    every: int = Field(default=3, ge=1)
    """Policy updates for one of the verifier, on the batch of the last of them."""
    count_decay: float = Field(default=0.8, ge=0, lt=1)
    """Of the running counts of outcomes."""
    form_updates: int = Field(default=0, ge=0)
    """Supervised updates before all else, that teach the form: judgements of which the last is the outcome, and in failed
    solutions the first wrong step is drawn at random. For models that follow no instructions."""
    form_lr: float = Field(default=1e-5, gt=0)
    """AdamW's rate of these."""
    warmup: int = Field(default=40, ge=0)
    """Verifier updates on the pool before the policy moves."""
    prompts: int = Field(default=32, ge=1)
    """Prompts of the pool in each update before the policy moves."""
    optim: PolicyOptimConfig = PolicyOptimConfig(lr=1e-6, loss=PolicyLossConfig(entropy_weight=0.001))


class WrittenVerifier:
    """`RewardLearner`: judges the batch; every so many batches it learns from its judgements of that one.

    `updates` is how often it learns in all, for the schedule. A step earns +1 / S or -1 / S as the verdicts of its S steps
    say, mean over the judgements that can be read; a rollout without any earns nothing.
    """

    def __init__(
        self,
        model: Any,
        engine: Engine,
        tokenizer: Any,
        config: VerifierConfig,
        contract: RewardContract,
        seed: int,
        updates: int,
        reference: nn.Module | None = None,
    ) -> None:
        self.config, self.contract, self.seed = config, contract, seed
        self.reward = WrittenReward(model, engine, tokenizer, contract.segmentation, config.written, seed=seed)
        self.updater = PolicyUpdater(model, padding_id(tokenizer), config.optim, max(1, updates), reference)
        self.counts = np.zeros(2)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"reward": self.updater.updater.model}

    @property
    def budget(self) -> Budget:
        trained = self.updater.updater.trained_tokens
        return self.reward.budget + Budget(trained_tokens=trained, scored_tokens=self.updater.scored_tokens)

    def score(self, groups: Sequence[RolloutGroup]) -> Scored:
        return self._scored(groups, self.reward.judge(groups))

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> Learned:
        """What it says of the batch, and, if it is its turn, an update on that."""
        judged = self.reward.judge(groups, seed_for(self.seed, "verify", step))
        metrics = self.told(groups, judged)
        if (step + 1) % self.config.every == 0:
            metrics |= self.update(groups, judged, seed_for(self.seed, "verifier", step))
        return Learned(self._scored(groups, judged), metrics)

    def _scored(self, groups: Sequence[RolloutGroup], judged: Sequence[Sequence[Judged]]) -> Scored:
        paid = [[_signed(one) for one in own] for own in judged]
        return self.reward.steps(groups, self.reward.scores_of(groups, paid))

    def told(self, groups: Sequence[RolloutGroup], judged: Sequence[Sequence[Judged]]) -> Metrics:
        """How well it keeps the form and tells outcomes; of what there is none it says nothing."""
        pairs = list(_with_verdicts(groups, judged))
        known = [(one.judgement.final, verdict.reward == 1) for one, verdict in pairs if verdict.outcome != "ungraded"]
        found: dict[str, list[bool]] = {"readable": [one.scores_S is not None for one, _ in pairs]}
        for name, side in (("right", True), ("wrong", False)):
            found[f"told_{name}"] = [final == side for final, truth in known if truth == side]
        return {name: float(np.mean(values)) for name, values in found.items() if values}

    def update(self, groups: Sequence[RolloutGroup], judged: Sequence[Sequence[Judged]], seed: int) -> Metrics:
        """One batch of judgements, group by group; those of ungraded rollouts teach nothing."""
        remaining = iter(judged)
        written, advantages, labels, paid = [], [], [], []
        for group in groups:
            own = [
                (one, verdict.reward)
                for verdict, of_rollout in zip(group.verdicts, remaining, strict=False)
                for one in of_rollout
                if verdict.outcome != "ungraded"
            ]
            rewards = [judgement_reward(one, outcome == 1, self.config.format_weight) for one, outcome in own]
            written += [one.written for one, _ in own]
            advantages += outcome_advantages(np.array(rewards), "grpo", 1e-6).tolist()
            labels += [int(outcome) for _, outcome in own]
            paid += rewards
        if not written:
            return {}
        weights = self._class_weights(np.array(labels))
        tokens = [
            np.full(len(one.token_ids), weight * advantage, dtype=np.float32)
            for one, weight, advantage in zip(written, weights, advantages, strict=True)
        ]
        return {"reward": float(np.mean(paid))} | self.updater.update(written, tokens, seed)

    def _class_weights(self, labels_J: np.ndarray) -> np.ndarray:
        """Of each judgement [J], with mean 1: 1 / sqrt(running count of its outcome)."""
        decay = self.config.count_decay
        now = np.bincount(labels_J, minlength=2).astype(np.float64)
        self.counts = decay * self.counts + (1 - decay) * now if self.counts.any() else now
        weights_J = 1 / np.sqrt(self.counts[labels_J])
        return weights_J / weights_J.mean()

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {"updater": self.updater.state(), "reward": self.reward.state(), "counts": self.counts.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updater.load_state(state["updater"])
        self.reward.load_state(state["reward"])
        self.counts = np.array(state["counts"])

    def save(self, folder: Path) -> None:
        """A causal language model, and how it is asked."""
        contract = self.contract.model_copy(update={"written": self.config.written})
        write_reward(folder, self.updater.updater.model, self.reward.tokenizer, contract)


def judgement_reward(judged: Judged, correct: bool, format_weight: float) -> float:
    """1 if the final verdict is the outcome, and `format_weight` times the form: 1 for a verdict of every step, less by the
    share of steps that are missing or too many, 0 where no step is judged. What gives no final verdict earns 0."""
    said, steps = judged.judgement, judged.num_steps
    if said.final is None:
        return 0.0
    form = max(0.0, 1 - abs(len(said.steps) - steps) / steps) if said.steps else 0.0
    return float(said.final == correct) + format_weight * form


def _signed(judged: Judged) -> Judged:
    """The judgement with +1 / S and -1 / S as the scores of its S steps."""
    if judged.scores_S is None:
        return judged
    signs_S = np.where(np.array(judged.judgement.steps), 1.0, -1.0) / judged.num_steps
    return Judged(judged.written, judged.judgement, judged.num_steps, signs_S)


def _with_verdicts(groups: Sequence[RolloutGroup], judged: Sequence[Sequence[Judged]]) -> list[tuple[Judged, Verdict]]:
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    return [(one, verdict) for verdict, own in zip(verdicts, judged, strict=True) for one in own]


class VerifierFitting:
    """`Learner` before the policy moves: `form_updates` supervised updates that teach the form, then `warmup` of RL.

    Both are on the groups of a pool, which cost `spent`.
    """

    def __init__(self, verifier: WrittenVerifier, groups: Sequence[RolloutGroup], spent: Budget) -> None:
        self.reward, self.groups, self.spent = verifier, groups, spent
        config, model = verifier.config, verifier.updater.updater.model
        optim = OptimConfig(lr=config.form_lr, warmup_steps=10, micro_batch_tokens=config.optim.micro_batch_tokens)
        self.form = Updater(model, verifier.updater.updater.pad_id, optim, max(1, config.form_updates))

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return self.reward.modules

    @property
    def budget(self) -> Budget:
        return self.reward.budget + self.spent + Budget(trained_tokens=self.form.trained_tokens)

    def step(self, index: int) -> Metrics:
        """One update."""
        verifier, config = self.reward, self.reward.config
        chosen = batch_of(self.groups, index, min(config.prompts, len(self.groups)), verifier.seed)
        if index < config.form_updates:
            stats = self._teach_form(chosen, index)
            return {"prm/form_loss": stats.loss, "prm/grad_norm": stats.grad_norm}
        judged = verifier.reward.judge(chosen, seed_for(verifier.seed, "warm-up", index))
        found = verifier.told(chosen, judged) | verifier.update(chosen, judged, seed_for(verifier.seed, "warm-up order", index))
        return {f"prm/{name}": value for name, value in found.items()}

    def _teach_form(self, groups: Sequence[RolloutGroup], index: int) -> StepStats:
        reward = self.reward.reward
        random = stream(self.reward.seed, "form", index)
        rows: list[TokenRow] = []
        for group in groups:
            for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
                if verdict.outcome != "ungraded":
                    num_steps = reward.num_steps(rollout)
                    first_wrong = num_steps if verdict.reward == 1 else int(random.integers(num_steps))
                    answer = reward.style.write([i < first_wrong for i in range(num_steps)], verdict.reward == 1)
                    prompt_ids = reward.prompt_ids(group.problem, rollout)
                    rows.append(encode_solution(reward.judge_tokenizer, prompt_ids, answer))
        return self.form.step(rows, negative_log_likelihood(self.form.model, rows))

    def state(self) -> dict[str, Any]:
        """All that resuming needs; the rollouts are read again."""
        return {"verifier": self.reward.state(), "form": self.form.state(), "spent": asdict(self.spent)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.form.load_state(state["form"])
        self.reward.load_state(state["verifier"])
        self.spent = Budget(**state["spent"])
