"""The final answer of a completion: the last box, then the usual phrases."""

from __future__ import annotations

import re
from collections import deque

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_BARE_BOX_CONTENT = re.compile(r"[^\s$,;{}\\]+")
_END_OF_THOUGHT = "</think>"
_ANSWER_TAG, _ANSWER_TAG_END = "<answer>", "</answer>"
_BOXES_LOOKED_AT = 8  # from the last one back
_MAX_ANSWER_CHARS = 4000

# `answer is 5`, `answers are 3 and 4`, `Final Answer: 5`, `**Answer:** 5`, `the answer to this is: 5`, `#### 5`
_PHRASE = re.compile(
    r"(?:####[ \t]*(?=[-+$\\\d.(])(?!\d+[.)]\s)"  # not a Markdown heading
    r"|\b(?i:answers?)\b\**[^\n.:=$\\]{0,60}?(?:\b(?i:is|are|be)\b|[:=])[\s:*]*"
    r"|\*\*(?i:(?:the )?final answer)\*\*\s*"
    r"|(?m:^)[ \t]*(?:\#{1,6}[^\w\n]{0,6}|\*\*)(?i:(?:the )?(?:final )?answer)[*: \t]{0,6}\n\s*(?:>[ \t]*)?"  # a heading
    r")(?=\S)"
)
# The marker of the published GSM8K solutions, on the last line only: a list of choices looks alike.
_A_COLON = re.compile(r"[ \t]*\**A\**:\**[ \t]*(?=\S)")

_MATH = r"(?:\$\$[^$]+\$\$|(?<!\\)\$(?:[^$\\]|\\.)+\$|\\\(.+?\\\)|\\\[.+?\\\])"
_MATH_LIST = re.compile(rf"{_MATH}(?:\s*(?:,\s*(?:and|or)|,|and|or)\s*{_MATH})*", re.DOTALL)
_LEADING_WORDS = re.compile(r"^(?:(?:therefore|thus|then|simply|just|equal to|approximately|given by)\b[\s,:]*)+", re.I)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\s(?:because|since|which)\b", re.I)


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def last_box(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` (also `\fbox`), braces balanced, `\{` and `\}` not counted.

    A box without content, or the bare word `\boxed` without a number behind it, is a mention and counts only if there is
    nothing else; then an empty string. None if there is no box. A box that is never closed ends with its line.
    """
    matches = deque(_BOX.finditer(text), maxlen=_BOXES_LOOKED_AT)
    contents = (_content(text, match.end()) for match in reversed(matches))
    return next((content for content in contents if content), "" if matches else None)


def _content(text: str, start: int) -> str:
    """What is in the box that opens at `start`."""
    if not text.startswith("{", start):
        bare = _BARE_BOX_CONTENT.match(text, start)
        content = bare.group() if bare else ""
        return content if (len(content) == 1 and content.isalnum()) or any(map(str.isdigit, content)) else ""
    depth, i = 0, start
    while i < len(text):
        char = text[i]
        if char == "\\":
            i += 2
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : i].strip()
        i += 1
    return text[start + 1 :].split("\n", 1)[0].strip().rstrip("$.").strip()


def phrase_answer(text: str) -> str | None:
    """What follows `A:` on the last line, else the last final-answer phrase (`the answer is`, `Answer:`, `####`)."""
    last_line = text.rstrip().rfind("\n") + 1
    match = _A_COLON.match(text, last_line) or _last_match(_PHRASE, text)
    return (_trim(text[match.end() :]) or None) if match else None


def _trim(rest: str) -> str:
    """The answer at the start of `rest`: its mathematics if it has any on the first line, else the sentence."""
    rest = _LEADING_WORDS.sub("", rest[:_MAX_ANSWER_CHARS])
    if (display := _MATH_LIST.match(rest)) is not None:
        return display.group().strip()
    line = rest.split("\n", 1)[0]
    if (inline := _MATH_LIST.search(line)) is not None:
        return inline.group().strip()
    if (end := _SENTENCE_END.search(line)) is not None:
        line = line[: end.start()]
    return line.strip().strip("*_`\"'").rstrip(".,;:").strip()


def final_answer(text: str) -> str | None:
    """The answer a completion ends with, or None: its last box, what its last `<answer>` tag holds if no box follows that,
    or what follows the last phrase. After `</think>`, only what follows it counts."""
    _, _, after = text.rpartition(_END_OF_THOUGHT)
    if after.strip():
        text = after
    _, tag, tagged = text.rpartition(_ANSWER_TAG)
    inside, _, behind = tagged.partition(_ANSWER_TAG_END)
    if tag and inside.strip() and not _BOX.search(behind):
        return last_box(inside) or phrase_answer(inside) or _trim(inside.strip()) or None
    boxed = last_box(text)
    return (boxed or None) if boxed is not None else phrase_answer(text)


def gold_answer(gold: str) -> str:
    r"""The answer within a gold field: what follows `####` (GSM8K), the last box, the phrase that ends a solution of
    several lines, else the field."""
    if "####" in gold:
        return gold.rpartition("####")[2].strip()
    if "\\boxed" in gold:
        return last_box(gold) or gold
    if "\n" in gold.strip():
        return phrase_answer(gold) or gold
    return gold
