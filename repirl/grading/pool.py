"""Worker processes with a wall-clock deadline and a memory limit for each item.

A hung or crashed worker costs the one item it was working on. No signal is used in the calling process, so the pool
works from any thread. What a worker is: `worker.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from repirl.errors import UserError
from repirl.grading.worker import PoolFault, TaskResult, Worker

# Items of one call that wait in the queue, for each worker.
QUEUED_PER_WORKER = 16


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How items are run. `workers` None means one per available core; `memory_mib` bounds the address space."""

    workers: int | None = None
    deadline_s: float = 10.0
    memory_mib: int = 2048
    start_deadline_s: float = 120.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError("the number of workers must be at least 1", self.workers)
        if self.deadline_s <= 0:
            raise UserError("deadline_s must be positive", self.deadline_s)
        if self.memory_mib < 256:
            raise UserError("memory_mib must be at least 256", self.memory_mib)

    @property
    def num_workers(self) -> int:
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Runs one named function on items in worker processes, which are started when the first item comes.

    `function` is `module:attribute`, importable in a fresh interpreter; items and results must pickle. `preload` names
    modules that a worker imports before its first item, so that their import time is not taken from the item's deadline.
    `map` may be called from several threads at once. After a fork the child gets workers of its own.
    """

    def __init__(self, function: str, options: PoolOptions | None = None, preload: Sequence[str] = ()) -> None:
        self.function = function
        self._preload = tuple(preload)
        self.options = options or PoolOptions()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Any, Future[TaskResult]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._workers: set[Worker] = set()
        self._closed = False

    def map(self, items: Sequence[Any], on_progress: Callable[[int, int], None] | None = None) -> list[TaskResult]:
        """Results in the order of `items`; `on_progress(done, total)` is called in the calling thread.

        Raises PoolFault if no worker can be started (for example, the function cannot be imported).
        """
        if os.getpid() != self._pid:  # a forked child has neither our threads nor the right to our workers
            self._reset()
        # Backpressure: a call of a million items queues a few at a time, so other threads' items come in between.
        free = threading.Semaphore(QUEUED_PER_WORKER * self.options.num_workers)
        futures: list[Future[TaskResult]] = []
        results: list[TaskResult] = []

        def collect(future: Future[TaskResult]) -> None:
            results.append(future.result())
            if on_progress is not None:
                on_progress(len(results), len(items))

        try:
            for item in items:
                free.acquire()
                while len(results) < len(futures) and futures[len(results)].done():
                    collect(futures[len(results)])
                futures.append(self._submit(item))
                futures[-1].add_done_callback(lambda _: free.release())
            for future in futures[len(results) :]:
                collect(future)
        finally:
            for future in futures[len(results) :]:  # interrupted, or a fault: leave nothing behind for others to wait on
                future.cancel()
        return results

    def _submit(self, item: Any) -> Future[TaskResult]:
        future: Future[TaskResult] = Future()
        with self._lock:
            if self._closed:
                raise PoolFault("the worker pool is closed")
            self._jobs.put((item, future))
            if len(self._threads) < self.options.num_workers:
                if not self._threads:
                    atexit.register(self.close)
                thread = threading.Thread(target=self._serve, name=f"pool-{self.function}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are alive now."""
        with self._lock:
            return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Kill the workers; items still waiting fail with PoolFault. Called at exit; a second call does nothing."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        with contextlib.suppress(queue.Empty):
            while job := self._jobs.get_nowait():
                if job[1].set_running_or_notify_cancel():
                    job[1].set_exception(PoolFault("the worker pool was closed"))
        for _ in self._threads:
            self._jobs.put(None)
        atexit.unregister(self.close)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _serve(self) -> None:
        """One thread owns one worker process at a time and replaces it when it is lost."""
        worker: Worker | None = None
        while (job := self._jobs.get()) is not None:
            item, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if worker is None or worker.process.poll() is not None:
                    self._forget(worker)
                    worker = self._start_worker()
                result = worker.run(item, self.options.deadline_s)
                if not worker.usable:
                    self._forget(worker)
                    worker = None
                if self._closed:
                    raise PoolFault("the worker pool was closed")
                future.set_result(result)
            except BaseException as fault:  # noqa: BLE001 - raised again in the thread that waits for the result
                self._forget(worker)
                worker = None
                future.set_exception(fault)
        self._forget(worker)

    def _start_worker(self) -> Worker:
        worker = Worker(self.function, self._preload, self.options.memory_mib)
        with self._lock:
            self._workers.add(worker)
            closed = self._closed
        if closed:  # closed between two items: this one would outlive the pool
            self._forget(worker)
            raise PoolFault("the worker pool was closed")
        try:
            worker.wait_ready(self.options.start_deadline_s)
        except PoolFault:
            self._forget(worker)
            raise
        return worker

    def _forget(self, worker: Worker | None) -> None:
        if worker is not None:
            worker.close()
            with self._lock:
                self._workers.discard(worker)
