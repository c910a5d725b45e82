"""Choosing tokens from logits: truncation, log-probabilities, streams and stop strings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from repirl import rng
from repirl.engines import sampling
from repirl.engines.base import SamplingParams
from repirl.engines.sampling import StopStrings, UniformStreams, choose, truncate
from repirl.engines.tiny_model import build_tokenizer
from repirl.errors import UserError

LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.05, 0.05, 0.05, 0.85]]))


def _uniforms(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.099, 0), (0.101, 1), (0.499, 1), (0.501, 2), (0.71, 3), (1, 3)])
def test_the_token_is_the_inverse_of_the_cumulative_distribution(u: float, token: int) -> None:
    choice = choose(LOGITS[:1], SamplingParams(1), _uniforms(u))
    assert choice.token_ids.tolist() == [token]
    assert choice.logprobs.tolist() == pytest.approx([math.log([0.1, 0.4, 0.2, 0.3][token])], abs=1e-6)


def test_temperature_sharpens_and_its_logprob_is_reported() -> None:
    choice = choose(LOGITS[:1], SamplingParams(1, temperature=0.5), _uniforms(0.2))
    weights = [0.01, 0.16, 0.04, 0.09]
    assert choice.token_ids.tolist() == [1]
    assert choice.logprobs.tolist() == pytest.approx([math.log(0.16 / sum(weights))], abs=1e-6)


def test_greedy_reports_temperature_one() -> None:
    choice = choose(LOGITS, SamplingParams(1, temperature=0), None)
    assert choice.token_ids.tolist() == [1, 3]
    assert choice.logprobs.tolist() == pytest.approx([math.log(0.4), math.log(0.85)], abs=1e-6)


def test_truncated_logprobs_are_of_what_is_left() -> None:
    top_k = choose(LOGITS[:1], SamplingParams(1, top_k=2), _uniforms(0.9))
    assert top_k.token_ids.tolist() == [3]
    assert top_k.logprobs.tolist() == pytest.approx([math.log(0.3 / 0.7)], abs=1e-6)
    top_p = choose(LOGITS[:1], SamplingParams(1, top_p=0.75), _uniforms(0.5))
    assert top_p.token_ids.tolist() == [2]
    assert top_p.logprobs.tolist() == pytest.approx([math.log(0.2 / 0.9)], abs=1e-6)
    only_best = choose(LOGITS, SamplingParams(1, top_p=1e-9), _uniforms(0.999, 0.0))
    assert only_best.token_ids.tolist() == [1, 3]
    assert only_best.logprobs.tolist() == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (7, 1.0), (9, 0.5), (1, 0.3)])
def test_truncation_is_that_of_transformers(top_k: int, top_p: float) -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 2
    expected = TemperatureLogitsWarper(0.8)(None, logits)  # pyright: ignore[reportArgumentType]
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)  # pyright: ignore[reportArgumentType]
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)  # pyright: ignore[reportArgumentType]
    ours = truncate(logits / 0.8, top_k, top_p)
    assert torch.equal(ours.isinf(), expected.isinf())
    assert torch.equal(ours[~ours.isinf()], expected[~expected.isinf()])


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    for u in (0.0, 0.5, 1 - 2**-53, 1.0):
        assert choose(logits, SamplingParams(1), _uniforms(u)).token_ids.item() in (1, 2)


def test_rows_in_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(33, 40, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = choose(logits, SamplingParams(1), uniforms)
    monkeypatch.setattr(sampling, "FLOAT64_ELEMENTS", 200)
    pieces = choose(logits, SamplingParams(1), uniforms)
    assert torch.equal(whole.token_ids, pieces.token_ids)
    assert torch.equal(whole.logprobs, pieces.logprobs)


def test_streams_are_each_sample_s_own_over_many_draws() -> None:
    streams = UniformStreams(3)
    streams.take(2, 7, "p", 4)
    streams.take(0, 7, "p", 5)
    positions = range(2 * sampling.UNIFORMS_PER_DRAW + 5)
    drawn = np.array([streams.draw(np.array([2, 0]), np.array([t, t])) for t in positions])
    np.testing.assert_array_equal(drawn[:, 0], rng.stream(7, "sample", "p", 4).random(len(positions)))
    np.testing.assert_array_equal(drawn[:, 1], rng.stream(7, "sample", "p", 5).random(len(positions)))


def test_a_stop_string_is_found_inside_across_and_at_the_end_of_tokens() -> None:
    tokenizer = build_tokenizer()
    ids = np.array(tokenizer("12 so 3\nx")["input_ids"])
    assert len(ids) == 6
    for stop, end in (("2", 2), (" s", 4), ("o 3\n", 8), ("so 3", 7), ("x", 9)):
        finder = StopStrings(tokenizer, (stop,), len(tokenizer))
        assert finder.end_of_first(ids) == end
        last = next(t for t in range(1, 7) if finder.end_of_first(ids[:t]) is not None)
        assert finder.candidates(ids[last - 1 : last]).tolist() == [0]
    assert StopStrings(tokenizer, ("3", "1"), len(tokenizer)).end_of_first(ids) == 1
    assert StopStrings(tokenizer, ("q",), len(tokenizer)).candidates(ids).size == 0
    assert not StopStrings(tokenizer, ("",), len(tokenizer))


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}],
)
def test_impossible_parameters_are_the_caller_s_mistake(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        SamplingParams(**{"max_new_tokens": 1, **wrong})  # pyright: ignore[reportArgumentType]
