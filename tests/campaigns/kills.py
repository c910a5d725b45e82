"""Every verb that takes a while, killed again and again at a random moment: started again, it ends as a quiet run does.

    python tests/campaigns/kills.py --kills 40 --seed 0 [--only NAME]

Each chain starts in an empty folder; the command is killed (SIGKILL, SIGTERM or SIGINT, to the process alone, as `kill PID`
does) up to three times at a moment drawn from the time that a quiet run takes, and then left to finish. Compared with the
quiet run is everything but times: weights and samples byte for byte, every value of every log. After each kill no process
of it may be left, after the last run no temporary file. The last line is one JSON object; the exit code is 1 after a
difference.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEAST_S = 0.5
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Of records and logs: what two quiet runs differ in, too.
TIMES = frozenset({"wall_s", "created_utc", "run_id", "digest", "seconds", "command", "time", "sha256"})

SMALL = [
    f"--set={setting}"
    for setting in (
        "loop.steps=6",
        "loop.sampling.prompts_per_step=8",
        "loop.sampling.group_size=4",
        "loop.validation.every=2",
        "loop.validation.num_problems=16",
        "loop.validation.samples=2",
        "data.num_problems=64",
        "data.validation_problems=16",
    )
]
OFFLINE = "--set=offline.updates=12"
SUITE = """
title = "killed"
[[runs]]
method = "rloo"
set = [{settings}]
[[runs]]
method = "bc"
set = ["steps=4", "sampling.prompts_per_step=8", "data.num_problems=64", "data.validation_problems=16"]
[[evaluations]]
benchmark = "arith"
samples = 2
limit = 24
[[evaluations]]
kind = "judge"
set = "arith"
limit = 24
"""


@dataclass(frozen=True)
class Scenario:
    """A command (its folder is put in for FOLDER) and what of its folder, or of what it printed, is the result."""

    name: str
    command: Sequence[str]
    result: Callable[[Path, str], Any]
    prepare: Callable[[Path], None] = lambda folder: None


# ------------------------------------------------------------------------------------------------- results


def without_times(value: Any) -> Any:
    """A JSON value without what is a time, or named by one."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if key not in TIMES and not key.endswith(("_s", "_sha256"))}
        return {key: without_times(inner) for key, inner in kept.items()}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def files_of(folder: Path, stdout: str = "") -> dict[str, Any]:
    """Every file: JSON and JSON lines by their values, all others by their digest."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == ".lock":
            continue
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def samples_of(folder: Path, stdout: str) -> Any:
    """What an evaluation printed, and its samples in any order of chunks."""
    rows = []
    for path in sorted(folder.glob("evaluation-*.jsonl")):
        for line in path.read_text().splitlines()[1:]:
            entry = json.loads(line)
            rows += [(path.name, entry["part"], json.dumps(row, sort_keys=True)) for row in entry["rows"]]
    return without_times(json.loads(stdout)), sorted(rows)


def records_of(folder: Path, stdout: str) -> Any:
    """Records by their key, with the rows beside them; which run's table is shown does not matter here."""
    found = {}
    for path in sorted((folder / "results").glob("*/*/record.json")):
        record = json.loads(path.read_text())
        key = f"{record['label']}-{record['stage']}-{record['seed']}"
        assert key not in found, f"{key} is recorded twice"
        digests = [one["samples_sha256"] for one in record["evaluations"]] + [
            one["rows_sha256"] for one in record["judgements"]
        ]
        curve = path.parent / "curve.jsonl.gz"
        lines = gzip.decompress(curve.read_bytes()).decode().splitlines() if curve.is_file() else []
        found[key] = without_times(record), digests, [without_times(json.loads(line)) for line in lines]
    return found


def printed(folder: Path, stdout: str) -> Any:
    return without_times(json.loads(stdout)) if stdout.startswith("{") else stdout, files_of(folder)


def scenarios(data: Path) -> list[Scenario]:
    """`data`: a folder for what the commands read."""
    data.mkdir(parents=True, exist_ok=True)
    answers = [{"id": str(i), "answer": f"{i}/7", "completion": f"so \\boxed{{\\frac{{{i}}}{{7}}}}"} for i in range(1500)]
    (data / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    suites = data / "include" / "suites"
    suites.mkdir(parents=True, exist_ok=True)
    (suites / "killed.toml").write_text(
        SUITE.format(settings=", ".join(json.dumps(part.removeprefix("--set=")) for part in SMALL))
    )
    bc = [
        "--set=steps=12",
        "--set=sampling.prompts_per_step=16",
        "--set=validation.every=4",
        "--set=validation.num_problems=16",
    ]
    results = Path(__file__).resolve().parents[2] / "results"

    def copy_records(folder: Path) -> None:
        (folder / "results" / "tiny-full").mkdir(parents=True)
        for run in sorted(path.parent for path in (results / "tiny-full").glob("*/record.json"))[:12]:
            shutil.copytree(run, folder / "results" / "tiny-full" / run.name)

    bench = ["bench", "killed", "--include", str(data / "include"), "--work", "FOLDER/work", "--results", "FOLDER/results"]
    board = ["leaderboard", "--accept", "--results", "FOLDER/results", "--json"]
    return [
        Scenario("train rloo", ["train", "rloo", *SMALL, "--out", "FOLDER"], files_of),
        Scenario("train repirl", ["train", "repirl", *SMALL, OFFLINE, "--out", "FOLDER"], files_of),
        Scenario("train bc", ["train", "bc", *bc, "--out", "FOLDER"], files_of),
        Scenario(
            "train repirl --lora-rank", ["train", "repirl", "--lora-rank", "4", *SMALL, OFFLINE, "--out", "FOLDER"], files_of
        ),
        Scenario("pretrain", ["pretrain", "--steps", "24", "--no-hard", "--out", "FOLDER"], files_of),
        Scenario(
            "eval", ["eval", "--benchmark", "arith", "--limit", "60", "--samples", "8", "--out", "FOLDER", "--json"], samples_of
        ),
        Scenario("bench", bench, records_of),
        Scenario("judge", ["judge", "confidence", "arith", "--limit", "40", "--verdicts", "FOLDER/v.jsonl", "--json"], printed),
        Scenario("grade", ["grade", "math", str(data / "answers.jsonl"), "--verdicts", "FOLDER/v.jsonl", "--json"], printed),
        Scenario("leaderboard", board, lambda folder, _: files_of(folder / "leaderboard"), copy_records),
        Scenario("check", ["check", "arith", "--json"], printed),
    ]


# --------------------------------------------------------------------------------------------------- runs


def start(scenario: Scenario, folder: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "repirl", *(part.replace("FOLDER", str(folder)) for part in scenario.command)]
    with output.open("wb") as out, output.with_suffix(".err").open("wb") as errors:
        # A shell's background job ignores SIGINT; what is started here must not inherit that.
        return subprocess.Popen(
            command,
            stdout=out,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def finish(scenario: Scenario, folder: Path, output: Path) -> Any:
    code = start(scenario, folder, output).wait()
    if code != 0:
        raise AssertionError(f"exit code {code}: {output.with_suffix('.err').read_text()[-600:]}")
    litter = [str(path) for path in folder.rglob("*") if ".tmp" in path.name]
    if litter:
        raise AssertionError(f"left behind: {litter}")
    return scenario.result(folder, output.read_text())


def left_of(folder: Path) -> list[str]:
    """Command lines of living processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line:
                found.append(line[:200])
    return found


def kill_once(scenario: Scenario, folder: Path, output: Path, moment_s: float, which: signal.Signals) -> bool:
    """Whether the process still ran at that moment, and so was killed."""
    process = start(scenario, folder, output)
    try:
        process.wait(timeout=moment_s)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(which)
        code = process.wait(timeout=60)
    errors = output.with_suffix(".err").read_text()
    # -SIGINT: at either end of its life Python has no handler of its own.
    if "Traceback" in errors or (which == signal.SIGINT and code not in (130, 0, -signal.SIGINT)):
        raise AssertionError(f"after signal {which.name}: exit code {code}: {errors[-600:]}")
    deadline = time.monotonic() + 10
    while (left := left_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        raise AssertionError(f"after signal {which.name} there still runs {left}")
    return True


def chain(scenario: Scenario, expected: Any, quiet_s: float, folder: Path, output: Path, kills: int, rng: random.Random) -> int:
    """Kills, then a run to the end, whose result must be the expected one. How many kills there were."""
    folder.mkdir(parents=True)
    scenario.prepare(folder)
    done = 0
    for _ in range(kills):
        moment = rng.uniform(LEAST_S, quiet_s)
        done += kill_once(scenario, folder, output, moment, rng.choice(SIGNALS))
    found = finish(scenario, folder, output)
    if found != expected:
        raise AssertionError(f"differs: {difference(expected, found)}")
    return done


def difference(a: Any, b: Any, where: str = "") -> str:
    """The first place where two JSON-like values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}, key=str):
            if key not in a or key not in b:
                return f"{where}/{key} is in one only"
            if a[key] != b[key]:
                return difference(a[key], b[key], f"{where}/{key}")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                return difference(x, y, f"{where}/{i}")
    return f"{where}: {str(a)[:200]} against {str(b)[:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[])
    given = parser.parse_args()
    rng = random.Random(given.seed)
    kills: dict[str, int] = {}
    chains, faults = 0, []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        quiet: dict[str, tuple[Any, float]] = {}
        todo = [one for one in scenarios(work / "data") if not given.only or one.name in given.only]
        while sum(kills.values()) < given.kills:
            scenario = todo[chains % len(todo)]
            output = work / f"{chains}.out"
            try:
                if scenario.name not in quiet:
                    folder = work / "quiet" / scenario.name.replace(" ", "-")
                    folder.mkdir(parents=True)
                    scenario.prepare(folder)
                    started = time.monotonic()
                    expected = finish(scenario, folder, output)
                    quiet[scenario.name] = expected, time.monotonic() - started
                expected, quiet_s = quiet[scenario.name]
                wanted = min(rng.randrange(1, 4), given.kills - sum(kills.values()))
                done = chain(scenario, expected, quiet_s, work / str(chains), output, wanted, rng)
                kills[scenario.name] = kills.get(scenario.name, 0) + done
                print(f"{scenario.name}: {done} kills, the same result", file=sys.stderr, flush=True)
            except AssertionError as fault:
                faults.append(f"{scenario.name}: {fault}")
                print(faults[-1], file=sys.stderr, flush=True)
                if len(faults) > 10:
                    break
            chains += 1
    print(json.dumps({"kills": sum(kills.values()), "chains": chains, "faults": len(faults), "by_verb": kills}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
