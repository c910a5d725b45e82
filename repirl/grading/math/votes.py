"""Who votes for what: samples of each problem -> ballots, with equivalent answers merged (`1/2` and `0.5` are one vote).

The majority itself is counted by `stats.maj_at_k`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain

from repirl.errors import UserError
from repirl.grading.math.equivalence import Comparison
from repirl.grading.math.grader import shared_grader
from repirl.grading.math.normalize import key, number, numbers_equal
from repirl.grading.pool import PoolOptions

Pair = tuple[str, str]
SameMany = Callable[[Sequence[Pair]], Mapping[Pair, bool]]
# Text is compared in this process; a longer answer is the same as another only if it is spelled alike.
_MAX_ANSWER_CHARS = 2000
RIGHT = ("right",)


def ballots(
    answers: Mapping[str, Sequence[str | None]],
    correct: Mapping[str, Sequence[float]],
    same_many: SameMany | None = None,
) -> dict[str, list[Hashable | None]]:
    """Problem id -> what each of its samples votes for.

    A sample with verdict 1.0 votes `RIGHT`: all of them equal the gold answer, so they are one. Without an answer (None
    or empty) it does not vote: None. All others vote for one of the problem's wrong answers: the commonest spelling
    of those that are the same. Verdicts NaN (ungraded) are treated as wrong here; `maj_at_k` leaves them out.
    Raises UserError if a right sample has no answer: then answers were not extracted, and the wrong ones would not vote.
    """
    for problem, texts in answers.items():
        if any(verdict == 1.0 and not text for text, verdict in zip(texts, correct[problem], strict=True)):
            raise UserError("a majority vote needs the answers of all samples; one is right without any in problem", problem)
    wrong = {
        problem: [text for text, verdict in zip(texts, correct[problem], strict=True) if text and verdict != 1.0]
        for problem, texts in answers.items()
    }
    spelling = merge(wrong, same_many or same_answers)
    return {
        problem: [
            RIGHT if verdict == 1.0 else spelling[problem][text] if text else None
            for text, verdict in zip(texts, correct[problem], strict=True)
        ]
        for problem, texts in answers.items()
    }


def merge(answers: Mapping[str, Sequence[str]], same_many: SameMany) -> dict[str, dict[str, str]]:
    """Problem id -> answer -> the answer that stands for all that are the same.

    Being the same is not transitive (`5` is `5 cm` and `5` is `5 m`): the commonest answer takes in what is the same as
    it, then the commonest of the rest, and so on; equally common ones in the order of their text. So the order
    of samples does not matter. One round asks `same_many` about one answer of every problem, so that workers are busy.
    """
    left = {problem: _commonest_first(texts) for problem, texts in answers.items()}
    stands_for: dict[str, dict[str, str]] = {problem: {} for problem in answers}
    while any(left.values()):
        rounds = {problem: [(texts[0], other) for other in texts[1:]] for problem, texts in left.items() if texts}
        same = same_many(list(chain.from_iterable(rounds.values())))
        for problem, pairs in rounds.items():
            first = left[problem][0]
            stands_for[problem] |= {first: first} | {other: first for _, other in pairs if same[first, other]}
            left[problem] = [other for _, other in pairs if not same[first, other]]
    return stands_for


def same_answers(pairs: Sequence[Pair]) -> dict[Pair, bool]:
    """Whether the two answers of each pair are the same to the math grader: text and exact numbers are compared here,
    the rest in its worker processes, whose results it caches. What cannot be decided in time counts as different.
    """
    same: dict[Pair, bool] = {}
    for pair in dict.fromkeys(pairs):
        if (known := _same_as_text(*pair)) is not None:
            same[pair] = known
    todo = [pair for pair in dict.fromkeys(pairs) if pair not in same]
    compared = shared_grader(PoolOptions()).compare_many(todo) if todo else {}
    for pair in todo:
        result = compared[pair]
        same[pair] = isinstance(result, Comparison) and result.equal is True
    return same


def _same_as_text(one: str, other: str) -> bool | None:
    """None where a worker has to look."""
    if one.strip() == other.strip():
        return True
    if max(len(one), len(other)) > _MAX_ANSWER_CHARS:
        return False
    if key(one) and key(one) == key(other):
        return True
    first, second = number(one), number(other)
    return None if first is None or second is None else numbers_equal(first, second)


def _commonest_first(texts: Sequence[str]) -> list[str]:
    counts = Counter(texts)
    return sorted(counts, key=lambda text: (-counts[text], text))
