"""PPO's credit: generalised advantage estimation (Schulman et al., arXiv 1506.02438) with a value function that learns.

V(s_t) is read where token t is predicted: of the prompt and the tokens before it. After the last token it is 0, also where the
token limit cut the completion off: what is cut off has failed. Values of a batch are those from before its update.
Shapes: T tokens of a rollout, N completion tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repirl.grading.dispatch import outcome_rewards
from repirl.learn.credit import Advantages, Credit, whitened, without_outcome
from repirl.learn.credit_config import GAECredit
from repirl.learn.gradient import global_counts
from repirl.learn.updater import OptimConfig, Updater
from repirl.precision import lowered
from repirl.rewards.energy import energy_from_policy, parameter_groups
from repirl.rollouts.batching import hidden_states, map_rows
from repirl.rollouts.packing import TokenBatch, TokenRow, padding_id
from repirl.types import Budget, Metrics, RolloutGroup, Scored


def generalised_advantages(rewards_T: np.ndarray, values_T: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """float64 [T]: A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t, with V = 0 behind the last token."""
    next_T = np.append(values_T[1:], 0.0)
    delta_T = rewards_T + gamma * next_T - values_T
    advantages_T = np.zeros(len(rewards_T))
    ahead = 0.0
    for t in reversed(range(len(rewards_T))):
        ahead = delta_T[t] + gamma * lam * ahead
        advantages_T[t] = ahead
    return advantages_T


def token_values(model: Any, batch: TokenBatch) -> Tensor:
    """Float32 values [N] of the states in which the batch's completion tokens were drawn; with gradient if enabled."""
    before_BT = batch.response_mask_BT[:, 1:]
    with lowered(batch.ids_BT.device.type):
        hidden_NH = hidden_states(model.base_model, batch)[:, :-1][before_BT]
        head = model.score if hasattr(model, "score") else model.classifier
        return head(hidden_NH)[:, 0].float()


class GAE(Credit):
    """`Credit` with a value function made from `policy`; `num_batches` of rollouts make up the whole training."""

    def __init__(self, config: GAECredit, policy: Any, tokenizer: Any, num_batches: int) -> None:
        self.config = config
        value = config.value
        self.pad_id = padding_id(tokenizer)
        model = energy_from_policy(policy)
        optim = OptimConfig(lr=value.lr, max_grad_norm=value.max_grad_norm, micro_batch_tokens=value.micro_batch_tokens)
        groups = parameter_groups(model, value.lr, value.lr if value.head_lr is None else value.head_lr)
        self.updater = Updater(model, self.pad_id, optim, num_batches * value.epochs, groups=groups)
        self.scored_tokens = 0
        self._batch: tuple[list[TokenRow], list[np.ndarray], list[np.ndarray]] = ([], [], [])
        """Rows of the batch whose advantages were taken last, their values and returns."""

    @property
    def needs_reward(self) -> bool:
        return self.config.process_weight > 0

    def advantages(self, groups: Sequence[RolloutGroup], scored: Scored | None, done: float) -> Advantages:
        """float32 [T] of every rollout; ungraded ones get zeros. ValueError if a process reward is paid and there is none."""
        config = self.config
        if self.needs_reward and scored is None:
            raise ValueError("the credit rule pays a process reward, and there is none")
        masked = without_outcome(groups, config)
        rows = [TokenRow(r.prompt_ids, r.token_ids) for group in groups for r in group.rollouts]
        self.scored_tokens += sum(map(len, rows))
        model = self.updater.model
        values = map_rows(model, rows, lambda batch: token_values(model, batch), pad_id=self.pad_id)
        outcomes = [outcome for group in groups for outcome in outcome_rewards(group.verdicts, config.fraction_of_tests)]
        process = [one.token_rewards for group in scored for one in group] if scored is not None else [None] * len(rows)
        flat, kept = [], ([], [], [])
        for row, value, outcome, paid, left_out in zip(
            rows, values, outcomes, process, [one for group in masked for one in group], strict=True
        ):
            values_T = value.numpy().astype(np.float64)
            rewards_T = np.zeros(len(values_T)) if paid is None else config.process_weight * paid.astype(np.float64)
            if left_out:
                flat.append(np.zeros(len(values_T), dtype=np.float32))
                continue
            rewards_T[-1] += config.outcome_weight * outcome if config.outcome_weight > 0 else 0.0
            advantages_T = generalised_advantages(rewards_T, values_T, config.gamma, config.lam)
            flat.append(advantages_T.astype(np.float32))
            for part, what in zip(kept, (row, values_T, advantages_T + values_T), strict=True):
                part.append(what)
        self._batch = kept
        pieces = iter(flat)
        advantages = [[next(pieces) for _ in group.rollouts] for group in groups]
        return whitened(advantages, masked) if config.whiten else advantages

    def learn(self, groups: Sequence[RolloutGroup], scored: Scored | None) -> Metrics:
        """Regression of the values of the last batch on its returns: half the squared error, mean over tokens, clipped."""
        rows, values, returns = self._batch
        if not rows:
            return {}
        tokens, clip = global_counts(rows).tokens, self.config.value.clip

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            new_N = token_values(self.updater.model, batch)
            old_N = torch.from_numpy(np.concatenate([values[i] for i in chunk])).to(new_N)
            target_N = torch.from_numpy(np.concatenate([returns[i] for i in chunk])).to(new_N)
            error_N = (new_N - target_N).square()
            if clip is not None:
                near_N = old_N + (new_N - old_N).clamp(-clip, clip)
                error_N = torch.maximum(error_N, (near_N - target_N).square())
            return 0.5 * error_N.sum() / tokens

        stats = [self.updater.step(rows, loss) for _ in range(self.config.value.epochs)]
        old, target = np.concatenate(values), np.concatenate(returns)
        spread = float(target.var())
        explained = {"explained_variance": 1 - float((target - old).var()) / spread} if spread > 0 else {}
        return {"value_loss": stats[0].loss, "value_grad_norm": stats[0].grad_norm, "value_mean": float(old.mean())} | explained

    @property
    def budget(self) -> Budget:
        return Budget(scored_tokens=self.scored_tokens, trained_tokens=self.updater.trained_tokens)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"value": self.updater.model}

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {"updater": self.updater.state(), "budget": asdict(self.budget)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updater.load_state(state["updater"])
        self.scored_tokens = state["budget"]["scored_tokens"]
