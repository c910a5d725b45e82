"""What the performance scripts share: alternated runs in child processes, peak memory, the final JSON line."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SIDES = ("ours", "theirs")


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 1024 / (1024 if sys.platform == "darwin" else 1)


def alternate(script: str, arguments: Sequence[str], repeats: int, threads: int) -> dict[str, list[dict[str, Any]]]:
    """Runs `script --side ours ...` and `... theirs ...` in turn, each in a process of its own.

    A child prints one JSON object as its last line; they come back by side.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in SIDES:
            command = [sys.executable, script, "--side", side, "--threads", str(threads), *arguments]
            output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[side].append(json.loads(output.strip().splitlines()[-1]))
            print(f"{repeat + 1}/{repeats} {side}: {json.dumps(found[side][-1])}", file=sys.stderr, flush=True)
    return found


def median_of(rows: Sequence[dict[str, Any]], key: str) -> float:
    """The median of one measured number over repeats."""
    return statistics.median(row[key] for row in rows)


def emit(name: str, ours: float, theirs: float, unit: str, *, more_is_better: bool, **extra: Any) -> None:
    """Prints the result as one JSON line; `ratio` above 1 means that ours is better."""
    ratio = ours / theirs if more_is_better else theirs / ours
    row = {"name": name, "ours": round(ours, 3), "theirs": round(theirs, 3), "unit": unit, "ratio": round(ratio, 3)}
    print(json.dumps({**row, **extra}), flush=True)
