"""Maximum likelihood on given solutions: pretraining of the embedded policy and behavioural cloning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from repirl.rollouts.batching import TokenRow, length_sorted_chunks, pad_batch, token_logprobs


def encode_solution(tokenizer, prompt_ids: Sequence[int], text: str) -> TokenRow:
    """Prompt and solution tokens, EOS appended: the same form as a finished rollout."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return TokenRow(prompt_ids, [*ids, tokenizer.eos_token_id])


def switch_off_dropout(model: nn.Module) -> None:
    """No dropout in training mode either: a policy must be trained as it was sampled from, and the same each time."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def supervised_step(
    model,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[TokenRow],
    *,
    pad_id: int,
    max_grad_norm: float,
    max_tokens: int = 8192,
) -> dict[str, float]:
    """One update on the mean negative log-likelihood of all completion tokens of `rows` (a global token mean).

    Returns the loss (nats per token), gradient norm and number of trained tokens.
    """
    device = next(model.parameters()).device
    total = sum(len(row.response_ids) for row in rows)
    loss_sum = 0.0
    optimizer.zero_grad(set_to_none=True)
    for chunk in length_sorted_chunks([len(row) for row in rows], max_tokens):
        batch = pad_batch([rows[i] for i in chunk], pad_id, device)
        loss = -token_logprobs(model, batch).logprobs_N.sum() / total
        loss.backward()
        loss_sum += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return {"loss": loss_sum, "grad_norm": float(norm), "trained_tokens": float(sum(map(len, rows)))}
