"""What step labels would teach: the upper bound of a reward that learns from outcomes, with the same model and rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from repirl.engines.loading import LoadedPolicy
from repirl.learn.discriminator import factor_sums
from repirl.learn.updater import OptimConfig, Updater
from repirl.rewards.energy import EnergyReward, energy_from_policy, parameter_groups, token_rewards
from repirl.rewards.nulls import exact_step_labels
from repirl.rollouts.batching import TokenBatch, TokenRow, padding_id
from repirl.rollouts.steps import StepSegmentation, step_end_tokens
from repirl.types import RolloutGroup

UPDATES, ROWS, LR, HEAD_LR = 150, 64, 1e-4, 1e-3


def supervised_reward(
    policy: LoadedPolicy, groups: Sequence[RolloutGroup], seed: int, on_update: Callable[[int], None] = lambda done: None
) -> EnergyReward:
    """A residual energy fitted to exact labels of the steps up to each rollout's first wrong one.

    The logit of a step is its r - log pi, as in the logistic form of inverse RL; right and wrong steps weigh the same in all.
    """
    segmentation = StepSegmentation("\n")
    rollouts = [(group.problem, rollout) for group in groups for rollout in group.rollouts]
    model = energy_from_policy(policy.model, base_measure=1.0)
    updater = Updater(
        model,
        padding_id(policy.tokenizer),
        OptimConfig(lr=LR, warmup_steps=10, schedule="linear", micro_batch_tokens=2048),
        UPDATES,
        groups=parameter_groups(model, LR, HEAD_LR),
    )
    rng = np.random.default_rng(seed)
    order: list[int] = []
    for update in range(UPDATES):
        if len(order) < ROWS:
            order = rng.permutation(len(rollouts)).tolist()
        chosen = [rollouts[order.pop()] for _ in range(min(ROWS, len(rollouts)))]
        ends = [step_end_tokens(policy.tokenizer, r.token_ids, segmentation, r.text).tolist() for _, r in chosen]
        labels = [exact_step_labels(problem, r, len(e)) for (problem, r), e in zip(chosen, ends, strict=True)]
        counted = [one[: one.index(False) + 1] if False in one else one for one in labels]
        wrong = sum(False in one for one in counted)
        weight = {True: 0.5 / max(1, sum(map(sum, counted))), False: 0.5 / max(1, wrong)}

        def loss(batch: TokenBatch, chunk: list[int], chosen=chosen, ends=ends, counted=counted, weight=weight) -> Tensor:
            reference_N = torch.from_numpy(np.concatenate([chosen[i][1].logprobs for i in chunk])).to(batch.ids_BT.device)
            lengths = [len(chosen[i][1].token_ids) for i in chunk]
            logits_F, _ = factor_sums(token_rewards(model, batch) - reference_N, [ends[i] for i in chunk], lengths)
            padded = [(counted[i][s] if s < len(counted[i]) else None) for i in chunk for s in range(len(ends[i]))]
            weights_F = torch.tensor([0.0 if one is None else weight[one] for one in padded]).to(logits_F)
            labels_F = torch.tensor([bool(one) for one in padded]).to(logits_F)
            return (weights_F * functional.binary_cross_entropy_with_logits(logits_F, labels_F, reduction="none")).sum()

        updater.step([TokenRow(r.prompt_ids, r.token_ids) for _, r in chosen], loss)
        on_update(update + 1)
    return EnergyReward(model, policy.tokenizer, segmentation, "min")
