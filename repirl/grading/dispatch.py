"""One door to all graders: completions of any problems in, verdicts out, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from repirl.errors import GradingFault, UserError
from repirl.grading.math.grader import NO_ANSWER, Extraction, IntegerGrader, MathItem, shared_grader
from repirl.grading.pool import PoolOptions
from repirl.types import Problem, Verdict


def grade_rollouts(
    problems: Sequence[Problem],
    completions: Sequence[str],
    finish_reasons: Sequence[str] | None = None,
    *,
    options: PoolOptions | None = None,
    extraction: Extraction = "strict",
    allow_weak_sandbox: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """Verdicts of `completions`, each of the problem at the same position (repeat a problem for each of its samples).

    `finish_reasons` None means all stopped by themselves. Completions cut by the token limit are `truncated` under
    every grader; code of such is not run. `options` are those of the math workers; `extraction` says what counts as an
    answer where none is marked (`grading.math.extract`; programs have none);
    `allow_weak_sandbox` lets code run where the machine gives less than the strong level of isolation.
    Raises UserError if a problem carries no answer or tests (an unlabelled set cannot be graded).
    """
    reasons = list(finish_reasons) if finish_reasons is not None else ["stop"] * len(completions)
    if not len(problems) == len(completions) == len(reasons):
        raise ValueError(f"{len(problems)} problems, {len(completions)} completions, {len(reasons)} finish reasons")
    verdicts: list[Verdict | None] = [None] * len(problems)
    by_grader: dict[str, list[int]] = {}
    for i, problem in enumerate(problems):
        if (problem.tests if problem.grader == "code" else problem.answer) is None:
            raise UserError("a problem without answer or tests cannot be graded", f"{problem.family}/{problem.id}")
        if problem.grader == "task":
            raise UserError("a task of lm-eval grades its problems itself", problem.family, "use `repirl eval`")
        by_grader.setdefault(problem.grader, []).append(i)
    for grader, indices in by_grader.items():
        if grader == "code":
            graded = _grade_code(
                [problems[i] for i in indices],
                [completions[i] for i in indices],
                [reasons[i] for i in indices],
                allow_weak_sandbox,
            )
        else:
            items = [MathItem(problems[i].answer or "", completions[i], reasons[i]) for i in indices]
            if grader == "integer":
                graded = IntegerGrader(extraction).grade_many(items)
            else:
                graded = shared_grader(options or PoolOptions(), extraction).grade_many(items, on_progress)
        for i, verdict in zip(indices, graded, strict=True):
            verdicts[i] = verdict
    return [verdict for verdict in verdicts if verdict is not None]


def _grade_code(
    problems: Sequence[Problem], completions: Sequence[str], reasons: Sequence[str], allow_weak_sandbox: bool
) -> list[Verdict]:
    from repirl.grading.code.fences import has_closed_block
    from repirl.grading.code.grader import grade_programs

    verdicts = [Verdict("truncated", reason="" if has_closed_block(text) else NO_ANSWER) for text in completions]
    complete = [i for i, reason in enumerate(reasons) if reason != "length"]
    programs = [(tests, completions[i]) for i in complete if (tests := problems[i].tests) is not None]
    graded = grade_programs(programs, allow_weak_sandbox=allow_weak_sandbox)
    for i, verdict in zip(complete, graded, strict=True):
        verdicts[i] = verdict
    return verdicts


def check_ungraded(verdicts: Sequence[Verdict], limit: float = 0.02) -> None:
    """Raise GradingFault if more than the fraction `limit` of verdicts is `ungraded` (docs/design.md rule 1)."""
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.outcome == "ungraded")
    if verdicts and reasons.total() > limit * len(verdicts):
        listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
        raise GradingFault(
            f"{reasons.total()} of {len(verdicts)} completions could not be graded (limit {limit:.0%}): {listed}"
        )


def outcome_rewards(verdicts: Sequence[Verdict], fraction_of_tests: bool = False) -> list[float]:
    """One outcome reward for each verdict: 1.0 correct, 0.0 wrong or truncated, NaN ungraded (to be masked).

    With `fraction_of_tests` a wrong program earns the fraction of its tests that passed (the outcome of PRIME); where
    all passed and it is still wrong (it died afterwards, say), it earns nothing.
    """

    def reward(verdict: Verdict) -> float:
        partial = verdict.score if fraction_of_tests and verdict.outcome == "wrong" else None
        return partial if partial is not None and partial < 1.0 else verdict.reward

    return [reward(verdict) for verdict in verdicts]
