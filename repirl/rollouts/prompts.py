"""Prompts and solutions as token ids: plain text or a chat template, the same for training, evaluation and scoring."""

from __future__ import annotations

from collections.abc import Sequence

from repirl.errors import UserError
from repirl.rollouts.packing import TokenRow


def has_template(tokenizer) -> bool:
    """Whether the policy was taught to answer within a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def plain_prompts(tokenizer, what: str) -> str | None:
    """What is to be said of a policy that sees plain prompts in `what`; None where it has no template."""
    if not has_template(tokenizer):
        return None
    return f"warning: the policy has a chat template, and gets plain prompts in {what}: that can cost most of its accuracy"


def encode_prompt(tokenizer, prompt: str, *, chat: bool = False) -> tuple[int, ...]:
    """Token ids of a prompt. `chat` puts it as one user turn and opens the assistant's; UserError without a template."""
    if not chat:
        return tuple(tokenizer(prompt)["input_ids"])
    return tuple(tokenizer(in_template(tokenizer, prompt), add_special_tokens=False)["input_ids"])


def in_template(tokenizer, prompt: str) -> str:
    """The text of a prompt as one user turn, with the assistant's opened; UserError without a template."""
    if not has_template(tokenizer):
        raise UserError("the tokenizer has no chat template", tokenizer.name_or_path, "leave chat_template off")
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)


def encode_solution(tokenizer, prompt_ids: Sequence[int], text: str) -> TokenRow:
    """Prompt and solution tokens, EOS appended: the same form as a finished rollout."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return TokenRow(prompt_ids, [*ids, tokenizer.eos_token_id])
