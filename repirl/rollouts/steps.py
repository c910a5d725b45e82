"""Where steps end, as one function (docs/design.md rule 4): characters to tokens, exactly.

A step is what lies between separators (a newline for the embedded families, a blank line for real models). The token in
which a separator is completed ends its step, the last token of the completion ends the last step. EOS belongs to the
last step and is no text; other special tokens that a policy samples are text, as in `Rollout.text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from repirl.engines.sampling import decode


@dataclass(frozen=True, slots=True)
class StepSegmentation:
    """How completions are cut into steps; stored with every PRM, which is always scored with its own."""

    separator: str = "\n"


def step_texts(text: str, segmentation: StepSegmentation) -> list[str]:
    """The steps of a text, separators removed; empty pieces (repeated or trailing separators) are no steps."""
    return [piece for piece in text.split(segmentation.separator) if piece.strip()]


_PIECES: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def _token_pieces(tokenizer, token_ids: Sequence[int]) -> list[str]:
    """Each token decoded alone (remembered per tokenizer)."""
    pieces = _PIECES.setdefault(tokenizer, {})
    for token in set(map(int, token_ids)) - pieces.keys():
        pieces[token] = decode(tokenizer, np.array([token]))
    return [pieces[int(token)] for token in token_ids]


def token_char_ends(tokenizer, token_ids: Sequence[int], text: str) -> np.ndarray:
    """int64 [T]: length of the decoded text after each token, never decreasing; `text` is the decoded whole.

    Where the tokens decoded one by one make up the text, their lengths are the answer. Otherwise decoding is
    incremental: tokens that end inside a UTF-8 character add nothing until the character is complete.
    """
    alone = _token_pieces(tokenizer, token_ids)
    if "".join(alone) == text:
        return np.cumsum([len(piece) for piece in alone], dtype=np.int64)
    # Windows that restart at line ends keep the whole linear in time. A decoder that strips spaces at the start of a text
    # makes them too short: then every prefix is decoded whole.
    ends = _incremental_ends(tokenizer, token_ids, restart="\n")
    if not text.endswith("�") and ends[-1] != len(text):
        ends = _incremental_ends(tokenizer, token_ids, restart=None)
    return ends


def _incremental_ends(tokenizer, token_ids: Sequence[int], restart: str | None) -> np.ndarray:
    ids_T = np.asarray(token_ids)
    ends_T = np.zeros(len(ids_T), dtype=np.int64)
    before, start, end = 0, 0, 0
    for i in range(len(ids_T)):
        piece = decode(tokenizer, ids_T[start : i + 1])
        if not piece.endswith("�"):
            end = before + len(piece)
            if restart is not None and piece.endswith(restart):
                before, start = end, i + 1
        ends_T[i] = end
    return ends_T


def step_end_tokens(
    tokenizer, token_ids: Sequence[int] | np.ndarray, segmentation: StepSegmentation, text: str | None = None
) -> np.ndarray:
    """int64 [S]: index of the last token of each step, increasing; the last is T - 1. Empty for no tokens.

    `text` is what the tokens say without their final EOS (`Rollout.text`); None decodes them and drops the tokenizer's EOS.
    There are as many as `step_texts(text)`, or one if that has none. (Fewer only if one token holds text on both sides of a
    separator: such a token cannot belong to two steps.)
    """
    num_tokens = len(token_ids)
    if num_tokens == 0:
        return np.zeros(0, dtype=np.int64)
    ids = [int(token) for token in token_ids]
    if text is None:
        text = decode(tokenizer, np.array(ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids, dtype=np.int64))
    ends = token_char_ends(tokenizer, ids, decode(tokenizer, np.array(ids)))
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
