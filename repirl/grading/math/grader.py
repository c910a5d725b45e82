"""Verdicts on mathematical completions: text and exact numbers are compared here, all else in worker processes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Literal, NamedTuple, get_args

from repirl.errors import UserError
from repirl.grading.math.boxes import last_box
from repirl.grading.math.equivalence import Comparison
from repirl.grading.math.extract import final_answer, flexible_answer, gold_answer
from repirl.grading.math.normalize import key, number, numbers_equal
from repirl.grading.pool import PoolOptions, TaskResult, WorkerPool
from repirl.types import Verdict

# `strict`: a marked answer. `flexible`: else the last formula or number (`extract.flexible_answer`).
Extraction = Literal["strict", "flexible"]
NO_ANSWER = "no answer"
_COMPARE = "repirl.grading.math.equivalence:compare"
# An answer far longer than any gold is no answer.
_MAX_ANSWER_CHARS = 2000
# Spellings are compared in this process, which has no deadline, only where the patterns cannot take long.
_MAX_CHARS_HERE = 200


def known_extraction(name: str) -> Extraction:
    """`name` as an extraction. UserError if there is none of that name."""
    if name not in get_args(Extraction):
        raise UserError("unknown extraction of answers", name, "use strict or flexible")
    return name  # type: ignore[return-value]


class MathItem(NamedTuple):
    """One completion to grade. `finish_reason` `length` means the token limit cut it."""

    gold: str
    completion: str
    finish_reason: str = "stop"


class MathGrader:
    """Compares final answers by `repirl.grading.math.equivalence`, each comparison with a deadline in a worker process.

    Verdicts: `correct`; `wrong` (reason `no answer` if none was found); `truncated` if the token limit cut the
    completion, whatever it says (`extracted` tells whether there was an answer); `ungraded` with reason `timeout`,
    `crash: ...` or `too large to evaluate`. Comparisons are cached by (gold, answer), failures are not.
    May be called from several threads.
    """

    def __init__(
        self, options: PoolOptions | None = None, cache_size: int = 200_000, *, extraction: Extraction = "strict"
    ) -> None:
        self._extract = flexible_answer if known_extraction(extraction) == "flexible" else final_answer
        self._pool = WorkerPool(_COMPARE, options, preload=("math_verify",))
        self._cache: OrderedDict[tuple[str, str], Comparison] = OrderedDict()
        self._cache_size = cache_size
        self._lock = threading.Lock()

    def grade_many(
        self, items: Iterable[MathItem | tuple[str, str, str]], on_progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """Verdicts in the order of `items`; `on_progress(done, total)` counts distinct comparisons."""
        verdicts: list[Verdict | None] = []
        pairs: list[tuple[str, str] | None] = []
        for gold, completion, finish_reason in items:
            answer = self._extract(completion)
            verdicts.append(_without_comparison(gold_answer(gold), answer, finish_reason))
            pairs.append(None if verdicts[-1] is not None else (gold_answer(gold), answer or ""))
        comparisons = self.compare_many([pair for pair in pairs if pair is not None], on_progress)
        return [
            verdict if pair is None or verdict is not None else _verdict(comparisons[pair], pair[1])
            for verdict, pair in zip(verdicts, pairs, strict=True)
        ]  # type: ignore[misc]

    def compare_many(
        self, pairs: Sequence[tuple[str, str]], on_progress: Callable[[int, int], None] | None = None
    ) -> dict[tuple[str, str], Comparison | TaskResult]:
        """The comparison of each distinct (gold, answer), or the TaskResult that says why there is none."""
        known: dict[tuple[str, str], Comparison | TaskResult] = {}
        with self._lock:
            for pair in pairs:
                if (cached := self._cache.get(pair)) is not None:
                    self._cache.move_to_end(pair)
                    known[pair] = cached
        todo = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        for pair, result in zip(todo, self._pool.map(todo, on_progress), strict=True):
            known[pair] = result.value if result.status == "ok" else result
        with self._lock:
            for pair in todo:
                if isinstance(comparison := known[pair], Comparison):
                    self._cache[pair] = comparison
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return known

    def forget(self) -> None:
        """Drop all cached comparisons (for measurements)."""
        with self._lock:
            self._cache.clear()

    def close(self) -> None:
        """End the workers. A closed grader cannot compare any more."""
        self._pool.close()


@cache
def shared_grader(options: PoolOptions, extraction: Extraction = "strict") -> MathGrader:
    """The grader of this process for these options; its workers live until the process ends."""
    return MathGrader(options, extraction=extraction)


def _without_comparison(gold: str, answer: str | None, finish_reason: str) -> Verdict | None:
    """The verdict where no worker is needed, else None."""
    if finish_reason == "length":
        return Verdict("truncated", reason="" if answer else NO_ANSWER, extracted=answer)
    if answer is None:
        return Verdict("wrong", reason=NO_ANSWER)
    if answer.strip() == gold.strip():
        return Verdict("correct", extracted=answer)
    if len(answer) > _MAX_ANSWER_CHARS + len(gold):
        return Verdict("wrong", reason="answer too long", extracted=answer)
    if max(len(gold), len(answer)) > _MAX_CHARS_HERE:
        return None
    gold_key, answer_key = key(gold), key(answer)
    if gold_key == answer_key and gold_key:
        return Verdict("correct", extracted=answer)
    gold_number, answer_number = number(gold), number(answer)
    if gold_number is not None and answer_number is not None:
        return Verdict("correct" if numbers_equal(gold_number, answer_number) else "wrong", extracted=answer)
    return None


def _verdict(result: Comparison | TaskResult, answer: str) -> Verdict:
    if isinstance(result, TaskResult):
        reason = result.status if result.status == "timeout" else f"{result.status}: {result.detail}"
        return Verdict("ungraded", reason=reason, extracted=answer)
    if result.equal is None:
        return Verdict("ungraded", reason=result.note, extracted=answer)
    return Verdict("correct" if result.equal else "wrong", reason=result.note, extracted=answer)


def canonical_integer(text: str) -> str | None:
    """An ASCII integer without plus sign and leading zeros, as text (any length in linear time); None if it is not."""
    digits = text.strip()
    negative = digits.startswith("-")
    digits = digits[1:] if digits[:1] in {"+", "-"} else digits
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0")
    return ("-" if negative else "") + digits if digits else "0"


class IntegerGrader:
    r"""For procedural arithmetic: the content of the last `\boxed{}` must be the gold integer. No workers needed.

    With `flexible` extraction, the last formula or number where there is no box.
    """

    def __init__(self, extraction: Extraction = "strict") -> None:
        self._flexible = extraction == "flexible"

    def grade_many(self, items: Iterable[MathItem | tuple[str, str, str]]) -> list[Verdict]:
        """Verdicts in the order of `items`. UserError if a gold is not an integer."""
        return [self.grade(*item) for item in items]

    def grade(self, gold: str, completion: str, finish_reason: str = "stop") -> Verdict:
        target = canonical_integer(gold)
        if target is None:
            raise UserError("the gold answer of an integer problem is not an integer", gold)
        answer = last_box(completion) or (flexible_answer(completion) if self._flexible else None)
        if finish_reason == "length":
            return Verdict("truncated", reason="" if answer else NO_ANSWER, extracted=answer)
        if answer is None:
            return Verdict("wrong", reason=NO_ANSWER)
        value = canonical_integer(answer)
        if value is None:
            return Verdict("wrong", reason="not an integer", extracted=answer)
        return Verdict("correct" if value == target else "wrong", extracted=answer)
