"""rePIRL's reward in the training loop: learns by inverse RL from each graded batch, then scores it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repirl.learn.diagnostics import reward_diagnostics
from repirl.learn.irl import IRLConfig, SignedWeights, irl_loss, signed_weights
from repirl.learn.supervised import encode_solution, switch_off_dropout
from repirl.rewards.artifact import RewardContract
from repirl.rewards.base import ProcessReward, steps_from_tokens
from repirl.rewards.energy import CPU_BATCH_TOKENS, distinct_rows, save_energy, score_rows, token_rewards
from repirl.rollouts.batching import TokenRow, length_sorted_chunks, pad_batch, padding_id
from repirl.rollouts.steps import StepSegmentation, step_end_tokens
from repirl.types import RolloutGroup, StepRewards


class EnergyReward(ProcessReward):
    """Owns the PRM and its optimiser (AdamW, weight decay 0). `contract` is what its artifact promises."""

    name = "energy"

    def __init__(
        self,
        model: Any,
        tokenizer,
        config: IRLConfig,
        segmentation: StepSegmentation,
        contract: RewardContract,
    ) -> None:
        switch_off_dropout(model)
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.segmentation = segmentation
        self.contract = contract
        backbone = list(model.base_model.parameters())
        inside = {id(parameter) for parameter in backbone}
        head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
        head_lr = config.lr if config.head_lr is None else config.head_lr
        groups = [{"params": backbone, "lr": config.lr}, {"params": head, "lr": head_lr}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self._scored: tuple[Sequence[RolloutGroup], list[Tensor]] | None = None
        self._step_ends: tuple[Sequence[RolloutGroup], list[np.ndarray]] | None = None

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> dict[str, float]:
        """One or more passes of the IRL loss over the batch (PAPER 4, steps 3-6); logs what PAPER section 10 asks for."""
        self._scored = None  # what is kept of this very batch may be from before its last update
        before = self._raw(groups) if self.config.score == "before" else None
        taught = groups[: self.config.prompts_per_update]
        rows = _rows(taught)
        demos = [
            (g, encode_solution(self.tokenizer, group.rollouts[0].prompt_ids, demo.text))
            for g, group in enumerate(taught)
            for demo in group.demonstrations[: self.config.demos_per_prompt]
        ]
        if (longest := self.config.max_demo_tokens) is not None:
            demos = [(g, row) for g, row in demos if len(row.response_ids) <= longest]
        self.used_demonstrations += len(demos)
        metrics: dict[str, float] = {}
        for _ in range(self.config.epochs):
            # Equal weights depend on no reward: that pass over the rollouts can be saved.
            raw = self._raw(groups)[: len(rows)] if self.config.weights != "none" else [torch.zeros(1)] * len(rows)
            weights = self._weights(taught, raw, [g for g, _ in demos])
            metrics = self._update(rows, [demo for _, demo in demos], weights)
        metrics |= {
            "ess": weights.effective_sample_size,
            "ess_fraction": weights.effective_sample_size / max(1, weights.num_negatives),
            "negatives": float(weights.num_negatives),
        }
        self._scored = (groups, before) if before is not None else None
        metrics |= reward_diagnostics(groups, self.score(groups))
        return metrics

    def score(self, groups: Sequence[RolloutGroup]) -> list[list[StepRewards]]:
        raw, ends = iter(self._raw(groups)), iter(self._ends(groups))
        return [
            [steps_from_tokens(next(raw).numpy(), next(ends), self.config.step_aggregation) for _ in group.rollouts]
            for group in groups
        ]

    def _ends(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """Where the steps of the batch's rollouts end, found once: a batch is scored for the logs and for the policy."""
        if self._step_ends is None or self._step_ends[0] is not groups:
            rollouts = [rollout for group in groups for rollout in group.rollouts]
            ends = [step_end_tokens(self.tokenizer, r.token_ids, self.segmentation, r.text) for r in rollouts]
            self._step_ends = (groups, ends)
        return self._step_ends[1]

    def _raw(self, groups: Sequence[RolloutGroup]) -> list[Tensor]:
        """Raw token rewards of the batch, computed once for the current parameters (or kept from before the update)."""
        if self._scored is None or self._scored[0] is not groups:
            rows = _rows(groups)
            self._scored = (groups, score_rows(self.model, rows, self._pad_id))
            self.scored_tokens += sum(len(row) for row in rows)
        return self._scored[1]

    def _weights(self, groups: Sequence[RolloutGroup], raw: Sequence[Tensor], demo_groups: list[int]) -> SignedWeights:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return signed_weights(
            self.config,
            torch.stack([rewards.double().sum() for rewards in raw]),
            torch.tensor([float(r.logprobs.sum(dtype="float64")) for r in rollouts], dtype=torch.float64),
            torch.tensor([len(r.token_ids) for r in rollouts]),
            torch.tensor([g for g, group in enumerate(groups) for _ in group.rollouts]),
            torch.tensor([v.reward for group in groups for v in group.verdicts], dtype=torch.float64),
            torch.tensor(demo_groups, dtype=torch.long),
        )

    def _update(self, rollouts: Sequence[TokenRow], demos: Sequence[TokenRow], weights: SignedWeights) -> dict[str, float]:
        """One optimiser step on the rows that have a weight; `score_expert` is the demonstrations' score before it."""
        signed_R = torch.cat([weights.rollouts_B, weights.demonstrations_E])
        used = signed_R.nonzero()[:, 0]
        all_rows = [rollouts[i] if i < len(rollouts) else demos[i - len(rollouts)] for i in used.tolist()]
        total_tokens = sum(len(row.response_ids) for row in all_rows)
        # Rows that are the same go through the model once, with the sum of their weights.
        rows, row_of = distinct_rows(all_rows)
        row_of_used = torch.tensor(row_of, dtype=torch.long)
        signed_B = torch.zeros(len(rows), dtype=signed_R.dtype).index_add(0, row_of_used, signed_R[used])
        times_B = torch.bincount(row_of_used, minlength=len(rows))
        device = next(self.model.parameters()).device
        means = torch.zeros(len(rows))
        loss_sum = 0.0
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        max_tokens = min(self.config.micro_batch_tokens, CPU_BATCH_TOKENS if device.type == "cpu" else sys.maxsize)
        for chunk in length_sorted_chunks([len(row) for row in rows], max_tokens):
            lengths_B = torch.tensor([len(rows[i].response_ids) for i in chunk], device=device)
            rewards_N = token_rewards(self.model, pad_batch([rows[i] for i in chunk], self._pad_id, device))
            row_N = torch.arange(len(chunk), device=device).repeat_interleave(lengths_B)
            sums_B = torch.zeros(len(chunk), device=device).index_add(0, row_N, rewards_N)
            means_B = sums_B / lengths_B
            loss = irl_loss(means_B if self.config.objective == "mean" else sums_B, signed_B[chunk].to(device))
            if self.config.reward_l2 > 0:
                times_N = times_B[chunk].to(device)[row_N]
                loss = loss + self.config.reward_l2 * (times_N * rewards_N.square()).sum() / total_tokens
            loss.backward()
            loss_sum += float(loss.detach())
            means[chunk] = means_B.detach().cpu()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self._scored = None
        self.trained_tokens += sum(len(row) for row in all_rows)
        expert = means[row_of_used][used >= len(rollouts)]
        return {"loss": loss_sum, "grad_norm": float(norm), "score_expert": float(expert.mean())}

    @property
    def _pad_id(self) -> int:
        return padding_id(self.tokenizer)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scored = None

    def save(self, folder: Path) -> None:
        save_energy(folder, self.model, self.tokenizer, self.contract)


def _rows(groups: Sequence[RolloutGroup]) -> list[TokenRow]:
    return [TokenRow(r.prompt_ids, r.token_ids) for group in groups for r in group.rollouts]
