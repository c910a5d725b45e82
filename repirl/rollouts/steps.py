"""Where steps end, as one function (DESIGN rule 4): characters to tokens, exactly.

A step is what lies between separators (a newline for the embedded families, a blank line for real models). The token in
which a separator is completed ends its step, the last token of the completion ends the last step. EOS belongs to the
last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np


@dataclass(frozen=True, slots=True)
class StepSegmentation:
    """How completions are cut into steps; stored with every PRM, which refuses another one."""

    separator: str = "\n"


def step_texts(text: str, segmentation: StepSegmentation) -> list[str]:
    """The steps of a text, separators removed; empty pieces (repeated or trailing separators) are no steps."""
    return [piece for piece in text.split(segmentation.separator) if piece.strip()]


_PIECES: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def _token_pieces(tokenizer, token_ids: Sequence[int]) -> list[str]:
    """Each token decoded alone (remembered per tokenizer)."""
    pieces = _PIECES.setdefault(tokenizer, {})
    for token in set(map(int, token_ids)) - pieces.keys():
        pieces[token] = tokenizer.decode([token], skip_special_tokens=True)
    return [pieces[int(token)] for token in token_ids]


def token_char_ends(tokenizer, token_ids: Sequence[int], text: str) -> np.ndarray:
    """int64 [T]: length of the decoded text after each token; `text` is the decoded whole.

    Where the tokens decoded one by one make up the text, their lengths are the answer. Otherwise decoding is
    incremental: tokens that end inside a UTF-8 character add nothing until the character is complete.
    """
    alone = _token_pieces(tokenizer, token_ids)
    if "".join(alone) == text:
        return np.cumsum([len(piece) for piece in alone], dtype=np.int64)
    ends = np.zeros(len(token_ids), dtype=np.int64)
    done = 0
    start = 0
    for i in range(len(token_ids)):
        piece = tokenizer.decode(list(token_ids[start : i + 1]), skip_special_tokens=True)
        if piece.endswith("�"):
            ends[i] = done
            continue
        ends[i] = done + len(piece)
        # A window that restarts at a line end keeps the whole linear in time; decoders are stable across newlines.
        if piece.endswith("\n"):
            done, start = int(ends[i]), i + 1
    return ends


def step_end_tokens(tokenizer, token_ids: Sequence[int], segmentation: StepSegmentation) -> np.ndarray:
    """int64 [S]: index of the last token of each step, increasing; the last is T - 1. Empty for no tokens.

    There are as many as `step_texts` of the decoded completion, or one if that has none.
    """
    num_tokens = len(token_ids)
    if num_tokens == 0:
        return np.zeros(0, dtype=np.int64)
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True)
    ends = token_char_ends(tokenizer, token_ids, text)
    separator = segmentation.separator
    found: list[int] = []
    position = 0
    while (at := text.find(separator, position)) >= 0:
        after = at + len(separator)
        if text[position:at].strip() and text[after:].strip():
            found.append(int(np.searchsorted(ends, after, side="left")))
        elif not text[after:].strip():
            break
        position = after
    kept = [end for end in dict.fromkeys(found) if end < num_tokens - 1]
    return np.array([*kept, num_tokens - 1], dtype=np.int64)


def step_index_of_tokens(step_ends: np.ndarray) -> np.ndarray:
    """int64 [T]: which step each token belongs to."""
    if len(step_ends) == 0:
        return np.zeros(0, dtype=np.int64)
    return np.searchsorted(step_ends, np.arange(int(step_ends[-1]) + 1), side="left")
