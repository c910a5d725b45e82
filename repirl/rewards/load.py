"""Any process reward by name or folder, frozen, with all that scoring given texts needs. Nothing is trained to be loaded.

A saved reward's contract names its kind, and `KINDS` the function that reads such a folder: another kind of PRM is one file
in this room and one line here. What has no contract may be a PRM that others published (`published.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from inspect import isabstract, signature
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from repirl.engines.loading import folder_digest, load_policy, policy_dir
from repirl.errors import UserError
from repirl.files import is_file, is_folder
from repirl.rewards import implicit, published, written
from repirl.rewards.artifact import CONTRACT_FILE, RewardContract, read_contract
from repirl.rewards.base import StepReward
from repirl.rewards.energy import EnergyReward, load_energy_model
from repirl.rewards.nulls import ConstantReward, LengthReward, OracleReward, RandomReward, confidence_reward
from repirl.rollouts.steps import StepSegmentation


@dataclass(frozen=True, slots=True, eq=False)
class LoadedReward:
    """A frozen process reward. `max_tokens` of prompt and solution together is what its model was made for, if it has one.

    `natural_threshold`: scores below it mean "wrong" by the reward's own definition; None for rewards without such a point.
    `prompt_suffix`: what followed each problem's text in training (see `RewardContract`).
    """

    name: str
    reward: StepReward
    tokenizer: Any
    segmentation: StepSegmentation
    template: Literal["plain", "chat"]
    digest: str | None = None
    max_tokens: int | None = None
    natural_threshold: float | None = None
    prompt_suffix: str | None = None


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a reward without a contract needs: `policy` gives its tokenizer (and `confidence` its model).

    A published PRM needs no policy; its weights are loaded in `dtype`.
    """

    policy: str = "tiny"
    separator: str = "\n"
    seed: int = 0
    dtype: str = "float32"
    device: str | torch.device = "cpu"
    chat: bool = False
    """Whether a named reward reads prompts in the policy's chat template, as the policy did that wrote the solutions."""
    custom: Mapping[str, type[StepReward]] = field(default_factory=dict)
    """Rewards of others by their `name` (`rewards_in`)."""


KINDS: dict[str, Callable[[Path, Any, RewardContract, str | torch.device], StepReward]] = {
    "energy": lambda folder, tokenizer, contract, device: EnergyReward(
        load_energy_model(folder, device), tokenizer, contract.segmentation, contract.step_aggregation
    ),
    implicit.KIND: implicit.load_implicit,
    written.KIND: written.load_written,
}
"""Kind of a saved reward -> what reads its folder: (folder, tokenizer, contract, device) -> reward."""

NAMED: dict[str, Callable[[Any, Any, StepSegmentation, int], StepReward]] = {
    "random": lambda model, tokenizer, segmentation, seed: RandomReward(tokenizer, segmentation, seed),
    "constant": lambda model, tokenizer, segmentation, seed: ConstantReward(tokenizer, segmentation),
    "length": lambda model, tokenizer, segmentation, seed: LengthReward(tokenizer, segmentation),
    "confidence": lambda model, tokenizer, segmentation, seed: confidence_reward(model, tokenizer, segmentation),
    "oracle": lambda model, tokenizer, segmentation, seed: OracleReward(tokenizer, segmentation),
}
"""Rewards without an artifact: name -> what makes it of a policy's model and tokenizer, a segmentation and a seed."""

MODEL_FREE = ("random", "constant", "length")
"""Null rewards that need a tokenizer only: rows in every table (docs/design.md rule 5)."""


def rewards_in(modules: Iterable[ModuleType]) -> dict[str, type[StepReward]]:
    """The rewards that files of others define, by their `name`; UserError for a name that is taken.

    A reward without an artifact is made of a tokenizer and a segmentation. One that is saved is read by its own
    `load(folder, tokenizer, contract, device)`, where the contract's `kind` is its name.
    """
    found: dict[str, type[StepReward]] = {}
    for module in modules:
        for kind in vars(module).values():
            is_own = isinstance(kind, type) and issubclass(kind, StepReward) and kind.__module__ == module.__name__
            if is_own and vars(kind).get("name") and not isabstract(kind) and _can_be_made(kind):
                if kind.name in (*NAMED, *KINDS, *found):
                    raise UserError(
                        "two rewards have one name", kind.name, f"rename the one in {Path(str(module.__file__)).name}"
                    )
                found[kind.name] = kind
    return found


def _can_be_made(kind: type[StepReward]) -> bool:
    """Of a tokenizer and a segmentation, or of a folder: what needs more is its method's own."""
    given = signature(kind).parameters.values()
    needed = [one for one in given if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return len(needed) <= 2 or hasattr(kind, "load")


def load_reward(name: str, options: LoadOptions) -> LoadedReward:
    """A saved reward by folder (or the run folder around it) or hub id, one of `NAMED`, or a published PRM; UserError for other
    names."""
    if name in NAMED or name in options.custom:
        return _named(name, options)
    address = published.parse_address(name)
    if address is not None and address.format is not None:
        return _published(name, address, options)
    folder = saved_at(Path(name).expanduser()) if address is None else policy_dir(address.place)
    if not is_folder(folder):
        named = ", ".join((*NAMED, *options.custom))
        todo = f"give a folder that `repirl train` wrote, a published PRM, or one of {named}"
        raise UserError("no such process reward", name, todo)
    if not is_file(folder / CONTRACT_FILE) and is_file(folder / "metrics.jsonl"):
        raise UserError("this run left no reward", name, "give a run of a method that yields one, or a reward by its name")
    if not is_file(folder / CONTRACT_FILE) and is_file(folder / "config.json"):
        return _published(name, published.Address(str(folder)), options)
    return _saved(name, folder, options)


def reward_on(name: str, options: LoadOptions, device: str) -> StepReward:
    """`load_reward` for a worker, on its device."""
    return load_reward(name, replace(options, device=device)).reward


def saved_at(folder: Path) -> Path:
    """Where a saved reward lies: in `folder`, or in the run folder that this is, be it of the run or of its only phase that
    left one. The folder itself if there is none."""
    inside = [folder, folder / "reward"]
    if found := next((place for place in inside if is_file(place / CONTRACT_FILE)), None):
        return found
    phases = [path.parent for path in folder.glob(f"*/reward/{CONTRACT_FILE}")] if is_folder(folder) else []
    return phases[0] if len(phases) == 1 else folder


def model_free_nulls(beside: LoadedReward, seed: int) -> list[LoadedReward]:
    """The null rewards to show beside a reward: on its own tokens and steps, without itself."""
    return [
        LoadedReward(
            name,
            NAMED[name](None, beside.tokenizer, beside.segmentation, seed),
            beside.tokenizer,
            beside.segmentation,
            beside.template,
            prompt_suffix=beside.prompt_suffix,
        )
        for name in MODEL_FREE
        if name != beside.name
    ]


def _named(name: str, options: LoadOptions) -> LoadedReward:
    policy = load_policy(options.policy, dtype=options.dtype, device=options.device)
    segmentation = StepSegmentation(options.separator)
    uses_model = name == "confidence"
    return LoadedReward(
        name=name,
        reward=_made(name, options.custom, policy.tokenizer, segmentation)
        if name in options.custom
        else NAMED[name](policy.model, policy.tokenizer, segmentation, options.seed),
        tokenizer=policy.tokenizer,
        segmentation=segmentation,
        template="chat" if options.chat else "plain",
        digest=policy.digest if uses_model else None,
        max_tokens=_longest(policy.model) if uses_model else None,
        natural_threshold=0.5 if name == "oracle" else None,
    )


def _made(name: str, custom: Mapping[str, type[StepReward]], tokenizer: Any, segmentation: StepSegmentation) -> StepReward:
    try:
        return custom[name](tokenizer, segmentation)
    except TypeError as error:
        what = f"the reward is not made of a tokenizer and a segmentation alone ({error})"
        raise UserError(what, name, "judge the run folder that a method left") from error


def _saved(name: str, folder: Path, options: LoadOptions) -> LoadedReward:
    contract = read_contract(folder)
    kinds = KINDS | {kind: load for kind, one in options.custom.items() if (load := getattr(one, "load", None))}
    if contract.kind not in kinds:
        todo = f"known are {', '.join(kinds)}; --include names the folder of another's"
        raise UserError("no loader for this kind of reward", contract.kind, todo)
    tokenizer = published.read_tokenizer(folder)
    reward = kinds[contract.kind](folder, tokenizer, contract, options.device)
    return LoadedReward(
        name=name,
        reward=reward,
        tokenizer=tokenizer,
        segmentation=contract.segmentation,
        template=contract.template,
        digest=folder_digest(folder),
        max_tokens=_longest(getattr(reward, "model", None)),
        natural_threshold=contract.threshold,
        prompt_suffix=contract.prompt_suffix,
    )


def _published(name: str, address: published.Address, options: LoadOptions) -> LoadedReward:
    segmentation = StepSegmentation(options.separator)
    found = published.load_published(address, segmentation, published.ModelPlace(options.dtype, options.device))
    return LoadedReward(
        name=name,
        reward=found.reward,
        tokenizer=found.tokenizer,
        segmentation=segmentation,
        template=found.template,
        digest=found.digest,
        max_tokens=found.longest,
        natural_threshold=found.natural_threshold,
    )


def _longest(model: Any) -> int | None:
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)
