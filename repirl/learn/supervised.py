"""Maximum likelihood on given solutions: pretraining of the embedded policy and behavioural cloning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from repirl.rollouts.batching import TokenRow, length_sorted_chunks, pad_batch, token_logprobs


def encode_solution(tokenizer, prompt_ids: Sequence[int], text: str) -> TokenRow:
    """Prompt and solution tokens, EOS appended: the same form as a finished rollout."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return TokenRow(prompt_ids, [*ids, tokenizer.eos_token_id])


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


def supervised_training(
    model,
    tokenizer,
    draw_rows: Callable[[int], Sequence[TokenRow]],
    *,
    steps: int,
    lr: float,
    warmup: int = 0,
    decay: bool = False,
    max_grad_norm: float = 1.0,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """AdamW (weight decay 0) over `steps` batches from `draw_rows(step)`; linear warm-up, cosine decay if asked for."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, betas=(0.9, 0.95))

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item()) if decay else 1.0
        return warm * cosine

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for step in range(steps):
        metrics = supervised_step(model, optimizer, draw_rows(step), pad_id=tokenizer.pad_token_id, max_grad_norm=max_grad_norm)
        schedule.step()
        if on_step is not None:
            on_step(step, metrics)
