"""Hidden tests as text and back: one format for documents, training files and `repirl grade code`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from repirl.errors import UserError
from repirl.types import Case, CodeTests

# Written only where set, so that tests without them keep their text, and with it the digests of their benchmarks.
_OPTIONAL = ("prelude", "time_limit_s", "memory_limit_mib", "float_tolerance")


def encode_tests(tests: CodeTests) -> str:
    """Hidden tests as text, in the format that `repirl grade code` reads as well."""
    cases: list[dict[str, Any]] = []
    for case in tests.cases:
        if tests.kind == "stdio":
            cases.append({"stdin": case.stdin, "stdout": case.stdout})
        else:
            cases.append({"args": list(case.args), "expected": case.expected})
    values: dict[str, Any] = {"kind": tests.kind}
    values |= {"entry_point": tests.entry_point} if tests.entry_point else {}
    values |= {"cases": cases} if cases else {}
    values |= {"code": tests.code} if tests.code else {}
    values |= {name: value for name in _OPTIONAL if (value := getattr(tests, name)) not in ("", None)}
    return json.dumps(values)


def decode_tests(text: str | Mapping[str, Any], where: str) -> CodeTests:
    """The inverse of `encode_tests`; also takes the parsed object. UserError with `where` if it is malformed."""
    try:
        values = json.loads(text) if isinstance(text, str) else dict(text)
        kind = values["kind"]
        if kind not in ("functional", "stdio", "asserts"):
            raise UserError(f"unknown kind of tests of {where}", kind, "use functional, stdio or asserts")
        cases = [
            Case(stdin=case["stdin"], stdout=case["stdout"])
            if kind == "stdio"
            else Case(args=tuple(case["args"]), expected=case["expected"])
            for case in values.get("cases", ())
        ]
        return CodeTests(
            kind,
            values.get("entry_point", ""),
            tuple(cases),
            values.get("code", ""),
            **{name: values[name] for name in _OPTIONAL if name in values},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"malformed tests of {where}", f"{type(error).__name__}: {error}") from error
