"""The saved contract of a fitted process reward: everything scoring needs beside the weights.

It lies beside the model files as `repirl_reward.json`; the folder stays an ordinary transformers folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from repirl.errors import UserError
from repirl.rewards.aggregate import Aggregation
from repirl.rollouts.steps import StepSegmentation

CONTRACT_FILE = "repirl_reward.json"


class RewardContract(BaseModel):
    """How a PRM was trained to read text, so that it is never scored another way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    kind: Literal["energy"]
    method: str
    step_separator: str
    template: Literal["plain", "chat"]
    """`plain`: prompt text as it is; `chat`: through the tokenizer's chat template."""
    prompt_suffix: str | None = None
    """What followed each problem's text in training; None: the problems were whole prompts (embedded tasks)."""
    step_aggregation: Aggregation
    solution_aggregation: Aggregation
    shift: float = 0.0
    scale: float = 1.0
    """A raw token reward r is reported as (r - shift) / scale."""
    base_digest: str
    training_digest: str
    """SHA-256 over the training configuration, data digests and seed."""

    @property
    def segmentation(self) -> StepSegmentation:
        return StepSegmentation(self.step_separator)


def write_contract(folder: Path, contract: RewardContract) -> None:
    """Store the contract in the model's folder."""
    (folder / CONTRACT_FILE).write_text(contract.model_dump_json(indent=2) + "\n")


def read_contract(folder: Path) -> RewardContract:
    """Load the contract of a saved reward; UserError if it is missing or not one."""
    path = folder / CONTRACT_FILE
    if not path.is_file():
        raise UserError("no reward contract in the folder", str(folder), f"expected {CONTRACT_FILE}")
    try:
        return RewardContract.model_validate_json(path.read_text())
    except ValidationError as error:
        raise UserError(f"{CONTRACT_FILE} is not a reward contract", str(folder), str(error.errors()[0]["msg"])) from error
