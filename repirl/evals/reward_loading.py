"""Process rewards by name or folder, frozen, with all that scoring given texts needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer

from repirl.engines.loading import folder_digest, load_policy
from repirl.errors import UserError
from repirl.learn.energy_reward import EnergyReward
from repirl.learn.irl import IRLConfig
from repirl.rewards.artifact import CONTRACT_FILE, RewardContract
from repirl.rewards.base import ProcessReward, steps_from_tokens
from repirl.rewards.energy import energy_from_policy, load_energy
from repirl.rewards.nulls import ConfidenceReward, ConstantReward, LengthReward, OracleReward, RandomReward
from repirl.rollouts.steps import StepSegmentation
from repirl.types import RolloutGroup, StepRewards


@dataclass(frozen=True, slots=True, eq=False)
class LoadedReward:
    """A frozen process reward. `max_tokens` of prompt and solution together is what its model was made for, if it has one.

    `natural_threshold`: scores below it mean "wrong" by the reward's own definition; None for rewards without such a point.
    `prompt_suffix`: what followed each problem's text in training (see `RewardContract`).
    """

    name: str
    reward: ProcessReward
    tokenizer: Any
    segmentation: StepSegmentation
    template: Literal["plain", "chat"]
    digest: str | None = None
    max_tokens: int | None = None
    natural_threshold: float | None = None
    prompt_suffix: str | None = None


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a reward without a contract needs: `policy` gives its tokenizer (and `confidence` its model)."""

    policy: str = "tiny"
    separator: str = "\n"
    seed: int = 0
    dtype: str = "float32"
    device: str | torch.device = "cpu"


_Maker = Callable[[Any, Any, StepSegmentation, int], ProcessReward]

NULLS: dict[str, _Maker] = {
    "random": lambda model, tokenizer, segmentation, seed: RandomReward(tokenizer, segmentation, seed),
    "constant": lambda model, tokenizer, segmentation, seed: ConstantReward(tokenizer, segmentation),
    "length": lambda model, tokenizer, segmentation, seed: LengthReward(tokenizer, segmentation),
    "confidence": lambda model, tokenizer, segmentation, seed: ConfidenceReward(
        energy_from_policy(model, base_measure=1.0).requires_grad_(False).eval(), tokenizer, segmentation
    ),
    "oracle": lambda model, tokenizer, segmentation, seed: OracleReward(tokenizer, segmentation),
}
"""Rewards without an artifact, by name."""

MODEL_FREE = ("random", "constant", "length")
"""Null rewards that need a tokenizer only: rows in every table (DESIGN rule 5)."""


def load_reward(name: str, options: LoadOptions) -> LoadedReward:
    """A saved reward's folder (or the run folder around it), or one of `NULLS`; UserError for anything else."""
    if name in NULLS:
        return _null(name, options)
    folder = Path(name).expanduser()
    if not (folder / CONTRACT_FILE).is_file() and (folder / "reward" / CONTRACT_FILE).is_file():
        folder = folder / "reward"
    if not folder.is_dir():
        todo = f"give a folder that `repirl train` wrote, or one of {', '.join(NULLS)}"
        raise UserError("no such process reward", name, todo)
    return _energy(name, folder, options)


def model_free_nulls(beside: LoadedReward, seed: int) -> list[LoadedReward]:
    """The null rewards to show beside a reward: on its own tokens and steps, without itself."""
    return [
        LoadedReward(
            name,
            NULLS[name](None, beside.tokenizer, beside.segmentation, seed),
            beside.tokenizer,
            beside.segmentation,
            beside.template,
            prompt_suffix=beside.prompt_suffix,
        )
        for name in MODEL_FREE
        if name != beside.name
    ]


def _null(name: str, options: LoadOptions) -> LoadedReward:
    policy = load_policy(options.policy, dtype=options.dtype, device=options.device)
    segmentation = StepSegmentation(options.separator)
    uses_model = name == "confidence"
    return LoadedReward(
        name=name,
        reward=NULLS[name](policy.model, policy.tokenizer, segmentation, options.seed),
        tokenizer=policy.tokenizer,
        segmentation=segmentation,
        template="plain",
        digest=policy.digest if uses_model else None,
        max_tokens=_longest(policy.model) if uses_model else None,
        natural_threshold=0.5 if name == "oracle" else None,
    )


def _energy(name: str, folder: Path, options: LoadOptions) -> LoadedReward:
    model, contract = load_energy(folder, options.device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("the reward has no readable tokenizer", str(folder), str(error).split("\n")[0][:200]) from error
    config = IRLConfig(step_aggregation=contract.step_aggregation)
    scorer = EnergyReward(model.requires_grad_(False), tokenizer, config, contract.segmentation, contract)
    return LoadedReward(
        name=name,
        reward=scorer if (contract.shift, contract.scale) == (0.0, 1.0) else _Rescaled(scorer, contract),
        tokenizer=tokenizer,
        segmentation=contract.segmentation,
        template=contract.template,
        digest=folder_digest(folder),
        max_tokens=_longest(model),
        prompt_suffix=contract.prompt_suffix,
    )


def _longest(model) -> int | None:
    return getattr(model.config, "max_position_embeddings", None)


class _Rescaled(ProcessReward):
    """Token rewards as the contract reports them, (r - shift) / scale, and step rewards made of those."""

    def __init__(self, inner: ProcessReward, contract: RewardContract) -> None:
        self.inner, self.contract = inner, contract

    def score(self, groups: Sequence[RolloutGroup]) -> list[list[StepRewards]]:
        shift, scale, how = self.contract.shift, self.contract.scale, self.contract.step_aggregation
        scored = self.inner.score(groups)
        self.scored_tokens = self.inner.scored_tokens
        return [
            [steps_from_tokens((one.token_rewards - shift) / scale, one.step_ends, how) for one in group] for group in scored
        ]
