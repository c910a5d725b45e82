"""Hostile input by the thousand: every reader of files, every grader of text. Each input may be refused in one line, no more.

    python tests/campaigns/fuzz.py --inputs 100000 --seed 0

Each input is a valid one with a few values replaced, taken away, nested or repeated, or its bytes damaged. A fault is
anything but a result or a `UserError` of one line of at most 300 characters, or an input that takes longer than the deadline.
The last line is one JSON object with the counts; the exit code is 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from repirl.bench.suites import load_suite, plan
from repirl.errors import LONGEST_MESSAGE, UserError
from repirl.files import read_objects
from repirl.grading.dispatch import grade_rollouts
from repirl.grading.files.problems import finder
from repirl.grading.files.rows import completions_of
from repirl.grading.math.extract import final_answer, flexible_answer, gold_answer
from repirl.grading.math.grader import MathGrader
from repirl.grading.pool import PoolOptions
from repirl.records import index, store
from repirl.reporting.leaderboard import build_board
from repirl.rewards.artifact import CONTRACT_FILE, read_contract
from repirl.rollouts.pool import read_samples
from repirl.tasks.benchmarks import benchmark_cards, benchmark_suites
from repirl.tasks.prm_benchmarks import read_prmbench
from repirl.tasks.step_labels import read_labelled
from repirl.tasks.training_files import file_rows
from repirl.types import Case, CodeTests, Problem

DEADLINE_S = 5.0
COMPARISON_DEADLINE_S = 3.0

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 10**400, -(10**400), 2**63, 1e308, float("nan"), float("inf"), 0.5, "", " ", "\n", "\x00",
    "\ud800", "\u2028", "a" * 5000, "é" * 300, "١٢", "[]", "NaN", "-", "../../etc/passwd", "%s%n{0}{x}", [], [[]], {},
    {"": None}, [None], ["x"], {"a": {"b": {"c": []}}}, [1, "a", None, {}], "2024-99-99", "!!python/object:os.system",
    b"\xff\xfe".decode("latin-1"),
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "\\boxed{", "}", "$", "\\[", "\\]", "\\frac", "\\sqrt", "{", "}}", "^", "_", "\\left(", "\\right)", "Final Answer: ",
    " is ", " = ", " and ", ", ", "A: x", " " * 400, "\n", "####", "<answer>", "</answer>", "</think>", "\\text{",
    "\\begin{pmatrix}", "&", "\\\\", "1/0", "9" * 600, "1e999999", "x", "\\pi", "\\infty", "10^10^10^10", "!", "!!!!",
    "(((((", "[0,1)", "\\cup", "\\in", "\\mathbb{Z}", "\ud800", "\x00", "\u0661", "%", "°", "\\%", "-", "--", "\\sin",
    "\\int_0^1", "\\sum_{i=1}^{10^9} i", "\\binom{10^9}{5}", "factorial(10**6)", "True", "A", "(B)", "\\begin{cases}",
    "\\cdot", "d", "dx", "\\pm", "or", "miles", "\\textbf{", "0.333...", "\\overline{3}", "1,000", "three", "∛8", "½",
)  # fmt: skip


class Overdue(BaseException):
    """Longer than the deadline; no `except Exception` of what is tested catches it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    def ring(signum: int, frame: object) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------ how inputs are made


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with up to three values replaced, taken away, nested or repeated."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 2, 3))):
        path = rng.choice(list(places(value)))
        if not path:
            if rng.random() < 0.05:
                return rng.choice(HOSTILE)
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        match rng.randrange(8):
            case 0:
                del parent[path[-1]]
            case 1:
                parent[path[-1]] = [parent[path[-1]]]
            case 2 if isinstance(parent, list):
                parent.extend(parent[:50])
            case 2 | 3 if isinstance(parent, dict):
                parent[rng.choice(["", "x", "label", "id", str(path[-1]).upper(), "\ud800"])] = rng.choice(HOSTILE)
            case 4 if isinstance(parent[path[-1]], str):
                parent[path[-1]] = hostile_text(rng, parent[path[-1]])
            case 5:
                nested: Any = parent[path[-1]]
                for _ in range(rng.choice((3, 90, 120))):
                    nested = [nested]
                parent[path[-1]] = nested
            case _:
                parent[path[-1]] = copy.deepcopy(rng.choice(HOSTILE))
    return value


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, put in or doubled; most often not at all."""
    match rng.randrange(12):
        case 0 if data:
            return data[: rng.randrange(len(data))]
        case 1 if data:
            at = rng.randrange(len(data))
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            at = rng.randrange(len(data) + 1)
            pieces = (b"\xff\xfe", b"\x00", b"[" * 3000, b"9" * 5000, b"\n", b"{}", b"\xed\xa0\x80")
            return data[:at] + rng.choice(pieces) + data[at:]
        case 3:
            return data + data
    return data


def hostile_text(rng: random.Random, text: str = "") -> str:
    """A text with pieces of answers, markup and nonsense put in."""
    for _ in range(rng.randrange(1, 8)):
        piece = rng.choice(TEXTS) * (1 if rng.random() < 0.9 else rng.choice((3, 50, 300)))
        at = rng.randrange(len(text) + 1)
        text = text[:at] + piece + text[at:]
    return text


# --------------------------------------------------------------------------------------------- what is tested


@dataclass
class Target:
    """`run(rng, folder)` makes one input and has it read; it returns how many inputs that were."""

    name: str
    share: float
    run: Run


@dataclass
class Counts:
    inputs: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


Run = Callable[[random.Random, Path], int]


def json_file(read: Callable[[Path], object], rows: Sequence[Any], name: str = "x.jsonl") -> Run:
    """Files of one to three rows, one of them mutated."""

    def run(rng: random.Random, folder: Path) -> int:
        base = rng.choice(rows)
        good = [base | {"id": f"good {i}", "problem": f"{i}?"} for i in range(rng.randrange(3))]
        lines = [json.dumps(row) for row in [*good, mutated(base, rng)]]
        data = damaged("".join(line + "\n" for line in lines).encode(errors="surrogatepass"), rng)
        path = folder / (name + ".gz" if rng.random() < 0.1 else name)
        path.write_bytes(damaged(gzip.compress(data, 1), rng) if path.suffix == ".gz" else data)
        read(path)
        return 1

    return run


TRAINING: list[Any] = [
    {"problem": "1+1?", "answer": "2", "id": "a", "demonstrations": ["1+1 = 2\n\\boxed{2}"]},
    {"problem": "write f", "tests": {"kind": "functional", "entry_point": "f", "cases": [{"args": [1], "expected": 2}]}},
    {"problem": "write a program", "tests": {"kind": "stdio", "cases": [{"stdin": "1", "stdout": "2"}], "time_limit_s": 2}},
    {"problem": "write g", "tests": {"kind": "asserts", "code": "assert g(1) == 1", "entry_point": "g"}},
]
COMPLETIONS: list[Any] = [
    {"id": "p", "answer": "2", "completion": "\\boxed{2}", "finish_reason": "stop"},
    {"problem": "q", "answer": 0.5, "completions": ["a", "\\boxed{1/2}"], "finish_reason": ["stop", "length"]},
]
PROGRAMS: list[Any] = [{**row, "id": f"t{i}", "completion": "```python\nx = 1\n```"} for i, row in enumerate(TRAINING[1:])]
LABELLED: list[Any] = [
    {
        "question": {"problem": "p"},
        "label": {
            "steps": [
                {
                    "completions": [{"text": "a", "rating": 1}, {"text": "b", "rating": -1}],
                    "human_completion": None,
                    "chosen_completion": 0,
                },
                {"completions": None, "human_completion": {"text": "c"}, "chosen_completion": None},
            ],
            "finish_reason": "solution",
        },
    },
    {"input": "p Step 1: a ки\nStep 2: b ки", "label": "p Step 1: a +\nStep 2: b -", "task": "GSM8K"},
    {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]},
    {"id": "x", "problem": "p", "steps": ["a", "b"], "label": 1, "final_answer_correct": False},
]
PRMBENCH: list[Any] = [
    {
        "original_question": "p",
        "modified_question": "p",
        "original_process": ["a", "b"],
        "modified_process": ["a", "c"],
        "modified_steps": [2],
        "error_steps": [2],
        "reason": "r",
        "idx": "redundency_1",
        "question": "p",
        "classification": "redundency",
    }
]
CARD: dict[str, Any] = {
    "task": "fuzz",
    "include": "_math.yaml",
    "metadata": {
        "version": 1.0,
        "repirl": {
            "title": "t",
            "source": "s",
            "licence": "MIT",
            "grader": "math",
            "num_problems": 2,
            "gold_exceptions": {"a": "why"},
            "data": {
                "file": "x.jsonl",
                "folder": "fuzz",
                "columns": {"problem": "question"},
                "keep": {"year": [1, 2]},
                "date_column": "day",
            },
        },
    },
    "doc_to_text": "{{problem}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 64},
}
GROUP: dict[str, Any] = {"group": "fuzz-group", "task": ["arith", "minicode"]}
SUITE: dict[str, Any] = {
    "title": "t",
    "baseline": "rloo",
    "runs": [{"method": "rloo", "seeds": [0, 1], "set": ["loop.steps=2"]}, {"method": "repirl", "seeds": [0]}],
    "evaluations": [{"benchmark": "arith", "samples": 2}, {"kind": "judge", "set": "arith"}],
    "contrasts": [{"better": "repirl", "worse": "rloo", "says": "x"}],
}
CONTRACT: dict[str, Any] = {
    "schema_version": 2,
    "kind": "energy",
    "method": "repirl",
    "step_separator": "\n",
    "template": "plain",
    "step_aggregation": "min",
    "base_digest": "a" * 64,
    "training_digest": "b" * 64,
}
PAIRS = [
    ("5", "so \\boxed{5}"),
    ("\\frac{1}{2}", "\\boxed{0.5}"),
    ("x^2+1", "\\boxed{1+x^2}"),
    ("(1,2)", "$$(1, 2)$$"),
    ("\\{1,2\\}", "\\boxed{2, 1}"),
    ("x=3", "Final Answer: $x=3$"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}"),
    ("B", "(B) 7 apples"),
    ("[0,\\infty)", "\\boxed{x \\ge 0}"),
    ("125\\text{ miles}", "125 miles"),
]


def card(rng: random.Random, folder: Path) -> int:
    """A card (or a group) beside the file it includes, as text of YAML."""
    text = yaml.safe_dump(mutated(rng.choice((CARD, CARD, CARD, GROUP)), rng), allow_unicode=True)
    traps = (
        "a: &a [*a]\n",
        "b: [" * 60,
        "? {x: 1}\n: y\n",
        "z: 2024-99-99\n",
        "w: !function utils.nothing\n",
        "t: !!binary x\n",
    )
    extra = rng.choice(traps) if rng.random() < 0.4 else ""
    (folder / "fuzz.yaml").write_bytes(damaged((text + extra).encode(errors="surrogatepass"), rng))
    (folder / "_math.yaml").write_text("output_type: generate_until\n")
    benchmark_cards([folder])
    benchmark_suites([folder])
    return 1


def toml_of(value: Any) -> str:
    """JSON is nearly TOML's inline syntax; what is not is refused by its reader, which is what is tested."""
    return "".join(f"{key} = {_inline(inner)}\n" for key, inner in value.items()) if isinstance(value, dict) else str(value)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value) if not isinstance(value, float) else repr(value)


def suite(rng: random.Random, folder: Path) -> int:
    (folder / "suites").mkdir(exist_ok=True)
    data = damaged(toml_of(mutated(SUITE, rng)).encode(errors="surrogatepass"), rng)
    for place in (folder, folder / "suites"):
        (place / "fuzz.toml").write_bytes(data)
    plan("fuzz", load_suite("fuzz", [folder]))
    return 1


def contract(rng: random.Random, folder: Path) -> int:
    (folder / CONTRACT_FILE).write_bytes(damaged(json.dumps(mutated(CONTRACT, rng)).encode(errors="surrogatepass"), rng))
    read_contract(folder)
    return 1


def sample_pool(rng: random.Random, folder: Path) -> int:
    row = {"problem_id": "a", "sample_index": 0, "outcome": "correct", "reason": "", "extracted": "2", "num_tokens": 3}
    row |= {"text": "t"}
    lines = [{"evaluation": {"card": "c", "data": "d"}}, {"part": "greedy", "wall_s": 1.0, "rows": [row]}]
    data = "".join(json.dumps(mutated(line, rng) if rng.random() < 0.6 else line) + "\n" for line in lines)
    (folder / "pool.jsonl").write_bytes(damaged(data.encode(errors="surrogatepass"), rng))
    read_samples(folder / "pool.jsonl")
    return 1


class Records:
    """A stored record, edited with the digest made anew and the index accepting it, and its files of rows likewise."""

    def __init__(self) -> None:
        run = store.find("tiny-full", root=Path(__file__).parents[1] / "data" / "schema_1")[0]
        self.record = json.loads(run.file.read_text())
        self.files = {name: (run.folder / name).read_bytes() for name in run.record.row_files}
        self.folder_name = run.folder.name
        self.current = {**json.loads(run.record.model_dump_json()), "schema_version": 2, "label": run.record.method}

    def __call__(self, rng: random.Random, folder: Path) -> int:
        target = folder / "results" / "tiny-full" / self.folder_name
        target.mkdir(parents=True, exist_ok=True)
        raw = mutated(self.current if rng.random() < 0.7 else self.record, rng)
        if isinstance(raw, dict) and raw.get("schema_version") != 1 and rng.random() < 0.9:
            raw = raw | {"digest": store.record_digest(raw)}
        (target / "record.json").write_bytes(damaged(json.dumps(raw).encode(errors="surrogatepass"), rng))
        for name, data in self.files.items():
            (target / name).write_bytes(damaged(data, rng) if rng.random() < 0.05 else data)
        index.accept(target.parent)
        if rng.random() < 0.1:
            (target.parent / index.INDEX_FILE).write_bytes(damaged((target.parent / index.INDEX_FILE).read_bytes(), rng))
        build_board("tiny-full", results=folder / "results")
        return 1


class Extraction:
    """Finding answers, in this process: each text within the deadline."""

    def __call__(self, rng: random.Random, folder: Path) -> int:
        text = hostile_text(rng, rng.choice(PAIRS)[1]) * rng.choice((1, 1, 1, 40))
        final_answer(text)
        flexible_answer(text)
        gold_answer(text)
        return 1


class Comparison:
    """Comparing answers, in batches: `ungraded` is an outcome here, too (the reason says why), late is not."""

    BATCH = 40

    def __init__(self) -> None:
        options = PoolOptions(workers=2, deadline_s=COMPARISON_DEADLINE_S)
        self.graders = [MathGrader(options, extraction=way) for way in ("strict", "flexible")]

    def __call__(self, rng: random.Random, folder: Path) -> int:
        items = []
        for _ in range(self.BATCH):
            gold, text = rng.choice(PAIRS)
            gold = hostile_text(rng, gold) if rng.random() < 0.3 else gold
            items.append((gold, hostile_text(rng, text), rng.choice(("stop", "stop", "length"))))
        verdicts = rng.choice(self.graders).grade_many(items)
        late = sum(verdict.reason == "timeout" for verdict in verdicts)
        if len(verdicts) != self.BATCH or late > self.BATCH // 4:
            raise AssertionError(f"{len(verdicts)} verdicts for {self.BATCH} answers, {late} of them over the deadline")
        return self.BATCH


SOURCES = [
    "def f(x):\n    return x + 1\n",
    "import os, sys\ndef f(x):\n    os._exit(0)\n",
    "def f(x):\n    raise SystemExit\n",
]


def programs(rng: random.Random, folder: Path) -> int:
    """Damaged programs in the sandbox, in batches: each has a verdict, none is ungraded."""
    raw = [hostile_text(rng, rng.choice(SOURCES)).encode(errors="replace") for _ in range(10)]
    texts = [damaged(data, rng).decode(errors="replace") for data in raw]
    tests = CodeTests("functional", "f", (Case((1,), 2), Case((2,), 3)), time_limit_s=1)
    problem = Problem("f", "fuzz", "", "code", tests=tests)
    verdicts = grade_rollouts([problem] * len(texts), texts, allow_weak_sandbox=True)
    if any(verdict.outcome == "ungraded" for verdict in verdicts):
        raise AssertionError(f"ungraded: {[verdict.reason for verdict in verdicts]}")
    return len(texts)


def graded_rows(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        find = finder(name, None)
        return [
            (find(where, row), completions_of(where, row))
            for line, row in read_objects(path, half_pairs=True)
            for where in (f"line {line}",)
        ]

    return read


def targets() -> list[Target]:
    """The shares add up to 1."""
    return [
        Target("extraction", 0.22, Extraction()),
        Target("comparison", 0.22, Comparison()),
        Target("programs", 0.02, programs),
        Target("training rows", 0.12, json_file(lambda path: file_rows(path, ""), TRAINING)),
        Target("completions", 0.07, json_file(graded_rows("math"), COMPLETIONS)),
        Target("programs with tests", 0.07, json_file(graded_rows("code"), PROGRAMS)),
        Target("labelled steps", 0.12, json_file(read_labelled, LABELLED)),
        Target("prmbench", 0.03, json_file(read_prmbench, PRMBENCH)),
        Target("cards", 0.02, card),
        Target("suites", 0.03, suite),
        Target("reward contracts", 0.02, contract),
        Target("kept samples", 0.03, sample_pool),
        Target("records", 0.03, Records()),
    ]


# -------------------------------------------------------------------------------------------------- the run


def attempt(target: Target, rng: random.Random, folder: Path, counts: Counts, seed: int) -> None:
    """One input (or batch); what goes wrong is kept with the seed that makes it again."""
    started = time.monotonic()
    batch_s = DEADLINE_S if target.name not in ("comparison", "programs") else 60.0
    done, fault = 1, ""
    try:
        with deadline(batch_s):
            done = target.run(rng, folder)
    except UserError as error:
        counts.refused[target.name] += 1
        if "\n" in str(error) or len(str(error)) > LONGEST_MESSAGE or not str(error):
            fault = f"not one line: {str(error)!r}"
    except Overdue:
        fault = f"longer than {batch_s} s"
    except Exception:  # noqa: BLE001 (the point of it all: whatever else comes out is a fault)
        fault = traceback.format_exc(limit=-4)
    counts.inputs[target.name] += done
    counts.slowest_s[target.name] = max(counts.slowest_s.get(target.name, 0.0), time.monotonic() - started)
    if fault:
        counts.faults.append(f"{target.name}, seed {seed}: {fault}")


def fuzz(inputs: int, seed: int, only: Sequence[str] = (), report: Callable[[str], None] = lambda line: None) -> Counts:
    """About `inputs` inputs in all, each made from (seed, target, number) alone."""
    counts = Counts()
    with tempfile.TemporaryDirectory() as name:
        for target in targets():
            if only and target.name not in only:
                continue
            number = 0
            while counts.inputs[target.name] < inputs * target.share:
                folder = Path(name) / target.name.replace(" ", "-")
                folder.mkdir(exist_ok=True)
                attempt(target, random.Random(f"{seed}:{target.name}:{number}"), folder, counts, number)
                number += 1
            report(
                f"{target.name}: {counts.inputs[target.name]} inputs, {counts.refused[target.name]} refused, "
                f"slowest {counts.slowest_s.get(target.name, 0.0):.2f} s, {len(counts.faults)} faults so far"
            )
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help="a target's name; may be given several times")
    given = parser.parse_args()
    counts = fuzz(given.inputs, given.seed, given.only, lambda line: print(line, file=sys.stderr, flush=True))
    for fault in counts.faults[:50]:
        print(fault, file=sys.stderr)
    shown: dict[str, Any] = {"inputs": sum(counts.inputs.values()), "refused": sum(counts.refused.values())}
    print(json.dumps(shown | {"faults": len(counts.faults), "by_target": dict(counts.inputs)}))
    return 1 if counts.faults else 0


if __name__ == "__main__":
    sys.exit(main())
