"""What the task files here refer to with `!function`: data in, verdicts out, by the same code as `repirl eval`.

Plain lm-eval reads a local data folder from the environment variable REPIRL_DATA_DIR, or from
`--metadata '{"data_dir": "FOLDER"}'`. It does not say which outputs were cut by the token limit: such an output is
`truncated` under `repirl eval`, and here counts by the answer that it holds, if any.
Programs run in the sandbox; REPIRL_ALLOW_WEAK_SANDBOX=1 is what `--allow-weak-sandbox` is there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from repirl.grading.dispatch import grade_rollouts
from repirl.tasks.documents import load_documents, problem_of


def documents(**metadata: Any) -> dict[str, Any]:
    """`custom_dataset`: the split `test` as the metadata block `repirl: data:` describes it."""
    return load_documents(metadata)


def grade_integer(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`process_results` of benchmarks whose answer is one integer in a box."""
    return _grade(doc, results, "integer")


def grade_math(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`process_results` of benchmarks with any mathematical answer."""
    return _grade(doc, results, "math")


def grade_code(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`process_results` of benchmarks with hidden tests; programs run in the sandbox."""
    return _grade(doc, results, "code")


def mean_of_graded(values: Sequence[float]) -> float:
    """`aggregation`: mean without the ungraded (NaN), which are counted by the metric `ungraded`."""
    graded = [value for value in values if not math.isnan(value)]
    return sum(graded) / len(graded) if graded else math.nan


def _grade(doc: dict[str, Any], results: Sequence[str], grader: str) -> dict[str, float]:
    weak = os.environ.get("REPIRL_ALLOW_WEAK_SANDBOX") == "1"
    verdict = grade_rollouts([problem_of(doc, grader=grader)], [results[0]], allow_weak_sandbox=weak)[0]
    return {"acc": verdict.reward, "ungraded": float(verdict.outcome == "ungraded")}
