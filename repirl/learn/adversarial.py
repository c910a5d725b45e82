"""Adversarial imitation: a discriminator of single tokens, demonstrations against the policy's rollouts (GAIL, AIRL).

D(s_t, a_t) is the probability that a token is the expert's. GAIL (arXiv 1606.03476): logit D = f, reward -log(1 - D). AIRL
(arXiv 1710.11248): logit D = f - log pi(a_t | s_t), with pi the policy that sampled the batch; at the optimum f is the log of
the expert's policy, a reward that is separate from the current policy's, and f is what is paid. Outcomes take no part.
Shapes: N completion tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from repirl import parallel
from repirl.config import Config
from repirl.learn.gradient import row_logprobs
from repirl.learn.updater import OptimConfig, Updater
from repirl.rewards.artifact import RewardContract
from repirl.rewards.base import Learned
from repirl.rewards.energy import EnergyReward, parameter_groups, token_rewards
from repirl.rewards.saved import write_reward
from repirl.rng import stream
from repirl.rollouts.packing import TokenBatch, TokenRow, padding_id, rollout_rows
from repirl.rollouts.perturb import with_wrong_number
from repirl.rollouts.prompts import encode_solution
from repirl.types import Budget, Metrics, RolloutGroup, Scored


class AdversarialConfig(Config):
    """How the discriminator learns."""

    lr: float = Field(default=1e-6, gt=0)
    """AdamW's rate, constant."""
    head_lr: float | None = Field(default=None, gt=0)
    """None: `lr`."""
    updates_per_batch: int = Field(default=2, ge=1)
    """Discriminator updates on each batch of rollouts."""
    warmup: int = Field(default=0, ge=0)
    """Further updates on the first batch, before the policy moves (R-AIRL: 50 to 200)."""
    demos_per_prompt: int = Field(default=4, ge=1)
    """Demonstrations of each prompt that take part."""
    max_demo_tokens: int | None = Field(default=None, ge=1)
    """Demonstrations that are longer (EOS included) take no part: rollouts that long are cut, and length would tell them apart.
    None: as many as the policy may write."""
    perturbed: int = Field(default=0, ge=0)
    """Of so many demonstrations of each prompt a copy with one wrong number is a negative besides (R-AIRL)."""
    base_measure: float = Field(default=0.0, ge=0)
    """Of f, as of rePIRL's reward: 1 starts f as the starting policy's log-probability."""
    layers: int | None = None
    """The first so many of the policy's layers; None: all."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is above."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens that go through the model at a time; changes no result."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A completion, log pi of its tokens, and whether it is the expert's."""

    tokens: TokenRow
    logprobs_T: np.ndarray
    expert: bool


class TokenDiscriminator:
    """`RewardLearner`: f is an energy model; `policy` is the one that samples the batches, whose log pi of demonstrations is
    needed too."""

    def __init__(
        self,
        form: Literal["gail", "airl"],
        model: Any,
        policy: nn.Module,
        tokenizer: Any,
        config: AdversarialConfig,
        contract: RewardContract,
        seed: int,
        max_demo_tokens: int,
    ) -> None:
        self.max_demo_tokens = max_demo_tokens
        self.form, self.policy, self.config, self.contract, self.seed = form, policy, config, contract, seed
        kind = EnergyReward if form == "airl" else _GAILReward
        self.reward = kind(model, tokenizer, contract.segmentation, contract.step_aggregation)
        limits = {"max_grad_norm": config.max_grad_norm, "micro_batch_tokens": config.micro_batch_tokens}
        optim = OptimConfig(lr=config.lr, **limits)
        groups = parameter_groups(model, config.lr, config.lr if config.head_lr is None else config.head_lr)
        self.updater = Updater(model, padding_id(tokenizer), optim, 1, groups=groups)
        self.spent = Budget()

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"reward": self.updater.model}

    @property
    def budget(self) -> Budget:
        return self.reward.budget + self.spent + Budget(trained_tokens=self.updater.trained_tokens)

    def score(self, groups: Sequence[RolloutGroup]) -> Scored:
        return self.reward.score(groups)

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> Learned:
        """Updates on the batch, then its scores."""
        rows = self._rows(groups, step)
        metrics: Metrics = {}
        for _ in range(self.config.updates_per_batch + (self.config.warmup if step == 0 else 0)):
            metrics = self._update(rows)
        return Learned(self.score(groups), metrics)

    def _rows(self, groups: Sequence[RolloutGroup], step: int) -> list[_Row]:
        tokenizer, config = self.reward.tokenizer, self.config
        experts: list[TokenRow] = []
        perturbed: list[TokenRow] = []
        for group in groups:
            prompt_ids = group.rollouts[0].prompt_ids
            for d, demo in enumerate(group.demonstrations[: config.demos_per_prompt]):
                row = encode_solution(tokenizer, prompt_ids, demo.text)
                if len(row.response_ids) > self.max_demo_tokens:
                    continue
                experts.append(row)
                if d < config.perturbed:
                    wrong = with_wrong_number(demo.text, stream(self.seed, "perturbed", step, group.problem.id, d))
                    perturbed += [] if wrong is None else [encode_solution(tokenizer, prompt_ids, wrong)]
        self.spent += Budget(demonstrations=len(experts))
        given = [*experts, *perturbed]
        logprobs = [np.zeros(len(row.response_ids), dtype=np.float32) for row in given]
        if self.form == "airl" and given:
            temperature = groups[0].rollouts[0].temperature
            self.spent += Budget(scored_tokens=sum(map(len, given)))
            logprobs = [one.numpy() for one in row_logprobs(self.policy, given, temperature, pad_id=self.updater.pad_id)]
        sampled = [rollout.logprobs for group in groups for rollout in group.rollouts]
        rows = [_Row(row, values, True) for row, values in zip(experts, logprobs, strict=False)]
        rows += [_Row(row, values, False) for row, values in zip(perturbed, logprobs[len(experts) :], strict=True)]
        return rows + [_Row(row, values, False) for row, values in zip(rollout_rows(groups), sampled, strict=True)]

    def _update(self, rows: Sequence[_Row]) -> Metrics:
        """One step on the cross-entropy of tokens, the two classes weighing the same; metrics are those before it."""
        counts = {side: sum(len(row.tokens.response_ids) for row in rows if row.expert == side) for side in (True, False)}
        found, right = [0.0, 0.0], [0.0, 0.0]  # sums over the tokens of policy (False) and expert (True)

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            chosen = [rows[i] for i in chunk]
            logits_N = token_rewards(self.updater.model, batch)
            if self.form == "airl":
                logits_N = logits_N - torch.from_numpy(np.concatenate([row.logprobs_T for row in chosen])).to(logits_N)
            sizes = torch.tensor([len(row.tokens.response_ids) for row in chosen], device=logits_N.device)
            expert_N = torch.tensor([row.expert for row in chosen], device=logits_N.device).repeat_interleave(sizes)
            each_N = functional.binary_cross_entropy_with_logits(logits_N, expert_N.to(logits_N), reduction="none")
            value = each_N.new_zeros(())
            for side in (True, False):
                mine_N = expert_N == side
                found[side] += float(logits_N.detach()[mine_N].sum())
                right[side] += int(((logits_N.detach() > 0) == side)[mine_N].sum())
                value = value + 0.5 * each_N[mine_N].sum() / max(1, counts[side])
            return value

        stats = self.updater.step([row.tokens for row in rows], loss)
        found, right = parallel.total([found, right])
        metrics: Metrics = {"loss": stats.loss, "grad_norm": stats.grad_norm}
        for side, name in ((True, "expert"), (False, "policy")):
            if counts[side]:
                metrics |= {f"logit_{name}": found[side] / counts[side], f"told_{name}": right[side] / counts[side]}
        return metrics

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {"updater": self.updater.state(), "reward": self.reward.state(), "spent": asdict(self.spent)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updater.load_state(state["updater"])
        self.reward.load_state(state["reward"])
        self.spent = Budget(**state["spent"])

    def save(self, folder: Path) -> None:
        """As an energy: f itself. (GAIL's -log(1 - D) is a rising function of it.)"""
        write_reward(folder, self.updater.model, self.reward.tokenizer, self.contract)


class _GAILReward(EnergyReward):
    """-log(1 - D), D the sigmoid of the energy: above 0, so that longer completions earn more in sum."""

    def per_token(self, batch: TokenBatch) -> Tensor:
        return functional.softplus(super().per_token(batch))
