"""The run record: everything behind a number, in one JSON file that is never edited (docs/design.md rule 7)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, PositiveInt, model_validator

from repirl.config import digest_of
from repirl.records.bounds import Seed, Spent
from repirl.records.measured import (
    AttackRecord,
    CurveFile,
    EvaluationRecord,
    JudgementRecord,
    OfReward,
    ScalingRecord,
    SearchRecord,
    Sha256,
    Strict,
)

SCHEMA_VERSION = 4

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=150)]
Kind = Literal["method", "null", "reference"]


def digest_without_seed(value: Mapping[str, Any]) -> str:
    """`config.digest_of` a config or protocol with every key `seed` left out: runs that differ only in it are one row."""
    return digest_of(without_seed(value))


def comparable(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What numbers must share of a protocol to be compared: all but seeds, and but the strict extraction of answers, of which
    records from before there was another say nothing."""
    return without_seed({name: value for name, value in protocol.items() if (name, value) != ("extraction", "strict")})


def without_seed(value: Any) -> Any:
    """`value` with every mapping key `seed` left out, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_seed(inner) for key, inner in value.items() if key != "seed"}
    return [without_seed(inner) for inner in value] if isinstance(value, list | tuple) else value


def run_key(label: str, stage: str, seed: int) -> str:
    """`LABEL-STAGE-sSEED`, fit for folders: what identifies a run within its suite."""
    return f"{label}-{stage.replace(' ', '-')}-s{seed}"


def is_machine_path(text: str) -> bool:
    """True for an absolute path of two or more parts, or one under a home folder: it says something of one machine.

    (One part, as in the prompt tag `/no_think`, is let through.)
    """
    if "\n" in text:
        return False
    absolute = PurePosixPath(text).is_absolute() and len(PurePosixPath(text).parts) > 2
    return absolute or text.startswith("~/") or re.match(r"[A-Za-z]:[\\/]", text) is not None


class BasePolicy(Strict):
    """The policy that training started from; `digest` of its weights.

    `root_name` and `root_digest` are of the policy from which the first of the stages started, the same for all seeds. None: in
    a first stage it is this one; in a later one it is not recorded (the digest, schema 1).
    """

    name: str
    digest: str
    root_name: str | None = None
    root_digest: str | None = None


class Hardware(Strict):
    """What the run had. `gpu` None: none."""

    cpu: str
    cores: PositiveInt
    memory_gib: Annotated[float, Field(gt=0)] | None
    gpu: str | None


class ParentStage(Strict):
    """A run from whose policy a later stage started, or by whose reward another run was paid, and what it cost itself."""

    key: str
    run_id: Slug
    budget: Spent
    validation_budget: Spent | None


class RunRecord(Strict):
    """One run of a method: what it was, how it was made, what it cost, how its policy and its reward did.

    `label` tells configurations of one method apart, `kind` is the method's: it competes, knows nothing on purpose, or marks
    an end of the scale. `stage` says what it was trained on, `after` the stage of the same label and seed whose policy it
    started from. `config_digest` leaves out keys named `seed`. `commit` is None exactly when `commit_known` is false; `dirty`
    concerns code only.

    `budget` is that of training, `validation_budget` that of choosing the checkpoint, `parents` the earlier stages, the first
    one first. Digests of policy and reward are those of the weights that were left, None where there are none.
    `digest` is that of all other fields, as JSON; None until the record is stored.

    Schema 3 has no `searches` and `attacks`, schema 2 no `scalings` either. Schema 1 (`upgrade.py`) knows no `runtime`, curve,
    judgements or digests of what was left; its `budget` is of training and validation together.
    """

    schema_version: Literal[1, 2, 3, 4]
    run_id: Slug
    suite: Slug
    label: Slug
    method: Slug
    kind: Kind
    recipe: str
    seed: Seed
    stage: str
    after: str | None
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
    runtime: dict[str, JsonValue] | None
    budget: Spent
    validation_budget: Spent | None
    parents: tuple[ParentStage, ...] | None
    reward_run: ParentStage | None = None
    problems: dict[str, JsonValue] | None = None
    policy_digest: Sha256 | None
    reward_digest: Sha256 | None
    diagnostics: dict[str, float | None]
    curve: CurveFile | None
    evaluations: tuple[EvaluationRecord, ...]
    judgements: tuple[JudgementRecord, ...]
    scalings: tuple[ScalingRecord, ...] = ()
    searches: tuple[SearchRecord, ...] = ()
    attacks: tuple[AttackRecord, ...] = ()
    digest: Sha256 | None

    @property
    def key(self) -> str:
        """What identifies the run within its suite."""
        return run_key(self.label, self.stage, self.seed)

    @property
    def _of_rewards(self) -> tuple[OfReward, ...]:
        return (*self.scalings, *self.searches, *self.attacks)

    @property
    def row_files(self) -> dict[str, str]:
        """Name -> SHA-256 of every file beside the record."""
        files = [(one.samples_file, one.samples_sha256) for one in self.evaluations]
        files += [(one.rows_file, one.rows_sha256) for one in self.judgements]
        files += [(one.rows_file, one.rows_sha256) for one in self._of_rewards]
        files += [(self.curve.file, self.curve.sha256)] if self.curve is not None else []
        return dict(files)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.commit_known != (self.commit is not None) or self.commit_known != (self.dirty is not None):
            raise ValueError("commit, commit_known and dirty disagree")
        if digest_without_seed(self.config) != self.config_digest:
            raise ValueError("config_digest is not the digest of config")
        if not f"{self.run_id}-".startswith(f"{self.key}-"):
            raise ValueError(f"run_id is not one of {self.key}: label, stage and seed say another run")
        if self.created_utc.utcoffset() is None:
            raise ValueError("created_utc has no time zone")
        with_rows = (*self.evaluations, *self.judgements, *self._of_rewards)
        if len(self.row_files) != len(with_rows) + (self.curve is not None):
            raise ValueError("two evaluations name the same file")
        if self.parents is not None and (self.after is None) != (not self.parents):
            raise ValueError("after and parents disagree")
        asked = [{"set": one.set, **one.protocol} for one in self.judgements]
        asked += [{"benchmark": one.benchmark, **one.protocol} for one in self._of_rewards]
        for text in (*_strings([self.config, asked, self.base_policy.name]), *command_words(self.command)):
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
