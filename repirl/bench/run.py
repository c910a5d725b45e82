"""`repirl bench`: runs a suite's items, one process per core, skips what has a record, and reports.

A killed suite continues: finished items have records, unfinished ones their run folder with checkpoint and samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repirl.bench.suites import Suite, WorkItem, load_suite, parent_key, plan
from repirl.config import parse_config, with_overrides
from repirl.engines.loading import folder_digest, policy_dir
from repirl.errors import UserError
from repirl.methods.registry import load_method
from repirl.records import store
from repirl.records.schema import RunRecord
from repirl.tasks.benchmarks import benchmark_cards

OnEvent = Callable[[dict[str, Any]], None]
"""Called with {"key", "part", "done", "total", ...} lines of the workers, and part "skipped", "done" or "failed"."""


# Batches differ in shape from step to step: with glibc's moving threshold their tensors fragment the heap, and a worker
# grows from 1 to 2 GiB over a run. A fixed one returns every large block to the system.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "16777216"}


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """Where and how to run. `only` keeps items whose key starts with one of these; `jobs` processes at a time."""

    work: Path
    results: Path
    jobs: int
    only: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    data_dir: Path | None = None
    command: str = ""


@dataclass(frozen=True, slots=True)
class SuiteOutcome:
    """Keys by what happened to them; `failed` maps a key to the last line the worker wrote on stderr."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]


def selected(name: str, options: SuiteOptions) -> list[WorkItem]:
    """The items of a suite that `only` keeps, in order; UserError if it keeps none."""
    items = plan(name, load_suite(name, options.include))
    kept = [item for item in items if not options.only or item.key.startswith(options.only)]
    if not kept:
        raise UserError("no run of the suite starts with", ", ".join(options.only), f"runs: {items[0].key}, ...")
    return kept


def run_suite(name: str, options: SuiteOptions, on_event: OnEvent) -> SuiteOutcome:
    """Run all selected items that have no record yet. A failed item does not stop the others."""
    items = selected(name, options)
    recorded = {_key(run): run.record for run in store.find(name, root=options.results)}
    suite = load_suite(name, options.include)
    cards = {card.name: card.digest for card in benchmark_cards(options.include)}
    for item in items:
        if item.key in recorded:
            _check_same(item, suite, recorded[item.key], options, cards)
    waiting = [item for item in items if item.key not in recorded]
    skipped = tuple(item.key for item in items if item.key in recorded)
    for key in skipped:
        on_event({"key": key, "part": "skipped", "done": 1, "total": 1})
    return _Scheduler(options, waiting, on_event).run(skipped)


def _check_same(item: WorkItem, suite: Suite, record: RunRecord, options: SuiteOptions, cards: dict[str, str]) -> None:
    """UserError if a record was made with other settings than the suite has now: its numbers would stand for these.

    `cards`: digests by name. Settings that a record's version did not know have their defaults. The policy that a later
    stage starts from is a result, not a setting.
    """
    config = with_overrides(load_method(item.run.method, options.include).recipe(item.run.recipe), list(item.run.set))
    differ = [] if parse_config(type(config), record.config) == config else ["method"]
    if item.run.after is None and record.base_policy.digest != folder_digest(policy_dir(suite.policy)):
        differ.append("policy")
    made = {evaluation.benchmark: evaluation for evaluation in record.evaluations}
    for wanted in suite.evaluations:
        sampling = wanted.sampling(suite.eval_seed + item.seed)
        found = made.get(wanted.benchmark)
        if (
            found is None
            or found.card_digest != cards.get(wanted.benchmark, found.card_digest)
            or {name: found.protocol.get(name) for name in sampling} != sampling
        ):
            differ.append(f"benchmark {wanted.benchmark}")
    if differ:
        raise UserError(
            f"the record of {item.key} was made with other settings ({', '.join(differ)})",
            record.run_id,
            "give the changed suite another name, or take its old records out of the results",
        )


def _event(line: str) -> dict[str, Any] | None:
    """A worker's progress; None for what a library of its printed."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "key" in event else None


def _key(run: store.StoredRun) -> str:
    record = run.record
    return f"{record.method}-{record.stage.replace(' ', '-')}-s{record.seed}"


class _Scheduler:
    """Keeps up to `jobs` worker processes busy; an item waits until the run it starts from is finished."""

    def __init__(self, options: SuiteOptions, waiting: Sequence[WorkItem], on_event: OnEvent) -> None:
        self.options, self.waiting, self.on_event = options, list(waiting), on_event
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.done: list[str] = []
        self.failed: dict[str, str] = {}
        self.changed = threading.Condition()

    def run(self, skipped: tuple[str, ...]) -> SuiteOutcome:
        try:
            with self.changed:
                while self.waiting or self.running:
                    while len(self.running) < self.options.jobs and (item := self._next()) is not None:
                        self._start(item)
                    if not self.running and self.waiting:
                        self._give_up()
                        break
                    self.changed.wait()
        except BaseException:
            self._stop()
            raise
        return SuiteOutcome(tuple(self.done), skipped, self.failed)

    def _next(self) -> WorkItem | None:
        """The first waiting item whose parent is neither waiting nor running; one with a failed parent fails."""
        pending = {item.key for item in self.waiting} | self.running.keys()
        for item in list(self.waiting):
            parent = parent_key(item)
            if parent in self.failed:
                self.waiting.remove(item)
                self._fail(item.key, f"{parent}, from which it starts, failed")
            elif parent is None or parent not in pending:
                self.waiting.remove(item)
                return item
        return None

    def _give_up(self) -> None:
        for item in self.waiting:
            self._fail(item.key, "the run from which it starts never finished")
        self.waiting.clear()

    def _fail(self, key: str, why: str) -> None:
        self.failed[key] = why
        self.on_event({"key": key, "part": "failed", "done": 1, "total": 1, "why": why})

    def _start(self, item: WorkItem) -> None:
        options = self.options
        command = [sys.executable, "-m", "repirl.bench.worker", item.suite, item.key]
        command += ["--work", str(options.work), "--results", str(options.results), "--command", options.command]
        command += [part for folder in options.include for part in ("--include", folder)]
        if options.data_dir is not None:
            command += ["--data-dir", str(options.data_dir)]
        # One thread per process: several torch processes with several threads each slow each other down.
        threads = max(1, (os.cpu_count() or 1) // options.jobs) if options.jobs < (os.cpu_count() or 1) else 1
        command += ["--threads", str(threads)]
        environment = _MALLOC | os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.running[item.key] = process
        threading.Thread(target=self._follow, args=(item.key, process), daemon=True).start()

    def _follow(self, key: str, process: subprocess.Popen[str]) -> None:
        """Pass the worker's progress on until it ends; keep the end of what it wrote on stderr."""
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        reader.start()
        for line in process.stdout or ():
            if (event := _event(line)) is not None:
                self.on_event(event)
        code = process.wait()
        reader.join()
        with self.changed:
            del self.running[key]
            if code == 0:
                self.done.append(key)
            else:
                written = [line.strip() for line in errors if line.strip()]
                self._fail(key, written[-1] if written else f"worker ended with code {code}")
            self.changed.notify_all()

    def _stop(self) -> None:
        """End the workers that this process started."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()
