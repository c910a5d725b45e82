"""rePIRL's reward in the training loop: learns by inverse RL from each graded batch, and scores it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repirl import parallel
from repirl.learn.discriminator import factor_sums, logistic_losses, logistic_weights
from repirl.learn.gradient import global_counts
from repirl.learn.irl import IRLConfig, SignedWeights, irl_loss, signed_weights
from repirl.learn.updater import OptimConfig, Updater, cut
from repirl.rewards.artifact import RewardContract
from repirl.rewards.base import Learned
from repirl.rewards.energy import EnergyReward, parameter_groups, token_rewards
from repirl.rewards.saved import write_reward
from repirl.rollouts.batching import map_rows
from repirl.rollouts.packing import TokenBatch, TokenRow, distinct_rows, padding_id, rollout_rows
from repirl.rollouts.prompts import encode_solution
from repirl.rollouts.steps import step_end_tokens
from repirl.types import Budget, Metrics, Rollout, RolloutGroup, Scored


class InverseRL:
    """`RewardLearner`: an energy model and its optimiser. `contract` is what its artifact promises.

    `start` is needed by the logistic form where `model` has learned something: the same as it was before that.
    """

    def __init__(
        self, model: Any, tokenizer: Any, config: IRLConfig, contract: RewardContract, start: nn.Module | None = None
    ) -> None:
        self.reward = EnergyReward(model, tokenizer, contract.segmentation, config.step_aggregation)
        self.config = config
        self.contract = contract
        head_lr = config.lr if config.head_lr is None else config.head_lr
        limits = {"max_grad_norm": config.max_grad_norm, "micro_batch_tokens": config.micro_batch_tokens}
        optim = OptimConfig(lr=config.lr, **limits)
        groups = parameter_groups(model, config.lr, head_lr)
        self.start = None
        """A residual energy that learned nothing: its scores are the starting policy's log-probabilities."""
        if config.form == "logistic":
            self.start = (copy.deepcopy(model) if start is None else start).requires_grad_(False).eval()
            cut(self.start)
        # A constant rate: the number of updates does not matter.
        self.updater = Updater(model, padding_id(tokenizer), optim, 1, groups=groups)
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
        scores = self._token_scores(groups) if self._scores_first else None
        metrics = self._fit(groups, step, scores)
        if scores is None or self.config.score == "after":
            scores = self._token_scores(groups)
        return Learned(self.reward.steps(groups, [one.numpy() for one in scores]), metrics)

    def fit(self, groups: Sequence[RolloutGroup], step: int) -> Metrics:
        """`learn` without the batch's scores: to fit the reward alone."""
        return self._fit(groups, step, self._token_scores(groups) if self._has_weights else None)

    @property
    def needs_logprobs(self) -> bool:
        """Whether the loss looks at the log-probabilities with which rollouts were sampled."""
        return self._has_weights or (self.config.form == "logistic" and self.config.reference == "sampler")

    @property
    def _has_weights(self) -> bool:
        """Whether the loss needs the rollouts' scores, for importance weights."""
        return self.config.form == "energy" and self.config.weights != "none"

    @property
    def _scores_first(self) -> bool:
        return self._has_weights or self.config.score == "before"

    def _fit(self, groups: Sequence[RolloutGroup], step: int, scores: list[Tensor] | None) -> Metrics:
        """Passes over the batch; `scores` are its token scores before them (None: the loss needs none)."""
        taught = groups[: self.config.prompts_per_update]
        rows = rollout_rows(taught)
        demos = self._demonstrations(taught)
        metrics: Metrics = {}
        for epoch in range(self.config.epochs):
            if self.config.form == "logistic":
                turn = step * self.config.epochs + epoch
                metrics = self._classify(taught, rows, demos, turn)
                continue
            if epoch > 0 and self._has_weights:
                scores = self._token_scores(taught)
            self.used_demonstrations += len(demos) if epoch == 0 else 0
            # Equal weights depend on no reward.
            sums = scores[: len(rows)] if self._has_weights and scores else [torch.zeros(1)] * len(rows)
            weights = self._weights(taught, sums, [g for g, _ in demos])
            metrics = self._update(rows, [demo for _, demo in demos], weights)
            metrics |= {
                "ess": weights.effective_sample_size,
                "ess_fraction": weights.effective_sample_size / max(1, weights.num_negatives),
                "negatives": float(weights.num_negatives),
            }
        return metrics

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
        means_R = parallel.total(means)[row_of_used]
        return metrics | self._margins(means_R[used >= len(rollouts)], means_R[(used < len(rollouts)) & (signed_R[used] > 0)])

    def _classify(
        self, groups: Sequence[RolloutGroup], rollouts: Sequence[TokenRow], demos: Sequence[tuple[int, TokenRow]], turn: int
    ) -> Metrics:
        """One optimiser step of the logistic form; metrics are those before it, none if no row takes part."""
        outcome_B = torch.tensor([v.reward for group in groups for v in group.verdicts], dtype=torch.float64)
        prompt_B = torch.tensor([g for g, group in enumerate(groups) for _ in group.rollouts])
        demo_prompt_E = torch.tensor([g for g, _ in demos], dtype=torch.long)
        positive_R, weights_R = logistic_weights(self.config, outcome_B, prompt_B, demo_prompt_E, turn)
        every = [*rollouts, *(row for _, row in demos)]
        sampled: list[Rollout | None] = [*(r for group in groups for r in group.rollouts), *([None] * len(demos))]
        used = weights_R.nonzero()[:, 0].tolist()
        if not used:
            return {}
        rows = [every[i] for i in used]
        reference = self._reference([sampled[i] for i in used], rows)
        ends = [self._factor_ends(sampled[i], every[i]) for i in used]
        logits_U = torch.zeros(len(used), dtype=torch.float64)
        total_tokens = global_counts(rows).tokens

        def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
            device = batch.ids_BT.device
            lengths = [len(rows[i].response_ids) for i in chunk]
            rewards_N = token_rewards(self.updater.model, batch)
            ratios_N = rewards_N - torch.cat([reference[i] for i in chunk]).to(device)
            logits_F, row_F = factor_sums(ratios_N, [ends[i] for i in chunk], lengths)
            logits_U[chunk] = torch.zeros(len(chunk)).index_add(0, row_F.cpu(), logits_F.detach().cpu()).double()
            chosen = [used[i] for i in chunk]
            losses_R = logistic_losses(logits_F, row_F, positive_R[chosen].to(device))
            value = (weights_R[chosen].to(losses_R) * losses_R).sum()
            if self.config.reward_l2 > 0:
                value = value + self.config.reward_l2 * rewards_N.square().sum() / total_tokens
            return value

        stats = self.updater.step(rows, loss)
        logits_U = parallel.total(logits_U)
        is_demo_U = torch.tensor([i >= len(rollouts) for i in used])
        self.used_demonstrations += int(is_demo_U.sum()) if turn % self.config.epochs == 0 else 0
        positive_U = positive_R[used]
        sides = {
            "logit_expert": logits_U[is_demo_U],
            "logit_correct": logits_U[positive_U & ~is_demo_U],
            "logit_failed": logits_U[~positive_U],
        }
        found = {name: float(values.mean()) for name, values in sides.items() if len(values)}
        return {"loss": stats.loss, "grad_norm": stats.grad_norm, "rows": float(len(used))} | found

    def _factor_ends(self, rollout: Rollout | None, row: TokenRow) -> list[int]:
        """Index of the last token of every factor of a row's discriminator."""
        if self.config.factors == "solution":
            return [len(row.response_ids) - 1]
        text = None if rollout is None else rollout.text
        return step_end_tokens(self.reward.tokenizer, row.response_ids, self.contract.segmentation, text).tolist()

    def _reference(self, sampled: Sequence[Rollout | None], rows: Sequence[TokenRow]) -> list[Tensor]:
        """Log-probabilities of each row's completion tokens under the reference policy; `sampled` None: a demonstration."""
        if self.config.reference == "start":
            sampled = [None] * len(rows)
        rest = [row for row, rollout in zip(rows, sampled, strict=True) if rollout is None]
        self.reward.budget += Budget(scored_tokens=sum(map(len, rest)))
        start = self.start
        assert start is not None, "only the logistic form has a reference"
        per_token = lambda batch: token_rewards(start, batch)
        scores = iter(map_rows(start, rest, per_token, pad_id=self.updater.pad_id) if rest else [])
        return [next(scores) if rollout is None else torch.from_numpy(rollout.logprobs) for rollout in sampled]

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
        write_reward(folder, self.updater.model, self.reward.tokenizer, self.contract)
