"""What a run's process reward is worth, as its suite says: on step-labelled sets, in choosing among samples, in steering
searches, and under attack. A reward without an artifact is the named one, over the policy that the run started from.

Seconds in budgets are those of sampling, whoever did it, and of scoring, without what loading models takes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TypeVar

from repirl.bench.evaluating import OnPart, Sources
from repirl.bench.evaluations import AttackEvaluation, JudgeEvaluation, RewardEvaluation, ScaleEvaluation, SearchEvaluation
from repirl.bench.suites import Suite, WorkItem
from repirl.config import digest_of
from repirl.engines.loading import LoadedPolicy, folder_digest, load_policy, parameters_of, policy_dir
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import UserError
from repirl.evals.attacks import attack, cases_of
from repirl.evals.judged_sets import JudgedSet, SetOptions, load_set, natural_separator
from repirl.evals.judging import OnProgress, default_rule, judge
from repirl.evals.policy import evaluate_policy, sampled_with
from repirl.evals.pools import pool_of_samples, with_scores
from repirl.evals.protocol import SAMPLED, EvalProtocol
from repirl.evals.scaling import scaled_rows, scaling
from repirl.evals.searched import search_points
from repirl.evals.step_scoring import separator_of
from repirl.evals.thresholds import parse_rule
from repirl.methods.base import Fitted
from repirl.methods.runtime import opened_engine
from repirl.processes import turn_at
from repirl.records.build import Attacked, PoolScaling, Searched
from repirl.records.provenance import portable
from repirl.records.store import Judgement
from repirl.rewards.load import NAMED, LoadOptions, load_reward
from repirl.tasks import arith_hard
from repirl.tasks.benchmarks import Benchmark, load_benchmark
from repirl.tasks.prm_benchmarks import ARITH_SETS
from repirl.tasks.step_labels import FORMATS, StepFormat
from repirl.types import Budget, Report

FITTED = "fitted"
"""The run's reward among a pool's."""

E = TypeVar("E", JudgeEvaluation, ScaleEvaluation, SearchEvaluation, AttackEvaluation)


def judges(method: str, leaves_reward: bool, evaluation: RewardEvaluation) -> bool:
    """Whether a run's reward is looked at: it leaves one, or pays one without an artifact, which knows the set's problems."""
    knows = method != "oracle" or evaluation.benchmark in (*ARITH_SETS, arith_hard.FAMILY)
    return leaves_reward or (method in NAMED and knows)


def judge_reward(item: WorkItem, suite: Suite, fitted: Fitted, sources: Sources, on_part: OnPart) -> list[Judgement]:
    """The process reward on every step-labelled set of the suite, nothing without one.

    A reward without an artifact is the named one, over the policy that the run started from. Null rewards beside it are runs
    of their own. The sets are the same for all runs of a suite.
    """
    found: list[Judgement] = []
    for evaluation in _of_reward(JudgeEvaluation, item, suite, fitted):
        device = evaluation.device or suite.runtime.device
        name = _reward_name(item, fitted)
        loaded = load_reward(name, LoadOptions(sources.start, natural_separator(evaluation.set), item.seed, device=device))
        rule = default_rule(loaded) if evaluation.threshold is None else parse_rule(evaluation.threshold)
        judged = _judged_set(evaluation, suite, sources, tuned=rule.kind == "tuned")
        started = time.monotonic()
        report = judge(
            loaded,
            judged,
            rule,
            nulls=False,
            prompt_suffix=evaluation.prompt_suffix,
            seed=suite.eval_seed,
            on_progress=lambda done, total, title=evaluation.title: on_part(title, done, total),
        )
        found.append(
            Judgement(
                report=replace(report, name=portable(report.name)),
                protocol=portable(evaluation.protocol(suite.eval_seed)),
                reward="fitted" if fitted.reward_folder is not None else name,
                reward_digest=loaded.digest,
                wall_s=time.monotonic() - started,
                solutions=judged.solutions if evaluation.set in ARITH_SETS else (),
            )
        )
    return found


def scale_reward(item: WorkItem, suite: Suite, fitted: Fitted, sources: Sources, on_part: OnPart) -> list[PoolScaling]:
    """The process reward choosing among samples of the policy at the root of the run, nothing without a reward.

    The samples are the same for all runs of a suite.
    """
    found: list[PoolScaling] = []
    for evaluation in _of_reward(ScaleEvaluation, item, suite, fitted):
        device = evaluation.device or suite.runtime.device
        asked = evaluation.protocol(suite.eval_seed)
        benchmark = load_benchmark(evaluation.benchmark, data_dir=sources.data_dir, include=sources.include)
        policy = load_policy(item.policy, device=device)
        shown = lambda done, total, title=evaluation.title: on_part(title, done, total)
        report = _samples(policy, benchmark, EvalProtocol(**asked), suite, sources, shown)
        name = _reward_name(item, fitted)
        loaded = load_reward(name, _at_root(item, benchmark, device, evaluation.chat_template))
        started = time.monotonic()
        pool = with_scores(pool_of_samples(benchmark, report.samples[SAMPLED]), FITTED, loaded)
        candidates = pool.candidates()
        found.append(
            PoolScaling(
                benchmark=benchmark.name,
                card_digest=report.card_digest,
                data_digest=report.data_digest,
                protocol=portable(asked),
                policy_digest=policy.digest,
                reward="fitted" if fitted.reward_folder is not None else name,
                reward_digest=loaded.digest,
                scaling=scaling(candidates),
                counts=pool.counts(),
                unscored=pool.unscored[FITTED],
                rows=scaled_rows(candidates, FITTED),
                budget=replace(
                    report.budget,
                    scored_tokens=pool.scored_tokens[FITTED],
                    wall_s=report.budget.wall_s + time.monotonic() - started,
                ),
            )
        )
    return found


def search_reward(item: WorkItem, suite: Suite, fitted: Fitted, sources: Sources, on_part: OnPart) -> list[Searched]:
    """Searches with the policy at the root of the run, steered by the process reward; nothing without a reward."""
    found: list[Searched] = []
    for evaluation in _of_reward(SearchEvaluation, item, suite, fitted):
        device = evaluation.device or suite.runtime.device
        benchmark = load_benchmark(evaluation.benchmark, data_dir=sources.data_dir, include=sources.include)
        policy = load_policy(item.policy, device=device)
        name = _reward_name(item, fitted)
        loaded = load_reward(name, _at_root(item, benchmark, device, evaluation.chat_template))
        started = time.monotonic()
        points = list(
            search_points(
                benchmark.problems[: evaluation.limit],
                policy,
                TorchEngine(policy.model, policy.tokenizer),
                loaded,
                evaluation.configs(suite.eval_seed, benchmark.max_new_tokens),
                name=FITTED,
                extraction=evaluation.extraction,
                chat=evaluation.chat_template,
                on_progress=lambda n, done, total, title=evaluation.title: on_part(f"{title} n={n}", done, total),
            )
        )
        problems = len(benchmark.problems[: evaluation.limit])
        written = sum(point.tokens["generated"] + point.tokens["lookahead"] for point in points)
        scored = sum(point.tokens["scored"] for point in points)
        found.append(
            Searched(
                benchmark=benchmark.name,
                card_digest=benchmark.card.digest,
                data_digest=benchmark.data_digest,
                protocol=portable(evaluation.protocol(suite.eval_seed)),
                policy_digest=policy.digest,
                reward="fitted" if fitted.reward_folder is not None else name,
                reward_digest=loaded.digest,
                points=points,
                parameters={
                    "policy": parameters_of(policy.model),
                    "reward": parameters_of(getattr(loaded.reward, "model", None)),
                },
                budget=Budget(
                    generated_tokens=round(written * problems),
                    scored_tokens=round(scored * problems),
                    wall_s=time.monotonic() - started,
                ),
            )
        )
    return found


def attack_reward(item: WorkItem, suite: Suite, fitted: Fitted, sources: Sources, on_part: OnPart) -> list[Attacked]:
    """Attacks on the process reward, from solutions of the policy at the root of the run; nothing without a reward."""
    found: list[Attacked] = []
    for evaluation in _of_reward(AttackEvaluation, item, suite, fitted):
        device = evaluation.device or suite.runtime.device
        benchmark = load_benchmark(evaluation.benchmark, data_dir=sources.data_dir, include=sources.include)
        policy = load_policy(item.policy, device=device)
        sampling = {"samples": evaluation.samples, "greedy": False, "limit": evaluation.limit, "seed": suite.eval_seed}
        shown = lambda done, total, title=evaluation.title: on_part(title, done, total)
        report = _samples(policy, benchmark, EvalProtocol(**sampling), suite, sources, shown)
        name = _reward_name(item, fitted)
        loaded = load_reward(name, _at_root(item, benchmark, device, False))
        started = time.monotonic()
        cases = cases_of(pool_of_samples(benchmark, report.samples[SAMPLED]), evaluation.attacked)
        before = loaded.reward.budget.scored_tokens
        lifts = attack(
            loaded,
            FITTED,
            cases,
            aggregation=evaluation.aggregation,
            rounds=evaluation.rounds,
            seed=suite.eval_seed,
            on_progress=lambda done, total, title=evaluation.title: on_part(title, done, total),
        )
        scored = loaded.reward.budget.scored_tokens - before
        found.append(
            Attacked(
                benchmark=benchmark.name,
                card_digest=report.card_digest,
                data_digest=report.data_digest,
                protocol=portable(evaluation.protocol(suite.eval_seed)),
                policy_digest=policy.digest,
                reward="fitted" if fitted.reward_folder is not None else name,
                reward_digest=loaded.digest,
                solutions=len(cases),
                right=sum(case.right for case in cases),
                lifts=lifts,
                budget=replace(report.budget, scored_tokens=scored, wall_s=report.budget.wall_s + time.monotonic() - started),
            )
        )
    return found


def _of_reward(kind: type[E], item: WorkItem, suite: Suite, fitted: Fitted) -> list[E]:
    """The suite's evaluations of a kind that are made of an item's reward."""
    wanted = [one for one in suite.evaluations_of(item.run.label) if isinstance(one, kind)]
    return [one for one in wanted if judges(item.run.method, fitted.reward_folder is not None, one)]


def _samples(
    policy: LoadedPolicy, benchmark: Benchmark, protocol: EvalProtocol, suite: Suite, sources: Sources, shown: OnProgress
) -> Report:
    """Samples of the policy at the root of the suite's runs: the first run that wants them makes them, for all."""
    asked = [sampled_with(policy, benchmark, protocol), protocol.parts(), protocol.limit, suite.runtime.sampler]
    folder = sources.pools / digest_of(asked)[:16]
    shown(0, 1)  # it may be another run's turn
    with turn_at(folder), opened_engine(policy, suite.runtime) as engine:
        return evaluate_policy(policy, benchmark, protocol, folder=folder, engine=engine, on_progress=shown)


def _reward_name(item: WorkItem, fitted: Fitted) -> str:
    """The reward that was left, or the named one."""
    return item.run.method if fitted.reward_folder is None else str(fitted.reward_folder)


def _at_root(item: WorkItem, benchmark: Benchmark, device: str, chat: bool) -> LoadOptions:
    """How a reward is loaded that is to score solutions of the policy at the root of a run."""
    return LoadOptions(item.policy, separator_of(benchmark.problems), item.seed, device=device, chat=chat)


def _judged_set(evaluation: JudgeEvaluation, suite: Suite, sources: Sources, *, tuned: bool) -> JudgedSet:
    step_format: StepFormat | None = next((known for known in FORMATS if known == evaluation.step_format), None)
    if step_format != evaluation.step_format:
        raise UserError("unknown format of labelled steps", evaluation.step_format, f"use one of {', '.join(FORMATS)}")
    pools = None
    if evaluation.set in ARITH_SETS:
        solver = folder_digest(policy_dir(evaluation.solver))
        pools = sources.pools / f"judge-{digest_of([solver, suite.eval_seed])[:16]}"
    options = SetOptions(
        data_dir=sources.data_dir,
        limit=evaluation.limit,
        step_format=step_format,
        solver=evaluation.solver,
        seed=suite.eval_seed,
        with_tuning=tuned,
        pool_folder=pools,
    )
    return load_set(evaluation.set, options)
