"""Grading by workers on one or several machines: programs and symbolic answers take cores that the learner may lack."""

from __future__ import annotations

from collections.abc import Sequence

from repirl import parallel
from repirl.engines.ray_workers import RaySettings, Workers
from repirl.grading.dispatch import grade_rollouts
from repirl.types import Problem, Verdict

PIECE_ROWS = 32
"""Completions that a worker grades at a time."""


class RayGrader:
    """`Grader` over `settings.graders` workers, each with sandboxes of its own. The first process drives them for all."""

    def __init__(self, settings: RaySettings) -> None:
        self.workers: Workers | None = None
        if parallel.is_first():
            self.workers = Workers(_Grader, settings.graders, settings, {"num_cpus": 1})

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str], finish_reasons: Sequence[str]) -> list[Verdict]:
        everybodys = parallel.gathered(list(zip(problems, completions, finish_reasons, strict=True)))
        verdicts = parallel.from_first(lambda: self._graded([one for asked in everybodys for one in asked]))
        before = sum(map(len, everybodys[: parallel.rank()]))
        return verdicts[before : before + len(problems)]

    def close(self) -> None:
        """End the workers."""
        if self.workers is not None:
            self.workers.close()

    def _graded(self, asked: Sequence[tuple[Problem, str, str]]) -> list[Verdict]:
        assert self.workers is not None, "the first process drives"
        pieces = [(asked[i : i + PIECE_ROWS],) for i in range(0, len(asked), PIECE_ROWS)]
        return [verdict for part in self.workers.map("grade", pieces) for verdict in part]


class _Grader:
    """What a worker has."""

    def grade(self, asked: Sequence[tuple[Problem, str, str]]) -> list[Verdict]:
        problems, completions, finish_reasons = zip(*asked, strict=True)
        return grade_rollouts(list(problems), list(completions), list(finish_reasons))
