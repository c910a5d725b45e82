"""Can a testbed show what a process reward is worth? What can be said of it in a minute or two, before anything is trained.

The base must fail often but not always, and not for want of sharpening; its own confidence must not know where it errs; and a
perfect process reward must give a clearer gradient than the outcome does. What no look at the base can say is the room
itself: how far the oracle gets beyond the outcome, which takes training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from repirl.engines.base import SamplingParams
from repirl.engines.torch_engine import TorchEngine
from repirl.evals import step_bound
from repirl.evals.step_bound import supervised_reward
from repirl.grading.dispatch import grade_rollouts
from repirl.learn.credit import LeaveOneOut
from repirl.learn.credit_config import OutcomeCredit, ProcessCredit
from repirl.learn.diagnostics import reward_diagnostics
from repirl.learn.gradient import global_counts, gradient_step
from repirl.learn.policy_losses import PolicyLossConfig, policy_loss
from repirl.rewards.base import StepReward
from repirl.rewards.nulls import OracleReward, confidence_reward
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.collect import Collector, Decoding
from repirl.rollouts.packing import TokenBatch, padding_id, rollout_rows
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks import arith
from repirl.tasks.training_sets import steps_right
from repirl.types import RolloutGroup

if TYPE_CHECKING:
    from repirl.engines.loading import LoadedPolicy

MAX_NEW_TOKENS = 192
POOL_PROBLEMS = 500
BATCHES = 12
BATCH_PROMPTS, BATCH_SAMPLES = 32, 4


@dataclass(frozen=True, slots=True)
class Measured:
    """One number, where it should lie (None: no bound), and what it is."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def holds(self) -> bool:
        if self.value is None:
            return self.low is None and self.high is None
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)


def check_testbed(
    policy: LoadedPolicy,
    family: ModuleType,
    levels: Sequence[int],
    easy_levels: Sequence[int],
    credits_of: Mapping[str, OutcomeCredit | ProcessCredit],
    *,
    problems: int = 240,
    samples: int = 8,
    seed: int = 0,
    rewards: Mapping[str, StepReward] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Numbers of a base policy on validation problems of `levels` of a family, and the gradients of credits on training ones.

    The bounds are those of `arith`, on which the claims are decided. `credits_of` has the credit rules `outcome` and `oracle`.
    `rewards`, by name, are held against the two ends of what can be known: confidence, and the classifier of exact labels.
    Reproducible: a function of the arguments alone.
    """
    report = on_progress or (lambda done, total: None)
    total = 5 + step_bound.UPDATES + BATCHES
    sampled, greedy = (_collector(policy, temperature) for temperature in (1.0, 0.0))
    hard = family.problems("validation", problems, levels=tuple(levels))
    groups = sampled.groups(hard, samples, seed)
    report(1, total)
    greedy_groups = greedy.groups(hard, 1, seed)
    report(2, total)
    easy = sampled.groups(family.problems("validation", problems // 2, levels=tuple(easy_levels)), samples, seed)
    report(3, total)
    confidence = confidence_reward(policy.model, policy.tokenizer, StepSegmentation("\n"))
    known = reward_diagnostics(groups, confidence.score(groups))
    report(4, total)
    pool = sampled.groups(family.problems("train", POOL_PROBLEMS, levels=tuple(levels), seed=seed + 2), samples, seed)
    report(5, total)
    bound = supervised_reward(policy, pool, seed, lambda done: report(5 + done, total))
    taught = reward_diagnostics(groups, bound.score(groups))
    done_before = 5 + step_bound.UPDATES
    on_batch = lambda done: report(done_before + done, total)
    clarity = gradient_clarity(policy, family, levels, credits_of, seed, on_batch)
    base, sharp = _accuracy(groups), _accuracy(greedy_groups)
    outcome, oracle = clarity["outcome"], clarity["oracle"]
    found = [
        Measured("sampled accuracy on the training levels", base, 0.04, 0.12),
        Measured("greedy minus sampled accuracy there", sharp - base, None, 0.12),
        Measured("sampled accuracy on easier levels", _accuracy(easy), 0.2, 0.6),
        Measured("share of right answers with a wrong step", _right_by_chance(groups)),
        Measured("step AUC of the policy's confidence", known.get("step_auc")),
        Measured("the same within a problem, at one step", known.get("step_auc_within"), None, 0.75),
        Measured("the same of a classifier of exact step labels", taught.get("step_auc_within"), 0.95),
        *_between(groups, rewards or {}, known.get("step_auc_within"), taught.get("step_auc_within")),
        Measured("gradient signal-to-noise, outcome", outcome),
        Measured("gradient signal-to-noise, oracle", oracle),
        Measured("the oracle's minus twice the outcome's", oracle - 2 * outcome, 0.0),
    ]
    return found if family is arith else [replace(one, low=None, high=None) for one in found]


def _between(
    groups: Sequence[RolloutGroup], rewards: Mapping[str, StepReward], confidence: float | None, bound: float | None
) -> list[Measured]:
    """Of every reward its step AUC within problems, and which part of the way from confidence to the bound that is."""
    found = []
    for name, reward in rewards.items():
        own = reward_diagnostics(groups, reward.score(groups)).get("step_auc_within")
        part = None if own is None or confidence is None or bound is None else (own - confidence) / (bound - confidence)
        found += [Measured(f"the same of {name}", own), Measured("its part of the way from confidence to there", part)]
    return found


def _right_by_chance(groups: Sequence[RolloutGroup]) -> float | None:
    """Share of the right answers that have a wrong step; None without right answers."""
    pairs = [(group, i) for group in groups for i, verdict in enumerate(group.verdicts) if verdict.reward == 1]
    sound = [bool(steps_right(group.problem, group.rollouts[i].text)) for group, i in pairs]
    return 1 - float(np.mean(sound)) if sound else None


def gradient_clarity(
    policy: LoadedPolicy,
    family: ModuleType,
    levels: Sequence[int],
    credits_of: Mapping[str, OutcomeCredit | ProcessCredit],
    seed: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:
    """Signal-to-noise ratio of each credit's policy gradient at the base, over independent batches of rollouts.

    Of gradients g_1 .. g_K: |E g|^2 is estimated without bias by the mean of g_i . g_j over i != j, and the noise is what
    is left of the mean |g_i|^2. The ratio of their roots; 0 where the signal cannot be told from 0.
    """
    collector = _collector(policy, 1.0)
    problems = family.problems("train", BATCHES * BATCH_PROMPTS, levels=tuple(levels), seed=seed + 1)
    order = np.random.default_rng(seed).permutation(len(problems))
    model = copy.deepcopy(policy.model)
    oracle = OracleReward(policy.tokenizer, StepSegmentation("\n"))
    found: dict[str, list[Tensor]] = {name: [] for name in credits_of}
    for k in range(BATCHES):
        chosen = [problems[i] for i in order[k * BATCH_PROMPTS : (k + 1) * BATCH_PROMPTS]]
        groups = collector.groups(chosen, BATCH_SAMPLES, seed)
        for name, config in credits_of.items():
            credit = LeaveOneOut(config)
            advantages = credit.advantages(groups, oracle.score(groups) if credit.needs_reward else None, 0.0)
            found[name].append(_gradient(model, padding_id(policy.tokenizer), groups, advantages))
        on_batch(k + 1)
    return {name: _signal_to_noise(torch.stack(gradients)) for name, gradients in found.items()}


def _signal_to_noise(gradients_KD: Tensor) -> float:
    products_KK = gradients_KD @ gradients_KD.T
    count = len(gradients_KD)
    squares = float(products_KK.diagonal().mean())
    signal = (float(products_KK.sum()) - squares * count) / (count * (count - 1))
    if signal <= 0:
        return 0.0
    return math.sqrt(signal / (squares - signal)) if squares > signal else math.inf


def _gradient(model: Any, pad_id: int, groups: Sequence[RolloutGroup], advantages: Sequence[Sequence[np.ndarray]]) -> Tensor:
    """Float64 gradient [D] of the policy loss of one batch; the model stays as it is."""
    rows = rollout_rows(groups)
    flat = [row for group in advantages for row in group]
    used = [i for i, row in enumerate(flat) if np.any(row)]
    counts = global_counts(rows)

    def loss(batch: TokenBatch, chunk: list[int]) -> Tensor:
        chosen = [used[i] for i in chunk]
        advantages_N = torch.from_numpy(np.concatenate([flat[i] for i in chosen])).to(batch.ids_BT.device)
        lengths_B = torch.tensor([len(flat[i]) for i in chosen], device=batch.ids_BT.device)
        new = token_logprobs(model, batch, 1.0, with_entropy=True)
        return policy_loss(
            new.logprobs_N, None, advantages_N, lengths_B, counts, PolicyLossConfig(), entropy_N=new.entropy_N
        ).loss

    still = torch.optim.SGD(model.parameters(), lr=0.0)
    gradient_step(model, still, [rows[i] for i in used], loss, pad_id=pad_id, max_tokens=2048, max_norm=math.inf)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.flatten().double().cpu() for part in parts])


def _collector(policy: LoadedPolicy, temperature: float) -> Collector:
    decoding = Decoding(SamplingParams(MAX_NEW_TOKENS, temperature))
    return Collector(policy.tokenizer, TorchEngine(policy.model, policy.tokenizer), grade_rollouts, decoding)


def _accuracy(groups: Sequence[RolloutGroup]) -> float:
    return float(np.mean([verdict.reward for group in groups for verdict in group.verdicts]))
