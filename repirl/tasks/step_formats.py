"""Rows of PRM800K, Math-Shepherd and TRL's stepwise format, read and written one at a time.

A reader turns a row into its labelled solutions, a writer is its inverse; both raise `Malformed` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KEYS: dict[str, set[str]] = {
    "prm800k": {"question", "label"},
    "math-shepherd": {"input", "label"},
    "trl": {"prompt", "completions", "labels"},
    "processbench": {"problem", "steps", "label"},
}
"""Keys that a row of each format has."""

TAG = "ки"
"""Math-Shepherd's mark at the end of a step."""

_RATING_TO_LABEL = {-1: 0.0, 0: 0.5, 1: 1.0}


class Malformed(ValueError):
    """What is wrong with a row; the reader of the file adds where."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a row says of one solution; `suffix` tells several solutions of one row apart where the format has no ids."""

    problem: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    subset: str = ""
    final_answer_correct: bool | None = None
    finished: bool = True
    id: str = ""
    suffix: str = ""


def text(value: object, key: str) -> str:
    """The value as text, or Malformed."""
    if not isinstance(value, str):
        raise Malformed(f"`{key}` is not text")
    return value


def texts(value: object, key: str) -> tuple[str, ...]:
    """The value as texts, or Malformed."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Malformed(f"`{key}` is not a list of texts")
    return tuple(value)


# ---------------------------------------------------------------------------------------------- PRM800K


def _read_prm800k(row: Mapping[str, Any]) -> Iterator[Labelled]:
    """The chosen path last, before it every completion that was not chosen, each after the chosen steps before it.

    A human-written step has no rating and counts as right. A step that nobody chose or wrote ends the chosen path. Unrated
    completions that were not chosen say nothing and are left out. Only a chosen path with `finish_reason` solution is finished.
    """
    question, label = row["question"], row["label"]
    if not isinstance(question, dict) or not isinstance(label, dict) or not isinstance(label.get("steps"), list):
        raise Malformed("no `question.problem` or `label.steps`")
    problem = text(question.get("problem"), "question.problem")
    path: list[tuple[str, float | None]] = []
    ended, branched = False, False
    for number, step in enumerate(label["steps"]):
        if not isinstance(step, dict):
            raise Malformed(f"step {number} is not an object")
        completions, chosen, human = (
            _completions(step.get("completions")),
            step.get("chosen_completion"),
            step.get("human_completion"),
        )
        if chosen is not None and (type(chosen) is not int or not 0 <= chosen < len(completions)):
            raise Malformed(f"`chosen_completion` of step {number} is not one of its {len(completions)} completions")
        branched = False
        for i, (words, rating) in enumerate(completions):
            if i != chosen and rating is not None:
                branched = True
                yield _solution(problem, [*path, (words, rating)], finished=False, suffix=f".{number}.{i}")
        if chosen is not None:
            path.append(completions[chosen])
        elif isinstance(human, dict):
            path.append((text(human.get("text"), "human_completion.text"), 1.0))
        else:
            ended = True
            break
    # Where the path stops before rated alternatives, each of them holds all of it.
    if path and not (ended and branched):
        yield _solution(problem, path, finished=label.get("finish_reason") == "solution" and not ended)


def _completions(value: object) -> list[tuple[str, float | None]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed("`completions` is not a list of objects")
    found: list[tuple[str, float | None]] = []
    for item in value:
        rating = item.get("rating")
        if rating is not None and (type(rating) not in (int, float) or rating not in _RATING_TO_LABEL):
            raise Malformed(f"rating {rating!r} is none of -1, 0, 1")
        found.append((text(item.get("text"), "completions.text"), None if rating is None else _RATING_TO_LABEL[rating]))
    return found


def _solution(problem: str, path: list[tuple[str, float | None]], *, finished: bool, suffix: str = "") -> Labelled:
    words, labels = zip(*path, strict=True)
    return Labelled(problem, words, labels, finished=finished, suffix=suffix)


def _write_prm800k(data: Labelled) -> dict[str, Any]:
    ratings = {label: rating for rating, label in _RATING_TO_LABEL.items()}
    if any(label is not None and label not in ratings for label in data.labels):
        raise Malformed("soft labels have no rating; harden them")
    found_error = data.labels[-1] == 0.0
    steps = [
        {
            "completions": [{"text": words, "rating": None if label is None else ratings[label], "flagged": None}],
            "human_completion": None,
            "chosen_completion": 0,
        }
        for words, label in zip(data.steps, data.labels, strict=True)
    ]
    reason = "solution" if data.finished else "found_error" if found_error else "give_up"
    return {"question": {"problem": data.problem}, "label": {"steps": steps, "finish_reason": reason}}


# --------------------------------------------------------------------------------------- Math-Shepherd


def _read_math_shepherd(row: Mapping[str, Any]) -> Iterator[Labelled]:
    """`question Step 1: ... ки\\nStep 2: ... ки`; the numbering is the format's and no part of the steps."""
    given, marked = text(row["input"], "input"), text(row["label"], "label")
    pieces, labels = _aligned(given, marked)
    first = re.search(r"\s*\bStep 1: ", pieces[0])
    if first is None:
        raise Malformed("no `Step 1: ` before the first tag")
    problem = pieces[0][: first.start()]
    steps = [pieces[0][first.end() - len("Step 1: ") :], *pieces[1:]]
    bare = tuple(step.strip().removeprefix(f"Step {i}: ") for i, step in enumerate(steps, 1))
    yield Labelled(problem, bare, tuple(labels), subset=str(row.get("task") or ""))


def _aligned(given: str, marked: str) -> tuple[list[str], list[float]]:
    """Texts before the tags, and the labels there. A `ки` that `label` holds too is part of a word."""
    pieces, labels, piece, place = [], [], "", 0
    parts = given.split(TAG)
    for i, part in enumerate(parts):
        if marked[place : place + len(part)] != part:
            raise Malformed("`input` and `label` differ in more than the tags")
        piece, place = piece + part, place + len(part)
        if i == len(parts) - 1:
            break
        if marked.startswith(TAG, place):
            piece, place = piece + TAG, place + len(TAG)
        elif marked[place : place + 1] in ("+", "-"):
            labels.append(1.0 if marked[place] == "+" else 0.0)
            pieces.append(piece)
            piece, place = "", place + 1
        else:
            raise Malformed("a tag of `input` is neither + nor - in `label`")
    if place != len(marked) or piece.strip():
        raise Malformed("text after the last tag")
    if not pieces:
        raise Malformed(f"no tag {TAG}")
    return pieces, labels


def _write_math_shepherd(data: Labelled) -> dict[str, Any]:
    if any(label not in (0.0, 1.0) for label in data.labels):
        raise Malformed("every step needs a label + or -; harden soft ones")
    if "Step 1: " in data.problem or TAG in "".join((data.problem, *data.steps)):
        raise Malformed(f"its text holds `Step 1: ` or {TAG}, which the format uses itself")
    if any(words != words.strip() for words in (data.problem, *data.steps)):
        raise Malformed("its texts begin or end with white space, which the format cannot keep")
    steps = [f"Step {i}: {words} " for i, words in enumerate(data.steps, 1)]
    marks = ["+" if label == 1.0 else "-" for label in data.labels]
    return {
        "input": f"{data.problem} " + "\n".join(step + TAG for step in steps),
        "label": f"{data.problem} " + "\n".join(step + mark for step, mark in zip(steps, marks, strict=True)),
        "task": data.subset,
    }


# -------------------------------------------------------------------------------------------------- TRL


def _read_trl(row: Mapping[str, Any]) -> Iterator[Labelled]:
    """Labels are booleans; numbers in [0, 1] are soft labels and stay what they are. -100 (a masked label) is refused."""
    labels = row["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, bool | int | float) for label in labels):
        raise Malformed("`labels` is not a list of true, false or numbers")
    if not all(0 <= label <= 1 for label in labels):
        raise Malformed("a label lies outside of [0, 1]")
    yield Labelled(text(row["prompt"], "prompt"), texts(row["completions"], "completions"), tuple(map(float, labels)))


def _write_trl(data: Labelled) -> dict[str, Any]:
    if any(label not in (0.0, 1.0) for label in data.labels):
        raise Malformed("labels must be true or false (TRL cuts soft ones down to 0); harden them")
    return {"prompt": data.problem, "completions": list(data.steps), "labels": [label == 1.0 for label in data.labels]}


READERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Labelled]]] = {
    "prm800k": _read_prm800k,
    "math-shepherd": _read_math_shepherd,
    "trl": _read_trl,
}
WRITERS: dict[str, Callable[[Labelled], dict[str, Any]]] = {
    "prm800k": _write_prm800k,
    "math-shepherd": _write_math_shepherd,
    "trl": _write_trl,
}
