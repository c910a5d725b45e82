"""`minicode`: small Python functions over a list of integers, from short descriptions, judged by hidden tests.

A problem of level k composes k operations. The expected outputs come from an interpreter of the operations, never from
running anybody's program. The exact expert writes the function in several phrasings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from repirl.errors import UserError
from repirl.rng import stream
from repirl.tasks.list_programs import check_lines
from repirl.tasks.splits import check_request, split_of, take_evenly
from repirl.types import Case, CodeTests, Demonstration, Problem

FAMILY = "minicode"
LEVELS = tuple(range(1, 9))
PROMPT_WORD = "Write f(x): "
OWN_STYLE = "plain"
EXPERT_STYLES = ("map", "loop", "names")
NUM_TESTS = 6


@dataclass(frozen=True, slots=True)
class Op:
    """One list operation: a template for each way to say it. `kind` is `each`, `keep` or `whole`."""

    name: str
    kind: str
    code: str
    constants: tuple[int, ...] = ()


_SMALL = tuple(range(1, 10))
OPS = {
    op.name: op
    for op in (
        Op("add", "each", "v + {n}", _SMALL),
        Op("subtract", "each", "v - {n}", _SMALL),
        Op("times", "each", "v * {n}", (2, 3, 4, 5)),
        Op("square", "each", "v * v"),
        Op("negate", "each", "-v"),
        Op("above", "keep", "v > {n}", _SMALL),
        Op("below", "keep", "v < {n}", _SMALL),
        Op("even", "keep", "v % 2 == 0"),
        Op("odd", "keep", "v % 2 == 1"),
        Op("reverse", "whole", "{x}[::-1]"),
        Op("sort", "whole", "sorted({x})"),
        Op("drop", "whole", "{x}[{n}:]", (1, 2, 3)),
        Op("first", "whole", "{x}[:{n}]", (2, 3, 4, 5)),
    )
}


def apply(name: str, n: int, x: list[int]) -> list[int]:
    """The meaning of one operation, in our own words."""
    match name:
        case "add":
            return [v + n for v in x]
        case "subtract":
            return [v - n for v in x]
        case "times":
            return [v * n for v in x]
        case "square":
            return [v * v for v in x]
        case "negate":
            return [-v for v in x]
        case "above":
            return [v for v in x if v > n]
        case "below":
            return [v for v in x if v < n]
        case "even":
            return [v for v in x if v % 2 == 0]
        case "odd":
            return [v for v in x if v % 2 == 1]
        case "reverse":
            return list(reversed(x))
        case "sort":
            return sorted(x)
        case "drop":
            return x[n:]
        case "first":
            return x[:n]
    raise UserError("unknown minicode operation", name)


def parse(source: str) -> list[tuple[str, int]]:
    """The operations of a description such as `add 3, even, first 2`; UserError if it is none."""
    steps = []
    for part in source.split(", "):
        name, _, constant = part.partition(" ")
        op = OPS.get(name)
        if op is None or bool(op.constants) != constant.isdigit():
            raise UserError("not a minicode description", source)
        steps.append((name, int(constant) if constant else 0))
    return steps


def run(source: str, x: list[int]) -> list[int]:
    """What the described function returns for `x`."""
    for name, n in parse(source):
        x = apply(name, n, x)
    return x


def _draw(rng: np.random.Generator, level: int) -> str:
    parts: list[str] = []
    while len(parts) < level:
        op = OPS[list(OPS)[int(rng.integers(len(OPS)))]]
        # Filters and cuts shrink the list: too many and every output is empty and tells nothing.
        if op.name in {"above", "below", "even", "odd", "drop", "first"} and rng.random() < 0.4:
            continue
        part = f"{op.name} {op.constants[int(rng.integers(len(op.constants)))]}" if op.constants else op.name
        if not parts or part.split(" ")[0] != parts[-1].split(" ")[0]:
            parts.append(part)
    return ", ".join(parts)


def _tests(source: str) -> CodeTests | None:
    """Hidden tests with inputs drawn for this description; None if the outputs are too alike to tell programs apart."""
    rng = stream(0, "minicode-tests", source)
    cases = []
    for _ in range(NUM_TESTS):
        x = [int(v) for v in rng.integers(-9, 21, size=int(rng.integers(5, 11)))]
        cases.append(Case(args=(x,), expected=run(source, x)))
    outputs = {tuple(case.expected) for case in cases}
    filled = sum(len(case.expected) > 0 for case in cases)
    if len(outputs) < NUM_TESTS - 1 or filled < NUM_TESTS - 1:
        return None
    return CodeTests("functional", entry_point="f", cases=tuple(cases))


def problems(split: str, count: int, *, levels: tuple[int, ...] = LEVELS, seed: int = 0) -> list[Problem]:
    """`count` distinct problems of a split, levels in equal shares, the same for the same arguments.

    Level 1 has fewer than 80 functions in all: where a level runs out, its share goes to the others.
    """
    check_request(split, levels, LEVELS)
    return take_evenly({level: _stream(split, level, seed) for level in levels}, count, FAMILY)


def _stream(split: str, level: int, seed: int) -> Iterator[Problem]:
    """Distinct problems of one level; ends when 500 draws in a row brought nothing new."""
    rng = stream(seed, FAMILY, split, level)
    seen: set[str] = set()
    barren = 0
    while barren < 500:
        barren += 1
        source = _draw(rng, level)
        if source in seen or split_of(source) != split:
            continue
        seen.add(source)
        if (tests := _tests(source)) is not None:
            barren = 0
            yield problem_from(source, tests)


def problem_from(source: str, tests: CodeTests) -> Problem:
    """The problem that asks for the described function."""
    level = len(parse(source))
    return Problem(
        id=f"minicode-{hashlib.sha256(source.encode()).hexdigest()[:12]}",
        family=FAMILY,
        prompt=f"{PROMPT_WORD}{source}\n",
        grader="code",
        tests=tests,
        level=level,
        subject=f"level {level}",
        source=source,
    )


def _line(op: Op, n: int, style: str, var: str) -> str:
    """One operation as a statement (without indentation), in a phrasing."""
    code = op.code.format(n=n, x=var)
    if op.kind == "whole":
        return f"{var} = {code}"
    if style == "map":
        call = "map" if op.kind == "each" else "filter"
        return f"{var} = list({call}(lambda v: {code}, {var}))"
    if style == "loop":
        body = f"y += [{code}]" if op.kind == "each" else f"y += [v] * ({code})"
        return f"y = []\n    for v in {var}: {body}\n    {var} = y"
    return f"{var} = [{code} for v in {var}]" if op.kind == "each" else f"{var} = [v for v in {var} if {code}]"


def solution(source: str, style: str) -> str:
    """A right program in a phrasing: `plain` is the policy's own, the others are the expert's."""
    if style not in (OWN_STYLE, *EXPERT_STYLES):
        raise UserError("unknown minicode phrasing", style, f"choose one of {', '.join((OWN_STYLE, *EXPERT_STYLES))}")
    var = "items" if style == "names" else "x"
    lines = [f"def f({var}):"]
    lines += ["    " + _line(OPS[name], n, style, var) for name, n in parse(source)]
    return "\n".join([*lines, f"    return {var}"])


def check_steps(source: str, text: str) -> list[bool]:
    """Whether each line of a program is right: its values, on the hidden tests' inputs, are those of some of the operations in
    order (`list_programs.check_lines`). Blank lines are no steps.
    """
    tests = _tests(source)
    assert tests is not None, "a problem has tests"
    states: list[list[list[int]]] = [[list(case.args[0]) for case in tests.cases]]
    for name, n in parse(source):
        states.append([apply(name, n, one) for one in states[-1]])
    return check_lines(text, states[0], states)


def demonstrations(problem: Problem, count: int, seed: int = 0) -> list[Demonstration]:
    """`count` expert programs for a problem, cycling through the expert's phrasings from a seeded start."""
    start = int(stream(seed, "demo", problem.id).integers(len(EXPERT_STYLES)))
    styles = [EXPERT_STYLES[(start + i) % len(EXPERT_STYLES)] for i in range(count)]
    return [Demonstration(problem.id, solution(problem.source, style), f"exact:{style}") for style in styles]
