"""`repirl grade --audit`: the verdicts of a file against a second opinion; counts, and where the two disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from repirl.grading.files.rows import GradedRow
from repirl.grading.math.audit import Opinion
from repirl.grading.math.extract import gold_answer
from repirl.grading.pool import PoolOptions, WorkerPool

_SECOND_OPINION = "repirl.grading.math.audit:second_opinion"
_KINDS = ("plain_match", "agree", "disagree", "no_opinion", "unchecked")


def with_second_opinions(
    rows: Sequence[GradedRow], options: PoolOptions | None = None, on_progress: Callable[[int, int], None] | None = None
) -> list[GradedRow]:
    """A second opinion on every verdict that is not a plain match of text, each in a worker with the usual deadline.

    Changes no verdict. A worker that hangs or crashes costs one opinion (`Opinion.how` names it).
    """
    pairs = [_compared(row) for row in rows]
    distinct = list(dict.fromkeys(pair for pair in pairs if pair is not None and pair[0].strip() != pair[1].strip()))
    with WorkerPool(_SECOND_OPINION, options, preload=("mpmath",)) as pool:
        results = pool.map(distinct, on_progress)
    opinions: dict[tuple[str, str] | None, Opinion] = {
        pair: result.value if result.status == "ok" else Opinion(None, result.status)
        for pair, result in zip(distinct, results, strict=True)
    }
    return [replace(row, second=opinions.get(pair)) for row, pair in zip(rows, pairs, strict=True)]


def summary_of(rows: Sequence[GradedRow]) -> dict[str, Any]:
    """Counts and disagreements of audited rows, for `--json`.

    `plain_match` verdicts need no second check; the others are `checked` = `agree` + `disagree` + `no_opinion`.
    `unchecked` have no answer or no verdict to check (nothing found, truncated, ungraded). Of a disagreement, `how` says
    what the second check went by.
    """
    seen, reasons, disagreements = Counter[str](), Counter[str](), []
    for row in rows:
        compared, second = _compared(row), row.second
        if compared is None:
            kind = "unchecked"
        elif second is None:
            kind = "plain_match"
        elif second.equal is None:
            kind = "no_opinion"
            reasons[second.how] += 1
        elif second.equal == (row.verdict.outcome == "correct"):
            kind = "agree"
        else:
            kind = "disagree"
            place = {"id": row.problem_id, "sample": row.sample_index, "line": row.sample.line}
            sides = {"gold": compared[0], "answer": compared[1], "verdict": row.verdict.outcome}
            disagreements.append(place | sides | {"second": "equal" if second.equal else "different", "how": second.how})
        seen[kind] += 1
    return {
        "checked": seen["agree"] + seen["disagree"] + seen["no_opinion"],
        **{kind: seen[kind] for kind in _KINDS},
        "no_opinion_reasons": dict(reasons.most_common()),
        "disagreements": disagreements,
    }


def _compared(row: GradedRow) -> tuple[str, str] | None:
    """The gold and the answer that the verdict compared; None if it compared none."""
    gold, answer = row.sample.problem.answer, row.verdict.extracted
    if gold is None or answer is None or row.verdict.outcome not in ("correct", "wrong"):
        return None
    return gold_answer(gold), answer
