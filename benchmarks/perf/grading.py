"""Mathematical completions graded per second: our grader against math-verify called in a plain loop.

    python benchmarks/perf/grading.py [--items 500] [--workers 2] [--repeats 3] [--data FILE.jsonl.gz]

Items are real completions with their golds (rows with `answer` and `completions`) if the file is there, else generated
ones. `ours`: `MathGrader` with its worker processes, nothing cached from before. `theirs`: `verify(parse(gold),
parse(completion))` with default settings, one after the other. A first round finds the items on which both give the
same verdict; only those are timed, and the verdicts must be the same again. Imports, worker starts and a first round
of other, generated items (parsers fill their tables) are not timed.
Prints last one JSON line; `ratio` above 1 means that ours is faster; `memory_ratio` compares the peak resident memory
of one of our workers with that of the process that runs the loop.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import alternate, emit, median_of, peak_mib

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "math500_samples" / "llama31_8b_n1_q500.jsonl.gz"
NUM_WARM_UP = 70
MAX_CHANGED = 0.01


def real_items(path: Path, count: int) -> list[tuple[str, str]]:
    """(gold, completion) of the first completions of each row."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    items = [(row["answer"], text) for row in rows for text in row["completions"]]
    return items[:: max(1, len(items) // count)][:count]


def generated_items(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Answers of the kinds that MATH has, right and wrong, after some lines of working."""
    draw = random.Random(seed)
    items = []
    for k in range(count):
        a, b, c = (draw.randint(2, 40) for _ in range(3))
        golds = (
            str(a * b),
            f"\\frac{{{a}}}{{{b + 41}}}",
            f"{a}x+{b}",
            f"{a}\\sqrt{{{b}}}",
            f"({a},{b})",
            f"{a}\\pi",
            f"{a},{b + 50}",
        )
        answers = (
            f"{a * b}.0",
            f"{a}/{b + 41}",
            f"{b} + {a}x",
            f"{a} \\sqrt {{{b}}}",
            f"({a}, {b})",
            f"{a} \\pi",
            f"{b + 50}, {a}",
        )
        working = "".join(f"Step {i}: we compute ${a}+{i}={a + i}$ and go on.\n" for i in range(10))
        answer = answers[k % 7] if draw.random() < 0.7 else answers[(k + 1) % 7]
        items.append((golds[k % 7], f"{working}The answer is $\\boxed{{{answer}}}$, because of {c}."))
    return items


def run_ours(items: list[tuple[str, str]], workers: int) -> dict[str, Any]:
    """Grades with warm workers and an empty cache."""
    from repirl.grading.math.grader import MathGrader
    from repirl.grading.pool import PoolOptions

    grader = MathGrader(PoolOptions(workers=workers, deadline_s=60))
    warm_up = generated_items(NUM_WARM_UP, seed=1)
    for _ in range(workers):  # each worker meets most of them
        grader.grade_many([(gold, text, "stop") for gold, text in warm_up])
        grader.forget()
    pids = grader._pool.worker_pids()
    started = time.perf_counter()
    verdicts = grader.grade_many([(gold, text, "stop") for gold, text in items])
    seconds = time.perf_counter() - started
    memory = max(_peak_of(pid) for pid in pids)
    grader.close()
    return {"seconds": seconds, "worker_mib": memory, "correct": _bits(v.outcome == "correct" for v in verdicts)}


def _bits(verdicts: Iterable[bool]) -> str:
    return "".join("1" if verdict else "0" for verdict in verdicts)


def _peak_of(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def run_theirs(items: list[tuple[str, str]]) -> dict[str, Any]:
    """The plain loop."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.ERROR)
    for gold, text in generated_items(NUM_WARM_UP, seed=1):
        verify(parse(f"${gold}$"), parse(text))
    started = time.perf_counter()
    correct = [bool(verify(parse(f"${gold}$"), parse(text))) for gold, text in items]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "worker_mib": peak_mib(), "correct": _bits(correct)}


def main() -> None:
    """Finds the items on which both agree, then times both on them, alternating."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--chosen", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        items = json.loads(args.chosen.read_text())
        print(json.dumps(run_ours(items, args.workers) if args.side == "ours" else run_theirs(items)))
        return
    items = real_items(args.data, args.items) if args.data.exists() else generated_items(args.items)
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "items.json"
        arguments = ["--workers", str(args.workers), "--chosen", str(chosen)]
        chosen.write_text(json.dumps(items))
        first = {side: rows[0] for side, rows in alternate(__file__, arguments, 1, 1).items()}
        same = [o == t for o, t in zip(first["ours"]["correct"], first["theirs"]["correct"], strict=True)]
        chosen.write_text(json.dumps([item for item, agreed in zip(items, same, strict=True) if agreed]))
        print(f"same verdict on {sum(same)} of {len(items)} items", file=sys.stderr)
        found = alternate(__file__, arguments, args.repeats, 1)
    agreed = found["ours"][0]["correct"]
    if any(row["correct"] != agreed for row in found["ours"]):
        raise SystemExit("a verdict of ours changed between rounds")
    # math-verify's own time limits turn a verdict where the machine is busy.
    changed = max(sum(map(str.__ne__, row["correct"], agreed)) for row in found["theirs"])
    if changed > MAX_CHANGED * len(agreed):
        raise SystemExit(f"{changed} verdicts of the loop changed between rounds")
    rates = {side: sum(same) / median_of(rows, "seconds") for side, rows in found.items()}
    memory = {side: median_of(rows, "worker_mib") for side, rows in found.items()}
    emit(
        "grading",
        rates["ours"],
        rates["theirs"],
        "completions/s",
        more_is_better=True,
        items=sum(same),
        different_verdicts=len(items) - sum(same),
        changed_verdicts=changed,
        data="real" if args.data.exists() else "generated",
        workers=args.workers,
        worker_mib=round(memory["ours"], 1),
        loop_mib=round(memory["theirs"], 1),
        memory_ratio=round(memory["ours"] / memory["theirs"], 3),
    )


if __name__ == "__main__":
    main()
