"""Makes a record: the caller says what ran, this adds where and on what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python

from repirl.records import provenance
from repirl.records.schema import SCHEMA_VERSION, BasePolicy, Kind, RunRecord, digest_without_seed
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
    command: str | None = None,
) -> RunRecord:
    """A record without evaluations yet (`store.write` adds them from reports), with provenance filled in.

    `config` may hold dataclasses, paths and tuples; it becomes JSON with portable paths. Diagnostics that are
    not finite become None (not measured). `command` defaults to the running process's.
    """
    plain = provenance.portable(to_jsonable_python(dict(config)))
    commit = provenance.git_commit()
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        suite=suite,
        method=method,
        kind=kind,
        recipe=recipe,
        seed=seed,
        stage=stage,
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
        budget=budget,
        diagnostics={name: _finite(value) for name, value in (diagnostics or {}).items()},
        evaluations=(),
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
