"""Programs graded per second: our sandbox against one `python` subprocess per program, same programs, same verdicts.

    python benchmarks/perf/sandbox.py [--programs 400] [--workers 1]

`ours`: `grade_programs` (isolated, pre-forked). `theirs`: a fresh `python -c` per program, no isolation at all, as many
at a time as ours has workers. Both grade every program of the same mix of right, wrong, raising and unparsable ones;
the cache of verdicts is not used. Prints last one JSON line; `ratio` above 1 means that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from repirl.grading.code.grader import clear_cache, grade_programs
from repirl.grading.sandbox import runner as sandbox
from repirl.types import Case, CodeTests

HARNESS = "import json, sys\nexec(sys.argv[1])\nprint(json.dumps([f(*a) for a in json.loads(sys.argv[2])]))"
BODIES = (
    "    return [x * {k} for x in xs if x % 2]",
    "    out = []\n    for x in sorted(xs):\n        out.append(x * {k})\n    return [v for v in out if v % 2]",
    "    return sum(xs",
    "    return [x * {k} for x in xs if x > unknown]",
)


def make_items(count: int) -> list[tuple[CodeTests, str]]:
    """Small list programs of which some are right; every one differs, so that nothing could be cached."""
    items = []
    for k in range(count):
        lists = [[(k * 7 + i * j) % 23 for j in range(6)] for i in range(6)]
        cases = tuple(Case(args=(xs,), expected=[x * k for x in xs if x % 2]) for xs in lists)
        items.append((CodeTests("functional", "f", cases), "def f(xs):\n" + BODIES[k % len(BODIES)].format(k=k)))
    return items


def grade_in_subprocess(item: tuple[CodeTests, str]) -> bool:
    """The plain way: an interpreter per program."""
    tests, program = item
    arguments = json.dumps([case.args for case in tests.cases])
    done = subprocess.run([sys.executable, "-c", HARNESS, program, arguments], capture_output=True, timeout=30, check=False)
    return done.returncode == 0 and json.loads(done.stdout) == [case.expected for case in tests.cases]


def main() -> None:
    """Measures both ways in one run, alternating, and prints the best round of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=400)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    items = make_items(args.programs)
    few = items[: max(20, args.programs // 10)]
    sandbox.use_workers(args.workers)
    print(f"sandbox: {sandbox.sandbox_level().describe()}; {args.workers} workers", file=sys.stderr)
    grade_programs(items[:4], allow_weak_sandbox=True)
    ours, theirs = 0.0, 0.0
    for _ in range(args.rounds):
        clear_cache()
        started = time.perf_counter()
        verdicts = grade_programs(items, allow_weak_sandbox=True)
        ours = max(ours, len(items) / (time.perf_counter() - started))
        started = time.perf_counter()
        with ThreadPoolExecutor(args.workers) as pool:
            plain = list(pool.map(grade_in_subprocess, few))
        theirs = max(theirs, len(few) / (time.perf_counter() - started))
        if [v.outcome == "correct" for v in verdicts[: len(few)]] != plain:
            raise SystemExit("the two ways disagree on a verdict")
    line = {"name": "sandbox", "ours": round(ours, 1), "theirs": round(theirs, 1), "unit": "programs/s"}
    print(json.dumps(line | {"ratio": round(ours / theirs, 2)}))


if __name__ == "__main__":
    main()
