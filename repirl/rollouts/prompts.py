"""Prompts as token ids: plain text or the tokenizer's chat template, the same for training, evaluation and scoring."""

from __future__ import annotations

from repirl.errors import UserError


def encode_prompt(tokenizer, prompt: str, *, chat: bool = False) -> tuple[int, ...]:
    """Token ids of a prompt. `chat` puts it as one user turn and opens the assistant's; UserError without a template."""
    if not chat:
        return tuple(tokenizer(prompt)["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("the tokenizer has no chat template", tokenizer.name_or_path, "leave chat_template off")
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
