r"""The boxes of a completion: the last one, and those before it that make one answer with it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_BARE_BOX_CONTENT = re.compile(r"[^\s$,;{}\\]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_PLACEHOLDER = re.compile(r"[\s.\u2026_?]*|(?:(?:your|the|final)\s+)*answer(?:\s+here)?", re.I)
_MENTIONS_PASSED_OVER = 8  # boxes without content, from the last one back
_MAX_BOXES = 64
_MAX_BETWEEN = 80  # characters from one box of an answer to the next

# What may stand between two boxes of one answer: ends and starts of formulas, spacing, a comma, `and`, `or`, a name and `=`.
_NAME = r"(?P<name>\\?[A-Za-z]+(?:_(?:\w|\{\w+\}))?(?:\([\w, ]*\))?|\([\w, ]+\))"
_EDGE = r"\$|\\[()\[\]]"
_SPACING = r"[ \n\t~]|\\[\\,;: ]|\\q?quad(?![A-Za-z])"
_JOINT_WORD = r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*,?\s*(?:and|or)?\s*,?\s*\}|(?:and|or)(?![A-Za-z])|[,;]"
_EQUALS = rf"\s*&?\s*=\s*(?:{_EDGE}|{_SPACING})*"
_BETWEEN = re.compile(rf"(?:{_EDGE}|{_SPACING}|{_JOINT_WORD})*(?:{_NAME}{_EQUALS})?")
_JOINT = re.compile(_JOINT_WORD)
_ANOTHER_LINE = re.compile(r"\n|\$\$|\\\]")
# A name that is the whole left side; of anything else no more than the equals sign.
_LEFT_SIDE = re.compile(rf"(?:(?<![\w\\+*/^)}}-])(?<![+*/^-] ){_NAME}|(?<=\S)){_EQUALS}$")


def has_box(text: str) -> bool:
    r"""Whether there is a `\boxed` at all, be it a mere mention."""
    return _BOX.search(text) is not None


def last_box(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` (also `\fbox`), braces balanced, `\{` and `\}` not counted.

    A box without content or with a placeholder (`...`, `your answer`), or the bare word `\boxed` without a number behind it,
    is a mention and counts only if there is nothing else; then an empty string. None if there is no box. A box that is
    never closed ends with its line.
    """
    starts = _box_starts(text)
    return _last_content(text, starts)[0] if starts else None


def boxed_answer(text: str) -> str | None:
    r"""The last box, or several as a list: `$\boxed{2}$, $\boxed{3}$ and $\boxed{5}$` is one answer, `2, 3, 5`.

    Boxes belong together if nothing but commas, `and`, `or`, spacing and a name (`x = \boxed{1}`) is between them; names
    are kept. A full stop, another word, or a new line or display without a comma ends the list.
    """
    starts = _box_starts(text)
    if not starts:
        return None
    content, last = _last_content(text, starts)
    parts, start = [content], starts[last].start()
    names: list[str | None] = []
    for before, after in reversed(list(pairwise(starts[: last + 1]))):
        end = _closing_brace(text, before.end(), after.start())
        if end < 0 or (joint := _joint(text[end + 1 : after.start()])) is None or not text[before.end() + 1 : end].strip():
            break
        names.insert(0, joint.group("name"))
        parts.insert(0, text[before.end() + 1 : end].strip())
        start = before.start()
    if len(parts) == 1:
        return content
    lead = _LEFT_SIDE.search(text[max(0, start - _MAX_BETWEEN) : start])
    names.insert(0, lead.group("name") if lead else None)
    if lead and not lead.group("name"):  # `x + y = \boxed{5}` is a step, as it is with the boxes after the first
        names, parts = names[1:], parts[1:]
    if len(set(names)) == 1:
        return ", ".join(parts)
    return ", ".join(f"{name} = {part}" if name and "=" not in part else part for name, part in zip(names, parts, strict=True))


def _box_starts(text: str) -> Sequence[re.Match[str]]:
    return list(deque(_BOX.finditer(text), maxlen=_MAX_BOXES))


def _last_content(text: str, starts: Sequence[re.Match[str]]) -> tuple[str, int]:
    """The content of the last box that has some, and which one it is; an empty string if none has."""
    for i in reversed(range(max(0, len(starts) - _MENTIONS_PASSED_OVER), len(starts))):
        if not _PLACEHOLDER.fullmatch(content := _content(text, starts[i].end())):
            return content, i
    return "", 0


def _content(text: str, start: int) -> str:
    """What is in the box that opens at `start`."""
    if not text.startswith("{", start):
        bare = _BARE_BOX_CONTENT.match(text, start)
        content = bare.group() if bare else ""
        return content if (len(content) == 1 and content.isalnum()) or any(map(str.isdigit, content)) else ""
    end = _closing_brace(text, start, len(text))
    if end >= 0:
        return text[start + 1 : end].strip()
    return text[start + 1 :].split("\n", 1)[0].strip().rstrip("$.").strip()


def _closing_brace(text: str, start: int, limit: int) -> int:
    """Index of the brace that closes the one at `start`, or -1 if there is none before `limit`."""
    if not text.startswith("{", start):
        return -1
    depth = 0
    for match in _BRACE.finditer(text, start, limit):
        depth += (match.group() == "{") - (match.group() == "}")
        if depth == 0:
            return match.start()
    return -1


def _joint(between: str) -> re.Match[str] | None:
    """What is between two boxes, if it joins them: a comma or a word does; mere spacing does within a line or display."""
    match = _BETWEEN.fullmatch(between) if len(between) <= _MAX_BETWEEN else None
    return match if match and (_JOINT.search(between) or not _ANOTHER_LINE.search(between)) else None
