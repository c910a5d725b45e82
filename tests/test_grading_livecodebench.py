"""Real programs that passed LiveCodeBench's hidden tests must pass the sample tests of the statements here."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from repirl.grading.code.grader import grade_programs
from repirl.grading.sandbox.runner import SandboxLimits, sandbox_level
from repirl.types import Case, CodeTests

EVERY = 2  # of the 1047 programs, each with about three tests; 1 for all
SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "data" / "livecodebench" / "public_samples.jsonl.gz"
pytestmark = pytest.mark.skipif(sandbox_level().level != "strong", reason=f"this machine gives: {sandbox_level().describe()}")

# What the benchmark's own harness puts before a program.
MODULES = "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
MODULES += " builtins typing"
PRELUDE = "".join(f"from {name} import *\n" for name in MODULES.split())
PRELUDE += "".join(f"import {name}\n" for name in MODULES.split()) + "sys.setrecursionlimit(50000)\n"


@pytest.mark.parametrize("platform", ["leetcode", "atcoder"])
def test_programs_that_passed_hidden_tests_pass_the_samples(platform: str) -> None:
    """`leetcode` is functional, `atcoder` stdin."""
    items = []
    if not SAMPLES.exists():
        pytest.skip(f"no {SAMPLES}")
    for row in map(json.loads, gzip.decompress(SAMPLES.read_bytes()).splitlines()):
        if row["platform"] != platform or not row["samples_verified"]:
            continue
        if platform == "leetcode":
            name = re.findall(r"def (\w+)\(self", row["starter_code"])[-1]
            calls = tuple(Case(tuple(c["input"].values()), c["output"]) for c in row["sample_tests"])
            tests = CodeTests("functional", name, calls, prelude=PRELUDE, float_tolerance=0.0)
        else:
            runs = tuple(Case(stdin=c["input"], stdout=c["output"]) for c in row["sample_tests"])
            tests = CodeTests("stdio", cases=runs, prelude=PRELUDE)
        items += [(tests, solution["code"]) for solution in row["solutions"] if solution["lcb_graded"]]
    items = items[::EVERY]
    verdicts = grade_programs(items, SandboxLimits(wall_s=30, cpu_s=10))
    passed = sum(verdict.outcome == "correct" for verdict in verdicts)
    print(f"{platform}: {passed} of {len(items)} programs pass")
    assert passed >= 0.98 * len(items), Counter(v.reason for v in verdicts)
