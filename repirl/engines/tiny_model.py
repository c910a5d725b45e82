r"""The architecture and tokenizer of the embedded `tiny` policy: Qwen3 of about 0.9M parameters, character level.

The tokenizer knows the printable ASCII characters, newline, and a few words and phrases of the two embedded families as
single tokens (`\boxed{`, ` for v in x]`); everything else is `<unk>`. Decoding an ASCII text's tokens gives the text back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"

_WORDS = (
    "Compute ",
    "\\boxed{",
    " so ",
    " as ",
    "first ",
    "then ",
    ": ",
    "(-",
    "Write f(x): ",
    "def f(",
    "):\n",
    "    x = ",
    "[v",
    " for v in x]",
    " if v",
    "    return ",
    "sorted(",
    "[::-1]",
    " % 2 == ",
    "list(map(lambda v: ",
    "list(filter(lambda v: ",
    "    for v in x: ",
    "y += [v",
    "    y = []\n",
    "    x = y\n",
    "items",
    "add ",
    "subtract ",
    "times ",
    "square",
    "negate",
    "above ",
    "below ",
    "even",
    "odd",
    "reverse",
    "sort",
    "drop ",
    ", ",
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, made from nothing; longer phrases win over shorter ones."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = ["\n", *map(chr, range(32, 127))]
    words = sorted(_WORDS, key=lambda word: (-len(word), word))
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNK, *words, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    pattern = "|".join([*map(re.escape, words), "[\\s\\S]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNK, clean_up_tokenization_spaces=False
    )


def build_model(tokenizer: PreTrainedTokenizerFast, *, layers: int = 4, width: int = 128) -> Qwen3ForCausalLM:
    """A freshly initialised model; seed torch first to make it reproducible."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.get_vocab()[EOS],
        pad_token_id=tokenizer.get_vocab()[PAD],
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    return model
