"""Grades generated programs against hidden tests: the programs run in the sandbox, the comparison happens here.

A program's process never holds an expected value. It returns claims about its outputs, as plain data, and whatever it
does to itself (exit, prints, monkeypatches, writes to descriptors, redefines `==`) can only change those claims.

`stdio` judges as a shell script would: the output counts only of a program that ends by itself, without an uncaught
exception and with exit code 0 (`sys.exit()` and `sys.exit(0)` are fine, another number or a message is a failure).
"""

from __future__ import annotations

import ast
import hashlib
import marshal
import pickle
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from repirl.errors import UserError
from repirl.grading.code.fences import extract_code
from repirl.grading.code.judging import judge, verdict_of
from repirl.grading.sandbox._child import sbx_checks
from repirl.grading.sandbox.runner import Job, SandboxLimits, run_jobs
from repirl.types import CodeTests, Verdict

DEFAULT_LIMITS = SandboxLimits()
CACHE_SIZE = 1 << 16
MAX_REASON = 200  # characters
# What tests may ask for: seconds of CPU per case, and MiB, of which Python itself takes some tens.
MAX_TIME_LIMIT_S, MEMORY_LIMITS_MIB = 3600, (64, 65536)
_FUTURE = re.compile(r"^from __future__ import [^\n(]*$", re.MULTILINE)


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
    too much or dies is `wrong` with that reason; `ungraded` means that the sandbox failed, or that the tests cannot be
    run or assert nothing. The same program with the same tests runs once. After MAX_TIMEOUTS cases of `stdio` that ran
    out of time the remaining ones count as failed without being run.

    Raises UserError on tests that cannot be run, and where the machine's sandbox is too weak.
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
            total = sbx_checks.count_tests(_prepared(tests)) if tests.kind == "asserts" else None
            verdicts[key] = verdict_of(tests, 0, "no code", total)
        elif (known := _cache.get(key)) is not None:
            verdicts[key] = known
        else:
            to_run[key] = (tests, code)
    by_limits: dict[SandboxLimits, list[tuple[bytes, CodeTests, str, list[Job]]]] = {}
    limits_of = {id(tests): _own_limits(tests, limits) for tests, _ in to_run.values()}
    for group, (key, (tests, code)) in enumerate(to_run.items()):
        plan = (key, tests, code, _jobs(tests, _after(tests.prelude, code), group))
        by_limits.setdefault(limits_of[id(tests)], []).append(plan)
    for own, plans in by_limits.items():
        runs = iter(run_jobs([job for *_, jobs in plans for job in jobs], own, allow_weak_sandbox))
        for key, tests, code, jobs in plans:
            own_runs = [next(runs) for _ in jobs]
            verdict = judge(tests, own_runs, own)
            seconds = sum(run.wall_s for run in own_runs)
            reason = _printable(verdict.reason)
            verdicts[key] = verdict = replace(verdict, reason=reason, extracted=code, seconds=seconds)
            # A timeout by the clock says as much about the machine's load as about the program.
            if verdict.outcome != "ungraded" and not any(run.timed_out for run in own_runs):
                _cache.put(key, verdict)
    return [verdicts[key] for key in keys]


def _after(prelude: str, code: str) -> str:
    """The program behind what is put before it; its `from __future__` lines go first, where alone they may stand."""
    if not prelude:
        return code
    return "".join(f"{line.rstrip()}\n" for line in _FUTURE.findall(code)) + prelude + _FUTURE.sub("", code)


def _own_limits(tests: CodeTests, limits: SandboxLimits) -> SandboxLimits:
    """`limits` with those that the tests bring. All cases of `functional` run in one process and share its time.

    A program may print, or return, some more than twice what is expected.
    """
    if tests.time_limit_s is not None:
        cpu_s = tests.time_limit_s * (len(tests.cases) if tests.kind == "functional" else 1)
        limits = replace(limits, cpu_s=cpu_s, wall_s=max(limits.wall_s, cpu_s + 2.0))
    if tests.memory_limit_mib is not None:
        limits = replace(limits, memory_mib=tests.memory_limit_mib)
    wanted = 2 * _expected_bytes(tests) + (1 << 16)
    if wanted > limits.output_bytes:  # rounded up, as programs of the same limits run together
        limits = replace(limits, output_bytes=1 << wanted.bit_length())
    return limits


def _expected_bytes(tests: CodeTests) -> int:
    """About how much a right program writes to one of its descriptors."""
    if tests.kind == "stdio":
        return max(len(case.stdout.encode("utf-8", "surrogateescape")) for case in tests.cases)
    try:
        return 2 * len(marshal.dumps([case.expected for case in tests.cases]))
    except ValueError:  # no plain data
        return 0


def _printable(reason: str) -> str:
    """A reason as one short line: parts of it may be the program's own words."""
    cut = reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def _digest(tests: CodeTests, limits: SandboxLimits) -> bytes:
    try:
        content = repr((tests, limits)).encode("utf-8", "surrogatepass")
    except ValueError:  # an integer longer than Python prints
        content = pickle.dumps((tests, limits))
    return hashlib.sha256(content).digest()


def check_tests(tests: CodeTests) -> None:
    """Raises UserError if these tests cannot be run at all."""
    for name in ("prelude", "entry_point", "code"):
        if not isinstance(given := getattr(tests, name), str):
            raise UserError(f"{name} of the tests must be text", str(given)[:80])
    bounds = {"time_limit_s": (1, MAX_TIME_LIMIT_S), "memory_limit_mib": MEMORY_LIMITS_MIB}
    for name, (least, most) in bounds.items():
        if (limit := getattr(tests, name)) is not None and (type(limit) is not int or not least <= limit <= most):
            raise UserError(f"{name} of the tests must be a whole number from {least} to {most}", limit)
    tolerance = tests.float_tolerance
    if tolerance is not None and not (type(tolerance) in (int, float) and 0 <= tolerance < 1):
        raise UserError("float_tolerance of the tests must be at least 0 and below 1", tolerance)
    if tests.kind == "asserts":
        _check_asserts(tests)
    elif not tests.cases:
        raise UserError(f"tests of kind {tests.kind} without cases")
    elif tests.kind == "functional" and not tests.entry_point:
        raise UserError("tests of kind functional without entry_point")
    elif tests.kind == "stdio":
        for number, case in enumerate(tests.cases, start=1):
            try:
                (case.stdin + case.stdout).encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise UserError(f"case {number}: `stdin` and `stdout` must be text that can be encoded", str(error)) from error


def _check_asserts(tests: CodeTests) -> None:
    todo = "fix the field `code` of the tests"
    try:
        compile(tests.code, "<tests>", "exec", dont_inherit=True)
        missing = sbx_checks.what_is_missing(_prepared(tests))
    except (SyntaxError, ValueError) as error:
        raise UserError("the tests are not Python", str(error), todo) from error
    except (MemoryError, RecursionError) as error:
        raise UserError("the tests are nested too deeply", todo=todo) from error
    if missing is not None:
        raise UserError(missing, tests.code.strip()[:80], todo)


def _prepared(tests: CodeTests) -> ast.Module:
    return sbx_checks.prepare(tests.code, tests.entry_point)


def _jobs(tests: CodeTests, code: str, group: int = 0) -> list[Job]:
    """One run per problem, or for `stdio` one per case (each needs a fresh process)."""
    if tests.kind == "stdio":
        stdins = [case.stdin.encode("utf-8", "surrogateescape") for case in tests.cases]
        return [Job("stdio", marshal.dumps((code, stdin)), capture=True, group=group) for stdin in stdins]
    if tests.kind == "asserts":
        return [Job("asserts", marshal.dumps((code, tests.code, tests.entry_point)))]
    try:
        return [Job("functional", marshal.dumps((code, tests.entry_point, [case.args for case in tests.cases])))]
    except ValueError as error:
        raise UserError("test arguments are not plain data", tests.entry_point, "use numbers, text, lists") from error
