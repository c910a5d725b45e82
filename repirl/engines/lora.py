"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, injected into the model's own layers.

The model stays the class it was: sampling, losses and rewards run as without. Its base weights are frozen; what leaves the
process (a saved policy, a reward that starts from it) are merged weights under the plain names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from repirl.config import Config
from repirl.errors import UserError

_ADAPTER = "default"


class LoRAConfig(Config):
    """Adapters on all linear layers but the output layer."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    """The update is scaled by alpha / rank."""


def add_adapters(model: Any, config: LoRAConfig, seed: int) -> None:
    """Inject fresh adapters and freeze everything else, in place; they change nothing until trained.

    A reward's head, which is no output layer of a language model, is trained whole beside them. UserError if peft is not
    installed or the model has no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("LoRA needs peft", todo="pip install 'repirl[peft]'") from error
    backbone = f"{model.base_model_prefix}."
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if name.startswith(backbone)]
    if not targets:
        raise UserError("no linear layer for LoRA to adapt", type(model).__name__, "train without --lora-rank")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets), model, _ADAPTER)
    is_language_model = model.get_output_embeddings() is not None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or not (is_language_model or name.startswith(backbone)))


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was here."""
    return any(hasattr(module, "lora_A") for module in model.modules())


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """For the while the model is what it was before its adapters learned anything."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights under the plain names, adapters added in, layer by layer; of a model without adapters its `state_dict()`."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    for name, value in model.state_dict().items():
        if ".lora_" in name:
            continue
        layer: Any = layers.get(name.removesuffix(".base_layer.weight"))
        if layer is not None:
            with torch.no_grad():
                value = value + layer.get_delta_weight(_ADAPTER).to(value.dtype)
        yield name.replace(".base_layer.", "."), value


def owned_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`merged_weights` without those that are tied to another: what a checkpoint holds."""
    named = chain(model.named_parameters(), model.named_buffers())
    owned = {name.replace(".base_layer.", ".") for name, _ in named}
    return (pair for pair in merged_weights(model) if pair[0] in owned)


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """All of `merged_weights`."""
    return dict(merged_weights(model))


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the adapters' weights; empty of a model without."""
    return {name: value.clone() for name, value in model.state_dict().items() if ".lora_" in name}


@torch.no_grad()
def load_merged(model: nn.Module, weights: dict[str, Tensor], adapters: dict[str, Tensor]) -> None:
    """Put merged weights into the layers themselves, and `adapters` (fresh ones change nothing) into the adapters."""
    plain = {name: weights[name.replace(".base_layer.", ".")] for name in model.state_dict() if ".lora_" not in name}
    model.load_state_dict(plain | adapters)
