"""Training sets from files: one's own JSONL with answers or tests, and the published sets in local copies of their layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.tasks.training_files import EURUS_2_RL_DATA, MATH_TRAIN, file_rows
from repirl.tasks.training_sets import TrainingSet, TrainingSetConfig, load_training_set


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def load(source: str, folder: Path | None, **settings: Any) -> TrainingSet:
    values = {"source": source, "file": str(folder) if folder else None, "num_problems": 100, "validation_problems": 2}
    return load_training_set(TrainingSetConfig.model_validate(values | settings))


@pytest.fixture
def math_folder(tmp_path: Path) -> Path:
    """MATH's training part, one subject of which has problems."""
    rows = [
        {"problem": f"{i}+1?", "level": f"Level {i % 5 + 1}", "type": "Algebra", "solution": rf"It is $\boxed{{{i + 1}}}$."}
        for i in range(10)
    ]
    unknown = {"problem": "What?", "level": "Level ?", "type": "Geometry", "solution": r"\boxed{9}"}
    for name in MATH_TRAIN.train_files:
        write_parquet(tmp_path / name, rows if name.startswith("algebra") else [unknown])
    return tmp_path


def test_math_train(math_folder: Path) -> None:
    loaded = load("math-train", math_folder, prompt_suffix=" Box it.")
    everything = [*loaded.problems, *loaded.validation]
    assert len(loaded.validation) == 2
    assert len(everything) == 11  # the problem of the other six subjects is one
    assert {p.source for p in loaded.problems}.isdisjoint(p.source for p in loaded.validation)
    assert all(p.prompt == p.source + " Box it." for p in everything)
    assert {p.level for p in everything} == {1, 2, 3, 4, 5, None}
    for problem in loaded.problems:
        (demo,) = loaded.demonstrations[problem.id]
        assert demo.text.endswith(rf"\boxed{{{problem.answer}}}$.") or problem.answer == "9"
    verdicts = grade_rollouts(everything, [rf"\boxed{{{p.answer}}}" for p in everything])
    assert {v.outcome for v in verdicts} == {"correct"}


def test_a_seed_chooses_and_the_number_does_not(math_folder: Path) -> None:
    few, many = load("math-train", math_folder, num_problems=3), load("math-train", math_folder, num_problems=6)
    assert many.problems[:3] == few.problems
    assert many.validation == few.validation
    assert load("math-train", math_folder, num_problems=3).digest == few.digest
    other = load("math-train", math_folder, num_problems=3, problem_seed=1)
    assert other.digest != few.digest
    levels = {p.level for p in load("math-train", math_folder, levels=(2, 3)).problems}
    assert levels <= {2, 3, None}


def eurus_row(ability: str, text: str, gold: str) -> dict[str, Any]:
    return {
        "data_source": "numina" if ability == "math" else "apps",
        "prompt": [{"role": "system", "content": "Use actions."}, {"role": "user", "content": text}],
        "ability": ability,
        "reward_model": {"ground_truth": gold, "style": "rule"},
        "extra_info": {"index": 0, "split": "train"},
    }


PRINTS = {"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", "7"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}


@pytest.fixture
def eurus_folder(tmp_path: Path) -> Path:
    train = [eurus_row("math", f"{i}+{i}?", str(2 * i)) for i in range(6)]
    train += [eurus_row("code", "Print the sum.", json.dumps(PRINTS)), eurus_row("code", "Add.", json.dumps(CALLS))]
    held_out = [eurus_row("math", f"{i}+0?", str(i)) for i in range(4)] + [train[0]]
    held_out += [eurus_row("code", f"Print {i}.", json.dumps({"inputs": [""], "outputs": [str(i)]})) for i in range(3)]
    write_parquet(tmp_path / "train.parquet", train)
    write_parquet(tmp_path / "validation.parquet", held_out)
    return tmp_path


def test_eurus_math(eurus_folder: Path) -> None:
    loaded = load("eurus-2-rl-data:math", eurus_folder)
    assert len(loaded.problems) == 5  # one of the six is in the validation part as well
    assert len(loaded.validation) == 2
    assert {p.grader for p in loaded.problems} == {"math"}
    assert {p.prompt for p in loaded.problems} == {f"{i}+{i}?" for i in range(1, 6)}
    assert all(str(2 * int(p.source[0])) == p.answer for p in loaded.problems)


def test_eurus_code_runs(eurus_folder: Path) -> None:
    loaded = load("eurus-2-rl-data:code", eurus_folder)
    problems = {p.source: p for p in loaded.problems}
    assert problems.keys() == {"Print the sum.", "Add."}
    sums = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"
    programs = [(problems["Print the sum."], sums), (problems["Add."], "def add(a, b): return a + b")]
    programs += [(problems["Print the sum."], "print(3)"), (problems["Add."], "def add(a, b): return [a + b]")]
    verdicts = grade_rollouts([p for p, _ in programs], [text for _, text in programs], allow_weak_sandbox=True)
    assert [v.outcome for v in verdicts] == ["correct", "correct", "wrong", "wrong"]


def test_a_data_folder_or_the_hub_at_its_revision(math_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(hub: str, name: str, **options: object) -> str:
        asked.append((hub, name, options["revision"]))
        return str(math_folder / name)

    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    from_hub = load("math-train", None)
    assert asked == [(MATH_TRAIN.hub, name, MATH_TRAIN.revision) for name in MATH_TRAIN.train_files]
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / MATH_TRAIN.folder).symlink_to(math_folder)
    monkeypatch.setenv("REPIRL_DATA_DIR", str(tmp_path / "root"))
    assert load("math-train", None).digest == from_hub.digest == load("math-train", math_folder).digest
    assert len(asked) == len(MATH_TRAIN.train_files)


@pytest.mark.parametrize("published", [MATH_TRAIN, EURUS_2_RL_DATA])
def test_published_sets_are_pinned(published) -> None:
    assert len(published.revision) == 40
    int(published.revision, 16)


@pytest.mark.parametrize(
    ("source", "change", "said"),
    [
        ("math-train", {"level": 3}, "row 1 of train-00000-of-00001.parquet is not of EleutherAI/hendrycks_math"),
        ("math-train", {"solution": "no box"}, "no boxed answer"),
        ("math-trian", {}, "unknown training set: 'math-trian'; choose one of arith, arith_hard, minicode, file"),
    ],
)
def test_bad_training_data_is_one_clear_error(math_folder: Path, source: str, change: dict[str, Any], said: str) -> None:
    row = {"problem": "1+1?", "level": "Level 1", "type": "Algebra", "solution": r"\boxed{2}"} | change
    for name in MATH_TRAIN.train_files:
        write_parquet(math_folder / name, [row, row | {"problem": "1+2?"}, row | {"problem": "1+3?"}])
    with pytest.raises(UserError, match=said):
        load(source, math_folder)


def test_a_problem_given_twice_names_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"id": "1", "problem": "1+1?", "answer": "2"}\n{"id": "1", "problem": "5+5?", "answer": "10"}\n')
    with pytest.raises(UserError, match=r"line 2 of own\.jsonl repeats the id '1' of line 1"):
        file_rows(path, "")
    path.write_text('{"problem": "1+1?", "answer": "2"}\n{"id": 0, "problem": "x", "answer": "2"}\n' * 2)
    with pytest.raises(UserError, match=r"line 3 of own\.jsonl repeats the problem of line 1"):
        file_rows(path, "")


def test_rows_of_one_problem_are_merged_if_asked(tmp_path: Path) -> None:
    """As distilled data has them, with or without ids of the rows; what contradicts itself is refused."""
    path = tmp_path / "own.jsonl"
    rows = [
        {"id": "a", "problem": "1+1?", "answer": "2", "demonstrations": ["One.", "Two."]},
        {"problem": "5+5?", "answer": "10", "demonstrations": ["Ten."]},
        {"id": "b", "problem": "1+1?", "answer": "2", "demonstrations": ["Two.", "Three."]},
        {"problem": "5+5?", "answer": "10"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    merged = file_rows(path, "", merge=True)
    assert (merged[0].problem.id, merged[0].problem.prompt) == ("a", "1+1?")
    assert [[demo.text for demo in row.demonstrations] for row in merged] == [["One.", "Two.", "Three."], ["Ten."]]
    assert {demo.problem_id for demo in merged[0].demonstrations} == {"a"}
    config = TrainingSetConfig(source="file", file=str(path), merge=True, validation_problems=1)
    assert [problem.prompt for problem in load_training_set(config).problems] == ["1+1?"]
    with pytest.raises(UserError, match=r"set data\.merge=true"):
        load_training_set(config.model_copy(update={"merge": False}))
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps({**rows[2], "answer": "3"}) + "\n")
    with pytest.raises(UserError, match=r"line 2 of own\.jsonl has the problem or id of line 1, with another text, answer"):
        file_rows(path, "", merge=True)


def test_too_few_problems_or_no_file(math_folder: Path, eurus_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few problems to hold out 11"):
        load("math-train", math_folder, validation_problems=11)
    with pytest.raises(UserError, match="too few problems to hold out 4"):
        load("eurus-2-rl-data:code", eurus_folder, validation_problems=4)
    with pytest.raises(UserError, match=r"no such training file in the folder.*train\.parquet"):
        load("eurus-2-rl-data:math", tmp_path / "nowhere")


def test_a_file_of_ones_own_may_hold_programming_problems(tmp_path: Path) -> None:
    tests = {"kind": "functional", "entry_point": "f", "cases": [{"args": [2], "expected": 4}]}
    rows = [{"problem": "Double x.", "tests": tests, "demonstrations": ["def f(x): return 2 * x"]}]
    rows += [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(3)]
    path = tmp_path / "mine.jsonl"

    def loaded() -> TrainingSet:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load("file", path)

    first = loaded()
    code, math = first.problems
    assert (code.grader, code.answer, math.grader, math.answer) == ("code", None, "math", "1")
    demo = first.demonstrations[code.id][0].text
    assert [v.outcome for v in grade_rollouts([code], [demo], allow_weak_sandbox=True)] == ["correct"]
    tests["cases"] = [{"args": [2], "expected": 5}]
    assert loaded().digest != first.digest
    rows[0] = {"problem": "Double x."}
    with pytest.raises(UserError, match=r"line 1 of mine\.jsonl lacks the text field: 'answer'"):
        loaded()
