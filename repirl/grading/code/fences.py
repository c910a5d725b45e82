"""The program in a completion: its last fenced block, or all of it."""

from __future__ import annotations

import re
import textwrap

_FENCE_LINE = re.compile(r"([ \t]*)(```+|~~~+)([^\n`]*)")
_QUOTES = re.compile(r"\\.|\"\"\"|'''", re.DOTALL)


def extract_code(completion: str) -> str | None:
    """The last fenced block of a completion, or all of it where there is no fence; None if that is blank.

    Lines may end as on Windows. The code of an indented fence (in an item of a list) loses its common indentation. A
    fence within text in triple quotes does not end a block, as long as another one does.
    """
    blocks = _blocks(completion)
    code = blocks[-1][0] if blocks else completion
    return code if code.strip() else None


def has_closed_block(completion: str) -> bool:
    """Whether a fenced block is complete: then a completion that the token limit cut still holds an answer."""
    return any(closed and code.strip() for code, closed in _blocks(completion))


def _blocks(completion: str) -> list[tuple[str, bool]]:
    """The fenced blocks in order, each with whether it is closed."""
    lines = completion.replace("\r\n", "\n").split("\n")
    blocks = []
    start = 0
    while start < len(lines) - 1:  # a fence on the last line opens nothing
        opening = _FENCE_LINE.fullmatch(lines[start])
        start += 1
        if opening is None:
            continue
        end, closed = _block_end(lines, start, opening[2])
        code = "".join(f"{line}\n" for line in lines[start:end]) if closed else "\n".join(lines[start:end])
        blocks.append((textwrap.dedent(code) if opening[1] else code, closed))
        start = end + 1
    return blocks


def _block_end(lines: list[str], start: int, fence: str) -> tuple[int, bool]:
    """Where the block that begins at line `start` ends, and whether by a fence: by the first outside of triple quotes,
    else (the quotes were no such thing) by the first of all."""
    quote = ""
    first: int | None = None
    for number in range(start, len(lines)):
        if (line := _FENCE_LINE.fullmatch(lines[number])) is not None:
            if line[2] == fence and not line[3].strip():
                first = number if first is None else first
                if not quote:
                    return number, True
            elif first is not None:  # the next block begins
                break
        for found in _QUOTES.findall(lines[number]):
            quote = "" if found == quote else quote or (found if found[0] != "\\" else "")
    return (len(lines), False) if first is None else (first, True)
