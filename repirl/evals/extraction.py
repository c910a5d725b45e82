"""Answers found in another way: the same samples, graded again where no answer is marked.

Base models often do not mark their answers, and published numbers are often lenient. Verdicts of `strict` and
`flexible` extraction differ on completions without a marked answer only, so both come from one set of samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from repirl.grading.dispatch import grade_rollouts
from repirl.grading.math.grader import NO_ANSWER
from repirl.types import Problem, SampleRow


def flexibly_graded(
    problems: Sequence[Problem], samples: Mapping[str, tuple[SampleRow, ...]]
) -> dict[str, tuple[SampleRow, ...]]:
    """Strictly graded `samples` (part -> rows) as `flexible` extraction grades them."""
    by_id = {problem.id: problem for problem in problems}
    unmarked = [row for rows in samples.values() for row in rows if row.outcome == "wrong" and row.reason == NO_ANSWER]
    verdicts = grade_rollouts(
        [by_id[row.problem_id] for row in unmarked], [row.text for row in unmarked], extraction="flexible"
    )
    again = {
        id(row): replace(row, outcome=verdict.outcome, reason=verdict.reason, extracted=verdict.extracted)
        for row, verdict in zip(unmarked, verdicts, strict=True)
    }
    return {part: tuple(again.get(id(row), row) for row in rows) for part, rows in samples.items()}
