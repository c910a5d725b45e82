"""Grades generated programs against hidden tests: the programs run in the sandbox, the comparison happens here.

A program's process never holds an expected value. It returns claims about its outputs, as plain data, and whatever it
does to itself (exit, prints, monkeypatches, writes to descriptors, redefines `==`) can only change those claims.
"""

from __future__ import annotations

import ast
import hashlib
import json
import marshal
import pickle
import re
import signal
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from repirl.errors import UserError
from repirl.grading.claims import matches, same_output
from repirl.grading.sandbox import Job, Run, SandboxLimits, run_jobs
from repirl.types import CodeTests, Verdict

DEFAULT_LIMITS = SandboxLimits()
CACHE_SIZE = 1 << 16
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)

_FUTURE = re.compile(r"^from __future__ import [^\n(]*$", re.MULTILINE)


def extract_code(completion: str) -> str | None:
    """The last fenced block of a completion, or all of it where there is no fence; None if that is blank."""
    blocks = _FENCE.findall(completion)
    code = blocks[-1][1] if blocks else completion
    return code if code.strip() else None


def has_closed_block(completion: str) -> bool:
    """Whether a fenced block is complete: then a completion that the token limit cut still holds an answer."""
    return any(match.group(3) and match.group(2).strip() for match in _FENCE.finditer(completion))


class _VerdictCache:
    """Verdicts by digest of program, tests and limits; the least recently used go first. Shared by all threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()

    def get(self, key: bytes) -> Verdict | None:
        with self._lock:
            if (verdict := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            return verdict

    def put(self, key: bytes, verdict: Verdict) -> None:
        with self._lock:
            self._kept[key] = verdict
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


_cache = _VerdictCache(CACHE_SIZE)


def clear_cache() -> None:
    """Forgets all verdicts (for measurements)."""
    _cache.clear()


def grade_programs(
    items: Sequence[tuple[CodeTests, str]],
    limits: SandboxLimits = DEFAULT_LIMITS,
    allow_weak_sandbox: bool = False,
) -> list[Verdict]:
    """Verdicts on completions, each with its hidden tests, in order.

    `correct` only if every test passes; `score` is the fraction that does. A program that raises, runs too long, uses
    too much or dies is `wrong` with that reason; `ungraded` means that the sandbox failed. The same program with the
    same tests runs once. Raises UserError on tests that cannot be run, and where the machine's sandbox is too weak.
    """
    verdicts: dict[bytes, Verdict] = {}
    to_run: dict[bytes, tuple[CodeTests, str]] = {}
    keys: list[bytes] = []
    digests: dict[int, bytes] = {}
    for tests, completion in items:
        if id(tests) not in digests:
            check_tests(tests)
            digests[id(tests)] = _digest(tests, limits)
        code = extract_code(completion)
        key = hashlib.sha256(digests[id(tests)] + (code or "").encode("utf-8", "surrogatepass")).digest()
        keys.append(key)
        if key in verdicts or key in to_run:
            continue
        if code is None:
            verdicts[key] = _verdict(tests, 0, "no code", _count_asserts(tests.code) if tests.kind == "asserts" else None)
        elif (known := _cache.get(key)) is not None:
            verdicts[key] = known
        else:
            to_run[key] = (tests, code)
    by_limits: dict[SandboxLimits, list[tuple[bytes, CodeTests, str, list[Job]]]] = {}
    for key, (tests, code) in to_run.items():
        plan = (key, tests, code, _jobs(tests, _after(tests.prelude, code)))
        by_limits.setdefault(_own_limits(tests, limits), []).append(plan)
    for own, plans in by_limits.items():
        runs = iter(run_jobs([job for *_, jobs in plans for job in jobs], own, allow_weak_sandbox))
        for key, tests, code, jobs in plans:
            own_runs = [next(runs) for _ in jobs]
            verdict = _judge(tests, own_runs, own)
            seconds = sum(run.wall_s for run in own_runs)
            verdicts[key] = verdict = replace(verdict, extracted=code, seconds=seconds)
            # A timeout by the clock says as much about the machine's load as about the program.
            if verdict.outcome != "ungraded" and verdict.reason != "timeout (wall clock)":
                _cache.put(key, verdict)
    return [verdicts[key] for key in keys]


def _after(prelude: str, code: str) -> str:
    """The program behind what is put before it; its `from __future__` lines go first, where alone they may stand."""
    if not prelude:
        return code
    return "".join(f"{line.rstrip()}\n" for line in _FUTURE.findall(code)) + prelude + _FUTURE.sub("", code)


def _own_limits(tests: CodeTests, limits: SandboxLimits) -> SandboxLimits:
    """`limits` with those that the tests bring. All cases of `functional` run in one process and share its time."""
    if tests.time_limit_s is not None:
        cpu_s = tests.time_limit_s * (len(tests.cases) if tests.kind == "functional" else 1)
        limits = replace(limits, cpu_s=cpu_s, wall_s=max(limits.wall_s, cpu_s + 2.0))
    if tests.memory_limit_mib is not None:
        limits = replace(limits, memory_mib=tests.memory_limit_mib)
    return limits


def _digest(tests: CodeTests, limits: SandboxLimits) -> bytes:
    try:
        content = repr((tests, limits)).encode("utf-8", "surrogatepass")
    except ValueError:  # an integer longer than Python prints
        content = pickle.dumps((tests, limits))
    return hashlib.sha256(content).digest()


def check_tests(tests: CodeTests) -> None:
    """Raises UserError if these tests cannot be run at all."""
    if tests.kind == "asserts":
        try:
            compile(tests.code, "<tests>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise UserError("the tests are not Python", str(error), "fix the field `code` of the tests") from error
        return
    for name in ("time_limit_s", "memory_limit_mib"):
        if (limit := getattr(tests, name)) is not None and (type(limit) is not int or limit <= 0):
            raise UserError(f"{name} of the tests must be a positive integer", limit)
    tolerance = tests.float_tolerance
    if tolerance is not None and not (type(tolerance) in (int, float) and 0 <= tolerance < 1):
        raise UserError("float_tolerance of the tests must be at least 0 and below 1", tolerance)
    if not tests.cases:
        raise UserError(f"tests of kind {tests.kind} without cases")
    if tests.kind == "functional" and not tests.entry_point:
        raise UserError("tests of kind functional without entry_point")


def _jobs(tests: CodeTests, code: str) -> list[Job]:
    """One run per problem, or for `stdio` one per case (each needs a fresh process)."""
    if tests.kind == "stdio":
        stdins = [case.stdin.encode("utf-8", "surrogateescape") for case in tests.cases]
        return [Job("stdio", marshal.dumps((code, stdin)), capture=True) for stdin in stdins]
    if tests.kind == "asserts":
        return [Job("asserts", marshal.dumps((code, tests.code, tests.entry_point)))]
    try:
        return [Job("functional", marshal.dumps((code, tests.entry_point, [case.args for case in tests.cases])))]
    except ValueError as error:
        raise UserError("test arguments are not plain data", tests.entry_point, "use numbers, text, lists") from error


def _count_asserts(code: str) -> int:
    """How many tests `_child/sbx_asserts.py` would count."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    statements = [s for s in ast.parse(code).body if not isinstance(s, definitions)]
    calls = [isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) for s in statements]
    asserts = [any(isinstance(node, ast.Assert) for node in ast.walk(s)) for s in statements]
    return max(1, sum(map(max, calls, asserts)))


def _verdict(tests: CodeTests, passed: int, reason: str, total: int | None = None) -> Verdict:
    total = max(1, len(tests.cases)) if total is None else total
    correct = passed == total and not reason
    return Verdict("correct" if correct else "wrong", reason, None, passed / total, passed, total)


def _judge(tests: CodeTests, runs: list[Run], limits: SandboxLimits) -> Verdict:
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
    if run.too_much_output:
        return "too much output"
    if run.timed_out:
        return "timeout (wall clock)"
    # The limit is kept by counting clock ticks, cpu_s is exact: on a busy machine they differ.
    if run.signal == signal.SIGKILL and run.cpu_s >= 0.7 * limits.cpu_s:
        return "timeout"
    if run.signal:
        return f"killed: {signal.Signals(run.signal).name}" if run.signal in _SIGNALS else f"killed: {run.signal}"
    return f"exit {run.exit_code}"


_SIGNALS = {int(s) for s in signal.Signals}


def _exception(name: Any) -> str:
    name = str(name)
    return "memory" if name == "MemoryError" else name if name.startswith("missing ") else f"exception: {name}"


def _judge_functional(tests: CodeTests, run: Run, limits: SandboxLimits) -> Verdict:
    frames = _frames(run)
    if frames and frames[0][0] == "load":
        return _verdict(tests, 0, _exception(frames[0][1] if len(frames[0]) > 1 else ""))
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
    return _verdict(tests, passed, reason)


def _judge_stdio(tests: CodeTests, runs: list[Run], limits: SandboxLimits) -> Verdict:
    passed, reason = 0, ""
    for case, run in zip(tests.cases, runs, strict=True):
        frames = _frames(run)
        failure = ""
        if run.too_much_output or run.timed_out or run.signal:
            failure = _how_it_died(run, limits)
        elif frames and frames[0][0] == "raise" and len(frames[0]) > 1:
            failure = _exception(frames[0][1])
        elif not same_output(case.stdout, run.stdout.decode("utf-8", "surrogateescape"), tests.float_tolerance):
            failure = "wrong answer"
        passed += not failure
        reason = reason or failure
    return _verdict(tests, passed, reason)


def _judge_asserts(tests: CodeTests, run: Run, limits: SandboxLimits) -> Verdict:
    total, passed, reason = 1, 0, ""
    finished = False
    for kind, *rest in _frames(run):
        if kind == "total":
            total = rest[0]
        elif kind == "pass":
            passed += 1
        elif kind == "stop" and rest[0] == "NotSendable":
            return Verdict("ungraded", f"sandbox: the tests pass a {rest[1]} to the program")
        elif kind == "stop":
            reason = reason or _how_it_died(run, limits)
        elif kind in ("load", "fail"):
            failure = "wrong answer" if rest[0] == "AssertionError" else _exception(rest[0])
            reason = reason or failure
    finished = passed == total
    if not finished and not reason:
        reason = _how_it_died(run, limits)
    return _verdict(tests, passed, reason, total)
