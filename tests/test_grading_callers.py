"""Who may call the math grader: event loops, threads beside each other, worker processes of other frameworks; and queueing."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Iterator
from multiprocessing.queues import SimpleQueue

import pytest

from repirl.grading.math.grader import MathGrader
from repirl.grading.pool import QUEUED_PER_WORKER, PoolFault, PoolOptions, WorkerPool
from repirl.grading.worker import Worker

ITEMS = [("x+1", "\\boxed{1+x}", "stop"), ("x+1", "\\boxed{x-1}", "stop"), ("7", "\\boxed{7}", "stop")]
OUTCOMES = ["correct", "wrong", "correct"]


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    grader = MathGrader(PoolOptions(workers=1, deadline_s=60))
    yield grader
    grader.close()


def test_from_a_running_event_loop(grader: MathGrader) -> None:
    """Blocking in the loop's own thread, and several at once beside it: no signal, no loop of ours is involved."""

    async def grade() -> list[list[str]]:
        found = [grader.grade_many(ITEMS)]
        distinct = [[(f"x+{k}", f"\\boxed{{{k}+x}}", "stop"), (f"x+{k}", "\\boxed{y}", "stop")] for k in range(2, 5)]
        found += await asyncio.gather(*(asyncio.to_thread(grader.grade_many, items) for items in distinct))
        return [[verdict.outcome for verdict in verdicts] for verdicts in found]

    assert asyncio.run(grade()) == [OUTCOMES, *[["correct", "wrong"]] * 3]


def _grade_in_a_thread(answers: SimpleQueue[list[str]]) -> None:
    def work() -> None:
        own = MathGrader(PoolOptions(workers=1, deadline_s=60))
        answers.put([verdict.outcome for verdict in own.grade_many(ITEMS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_from_a_thread_of_a_daemonic_process(grader: MathGrader, method: str) -> None:
    """What a Ray actor or a data loader's worker is: such a process may not have children of multiprocessing."""
    grader.grade_many(ITEMS)
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    process = context.Process(target=_grade_in_a_thread, args=(answers,), daemon=True)
    process.start()
    process.join(timeout=90)
    assert process.exitcode == 0
    assert answers.get() == OUTCOMES


def test_a_long_call_does_not_hold_up_another_thread() -> None:
    """Backpressure: of a long call only a few items wait in the queue, the rest stay with the caller."""
    with WorkerPool("builtins:eval", PoolOptions(workers=1, deadline_s=60)) as pool:
        pool.map(["1"])
        long_call = threading.Thread(target=pool.map, args=(["__import__('time').sleep(0.02)"] * 400,))
        started = time.monotonic()
        long_call.start()
        time.sleep(0.2)
        assert pool._jobs.qsize() <= QUEUED_PER_WORKER
        assert pool.map(["2"])[0].value == 2
        short_call_s = time.monotonic() - started
        long_call.join()
        assert short_call_s < (time.monotonic() - started) / 2


def test_results_are_in_order_beyond_the_queue() -> None:
    with WorkerPool("builtins:eval", PoolOptions(workers=2, deadline_s=60)) as pool:
        seen: list[tuple[int, int]] = []
        items = [str(i) for i in range(5 * QUEUED_PER_WORKER)]
        results = pool.map(items, lambda done, total: seen.append((done, total)))
        assert [result.value for result in results] == list(range(len(items)))
        assert seen == [(i + 1, len(items)) for i in range(len(items))]


def test_closing_ends_a_call_that_still_has_items_to_queue() -> None:
    pool = WorkerPool("builtins:eval", PoolOptions(workers=1, deadline_s=60))
    failed: list[BaseException] = []

    def run() -> None:
        try:
            pool.map(["__import__('time').sleep(0.05)"] * 1000)
        except PoolFault as fault:
            failed.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    while not pool.worker_pids():
        time.sleep(0.05)
    pool.close()
    thread.join(timeout=20)
    assert failed
    assert not thread.is_alive()


def test_a_pipe_is_closed_by_the_thread_that_owns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed by two threads at once, its number could by then be another file's."""
    closers: list[str] = []
    close = Worker.close

    def record(worker: Worker) -> None:
        closers.append(threading.current_thread().name)
        close(worker)

    monkeypatch.setattr(Worker, "close", record)
    pool = WorkerPool("builtins:eval", PoolOptions(workers=1, deadline_s=60))
    assert pool.map(["1"])[0].value == 1
    pool.close()
    for thread in pool._threads:
        thread.join(timeout=20)
    assert closers == ["pool-builtins:eval"]
