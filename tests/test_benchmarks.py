"""Benchmark cards and their data: the contract that every registered benchmark keeps, and what a bad one says."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repirl.errors import UserError
from repirl.grading.dispatch import grade_rollouts
from repirl.paths import CHECKOUT_DIR, content_dir
from repirl.tasks.benchmarks import benchmark_cards, load_benchmark
from repirl.tasks.documents import decode_tests, encode_tests
from repirl.tasks.training_sets import FAMILIES
from repirl.types import Case, CodeTests, Problem, Verdict

DATA_DIR = CHECKOUT_DIR.parent / "shared" / "data"
NAMES = [card.name for card in benchmark_cards()]


def load(name: str):
    """The registered benchmark, from local data if it needs any; skips where that is absent."""
    status = {card.name: card.status for card in benchmark_cards(data_dir=DATA_DIR)}[name]
    if status not in ("embedded", "local"):
        pytest.skip(f"no local data for {name}")
    return load_benchmark(name, data_dir=DATA_DIR if status == "local" else None)


def outcomes(problems: list[Problem], texts: list[str]) -> list[str]:
    return [verdict.outcome for verdict in grade_rollouts(problems, texts, allow_weak_sandbox=True)]


# --------------------------------------------------------------------------- contract of every benchmark


@pytest.mark.parametrize("name", NAMES)
def test_gold_is_accepted_and_wrong_is_rejected(name: str) -> None:
    benchmark = load(name)
    spread = benchmark.problems[:: max(1, len(benchmark.problems) // 40)]
    problems = [problem for problem in spread if problem.id not in benchmark.card.gold_exceptions]
    family = FAMILIES.get(problems[0].family)
    if family is not None:
        for style in (family.OWN_STYLE, *family.EXPERT_STYLES):
            assert set(outcomes(problems, [family.solution(p.source, style) for p in problems])) == {"correct"}
        # A right solution of another problem: well formed, and wrong.
        others = [
            next(q for q in problems if q.answer != p.answer or (q.tests != p.tests and q.level != p.level)) for p in problems
        ]
        assert set(outcomes(problems, [family.solution(q.source, family.OWN_STYLE) for q in others])) == {"wrong"}
        return
    if benchmark.card.grader == "code":
        solved = [p for p in problems if p.id in benchmark.solutions]
        golds = [f"Here it is.\n```python\n{benchmark.solutions[p.id]}\n```\nDone." for p in solved]
        assert set(outcomes(solved, golds)) <= {"correct"}
        assert set(outcomes(problems, ["def f(*_):\n    raise ValueError" for _ in problems])) == {"wrong"}
        return
    assert set(outcomes(problems, [rf"So it is $\boxed{{{p.answer}}}$." for p in problems])) == {"correct"}
    assert set(outcomes(problems, [r"So it is $\boxed{-987654321}$." for _ in problems])) == {"wrong"}


@pytest.mark.parametrize("name", NAMES)
def test_card_and_data_are_complete_and_the_same_every_time(name: str) -> None:
    benchmark = load(name)
    card = benchmark.card
    assert card.title
    assert card.source
    assert card.licence
    assert card.version
    assert len(benchmark.problems) == card.num_problems
    assert len({p.id for p in benchmark.problems}) == card.num_problems
    assert {p.grader for p in benchmark.problems} == {card.grader}
    assert all(p.source.strip() in p.prompt and p.level in (None, *range(1, 9)) for p in benchmark.problems)
    ids = {p.id for p in benchmark.problems}
    assert card.gold_exceptions.keys() | benchmark.solutions.keys() <= ids
    again = load(name)
    assert again == benchmark
    assert len(card.digest) == len(benchmark.data_digest) == 64


def test_the_embedded_benchmarks_are_the_families_test_splits() -> None:
    arith = load_benchmark("arith")
    assert arith.problems == tuple(FAMILIES["arith"].problems("test", 240))
    assert [sum(p.level == level for p in arith.problems) for level in range(1, 9)] == [30] * 8
    assert load_benchmark("minicode").problems == tuple(FAMILIES["minicode"].problems("test", 160))


def test_math500_asks_for_a_box_and_is_pinned() -> None:
    if not (DATA_DIR / "math500").is_dir():
        pytest.skip("no local data for math500")
    benchmark = load_benchmark("math500", data_dir=DATA_DIR)
    first = benchmark.problems[0]
    assert first.id == "test/precalculus/807.json"
    assert first.answer == r"\left( 3, \frac{\pi}{2} \right)"
    assert (first.level, first.subject) == (2, "Precalculus")
    assert first.prompt == first.source + ("\n\nPlease reason step by step, and put your final answer within \\boxed{}.\n")


def test_listing_imports_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys; from repirl.tasks.benchmarks import benchmark_cards; benchmark_cards(); "
        "print([m for m in ('torch', 'lm_eval', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------ local files


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """A folder with one card `capitals` of two problems that come from a file."""
    folder = tmp_path / "cards"
    folder.mkdir()
    for part in ("utils.py", "_math.yaml"):
        shutil.copy(content_dir("benchmarks") / part, folder)
    text = (content_dir("benchmarks") / "math500.yaml").read_text()
    text = text.replace("task: math500", "task: sums").replace("num_problems: 500", "num_problems: 2")
    text = text.replace("folder: math500", "folder: sums").replace("id: unique_id", "id: key")
    (folder / "sums.yaml").write_text(text)
    return folder


def write_rows(tmp_path: Path, rows: list[str], zipped: bool = False) -> Path:
    folder = tmp_path / "data" / "sums"
    folder.mkdir(parents=True)
    content = "".join(row + "\n" for row in rows).encode()
    (folder / ("test.jsonl.gz" if zipped else "test.jsonl")).write_bytes(gzip.compress(content) if zipped else content)
    return folder.parent


def row(key: str, problem: str, answer: str) -> str:
    return json.dumps({"key": key, "problem": problem, "answer": answer, "level": "Level 3", "subject": "sums"})


ROWS = [row("a", "1+1?", "2"), row("b", "1+2?", "3")]


def test_a_card_elsewhere_includes_our_template(tmp_path: Path, cards: Path) -> None:
    """Without copies of `_math.yaml` and `utils.py` it is the same benchmark, and its folder stays as it is."""
    alone = tmp_path / "alone"
    alone.mkdir()
    text = (cards / "sums.yaml").read_text()
    (alone / "sums.yaml").write_text(text)
    own = text.replace("task: sums", "task: own") + "process_docs: !function mine.backwards\n"
    (alone / "own.yaml").write_text(own)
    (alone / "mine.py").write_text("def backwards(docs):\n    return docs.select(range(len(docs) - 1, -1, -1))\n")
    data = write_rows(tmp_path, ROWS)
    first = load_benchmark("sums", data_dir=data, include=[alone])
    assert first.problems == load_benchmark("sums", data_dir=data, include=[cards]).problems
    assert first.card.digest == load_benchmark("sums", data_dir=data, include=[cards]).card.digest
    assert [p.id for p in load_benchmark("own", data_dir=data, include=[alone]).problems] == ["b", "a"]
    assert {path.name for path in alone.iterdir()} - {"__pycache__"} == {"sums.yaml", "own.yaml", "mine.py"}
    (alone / "sums.yaml").write_text("include: _maths.yaml\ntask: sums\n")
    with pytest.raises(UserError, match=r"`include` of sums.yaml names no file: '_maths.yaml'"):
        benchmark_cards(include=[alone])


@pytest.mark.parametrize("zipped", [False, True])
def test_a_card_of_ones_own_with_a_local_file(
    tmp_path: Path, cards: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path, ROWS, zipped)
    benchmark = load_benchmark("sums", data_dir=data, include=[cards])
    assert [(p.id, p.answer, p.level, p.family) for p in benchmark.problems] == [("a", "2", 3, "sums"), ("b", "3", 3, "sums")]
    assert benchmark.max_new_tokens == 3000
    monkeypatch.setenv("REPIRL_DATA_DIR", str(data))
    assert load_benchmark("sums", include=[cards]) == benchmark


def test_the_data_digest_follows_the_answers(tmp_path: Path, cards: Path) -> None:
    first = load_benchmark("sums", data_dir=write_rows(tmp_path / "1", ROWS), include=[cards])
    second = load_benchmark("sums", data_dir=write_rows(tmp_path / "2", [ROWS[0], row("b", "1+2?", "4")]), include=[cards])
    assert first.data_digest != second.data_digest
    assert first.card == second.card


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "is empty"),
        (ROWS[:1], "must have 2 problems, found: 1"),
        ([ROWS[0], "{not json"], "line 2 of test.jsonl is not JSON"),
        ([ROWS[0], row("b", " ", "3")], "line 2 of test.jsonl lacks the text field: 'problem'"),
        ([ROWS[0], row("a", "1+2?", "3")], "two problems of the benchmark have one id"),
        ([ROWS[0], row("b", "1+2?", "")], "has no answer: 'b'"),
    ],
)
def test_bad_data_is_one_clear_error(tmp_path: Path, cards: Path, rows: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_benchmark("sums", data_dir=write_rows(tmp_path, rows), include=[cards])


def test_missing_data_says_how_to_get_it(tmp_path: Path, cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"elsewhere/sums/test\.jsonl.*--data-dir"):
        load_benchmark("sums", data_dir=tmp_path / "elsewhere", include=[cards])
    with pytest.raises(UserError, match="no such data folder"):
        load_benchmark("sums", data_dir=tmp_path / "nowhere", include=[cards])

    def offline(*_: object, **__: object) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("no network")

    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(UserError, match=r"MATH-500 at 6e4ed1a2a79a.*sums/test\.jsonl with --data-dir"):
        load_benchmark("sums", include=[cards])


def test_the_hub_is_asked_for_the_pinned_revision(tmp_path: Path, cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_rows(tmp_path, ROWS)
    asked = []

    def download(*arguments: object, **options: object) -> str:
        asked.append((arguments, options))
        return str(data / "sums" / "test.jsonl")

    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert len(load_benchmark("sums", include=[cards]).problems) == 2
    revision = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
    assert asked == [(("HuggingFaceH4/MATH-500", "test.jsonl"), {"repo_type": "dataset", "revision": revision})]


def test_check_lists_known_mistakes_of_the_source_apart(tmp_path: Path, cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repirl.cli.check import _check_card

    path = cards / "sums.yaml"
    path.write_text(path.read_text().replace("    data:\n", "    gold_exceptions: {b: a prose answer}\n    data:\n"))
    data = write_rows(tmp_path, ROWS)
    card = next(card for card in benchmark_cards([cards], data) if card.name == "sums")

    def grader(problems: list[Problem], texts: list[str], on_progress: object) -> list[Verdict]:
        return [
            Verdict("correct" if (p.id, text) == ("a", r"\boxed{2}") else "wrong")
            for p, text in zip(problems, texts, strict=True)
        ]

    monkeypatch.setattr("repirl.grading.dispatch.grade_rollouts", grader)
    entry = _check_card(card, data, [cards], lambda done, total: None)
    assert (entry["checked"], entry["gold_refused"], entry["wrong_accepted"]) == (2, {}, [])
    assert entry["gold_exceptions"] == {"b": "a prose answer (wrong)"}


# ------------------------------------------------------------------------------------------------ cards


def test_an_unknown_benchmark_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown benchmark: 'arit'; choose one of .*arith, .*minicode"):
        load_benchmark("arit")


def test_what_changes_a_cards_digest(cards: Path) -> None:
    def digest() -> str:
        return next(card.digest for card in benchmark_cards(include=[cards]) if card.name == "sums")

    original = digest()
    path, text = cards / "sums.yaml", (cards / "sums.yaml").read_text()
    path.write_text(text.replace("title: MATH-500", "title: Sums"))
    assert digest() == original
    path.write_text(text)
    included = cards / "_math.yaml"
    template = included.read_text()
    included.write_text(template.replace("step by step", "slowly"))
    assert digest() != original
    included.write_text(template)
    functions = cards / "utils.py"
    source = functions.read_text()
    functions.write_text(source + "\n\ndef unused() -> int:\n    return 1\n")
    assert digest() == original
    # `grade_math` calls this one.
    functions.write_text(source.replace("[results[0]]", "[results[0].strip()]"))
    assert digest() != original


def test_a_third_partys_task_file_with_its_own_loader(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from datasets import Dataset\n"
        "def rows(**metadata):\n"
        "    return {'dev': Dataset.from_list([{'q': 'two', 'n': 2}, {'q': 'three', 'n': 3}])}\n"
    )
    (tmp_path / "base.yaml").write_text("generation_kwargs: {until: ['Q:'], max_gen_toks: 7}\n")
    (tmp_path / "words.yaml").write_text(
        "include: base.yaml\ntask: words\ncustom_dataset: !function mine.rows\nvalidation_split: dev\n"
        "output_type: generate_until\ndescription: 'Answer. '\ndoc_to_text: 'Q: {{q}} A:'\ndoc_to_target: '{{n}}'\n"
        "metadata: {version: 2, repirl: {title: w, source: s, licence: none, grader: integer, num_problems: 2}}\n"
    )
    benchmark = load_benchmark("words", include=[tmp_path])
    assert benchmark.card.status == "own loader"
    assert [(p.prompt, p.answer) for p in benchmark.problems] == [
        ("Answer. Q: two A:", "2"),
        ("Answer. Q: three A:", "3"),
    ]
    assert (benchmark.stop, benchmark.max_new_tokens) == (("Q:",), 7)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("grader: math", "grader: maths", "metadata.repirl.grader"),
        ("    licence: MIT\n", "", "metadata.repirl.licence"),
        ("  repirl:", "  other:", "needs a block `metadata: repirl:`"),
        ("revision: 6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "revision: main", "metadata.repirl.data.file.revision"),
        ("include: _math.yaml", "include: _math.yaml\nprocess_results: !function utils.f", "has no function: 'f'"),
        ("file: test.jsonl", "format: columns", "give either `file` or `releases`"),
        ("task: sums", "task: arith", "two benchmarks have one name: 'arith'"),
        ("task: sums", "task: [", "cannot read the task file"),
    ],
)
def test_a_malformed_card_is_named(cards: Path, before: str, after: str, said: str) -> None:
    path = cards / "sums.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        benchmark_cards(include=[cards])


def test_a_missing_include_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder of benchmarks"):
        benchmark_cards(include=[tmp_path / "nowhere"])


@pytest.mark.parametrize(
    "tests",
    [
        CodeTests("functional", "f", (Case(args=([1, 2], "x"), expected=[None, 2.5]),)),
        CodeTests("stdio", cases=(Case(stdin="1\n", stdout="2\n"),)),
        CodeTests("asserts", "f", code="assert f(1) == 2"),
        CodeTests("asserts", code="assert f(1) == 2", prelude="import math\n", time_limit_s=7, float_tolerance=0.0),
    ],
)
def test_hidden_tests_survive_as_text(tests: CodeTests) -> None:
    assert decode_tests(encode_tests(tests), "p") == tests


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "shell"}', '{"kind": "stdio", "cases": [{"stdin": "1"}]}'])
def test_malformed_hidden_tests_name_the_problem(text: str) -> None:
    with pytest.raises(UserError, match="tests of p7"):
        decode_tests(text, "p7")
