"""From what the runs of a program claim, and how they ended, to its verdict. The comparison happens here, in our process."""

from __future__ import annotations

import json
import signal
from typing import Any

from repirl.grading.code.claims import matches, same_output
from repirl.grading.sandbox.runner import MAX_TIMEOUTS, Run, SandboxLimits
from repirl.types import CodeTests, Verdict


def verdict_of(tests: CodeTests, passed: int, reason: str, total: int | None = None) -> Verdict:
    """Correct if all tests passed and nothing speaks against it; `total` None: the number of cases."""
    total = max(1, len(tests.cases)) if total is None else total
    correct = passed == total and not reason
    return Verdict("correct" if correct else "wrong", reason, None, passed / total, passed, total)


def judge(tests: CodeTests, runs: list[Run], limits: SandboxLimits) -> Verdict:
    """The verdict on one program from how its runs ended: `ungraded` where the sandbox failed, else by the kind of tests."""
    for run in runs:
        if run.fault is not None:
            return Verdict("ungraded", f"sandbox: {run.fault}")
    if tests.kind == "functional":
        return _judge_functional(tests, runs[0], limits)
    if tests.kind == "stdio":
        return _judge_stdio(tests, runs, limits)
    return _judge_asserts(tests, runs[0], limits)


def _frames(run: Run) -> list[list[Any]]:
    """The frames up to the first that is not one."""
    frames = []
    for line in run.frames.split(b"\n"):
        try:
            frame = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(frame, list) or not frame or not isinstance(frame[0], str):
            break
        frames.append(frame)
    return frames


def _how_it_died(run: Run, limits: SandboxLimits) -> str:
    """Why there are fewer claims than tests."""
    if run.broke:
        return "broke the sandbox"
    if run.too_much_output:
        return "too much output"
    if run.timed_out:
        return "timeout (wall clock)"
    if run.out_of_time(limits):
        return "timeout"
    if run.signal:
        return f"killed: {signal.Signals(run.signal).name}" if run.signal in _SIGNALS else f"killed: {run.signal}"
    return f"exit {run.exit_code}"


_SIGNALS = {int(s) for s in signal.Signals}


def _exception(name: Any) -> str:
    name = name if isinstance(name, str) else "without a name"
    return "memory" if name == "MemoryError" else name if name.startswith("missing ") else f"exception: {name}"


def _judge_functional(tests: CodeTests, run: Run, limits: SandboxLimits) -> Verdict:
    frames = _frames(run)
    if frames and frames[0][0] == "load":
        return verdict_of(tests, 0, _exception(frames[0][1] if len(frames[0]) > 1 else ""))
    passed, reason = 0, "too much output" if run.too_much_output else ""
    for case, frame in zip(tests.cases, frames, strict=False):
        ok = frame[0] == "value" and len(frame) == 2 and matches(case.expected, frame[1], tests.float_tolerance)
        passed += ok
        if not ok and not reason:
            reason = _exception(frame[1]) if frame[0] == "raise" and len(frame) > 1 else "wrong answer"
    if len(frames) < len(tests.cases):
        reason = reason or _how_it_died(run, limits)
    elif len(frames) > len(tests.cases):
        passed, reason = 0, reason or "wrong answer"  # somebody else wrote frames: none can be believed
    return verdict_of(tests, passed, reason)


def _judge_stdio(tests: CodeTests, runs: list[Run], limits: SandboxLimits) -> Verdict:
    """The cases after MAX_TIMEOUTS that ran out of time have failed whether they ran or not, so that the score depends
    neither on how many ran at once nor on their luck."""
    passed, reason, timeouts = 0, "", 0
    for done, (case, run) in enumerate(zip(tests.cases, runs, strict=True)):
        if timeouts == MAX_TIMEOUTS or run.not_run:
            reason += f"; after {MAX_TIMEOUTS} timeouts the rest counts as failed ({len(runs) - done})"
            break
        failure = _failure_of(case.stdout, run, limits, tests.float_tolerance)
        timeouts += run.out_of_time(limits)
        passed += not failure
        reason = reason or failure
    return verdict_of(tests, passed, reason)


def _failure_of(expected: str, run: Run, limits: SandboxLimits, tolerance: float | None) -> str:
    """Why a case of `stdio` failed; empty if it did not."""
    frames = _frames(run)
    if run.too_much_output or run.timed_out or run.signal or run.broke:
        return _how_it_died(run, limits)
    if frames and frames[0][0] == "raise" and len(frames[0]) > 1:
        return _exception(frames[0][1])
    if run.exit_code:
        return _how_it_died(run, limits)
    return "" if same_output(expected, run.stdout.decode("utf-8", "surrogateescape"), tolerance) else "wrong answer"


def _judge_asserts(tests: CodeTests, run: Run, limits: SandboxLimits) -> Verdict:
    """`ungraded` only for what the tests do, never by the program's choice: whether any check is reached without a
    single request to the program is up to the tests, and so is what they import and pass on."""
    total, passed, reason, finished = 1, 0, "", False
    for kind, *rest in _frames(run):
        finished = kind == "checks"
        if kind == "total":
            total = rest[0]
        elif kind == "pass":
            passed += 1
        elif kind == "stop" and rest[0] in _TESTS_AT_FAULT and not reason:
            return Verdict("ungraded", _TESTS_AT_FAULT[rest[0]].format(rest[1]))
        elif kind == "stop":
            reason = reason or _how_it_died(run, limits)
        elif kind in ("load", "fail"):
            failure = "wrong answer" if rest[0] == "AssertionError" else _exception(rest[0])
            reason = reason or failure
        elif kind == "checks" and rest[0] == 0 and not reason:
            if not rest[1]:
                return Verdict("ungraded", "tests: no assertion was executed")
            passed, reason = 0, "no assertion was reached"
    if not (finished and passed == total):
        reason = reason or _how_it_died(run, limits)
    return verdict_of(tests, passed, reason, total)


_TESTS_AT_FAULT = {
    "NotSendable": "tests: they pass a {} to the program",
    "MissingModule": "tests: they import {}, which is not in the sandbox",
}
