"""Which engine a verb samples with, and over which policy: weights loaded here, or a model behind a server."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repirl.errors import UserError

if TYPE_CHECKING:
    from repirl.engines.base import Engine
    from repirl.engines.loading import LoadedPolicy
    from repirl.engines.openai_settings import OpenAISettings

TORCH, VLLM, OPENAI = "torch", "vllm", "openai"

EngineOption = Annotated[str, typer.Option("--engine", help="torch or vllm (the policy), or openai (a model behind a server).")]
BaseUrlOption = Annotated[str | None, typer.Option(help="Of the server, as http://localhost:8000/v1.")]
ModelOption = Annotated[str | None, typer.Option(help="Name of the model at the server.")]
EngineSetOption = Annotated[
    list[str] | None,
    typer.Option(help="Setting of the engine: key=value; openai: concurrency=64, retries, extra; vllm: python=PATH."),
]


@dataclass(frozen=True, slots=True)
class Sampler:
    """A policy and the engine that samples from it, `chunk_rows` completions between two writes to the disk. `described` is
    what a result says of it besides the policy's name and digest."""

    policy: LoadedPolicy
    engine: Engine
    chunk_rows: int
    described: dict[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """End what the engine started."""
        if (close := getattr(self.engine, "close", None)) is not None:
            close()


@dataclass(frozen=True, slots=True)
class Weights:
    """How a policy's weights are loaded and used here."""

    policy: str
    revision: str | None
    dtype: str
    device: str | None
    max_batch_rows: int
    max_cache_tokens: int | None


def open_sampler(
    engine: str, weights: Weights, base_url: str | None, model: str | None, settings: list[str] | None, chat_template: bool
) -> Sampler:
    """The sampler that the options of a verb ask for. UserError for options of the other engine, for a policy that cannot be
    loaded, and for a server that cannot be reached."""
    if engine in (TORCH, VLLM):
        of_a_server = (base_url, model, *(settings or () if engine == TORCH else ()))
        if given := next((one for one in of_a_server if one), None):
            raise UserError("a server's option without a server", given, "give --engine openai, or leave it out")
        return _loaded(weights) if engine == TORCH else _in_vllm(weights, settings or [])
    if engine != OPENAI:
        raise UserError("unknown engine", engine, f"choose {TORCH}, {VLLM} or {OPENAI}")
    if weights.policy != "tiny" or weights.revision is not None:
        raise UserError("--policy and --revision name weights to load", weights.policy, "name the server's model by --model")
    if base_url is None or model is None:
        lacking = "--base-url" if base_url is None else "--model"
        raise UserError(f"a model behind a server needs {lacking}", todo="as --base-url http://localhost:8000/v1 --model NAME")
    return _served(server_settings(base_url, model, settings or (), chat_template))


def server_settings(base_url: str, model: str, settings: list[str] | tuple[()], chat_template: bool) -> OpenAISettings:
    """The server's template is applied at its chat endpoint; with the model's tokenizer here, its own at the other one."""
    from repirl.config import parse_config, with_overrides
    from repirl.engines.openai_settings import OpenAISettings

    found = with_overrides(parse_config(OpenAISettings, {"base_url": base_url, "model": model}), list(settings))
    if found.endpoint == "chat" and not chat_template:
        raise UserError("the chat endpoint applies a template", "endpoint=chat", "give --chat-template in its place")
    at_chat = chat_template and found.tokenizer is None
    return with_overrides(found, ["endpoint=chat"]) if at_chat else found


def _policy(weights: Weights) -> LoadedPolicy:
    from repirl.engines.loading import default_device, load_policy

    device = weights.device or default_device()
    return load_policy(weights.policy, dtype=weights.dtype, device=device, revision=weights.revision)


def _in_vllm(weights: Weights, settings: list[str]) -> Sampler:
    """vLLM's samples are checked against the policy, so that this is loaded too; samples of the two never share a folder."""
    from repirl.config import parse_config, with_overrides
    from repirl.engines.vllm_engine import VllmEngine
    from repirl.engines.vllm_settings import VllmSettings
    from repirl.engines.weights import ModelWeights
    from repirl.rollouts.following import FollowingEngine
    from repirl.rollouts.pool import CHUNK_ROWS

    policy = _policy(weights)
    given = with_overrides(parse_config(VllmSettings, {"dtype": policy.dtype}), settings)
    held_to = ModelWeights(policy.model), policy.model, policy.tokenizer, given.allowed_gap(policy.dtype)
    described = {"engine": {"name": VLLM, **given.model_dump(mode="json")}}
    engine = FollowingEngine(VllmEngine(policy, given), *held_to)
    return Sampler(replace(policy, dtype=f"{given.dtype} in vLLM"), engine, CHUNK_ROWS, described)


def _loaded(weights: Weights) -> Sampler:
    from repirl.engines.torch_engine import TorchEngine
    from repirl.rollouts.pool import CHUNK_ROWS

    policy = _policy(weights)
    bounds = {"max_batch_rows": weights.max_batch_rows, "max_cache_tokens": weights.max_cache_tokens}
    return Sampler(policy, TorchEngine(policy.model, policy.tokenizer, **bounds), CHUNK_ROWS)


def _served(settings: OpenAISettings) -> Sampler:
    from repirl.engines.loading import LoadedPolicy
    from repirl.engines.openai_engine import OpenAIEngine

    engine = OpenAIEngine(settings, None if settings.tokenizer is None else _tokenizer(settings.tokenizer))
    policy = LoadedPolicy(None, engine.tokenizer, settings.model, Path(), engine.digest)
    described = {"engine": {"name": OPENAI, **settings.model_dump(mode="json"), "server": engine.served.kind}}
    # Completions of a server may cost money: few of them are lost when something breaks off.
    return Sampler(policy, engine, 4 * settings.concurrency, described)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    from repirl.engines.loading import EMBEDDED
    from repirl.paths import ASSETS_DIR

    try:
        return AutoTokenizer.from_pretrained(ASSETS_DIR / name if name in EMBEDDED else Path(name).expanduser())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError("no readable tokenizer", name, "give a folder or a hub id, or leave the setting out") from error
