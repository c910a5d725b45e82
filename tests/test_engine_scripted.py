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


def test_scores_are_those_of_generate_and_depend_on_the_prefix() -> None:
    (group,) = ENGINE.generate([Request("p", (7, 8), 2)], SamplingParams(50))
    scores = ENGINE.score([r.prompt_ids for r in group], [r.token_ids.tolist() for r in group])
    for rollout, score in zip(group, scores, strict=True):
        np.testing.assert_array_equal(rollout.logprobs, score)
    (other,) = ENGINE.score([(7, 9)], [group[0].token_ids.tolist()])
    assert not np.array_equal(other, scores[0])


def test_an_unknown_problem_or_an_empty_script_is_the_caller_s_mistake() -> None:
    with pytest.raises(UserError, match="'r'"):
        ENGINE.generate([Request("r", (1,))], SamplingParams(1))
    with pytest.raises(UserError, match="'r'"):
        ScriptedEngine({"r": []})
