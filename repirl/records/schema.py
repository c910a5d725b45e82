"""The run record: everything behind a number, in one JSON file that is never edited (DESIGN rule 7)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, model_validator

from repirl.config import digest_of
from repirl.types import Budget, Interval

SCHEMA_VERSION = 1

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=150)]
Kind = Literal["method", "null", "reference"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def digest_without_seed(value: Mapping[str, Any]) -> str:
    """`config.digest_of` a config or protocol with every key `seed` left out: runs that differ only in it are one row."""
    return digest_of(without_seed(value))


def without_seed(value: Any) -> Any:
    """`value` with every mapping key `seed` left out, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_seed(inner) for key, inner in value.items() if key != "seed"}
    return [without_seed(inner) for inner in value] if isinstance(value, list | tuple) else value


def is_machine_path(text: str) -> bool:
    """True for an absolute path of two or more parts, or one under a home folder: it says something of one machine.

    (One part, as in the prompt tag `/no_think`, is let through.)
    """
    if "\n" in text:
        return False
    absolute = PurePosixPath(text).is_absolute() and len(PurePosixPath(text).parts) > 2
    return absolute or text.startswith("~/") or re.match(r"[A-Za-z]:[\\/]", text) is not None


class _Strict(BaseModel):
    # Propagates to the frozen dataclasses of `repirl.types` used as fields.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BasePolicy(_Strict):
    """The policy that training started from; `digest` of its weights."""

    name: str
    digest: str


class Hardware(_Strict):
    """What the run had. `gpu` None: none."""

    cpu: str
    cores: int
    memory_gib: float | None
    gpu: str | None


class Counts(_Strict):
    """Verdicts of one protocol part."""

    correct: NonNegativeInt
    wrong: NonNegativeInt
    truncated: NonNegativeInt
    ungraded: NonNegativeInt
    total: NonNegativeInt

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        parts = self.correct + self.wrong + self.truncated + self.ungraded
        if parts != self.total:
            raise ValueError(f"counts do not add up: {parts} verdicts, total {self.total}")
        return self


class EvaluationRecord(_Strict):
    """One benchmark under one protocol; the rows are in `samples_file` beside the record."""

    benchmark: str
    card_digest: str
    data_digest: str
    protocol: dict[str, JsonValue]
    metrics: dict[str, Interval]
    counts: dict[str, Counts]
    by_level: dict[str, dict[str, float]]
    budget: Budget
    samples_file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
    samples_sha256: Sha256


class RunRecord(_Strict):
    """One trained (or untrained) policy: what it was, how it was made, what it cost, how it did.

    `kind` is the method's: it competes, knows nothing on purpose, or marks an end of the scale.
    `stage` says what it was trained on and after what (`arith`, `minicode after arith`). `config_digest` leaves
    out keys named `seed`. `commit` is None exactly when `commit_known` is false; `dirty` concerns code only.
    """

    schema_version: Literal[1]
    run_id: Slug
    suite: Slug
    method: Slug
    kind: Kind
    recipe: str
    seed: int
    stage: str
    created_utc: datetime
    command: str
    config: dict[str, JsonValue]
    config_digest: Sha256
    base_policy: BasePolicy
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")] | None
    commit_known: bool
    dirty: bool | None
    packages: dict[str, str]
    python: str
    hardware: Hardware
    budget: Budget
    diagnostics: dict[str, float | None]
    evaluations: tuple[EvaluationRecord, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.commit_known != (self.commit is not None) or self.commit_known != (self.dirty is not None):
            raise ValueError("commit, commit_known and dirty disagree")
        if digest_without_seed(self.config) != self.config_digest:
            raise ValueError("config_digest is not the digest of config")
        if self.created_utc.utcoffset() is None:
            raise ValueError("created_utc has no time zone")
        files = [evaluation.samples_file for evaluation in self.evaluations]
        if len(set(files)) != len(files):
            raise ValueError("two evaluations name the same samples file")
        for text in (*_strings(self.config), *command_words(self.command)):
            if is_machine_path(text):
                raise ValueError(f"a record must not name a path of one machine: {text}")
        return self


def command_words(command: str) -> list[str]:
    """Words of a command line; of `--option=value` the value."""
    return [word.partition("=")[2] if re.match(r"--[\w-]+=", word) else word for word in shlex.split(command)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
