"""`repirl demos`: right completions become demonstrations, nothing is asked for twice, and `repirl train` reads the file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_openai import MODEL, FakeServer, serving, sums

from repirl.cli import main as cli
from repirl.files import read_objects
from repirl.rollouts.demonstrations import DemonstrationRules, further, select
from repirl.tasks.training_files import MATH_TRAIN, TrainingRow, file_rows, write_rows
from repirl.tasks.training_sets import TrainingSetConfig, load_training_set
from repirl.types import Outcome, SampleRow

PROBLEMS = [{"id": f"p{i}", "problem": f"Compute {i}+4", "answer": str(i + 4)} for i in range(6)]
UNSOLVED = {"id": "never", "problem": "Compute 1+1", "answer": "11"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six problems that the server solves in every third seed, and one that it never does."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*PROBLEMS, UNSOLVED]))
    return path


def demos(data: Path, out: Path, server: FakeServer, *more: str) -> list[str]:
    served = ["--engine", "openai", "--base-url", server.url, "--model", MODEL, "--engine-set", "retries=0"]
    return ["demos", "--data", str(data), "--out", str(out), "--samples", "12", "--keep", "2", *served, *more]


def shown(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    assert cli.run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert cli.run(arguments) == 2
    return capsys.readouterr().err


def asked(server: FakeServer) -> Counter[tuple[str, int]]:
    return Counter((body["prompt"], body["seed"]) for body in server.asked)


def row(index: int, text: str, outcome: Outcome = "correct", num_tokens: int = 1) -> SampleRow:
    return SampleRow("p", index, outcome, "", None, num_tokens, text)


def test_what_is_kept_of_a_problems_completions() -> None:
    rows = [
        row(0, "a  b\n", num_tokens=3),
        row(1, "a b"),
        row(2, "wrong", "wrong"),
        row(3, "long", num_tokens=9),
        row(4, "unknown", "ungraded"),
        row(5, "c", num_tokens=4),
        row(6, "d"),
        row(7, "cut", "truncated"),
    ]
    found = select(rows, DemonstrationRules(keep=2, longest=8))
    assert found.texts == ("a  b\n", "c")
    assert (found.num_tokens, found.duplicates, found.too_long) == (7, 1, 1)


@pytest.mark.parametrize(
    ("wrong", "right", "more"),
    [(0, 0, 4), (0, 3, 1), (0, 4, 0), (4, 0, 8), (12, 0, 24), (30, 1, 23), (60, 1, 39), (100, 0, 0)],
)
def test_how_many_more_are_asked_for(wrong: int, right: int, more: int) -> None:
    rows = [row(i, "", "wrong") for i in range(wrong)] + [row(i, f"text {i}") for i in range(wrong, wrong + right)]
    assert further(rows, DemonstrationRules(samples=100, keep=4)) == more


def test_demonstrations_of_a_served_model_train(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "demos.jsonl"
    with serving(FakeServer()) as server:
        payload = shown(capsys, demos(data, out, server, "--set", "prompt_suffix=+0"))
        right = {key: sums(*key) for key in asked(server) if key[1] % 3 == 0}
        assert all(count == 1 for count in asked(server).values())
        assert all(prompt.endswith("+0") for prompt, _ in right)
        per_problem = Counter(prompt for prompt, _ in asked(server))
    counts = payload["counts"]
    assert (counts["problems"], counts["without"]) == (7, 1)
    assert counts["sampled"] == sum(per_problem.values())
    assert per_problem["Compute 1+1+0"] == 12  # nothing was right: all that may be asked for
    assert min(per_problem.values()) < 12  # elsewhere it stopped
    assert counts["correct"] == sum(not prompt.startswith("Compute 1+1+") for prompt, _ in right)
    assert counts["correct"] + counts["wrong"] == counts["sampled"]
    assert payload["policy"] == MODEL
    written = [found for _, found in read_objects(out)]
    assert [found["id"] for found in written] == [one["id"] for one in PROBLEMS]
    for one, found in zip(PROBLEMS, written, strict=True):
        assert {key: found[key] for key in one} == one
        texts = found["demonstrations"]
        assert 1 <= len(texts) <= 2
        assert len(set(texts)) == len(texts)
        assert set(texts) <= {text for (prompt, _), text in right.items() if prompt == one["problem"] + "+0"}
    assert sum(len(found["demonstrations"]) for found in written) == counts["demonstrations"]
    training = load_training_set(TrainingSetConfig(source="file", file=str(out), validation_problems=2))
    assert [problem.prompt for problem in training.problems] == [one["problem"] for one in PROBLEMS[:4]]
    demonstrated = {key: [demo.text for demo in found] for key, found in training.demonstrations.items()}
    assert demonstrated == {found["id"]: found["demonstrations"] for found in written}


def test_a_killed_run_goes_on_and_asks_for_nothing_again(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "demos.jsonl", tmp_path / "whole.jsonl"
    few = ["--engine-set", "concurrency=1"]  # a line in the file of samples for every four completions or some more
    with serving(FakeServer()) as server:
        shown(capsys, demos(data, whole, server))
        expected = asked(server)
    samples = tmp_path / "demos.jsonl.samples" / "evaluation-demos.jsonl"
    with serving(FakeServer(delay_s=0.05)) as server:
        command = [sys.executable, "-m", "repirl", *demos(data, out, server, *few)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
        deadline = time.monotonic() + 60
        while not (samples.is_file() and len(samples.read_bytes().splitlines()) > 3) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = asked(server)
    assert 0 < before.total() < expected.total()
    assert not out.exists()
    kept = [json.loads(line) for line in samples.read_bytes().split(b"\n")[1:-1]]
    num_kept = sum(len(chunk["rows"]) for chunk in kept)
    assert num_kept >= 3 * 4
    with serving(FakeServer()) as server:
        payload = shown(capsys, demos(data, out, server, *few))
        after = asked(server)
    assert payload["counts"]["sampled"] == expected.total()
    assert after.total() == expected.total() - num_kept
    assert before | after == expected
    assert (before & after).total() <= before.total() - num_kept
    assert out.read_bytes() == whole.read_bytes()


def test_more_is_asked_for_when_more_is_wanted(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "demos.jsonl"
    with serving(FakeServer()) as server:
        few = shown(capsys, [*demos(data, out, server), "--limit", "3"])["counts"]
        first = asked(server)
        more = shown(capsys, [*demos(data, out, server), "--limit", "3", "--keep", "4", "--samples", "30"])["counts"]
        assert all(count == 1 for count in asked(server).values())
        assert more["sampled"] == asked(server).total() > first.total() == few["sampled"]
        assert more["demonstrations"] > few["demonstrations"]
        error = complaint(capsys, [*demos(data, out, server), "--temperature", "0.5"])
        assert "holds samples of another temperature" in error


def test_a_server_that_fails_leaves_no_file_and_loses_little(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "demos.jsonl"
    with serving(FakeServer(fails_from=9)) as server:
        assert "the server fails (500)" in complaint(capsys, demos(data, out, server, "--engine-set", "concurrency=1"))
        assert not out.exists()
        server.fails_from = None
        shown(capsys, demos(data, out, server))
        assert sum(count - 1 for count in asked(server).values()) <= 5 + 1  # of the chunk that broke off


def test_nothing_right_is_said_and_not_written(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    with serving(FakeServer(lambda prompt, seed: r"\boxed{-1}")) as server:
        error = complaint(capsys, demos(data, tmp_path / "demos.jsonl", server))
    assert "no right completion of any problem: 7" in error
    assert not (tmp_path / "demos.jsonl").exists()


def test_completions_cut_off_or_too_long_are_no_demonstrations(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    def answer(prompt: str, seed: int) -> str:
        return sums(prompt, 0) + " and so on" * (seed % 4)

    limits = ["--max-new-tokens", "40", "--longest", "30"]
    with serving(FakeServer(answer)) as server:
        counts = shown(capsys, demos(data, tmp_path / "demos.jsonl", server, *limits))["counts"]
        lengths = Counter(seed % 4 for prompt, seed in asked(server))
    texts = [text for _, found in read_objects(tmp_path / "demos.jsonl") for text in found["demonstrations"]]
    assert texts
    assert all(len(text) + 1 <= 30 for text in texts)
    assert counts["truncated"] == lengths[3]
    assert counts["too_long"] > 0
    assert counts["duplicates"] > 0
    assert counts["correct"] == counts["demonstrations"] + counts["too_long"] + counts["duplicates"]


@pytest.mark.parametrize("family", ["arith", "minicode"])
def test_demonstrations_of_a_local_policy(capsys: pytest.CaptureFixture[str], tmp_path: Path, family: str) -> None:
    out = tmp_path / "demos.jsonl"
    options = ["--samples", "4", "--keep", "1", "--max-new-tokens", "144", "--set", "num_problems=8", "--set", "levels=[1,2]"]
    payload = shown(capsys, ["demos", "--data", family, "--out", str(out), "--allow-weak-sandbox", *options])
    counts = payload["counts"]
    assert payload["policy"] == "tiny"
    assert counts["with_demonstrations"] == counts["demonstrations"] >= 2
    training = load_training_set(TrainingSetConfig(source="file", file=str(out), validation_problems=0))
    own = load_training_set(TrainingSetConfig(source=family, num_problems=8, levels=(1, 2), validation_problems=0))
    wanted = {problem.id: problem for problem in own.problems}
    from repirl.grading.dispatch import grade_rollouts

    assert len(training.problems) == counts["with_demonstrations"]
    assert all(problem.prompt == wanted[problem.id].prompt for problem in training.problems)
    texts = [training.demonstrations[problem.id][0].text for problem in training.problems]
    verdicts = grade_rollouts(training.problems, texts, allow_weak_sandbox=True)
    assert {verdict.outcome for verdict in verdicts} == {"correct"}


def test_a_benchmarks_problems_come_with_a_warning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "demos.jsonl"
    arguments = ["demos", "--benchmark", "arith", "--limit", "2", "--out", str(out), "--samples", "6", "--keep", "1"]
    with serving(FakeServer()) as server:
        served = ["--engine", "openai", "--base-url", server.url, "--model", MODEL]
        assert cli.run([*arguments, *served, "--json"]) == 0
    captured = capsys.readouterr()
    line = "these are the problems that arith measures with: what is trained on them cannot be evaluated on it"
    assert f"warning: {line}\n" in captured.err
    assert json.loads(captured.out)["warning"] == line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "which problems?"),
        (["--data", "arith", "--benchmark", "arith"], "which problems?"),
        (["--data", "nowhere.jsonl"], "no such file: 'nowhere.jsonl'"),
        (["--data", "arith", "--temperature", "0"], "temperature above 0: 0.0"),
        (["--data", "arith", "--set", "levls=[1]"], "no such setting: 'levls'"),
        (["--benchmark", "arith", "--set", "levels=[1]"], "--set belongs to --data"),
    ],
)
def test_options_that_do_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str) -> None:
    assert message in complaint(capsys, ["demos", "--out", str(tmp_path / "demos.jsonl"), *options])
    assert list(tmp_path.iterdir()) == []


def test_the_file_that_is_read_is_not_written_over(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    before = data.read_bytes()
    assert "would write over the file" in complaint(capsys, ["demos", "--data", str(data), "--out", str(data)])
    assert data.read_bytes() == before


def test_written_rows_are_read_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tests = {"kind": "functional", "entry_point": "f", "cases": [{"args": [1], "expected": 2}], "prelude": "import math\n"}
    rows: Sequence[dict[str, Any]] = [
        {"problem": "2+2", "answer": "4", "demonstrations": ["four", "vier"]},
        {"problem": "f?", "tests": tests},
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    read: list[TrainingRow] = file_rows(path, " Think.")
    write_rows(path, read, " Think.")
    assert file_rows(path, " Think.") == read
    assert file_rows(path, "")[0].problem.prompt == "2+2"


def test_a_published_set_can_be_taken_whole(tmp_path: Path) -> None:
    import pandas as pd

    for number, name in enumerate(MATH_TRAIN.train_files):
        (tmp_path / name).parent.mkdir(parents=True)
        rows = [{"problem": f"{number}+{i}", "level": "Level 1", "type": "x", "solution": rf"\boxed{{{i}}}"} for i in range(3)]
        pd.DataFrame(rows).to_parquet(tmp_path / name)
    sizes = []
    for held_out in (0, 5):
        config = TrainingSetConfig(source="math-train", file=str(tmp_path), validation_problems=held_out)
        found = load_training_set(config)
        sizes.append((len(found.problems), len(found.validation)))
    assert sizes == [(21, 0), (16, 5)]
