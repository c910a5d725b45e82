"""How a model behind an OpenAI-compatible server is asked: settings, the server's kind, the fields of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from repirl.config import Config
from repirl.engines.base import SamplingParams
from repirl.errors import UserError

_OFF = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
# What the server would otherwise take from the model's generation config or from its own defaults, and what keeps the stop
# string in the text. The keys are how servers call themselves in their list of models (`owned_by`).
KINDS: Mapping[str, Mapping[str, Any]] = {
    "vllm": _OFF | {"top_k": -1, "repetition_penalty": 1.0, "include_stop_str_in_output": True},
    "sglang": _OFF | {"top_k": -1, "repetition_penalty": 1.0, "no_stop_trim": True},
    "llamacpp": _OFF | {"top_k": 0, "repeat_penalty": 1.0},
}
_PROMPT_FIELDS = {"model", "prompt", "messages", "n", "stream"}
_SAMPLING_FIELDS = {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"}
OWN_FIELDS = _PROMPT_FIELDS | _SAMPLING_FIELDS
"""What an engine says itself: `extra` cannot."""
MOST_STOPS = 4
"""More stop strings than this are refused by OpenAI: others are cut here."""


class OpenAISettings(Config):
    """A model behind a server. Nothing of it is secret: the key's value is in the environment alone."""

    base_url: str
    """Where the server is, with its version: `http://localhost:8000/v1`."""
    model: str = Field(min_length=1)
    """The model's name at the server."""
    endpoint: Literal["completions", "chat"] = "completions"
    """`completions` continues the prompt as it is; `chat` sends it as one message of the user, in the server's template."""
    server: Literal["vllm", "sglang", "llamacpp", "other"] | None = None
    """The server's software, which decides how its own defaults (top_k, penalties) are put aside. None: as its list of models
    says; behind a proxy that may be hidden. If given, the list is not asked for."""
    tokenizer: str | None = None
    """Folder or hub id of the model's tokenizer: prompts are then sent as token ids (`completions` alone). None: as text."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that has the key; a server without keys needs none."""
    concurrency: int = Field(default=32, ge=1)
    """Requests at a time."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """Seconds to wait for one completion."""
    retries: int = Field(default=6, ge=0)
    """How often a request is sent again, with growing pauses, when the server is busy, limits, fails or does not answer."""
    logprobs: bool = False
    """Ask for log-probabilities and (vLLM) token ids; evaluation and demonstrations need neither."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that limits a completion's tokens; OpenAI's reasoning models take only the second."""
    leave_out: tuple[Literal["seed", "stop", "top_p"], ...] = ()
    """Fields that the server refuses. Without `seed` samples cannot be repeated; stop strings are cut here all the same."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, for instance {"reasoning_effort": "high"}."""

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must look like http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no key or password: name the key's variable in api_key_env")
        return value.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _leaves_the_engine_its_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(OWN_FIELDS & value.keys()):
            raise ValueError(f"{own[0]} is said by the engine itself")
        return value

    @model_validator(mode="after")
    def _chat_takes_text(self) -> OpenAISettings:
        if self.tokenizer is not None and self.endpoint == "chat":
            raise ValueError("the chat endpoint takes no token ids: leave out tokenizer, or use completions")
        return self


def sampling_fields(settings: OpenAISettings, params: SamplingParams, kind: str, *, limit: int, seed: int) -> dict[str, Any]:
    """The fields of a request, without its prompt. UserError for `top_k` at a server of which it is not known to take it."""
    fields: dict[str, Any] = {
        "model": settings.model,
        settings.limit_field: limit,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": seed,
    }
    if params.stop:
        fields["stop"] = list(params.stop[:MOST_STOPS])
    fields |= KINDS.get(kind, {})
    if params.top_k:
        if "top_k" not in fields:
            raise UserError("this server is not known to take top_k", params.top_k, "sample without it")
        fields["top_k"] = params.top_k
    if settings.logprobs:
        fields["logprobs"] = True if settings.endpoint == "chat" else 0  # of the sampled tokens alone
        fields |= {"return_token_ids": True} if kind == "vllm" else {}
    for name in settings.leave_out:
        fields.pop(name, None)
    return fields | settings.extra
