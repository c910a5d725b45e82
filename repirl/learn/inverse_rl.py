"""rePIRL's reward in the training loop: learns by inverse RL from each graded batch, and scores it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repirl.learn.gradient import global_counts
from repirl.learn.irl import IRLConfig, SignedWeights, irl_loss, logistic_loss, logistic_weights, signed_weights
from repirl.learn.updater import OptimConfig, Updater
from repirl.rewards.artifact import RewardContract
from repirl.rewards.base import Learned
from repirl.rewards.energy import EnergyReward, save_energy, token_rewards
from repirl.rollouts.batching import (
    SCORING_TOKENS_CPU,
    TokenBatch,
    TokenRow,
    distinct_rows,
    map_rows,
    padding_id,
    rollout_rows,
)
from repirl.rollouts.prompts import encode_solution
from repirl.types import Budget, Metrics, RolloutGroup, Scored


class InverseRL:
    """`RewardLearner`: an energy model and its optimiser. `contract` is what its artifact promises."""

    def __init__(self, model: Any, tokenizer: Any, config: IRLConfig, contract: RewardContract) -> None:
        self.reward = EnergyReward(model, tokenizer, contract.segmentation, config.step_aggregation)
        self.config = config
        self.contract = contract
        backbone = list(model.base_model.parameters())
        inside = {id(parameter) for parameter in backbone}
        head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
        head_lr = config.lr if config.head_lr is None else config.head_lr
        on_cpu = next(model.parameters()).device.type == "cpu"
        optim = OptimConfig(
            lr=config.lr,
            max_grad_norm=config.max_grad_norm,
            micro_batch_tokens=min(config.micro_batch_tokens, SCORING_TOKENS_CPU if on_cpu else sys.maxsize),
        )
        groups = [{"params": backbone, "lr": config.lr}, {"params": head, "lr": head_lr}]
        # A constant rate: the number of updates does not matter.
        self.updater = Updater(model, padding_id(tokenizer), optim, 1, groups=groups)
        self.start = copy.deepcopy(model).requires_grad_(False).eval() if config.form == "logistic" else None
        """A residual energy that learned nothing: its scores are the starting policy's log-probabilities."""
        self.used_demonstrations = 0
        self.first_margin: float | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"reward": self.updater.model}

    @property
    def budget(self) -> Budget:
        """Tokens scored and trained on; a demonstration counts once per batch that it is used in."""
        return self.reward.budget + Budget(trained_tokens=self.updater.trained_tokens, demonstrations=self.used_demonstrations)

    def score(self, groups: Sequence[RolloutGroup]) -> Scored:
        return self.reward.score(groups)

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> Learned:
        """Passes of the IRL loss over the batch: docs/method.md section 4, steps 3-6; logs what section 10 asks for."""
        taught = groups[: self.config.prompts_per_update]
        rows = rollout_rows(taught)
        demos = self._demonstrations(taught)
        self.used_demonstrations += len(demos)
        logistic = self.config.form == "logistic"
        needs_scores = self.config.weights != "none" and not logistic
        raw = before = self._token_scores(groups) if needs_scores or self.config.score == "before" else []
        metrics: Metrics = {}
        for epoch in range(self.config.epochs):
            if epoch > 0 and needs_scores:
                raw = self._token_scores(groups)
            if logistic:
                metrics = self._classify(taught, rows, [demo for _, demo in demos])
                continue
            # Equal weights depend on no reward.
            sums = raw[: len(rows)] if needs_scores else [torch.zeros(1)] * len(rows)
            weights = self._weights(taught, sums, [g for g, _ in demos])
            metrics = self._update(rows, [demo for _, demo in demos], weights)
            metrics |= {
                "ess": weights.effective_sample_size,
                "ess_fraction": weights.effective_sample_size / max(1, weights.num_negatives),
                "negatives": float(weights.num_negatives),
            }
        final = before if self.config.score == "before" else self._token_scores(groups)
        return Learned(self.reward.steps(groups, [scores.numpy() for scores in final]), metrics)

    def _demonstrations(self, groups: Sequence[RolloutGroup]) -> list[tuple[int, TokenRow]]:
        """(number of the group, row) of every demonstration that takes part."""
        rows = [
            (g, encode_solution(self.reward.tokenizer, group.rollouts[0].prompt_ids, demo.text))
            for g, group in enumerate(groups)
            for demo in group.demonstrations[: self.config.demos_per_prompt]
        ]
        longest = self.config.max_demo_tokens
        return [(g, row) for g, row in rows if longest is None or len(row.response_ids) <= longest]

    def _token_scores(self, groups: Sequence[RolloutGroup]) -> list[Tensor]:
        return [torch.from_numpy(scores) for scores in self.reward.token_scores(groups)]

    def _weights(self, groups: Sequence[RolloutGroup], raw: Sequence[Tensor], demo_groups: list[int]) -> SignedWeights:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return signed_weights(
            self.config,
            torch.stack([scores.double().sum() for scores in raw]),
            torch.tensor([float(r.logprobs.sum(dtype="float64")) for r in rollouts], dtype=torch.float64),
            torch.tensor([len(r.token_ids) for r in rollouts]),
            torch.tensor([g for g, group in enumerate(groups) for _ in group.rollouts]),
            torch.tensor([v.reward for group in groups for v in group.verdicts], dtype=torch.float64),
            torch.tensor(demo_groups, dtype=torch.long),
        )

    def _update(self, rollouts: Sequence[TokenRow], demos: Sequence[TokenRow], weights: SignedWeights) -> Metrics:
        """One optimiser step on the rows that have a weight; scores in the metrics are those before it."""
        signed_R = torch.cat([weights.rollouts_B, weights.demonstrations_E])
        used = signed_R.nonzero()[:, 0]
        all_rows = [rollouts[i] if i < len(rollouts) else demos[i - len(rollouts)] for i in used.tolist()]
        total_tokens = global_counts(all_rows).tokens
        # Rows that are the same go through the model once, with the sum of their weights.
        rows, row_of = distinct_rows(all_rows)
        row_of_used = torch.tensor(row_of, dtype=torch.long)
        signed_B = torch.zeros(len(rows), dtype=signed_R.dtype).index_add(0, row_of_used, signed_R[used])
        times_B = torch.bincount(row_of_used, minlength=len(rows))
        means = torch.zeros(len(rows))

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            device = batch.ids_BT.device
            lengths_B = torch.tensor([len(rows[i].response_ids) for i in chunk], device=device)
            rewards_N = token_rewards(self.updater.model, batch)
            row_N = torch.arange(len(chunk), device=device).repeat_interleave(lengths_B)
            sums_B = torch.zeros(len(chunk), device=device).index_add(0, row_N, rewards_N)
            means_B = sums_B / lengths_B
            means[chunk] = means_B.detach().cpu()
            value = irl_loss(means_B if self.config.objective == "mean" else sums_B, signed_B[chunk].to(device))
            if self.config.reward_l2 > 0:
                times_N = times_B[chunk].to(device)[row_N]
                value = value + self.config.reward_l2 * (times_N * rewards_N.square()).sum() / total_tokens
            return value

        stats = self.updater.step(rows, loss)
        # What was saved by sharing equal rows was learned from all the same.
        self.updater.trained_tokens += sum(map(len, all_rows)) - stats.trained_tokens
        metrics: Metrics = {"loss": stats.loss, "grad_norm": stats.grad_norm}
        means_R = means[row_of_used]
        return metrics | self._margins(means_R[used >= len(rollouts)], means_R[(used < len(rollouts)) & (signed_R[used] > 0)])

    def _classify(self, groups: Sequence[RolloutGroup], rollouts: Sequence[TokenRow], demos: Sequence[TokenRow]) -> Metrics:
        """One optimiser step of the logistic form; metrics are those before it."""
        outcome_B = torch.tensor([v.reward for group in groups for v in group.verdicts], dtype=torch.float64)
        positive_R, weights_R = logistic_weights(self.config, outcome_B, len(demos))
        rows = [*rollouts, *demos]
        reference_R = self._reference(groups, rows)
        used = weights_R.nonzero()[:, 0].tolist()
        logits_R = torch.zeros(len(rows), dtype=torch.float64)

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            chosen = [used[i] for i in chunk]
            device = batch.ids_BT.device
            rewards_N = token_rewards(self.updater.model, batch)
            row_N = torch.arange(len(chunk), device=device).repeat_interleave(
                torch.tensor([len(rows[i].response_ids) for i in chosen], device=device)
            )
            sums_R = torch.zeros(len(chunk), device=device).index_add(0, row_N, rewards_N)
            reference, positive, weights = (x[chosen].to(device) for x in (reference_R, positive_R, weights_R))
            logits_R[chosen] = (sums_R.detach().double() - reference).cpu()
            value = logistic_loss(sums_R, reference, positive, weights)
            if self.config.reward_l2 > 0:
                value = value + self.config.reward_l2 * rewards_N.square().sum() / total_tokens
            return value

        taking_part = [rows[i] for i in used]
        total_tokens = global_counts(taking_part).tokens
        stats = self.updater.step(taking_part, loss)
        metrics: Metrics = {"loss": stats.loss, "grad_norm": stats.grad_norm}
        positive_B = positive_R[: len(rollouts)]
        sides = {
            "logit_expert": logits_R[len(rollouts) :],
            "logit_correct": logits_R[: len(rollouts)][positive_B],
            "logit_failed": logits_R[: len(rollouts)][~positive_B & (weights_R[: len(rollouts)] > 0)],
        }
        return metrics | {name: float(values.mean()) for name, values in sides.items() if len(values)}

    def _reference(self, groups: Sequence[RolloutGroup], rows: Sequence[TokenRow]) -> Tensor:
        """Float64 log-probability [R] of each row under the reference policy."""
        sampled = [] if self.config.reference == "start" else [r for group in groups for r in group.rollouts]
        rest = rows[len(sampled) :]
        self.reward.budget += Budget(scored_tokens=sum(map(len, rest)))
        start = self.start
        assert start is not None, "only the logistic form has a reference"
        per_token = lambda batch: token_rewards(start, batch)
        scores = map_rows(start, rest, per_token, pad_id=self.updater.pad_id) if rest else []
        sums = [float(r.logprobs.sum(dtype="float64")) for r in sampled] + [float(s.double().sum()) for s in scores]
        return torch.tensor(sums, dtype=torch.float64)

    def _margins(self, experts_E: Tensor, negatives_K: Tensor) -> Metrics:
        """Mean token rewards of demonstrations, and how far they are above those of the negatives: now and at the start.

        With a base measure the reward starts as the base policy's log-probability, in which demonstrations of another style
        are far below the policy's own rollouts: what inverse RL did is the change (docs/method.md section 11).
        """
        if not len(experts_E):
            return {}
        metrics: Metrics = {"score_expert": float(experts_E.mean())}
        if len(negatives_K):
            margin = float(experts_E.mean() - negatives_K.mean())
            self.first_margin = margin if self.first_margin is None else self.first_margin
            metrics |= {"expert_margin": margin, "expert_margin_start": self.first_margin}
        return metrics

    def state(self) -> dict[str, Any]:
        """All that resuming needs."""
        return {
            "updater": self.updater.state(),
            "reward": self.reward.state(),
            "used_demonstrations": self.used_demonstrations,
            "first_margin": self.first_margin,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.updater.load_state(state["updater"])
        self.reward.load_state(state["reward"])
        self.used_demonstrations, self.first_margin = state["used_demonstrations"], state["first_margin"]

    def save(self, folder: Path) -> None:
        """Model, tokenizer and contract as one transformers folder."""
        save_energy(folder, self.updater.model, self.reward.tokenizer, self.contract)
