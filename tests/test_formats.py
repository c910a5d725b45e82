"""Rows of source benchmarks in their own formats, written here by hand: what they become, and how they are graded."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.paths import CHECKOUT_DIR
from repirl.tasks.benchmarks import benchmark_cards, load_benchmark
from repirl.tasks.cards import CardMetadata, FileData, Selection, parse_metadata
from repirl.tasks.documents import load_documents, problem_of
from repirl.tasks.formats import last_boxed
from repirl.tasks.task_files import find_task_files
from repirl.types import Problem

DATA_DIR = CHECKOUT_DIR.parent / "shared" / "data"


def documents(
    tmp_path: Path, rows: list[dict[str, Any]], number: int | None = None, given: dict[str, str] | None = None, **data: Any
) -> list[dict[str, Any]]:
    """The rows through a card's data block, from a local JSONL."""
    folder = tmp_path / "data" / "own"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    block = {"folder": "own", "file": "rows.jsonl", **data}
    card = {"title": "t", "source": "s", "licence": "l", "grader": "math", "num_problems": number or len(rows), "data": block}
    return list(load_documents({"repirl": card, "data_dir": str(tmp_path / "data"), **(given or {})})["test"])


def programs(docs: list[dict[str, Any]]) -> list[Problem]:
    return [problem_of(doc, grader="code") for doc in docs]


def outcomes(problem: Problem, *texts: str) -> list[str]:
    return [v.outcome for v in grade_rollouts([problem] * len(texts), list(texts), allow_weak_sandbox=True)]


# ------------------------------------------------------------------------------------------------ mathematics


@pytest.mark.parametrize(("answer", "said"), [("073", "73"), (27.0, "27"), (70, "70"), ("-4", "-4")])
def test_an_integer_however_it_is_written(tmp_path: Path, answer: object, said: str) -> None:
    (doc,) = documents(tmp_path, [{"problem": "?", "answer": answer}], format="integer_answer")
    assert doc["answer"] == said


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} and \boxed{\frac{2}{3}}", r"\frac{2}{3}"),
        (r"$\boxed 5$", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{ x }.", "x"),
    ],
)
def test_the_last_box_of_a_solution(text: str, answer: str) -> None:
    assert last_boxed(text) == answer


def test_answers_inside_other_columns(tmp_path: Path) -> None:
    (doc,) = documents(tmp_path, [{"problem": "?", "solution": r"is \boxed{x^2}", "type": "A"}], format="boxed_solution")
    assert doc["answer"] == "x^2"
    row = {"problem": "?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 1,005"}
    (doc,) = documents(tmp_path, [row], format="gsm8k")
    assert (doc["answer"], doc["solution"]) == ("1005", "2 + 3 = <<2+3=5>>5.")
    row = {"q": "?", "final_answer": [" $1,2$ "], "solution": ["long"], "subfield": "Algebra"}
    mapped = {"problem": "q", "answer": "final_answer", "subject": "subfield"}
    (doc,) = documents(tmp_path, [row], format="olympiadbench", columns=mapped)
    assert (doc["answer"], doc["solution"], doc["subject"]) == ("$1,2$", "long", "Algebra")


@pytest.mark.parametrize(
    ("row", "name", "said"),
    [
        ({"problem": "?", "answer": "x"}, "integer_answer", "line 1 of rows.jsonl is not of the format 'integer_answer'"),
        ({"problem": "?", "answer": "2.5"}, "integer_answer", "is not an integer"),
        ({"problem": "?", "answer": None}, "integer_answer", "is not of the format"),
        ({"problem": "?", "solution": "none"}, "boxed_solution", "no boxed answer"),
        ({"problem": "?", "solution": r"\boxed{1"}, "boxed_solution", "never closed"),
        ({"problem": "?", "answer": "5"}, "gsm8k", "no `####`"),
        ({"problem": "?", "answer": ["1", "2"], "solution": []}, "olympiadbench", "is not of the format"),
        ({"problem": "?"}, "humaneval", "KeyError: 'entry_point'"),
        ({"problem": "?"}, "chess", "unknown format in a benchmark card: 'chess'"),
    ],
)
def test_a_row_of_another_format_is_one_clear_error(tmp_path: Path, row: dict[str, Any], name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        documents(tmp_path, [row], format=name)


# ------------------------------------------------------------------------------------------------------ code

HUMANEVAL = {
    "task_id": "H/0",
    "prompt": "import math\n\n\ndef half(x):\n    return x / 2\n\n\n"
    'def quarter(x: float) -> float:\n    """A quarter of x."""\n',
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "def check(candidate):\n    assert candidate(4) == 1\n    assert candidate(math.pi) == math.pi / 4\n",
}
MBPP = {
    "text": "Write a class Node and a function depth.",
    "code": "class Node:\r\n\tdef __init__(self, next=None):\r\n\t\tself.next = next\r\n"
    "def depth(n):\r\n\treturn 1 + depth(n.next) if n else 0",
    "task_id": 7,
    "test_setup_code": "root = Node()\r\nroot.next = Node()",
    "test_list": ["assert depth(root) == 2", "assert depth(None) == 0"],
    "challenge_test_list": [],
}
LEETCODE = {
    "task_id": "weekly-1",
    "prompt_sft": "Sum a list.\n\nComplete:\n```python\n# Definition.\n"
    "class Link:\n    def __init__(self, v, n=None):\n"
    "        self.v = v\n        self.n = n\n"
    "class Solution:\n    def total(self, head: Optional[Link]) -> int:\n        \n```\n",
    "meta": {"difficulty": "Medium"},
    "test": "my_solution = Solution()\nf = lambda xs: Link(xs[0], f(xs[1:])) if xs else None\n\n"
    "test_input = { 'head': f([1, 2]) }\nassert my_solution.total(**test_input) == 3\n",
}


def test_humaneval_takes_whole_functions_and_bodies(tmp_path: Path) -> None:
    (problem,) = programs(docs := documents(tmp_path, [HUMANEVAL], format="humaneval"))
    whole = "```python\ndef quarter(x):\n    return half(x) / 2\n```"
    assert outcomes(problem, whole, HUMANEVAL["canonical_solution"], docs[0]["solution"]) == ["correct"] * 3
    assert outcomes(problem, "", "    pass", "def quarter(x): return x", "def other(x): return x / 4") == ["wrong"] * 4


def test_mbpp_runs_its_set_up_after_the_program(tmp_path: Path) -> None:
    (problem,) = programs(docs := documents(tmp_path, [MBPP], format="mbpp"))
    assert problem.id == "7"
    assert problem.source.endswith("assert depth(root) == 2\nassert depth(None) == 0")
    assert outcomes(problem, docs[0]["solution"]) == ["correct"]
    assert outcomes(problem, MBPP["code"].replace("1 +", "2 +")) == ["wrong"]


def test_mbpp_sanitized_brings_imports_and_may_lack_ids(tmp_path: Path) -> None:
    row = {"prompt": "Root.", "code": "def r(x): return x ** 0.5", "test_imports": ["import math"]}
    row |= {"test_list": ["assert math.isclose(r(2), math.sqrt(2))"]}
    first, second = programs(documents(tmp_path, [row, row | {"test_list": ["assert r(4) == 2"]}], format="mbpp"))
    assert first.id != second.id
    assert outcomes(first, str(row["code"])) == ["correct"]


def test_leetcode_defines_what_its_starter_code_defines(tmp_path: Path) -> None:
    (problem,) = programs(documents(tmp_path, [LEETCODE], format="leetcode"))
    right = (
        "class Solution:\n    def total(self, head: Optional[Link]) -> int:\n"
        "        return head.v + self.total(head.n) if head else 0"
    )
    assert problem.level == 2
    assert outcomes(problem, right, right.replace("else 0", "else 1")) == ["correct", "wrong"]


def test_a_cards_limits_reach_the_sandbox(tmp_path: Path) -> None:
    (problem,) = programs(documents(tmp_path, [MBPP], format="mbpp", time_limit_s=1, memory_limit_mib=64))
    assert problem.tests is not None
    assert (problem.tests.time_limit_s, problem.tests.memory_limit_mib) == (1, 64)
    (verdict,) = grade_rollouts([problem], ["while True: pass"], allow_weak_sandbox=True)
    assert (verdict.outcome, verdict.reason) in {("wrong", "timeout"), ("wrong", "timeout (wall clock)")}
    assert outcomes(problem, "x = bytes(1 << 28)\n" + MBPP["code"]) == ["wrong"]


def test_rows_can_be_kept_by_number(tmp_path: Path) -> None:
    rows = [MBPP | {"task_id": i} for i in range(1, 6)]
    kept = documents(tmp_path, rows, number=3, format="mbpp", keep={"task_id": [2, 4]})
    assert [doc["id"] for doc in kept] == ["2", "3", "4"]


# --------------------------------------------------------------------------------------------- LiveCodeBench


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def lcb_row(key: str, day: str, private: str, *, functional: bool = False) -> dict[str, Any]:
    public = {"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}
    public = public if functional else {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
    return {
        "question_content": "Add.",
        "platform": "atcoder",
        "question_id": key,
        "contest_date": f"{day}T18:30:00",
        "starter_code": "class Solution:\n    def add(self, xs: List[int], y: int) -> int:\n        " if functional else "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([public]),
        "private_test_cases": private,
        "metadata": json.dumps({"func_name": "add"} if functional else {}),
    }


def test_livecodebench_with_packed_hidden_tests(tmp_path: Path) -> None:
    stdin = packed(json.dumps([{"input": "2 2\n", "output": "4\n", "testtype": "stdin"}]))
    calls = json.dumps([{"input": "[]\n1", "output": "1", "testtype": "functional"}])
    rows = [lcb_row("a", "2024-05-01", stdin), lcb_row("b", "2024-06-01", calls, functional=True)]
    printed, called = programs(documents(tmp_path, rows, format="livecodebench"))
    assert outcomes(printed, "print(sum(map(int, input().split())))", "print(3)") == ["correct", "wrong"]
    right = "class Solution:\n    def add(self, xs: List[int], y: int) -> int:\n        return sum(xs) + y"
    assert outcomes(called, right, right.replace("+ y", "+ 3")) == ["correct", "wrong"]
    assert "class Solution" in called.source
    assert "stdin" in printed.source


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/repirl-was-here",)


@pytest.mark.parametrize(
    ("private", "said"),
    [
        (packed(_Attack()), "ask for posix.mkdir"),
        (packed(["a", "list"]), "hold a list, not text"),
        (base64.b64encode(b"garbage").decode(), "cannot unpack"),
        (packed("[]")[:-8], "too large, or cut off|cannot unpack"),
        ("not base64", "cannot unpack|is not of the format"),
    ],
)
def test_packed_tests_that_are_not_text_are_refused(tmp_path: Path, private: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        documents(tmp_path, [lcb_row("a", "2024-05-01", private)], format="livecodebench")
    assert not Path("/tmp/repirl-was-here").exists()


def test_livecodebench_samples_have_arguments_by_name(tmp_path: Path) -> None:
    row = lcb_row("a", "2024-05-01", "[]", functional=True) | {
        "problem": "Add.",
        "sample_tests": [{"input": {"y": 3, "xs": [1, 2]}, "output": 6}],
        "solutions": [
            {"code": "no", "lcb_graded": False, "passes_samples": True},
            {
                "code": "class Solution:\n    def add(self, xs, y): return sum(xs) + y",
                "lcb_graded": True,
                "passes_samples": True,
            },
        ],
    }
    (problem,) = programs(docs := documents(tmp_path, [row], format="livecodebench_samples"))
    assert outcomes(problem, docs[0]["solution"]) == ["correct"]


def test_a_date_window_chooses_problems(tmp_path: Path) -> None:
    rows = [lcb_row(day, day, "[]") for day in ("2024-04-30", "2024-05-01", "2024-05-31", "2024-06-01")]

    def days(**given: str) -> list[str]:
        data = {"format": "livecodebench", "date_column": "contest_date"}
        return [doc["id"] for doc in documents(tmp_path, rows, given=given, **data)]

    assert days(date_from="2024-05-01", date_to="2024-05-31") == ["2024-05-01", "2024-05-31"]
    assert days(date_from="2024-05-31") == ["2024-05-31", "2024-06-01"]
    assert len(days()) == 4
    with pytest.raises(UserError, match=r"is empty.*dates"):
        days(date_from="2025-01-01")
    with pytest.raises(UserError, match="bad date_to"):
        days(date_to="soon")


def test_releases_have_their_own_files_and_numbers() -> None:
    data = {
        "folder": "f",
        "default_release": "v1",
        "releases": {"v1": {"files": ["a"], "num_problems": 3}, "v2": {"files": ["a", "b"], "num_problems": 5}},
    }
    card = CardMetadata.model_validate(
        {"title": "t", "source": "s", "licence": "l", "grader": "code", "num_problems": 3, "data": data}
    )
    assert card.expected_number(Selection()) == 3
    assert card.expected_number(Selection(release="v2")) == 5
    with pytest.raises(UserError, match="unknown release: 'v3'; choose one of v1, v2"):
        card.expected_number(Selection(release="v3"))


# ---------------------------------------------------------------------------------------------------- parquet


def test_the_hub_may_have_other_files_columns_and_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"text": "1+1?", "gold": 2.0, "url": "u"}]), path)
    asked: list[object] = []

    def download(*arguments: object, **options: object) -> str:
        asked.append((*arguments, options["revision"]))
        return str(path)

    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    there = {
        "files": ["data/train.parquet"],
        "columns": {"problem": "text", "answer": "gold", "id": "url"},
        "format": "integer_answer",
    }
    data = {"folder": "own", "file": "rows.jsonl", "hub": "a/b", "revision": "a" * 40, "on_hub": there}
    card = {"title": "t", "source": "s", "licence": "l", "grader": "math", "num_problems": 1, "data": data}
    (doc,) = load_documents({"repirl": card})["test"]
    assert (doc["id"], doc["problem"], doc["answer"]) == ("u", "1+1?", "2")
    assert asked == [("a/b", "data/train.parquet", "a" * 40)]
    path.write_text("no parquet")
    with pytest.raises(UserError, match="cannot read the parquet file"):
        load_documents({"repirl": card})


def test_a_copy_on_the_hub_must_be_the_file_that_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "1+1?", "answer": "2"}\n')
    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    there = {"sha256": {"rows.jsonl": digest}}
    data = {"folder": "own", "file": "rows.jsonl", "hub": "a/b", "revision": "a" * 40, "on_hub": there}
    card = {"title": "t", "source": "s", "licence": "l", "grader": "math", "num_problems": 1, "data": data}
    assert len(load_documents({"repirl": card})["test"]) == 1
    path.write_text('{"problem": "1+1?", "answer": "3"}\n')
    with pytest.raises(UserError, match=rf"rows\.jsonl of a/b at aaaaaaaaaaaa is another file.*{digest[:12]}.*--data-dir"):
        load_documents({"repirl": card})


@pytest.mark.parametrize("name", ["olympiadbench", "leetcode"])
def test_what_the_hub_must_give_is_what_the_data_folder_has(name: str) -> None:
    """The digests on the cards are those of the published files, here read from the data folder (unpacked)."""
    import gzip
    import hashlib

    local(name)
    path, config = find_task_files([]).tasks[name]
    data = parse_metadata(config["metadata"]["repirl"], str(path)).data
    assert isinstance(data, FileData)
    (digest,) = data.on_hub.sha256.values()
    path = DATA_DIR / data.folder / data.file_names(Selection())[0]
    content = path.read_bytes() if path.is_file() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == digest


# ------------------------------------------------------------------------------------------------- real data


def local(name: str) -> None:
    if {card.name: card.status for card in benchmark_cards(data_dir=DATA_DIR)}[name] != "local":
        pytest.skip(f"no local data for {name}")


def test_a_window_of_the_real_livecodebench_samples() -> None:
    local("livecodebench_samples")
    name = "livecodebench_samples:date_from=2024-08-01,date_to=2024-08-31"
    benchmark = load_benchmark(name, data_dir=DATA_DIR)
    assert (benchmark.name, benchmark.card.num_problems, len(benchmark.problems)) == (name, 66, 66)
    assert {p.subject for p in benchmark.problems} == {"atcoder", "leetcode"}


def test_leetcode_accepts_programs_that_passed_livecodebench() -> None:
    """The LeetCode set brings no solutions; LiveCodeBench has some of its problems, with programs that passed there."""
    local("leetcode")
    local("livecodebench_samples")
    import gzip

    with gzip.open(DATA_DIR / "livecodebench" / "public_samples.jsonl.gz", "rt") as file:
        passed = {
            row["title"]: next((s["code"] for s in row["solutions"] if s["lcb_graded"]), None) for row in map(json.loads, file)
        }
    benchmark = load_benchmark("leetcode", data_dir=DATA_DIR)
    known = [(p, code) for p in benchmark.problems if (code := passed.get(p.id.split("-", 3)[-1]))]
    assert len(known) > 100
    problems, codes = zip(*known[::4], strict=True)
    verdicts = grade_rollouts(problems, codes, allow_weak_sandbox=True)
    assert [v.outcome for v in verdicts] == ["correct"] * len(codes)
