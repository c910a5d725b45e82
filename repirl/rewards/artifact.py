"""The saved contract of a fitted process reward: everything scoring needs beside the weights.

It lies beside the model files as `repirl_reward.json`; what the folder is to plain transformers says `saved.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repirl.config import Config
from repirl.errors import UserError
from repirl.files import parse, read_lines
from repirl.paths import replace_file
from repirl.rewards.aggregate import Aggregation
from repirl.rollouts.steps import StepSegmentation

CONTRACT_FILE = "repirl_reward.json"


class LogRatioTerms(BaseModel):
    """Of a reward that is beta (log pi - log pi_ref): what lies not in its folder. The digest of the reference is the
    contract's `base_digest`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: float = Field(gt=0, allow_inf_nan=False)
    reference: str
    """An embedded policy, an absolute folder, or a hub id."""
    revision: str | None = None
    """Commit of a hub id."""


class WrittenTerms(Config):
    """How a language model is asked for judgements in words, and how they are read; see `rewards/written.py`."""

    style: Literal["xml", "marks"] = "xml"
    """How the question is put and the answer written: tags, for models that follow instructions; a letter a step for others."""
    chat: bool = True
    """The question goes through the judge's chat template."""
    samples: int = Field(default=1, ge=1)
    """Judgements of each solution; a step's score is the mean over those that can be read."""
    temperature: float = Field(default=1.0, ge=0)
    """Of sampling them; 0 takes the likeliest token."""
    max_new_tokens: int = Field(default=2048, ge=1)
    """Longer judgements are cut off."""
    score: Literal["probability", "verdict"] = "probability"
    """A step's score: the probability of the verdict's tokens (1 minus it for `wrong`), or 1 and 0."""


class RewardContract(BaseModel):
    """How a PRM was trained to read text, so that it is never scored another way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[2] = 2
    kind: str
    """Which loader reads the folder; see `rewards/load.py`."""
    method: str
    step_separator: str
    template: Literal["plain", "chat"]
    """`plain`: prompt text as it is; `chat`: through the tokenizer's chat template."""
    prompt_suffix: str | None = None
    """What followed each problem's text in training; None: the problems were whole prompts (embedded tasks)."""
    step_aggregation: Aggregation
    threshold: float | None = None
    """Scores of steps below it mean "wrong" by the reward's own definition; None where it has no such point."""
    base_digest: str
    training_digest: str
    """SHA-256 over the training configuration, data digests and seed."""
    log_ratio: LogRatioTerms | None = None
    """None for kinds of reward without a reference."""
    written: WrittenTerms | None = None
    """None for kinds of reward that write nothing."""

    @property
    def segmentation(self) -> StepSegmentation:
        return StepSegmentation(self.step_separator)


def write_contract(folder: Path, contract: RewardContract) -> None:
    """Store the contract in the model's folder."""
    replace_file(folder / CONTRACT_FILE, lambda file: file.write((contract.model_dump_json(indent=2) + "\n").encode()))


def read_contract(folder: Path) -> RewardContract:
    """Load the contract of a saved reward; UserError if it is missing or not one."""
    path = folder / CONTRACT_FILE
    if not path.is_file():
        raise UserError("no reward contract in the folder", str(folder), f"expected {CONTRACT_FILE}")
    try:
        return RewardContract.model_validate(_current(parse("".join(read_lines(path)), str(path))))
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(f"{CONTRACT_FILE} is not a reward contract", str(folder), said) from error


def _current(values: Any) -> Any:
    """Version 1 had a rescaling, which no reward ever used, and an aggregation over steps, which nothing ever read."""
    if isinstance(values, dict) and values.get("schema_version") == 1 and (values.get("shift"), values.get("scale")) == (0, 1):
        dropped = ("shift", "scale", "solution_aggregation")
        return {name: value for name, value in values.items() if name not in dropped} | {"schema_version": 2}
    return values
