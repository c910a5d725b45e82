"""The engine that replays texts."""

from __future__ import annotations

import numpy as np
import pytest

from repirl.engines.base import Request, SamplingParams
from repirl.engines.scripted import END, ScriptedEngine, encode
from repirl.errors import UserError

ENGINE = ScriptedEngine({"p": ["1+1=2", "no idea"], "q": ["4\n5"]})


def _texts(params: SamplingParams, *requests: Request) -> list[list[tuple[str, str]]]:
    return [[(r.text, r.finish_reason) for r in group] for group in ENGINE.generate(requests, params)]


def test_texts_come_in_turn_by_sample_index() -> None:
    assert _texts(SamplingParams(50), Request("q", (1,)), Request("p", (1,), 2, first_sample=1)) == [
        [("4\n5", "stop")],
        [("no idea", "stop"), ("1+1=2", "stop")],
    ]


def test_tokens_are_characters_then_the_end() -> None:
    (group,) = ENGINE.generate([Request("p", encode("1+1?"))], SamplingParams(50))
    assert group[0].token_ids.tolist() == [*encode("1+1=2"), END]
    assert group[0].logprobs.shape == (6,)
    assert group[0].logprobs.dtype == np.float32
    assert (group[0].logprobs < 0).all()


def test_the_limit_cuts_and_the_end_counts_as_a_token() -> None:
    assert _texts(SamplingParams(3), Request("p", (1,))) == [[("1+1", "length")]]
    assert _texts(SamplingParams(5), Request("p", (1,))) == [[("1+1=2", "length")]]
    assert _texts(SamplingParams(6), Request("p", (1,))) == [[("1+1=2", "stop")]]


def test_a_stop_string_ends_the_text() -> None:
    assert _texts(SamplingParams(50, stop=("=", "\n")), Request("p", (1,)), Request("q", (1,))) == [
        [("1+1=", "stop")],
        [("4\n", "stop")],
    ]


def test_log_probabilities_are_repeatable_and_depend_on_the_prefix() -> None:
    (group,), (again,), (other,) = (
        ENGINE.generate([Request("p", prompt, 2)], SamplingParams(50)) for prompt in ((7, 8), (7, 8), (7, 9))
    )
    for rollout, same, changed in zip(group, again, other, strict=True):
        np.testing.assert_array_equal(rollout.logprobs, same.logprobs)
        assert not np.array_equal(rollout.logprobs, changed.logprobs)


def test_an_unknown_problem_or_an_empty_script_is_the_caller_s_mistake() -> None:
    with pytest.raises(UserError, match="'r'"):
        ENGINE.generate([Request("r", (1,))], SamplingParams(1))
    with pytest.raises(UserError, match="'r'"):
        ScriptedEngine({"r": []})
