"""Any generative task of lm-eval itself as a benchmark: `lm-eval:gsm8k`, graded by its own metric.

The task brings its prompt, few-shot examples, stop strings, filters, target and `process_results`; a verdict is one of
its metrics, which must be 0 or 1 for a problem. Which one: `lm-eval:gsm8k@exact_match,flexible-extract`, named as
lm-eval prints it; without a name, the first of `_PREFERRED` that the task has, under its first filter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.tasks.benchmarks import (
    HARNESS_PREFIX,
    Benchmark,
    BenchmarkCard,
    data_digest,
    lm_eval_task,
    prompt_of,
    stop_strings,
    token_limit,
)
from repirl.types import Problem, Verdict

_PREFERRED = ("exact_match", "acc", "pass@1")


def load_harness_task(name: str, include: Sequence[str | Path] = ()) -> Benchmark:
    """The benchmark `lm-eval:TASK` or `lm-eval:TASK@METRIC,FILTER`; `include` are folders with further task files.

    Raises UserError for an unknown task or a group, one that does not generate text, one that runs generated code in
    our process, an unknown metric or filter, or data that cannot be had.
    """
    task_name, _, chosen = name.removeprefix(HARNESS_PREFIX).partition("@")
    task = lm_eval_task(task_name, {"include_path": [str(Path(part).expanduser()) for part in include]})
    if getattr(task, "OUTPUT_TYPE", None) != "generate_until":
        raise UserError("only generative tasks of lm-eval can be evaluated here", task_name, "its own command runs the others")
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(
            "this task of lm-eval runs generated code outside of the sandbox",
            task_name,
            "choose one of our benchmarks of the same name: `repirl list benchmarks`",
        )
    metric, filter_name = _metric(task, chosen, task_name)
    docs = list(task.eval_docs)
    problems = tuple(
        Problem(
            id=str(index),
            family=task_name,
            prompt=prompt_of(task, doc, task_name),
            grader="task",
            answer=_target(task.doc_to_target(doc)),
        )
        for index, doc in enumerate(docs)
    )
    if not problems:
        raise UserError("the task has no problems", task_name)
    grader = _TaskGrader(task, dict(zip((p.id for p in problems), docs, strict=True)), metric, filter_name)
    return Benchmark(
        card=_card(name, task, len(problems), metric, filter_name),
        problems=problems,
        data_digest=data_digest(problems),
        stop=stop_strings(task),
        max_new_tokens=token_limit(task),
        grade=grader,
    )


def _target(target: object) -> str:
    return target if isinstance(target, str) else json.dumps(target, default=str)


def _metric(task: Any, chosen: str, task_name: str) -> tuple[str, str]:
    """(metric, filter): what decides a verdict, checked against what the task has."""
    filters = [ensemble.name for ensemble in task._filters]
    metrics = list(task.aggregation())
    metric, _, filter_name = chosen.partition(",")
    metric = metric or next((known for known in _PREFERRED if known in metrics), metrics[0])
    filter_name = filter_name or filters[0]
    # A task's own `process_results` may name metrics that it does not list, so only its filters are known beforehand.
    if filter_name not in filters:
        raise UserError(f"the task {task_name} has no filter", filter_name, f"choose one of {', '.join(filters)}")
    if metric not in metrics:
        raise UserError(f"the task {task_name} has no metric", metric, f"choose one of {', '.join(metrics)}")
    return metric, filter_name


class _TaskGrader:
    """The task's own filters and `process_results`, one completion at a time."""

    def __init__(self, task: Any, docs: Mapping[str, Any], metric: str, filter_name: str) -> None:
        self.task, self.docs = task, docs
        self.metric, self.filter_name = metric, filter_name

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        """Raises UserError if the metric is not 0 or 1, and so no verdict."""
        return [self._verdict(problem, text) for problem, text in zip(problems, completions, strict=True)]

    def _verdict(self, problem: Problem, completion: str) -> Verdict:
        from lm_eval.api.instance import Instance

        doc = self.docs[problem.id]
        instance = Instance("generate_until", doc, (problem.prompt, {}), 0, resps=[completion])
        ensemble = next(ensemble for ensemble in self.task._filters if ensemble.name == self.filter_name)
        try:
            ensemble.apply([instance])
            filtered = instance.filtered_resps[self.filter_name]
            value = self.task.process_results(doc, [filtered]).get(self.metric)
        except Exception as error:  # noqa: BLE001 (third-party code on hostile text: the item is ungraded, never wrong)
            return Verdict("ungraded", f"lm-eval task: {type(error).__name__}")
        if isinstance(value, float) and math.isnan(value):
            return Verdict("ungraded", f"lm-eval task: {self.metric} is not a number")
        if value not in (0, 1):
            raise UserError(f"the metric {self.metric!r} of the task is no verdict (0 or 1)", str(value)[:60], "name another")
        return Verdict("correct" if value else "wrong", extracted=filtered if isinstance(filtered, str) else None)


def _card(name: str, task: Any, num_problems: int, metric: str, filter_name: str) -> BenchmarkCard:
    config = task.dump_config()
    metadata = config.pop("metadata", None) or {}  # holds the path on this machine
    release = version("lm_eval")
    content = {"lm_eval": release, "config": json.loads(json.dumps(config, default=str)), "metric": metric}
    return BenchmarkCard(
        name=name,
        title=f"lm-eval's task {task.config.task}",
        source=f"lm-eval {release}",
        licence="see the task's own description",
        version=str(metadata.get("version", "")),
        num_problems=num_problems,
        grader=f"task: {metric},{filter_name}",
        path=Path(metadata.get("config_source", "")),
        digest=digest_of(content | {"filter": filter_name}),
        status="own loader",
    )
