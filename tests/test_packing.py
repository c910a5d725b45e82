"""Prompts that rollouts share: when they are, and that nothing of a result is another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from repirl.learn.gradient import gradient_step
from repirl.learn.supervised import negative_log_likelihood
from repirl.rewards.energy import token_rewards
from repirl.rewards.implicit import ImplicitReward
from repirl.rollouts import packing
from repirl.rollouts.batching import can_share_prompts, map_rows, token_logprobs
from repirl.rollouts.packing import TokenRow, chunked, pad_batch, sharing_batch
from repirl.rollouts.steps import StepSegmentation

VOCAB = 50


def rows_of(prompts: list[int], group: int, longest: int, seed: int = 0) -> list[TokenRow]:
    """`group` rows of each prompt, whose lengths are given; completions of 1 to `longest` tokens."""
    rng = np.random.default_rng(seed)
    draw = lambda count: rng.integers(1, VOCAB, count).tolist()
    texts = [draw(length) for length in prompts]
    return [TokenRow(text, draw(int(rng.integers(1, longest + 1)))) for text in texts for _ in range(group)]


SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


@pytest.fixture(params=[(Qwen2Config, Qwen2ForCausalLM), (LlamaConfig, LlamaForCausalLM)], ids=["qwen2", "llama"])
def model(request: pytest.FixtureRequest):
    config, kind = request.param
    torch.manual_seed(0)
    return kind(config(**SIZES, num_key_value_heads=2)).double()


def gradients(model) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def test_a_shared_prompt_gives_the_same_values_and_gradients(model) -> None:
    """Prompts of other lengths side by side, in float64, where any wrong mask, position or row would show."""
    rows = rows_of([9, 4, 2], 3, 7)
    rows = [rows[i] for i in (4, 0, 8, 2, 7, 1, 3, 6, 5)]  # no group lies together
    weights_N = torch.randn(sum(len(row.response_ids) for row in rows), dtype=torch.float64)
    found = []
    for batch in (pad_batch(rows, 0), sharing_batch(rows, 0)):
        result = token_logprobs(model, batch, 0.7, with_entropy=True)
        (weights_N * (result.logprobs_N + 0.3 * result.entropy_N)).sum().backward()
        found.append((result.logprobs_N.detach(), result.entropy_N.detach(), *gradients(model)))
    assert sharing_batch(rows, 0).ids_BT.shape == (9, 1 + max(len(row.response_ids) for row in rows))
    for plain, shared in zip(*found, strict=True):
        assert torch.allclose(plain, shared, atol=1e-6, rtol=1e-6)  # logits are cast to float32
    assert max(float(value.abs().max()) for value in found[0][2:]) > 1e-2


def test_a_reward_of_tokens_too(make_energy_model, tokenizer) -> None:
    model = make_energy_model(base_measure=1.0)
    torch.nn.init.normal_(model.score.weight, std=0.2)
    rows = rows_of([12, 5], 4, 9)
    plain_N, shared_N = (token_rewards(model, batch) for batch in (pad_batch(rows, 0), sharing_batch(rows, 0)))
    assert torch.allclose(plain_N, shared_N, atol=2e-5)
    shared_N.square().sum().backward()
    shared = [p.grad for p in model.parameters()]
    model.zero_grad()
    plain_N.square().sum().backward()
    for one, other in zip(shared, (p.grad for p in model.parameters()), strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max()) + 1e-7)


def passed(model, run) -> int:
    """Tokens, padding included, that go through the model's first layer while `run()` runs."""
    seen: list[int] = []
    hook = model.base_model.layers[0].register_forward_hook(lambda _, given, out: seen.append(given[0].shape[:2].numel()))
    run()
    hook.remove()
    return sum(seen)


@pytest.mark.parametrize("max_tokens", [60, 300, 5000])
def test_a_step_and_scores_with_long_prompts_cost_less_and_are_the_same(
    model, monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    rows = rows_of([40, 31], 4, 12)

    def step() -> None:
        loss = negative_log_likelihood(model, rows)
        gradient_step(
            model, torch.optim.SGD(model.parameters(), lr=0.0), rows, loss, pad_id=0, max_tokens=max_tokens, max_norm=1e9
        )

    found = []
    for pays in (0.9, 0.0):  # as it is, and never
        monkeypatch.setattr(packing, "SHARING_PAYS", pays)
        tokens = passed(model, step)
        scores = map_rows(model, rows, lambda batch: token_logprobs(model, batch).logprobs_N, pad_id=0, max_tokens=max_tokens)
        found.append((tokens, torch.cat(scores), *gradients(model)))
    assert found[0][0] < (0.6 if max_tokens > 60 else 0.9) * found[1][0]
    for shared, plain in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(shared, plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 64, 200, 10_000])
def test_chunks_hold_every_row_once_within_the_limit(max_tokens: int) -> None:
    rows = rows_of([30, 40, 50], 5, 20)
    chunks = chunked(rows, max_tokens, share=True)
    assert sorted(i for chunk in chunks for i in chunk.rows) == list(range(15))
    for chunk in chunks:
        batch = chunk.batch(rows, 0, "cpu")
        before = batch.prefix.ids_PW.numel() if isinstance(batch.prefix, packing.SharedPrompts) else 0
        assert len(chunk.rows) == 1 or batch.ids_BT.numel() + before <= max_tokens
        columns = len(chunk.rows) * (batch.ids_BT.shape[1] + (batch.prefix.ids_PW.shape[1] if before else 0))
        assert len(chunk.rows) == 1 or columns <= 2 * max_tokens  # what keys and values are kept of
        assert int(batch.response_mask_BT.sum()) == sum(len(rows[i].response_ids) for i in chunk.rows)
    assert any(chunk.shares for chunk in chunks) is (max_tokens > 1)


def test_when_prompts_are_shared() -> None:
    shares = lambda rows, share=True: any(chunk.shares for chunk in chunked(rows, 1000, share=share))
    assert shares(rows_of([40, 40], 4, 20))
    assert not shares(rows_of([40, 40], 4, 20), share=False)
    assert not shares(rows_of([40] * 8, 1, 20))  # no two rows of a prompt
    assert not shares(rows_of([2, 2], 4, 200))  # nothing to gain
    assert not shares(rows_of([40, 1], 4, 20))  # a prompt of one token has nothing before it
    assert chunked([], 1000, share=True) == []


def test_models_that_cannot(model) -> None:
    assert can_share_prompts(model)
    model.gradient_checkpointing_enable()
    assert not can_share_prompts(model)
    model.gradient_checkpointing_disable()
    assert can_share_prompts(model)
    assert not can_share_prompts(MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4)))
    assert not can_share_prompts(torch.nn.Linear(2, 2))
    # Its positions are columns, whatever it is told: a shorter prompt would be further away from its completion.
    assert not can_share_prompts(MptForCausalLM(MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=32)))


class OwnHead(LlamaForCausalLM):
    """Its logits are not those of its output layer alone."""

    def forward(self, *given: Any, **named: Any) -> Any:
        found: Any = super().forward(*given, **named)
        found.logits = found.logits.roll(1, dims=-1)
        return found


@pytest.mark.parametrize(
    "reference",
    [
        lambda: OwnHead(LlamaConfig(**SIZES, num_key_value_heads=2)),
        lambda: MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4)),
    ],
    ids=["own head", "sliding window"],
)
def test_a_reference_that_cannot_keeps_every_prompt_in_its_row(
    model, tokenizer, monkeypatch: pytest.MonkeyPatch, reference
) -> None:
    """The reference of a published pair may be any model: what one cannot, both do not."""
    torch.manual_seed(1)
    reward = ImplicitReward(model, reference().double().eval(), tokenizer, StepSegmentation("\n"), beta=0.1)
    rows = rows_of([40, 31], 4, 12)
    found = torch.cat(reward.log_ratios(rows))
    monkeypatch.setattr(packing, "SHARING_PAYS", 0.0)
    assert torch.allclose(found, torch.cat(reward.log_ratios(rows)), atol=1e-6)


def test_a_head_that_is_not_known_refuses_a_shared_prompt() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="knows nothing of what lies before"):
        token_logprobs(OwnHead(LlamaConfig(**SIZES, num_key_value_heads=2)), sharing_batch(rows_of([9], 2, 5), 0))


def test_a_loss_that_runs_the_model_past_the_prompts_is_refused(model) -> None:
    rows = rows_of([40, 31], 4, 12)
    before = [p.clone() for p in model.parameters()]
    blind = lambda batch, *_: model(input_ids=batch.ids_BT).logits[batch.response_mask_BT].sum(-1)
    with pytest.raises(ValueError, match="have their prompts apart"):
        map_rows(model, rows, blind, pad_id=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="have their prompts apart"):
        gradient_step(model, optimizer, rows, lambda *given: blind(*given).sum(), pad_id=0, max_tokens=5000, max_norm=1.0)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
