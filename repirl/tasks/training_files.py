"""Training problems from files: a JSONL of one's own, MATH's training part, Eurus-2-RL-Data.

The published sets come from the hub at a pinned commit, or from a local folder that holds the same files as the hub's
repository (`data.file`, else `$REPIRL_DATA_DIR/<folder>`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.files import is_file, is_folder, read_objects
from repirl.paths import replace_file
from repirl.rng import stream
from repirl.tasks.files import DATA_DIR_VARIABLE, hub_file, read_rows
from repirl.tasks.formats import last_boxed
from repirl.tasks.hidden_tests import decode_tests, encode_tests
from repirl.types import Case, CodeTests, Demonstration, Problem

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A problem with the expert solutions that its row brings."""

    problem: Problem
    demonstrations: tuple[Demonstration, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A training set of the hub. `validation_files` empty: validation problems are held out from training."""

    folder: str
    hub: str
    revision: str
    train_files: tuple[str, ...]
    validation_files: tuple[str, ...] = ()

    def paths(self, names: Sequence[str], folder: str | None) -> list[Path]:
        """The files, from a local folder or the hub; UserError where neither gives them."""
        root = os.environ.get(DATA_DIR_VARIABLE)
        local = Path(folder).expanduser() if folder else Path(root).expanduser() / self.folder if root else None
        if local is not None and (folder or is_folder(local)):
            missing = [name for name in names if not is_file(local / name)]
            if missing:
                raise UserError("no such training file in the folder", str(local / missing[0]), f"it should be {self.hub}")
            return [local / name for name in names]
        instead = f"give a folder that holds {names[0]} as data.file, or {DATA_DIR_VARIABLE} with {self.folder}/"
        return [hub_file(self.hub, self.revision, name, instead) for name in names]


# The training part only: MATH-500 is in the test part.
MATH_TRAIN = PublishedSet(
    folder="hendrycks_math",
    hub="EleutherAI/hendrycks_math",
    revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
    train_files=tuple(
        f"{subject}/train-00000-of-00001.parquet"
        for subject in (
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        )
    ),
)
EURUS_2_RL_DATA = PublishedSet(
    folder="eurus-2-rl-data",
    hub="PRIME-RL/Eurus-2-RL-Data",
    revision="9776b13264b5aaa0b16495fcf086a0a8d86fd655",
    train_files=("train.parquet",),
    validation_files=("validation.parquet",),
)
PUBLISHED_SOURCES = ("math-train", "eurus-2-rl-data:math", "eurus-2-rl-data:code")


def file_rows(path: Path, prompt_suffix: str, *, labelled: bool = True, merge: bool = False) -> list[TrainingRow]:
    """Rows {"problem", "answer" or "tests", optional "id", "demonstrations": [text, ...]} of a JSONL file.

    Without `labelled` answers, tests and demonstrations are not read, and need not be there. UserError for a malformed row, and
    for an id or a problem that comes twice, unless rows of one problem's text are to be merged: then the first says its id, all
    its demonstrations are kept, each text once, and answer or tests must be the same.
    """
    line_of: dict[str, int] = {}
    id_of: dict[str, str] = {}
    rows: dict[str, TrainingRow] = {}
    for number, row in read_objects(path):
        where = f"line {number} of {path.name}"
        if not isinstance(row.get("problem"), str):
            raise UserError(f"{where} lacks the text field", "problem")
        answer, tests = (row.get("answer"), row.get("tests")) if labelled else ("", None)
        if tests is None and not isinstance(answer, str):
            raise UserError(f"{where} lacks the text field", "answer", "or `tests`, for a programming problem")
        texts = (row.get("demonstrations") or []) if labelled else []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"`demonstrations` in {where} is not a list of texts", str(texts)[:60])
        given = row.get("id")
        key = _digest_id(row["problem"]) if given is None or given == "" else str(given)
        if merge:
            key = id_of.setdefault(row["problem"], key)
        problem = Problem(
            key,
            path.stem,
            row["problem"] + prompt_suffix,
            "math" if tests is None else "code",
            answer if tests is None and labelled else None,
            None if tests is None else decode_tests(tests, where),
            source=row["problem"],
        )
        if key in rows and merge:
            if problem != rows[key].problem:
                what = f"{where} has the problem or id of line {line_of[key]}, with another text, answer or tests"
                raise UserError(what, row["problem"][:60], "give it one answer, or an id of its own")
            texts = list(dict.fromkeys([*(demonstration.text for demonstration in rows[key].demonstrations), *texts]))
        elif key in rows:
            what = "the problem of" if given is None or given == "" else f"the id {key!r} of"
            todo = "give each problem once, with all its demonstrations, or set data.merge=true"
            raise UserError(f"{where} repeats {what} line {line_of[key]}", row["problem"][:60], todo)
        line_of.setdefault(key, number)
        rows[key] = TrainingRow(problem, tuple(Demonstration(key, text, "file") for text in texts))
    return list(rows.values())


def write_rows(path: Path, rows: Sequence[TrainingRow], prompt_suffix: str = "") -> None:
    """Rows as `file_rows` reads them, atomically; `prompt_suffix` is taken off the prompts again.

    A file knows one grader of answers: an `integer` is graded as mathematics there.
    """

    def written(row: TrainingRow) -> dict[str, Any]:
        problem = row.problem
        gold = {"answer": problem.answer} if problem.tests is None else {"tests": json.loads(encode_tests(problem.tests))}
        texts = [demonstration.text for demonstration in row.demonstrations]
        return {"id": problem.id, "problem": problem.prompt.removesuffix(prompt_suffix), **gold, "demonstrations": texts}

    text = "".join(json.dumps(written(row)) + "\n" for row in rows)
    replace_file(path, lambda file: file.write(text.encode()))


def published_rows(
    source: str, config_file: str | None, prompt_suffix: str, levels: Sequence[int], seed: int, count: int, held_out: int
) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """`count` training rows and `held_out` validation rows of a source in `PUBLISHED_SOURCES`, in seeded order.

    Validation rows are of the set's validation files, where it has them, else of its training files, and are the same
    for every `count`. Problems of one text come once. Raises UserError where the files cannot be had, are of another
    format, or hold too few problems.
    """
    published = MATH_TRAIN if source == "math-train" else EURUS_2_RL_DATA
    reader = _Reader(published, source.partition(":")[2], prompt_suffix, tuple(levels))
    train_paths = published.paths(published.train_files, config_file)
    train_keys = reader.keys(train_paths)
    train_keys = [train_keys[i] for i in stream(seed, "training problems", source).permutation(len(train_keys))]
    if published.validation_files:
        paths = published.paths(published.validation_files, config_file)
        keys = reader.keys(paths)
        keys = [keys[i] for i in stream(seed, "validation problems", source).permutation(len(keys))]
        train_keys = [key for key in train_keys if key not in set(keys)]
    else:
        left = len(train_keys) - held_out
        paths, keys, train_keys = train_paths, train_keys[max(left, 0) :], train_keys[: max(left, 0)]
    if len(keys) < held_out or not train_keys:
        raise UserError(f"{source} has too few problems to hold out {held_out}", len(keys), "ask for fewer")
    return reader.rows(train_paths, train_keys[:count]), reader.rows(paths, keys[:held_out])


class _Reader:
    """Rows in two passes: first which there are, then only those that are wanted (the tests of all would fill the memory)."""

    def __init__(self, published: PublishedSet, ability: str, prompt_suffix: str, levels: tuple[int, ...]) -> None:
        self.published, self.ability = published, ability
        self.prompt_suffix, self.levels = prompt_suffix, levels

    def keys(self, paths: Sequence[Path]) -> list[str]:
        columns = ["prompt", "ability"] if self.ability else ["problem", "level"]
        found = dict.fromkeys(self._checked(self._key, where, row) for p in paths for where, row in read_rows(p, columns))
        return [key for key in found if key is not None]

    def rows(self, paths: Sequence[Path], keys: Sequence[str]) -> list[TrainingRow]:
        found: dict[str, TrainingRow] = {}
        wanted = set(keys)
        for where, row in (item for path in paths for item in read_rows(path)):
            key = self._checked(self._key, where, row)
            if key in wanted and key not in found:
                found[key] = self._checked(self._row, where, row)
        return [found[key] for key in keys]

    def _checked(self, read: Callable[[Row], Any], where: str, row: Row) -> Any:
        try:
            return read(row)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise UserError(f"{where} is not of {self.published.hub}", f"{type(error).__name__}: {error}") from error

    def _key(self, row: Row) -> str | None:
        """The problem's id; None for the other ability, or a level that is not asked for."""
        if self.ability:
            return _digest_id(_user_text(row)) if row["ability"] == self.ability else None
        level = _math_level(row)
        return _digest_id(row["problem"]) if level is None or level in self.levels else None

    def _row(self, row: Row) -> TrainingRow:
        return _eurus_row(row, self.prompt_suffix) if self.ability else _math_row(row, self.prompt_suffix)


def _math_row(row: Row, prompt_suffix: str) -> TrainingRow:
    """MATH: {"problem", "level", "type", "solution"}; the solution is the one demonstration."""
    key = _digest_id(row["problem"])
    problem = Problem(
        key,
        "math-train",
        row["problem"] + prompt_suffix,
        "math",
        last_boxed(row["solution"]),
        level=_math_level(row),
        subject=row["type"],
        source=row["problem"],
    )
    return TrainingRow(problem, (Demonstration(key, row["solution"], "MATH"),))


def _math_level(row: Row) -> int | None:
    """`Level 3` is 3; two rows say `Level ?`."""
    level = row["level"].removeprefix("Level ")
    return int(level) if level.isdigit() else None


def _user_text(row: Row) -> str:
    return next(message["content"] for message in row["prompt"] if message["role"] == "user")


def _eurus_row(row: Row, prompt_suffix: str) -> TrainingRow:
    """Eurus-2-RL-Data: {"prompt": messages, "ability", "reward_model": {"ground_truth"}, "data_source", ...}.

    The prompt is the user's message, which asks for a box or a code block; the system message, which teaches a format
    of its own, is left out.
    """
    text, ability, gold = _user_text(row), row["ability"], row["reward_model"]["ground_truth"]
    is_code = ability == "code"
    problem = Problem(
        _digest_id(text),
        f"eurus-2-rl-data:{ability}",
        text + prompt_suffix,
        "code" if is_code else "math",
        None if is_code else str(gold),
        _eurus_tests(json.loads(gold)) if is_code else None,
        subject=row["data_source"],
        source=text,
    )
    return TrainingRow(problem)


def _eurus_tests(gold: Row) -> CodeTests:
    """{"inputs", "outputs", optional "fn_name"}, as in APPS: texts for stdin and stdout (or their lines), or lists of
    arguments and expected values. A value in a list of its own, in every case, is that value."""
    inputs, outputs = gold["inputs"], gold["outputs"]
    if len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    if not gold.get("fn_name"):
        return CodeTests(
            "stdio", cases=tuple(Case(stdin=_text(i), stdout=_text(o)) for i, o in zip(inputs, outputs, strict=True))
        )
    if all(isinstance(output, list) and len(output) == 1 for output in outputs):
        outputs = [output[0] for output in outputs]
    calls = tuple(Case(tuple(i), o) for i, o in zip(inputs, outputs, strict=True))
    return CodeTests("functional", gold["fn_name"], calls)


def _text(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _digest_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
