"""Run records from Python, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.files import is_folder
from repirl.records.measured import OfReward
from repirl.records.schema import RunRecord, comparable
from repirl.records.store import find, suites_with_records
from repirl.types import Interval

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("suite", "run_id", "label", "method", "kind", "recipe", "stage", "seed"),
    *("evaluation", "benchmark", "metric", "n", "reward", "value", "ci_low", "ci_high", "level", "evaluation_seed"),
    *("base_policy", "base_digest", "policy_digest", "reward_digest", "config_digest"),
    *("card_digest", "data_digest", "protocol_digest", "record_digest"),
    *("policy_updates", "rollouts", "generated_tokens", "scored_tokens", "trained_tokens", "wall_s"),
    *("commit", "dirty", "created_utc", "command"),
)


def load_records(suite: str | None = None, *, results: str | Path | None = None) -> pd.DataFrame:
    """The records of a suite (None: of all) in `results` (None: the checkout's), a row for each run, benchmark and metric.

    `evaluation` says of what a number is: `policy` (accuracies), `judge` (a reward on labelled steps, in percent) or `scale` (a
    reward that chooses among `n` samples). Numbers can be compared where `card_digest`, `data_digest` and `protocol_digest` are
    the same. Every record is verified, as by `repirl leaderboard`. UserError for a suite without records, or a changed one.
    """
    import pandas as pd

    root = None if results is None else Path(results)
    if root is not None and not is_folder(root):
        raise UserError("no such folder of records", str(root))
    known = suites_with_records(root=root)
    if suite is not None and suite not in known:
        raise UserError("no records of this suite", suite, f"there are {', '.join(known) or 'none'}")
    runs = [run.record for name in ([suite] if suite else known) for run in find(name, root=root)]
    return pd.DataFrame([row for record in runs for row in _rows(record)], columns=list(COLUMNS))


def _rows(record: RunRecord) -> Iterator[dict[str, Any]]:
    run = {
        **{name: getattr(record, name) for name in COLUMNS if name in RunRecord.model_fields},
        **{name: getattr(record.budget, name) for name in COLUMNS if hasattr(record.budget, name)},
        "base_policy": record.base_policy.name,
        "base_digest": record.base_policy.root_digest or record.base_policy.digest,
        "record_digest": record.digest,
    }
    for one in record.evaluations:
        where = {"card_digest": one.card_digest, "data_digest": one.data_digest}
        for metric, interval in one.metrics.items():
            yield run | where | _number("policy", one.benchmark, metric, interval, one.protocol)
    for one in record.judgements:
        where = {"data_digest": one.data_digest, "reward": one.reward, "reward_digest": one.reward_digest}
        yield run | where | _number("judge", one.set, one.metric, one.headline, one.protocol)
    for one in record.scalings:
        for selector, curve in one.curves.items():
            for n, interval in curve.items():
                yield run | _of_reward("scale", one, selector, interval) | {"n": int(n)}
    for one in record.searches:
        for n, point in one.points.items():
            for chooser, interval in point.accuracy.items():
                yield run | _of_reward("search", one, f"{one.protocol['approach']} {chooser}", interval) | {"n": int(n)}
    for one in record.attacks:
        for name, lift in one.lifts.items():
            if lift.lift is not None:
                yield run | _of_reward("attack", one, name, lift.lift)


def _of_reward(evaluation: str, one: OfReward, metric: str, interval: Interval) -> dict[str, Any]:
    where = {"card_digest": one.card_digest, "data_digest": one.data_digest}
    reward = {"reward": one.reward, "reward_digest": one.reward_digest}
    protocol = {**one.protocol, "policy": one.policy_digest}
    return where | reward | _number(evaluation, one.benchmark, metric, interval, protocol)


def _number(evaluation: str, benchmark: str, metric: str, interval: Interval, protocol: dict[str, Any]) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "benchmark": benchmark,
        "metric": metric,
        "value": interval.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "level": interval.level,
        "evaluation_seed": protocol.get("seed"),
        "protocol_digest": digest_of(comparable(protocol)),
    }
