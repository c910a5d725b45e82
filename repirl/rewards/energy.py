"""The token-level PRM of rePIRL: a transformers backbone and a scalar head, p(o_t | s_t, a_t) ~ exp(r_phi) (PAPER 2).

The model is transformers' token classification with one label, so the saved folder loads with
`AutoModelForTokenClassification` anywhere. r_phi(s_t, a_t) is read at the position of the token a_t itself.

With a base measure kappa > 0 the energy is residual: r_phi(s_t, a_t) = kappa log p_phi(a_t | s_t) + head, where p_phi is the
language model that backbone and (tied) embeddings are. At kappa = 1 and a zero head p(tau) ~ exp(r) is the base policy
itself, so all importance weights start equal; and the state's own prediction of a_t, which no head at the position of a_t
can see in a shallow model, is part of the reward. kappa lies in the model's config as `repirl_base_measure`.
Shapes: B rows, T tokens, N completion tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForTokenClassification

from repirl.engines.loading import quiet_transformers
from repirl.errors import UserError
from repirl.precision import lowered
from repirl.rewards.artifact import CONTRACT_FILE, RewardContract, read_contract, write_contract
from repirl.rollouts.batching import TokenBatch, TokenRow, hidden_states, length_sorted_chunks, pad_batch

CPU_BATCH_TOKENS = 1024
"""On a CPU a batch of this size stays in the caches: scoring is a tenth faster than with 2,048 tokens (tiny model)."""


def energy_from_policy(policy, *, layers: int | None = None, base_measure: float = 0.0) -> nn.Module:
    """A PRM that starts as a copy of the policy's backbone (its first `layers` if given) and a zero head.

    Without a base measure every reward is 0 at the start, and the first importance weights are those of the policy alone.
    """
    config = copy.deepcopy(policy.config)
    if base_measure and not config.tie_word_embeddings:
        raise UserError("a base measure needs tied embeddings", config.model_type, "set irl.base_measure=0")
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
    weights = {name: value for name, value in policy.base_model.state_dict().items() if name in kept}
    model.base_model.load_state_dict(weights, strict=True)
    nn.init.zeros_(model.score.weight if hasattr(model, "score") else model.classifier.weight)
    if getattr(policy, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameter = next(policy.parameters())
    return model.to(device=parameter.device, dtype=parameter.dtype)


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
        logits_NV = functional.linear(before_NH, model.get_input_embeddings().weight).float()
    targets_N = batch.ids_BT[batch.response_mask_BT]
    return rewards_N - base_measure * functional.cross_entropy(logits_NV, targets_N, reduction="none")


@torch.no_grad()
def score_rows(model: nn.Module, rows: Sequence[TokenRow], pad_id: int, max_tokens: int | None = None) -> list[Tensor]:
    """Raw token rewards of each row, float32 [T_i] on the CPU, in the order given; length-sorted batches.

    `max_tokens` per batch; None chooses by device: on a CPU small batches stay in the caches and take half the time.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    if max_tokens is None:
        max_tokens = CPU_BATCH_TOKENS if device.type == "cpu" else 16384
    # Groups of short completions hold many that are the same: each is scored once.
    unique, same_as = distinct_rows(rows)
    scored: list[Tensor] = [torch.empty(0)] * len(unique)
    for chunk in length_sorted_chunks([len(row) for row in unique], max_tokens):
        rewards_N = token_rewards(model, pad_batch([unique[i] for i in chunk], pad_id, device)).cpu()
        pieces = rewards_N.split([len(unique[i].response_ids) for i in chunk])
        for i, piece in zip(chunk, pieces, strict=True):
            scored[i] = piece
    model.train(was_training)
    return [scored[i] for i in same_as]


def distinct_rows(rows: Sequence[TokenRow]) -> tuple[list[TokenRow], list[int]]:
    """The rows without repetitions, in order of first occurrence, and for each given row its place among them."""
    places: dict[bytes, int] = {}
    place_of = [places.setdefault(_key(row), len(places)) for row in rows]
    distinct: list[TokenRow] = []
    for row, place in zip(rows, place_of, strict=True):
        if place == len(distinct):
            distinct.append(row)
    return distinct, place_of


def _key(row: TokenRow) -> bytes:
    """What tells one row from another."""
    prompt, response = (np.asarray(ids, dtype=np.int64).tobytes() for ids in (row.prompt_ids, row.response_ids))
    return len(prompt).to_bytes(4, "little") + prompt + response


def save_energy(folder: Path, model, tokenizer, contract: RewardContract) -> None:
    """Write weights, tokenizer and contract as one transformers folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_contract(folder, contract)


def load_energy(folder: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, RewardContract]:
    """A saved PRM and its contract; UserError for a missing folder, contract, or weights that do not fit."""
    if not folder.is_dir():
        raise UserError("no such reward folder", str(folder), "give a folder that `repirl train` wrote")
    contract = read_contract(folder)
    try:
        with quiet_transformers():
            model, info = AutoModelForTokenClassification.from_pretrained(
                folder,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"cannot load the reward's model ({reason})", str(folder), "train it again or copy it anew") from error
    if info["missing_keys"] or info["mismatched_keys"] or info["unexpected_keys"]:
        raise UserError("the weights do not fit the reward's architecture", str(folder), f"see {CONTRACT_FILE}")
    return model.to(device).eval(), contract
