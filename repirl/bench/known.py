"""Whether a record stands for a run as its suite has it today: method, settings, runtime, policy and evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repirl.bench.apart import configuration
from repirl.bench.evaluations import (
    AttackEvaluation,
    JudgeEvaluation,
    PolicyEvaluation,
    ScaleEvaluation,
    SearchEvaluation,
    SuiteEvaluation,
)
from repirl.bench.suites import Suite, WorkItem
from repirl.config import Config, parse_config
from repirl.engines.loading import folder_digest, policy_dir
from repirl.errors import UserError
from repirl.methods.registry import load_method, methods
from repirl.methods.runtime import Runtime
from repirl.records.provenance import portable
from repirl.records.schema import RunRecord, digest_without_seed
from repirl.records.upgrade import current_config
from repirl.tasks.benchmarks import benchmark_cards, load_benchmark


@dataclass(frozen=True, slots=True)
class Today:
    """What names stand for today: digests of benchmarks' cards and of policies, and benchmarks' own token limits."""

    cards: dict[str, str]
    policies: dict[str, str]
    token_limits: dict[str, int] = field(default_factory=dict)


def today(known: Sequence[WorkItem], suite: Suite, include: Sequence[str], data_dir: Path | None) -> Today:
    """What must be looked up to hold the records of `known` against the suite."""
    cards = {card.name: card for card in benchmark_cards(include, data_dir)}
    unsaid = {one.benchmark for one in suite.evaluations if isinstance(one, PolicyEvaluation) and one.max_new_tokens is None}
    here = [name for name in sorted(unsaid & cards.keys()) if known and cards[name].status in ("embedded", "local")]
    return Today(
        cards={name: card.digest for name, card in cards.items()},
        policies={policy: folder_digest(policy_dir(policy)) for policy in {item.policy for item in known}},
        token_limits={name: load_benchmark(name, data_dir, include).max_new_tokens for name in here},
    )


def check_same(item: WorkItem, suite: Suite, record: RunRecord, include: Sequence[str], now: Today) -> None:
    """UserError if a record was made with other settings than the suite has now: its numbers would stand for these."""
    if differ := differing(item, suite, record, include, now):
        raise UserError(
            f"the record of {item.key} was made with other settings ({', '.join(differ)})",
            record.run_id,
            "give the changed suite another name, or take its old records out of the results",
        )


def differing(item: WorkItem, suite: Suite, record: RunRecord, include: Sequence[str], now: Today) -> list[str]:
    """What of a record is not as the suite has it now.

    The policy that a later stage starts from is a result, not a setting; the one at the root is.
    """
    differ = [] if same_method(item, record, include) else ["method"]
    if record.runtime is not None and parse_config(Runtime, record.runtime).settings != suite.runtime.settings:
        differ.append("runtime")
    root = record.base_policy.root_digest or (record.base_policy.digest if record.after is None else None)
    if root not in (None, now.policies[item.policy]):
        differ.append("policy")
    return differ + [
        wanted.title for wanted in suite.evaluations_of(item.run.label) if not _evaluated(wanted, item, suite, record, now)
    ]


def same_method(item: WorkItem, record: RunRecord, include: Sequence[str]) -> bool:
    """Whether a record is of an item's method and has its settings."""
    config = configuration(item, load_method(item.run.method, include))
    problems = None if item.run.problems is None else item.run.problems.model_dump(mode="json")
    same = (record.method, record.problems) == (item.run.method, problems)
    return same and _recorded_config(record, type(config)) == config


def settings_digest(record: RunRecord) -> str:
    """Digest of a record's settings as they are said today, without seeds: a setting that its version did not know makes it no
    other run. Where today's method cannot read them, or there is none, the digest that it has."""
    found = methods().get(record.method)
    if found is None:
        return record.config_digest
    kind = type(next(iter(found.recipes.values())))
    try:
        return digest_without_seed(_recorded_config(record, kind).model_dump(mode="json"))
    except UserError:
        return record.config_digest


def _recorded_config(record: RunRecord, kind: type[Config]) -> Config:
    """The configuration of a record as one of today; settings that its version did not know have their defaults."""
    return parse_config(kind, current_config(record.config) if record.schema_version == 1 else record.config)


def _evaluated(wanted: SuiteEvaluation, item: WorkItem, suite: Suite, record: RunRecord, now: Today) -> bool:
    """Whether the record has this evaluation, with the same settings, or left nothing that it is of."""
    if isinstance(wanted, JudgeEvaluation):
        from repirl.bench.rewards import judges

        asked = portable(wanted.protocol(suite.eval_seed))
        made = any((one.set, one.protocol) == (portable(wanted.set), asked) for one in record.judgements)
        return made or not judges(record.method, record.reward_digest is not None, wanted)
    if isinstance(wanted, ScaleEvaluation | SearchEvaluation | AttackEvaluation):
        from repirl.bench.rewards import judges

        asked = portable(wanted.protocol(suite.eval_seed))
        made = any(
            (one.benchmark, one.protocol) == (wanted.benchmark, asked)
            and one.card_digest == now.cards.get(wanted.benchmark, one.card_digest)
            for one in {"scale": record.scalings, "search": record.searches, "attack": record.attacks}[wanted.kind]
        )
        return made or not judges(record.method, record.reward_digest is not None, wanted)
    if record.schema_version > 1 and record.policy_digest is None:
        return True
    limit = now.token_limits.get(wanted.benchmark)
    sampling = ({} if limit is None else {"max_new_tokens": limit}) | wanted.sampling(suite.eval_seed + item.seed)
    # What says nothing of extraction is older than the choice, or has no answers to extract.
    unsaid = {"extraction": "strict" if record.schema_version == 1 else wanted.extraction}
    return any(
        one.benchmark == wanted.benchmark
        and one.card_digest == now.cards.get(wanted.benchmark, one.card_digest)
        and {name: (unsaid | one.protocol).get(name) for name in sampling} == sampling
        and one.metrics.keys() >= set(wanted.metrics)
        for one in record.evaluations
    )
