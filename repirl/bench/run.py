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

from repirl.bench.known import check_same, differing, today
from repirl.bench.suites import (
    WorkItem,
    load_suite,
    plan,
)
from repirl.errors import UserError
from repirl.processes import only_user_of
from repirl.records import store

OnEvent = Callable[[dict[str, Any]], None]
"""Called with {"key", "part", "done", "total", ...} lines of the workers, and part "skipped", "remark", "done" or "failed"."""


# Batches differ in shape from step to step: with glibc's moving threshold their tensors fragment the heap, and a worker
# grows from 1 to 2 GiB over a run. A fixed one returns every large block to the system.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "16777216"}


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """Where and how to run. `only` keeps items whose key starts with one of these; `jobs` processes at a time; `trackers` are
    told of each."""

    work: Path
    results: Path
    jobs: int
    only: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    data_dir: Path | None = None
    trackers: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True, slots=True)
class SuiteOutcome:
    """Keys by what happened to them; `failed` maps a key to the last line the worker wrote on stderr."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]


def selected(name: str, options: SuiteOptions) -> list[WorkItem]:
    """The items of a suite that `only` keeps; UserError for none."""
    items = plan(name, load_suite(name, options.include))
    kept = [item for item in items if not options.only or item.key.startswith(options.only)]
    if not kept:
        raise UserError("no run of the suite starts with", ", ".join(options.only), f"runs: {items[0].key}, ...")
    return kept


def recorded_items(name: str, options: SuiteOptions, items: Sequence[WorkItem]) -> set[str]:
    """Keys of the items that have a record, here or in a suite that this one shares runs with; UserError for one that was made
    with other settings."""
    found = sorted((run.record for run in store.find(name, root=options.results)), key=lambda record: record.created_utc)
    recorded = {record.key: record for record in found}  # of several the latest
    suite = load_suite(name, options.include)
    others = [run.record for other in suite.shares for run in store.find(other, root=options.results)]
    shared = {record.key: [one for one in others if one.key == record.key] for record in others}
    known = [item for item in items if item.key in recorded or item.key in shared]
    now = today(known, suite, options.include, options.data_dir)
    for item in known:
        if item.key in recorded:
            check_same(item, suite, recorded[item.key], options.include, now)
        elif same := [record for record in shared[item.key] if not differing(item, suite, record, options.include, now)]:
            recorded[item.key] = same[0]
    return recorded.keys() & {item.key for item in items}


def run_suite(name: str, options: SuiteOptions, on_event: OnEvent) -> SuiteOutcome:
    """Run all selected items that have no record yet. A failed item does not stop the others."""
    items = selected(name, options)
    recorded = recorded_items(name, options, items)
    waiting = [item for item in items if item.key not in recorded]
    skipped = tuple(item.key for item in items if item.key in recorded)
    for key in skipped:
        on_event({"key": key, "part": "skipped", "done": 1, "total": 1})
    with only_user_of(options.work):
        return _Scheduler(options, waiting, on_event).run(skipped)


def _event(line: str) -> dict[str, Any] | None:
    """A worker's progress; None for what a library of its printed."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "key" in event else None


def _threads(jobs: int) -> int:
    """Torch threads of each worker: the user's OMP_NUM_THREADS, else the cores shared out.

    One for as many workers as cores: several torch processes with several threads each slow each other down.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else max(1, len(os.sched_getaffinity(0)) // jobs)


class _Scheduler:
    """Keeps up to `jobs` worker processes busy; an item waits until the run it starts from is finished."""

    def __init__(self, options: SuiteOptions, waiting: Sequence[WorkItem], on_event: OnEvent) -> None:
        self.options, self.waiting, self.on_event = options, list(waiting), on_event
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.done: list[str] = []
        self.failed: dict[str, str] = {}
        self.changed = threading.Condition()
        self.stopping = False  # what ends now was ended by us

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
        """The first waiting item that needs no waiting or running one; one that needs a failed one fails."""
        pending = {item.key for item in self.waiting} | self.running.keys()
        for item in list(self.waiting):
            if failed := [key for key in item.needs if key in self.failed]:
                self.waiting.remove(item)
                self._fail(item.key, f"{failed[0]}, which it needs, failed")
            elif not pending & set(item.needs):
                self.waiting.remove(item)
                return item
        return None

    def _give_up(self) -> None:
        for item in self.waiting:
            self._fail(item.key, "a run that it needs never finished")
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
        command += ["--log", ",".join(options.trackers)]
        threads = _threads(options.jobs)
        command += ["--threads", str(threads), "--parent-pid", str(os.getpid())]
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
            elif not self.stopping:
                written = [line.strip() for line in errors if line.strip()]
                self._fail(key, written[-1] if written else f"worker ended with code {code}")
            self.changed.notify_all()

    def _stop(self) -> None:
        """End the workers that this process started."""
        self.stopping = True
        running = list(self.running.values())  # those that follow the workers take the ended ones out
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
