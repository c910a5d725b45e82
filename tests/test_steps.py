"""Step positions: characters to tokens, exactly, for character, byte-level and space-stripping tokenizers."""

from __future__ import annotations

import numpy as np
import pytest

from repirl.engines.sampling import decode
from repirl.rollouts.steps import StepSegmentation, step_end_tokens, step_texts, token_char_ends

LINES = StepSegmentation("\n")
BLANK_LINES = StepSegmentation("\n\n")
TEXTS = [
    "one line",
    "a\nb\nc",
    "a\n\nb\n",
    "\n\nleading\nblank",
    "trailing\n \n",
    "añb → c\nüber ∑ x\n漢字 and 😀 mixed 😀😀\nend",
    "  indented\n    deeper\n\n\nfar",
    "7+(3*2)\n13\n\\boxed{13}",
]


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level BPE tokenizer trained on the spot: most characters outside of ASCII are several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["so the line is indented and far", "  leading blank\n\n", "mixed end\n"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture(scope="module")
def space_stripping():
    """A decoder like that of Llama 2: a space at the start of what is decoded disappears."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", "▁", "▁x", "x", "y", "▁y", "\n", "é", "▁é"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def encode(tokenizer, text: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert decode(tokenizer, np.array(ids)) == text
    return ids


def expected_ends(tokenizer, ids: list[int], text: str) -> list[int]:
    """By definition: the longest start of the text that the tokens so far have finished saying."""
    ends = []
    for i in range(1, len(ids) + 1):
        said = decode(tokenizer, np.array(ids[:i])).rstrip("\ufffd")
        ends.append(len(said))
        assert text.startswith(said)
    return ends


@pytest.mark.parametrize("text", TEXTS)
def test_characters_after_each_token_are_exact(byte_level, text):
    ids = encode(byte_level, text)
    ends = token_char_ends(byte_level, ids, text)
    assert ends.tolist() == expected_ends(byte_level, ids, text)
    assert ends[-1] == len(text)
    assert (np.diff(ends) >= 0).all()


def test_tokens_inside_a_character_add_nothing(byte_level):
    ids = encode(byte_level, "ab😀c")
    ends = token_char_ends(byte_level, ids, "ab😀c").tolist()
    assert len(ids) > 4
    assert ends[-1] == 4
    assert ends[-2] == 3
    assert all(end == 2 for end in ends[ends.index(2) : -2])


def test_a_character_that_is_cut_off_does_not_turn_the_count_back(byte_level):
    ids = encode(byte_level, "ab\nxy😀")[:-1]
    text = decode(byte_level, np.array(ids))
    assert text.endswith("\ufffd")
    ends = token_char_ends(byte_level, ids, text)
    assert (np.diff(ends) >= 0).all()
    assert ends[-1] == 5


def test_a_decoder_that_strips_spaces_at_the_start_of_a_line(space_stripping):
    ids = space_stripping.convert_tokens_to_ids(["x", "\n", "▁x", "\n", "▁y", "▁x", "\n", "▁é"])
    text = decode(space_stripping, np.array(ids))
    assert text == "x\n x\n y x\n é"
    assert token_char_ends(space_stripping, ids, text).tolist() == [1, 2, 4, 5, 7, 9, 10, 12]
    assert step_end_tokens(space_stripping, ids, LINES).tolist() == [1, 3, 6, 7]


@pytest.mark.parametrize("segmentation", [LINES, BLANK_LINES])
@pytest.mark.parametrize("text", TEXTS)
def test_as_many_steps_as_texts_and_each_token_span_says_its_step(byte_level, text, segmentation):
    ids = [*encode(byte_level, text), byte_level.eos_token_id]
    ends = step_end_tokens(byte_level, ids, segmentation)
    texts = step_texts(text, segmentation)
    assert len(ends) == len(texts)
    starts = [0, *(ends[:-1] + 1)]
    spans = [byte_level.decode(ids[a : b + 1], skip_special_tokens=True) for a, b in zip(starts, ends, strict=True)]
    assert [span.strip() for span in spans] == [step.strip() for step in texts]
    assert ends[-1] == len(ids) - 1  # EOS belongs to the last step


@pytest.mark.parametrize("text", ["a\nb", "\n1\n\n2\n", "x", "\n", "7+1\n\\boxed{8}"])
def test_embedded_tokenizer_with_and_without_eos(tokenizer, text):
    ids = encode(tokenizer, text)
    cut = step_end_tokens(tokenizer, ids, LINES)
    whole = step_end_tokens(tokenizer, [*ids, tokenizer.eos_token_id], LINES)
    assert len(cut) == len(whole) == max(1, len(step_texts(text, LINES)))
    assert cut[:-1].tolist() == whole[:-1].tolist()
    assert (cut[-1], whole[-1]) == (len(ids) - 1, len(ids))


def test_a_lone_eos_is_one_step_and_no_tokens_none(tokenizer):
    assert step_end_tokens(tokenizer, [tokenizer.eos_token_id], LINES).tolist() == [0]
    assert step_end_tokens(tokenizer, [], LINES).tolist() == []


def test_sampled_special_tokens_are_text_as_in_the_rollout(tokenizer):
    """A line that is only <unk> or <pad> is a step of `Rollout.text`; a final EOS is not."""
    newline = encode(tokenizer, "\n")[0]
    seven = encode(tokenizer, "7")[0]
    unk, pad, eos = tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id
    for ids in ([seven, newline, unk, newline, seven], [seven, newline, pad], [unk], [seven, newline, eos, newline, seven]):
        text = decode(tokenizer, np.array(ids))
        for tokens in (ids, [*ids, eos]):
            ends = step_end_tokens(tokenizer, tokens, LINES, text)
            assert len(ends) == len(step_texts(text, LINES))
            assert ends[-1] == len(tokens) - 1
    # Without the text, the tokenizer's EOS at the end is taken for the end.
    assert step_end_tokens(tokenizer, [seven, newline, eos], LINES).tolist() == [2]
    assert step_end_tokens(tokenizer, [seven, newline, eos], LINES, "7\n<eos>").tolist() == [1, 2]


def test_the_token_that_completes_a_separator_ends_the_step(byte_level):
    ids = encode(byte_level, "a.\n\nb")
    ends = step_end_tokens(byte_level, ids, BLANK_LINES)
    said = decode(byte_level, np.array(ids[: ends[0] + 1]))
    assert said.endswith("\n\n")
    assert not decode(byte_level, np.array(ids[: ends[0]])).endswith("\n\n")
