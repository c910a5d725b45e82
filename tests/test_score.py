"""`repirl score`: solutions of which nothing is known, in any form."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repirl.cli.main import run
from repirl.errors import UserError
from repirl.evals.scored_solutions import score_given
from repirl.reporting.heat_map import HIGH, LOW, MIDDLE, heat_of, page, place_in
from repirl.rewards.aggregate import aggregate
from repirl.rewards.load import LoadOptions, load_reward
from repirl.tasks.given_solutions import GivenSolution, read_solutions

PROBLEM = "Compute 2 + 3 * 4\n"
TEXT = "3 * 4 = 12\n2 + 12 = 14\nSo \\\\boxed{14}"


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"problem": PROBLEM, "solution": TEXT},
        {"question": PROBLEM, "response": TEXT},
        {"id": 7, "problem": PROBLEM, "steps": TEXT.split("\n")},
        {"id": "7", "problem": PROBLEM, "answer": "14", "completions": [TEXT]},
        {"problem": PROBLEM, "steps": TEXT.split("\n"), "label": 1, "final_answer_correct": True, "id": "x"},
        {"prompt": PROBLEM, "completions": TEXT.split("\n"), "labels": [True, False, False]},
    ],
)
def test_every_form_is_the_same_solution(tmp_path: Path, row: dict[str, Any]) -> None:
    """Scored alike, and a labelled one without a look at its labels."""
    loaded = load_reward("confidence", LoadOptions())
    (found,) = score_given(loaded, read_solutions(written(tmp_path / "a.jsonl", row)))
    (plain,) = score_given(loaded, [GivenSolution("1", 0, PROBLEM, TEXT, None)])
    assert found.scores == pytest.approx(plain.scores)
    assert [step.text for step in found.steps] == TEXT.split("\n")


GOLD = {"solution": "So \\boxed{15}", "answer": "15"}
"""Columns of a data set that pools carry along: no solution of theirs."""


@pytest.mark.parametrize(
    "row",
    [
        {
            "problem_id": "a",
            "problem": PROBLEM,
            "completions": [TEXT, "No"],
            "scores": [[1], [2]],
            "pred_naive@1": "14",
            **GOLD,
        },
        {"unique_id": "a", "problem": PROBLEM, "completions": [TEXT, "No"], "finish_reasons": ["stop", "length"], **GOLD},
        {"question": PROBLEM, "groundtruth": "14", "output": [{"text": TEXT, "value": 1}, {"text": "No", "value": 0}], **GOLD},
        {
            "question": PROBLEM,
            "ground_truth_answer": "14",
            "model_answer": [{"text": TEXT, "step_scores": [0.1]}, {"text": "No", "step_scores": [0.2]}],
            **GOLD,
        },
        {"idx": 3, "question": PROBLEM, "gt": "14", "code": [TEXT, "No"], "pred_score": [0.5, 0.1], **GOLD},
        {"prompt": PROBLEM, "completions": [{"text": TEXT, "reward": 1}, {"text": "No", "reward": 0}], **GOLD},
    ],
    ids=["search-and-learn", "save-pool", "compute-optimal-tts", "rebase", "qwen", "train-pool"],
)
def test_of_a_pool_the_samples_are_scored(tmp_path: Path, row: dict[str, Any]) -> None:
    """In every format that is known, and not the right solution that lies beside them."""
    found = read_solutions(written(tmp_path / "a.jsonl", row))
    assert [(one.sample, one.text, one.problem) for one in found] == [(0, TEXT, PROBLEM), (1, "No", PROBLEM)]
    assert found[1].finished == ("finish_reasons" not in row)


def test_tokens_make_up_the_steps_and_their_scores() -> None:
    loaded = load_reward("confidence", LoadOptions())
    cut = GivenSolution("2", 0, PROBLEM, TEXT[:-4], None, finished=False)
    whole, unfinished = score_given(loaded, [GivenSolution("1", 0, PROBLEM, TEXT, None), cut], threshold=0.0)
    assert "".join(token.text for token in whole.tokens) == whole.text == TEXT
    assert all(whole.text[token.start : token.end] == token.text for token in whole.tokens)
    assert [whole.text[step.start : step.end].rstrip("\n") for step in whole.steps] == TEXT.split("\n")
    assert [step.start for step in whole.steps[1:]] == [step.end for step in whole.steps[:-1]]
    of_tokens = [aggregate(np.array([token.reward for token in one.tokens]), loaded.reward.aggregation) for one in whole.steps]
    assert of_tokens == pytest.approx(list(whole.scores), rel=1e-5)
    assert whole.tokens[-1].text == ""  # the end of the sequence
    assert unfinished.tokens[-1].text != ""
    assert whole.aggregates["min"] == pytest.approx(min(whole.scores))
    assert whole.first_suspected == 0  # confidence is a log-probability: all are below 0
    assert score_given(loaded, [cut], threshold=-99.0)[0].first_suspected is None
    assert score_given(loaded, [cut])[0].first_suspected is None  # its scores have no point that means wrong


def test_what_cannot_be_scored_says_why() -> None:
    loaded = load_reward("length", LoadOptions())
    good, empty = GivenSolution("1", 0, PROBLEM, TEXT, None), GivenSolution("2", 0, PROBLEM, " \n", None)
    scored = score_given(loaded, [empty, good])
    assert (scored[0].scores, scored[0].aggregates, scored[0].reason) == ((), {}, "it has no steps")
    assert len(scored[1].scores) == 3
    assert score_given(loaded, [empty])[0].reason == "it has no steps"


def test_a_file_of_which_nothing_can_be_scored_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "length", str(written(tmp_path / "a.jsonl", {"problem": PROBLEM, "solution": " "}))]) == 2
    assert "no solution can be scored" in capsys.readouterr().err


def test_places_and_colours() -> None:
    place = place_in([1.0, 2.0, 2.0, 4.0])
    assert [place(value) for value in (0.0, 1.0, 2.0, 4.0, 9.0)] == [0, 0.125, 0.5, 0.875, 1]
    assert (heat_of(0), heat_of(0.5), heat_of(1)) == (LOW, MIDDLE, HIGH)


def test_the_page_shows_the_number_of_every_step_and_token() -> None:
    loaded = load_reward("confidence", LoadOptions())
    scored = score_given(loaded, [GivenSolution("<a>", 0, "is 1 < 2?\n", "1 < 2 & so\nyes", None)], threshold=0.0)
    text = page(scored, reward="my <reward>", threshold=0.0)
    assert "<a>" not in text
    assert "my &lt;reward&gt;" in text
    assert text.count("first suspected") == 1
    assert len(re.findall("<span title=", text)) == len(scored[0].tokens) == len("1 < 2 & so\nyes") + 1
    assert "http" not in text
    assert "<script" not in text


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": PROBLEM, "solution": TEXT}, {"problem": PROBLEM, "solution": ""}]
    file, out, html = written(tmp_path / "a.jsonl", *rows), tmp_path / "b.jsonl", tmp_path / "c.html"
    given = ["score", "confidence", str(file), "--separator", "\\n", "--threshold", "0"]
    assert run([*given, "--out", str(out), "--html", str(html), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["solutions"], shown["unscored"], shown["suspected"]) == (2, 1, 1)
    assert shown["aggregation"] == "min"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines == shown["scores"]
    assert [step["text"] for step in lines[0]["steps"]] == TEXT.split("\n")
    assert lines[1]["reason"] == "it has no steps"
    assert html.read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert run(given) == 0
    out_text, notes = capsys.readouterr()
    assert "first suspected" in out_text
    assert "every solution is one step" not in notes
    assert "tokenizer does not know" not in notes
    (file.parent / "whole.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert run(["score", "confidence", str(file.parent / "whole.jsonl")]) == 0
    assert "steps end at '\\n\\n' here (--separator)" in capsys.readouterr().err
    foreign = written(tmp_path / "foreign.jsonl", rows[0], {"problem": PROBLEM, "solution": "\u4e09 = 3"})
    assert run(["score", "confidence", str(foreign)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 2 problems or solutions have tokens that the reward's tokenizer does not know" in said


def test_an_empty_file_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no solutions"):
        read_solutions(written(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"problem": PROBLEM, "solution": 3}, "is no text"),
        ({"problem": PROBLEM, "steps": "one"}, "has no solution"),
        ({"solution": TEXT}, "has no problem"),
        ({"problem": PROBLEM}, "no known pool of samples"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, row: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", "length", str(written(tmp_path / "a.jsonl", row))]) == 2
    assert said in capsys.readouterr().err
