"""The hidden tests of LiveCodeBench's releases, unpacked without trusting them.

Private tests are text in base64 of a zlib stream of a pickle of JSON text. Unpickling may run any code, so the only
thing that is unpickled here is a plain string.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from repirl.types import Case, CodeTests

# Of one problem. The largest of the releases stays below a quarter of it; a stream of zeros does not.
MAX_UNPACKED_BYTES = 1 << 30

# What the unpickler raises on garbage; ValueError, which ours raise, is not among them but for base64's.
_MALFORMED = (
    binascii.Error,
    zlib.error,
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
)

_Cases = list[Mapping[str, Any]]


class _OnlyText(pickle.Unpickler):
    """Loads built-in values; anything that would import a class or call a function is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise ValueError(f"the packed tests ask for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("the packed tests refer to outside objects")


def public_cases(text: str) -> _Cases:
    """`public_test_cases`: JSON."""
    return json.loads(text)


def private_cases(text: str) -> _Cases:
    """`private_test_cases`: JSON in the first release's files, packed in later ones.

    Raises ValueError if it is neither, is too large, or holds anything but text.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        stream = zlib.decompressobj()
        packed = stream.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED_BYTES)
        if not stream.eof:
            raise ValueError("the packed tests are too large, or cut off")
        unpacked = _OnlyText(io.BytesIO(packed)).load()
    except _MALFORMED as error:
        raise ValueError(f"cannot unpack the tests ({error})") from error
    if not isinstance(unpacked, str):
        raise ValueError(f"the packed tests hold a {type(unpacked).__name__}, not text")
    return json.loads(unpacked)


def tests_of(cases: Sequence[Mapping[str, Any]], metadata: str, prelude: str) -> CodeTests:
    """Functional tests have one JSON value per line and argument, and their function's name in the metadata."""
    kinds = {case["testtype"] for case in cases}
    if kinds == {"stdin"}:
        return CodeTests("stdio", cases=tuple(Case(stdin=c["input"], stdout=c["output"]) for c in cases), prelude=prelude)
    if kinds != {"functional"}:
        raise ValueError(f"test types {sorted(kinds)} in one problem")
    calls = tuple(Case(tuple(map(json.loads, c["input"].split("\n"))), json.loads(c["output"])) for c in cases)
    return CodeTests("functional", json.loads(metadata)["func_name"], calls, prelude=prelude)
