"""Makes a record: the caller says what ran, this adds where and on what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python

from repirl.records import provenance
from repirl.records.schema import SCHEMA_VERSION, BasePolicy, Kind, ParentStage, RunRecord, digest_without_seed
from repirl.types import Budget


def new_record(
    *,
    suite: str,
    run_id: str,
    method: str,
    kind: Kind,
    recipe: str,
    seed: int,
    stage: str,
    config: Mapping[str, Any],
    base_policy: BasePolicy,
    budget: Budget,
    diagnostics: Mapping[str, float | None] | None = None,
    label: str | None = None,
    after: str | None = None,
    parents: Sequence[ParentStage] | None = (),
    runtime: Mapping[str, Any] | None = None,
    validation_budget: Budget | None = None,
    policy_digest: str | None = None,
    reward_digest: str | None = None,
    command: str | None = None,
) -> RunRecord:
    """A record without evaluations yet (`store.write` adds them, and the files beside it), with provenance filled in.

    `config` may hold dataclasses, paths and tuples; it becomes JSON with portable paths. Diagnostics that are
    not finite become None (not measured). `label` defaults to the method, `command` to the running process's.
    """
    plain = provenance.portable(to_jsonable_python(dict(config)))
    commit = provenance.git_commit()
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        suite=suite,
        label=method if label is None else label,
        method=method,
        kind=kind,
        recipe=recipe,
        seed=seed,
        stage=stage,
        after=after,
        created_utc=datetime.now(UTC).replace(microsecond=0),
        command=provenance.command_line() if command is None else command,
        config=plain,
        config_digest=digest_without_seed(plain),
        base_policy=base_policy,
        commit=commit.sha,
        commit_known=commit.sha is not None,
        dirty=commit.dirty,
        packages=provenance.package_versions(),
        python=provenance.python_version(),
        hardware=provenance.hardware(),
        runtime=None if runtime is None else dict(runtime),
        budget=budget,
        validation_budget=validation_budget,
        parents=None if parents is None else tuple(parents),
        policy_digest=policy_digest,
        reward_digest=reward_digest,
        diagnostics={name: _finite(value) for name, value in (diagnostics or {}).items()},
        curve=None,
        evaluations=(),
        judgements=(),
        digest=None,
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
