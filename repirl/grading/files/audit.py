"""`repirl grade --audit`: the verdicts of a file against a second opinion; counts, and where the two disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from repirl.grading.files.grade import FileGrades
from repirl.grading.math.audit import Opinion
from repirl.grading.math.extract import gold_answer
from repirl.grading.pool import PoolOptions, WorkerPool

_SECOND_OPINION = "repirl.grading.math.audit:second_opinion"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One verdict that the second check contradicts; `how` says what the second check went by."""

    id: str
    sample: int
    line: int
    gold: str
    answer: str
    verdict: str
    second: str
    how: str


@dataclass(frozen=True, slots=True)
class Audit:
    """`plain_match` verdicts need no second check; the others are `checked` = `agree` + `disagree` + `no_opinion`.

    `unchecked` have no answer or no verdict to check (nothing found, truncated, ungraded).
    """

    plain_match: int
    agree: int
    disagree: int
    no_opinion: int
    unchecked: int
    no_opinion_reasons: dict[str, int]
    disagreements: tuple[Disagreement, ...]

    def payload(self) -> dict[str, Any]:
        """For `--json`."""
        return {"checked": self.agree + self.disagree + self.no_opinion} | asdict(self)


def audit_grades(
    grades: FileGrades, options: PoolOptions | None = None, on_progress: Callable[[int, int], None] | None = None
) -> Audit:
    """A second opinion on every verdict that is not a plain match of text, each in a worker with the usual deadline.

    Changes no verdict. A worker that hangs or crashes costs one opinion (`no_opinion_reasons` names it).
    """
    plain, unchecked = 0, 0
    asked: list[tuple[int, tuple[str, str]]] = []
    for index, row in enumerate(grades.rows):
        answer = row.verdict.extracted
        if row.gold is None or answer is None or row.verdict.outcome not in ("correct", "wrong"):
            unchecked += 1
        elif answer.strip() == gold_answer(row.gold).strip():
            plain += 1
        else:
            asked.append((index, (gold_answer(row.gold), answer)))
    distinct = list(dict.fromkeys(pair for _, pair in asked))
    with WorkerPool(_SECOND_OPINION, options, preload=("mpmath",)) as pool:
        results = dict(zip(distinct, pool.map(distinct, on_progress), strict=True))
    agree, reasons, disagreements = 0, Counter[str](), []
    for index, pair in asked:
        result = results[pair]
        opinion = result.value if result.status == "ok" else Opinion(None, result.status)
        row = grades.rows[index]
        if opinion.equal is None:
            reasons[opinion.how] += 1
        elif opinion.equal == (row.verdict.outcome == "correct"):
            agree += 1
        else:
            second = "equal" if opinion.equal else "different"
            place = (row.problem_id, row.sample_index, row.line)
            disagreements.append(Disagreement(*place, *pair, row.verdict.outcome, second, opinion.how))
    return Audit(
        plain, agree, len(disagreements), reasons.total(), unchecked, dict(reasons.most_common()), tuple(disagreements)
    )
