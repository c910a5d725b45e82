r"""Rows of a source benchmark in its own format as our columns.

A card names the format of its rows (`format:`). A reader gets the source row and the columns found so far (those that
the card maps, see `documents.py`), and returns the columns that it fills or changes. A malformed row raises KeyError,
TypeError or ValueError, which the caller reports with the row's place.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from repirl.tasks.hidden_tests import encode_tests
from repirl.tasks.livecodebench import private_cases, public_cases, tests_of
from repirl.types import Case, CodeTests

Row = Mapping[str, Any]
Format = Callable[[Row, Row], dict[str, Any]]

_LEVELS = {"easy": 1, "medium": 2, "hard": 3}
# What the harnesses of LeetCode-style benchmarks import before each program, but for numpy, which the sandbox has not.
# The last line gives `pow` and others back to the builtins.
IMPORTS = (
    "import bisect, collections, copy, datetime, functools, hashlib, heapq, itertools\n"
    "import math, operator, random, re, string, sys\n"
    "from bisect import *\nfrom collections import *\nfrom functools import *\nfrom heapq import *\n"
    "from itertools import *\nfrom math import *\nfrom typing import *\nfrom builtins import *\n"
)


def last_boxed(text: str) -> str:
    r"""Content of the last `\boxed{...}`, braces balanced, or of `\boxed 5`. Raises ValueError if there is none.

    For sources that keep their answer in the solution only; completions are read by `grading/extract.py`, which forgives more.
    """
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    rest = re.sub(r"^\\f?box(?:ed)?\s*", "", text[start:]) if start >= 0 else ""
    if not rest:
        raise ValueError("no boxed answer in the solution")
    if not rest.startswith("{"):
        return re.split(r"[$\s]", rest, maxsplit=1)[0]
    depth = 0
    for i, char in enumerate(rest):
        escaped = i > 0 and rest[i - 1] == "\\"
        depth += 0 if escaped else (char == "{") - (char == "}")
        if depth == 0:
            return rest[1:i].strip()
    raise ValueError("the last box of the solution is never closed")


# ------------------------------------------------------------------------------------------------ mathematics


def integer_answer(row: Row, found: Row) -> dict[str, Any]:
    """Answers that are integers but written `073`, `27.0` or `70` (AIME 2024, AMC, AIME 2025): `73`, `27`, `70`."""
    value = float(found["answer"])
    if value != int(value):
        raise ValueError(f"{found['answer']!r} is not an integer")
    return {"answer": str(int(value))}


def boxed_solution(row: Row, found: Row) -> dict[str, Any]:
    """Hendrycks MATH and Minerva-Math: the answer is the last box of the solution."""
    return {"answer": last_boxed(found["solution"])}


def gsm8k(row: Row, found: Row) -> dict[str, Any]:
    """GSM8K: `answer` is the solution, and the gold follows `####`, with commas in its thousands."""
    solution, mark, gold = found["answer"].rpartition("####")
    if not mark:
        raise ValueError("no `####` before the answer")
    return {"answer": gold.strip().replace(",", ""), "solution": solution.strip()}


def olympiadbench(row: Row, found: Row) -> dict[str, Any]:
    """OlympiadBench: answer and solution are lists; there is one answer to each of the problems used here."""
    (answer,) = found["answer"]
    solutions = found["solution"] or [""]
    return {"answer": answer.strip(), "solution": solutions[0]}


# ------------------------------------------------------------------------------------------------------ code


def humaneval(row: Row, found: Row) -> dict[str, Any]:
    """HumanEval. The prompt is put before each program, so that its imports and helper functions are there, and so
    that a completion may be the whole function as well as only its body."""
    tests = CodeTests("asserts", row["entry_point"], code=f"{row['test']}\ncheck({row['entry_point']})", prelude=row["prompt"])
    return {
        "id": row["task_id"],
        "problem": row["prompt"],
        "tests": encode_tests(tests),
        "solution": row["prompt"] + row["canonical_solution"],
    }


def mbpp(row: Row, found: Row) -> dict[str, Any]:
    """MBPP, and its sanitized part (other column names, and no ids in some copies).

    The prompt shows all asserts, as in the paper and in lm-eval: they are the specification, and the hidden tests too.
    Set-up code uses classes of the solution and so belongs to the tests, which run after it.
    """
    text, asserts = row.get("text") or row["prompt"], list(row["test_list"])
    setup = [row.get("test_setup_code") or "", *(row.get("test_imports") or [])]
    code = "\n".join(line for line in [*setup, *asserts] if line)
    key = row.get("task_id")
    return {
        "id": key if key is not None else hashlib.sha256(f"{text}\n{code}".encode()).hexdigest()[:12],
        "problem": f"{text.strip()}\nYour code should pass these tests:\n\n" + "\n".join(line.strip() for line in asserts),
        "tests": encode_tests(CodeTests("asserts", code=code)),
        "solution": row["code"],
    }


def leetcode(row: Row, found: Row) -> dict[str, Any]:
    """The LeetCode set of DeepSeek-Coder: asserts on `Solution()`; no solutions. What the starter code defines before
    its class (nodes of a list) is put before each program, as are the imports of its harness."""
    starter = re.findall(r"```python\n(.*?)```", row["prompt_sft"], re.DOTALL)[-1]
    definitions = starter[: starter.index("class Solution")]
    tests = CodeTests("asserts", code=row["test"], prelude=IMPORTS + definitions)
    return {
        "id": row["task_id"],
        "problem": row["prompt_sft"].strip(),
        "tests": encode_tests(tests),
        "level": _LEVELS[row["meta"]["difficulty"].lower()],
    }


def livecodebench(row: Row, found: Row) -> dict[str, Any]:
    """LiveCodeBench as released (`code_generation_lite`): public and private tests, of which the latter are packed."""
    cases = [*public_cases(row["public_test_cases"]), *private_cases(row["private_test_cases"])]
    return _livecodebench_columns(row, row["question_content"], tests_of(cases, row["metadata"], IMPORTS))


def livecodebench_samples(row: Row, found: Row) -> dict[str, Any]:
    """LiveCodeBench problems with the sample tests of their statements only, and programs that passed all tests of
    LiveCodeBench. Arguments are objects by parameter name."""
    samples = row["sample_tests"]
    if row["starter_code"]:
        (function,) = [
            node
            for node in ast.walk(ast.parse(row["starter_code"] + "pass"))
            if isinstance(node, ast.FunctionDef) and node.args.args[:1] and node.args.args[0].arg == "self"
        ]
        names = [argument.arg for argument in function.args.args[1:]]
        cases = tuple(Case(tuple(s["input"][name] for name in names), s["output"]) for s in samples)
        tests = CodeTests("functional", function.name, cases, prelude=IMPORTS)
    else:
        tests = CodeTests("stdio", cases=tuple(Case(stdin=s["input"], stdout=s["output"]) for s in samples), prelude=IMPORTS)
    passed = [s["code"] for s in row["solutions"] if s["lcb_graded"] and s["passes_samples"]]
    return _livecodebench_columns(row, row["problem"], tests) | {"solution": passed[0] if passed else ""}


def _livecodebench_columns(row: Row, statement: str, tests: CodeTests) -> dict[str, Any]:
    if row["starter_code"]:
        how = f"Complete this starter code:\n\n```python\n{row['starter_code'].rstrip()}\n```"
    else:
        how = "Read the input from stdin and print the answer to stdout."
    return {
        "id": row["question_id"],
        "problem": f"{statement.strip()}\n\n{how}",
        "tests": encode_tests(tests),
        "level": _LEVELS[row["difficulty"]],
        "subject": row["platform"],
    }


def columns(row: Row, found: Row) -> dict[str, Any]:
    """Rows that hold our columns already, under the names that the card maps."""
    return {}


FORMATS: dict[str, Format] = {
    reader.__name__: reader
    for reader in (
        columns,
        integer_answer,
        boxed_solution,
        gsm8k,
        olympiadbench,
        humaneval,
        mbpp,
        leetcode,
        livecodebench,
        livecodebench_samples,
    )
}
