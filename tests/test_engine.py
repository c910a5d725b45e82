"""`TorchEngine` against transformers itself, against plain forward passes, and against itself in other batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from repirl.engines import kv_cache
from repirl.engines.base import Request, SamplingParams
from repirl.engines.causal_lm import CausalLM
from repirl.engines.tiny_model import build_tokenizer
from repirl.engines.torch_engine import TorchEngine, cache_tokens_that_fit
from repirl.errors import UserError
from repirl.learn.gradient import row_logprobs
from repirl.rollouts.packing import TokenRow
from repirl.types import Rollout

TOKENIZER: Any = build_tokenizer()
VOCAB = len(TOKENIZER)
MAX_POSITIONS = 64


def _decoder(model: str, **special: Any) -> Any:
    shared = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": MAX_POSITIONS,
        "eos_token_id": TOKENIZER.eos_token_id,
        "pad_token_id": TOKENIZER.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.25,
    }
    config = getattr(transformers, f"{model}Config")(**shared, **special)
    return getattr(transformers, f"{model}ForCausalLM")(config)


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=MAX_POSITIONS,
        eos_token_id=TOKENIZER.eos_token_id,
        bos_token_id=TOKENIZER.eos_token_id,
        initializer_range=0.25,
    )
    return transformers.GPT2LMHeadModel(config)


def _hybrid() -> Any:
    return _decoder(
        "Qwen3Next",
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    )


MODELS: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: _decoder("Qwen3", head_dim=16),
    "qwen2": lambda: _decoder("Qwen2"),
    "llama": lambda: _decoder("Llama"),
    "gpt2": _gpt2,
    "mistral-sliding-window": lambda: _decoder("Mistral", sliding_window=7),
    "qwen3-next-hybrid": _hybrid,
}


def _build(name: str) -> Any:
    torch.manual_seed(1)
    return MODELS[name]().eval()


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return _build(request.param)


@pytest.fixture(scope="module")
def qwen3() -> Any:
    return _build("qwen3")


def _prompts(count: int = 7, seed: int = 0) -> list[tuple[int, ...]]:
    random = np.random.default_rng(seed)
    return [tuple(random.integers(3, VOCAB, random.integers(1, 20)).tolist()) for _ in range(count)]


def _requests(num_samples: int, count: int = 7) -> list[Request]:
    return [Request(f"p{i}", prompt, num_samples) for i, prompt in enumerate(_prompts(count))]


def _rows(rollouts: list[Rollout]) -> list[TokenRow]:
    return [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]


def _plain_logprobs(model: Any, rollout: Rollout, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities of the completion by one unpadded forward pass."""
    ids = torch.tensor([[*rollout.prompt_ids, *rollout.token_ids.tolist()]])
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1]
    logprobs = (logits / temperature).log_softmax(-1)
    return logprobs.gather(-1, ids[0, len(rollout.prompt_ids) :, None])[:, 0].numpy()


def _same(ours: list[list[Rollout]], theirs: list[list[Rollout]]) -> None:
    for a, b in zip([r for group in ours for r in group], [r for group in theirs for r in group], strict=True):
        assert (a.problem_id, a.sample_index, a.text) == (b.problem_id, b.sample_index, b.text)
        assert a.token_ids.tolist() == b.token_ids.tolist()
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_greedy_is_that_of_transformers_token_for_token(model: Any) -> None:
    groups = TorchEngine(model, TOKENIZER).generate(_requests(1), SamplingParams(30, temperature=0))
    for request, (rollout,) in zip(_requests(1), groups, strict=True):
        prompt = torch.tensor([request.prompt_ids])
        expected = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=30,
            pad_token_id=TOKENIZER.pad_token_id,
        )
        assert rollout.token_ids.tolist() == expected[0, len(request.prompt_ids) :].tolist()
        np.testing.assert_allclose(rollout.logprobs, _plain_logprobs(model, rollout), atol=1e-4)


def test_logprobs_are_those_of_the_trainer_and_of_a_plain_forward_pass(model: Any) -> None:
    engine = TorchEngine(model, TOKENIZER)
    rollouts = [r for group in engine.generate(_requests(3), SamplingParams(25, temperature=1.7)) for r in group]
    trained_with = row_logprobs(model, _rows(rollouts), 1.7)
    for rollout, by_trainer in zip(rollouts, trained_with, strict=True):
        plain = _plain_logprobs(model, rollout, temperature=1.7)
        assert rollout.logprobs.dtype == by_trainer.numpy().dtype == np.float32
        np.testing.assert_allclose(rollout.logprobs, plain, atol=2e-4)
        np.testing.assert_allclose(by_trainer, plain, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen3", "mistral-sliding-window"])
def test_order_batch_size_and_company_change_nothing(name: str) -> None:
    model, params = _build(name), SamplingParams(20, seed=5)
    whole = TorchEngine(model, TOKENIZER).generate(_requests(4), params)
    assert {r.finish_reason for group in whole for r in group} == {"stop", "length"}
    reverse = TorchEngine(model, TOKENIZER).generate(_requests(4)[::-1], params)[::-1]
    _same(whole, reverse)
    for limit in (3, 5, 11):  # smaller than a group, not a multiple of it, and with rows that enter while others run
        _same(whole, TorchEngine(model, TOKENIZER, max_batch_rows=limit).generate(_requests(4), params))
    alone = [TorchEngine(model, TOKENIZER).generate([request], params)[0] for request in _requests(4)]
    _same(whole, alone)


def test_a_group_is_its_samples_asked_for_one_by_one(qwen3: Any) -> None:
    engine, params = TorchEngine(qwen3, TOKENIZER), SamplingParams(20)
    group = engine.generate([Request("p", _prompts()[0], 4)], params)
    single = [engine.generate([Request("p", _prompts()[0], 1, first_sample=j)], params)[0][0] for j in range(4)]
    _same(group, [single])
    assert len({tuple(r.token_ids.tolist()) for r in single}) == 4


def test_seed_and_problem_make_the_stream(qwen3: Any) -> None:
    engine, prompt = TorchEngine(qwen3, TOKENIZER), _prompts()[0]
    draws = {
        tuple(engine.generate([Request(problem, prompt)], SamplingParams(20, seed=seed))[0][0].token_ids.tolist())
        for problem, seed in (("a", 0), ("b", 0), ("a", 1), ("a", 0))
    }
    assert len(draws) == 3


def test_sampled_frequencies_are_the_probabilities(qwen3: Any) -> None:
    prompt, count, temperature = _prompts()[2], 6000, 1.4
    (group,) = TorchEngine(qwen3, TOKENIZER).generate([Request("p", prompt, count)], SamplingParams(1, temperature=temperature))
    with torch.no_grad():
        logits = qwen3(torch.tensor([prompt])).logits[0, -1].double()
    expected = (logits / temperature).softmax(-1).numpy() * count
    observed = np.bincount([r.token_ids[0] for r in group], minlength=VOCAB)
    common = expected >= 5
    assert common.sum() >= 5
    table = np.array([[*observed[common], observed[~common].sum()], [*expected[common], expected[~common].sum()]])
    assert stats.chisquare(table[0], table[1] * table[0].sum() / table[1].sum()).pvalue > 1e-3


def test_finished_rows_leave_and_prompts_are_prefilled_once(qwen3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped, prefilled = [], []
    step, prefill = CausalLM.step, CausalLM.prefill
    monkeypatch.setattr(CausalLM, "step", lambda lm, ids, *rest: stepped.append(len(ids)) or step(lm, ids, *rest))
    monkeypatch.setattr(CausalLM, "prefill", lambda lm, prompts: prefilled.extend(prompts) or prefill(lm, prompts))
    groups = TorchEngine(qwen3, TOKENIZER).generate(_requests(4), SamplingParams(20))
    assert sum(stepped) == sum(len(r.token_ids) - 1 for group in groups for r in group)
    assert len(prefilled) == len(groups)


def test_the_cache_budget_limits_the_rows(qwen3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped = []
    step = CausalLM.step
    monkeypatch.setattr(CausalLM, "step", lambda lm, ids, *rest: stepped.append(len(ids)) or step(lm, ids, *rest))
    longest = max(map(len, _prompts())) + 10
    limited = TorchEngine(qwen3, TOKENIZER, max_cache_tokens=6 * longest + 1).generate(_requests(3), SamplingParams(10))
    assert max(stepped) == 6
    _same(limited, TorchEngine(qwen3, TOKENIZER).generate(_requests(3), SamplingParams(10)))


def test_the_cache_budget_holds_for_prompts_of_any_length(qwen3: Any) -> None:
    """A short prompt with more samples than rows beside a long one is cut to what the longest leaves room for."""
    requests = [Request("long", tuple(range(1, 41))), Request("short", (1, 2, 3), 8)]
    params = SamplingParams(6)
    limited = TorchEngine(qwen3, TOKENIZER, max_cache_tokens=100).generate(requests, params)
    _same(limited, TorchEngine(qwen3, TOKENIZER).generate(requests, params))


def test_the_cache_that_fits_a_gpu() -> None:
    """Qwen2.5-3B: 36 layers, 2 key-value heads of 128, 4 bytes: 72 KiB for keys and values of a token."""
    config = transformers.Qwen2Config(
        num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, hidden_size=2048, intermediate_size=8
    )
    assert cache_tokens_that_fit(config, 4, 100 * 73728) == 40
    assert cache_tokens_that_fit(config, 2, 100 * 73728) == 80
    assert cache_tokens_that_fit(config, 4, 1) == 1
    assert cache_tokens_that_fit(transformers.PretrainedConfig(), 4, 10**9) is None


def test_a_buffer_that_grows_and_moves_holds_the_same(qwen3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(40, seed=3)
    roomy = TorchEngine(qwen3, TOKENIZER).generate(_requests(3), params)
    monkeypatch.setattr(kv_cache, "INITIAL_COLUMNS", 1)
    # Memory as bad as it can be: padding must have been written before it is read.
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, shape, dtype=None: x.new_full(shape, torch.nan, dtype=dtype))
    _same(roomy, TorchEngine(qwen3, TOKENIZER).generate(_requests(3), params))
    _same(roomy, TorchEngine(qwen3, TOKENIZER, max_batch_rows=5).generate(_requests(3), params))


def test_a_stop_string_ends_text_and_tokens(qwen3: Any) -> None:
    engine = TorchEngine(qwen3, TOKENIZER)
    requests = _requests(2)
    free = [r for group in engine.generate(requests, SamplingParams(30)) for r in group]
    longest = sorted(free, key=lambda r: len(r.text))[-2:]
    stop = longest[0].text[6:8], longest[1].text[4:7]
    stopped = [r for group in engine.generate(requests, SamplingParams(30, stop=stop)) for r in group]
    assert sum(len(r.text) < len(f.text) for r, f in zip(stopped, free, strict=True)) >= 2
    for rollout, unstopped in zip(stopped, free, strict=True):
        ends = [unstopped.text.find(s) + len(s) for s in stop if s in unstopped.text]
        expected = unstopped.text[: min(ends)] if ends else unstopped.text
        assert rollout.text == expected
        assert rollout.finish_reason == ("stop" if ends else unstopped.finish_reason)
        assert rollout.token_ids.tolist() == unstopped.token_ids[: len(rollout.token_ids)].tolist()
        if ends:  # and not one token more than the string needs
            assert len(TOKENIZER.decode(rollout.token_ids[:-1].tolist())) < len(expected)


def test_an_end_of_sequence_is_a_token_but_not_text(qwen3: Any) -> None:
    groups = TorchEngine(qwen3, TOKENIZER).generate(_requests(6), SamplingParams(30))
    ended = [r for group in groups for r in group if r.finish_reason == "stop"]
    assert ended
    for rollout in ended:
        assert rollout.token_ids[-1] == TOKENIZER.eos_token_id
        assert TOKENIZER.eos_token_id not in rollout.token_ids[:-1]
        assert rollout.text == TOKENIZER.decode(rollout.token_ids[:-1].tolist())
    cut = [r for group in groups for r in group if r.finish_reason == "length"]
    assert all(len(r.token_ids) == 30 and TOKENIZER.eos_token_id not in r.token_ids for r in cut)


def test_end_tokens_come_from_generation_config_too(qwen3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (free,) = TorchEngine(qwen3, TOKENIZER).generate(_requests(1)[:1], SamplingParams(30, temperature=0))
    token = int(free[0].token_ids[5])
    monkeypatch.setattr(qwen3.generation_config, "eos_token_id", [TOKENIZER.eos_token_id, token])
    (ended,) = TorchEngine(qwen3, TOKENIZER).generate(_requests(1)[:1], SamplingParams(30, temperature=0))
    assert ended[0].token_ids.tolist() == free[0].token_ids[: free[0].token_ids.tolist().index(token) + 1].tolist()


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_the_model_s_longest_sequence_is_a_limit(name: str) -> None:
    engine, prompt = TorchEngine(_build(name), TOKENIZER), tuple(range(10, 10 + MAX_POSITIONS - 4))
    (group,) = engine.generate([Request("p", prompt, 5)], SamplingParams(30))
    assert max(len(r.token_ids) for r in group) == 4
    assert all(r.finish_reason == "length" for r in group if r.token_ids[-1] != TOKENIZER.eos_token_id)
    with pytest.raises(UserError, match="no room"):
        engine.generate([Request("p", tuple(range(10, 10 + MAX_POSITIONS)))], SamplingParams(1))


def test_a_model_in_training_is_given_back_as_it_was(qwen3: Any) -> None:
    qwen3.train()
    qwen3.model.layers[0].eval()
    modes = [module.training for module in qwen3.modules()]
    engine = TorchEngine(qwen3, TOKENIZER)
    (group,) = engine.generate(_requests(2)[:1], SamplingParams(5))
    assert [module.training for module in qwen3.modules()] == modes
    assert qwen3.config._attn_implementation == "sdpa"
    ids = torch.tensor([[*group[0].prompt_ids, *group[0].token_ids.tolist()]])
    qwen3(ids, labels=ids).loss.backward()
    assert all(not tensor.is_inference() for tensor in qwen3.buffers())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in qwen3.model.layers[1].mlp.parameters())
    qwen3.zero_grad()
    qwen3.eval()


def test_the_mode_is_given_back_after_an_error(qwen3: Any) -> None:
    qwen3.train()

    def fail(done: int, total: int) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        TorchEngine(qwen3, TOKENIZER).generate(_requests(1), SamplingParams(5), on_progress=fail)
    assert qwen3.training
    assert qwen3.config._attn_implementation == "sdpa"
    qwen3.eval()


def test_progress_ends_at_the_total_and_never_falls(qwen3: Any) -> None:
    seen: list[tuple[int, int]] = []
    TorchEngine(qwen3, TOKENIZER).generate(_requests(2), SamplingParams(10), lambda *at: seen.append(at))
    assert seen[-1] == (14, 14)
    assert seen == sorted(seen)


def test_nothing_asked_for_is_nothing(qwen3: Any) -> None:
    assert TorchEngine(qwen3, TOKENIZER).generate([], SamplingParams(1)) == []
    assert row_logprobs(qwen3, []) == []


@pytest.mark.parametrize("prompt", [(), (5, VOCAB), (-1,)])
def test_a_bad_prompt_is_the_caller_s_mistake(qwen3: Any, prompt: tuple[int, ...]) -> None:
    engine = TorchEngine(qwen3, TOKENIZER)
    with pytest.raises(UserError, match="p7"):
        engine.generate([Request("p7", prompt)], SamplingParams(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_gives_what_the_cpu_gives() -> None:
    cpu = TorchEngine(_build("qwen3"), TOKENIZER).generate(_requests(4), SamplingParams(20, temperature=0))
    engine = TorchEngine(_build("qwen3"), TOKENIZER, device="cuda")
    assert engine.device.type == "cuda"
    _same(cpu, engine.generate(_requests(4), SamplingParams(20, temperature=0)))
    rollouts = [r for group in engine.generate(_requests(4), SamplingParams(20)) for r in group]
    for rollout, score in zip(rollouts, row_logprobs(engine.model, _rows(rollouts)), strict=True):
        np.testing.assert_allclose(rollout.logprobs, score, atol=1e-3)
