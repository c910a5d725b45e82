"""An engine over any OpenAI-compatible server (vLLM, SGLang, llama.cpp, hosted models): texts and counts of tokens, to evaluate
and to collect demonstrations; log-probabilities and token ids where the server has them.

Each sample is a request of its own, with a seed made of (seed, stream, sample index): what is sampled does not depend on
what else is asked for, as far as the server keeps to the seed. (`n` samples of one request share a seed.)
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repirl.config import digest_of
from repirl.engines.base import Request, SamplingParams
from repirl.engines.openai_settings import OpenAISettings, sampling_fields
from repirl.engines.scripted import encode
from repirl.errors import UserError
from repirl.rng import seed_for
from repirl.types import Rollout

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

UNKNOWN_TOKEN = -1
"""Stands for each token of a completion whose ids the server does not give: their number is known, and no more."""
_STOPPED = ("stop", "eos_token", "stop_sequence")
_NO_LIST = (404, 405, 501)
_CONTEXT = ("context length", "context_length", "context window", "context size", "maximum model length", "too long")


class ServerTokenizer:
    """In place of a tokenizer where only the server has one: prompts stay texts, their "tokens" code points; a chat
    template is the server's, so here the message alone is left."""

    name_or_path = "the server's"
    chat_template = "the server's"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [*encode(text)]}

    def decode(self, token_ids: Sequence[int], **_: Any) -> str:
        return "".join(map(chr, token_ids))

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        return messages[0]["content"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a server says of its model. `kind` names the server's software, `root` the weights behind the name, `names` all
    models that it lists; empty where it does not say."""

    name: str
    kind: str = ""
    root: str = ""
    names: tuple[str, ...] = ()


class OpenAIEngine:
    """`Engine` over a server's model.

    `tokenizer` is the model's own, where `settings.tokenizer` names one: prompts then go as token ids. Without it
    `engine.tokenizer` is a `ServerTokenizer`, which a collector must be given.

    Log-probabilities are NaN where they were not asked for or are not those of the distribution sampled from (servers
    report the model's, at temperature 1 and not truncated). Token ids are those of the server, else of the text in the
    tokenizer given, else `UNKNOWN_TOKEN`, as many as the server counted.
    """

    def __init__(self, settings: OpenAISettings, tokenizer: Any = None) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError("models behind a server need the package openai", todo="pip install 'repirl[openai]'") from error
        self._openai = openai
        self.settings = settings
        self.tokenizer: Any = ServerTokenizer() if tokenizer is None else tokenizer
        self._sends_text = tokenizer is None
        self._served: ServedModel | None = None

    @property
    def served(self) -> ServedModel:
        """The model as the server describes it, asked once. UserError if the server cannot be reached or refuses the key."""
        if self._served is None:
            known = self.settings.server
            self._served = ServedModel(self.settings.model, known) if known else asyncio.run(self._ask_for_model())
        return self._served

    @property
    def digest(self) -> str:
        """What a policy behind a server is known by: the model's name, the weights that the server names behind it, and
        the further fields of requests. Not the address: a server may move. Weights changed under one name do not show."""
        told = {"model": self.settings.model, "root": self.served.root, "extra": self.settings.extra}
        return f"served:{self.settings.model}:{digest_of(told)}"

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Groups of rollouts in the order of `requests`; `on_progress(rows_done, rows_total)`.

        UserError for the first request that fails for good, after which the others are given up: no completion is made up.
        """
        kind = self.served.kind
        rows = [(one, one.first_sample + i) for one in requests for i in range(one.num_samples)]
        try:
            rollouts = iter(asyncio.run(self._sample(rows, params, kind, on_progress)))
        except ExceptionGroup as group:  # the first failure ended the others
            raise group.exceptions[0] from None
        return [[next(rollouts) for _ in range(request.num_samples)] for request in requests]

    def _client(self, retries: int) -> AsyncOpenAI:
        """A client for the while of one event loop."""
        seconds = self.settings.timeout_s
        return self._openai.AsyncOpenAI(
            api_key=os.environ.get(self.settings.api_key_env) or "none",
            base_url=self.settings.base_url,
            timeout=self._openai.Timeout(seconds, connect=min(seconds, 10.0)),
            max_retries=retries,
        )

    async def _ask_for_model(self) -> ServedModel:
        name = self.settings.model
        async with self._client(retries=min(2, self.settings.retries)) as client:  # a wrong address is to be seen soon
            try:
                answer = await client.get("/models", cast_to=object)
            except self._openai.APIError as error:
                if getattr(error, "status_code", None) in _NO_LIST:
                    return ServedModel(name)
                raise self._mistake(error, "the list of models", ()) from error
        listed = answer.get("data") if isinstance(answer, dict) else None
        cards = [card for card in listed or () if isinstance(card, dict) and isinstance(card.get("id"), str)]
        own = next((card for card in cards if card["id"] == name), {})
        kind = own.get("owned_by") or next((card["owned_by"] for card in cards if card.get("owned_by")), "")
        return ServedModel(name, str(kind), str(own.get("root") or ""), tuple(card["id"] for card in cards))

    async def _sample(
        self,
        rows: Sequence[tuple[Request, int]],
        params: SamplingParams,
        kind: str,
        on_progress: Callable[[int, int], None] | None,
    ) -> list[Rollout]:
        gate, done = asyncio.Semaphore(self.settings.concurrency), 0

        async def one(client: AsyncOpenAI, request: Request, index: int) -> Rollout:
            nonlocal done
            async with gate:
                rollout = await self._rollout(client, request, index, params, kind)
            done += 1
            if on_progress is not None:
                on_progress(done, len(rows))
            return rollout

        async with self._client(self.settings.retries) as client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(client, request, index)) for request, index in rows]
        return [task.result() for task in tasks]

    async def _rollout(self, client: AsyncOpenAI, request: Request, index: int, params: SamplingParams, kind: str) -> Rollout:
        # 31 bits: some servers keep no more of a seed.
        seed = seed_for(params.seed, request.stream_name, index) >> 32
        fields = sampling_fields(self.settings, params, kind, limit=request.limit(params), seed=seed)
        prompt = self.tokenizer.decode(request.prompt_ids) if self._sends_text else list(request.prompt_ids)
        what = f"problem {request.problem_id}"
        try:
            if self.settings.endpoint == "chat":
                body = fields | {"messages": [{"role": "user", "content": prompt}]}
                answer: Any = await client.post("/chat/completions", body=body, cast_to=object)
            else:
                answer = await client.post("/completions", body=fields | {"prompt": prompt}, cast_to=object)
            return self._read(answer, request, index, params)
        except self._openai.APIError as error:
            raise self._mistake(error, what, self.served.names) from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            todo = "does the address end as it should, mostly in /v1?"
            raise UserError(f"no completion in the server's answer to {what}", self.settings.base_url, todo) from error

    def _read(self, answer: dict[str, Any], request: Request, index: int, params: SamplingParams) -> Rollout:
        choice = answer["choices"][0]
        is_chat = self.settings.endpoint == "chat"
        text = (choice["message"]["content"] or "") if is_chat else choice["text"]
        reason = choice["finish_reason"]
        if reason not in ("length", *_STOPPED) or not isinstance(text, str):
            todo = "leave the problem out" if reason == "content_filter" else "look at the server's log, then run it again"
            raise UserError(f"the server broke off problem {request.problem_id}, sample {index}", reason, todo)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON may hold half a pair, which is no text
        ends = [text.find(stop) + len(stop) for stop in params.stop if stop and stop in text]
        token_ids = self._token_ids(choice, answer.get("usage"), text, reason)
        return Rollout(
            problem_id=request.problem_id,
            sample_index=index,
            prompt_ids=tuple(request.prompt_ids),
            token_ids=token_ids,
            logprobs=_logprobs(choice, len(token_ids), params, is_chat),
            text=text[: min(ends)] if ends else text,
            finish_reason="stop" if ends or reason in _STOPPED else "length",
            temperature=params.temperature,
        )

    def _token_ids(self, choice: dict[str, Any], usage: dict[str, Any] | None, text: str, reason: str) -> np.ndarray:
        if choice.get("token_ids") is not None:
            return np.array(choice["token_ids"], dtype=np.int64)
        if not self._sends_text:
            eos = [] if reason == "length" or self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
            return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"] + eos, dtype=np.int64)
        if not usage or not isinstance(usage.get("completion_tokens"), int):
            todo = "name the model's tokenizer (setting `tokenizer`), which then counts"
            raise UserError("the server does not say how many tokens a completion has", self.settings.model, todo)
        return np.full(usage["completion_tokens"], UNKNOWN_TOKEN, dtype=np.int64)

    def _mistake(self, error: APIError, what: str, names: Sequence[str]) -> UserError:
        """One line for what the client gave up on. The key is in none of them; a server's words on it may hold part of it."""
        openai, url = self._openai, self.settings.base_url
        status, said = getattr(error, "status_code", None), _said(error)
        if isinstance(error, openai.APITimeoutError):
            return UserError(f"no answer in {self.settings.timeout_s:g} s from", url, "raise timeout_s, or lower concurrency")
        if isinstance(error, openai.APIConnectionError):
            return UserError("cannot reach the server", url, "is it running, and is --base-url right?")
        if status in (401, 403):
            variable = self.settings.api_key_env
            todo = "put the right one there" if os.environ.get(variable) else "the variable is not set"
            return UserError(f"the server refuses the key in ${variable} ({status})", url, todo)
        if status == 404:
            there = f"it has {', '.join(names[:5])}" if names else "look at the name, the address and the endpoint"
            return UserError(f"the server has no such model or endpoint ({said})", self.settings.model, there)
        if status == 429 or (status or 0) >= 500:
            what = "limits requests" if status == 429 else "fails"
            what = f"the server {what} ({status}), after {self.settings.retries} retries"
            return UserError(what, said, "mend it, or lower concurrency; the same command goes on where samples are kept")
        if any(words in said.lower() for words in _CONTEXT):
            return UserError(f"{what} does not fit into the model's context", said, "lower --max-new-tokens")
        return UserError(f"the server refuses the request for {what}" + (f" ({status})" if status else ""), said)


def _said(error: APIError) -> str:
    """The server's own words."""
    body = error.body
    inner = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return " ".join(str(inner or error.message).split())[:160]


def _logprobs(choice: dict[str, Any], length: int, params: SamplingParams, is_chat: bool) -> np.ndarray:
    """Of each token, NaN where the server's are not of the distribution sampled from, or not of these tokens."""
    given = choice.get("logprobs") or {}
    found = [token["logprob"] for token in given.get("content") or ()] if is_chat else given.get("token_logprobs")
    is_whole = params.temperature in (0, 1) and params.top_p == 1 and params.top_k == 0
    if not is_whole or found is None or len(found) != length:
        return np.full(length, np.nan, dtype=np.float32)
    return np.array(found, dtype=np.float32)
