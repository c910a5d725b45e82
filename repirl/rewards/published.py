"""Process rewards that others published, by folder or hub id; which format a folder has says its config, or a prefix.

    FOLDER_OR_ID                                  one of the formats that a config.json tells: qwen-prm, trl
    FORMAT:FOLDER_OR_ID[,OPTION=VALUE...]         the format said; options of every format: revision (of a hub id)

- `qwen-prm` Qwen2.5-Math-PRM: architecture `Qwen2ForProcessRewardModel`. Its remote code is not run.
- `trl` PRMTrainer's models: any `...ForTokenClassification` with 2 labels; `separator` (as `\\n`) is a newline unless said.
- `math-shepherd` only by prefix: its folder is that of any causal language model, whose vocabulary may well have the tag.
- `implicit` only by prefix (ImplicitPRM, EurusPRM; docs/recipes.md B1): `reference` is required; `beta` is 0.05 unless said,
  `reference_revision` that of a hub id. Step rewards are our `ImplicitReward`'s: differences of q, no probabilities.
- `generative` only by prefix: any language model, which is asked in words (`rewards/written.py`, whose settings are the
  options: style, chat, samples, temperature, max_new_tokens, score). It has the chat template unless it has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, AutoTokenizer

from repirl.config import with_overrides
from repirl.engines.loading import DTYPES, check_device, folder_digest, load_policy, policy_dir, quiet_transformers
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import UserError
from repirl.files import is_file, parse, read_lines
from repirl.rewards.artifact import WrittenTerms
from repirl.rewards.base import StepReward
from repirl.rewards.implicit import ImplicitReward
from repirl.rewards.laid_out import MathShepherdReward, QwenProcessModel, QwenReward, TRLReward
from repirl.rewards.saved import plain_config
from repirl.rewards.written import WrittenReward
from repirl.rollouts.steps import StepSegmentation

Format = Literal["math-shepherd", "qwen-prm", "trl", "implicit", "generative"]

OPTIONS: dict[Format, tuple[str, ...]] = {
    "math-shepherd": ("revision",),
    "qwen-prm": ("revision",),
    "trl": ("revision", "separator"),
    "implicit": ("revision", "reference", "reference_revision", "beta"),
    "generative": ("revision", *WrittenTerms.model_fields),
}
"""What can be said of each format, after its folder."""

_ADDRESS = re.compile(rf"(?P<format>{'|'.join(OPTIONS)}):(?P<rest>.+)", re.DOTALL)
_OPTION = re.compile(r",(?=[a-z_]+=)")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a published reward lies (a folder or a hub id), and what was said of it; format None: its config says it."""

    place: str
    format: Format | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where and how a model is put: `dtype` of the weights (`auto`: as they were saved)."""

    dtype: str
    device: str | torch.device


@dataclass(frozen=True, slots=True, eq=False)
class PublishedReward:
    """A published reward, frozen. `longest`: tokens of problem and solution that its model was made for, if it says so."""

    reward: StepReward
    tokenizer: Any
    template: Literal["plain", "chat"]
    digest: str
    longest: int | None
    natural_threshold: float | None


def parse_address(name: str) -> Address | None:
    """`FORMAT:PLACE,OPTION=VALUE...`, or a hub id alone; None for another name. UserError for an option it has not."""
    said = _ADDRESS.fullmatch(name)
    if said is None:
        beside = Path(name).expanduser().parent
        return Address(name) if _HUB_ID.fullmatch(name) and not beside.is_dir() else None
    known: Any = said["format"]
    place, *pairs = _OPTION.split(said["rest"])
    options = dict(pair.split("=", 1) for pair in pairs)
    if unknown := sorted(options.keys() - set(OPTIONS[known])):
        raise UserError(f"{known} has no option", unknown[0], f"it has {', '.join(OPTIONS[known])}")
    return Address(place, known, options)


def load_published(address: Address, segmentation: StepSegmentation, place: ModelPlace) -> PublishedReward:
    """The reward at the address; UserError where nothing is, nothing fits, or a format's tokens are missing.

    `segmentation` is how a policy's rollouts are cut into steps; an implicit reward joins given steps with it as well.
    """
    check_device(place.device)
    if place.dtype not in DTYPES:
        raise UserError("unknown dtype", place.dtype, f"use one of {', '.join(DTYPES)}")
    folder = policy_dir(address.place, address.options.get("revision"))
    known = address.format or recognise(folder)
    reward, tokenizer = _READERS[known](folder, segmentation, place, address.options)
    chat = known in ("qwen-prm", "implicit") and getattr(tokenizer, "chat_template", None)
    model: Any = reward.model  # pyright: ignore[reportAttributeAccessIssue]
    model.requires_grad_(False).eval()
    return PublishedReward(
        reward=reward,
        tokenizer=tokenizer,
        template="chat" if chat else "plain",
        digest=folder_digest(folder),
        longest=getattr(model.config, "max_position_embeddings", None),
        natural_threshold=None if known == "implicit" else 0.5,
    )


def recognise(folder: Path) -> Format:
    """The format that the folder's config.json tells; UserError if it is none, or could be several."""
    config = _config(folder)
    names = config.get("architectures")
    names = [one for one in names if isinstance(one, str)] if isinstance(names, list) else []
    if "Qwen2ForProcessRewardModel" in names:
        return "qwen-prm"
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if count == 2 and any(one.endswith("ForTokenClassification") for one in names):
        return "trl"
    said = ", ".join(names) or "no architecture"
    todo = "give a folder that `repirl train` wrote, or say math-shepherd:FOLDER or implicit:FOLDER,reference=FOLDER"
    raise UserError(f"no reward contract, and the config tells no format of published PRMs ({said})", str(folder), todo)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not is_file(path):
        raise UserError("no config.json in the reward's folder", str(folder), "give a transformers folder")
    config = parse("".join(read_lines(path)), str(path))
    if not isinstance(config, dict):
        raise UserError("config.json is not a JSON object", str(folder), "give a transformers folder")
    return config


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer beside a reward's model; UserError if there is none."""
    try:
        config = plain_config(folder)
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("the reward has no readable tokenizer", str(folder), _first_line(error)) from error


# --------------------------------------------------------------------------------------------- readers

_Read = tuple[StepReward, Any]


def _math_shepherd(folder: Path, segmentation: StepSegmentation, place: ModelPlace, options: dict[str, str]) -> _Read:
    policy = load_policy(folder, place.dtype, place.device)
    return MathShepherdReward(policy.model, policy.tokenizer, segmentation), policy.tokenizer


def _trl(folder: Path, segmentation: StepSegmentation, place: ModelPlace, options: dict[str, str]) -> _Read:
    model, unused = _weights(AutoModelForTokenClassification, folder, place)
    if unused or model.config.num_labels != 2:
        what = f"{len(unused)} weights too many" if unused else f"{model.config.num_labels} labels instead of 2"
        raise UserError(f"no PRM of TRL's format ({what})", str(folder), "name its format: FORMAT:FOLDER")
    model.config.use_cache = False
    tokenizer = read_tokenizer(folder)
    separator = options.get("separator", "\n").replace("\\n", "\n").replace("\\t", "\t")
    return TRLReward(model, tokenizer, segmentation, separator), tokenizer


def _qwen(folder: Path, segmentation: StepSegmentation, place: ModelPlace, options: dict[str, str]) -> _Read:
    backbone, unused = _weights(AutoModel, folder, place)
    model = QwenProcessModel(backbone)
    wanted = {f"score.{name}" for name in model.score.state_dict()}
    head: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            head |= {name.removeprefix("score."): file.get_tensor(name) for name in wanted & set(file.keys())}
    shapes = {name: tensor.shape for name, tensor in head.items()}
    other = unused - wanted - {"lm_head.weight"}
    if other or shapes != {name: tensor.shape for name, tensor in model.score.state_dict().items()}:
        said = f"unexpected {min(other)}" if other else "head is not Linear, ReLU, Linear to 2 labels"
        raise UserError(f"the weights are not those of a Qwen2.5-Math-PRM ({said})", str(folder), "copy it anew")
    model.score.load_state_dict(head)
    tokenizer = read_tokenizer(folder)
    parameter = next(backbone.parameters())
    return QwenReward(model.to(device=parameter.device, dtype=parameter.dtype), tokenizer, segmentation), tokenizer


def _implicit(folder: Path, segmentation: StepSegmentation, place: ModelPlace, options: dict[str, str]) -> _Read:
    if "reference" not in options:
        raise UserError("an implicit reward needs its reference", str(folder), "say implicit:FOLDER,reference=FOLDER_OR_ID")
    try:
        beta = float(options.get("beta", "0.05"))
    except ValueError:
        beta = -1.0
    if not 0 < beta < float("inf"):
        raise UserError("beta must be a positive number", options["beta"], "ImplicitPRM has 0.05")
    policy = load_policy(folder, place.dtype, place.device)
    reference = load_policy(options["reference"], place.dtype, place.device, options.get("reference_revision"))
    theirs = reference.tokenizer.get_vocab()
    # Tokens that were added to the reward alone (a padding token) are no other vocabulary.
    if any(theirs.get(token, i) != i for token, i in policy.tokenizer.get_vocab().items()):
        raise UserError("the reference has another vocabulary than the reward", options["reference"], "name what it began as")
    reward = ImplicitReward(policy.model, reference.model.requires_grad_(False), policy.tokenizer, segmentation, beta)
    return reward, policy.tokenizer


def _generative(folder: Path, segmentation: StepSegmentation, place: ModelPlace, options: dict[str, str]) -> _Read:
    policy = load_policy(folder, place.dtype, place.device)
    said = [f"{name}={value}" for name, value in options.items() if name != "revision"]
    terms = with_overrides(WrittenTerms(chat=bool(getattr(policy.tokenizer, "chat_template", None))), said)
    engine = TorchEngine(policy.model, policy.tokenizer)
    return WrittenReward(policy.model, engine, policy.tokenizer, segmentation, terms), policy.tokenizer


_READERS: dict[Format, Callable[[Path, StepSegmentation, ModelPlace, dict[str, str]], _Read]] = {
    "math-shepherd": _math_shepherd,
    "qwen-prm": _qwen,
    "trl": _trl,
    "implicit": _implicit,
    "generative": _generative,
}


def _weights(auto: Any, folder: Path, place: ModelPlace) -> tuple[Any, set[str]]:
    """The folder's model, and the names of weights that it has no place for; UserError if some of its own are missing."""
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, info = auto.from_pretrained(
                folder,
                config=config,
                dtype=place.dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot load the reward's model ({_first_line(error)})", str(folder), "copy it anew") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise UserError("the weights do not fit the reward's config", str(folder), "use the checkpoint's own config.json")
    return model.to(place.device), set(info["unexpected_keys"])


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
