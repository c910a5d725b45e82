"""The engine over OpenAI-compatible servers, and `repirl eval` with it, against a server in a thread."""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_openai import LOGPROB, MODEL, FakeServer, serving

from repirl.cli import main as cli
from repirl.config import parse_config
from repirl.engines.base import Request, SamplingParams
from repirl.engines.openai_engine import UNKNOWN_TOKEN, OpenAIEngine
from repirl.engines.openai_settings import OpenAISettings
from repirl.engines.scripted import encode
from repirl.errors import UserError
from repirl.types import Rollout


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def echo(prompt: str, seed: int) -> str:
    return f"{prompt}|{seed}"


def engine(served: FakeServer, tokenizer: Any = None, /, **settings: Any) -> OpenAIEngine:
    return OpenAIEngine(OpenAISettings(base_url=served.url, model=MODEL, **settings), tokenizer)


def request(text: str, samples: int = 1, **given: Any) -> Request:
    return Request(text, encode(text), samples, **given)


def texts(groups: list[list[Rollout]]) -> list[list[str]]:
    return [[rollout.text for rollout in group] for group in groups]


def test_each_sample_has_its_own_seed_whatever_else_is_asked() -> None:
    params = SamplingParams(50, seed=3)
    with serving(FakeServer(echo, delay_s=0.01)) as server:
        seen: list[tuple[int, int]] = []
        sampler = engine(server, concurrency=3)
        both = sampler.generate([request("a", 4), request("b", 3)], params, lambda *done: seen.append(done))
        later = sampler.generate([request("b", 1, first_sample=2), request("a", 2, first_sample=1)], params)
        other = sampler.generate([request("a", 1, stream="another"), request("a")], SamplingParams(50, seed=4))
        assert 1 < server.busiest <= 3
    assert [[one.sample_index for one in group] for group in both] == [[0, 1, 2, 3], [0, 1, 2]]
    assert all(text.startswith(f"{one.problem_id}|") for group in both for one in group for text in [one.text])
    assert len({text for group in texts(both + other) for text in group}) == 9
    assert texts(later) == [texts(both)[1][2:], texts(both)[0][1:3]]
    assert seen == [(i, 7) for i in range(1, 8)]
    assert all(0 <= body["seed"] < 2**31 and "n" not in body for body in server.asked)


def test_what_a_request_says() -> None:
    params = SamplingParams(9, 0.5, top_p=0.9, stop=("!", "?", ";", ",", "."), seed=0)
    with serving(FakeServer(echo)) as server:
        engine(server, extra={"reasoning_effort": "low"}).generate([request("a", max_new_tokens=5)], params)
        (body,) = server.asked
    assert {key: body[key] for key in ("model", "prompt", "max_tokens", "temperature", "top_p", "reasoning_effort")} == {
        "model": MODEL,
        "prompt": "a",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
    }
    assert body["stop"] == ["!", "?", ";", ","]
    # vLLM would otherwise take these from the model's generation config.
    assert (body["top_k"], body["repetition_penalty"], body["min_p"]) == (-1, 1.0, 0.0)
    with serving(FakeServer(echo, owned_by="openai")) as server:
        hosted = engine(server, endpoint="chat", limit_field="max_completion_tokens", leave_out=["seed", "stop"])
        hosted.generate([request("a")], params)
        (body,) = server.asked
        with pytest.raises(UserError, match="not known to take top_k: 5"):
            hosted.generate([request("a")], SamplingParams(9, top_k=5))
    assert body["messages"] == [{"role": "user", "content": "a"}]
    assert body["max_completion_tokens"] == 9
    assert not {"max_tokens", "seed", "stop", "top_k", "repetition_penalty"} & body.keys()


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_tokens_log_probabilities_and_ends(endpoint: str) -> None:
    with serving(FakeServer(lambda prompt, seed: "one.\n\ntwo")) as server:
        plain, told = engine(server, endpoint=endpoint), engine(server, endpoint=endpoint, logprobs=True)
        ((whole,),) = told.generate([request("a")], SamplingParams(50))
        ((cut,),) = told.generate([request("a")], SamplingParams(3))
        ((stopped,),) = told.generate([request("a")], SamplingParams(50, stop=("\n\n",)))
        ((warm,),) = told.generate([request("a")], SamplingParams(50, 0.7))
        ((greedy,),) = told.generate([request("a")], SamplingParams(50, 0.0))
        ((counted,),) = plain.generate([request("a")], SamplingParams(50))
        assert server.asked[4]["temperature"] == 0
    assert (whole.text, whole.finish_reason, whole.token_ids.tolist()) == ("one.\n\ntwo", "stop", [*encode(whole.text), 0])
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("one", "length", 3)
    assert (stopped.text, stopped.finish_reason) == ("one.\n\n", "stop")
    assert whole.logprobs.dtype == np.float32
    assert whole.logprobs.tolist() == greedy.logprobs.tolist() == [LOGPROB] * 10
    # A server's log-probabilities are those of temperature 1.
    assert np.isnan(warm.logprobs).all()
    assert len(warm.logprobs) == 10
    assert counted.text == whole.text
    assert counted.token_ids.tolist() == [UNKNOWN_TOKEN] * 10
    assert np.isnan(counted.logprobs).all()
    assert len(counted.logprobs) == 10


def test_stop_strings_that_a_server_does_not_know_of_are_cut_here() -> None:
    params = SamplingParams(50, stop=("o", "e", "x", "y", "w"))
    with serving(FakeServer(lambda prompt, seed: "a b w c", owned_by="")) as server:
        (left_out,), (fifth,) = (engine(server, leave_out=out).generate([request("a")], params)[0] for out in (["stop"], []))
    for rollout in (left_out, fifth):
        assert (rollout.text, rollout.finish_reason) == ("a b w", "stop")


def test_prompts_as_token_ids_of_the_models_tokenizer(tokenizer: Any) -> None:
    ids = tuple(tokenizer("3+4")["input_ids"])
    with serving(FakeServer(lambda prompt, seed: "7")) as server:
        sampler = engine(server, tokenizer)
        ((rollout,),) = sampler.generate([Request("p", ids)], SamplingParams(50))
        assert server.asked[0]["prompt"] == list(ids)
    assert rollout.token_ids.tolist() == [*tokenizer("7", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_halves_of_a_surrogate_pair_become_text() -> None:
    with serving(FakeServer(lambda prompt, seed: "\ud83d\ude00 \ud83d")) as server:
        ((rollout,),) = engine(server).generate([request("a")], SamplingParams(50))
    assert rollout.text == "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}"


def test_a_busy_or_failing_server_is_asked_again() -> None:
    with serving(FakeServer(echo, failures=[500, 429, 503])) as server:
        ((rollout,),) = engine(server).generate([request("a")], SamplingParams(50))
    assert rollout.text.startswith("a|")
    assert len({json.dumps(body) for body in server.asked}) == 1
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("server", "settings", "message"),
    [
        (FakeServer(fails_from=0), {"retries": 1}, r"the server fails \(500\), after 1 retries: 'failure 500'"),
        (FakeServer(fails_from=0, fails_with=429), {"retries": 1}, r"limits requests \(429\).*lower concurrency"),
        (FakeServer(context=40), {}, r"problem \w does not fit into the model's context.*maximum context length is 40"),
        (FakeServer(finish="content_filter"), {}, r"broke off problem \w, sample \d+: 'content_filter'; leave the problem out"),
        (FakeServer(finish="abort"), {}, r"broke off problem \w, sample \d+: 'abort'"),
        (FakeServer(usage=False), {}, "does not say how many tokens"),
        (FakeServer(raw=b"<html>welcome</html>"), {}, "no completion in the server's answer.*mostly in /v1"),
        (FakeServer(delay_s=1.0), {"timeout_s": 0.2, "retries": 0}, "no answer in 0.2 s"),
        (FakeServer(failures=[422]), {}, r"refuses the request for problem \w \(422\): 'failure 422'"),
    ],
)
def test_a_request_that_fails_for_good_is_one_line_and_no_completion(
    server: FakeServer, settings: dict[str, Any], message: str
) -> None:
    server.answer = echo
    with serving(server), pytest.raises(UserError, match=message) as caught:
        engine(server, **settings).generate([request("a"), request("b", 20)], SamplingParams(50))
    assert "\n" not in str(caught.value)


def test_unknown_model_is_told_which_there_are() -> None:
    with serving(FakeServer(echo)) as server:
        sampler = OpenAIEngine(OpenAISettings(base_url=server.url, model="no/model"))
        with pytest.raises(UserError, match=f"does not exist.*'no/model'; it has {MODEL}"):
            sampler.generate([request("a")], SamplingParams(50))


def test_the_key_comes_from_the_environment_and_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeServer(echo, key="sk-right")) as server:
        with pytest.raises(UserError, match=r"refuses the key in \$MY_KEY \(401\).*the variable is not set"):
            engine(server, api_key_env="MY_KEY").generate([request("a")], SamplingParams(50))
        monkeypatch.setenv("MY_KEY", "sk-wrong")
        with pytest.raises(UserError, match="put the right one there") as caught:
            engine(server, api_key_env="MY_KEY").generate([request("a")], SamplingParams(50))
        monkeypatch.setenv("MY_KEY", "sk-right")
        sampler = engine(server, api_key_env="MY_KEY")
        assert texts(sampler.generate([request("a")], SamplingParams(50)))[0][0].startswith("a|")
        assert server.keys == {"none", "sk-wrong", "sk-right"}
    assert "sk-" not in str(caught.value) + sampler.settings.model_dump_json() + sampler.digest


def test_without_the_client_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"need the package openai; pip install 'repirl\[openai\]'"):
        OpenAIEngine(OpenAISettings(base_url="http://host/v1", model=MODEL))


def test_no_server_is_said_soon() -> None:
    pytest.importorskip("openai")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        sampler = OpenAIEngine(OpenAISettings(base_url=url, model=MODEL, retries=1))
        with pytest.raises(UserError, match=f"cannot reach the server: '{url}'"):
            sampler.generate([request("a")], SamplingParams(50))


def test_what_a_served_policy_is_known_by() -> None:
    with serving(FakeServer(echo)) as here, serving(FakeServer(echo)) as there:
        digests = [engine(server, **extra).digest for server in (here, there) for extra in ({}, {"extra": {"think": True}})]
    with serving(FakeServer(echo, lists_with=404)) as silent:
        digests.append(engine(silent).digest)
        assert texts(engine(silent).generate([request("a")], SamplingParams(50)))[0][0].startswith("a|")
    with serving(FakeServer(echo, lists_with=500)) as proxy:
        assert texts(engine(proxy, server="vllm").generate([request("a")], SamplingParams(50)))[0][0].startswith("a|")
        assert proxy.asked[0]["top_k"] == -1
        with pytest.raises(UserError, match="the server fails"):
            engine(proxy, retries=0).generate([request("a")], SamplingParams(50))
    assert digests[:2] == digests[2:4]
    assert len(set(digests)) == 3
    assert all(digest.startswith(f"served:{MODEL}:") for digest in digests)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:8000"}, "must look like http"),
        ({"base_url": "http://me:secret@host/v1"}, "must hold no key or password"),
        ({"extra": {"temperature": 0.1}}, "temperature is said by the engine itself"),
        ({"endpoint": "chat", "tokenizer": "tiny"}, "the chat endpoint takes no token ids"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(OpenAISettings, {"base_url": "http://host/v1", "model": "m"} | settings)


# ---------------------------------------------------------------------------------------------------- repirl eval


def evaluation(server: FakeServer, *more: str) -> list[str]:
    served = ["--engine", "openai", "--base-url", server.url, "--model", MODEL]
    return ["eval", "--benchmark", "arith", "--limit", "6", "--samples", "3", "--no-greedy", *served, *more]


def shown(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 0) -> Any:
    assert cli.run(arguments) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else captured.err


def test_evaluation_of_a_served_model_goes_on_where_it_broke_off(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    few = ["--engine-set", "concurrency=1", "--engine-set", "retries=0"]  # chunks of four samples, whole problems each: six
    with serving(FakeServer()) as server:
        whole = shown(capsys, evaluation(server, "--json"))
        right = sum(body["seed"] % 3 == 0 for body in server.asked)
        assert len(server.asked) == 18
        assert 0 < right < 18
    report = whole["reports"][0]
    assert report["counts"]["sampled"] == {"correct": right, "wrong": 18 - right, "truncated": 0, "ungraded": 0, "total": 18}
    assert report["metrics"]["avg@3"]["value"] == pytest.approx(right / 18)
    assert report["budget"]["generated_tokens"] > 18 * 10
    assert whole["policy"] == MODEL
    assert whole["engine"]["name"] == "openai"
    assert whole["engine"]["server"] == "vllm"
    with serving(FakeServer(fails_from=13)) as broken:
        error = shown(capsys, evaluation(broken, "--out", str(tmp_path), *few), 2)
        assert "the server fails (500)" in error
        asked = Counter((body["prompt"], body["seed"]) for body in broken.asked[:12])
    with serving(FakeServer()) as server:  # at another address: the same model
        again = shown(capsys, evaluation(server, "--out", str(tmp_path), "--json"))
        assert not asked & Counter((body["prompt"], body["seed"]) for body in server.asked)
        assert len(server.asked) == 6
    assert again["reports"][0]["metrics"] == report["metrics"]
    assert again["policy_digest"] == whole["policy_digest"]
    with serving(FakeServer()) as server:
        error = shown(capsys, evaluation(server, "--out", str(tmp_path), "--engine-set", 'extra={"think": true}'), 2)
        assert "another policy" in error


def test_evaluation_at_the_chat_endpoint(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(FakeServer()) as server:
        found = shown(capsys, evaluation(server, "--chat-template", "--json"))
        assert all(body["messages"][0]["content"].startswith("Compute ") for body in server.asked)
    assert found["reports"][0]["protocol"]["chat_template"] is True
    assert found["engine"]["endpoint"] == "chat"


def test_evaluation_with_the_models_tokenizer_sends_its_ids(capsys: pytest.CaptureFixture[str], tokenizer: Any) -> None:
    with serving(FakeServer(lambda prompt, seed: r"\boxed{1}")) as server:
        shown(capsys, evaluation(server, "--engine-set", "tokenizer=tiny", "--json"))
        assert tokenizer.decode(server.asked[0]["prompt"]).startswith("Compute ")


def test_a_served_models_samples_are_a_pool_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    """Its parameters are not known, and so no FLOPs."""
    given = ["scale", "--benchmark", "arith", "--limit", "5", "--samples", "4", "--reward", "length", "--json"]
    with serving(FakeServer()) as server:
        found = shown(capsys, [*given, "--engine", "openai", "--base-url", server.url, "--model", MODEL])
        right = sum(body["seed"] % 3 == 0 for body in server.asked)
        assert len(server.asked) == 20
    assert found["counts"]["correct"] == right
    curves = {(curve["selector"], curve["aggregation"]): curve["points"] for curve in found["curves"]}
    assert curves["random", None][0]["accuracy"]["value"] == pytest.approx(right / 20)
    assert curves["best-of-N", "mean"][-1]["n"] == 4
    assert found["unscored"] == {"length": {}}
    assert curves["majority", None][-1]["flops"] is None
    assert curves["majority", None][-1]["policy_tokens"] > 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "m"], "a server's option without a server: 'm'"),
        (["--engine", "tensorrt"], "unknown engine: 'tensorrt'"),
        (["--engine", "openai", "--model", "m"], "needs --base-url"),
        (["--engine", "openai", "--base-url", "http://h/v1"], "needs --model"),
        (["--engine", "openai", "--policy", "x"], "name weights to load: 'x'"),
        (
            ["--engine", "openai", "--base-url", "http://h/v1", "--model", "m", "--engine-set", "endpoint=chat"],
            "--chat-template",
        ),
        (
            ["--engine", "openai", "--base-url", "http://h/v1", "--model", "m", "--engine-set", "retry=1"],
            "no such setting: 'retry'",
        ),
    ],
)
def test_options_that_do_not_fit(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert message in shown(capsys, ["eval", "--benchmark", "arith", *options], 2)
