"""Pools of sampled solutions in the formats in which others keep them (docs/recipes.md C2), told by their columns.

- `completions`: rows with `completions` (texts), an id (`problem_id`, `unique_id`, `id`), `answer`, and where there are any
  `scores` (a list per step for each completion) and `completion_tokens`. So search-and-learn writes them, which adds
  `pred_RULE@N`, its own choice among the first N; and so `repirl scale --save-pool` does, which adds `finish_reasons`,
  `benchmark` and, in `rewards`, the scores of every reward (`scores` are then those of the first).
- `tts`: `question`, `groundtruth`, `output` of `{text, value, reward_history, completion_tokens}` (compute-optimal-tts; OpenR
  writes a subset). A folder of `question_i/record_j.jsonl` is read whole; records of one question are one problem.
- `rebase`: `question`, `ground_truth_answer`, `model_answer` of `{text, step_scores}`.
- `qwen-rm`: `question`, `gt`, `code` (texts) and `pred_score`, one score for each solution (Qwen2.5-Math's evaluation).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.files import is_folder, read_objects

ORIGIN = "origin"
"""The name of the scores that came with a pool."""

Row = Mapping[str, Any]
Scores = tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class PooledSample:
    """One completion. `scores`: reward -> its step scores, None where it could not score; `tokens` None: not counted."""

    text: str
    tokens: int | None = None
    finished: bool = True
    scores: Mapping[str, Scores] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PooledProblem:
    """A problem with its n samples. `chosen`: (rule, N) -> the answer that the origin chose among the first N."""

    id: str
    problem: str
    answer: str | None
    samples: tuple[PooledSample, ...]
    benchmark: str = ""
    chosen: Mapping[tuple[str, int], str] = field(default_factory=dict)


def read_pool(path: Path) -> list[PooledProblem]:
    """The problems of a file or a folder of files, in order. UserError, with line and field, for what is no pool."""
    files = sorted(path.rglob("*.jsonl"), key=_numbers_in) if is_folder(path) else [path]
    problems: dict[str, PooledProblem] = {}
    for file in files:
        for number, row in read_objects(file):
            one = _problem(row, f"line {number} of {file.name}")
            known = problems.get(one.id)
            if known is not None and (known.problem, known.answer) != (one.problem, one.answer):
                raise UserError(f"line {number} of {file.name} has the id of another problem", one.id)
            problems[one.id] = one if known is None else replace(known, samples=(*known.samples, *one.samples))
    if not problems:
        raise UserError("the pool has no problems", str(path), "give one problem a line, with its completions")
    return list(problems.values())


def is_pool(row: Row) -> bool:
    """Whether a row has the columns of one of the formats."""
    return any(all(name in row for name in needed) for needed in _READERS)


def _numbers_in(path: Path) -> tuple[Any, ...]:
    """`question_10` after `question_9`."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path)))


def _problem(row: Row, where: str) -> PooledProblem:
    for needed, reader in _READERS.items():
        if all(name in row for name in needed):
            return reader(row, where)
    known = " or ".join(", ".join(f"`{name}`" for name in needed) for needed in _READERS)
    raise UserError(f"{where} is of no known pool of samples", ", ".join(sorted(row))[:80], f"it needs {known}")


def _completions(row: Row, where: str) -> PooledProblem:
    texts = _texts(row["completions"], f"`completions` in {where}")
    n = len(texts)
    scores: dict[str, list[Scores]] = {}
    rewards = row.get("rewards") or {}
    if row.get("scores") is not None and not rewards:
        scores[ORIGIN] = _scores(row["scores"], n, f"`scores` in {where}")
    if not isinstance(rewards, dict):
        raise UserError(f"`rewards` in {where} is not an object of rewards by name", str(rewards)[:60])
    for name, own in rewards.items():
        scores[str(name)] = _scores(own.get("steps") if isinstance(own, dict) else own, n, f"`rewards` {name!r} in {where}")
    tokens = _numbers(row.get("completion_tokens"), n, f"`completion_tokens` in {where}")
    reasons = ["stop"] * n if row.get("finish_reasons") is None else row["finish_reasons"]
    if not isinstance(reasons, list) or len(reasons) != n or not all(reason in ("stop", "length") for reason in reasons):
        what = f"`finish_reasons` in {where} are not one for each completion"
        raise UserError(what, str(reasons)[:60], "use stop and length")
    return PooledProblem(
        _id(row, ("problem_id", "unique_id", "id"), where),
        _text(row, ("problem", "question", "prompt")),
        _answer(row, ("answer", "gold", "gt")),
        tuple(
            PooledSample(text, tokens[i], reasons[i] != "length", {name: own[i] for name, own in scores.items()})
            for i, text in enumerate(texts)
        ),
        str(row.get("benchmark") or ""),
        _chosen(row),
    )


def _chosen(row: Row) -> dict[tuple[str, int], str]:
    found = {}
    for name, value in row.items():
        if (match := re.fullmatch(r"pred_(\w+)@(\d+)", name)) and isinstance(value, str):
            found[match[1], int(match[2])] = value
    return found


def _tts(row: Row, where: str) -> PooledProblem:
    output = _objects(row["output"], f"`output` in {where}")
    texts = _texts([one.get("text") for one in output], f"`output` in {where}")
    histories: list[Any] = [one.get("reward_history", [one["value"]] if "value" in one else None) for one in output]
    # A PRM that failed twice has these in the place of scores, for every path.
    failed = len(histories) > 1 and all(history == [0.0] for history in histories)
    given = any(history is not None for history in histories)
    scores = _scores(None if failed else histories, len(texts), f"`reward_history` in {where}")
    tokens = _numbers([one.get("completion_tokens") for one in output], len(texts), f"`completion_tokens` in {where}")
    return PooledProblem(
        _id(row, ("id", "question"), where),
        _text(row, ("question",)),
        _answer(row, ("groundtruth",)),
        tuple(PooledSample(text, tokens[i], scores={ORIGIN: scores[i]} if given else {}) for i, text in enumerate(texts)),
    )


def _rebase(row: Row, where: str) -> PooledProblem:
    leaves = _objects(row["model_answer"], f"`model_answer` in {where}")
    texts = _texts([leaf.get("text") for leaf in leaves], f"`model_answer` in {where}")
    scores = _scores([leaf.get("step_scores") for leaf in leaves], len(texts), f"`step_scores` in {where}")
    return PooledProblem(
        _id(row, ("id", "question"), where),
        _text(row, ("question",)),
        _answer(row, ("ground_truth_answer",)),
        tuple(PooledSample(text, scores={ORIGIN: own}) for text, own in zip(texts, scores, strict=True)),
    )


def _qwen_rm(row: Row, where: str) -> PooledProblem:
    texts = _texts(row["code"], f"`code` in {where}")
    numbers = _numbers(row["pred_score"], len(texts), f"`pred_score` in {where}", whole=False)
    return PooledProblem(
        _id(row, ("idx", "question"), where),
        _text(row, ("question",)),
        _answer(row, ("gt",)),
        tuple(
            PooledSample(text, scores={ORIGIN: None if number is None else (number,)})
            for text, number in zip(texts, numbers, strict=True)
        ),
    )


_READERS: dict[tuple[str, ...], Callable[[Row, str], PooledProblem]] = {
    ("output", "question"): _tts,
    ("model_answer", "question"): _rebase,
    ("code", "pred_score", "question"): _qwen_rm,
    ("completions",): _completions,
}


def _id(row: Row, names: Iterable[str], where: str) -> str:
    for name in names:
        if isinstance(value := row.get(name), str | int) and str(value):
            return str(value)
    raise UserError(f"{where} has no id", ", ".join(sorted(row))[:80], f"give it one of {', '.join(names)}")


def _text(row: Row, names: Iterable[str]) -> str:
    return next((row[name] for name in names if isinstance(row.get(name), str)), "")


def _answer(row: Row, names: Iterable[str]) -> str | None:
    found = next((row[name] for name in names if row.get(name) is not None), None)
    return None if found is None else str(found)


def _objects(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise UserError(f"{where} is not a list of objects", str(value)[:60])
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UserError(f"{where} is not a list of texts", str(value)[:60])
    return value


def _numbers(value: Any, n: int, where: str, *, whole: bool = True) -> list[Any]:
    """[n] numbers, None where there is none; counts of tokens below 1 were not counted (docs/recipes.md B11)."""
    if value is None:
        return [None] * n
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, list) or len(value) != n or not all(one is None or type(one) in kinds for one in value):
        raise UserError(f"{where} are not one number for each completion", str(value)[:60])
    return [None if one is None or (whole and one < 1) else one for one in value]


def _scores(value: Any, n: int, where: str) -> list[Scores]:
    """[n] step scores; None where there are none, or one is no number."""
    if value is None:
        return [None] * n
    if not isinstance(value, list) or len(value) != n:
        raise UserError(f"{where} are not one list for each completion", str(value)[:60])
    found: list[Scores] = []
    for one in value:
        if one is not None and (not isinstance(one, list) or not all(type(x) in (int, float) or x is None for x in one)):
            raise UserError(f"{where} are not lists of numbers", str(one)[:60])
        numbers = [float(x) for x in one or () if x is not None and math.isfinite(x)]
        found.append(tuple(numbers) if one and len(numbers) == len(one) else None)
    return found
