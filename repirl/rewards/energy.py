"""The PRM of rePIRL: a transformers backbone and a scalar head, p(o_t | s_t, a_t) ~ exp(r_phi) (docs/method.md section 2).

The model is transformers' token classification with one label; r_phi(s_t, a_t) is read at the position of the token a_t itself.
What its saved folder is to plain transformers says `saved.py`.

With a base measure kappa > 0 the energy is residual: r_phi(s_t, a_t) = kappa log p_phi(a_t | s_t) + head, where p_phi is the
language model that backbone and (tied) embeddings are. At kappa = 1 and a zero head p(tau) ~ exp(r) is the base policy
itself, so all importance weights start equal; and the state's own prediction of a_t, which no head at the position of a_t
can see in a shallow model, is part of the reward. kappa lies in the model's config as `repirl_base_measure`.
Shapes: B rows, T tokens, N completion tokens.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForTokenClassification

from repirl.engines.loading import quiet_transformers
from repirl.engines.lora import adapter_weights, load_merged, merged_state_dict
from repirl.engines.modeling_repirl import adjusted_logits
from repirl.errors import UserError
from repirl.precision import lowered
from repirl.rewards.artifact import CONTRACT_FILE, read_contract
from repirl.rewards.base import ModelReward
from repirl.rewards.saved import plain_config
from repirl.rollouts.batching import hidden_states
from repirl.rollouts.packing import TokenBatch, TokenRow, pad_batch


class EnergyReward(ModelReward):
    """A frozen energy model as process reward; its token scores are r_phi(s_t, a_t)."""

    name = "energy"

    def per_token(self, batch: TokenBatch) -> Tensor:
        return token_rewards(self.model, batch)


def energy_from_policy(policy, *, layers: int | None = None, base_measure: float = 0.0) -> nn.Module:
    """A PRM that starts as a copy of the policy's backbone (its first `layers` if given) and a zero head.

    Without a base measure every reward is 0 at the start, and the first importance weights are those of the policy alone.
    """
    config = copy.deepcopy(policy.config)
    if base_measure and not config.tie_word_embeddings:
        raise UserError("a base measure needs tied embeddings", config.model_type, "set base_measure=0 (and irl.form=energy)")
    config.repirl_base_measure = base_measure
    config.num_labels = 1
    config.classifier_dropout = 0.0
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise UserError("prm layers out of range", layers, f"the policy has {config.num_hidden_layers}")
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    try:
        model = AutoModelForTokenClassification.from_config(config)
    except ValueError as error:
        raise UserError("no token-level head for this architecture", config.model_type, "choose another base") from error
    kept = model.base_model.state_dict().keys()
    weights = {name: value for name, value in merged_state_dict(policy.base_model).items() if name in kept}
    model.base_model.load_state_dict(weights, strict=True)
    nn.init.zeros_(model.score.weight if hasattr(model, "score") else model.classifier.weight)
    if getattr(policy, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameter = next(policy.parameters())
    model = model.to(device=parameter.device, dtype=parameter.dtype)
    if base_measure and layers is None:
        _check_base_measure(policy, model)
    return model


@torch.no_grad()
def _check_base_measure(policy, model) -> None:
    """UserError if the fresh model's reward of a probe is not kappa times the policy's own log-probability.

    So an architecture that changes its logits in a way that `adjusted_logits` does not know is refused, not misread.
    """
    device = next(policy.parameters()).device
    probe = pad_batch([TokenRow([0, 1], list(range(2, min(10, policy.config.vocab_size))))], 0, device)
    logits = policy(input_ids=probe.ids_BT, use_cache=False).logits[0].float()
    own_N = functional.log_softmax(logits[1:-1], -1).gather(1, probe.ids_BT[0, 2:, None])[:, 0]
    found_N = token_rewards(model.eval(), probe) / model.config.repirl_base_measure
    if not torch.allclose(found_N, own_N, atol=0.05, rtol=0.01):
        kind = policy.config.model_type
        raise UserError("a base measure does not fit this architecture's logits", kind, "set irl.base_measure=0")


def token_rewards(model, batch: TokenBatch) -> Tensor:
    """Float32 raw rewards [N] of the completion tokens, row after row; with gradient if enabled."""
    with lowered(batch.ids_BT.device.type):
        hidden_BTH = hidden_states(model.base_model, batch)
        head = model.score if hasattr(model, "score") else model.classifier
        rewards_N = head(hidden_BTH[batch.response_mask_BT])[:, 0].float()
        if not (base_measure := getattr(model.config, "repirl_base_measure", 0.0)):
            return rewards_N
        # The token at position t is predicted at t - 1.
        before_NH = hidden_BTH[:, :-1][batch.response_mask_BT[:, 1:]]
        # In the precision of the output layer, as the language model itself does it.
        logits_NV = adjusted_logits(model.config, functional.linear(before_NH, model.get_input_embeddings().weight))
    targets_N = batch.ids_BT[batch.response_mask_BT]
    return rewards_N - base_measure * functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")


def parameter_groups(model: Any, lr: float, head_lr: float) -> list[dict[str, Any]]:
    """AdamW's groups: the backbone, and the head at a rate of its own."""
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    backbone = [parameter for parameter in model.base_model.parameters() if parameter.requires_grad]
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [{"params": backbone, "lr": lr}, {"params": head, "lr": head_lr}]


def load_energy(model: nn.Module, folder: Path, base_digest: str) -> None:
    """Put a saved PRM's weights into `model`; UserError unless it was fitted to the base policy of this digest."""
    contract = read_contract(folder)
    if contract.base_digest != base_digest:
        raise UserError(
            "the reward was fitted to another base policy", str(folder), "start from the policy that it was made for"
        )
    saved = load_energy_model(folder)
    ours, theirs = _size(model), _size(saved)
    if ours != theirs:
        said = f"{theirs[0]} layers of {theirs[1]}, not {ours[0]} of {ours[1]}"
        raise UserError(f"the reward has another size ({said})", str(folder), "train with its irl.base and irl.layers")
    load_merged(model, saved.state_dict(), adapter_weights(model))


def _size(model: Any) -> tuple[int, int]:
    """Layers and width."""
    return model.config.num_hidden_layers, model.config.hidden_size


def load_energy_model(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """The model of a saved PRM, in evaluation mode and frozen; UserError for a missing folder or weights that do not fit."""
    if not folder.is_dir():
        raise UserError("no such reward folder", str(folder), "give a folder that `repirl train` wrote")
    try:
        with quiet_transformers():
            model, info = AutoModelForTokenClassification.from_pretrained(
                folder,
                config=plain_config(folder),
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"cannot load the reward's model ({reason})", str(folder), "train it again or copy it anew") from error
    if info["missing_keys"] or info["mismatched_keys"] or info["unexpected_keys"]:
        raise UserError("the weights do not fit the reward's architecture", str(folder), f"see {CONTRACT_FILE}")
    return model.requires_grad_(False).to(device).eval()
