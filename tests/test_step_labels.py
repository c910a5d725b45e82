"""Labelled steps: the formats of PRM800K, Math-Shepherd, TRL and ProcessBench, and the PRM benchmarks' files."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from repirl.errors import UserError
from repirl.paths import CHECKOUT_DIR
from repirl.tasks import prm_benchmarks
from repirl.tasks.prm_benchmarks import load_prmbench, load_processbench, prm_cards, subset_of
from repirl.tasks.step_formats import Malformed
from repirl.tasks.step_labels import FORMATS, LabelledSolution, StepFormat, labels_until, read_labelled, write_labelled

DATA = CHECKOUT_DIR.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def solution(*labels: float | None, problem: str = "What is 1+1?", **fields: Any) -> LabelledSolution:
    steps = tuple(f"we look at it, part {i}\nand again" for i in range(len(labels)))
    return LabelledSolution("s", problem, steps, labels, **fields)


def contents(solutions: list[LabelledSolution]) -> list[tuple]:
    return [(one.problem, one.steps, one.labels) for one in solutions]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows))
    return path


# ---------------------------------------------------------------------------------------------- one type


@pytest.mark.parametrize(
    ("labels", "first"),
    [((1.0, 1.0), -1), ((1.0, 0.0, 1.0), 1), ((0.5, 0.49), 1), ((None, 0.0), 1), ((0.0, None), 0), ((None,), -1)],
)
def test_first_error_is_the_first_label_below_a_half(labels, first):
    assert solution(*labels).first_error_index == first


def test_labels_where_only_the_first_error_is_known():
    assert labels_until(-1, 2) == (1.0, 1.0)
    assert labels_until(1, 4) == (1.0, 0.0, None, None)
    for index in (-2, 4):
        with pytest.raises(Malformed):
            labels_until(index, 4)


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": (), "labels": ()},
        {"steps": ("a", " \n"), "labels": (1.0, 1.0)},
        {"steps": ("a",), "labels": (1.0, 0.0)},
        {"steps": ("a",), "labels": (1.5,)},
        {"steps": ("a",), "labels": (float("nan"),)},
        {"steps": ("a",), "labels": (1.0,), "problem": ""},
    ],
)
def test_a_solution_that_is_none_is_refused(fields):
    with pytest.raises(Malformed):
        LabelledSolution(**{"id": "s", "problem": "p", **fields})


# ------------------------------------------------------------------------------------------- round trips

HARD = [solution(1.0, 0.0), solution(1.0, 1.0, 1.0), solution(0.0, 1.0, 0.0, problem="two\nlines, Step 2: too")]
AS_IT_CAN: dict[StepFormat, list[LabelledSolution]] = {
    "prm800k": [*HARD, solution(1.0, 0.5, 0.0, finished=False), solution(0.5, None, 1.0), solution(1.0, finished=False)],
    "math-shepherd": HARD,
    "trl": HARD,
    "processbench": [solution(1.0, 0.0, None), solution(1.0, 1.0, final_answer_correct=True), solution(0.0)],
}


@pytest.mark.parametrize("step_format", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, step_format: StepFormat):
    solutions = AS_IT_CAN[step_format]
    path = tmp_path / "steps.jsonl"
    write_labelled(path, solutions, step_format)
    for name in (None, step_format):  # the format is told by the keys, or given
        found = read_labelled(path, name)
        assert contents(found) == contents(solutions)
    if step_format == "prm800k":
        assert [one.finished for one in found] == [one.finished for one in solutions]
    if step_format == "processbench":
        assert [one.final_answer_correct for one in found] == [None, True, None]
    again = tmp_path / "again.jsonl"
    write_labelled(again, found, step_format)
    assert [json.loads(line).get("label") for line in again.open()] == [json.loads(line).get("label") for line in path.open()]


@pytest.mark.parametrize("step_format", FORMATS)
def test_soft_labels_are_refused_or_rounded_never_cut(tmp_path: Path, step_format: StepFormat):
    path = tmp_path / "steps.jsonl"
    soft = solution(0.9, 0.3)
    with pytest.raises(UserError, match="solution s"):
        write_labelled(path, [soft], step_format)
    assert not path.exists()
    write_labelled(path, [soft], step_format, harden=True)
    assert read_labelled(path)[0].labels == (1.0, 0.0)


def test_soft_labels_of_trl_files_are_kept(tmp_path: Path):
    path = lines(tmp_path / "a.jsonl", {"prompt": "p", "completions": ["a", "b", "c"], "labels": [0.9, 0.25, True]})
    (one,) = read_labelled(path)
    assert one.labels == (0.9, 0.25, 1.0)
    assert one.first_error_index == 1


def test_gzip_and_arrays_are_read(tmp_path: Path):
    row = {"problem": "p", "steps": ["a", "b"], "label": 1, "final_answer_correct": True}
    with gzip.open(tmp_path / "a.json.gz", "wt") as file:
        json.dump([row, row], file)
    assert [one.first_error_index for one in read_labelled(tmp_path / "a.json.gz")] == [1, 1]


# ------------------------------------------------------------------------------------------ the formats


def test_prm800k_row_is_a_tree(tmp_path: Path):
    """Every completion that was not chosen ends a solution of its own; human steps are right; unrated ones say nothing."""
    human = {"text": "H", "rating": None, "source": "human"}
    steps = [
        {
            "completions": [{"text": "A", "rating": 1}, {"text": "B", "rating": -1}],
            "human_completion": None,
            "chosen_completion": 0,
        },
        {"completions": [{"text": "C", "rating": -1}], "human_completion": human, "chosen_completion": None},
        {"completions": [{"text": "D", "rating": 0}, {"text": "E", "rating": None}], "chosen_completion": 0},
    ]
    path = lines(tmp_path / "a.jsonl", {"question": {"problem": "p"}, "label": {"steps": steps, "finish_reason": "solution"}})
    found = read_labelled(path)
    assert [(one.steps, one.labels, one.finished) for one in found] == [
        (("B",), (0.0,), False),
        (("A", "C"), (1.0, 0.0), False),
        (("A", "H", "D"), (1.0, 1.0, 0.5), True),
    ]
    assert len({one.id for one in found}) == 3
    assert {one.cluster for one in found} == {"p"}


def test_prm800k_path_ends_where_nobody_chose(tmp_path: Path):
    chosen = {"completions": [{"text": "A", "rating": 1}], "human_completion": None, "chosen_completion": 0}
    open_end = {"completions": [{"text": "B", "rating": -1}, {"text": "C", "rating": 1}], "human_completion": None}
    nothing = {"completions": None, "human_completion": None, "chosen_completion": None}
    found = {}
    for name, last in (("found_error", open_end), ("give_up", nothing)):
        row = {"question": {"problem": "p"}, "label": {"steps": [chosen, last], "finish_reason": name}}
        found[name] = [(one.steps, one.finished) for one in read_labelled(lines(tmp_path / "a.jsonl", row))]
    assert found == {"found_error": [(("A", "B"), False), (("A", "C"), False)], "give_up": [(("A",), False)]}


def test_math_shepherd_tags_inside_words_are_text(tmp_path: Path):
    row = {"input": "q? Step 1: реки ки\nStep 2: b ки", "label": "q? Step 1: реки +\nStep 2: b -", "task": "MATH"}
    (one,) = read_labelled(lines(tmp_path / "a.jsonl", row))
    assert (one.problem, one.steps, one.labels, one.subset) == ("q?", ("реки", "b"), (1.0, 0.0), "MATH")


GOOD = {"prompt": "p", "completions": ["a"], "labels": [True]}
SHEPHERD = {"input": "q Step 1: a ки", "label": "q Step 1: a +"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 2 of a.jsonl is not JSON"),
        ("[1]", "line 2 of a.jsonl is not a JSON object"),
        (GOOD | {"labels": [True, False]}, "1 steps but 2 labels"),
        (GOOD | {"labels": [-100]}, "outside of [0, 1]"),
        (GOOD | {"labels": ["+"]}, "`labels` is not a list"),
        (GOOD | {"completions": [""]}, "a step is empty"),
        (GOOD | {"completions": "a"}, "`completions` is not a list of texts"),
        (GOOD | {"prompt": 3}, "`prompt` is not text"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, row: Any, said: str):
    with pytest.raises(UserError) as error:
        read_labelled(lines(tmp_path / "a.jsonl", GOOD, row))
    assert "line 2 of a.jsonl" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (SHEPHERD | {"label": "q Step 1: a ки"}, "text after the last tag"),
        (SHEPHERD | {"label": "q Step 1: b +"}, "differ in more than the tags"),
        (SHEPHERD | {"label": "q Step 1: a ?"}, "neither + nor -"),
        (SHEPHERD | {"label": "q Step 1: a + more"}, "after the last tag"),
        ({"input": "q a ки", "label": "q a +"}, "no `Step 1: `"),
        ({"problem": "p", "steps": ["a"], "label": 1}, "step 1 of 1"),
        ({"problem": "p", "steps": ["a"], "label": True}, "not a whole number"),
        ({"question": {"problem": "p"}, "label": {"steps": [{"completions": [{"text": "a", "rating": 2}]}]}}, "rating 2"),
        (
            {"question": {"problem": "p"}, "label": {"steps": [{"completions": [], "chosen_completion": 0}]}},
            "chosen_completion",
        ),
        ({"question": "p", "label": {}}, "question.problem"),
        ({"text": "nothing of all this"}, "none of the known formats"),
    ],
)
def test_malformed_rows_of_each_format(tmp_path: Path, row: Any, said: str):
    with pytest.raises(UserError) as error:
        read_labelled(lines(tmp_path / "a.jsonl", row))
    assert said in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 50)[:-12])
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("absent.jsonl", "cut.jsonl.gz", "latin.jsonl", "empty.jsonl"):
        with pytest.raises(UserError) as error:
            read_labelled(tmp_path / name)
        assert "\n" not in str(error.value)


def test_math_shepherd_refuses_what_it_cannot_hold(tmp_path: Path):
    for one in (solution(1.0, problem="Step 1: trap"), solution(1.0, problem="реки"), solution(1.0, problem=" p")):
        with pytest.raises(UserError, match="math-shepherd cannot hold solution s"):
            write_labelled(tmp_path / "a.jsonl", [one], "math-shepherd")


# -------------------------------------------------------------------------------------------- real files


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "wrong", "right_answer"),
    [("gsm8k", 400, 207, 7), ("math", 1000, 594, 94), ("olympiadbench", 1000, 661, 161), ("omnimath", 1000, 759, 259)],
)
def test_processbench_files_hold_what_is_stated(name: str, rows: int, wrong: int, right_answer: int):
    card = prm_cards()["processbench"]
    found = load_processbench(card, subset_of(card, name), DATA)
    errors = [one for one in found if one.first_error_index >= 0]
    assert (len(found), len(errors)) == (rows, wrong)
    assert sum(bool(one.final_answer_correct) for one in errors) == right_answer
    assert all(one.final_answer_correct for one in found if one.first_error_index == -1)


@needs_data
def test_prmbench_files_hold_what_is_stated():
    card = prm_cards()["prmbench"]
    found = load_prmbench(card, subset_of(card, "subset400"), DATA)
    assert len(found.solutions) == 394
    assert len({one.subset for one in found.solutions}) == 9
    assert len({one.id for one in found.solutions}) == 394
    # The first error of 1-based marks [5, 6] is step 4, counted from 0.
    assert found.solutions[0].first_error_index == 4
    assert found.solutions[0].labels[5] == 0.0
    assert len(found.controls) == Counter(one.subset for one in found.solutions)["redundency"] == 48
    assert all(one.first_error_index == -1 for one in found.controls)
    assert found.marks_beyond_end == 12
    many = load_prmbench(card, subset_of(card, "multi_solutions"), DATA)
    assert len(many.solutions) == 165
    assert all(one.first_error_index == -1 for one in many.solutions)


@needs_data
def test_real_prm800k_and_math_shepherd_rows(tmp_path: Path):
    prm800k = read_labelled(DATA / "prm800k_sample" / "samples_prm800k.jsonl")
    assert {one.id.split(".")[0] for one in prm800k} == {"1", "2", "3", "4", "5", "6"}
    assert sum(one.finished for one in prm800k) == 4  # four rows ended with a solution, one in an error, one was given up
    path = DATA / "math_shepherd_sample" / "samples_math-shepherd.jsonl"
    shepherd = read_labelled(path)
    assert len(shepherd) == 7
    assert shepherd[0].labels == (1.0, 1.0, 1.0, 1.0, 0.0)
    # Byte for byte what it was: numbering and tags are the format's own.
    write_labelled(tmp_path / "a.jsonl", shepherd, "math-shepherd")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").open()] == [json.loads(line) for line in path.open()]
    for name in ("prm800k", "trl"):
        write_labelled(tmp_path / "b.jsonl", shepherd, name)
        assert contents(read_labelled(tmp_path / "b.jsonl")) == contents(shepherd)


def test_without_a_data_folder_the_hub_gives_the_file_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[object, ...]] = []

    def download(*arguments: object, **options: object) -> str:
        asked.append((*arguments, options["revision"]))
        lines(tmp_path / "gsm8k.json", {"problem": "p", "steps": ["a"], "label": 0})
        return str(tmp_path / "gsm8k.json")

    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    card = prm_cards()["processbench"]
    with pytest.raises(UserError, match="must have num_solutions = 400, found: 1"):
        load_processbench(card, subset_of(card, "gsm8k"))
    assert asked == [("Qwen/ProcessBench", "gsm8k.json", "3bdcd5371ed567559a78f559c01c13a6deee7604")]
    with pytest.raises(UserError, match="not at hand"):  # these files are on no hub
        load_prmbench(prm_cards()["prmbench"], subset_of(prm_cards()["prmbench"], "subset400"))


@pytest.mark.parametrize("step_format", FORMATS)
def test_a_row_that_lacks_a_key_is_named(step_format: StepFormat, tmp_path: Path):
    from repirl.tasks.step_formats import KEYS

    one = LabelledSolution("a", "p", ("x", "y"), (1.0, 0.0), finished=True)
    path = tmp_path / "rows.jsonl"
    if step_format == "processbench":
        lines(path, {"problem": "p", "steps": ["x", "y"], "label": 1})
    else:
        write_labelled(path, [one], step_format)
    whole = json.loads(path.read_text())
    for key in sorted(KEYS[step_format]):
        lines(path, whole, {name: value for name, value in whole.items() if name != key})
        with pytest.raises(UserError, match=rf"line 2 of rows\.jsonl is no row of format {step_format} \(it lacks `{key}`\)"):
            read_labelled(path)


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    card = prm_cards()["processbench"]
    subset = subset_of(card, "gsm8k")
    with pytest.raises(UserError, match="no such data folder"):
        load_processbench(card, subset, tmp_path / "absent")
    (tmp_path / "processbench").mkdir()
    lines(tmp_path / "processbench" / "gsm8k.json", {"problem": "p", "steps": ["a"], "label": 0})
    with pytest.raises(UserError, match="must have num_solutions = 400, found: 1"):
        load_processbench(card, subset, tmp_path)
    with pytest.raises(UserError, match="not at hand"):
        load_processbench(card, subset_of(card, "math"), tmp_path)
    with pytest.raises(UserError, match="choose one of gsm8k, math"):
        subset_of(card, "gsm8")


def test_prmbench_marks_count_from_one(tmp_path: Path):
    row = {
        "original_question": "q",
        "original_process": ["a", "b"],
        "modified_question": "q2",
        "modified_process": ["a", "x", "y"],
        "error_steps": [2, 4],
        "classification": "redundency",
        "idx": "i",
    }
    card = prm_cards()["prmbench"]
    subset = prm_benchmarks.PRMSubset(name="s", file="f.jsonl", num_solutions=1, num_with_error=1)
    (tmp_path / "prmbench").mkdir()
    lines(tmp_path / "prmbench" / "f.jsonl", row)
    found = load_prmbench(card, subset, tmp_path)
    assert found.solutions[0].labels == (1.0, 0.0, 1.0)
    assert found.controls[0].steps == ("a", "b")
    assert found.marks_beyond_end == 1
    lines(tmp_path / "prmbench" / "f.jsonl", row | {"error_steps": [0]})
    with pytest.raises(UserError, match=r"line 1 of f\.jsonl"):
        load_prmbench(card, subset, tmp_path)
