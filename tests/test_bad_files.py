"""Files that users give and that are not what they should be: one line that names file, line and field, exit code 2."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repirl.cli import main as cli
from repirl.cli.output import emit
from repirl.errors import LONGEST_MESSAGE, UserError
from repirl.files import MAX_DEPTH, read_objects
from repirl.tasks.benchmarks import benchmark_cards, benchmark_suites
from repirl.tasks.step_labels import read_labelled
from repirl.tasks.training_files import file_rows

GOOD = b'{"problem": "1+1?", "answer": "2"}\n'
PRM800K: dict[str, Any] = {
    "question": {"problem": "p"},
    "label": {
        "steps": [{"completions": [{"text": "a", "rating": 1}], "human_completion": None, "chosen_completion": 0}],
        "finish_reason": "solution",
    },
}


def with_rating(rating: Any) -> dict[str, Any]:
    row = json.loads(json.dumps(PRM800K))
    row["label"]["steps"][0]["completions"][0]["rating"] = rating
    return row


def refused(read: Callable[[], object], *said: str) -> None:
    with pytest.raises(UserError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= LONGEST_MESSAGE
    for words in said:
        assert words in message, message


TRAINING: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "not UTF-8": (GOOD + b'{"problem": "caf\xe9"}\n', ("x.jsonl is not UTF-8 text",)),
    "nested too deep": (GOOD + b"[" * 50_000 + b"\n", ("line 2 of x.jsonl is nested too deeply",)),
    "nested deeper than we walk": (
        b'{"problem": "p", "answer": "2", "more": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}\n",
        ("line 1 of x.jsonl is nested too deeply",),
    ),
    "tests are a list": (GOOD + b'{"problem": "p", "tests": ["x"]}\n', ("malformed tests of line 2 of x.jsonl",)),
    "tests are a number": (GOOD + b'{"problem": "p", "tests": 5}\n', ("malformed tests of line 2 of x.jsonl",)),
    "half a surrogate pair": (
        GOOD + b'{"problem": "p \\ud800", "answer": "2"}\n',
        ("line 2 of x.jsonl holds half a surrogate pair", "'problem'"),
    ),
    "half a pair in a demonstration": (
        GOOD + b'{"problem": "p", "answer": "2", "demonstrations": ["\\udfff"]}\n',
        ("line 2 of x.jsonl holds half a surrogate pair", "'demonstrations'"),
    ),
    "a number without end": (GOOD + b'{"problem": "p", "answer": ' + b"9" * 5000 + b"}\n", ("line 2 of x.jsonl", "too long")),
    "an object as answer": (GOOD + b'{"problem": "p", "answer": {}}\n', ("line 2 of x.jsonl lacks the text field", "'answer'")),
    "no object": (GOOD + b"[1]\n", ("line 2 of x.jsonl is not a JSON object",)),
    "cut off": (GOOD + b'{"problem": "p\n', ("line 2 of x.jsonl is not JSON",)),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_files(tmp_path: Path, name: str) -> None:
    content, said = TRAINING[name]
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    refused(lambda: file_rows(path, ""), *said)


NO_GZIP = {
    "plain text": b"no gzip",
    "cut off": gzip.compress(GOOD * 500, mtime=0)[:-9],
    "no deflated data": gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 40,
}


@pytest.mark.parametrize("name", NO_GZIP)
def test_what_is_called_gzip_and_is_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(NO_GZIP[name])
    refused(lambda: list(read_objects(path)), "cannot read the file", "x.jsonl.gz")


def test_a_whole_pair_and_a_byte_order_mark_are_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"problem": "\\ud83d\\ude00?", "answer": "\\\\ud800"}\n')
    (row,) = file_rows(path, "")
    assert (row.problem.source, row.problem.answer) == ("\U0001f600?", "\\ud800")


LABELLED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "rating is a list": (with_rating([]), ("prm800k (rating [] is none of -1, 0, 1)",)),
    "rating is an object": (with_rating({}), ("rating {} is none of",)),
    "rating is true": (with_rating(True), ("rating True is none of",)),
    "label without end": ({"problem": "p", "steps": ["a"], "label": 10**400}, ("processbench", "of 1 (counted from 0)")),
    "labels without end": ({"prompt": "p", "completions": ["a"], "labels": [10**400]}, ("outside of [0, 1]",)),
    "labels that are none": ({"prompt": "p", "completions": ["a"], "labels": [float("nan")]}, ("outside of [0, 1]",)),
    "half a pair": ({"prompt": "p", "completions": ["\ud800"], "labels": [True]}, ("half a surrogate pair", "'completions'")),
}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("array", [False, True])
def test_files_of_labelled_steps(tmp_path: Path, name: str, array: bool) -> None:
    row, said = LABELLED[name]
    path = tmp_path / "x.json"
    path.write_text(f"[{json.dumps(row)}]" if array else json.dumps(row))
    refused(lambda: read_labelled(path), "row 1 of x.json" if array else "line 1 of x.json", *said)


def test_an_integer_of_too_many_digits_in_a_judge_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"problem": "p", "steps": ["a"], "label": ' + "1" * 4400 + "}\n")
    refused(lambda: read_labelled(path), "line 1 of x.jsonl", "a number is too long")


CARDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "include is null": ("include: null\ntask: t\n", ("`include` of x.yaml names no file",)),
    "include is a number": ("include: [5]\n", ("`include` of x.yaml names no file: 5",)),
    "include is a folder": ("include: .\n", ("`include` of x.yaml names no file",)),
    "include is longer than a name": ("include: " + "a" * 5000 + "\n", ("`include` of x.yaml names no file",)),
    "a function of a file longer than a name": (
        "task: t\nx: !function " + "a" * 5000 + ".f\nmetadata: {repirl: {title: t, source: s, licence: l, grader: math, "
        "num_problems: 1, data: {family: nothing}}}\ninclude: nowhere.yaml\n",
        ("`include` of x.yaml names no file",),
    ),
    "a key that is a list": ("? [a, b]\n: 1\n", ("cannot read the task file", "x.yaml", "constructing a mapping")),
    "a key that is a number": ("5: 1\n", ("a task file must be a YAML mapping of names",)),
    "a group of mappings": ("group: g\ntask: [{a: 1}]\n", ("the suite g names no benchmark", "x.yaml")),
    "itself within itself": ("a: &a [*a]\n", ("nested deeper than",)),
    "a day that is none": ("a: 2024-99-99\n", ("cannot read the task file", "x.yaml")),
    "metadata is a list": ("task: t\nmetadata: [1]\n", ("a benchmark card needs a block", "x.yaml")),
    "data is a number": ("task: t\nmetadata: {repirl: {title: t, data: 5}}\n", ("metadata.repirl",)),
    "not UTF-8": ("a: \udce9\n", ("cannot read the task file", "x.yaml")),
    "a bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
        ("more than", "entries"),
    ),
}


@pytest.mark.parametrize("name", CARDS)
def test_cards(tmp_path: Path, name: str) -> None:
    text, said = CARDS[name]
    (tmp_path / "x.yaml").write_bytes(text.encode(errors="surrogateescape"))
    refused(lambda: (benchmark_cards([tmp_path]), benchmark_suites([tmp_path])), *said)


def test_the_command_line_ends_with_2_and_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(GOOD + b'{"problem": "p \\ud800", "answer": "2"}\n')
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps(with_rating([])))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "x.yaml").write_text("include: null\n")
    file = ["--set", "data.source=file", "--set", f"data.file={bad}"]
    for arguments in (
        ["train", "bc", "--out", str(tmp_path / "run"), *file],
        ["judge", "confidence", str(labels)],
        ["eval", "--benchmark", "x", "--include", str(tmp_path / "cards")],
        ["list", "benchmarks", "--include", str(tmp_path / "cards")],
    ):
        assert cli.run(arguments) == 2, arguments
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1), (arguments, err)
        assert err.startswith("error: ")
        assert len(err) <= LONGEST_MESSAGE + len("error: \n")


def test_models_may_write_half_a_pair_and_it_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "\\ud800", "answer": "\\ud801", "completion": "\\\\boxed{\\ud800}"}\n')
    assert [number for number, _ in read_objects(file, half_pairs=True)] == [1]
    for options in ([], ["--json"], ["--audit"], ["--verdicts", str(tmp_path / "v.jsonl")]):
        assert cli.run(["grade", "math", str(file), *options]) == 0
    capfd.readouterr()
    emit(True, {"text": "\ud800"}, lambda: None)
    assert json.loads(capfd.readouterr().out) == {"text": "\ud800"}
    assert json.loads((tmp_path / "v.jsonl").read_text())["extracted"] == "\ud800"
