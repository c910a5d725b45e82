"""Scores of solutions that are still being written: each new token goes through the model once, behind a cache of its prefix.

A row's cache holds the keys of all its tokens but the last, whose state predicts the next one and is made again. Rows of
different lengths share a cache; columns that hold nothing of a row are masked, and positions are told explicitly.
Shapes: B rows, C cached columns, K columns of a block of new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from repirl.engines.kv_cache import keeps_all_keys
from repirl.rewards.base import ModelReward, StepReward
from repirl.rewards.implicit import ImplicitReward
from repirl.rollouts.batching import has_known_head, token_logprobs
from repirl.rollouts.packing import TokenBatch, cache_of_rows, padding_id
from repirl.types import Budget


class PrefixCaches:
    """The keys and values of B rows in every backbone that a reward runs, and which columns are whose.

    `hidden_states` reads and extends them where a batch carries them.
    """

    def __init__(self, known_BC: Tensor, positions_BK: Tensor, caches: dict[int, DynamicCache]) -> None:
        self.known_BC = known_BC
        self.positions_BK = positions_BK
        self._caches = caches

    def inputs(self, backbone: nn.Module, attention_mask_BT: Tensor) -> dict[str, Any]:
        """What a backbone's forward pass is given beside the block's ids."""
        cache = self._caches.setdefault(id(backbone), DynamicCache())
        mask_BC = torch.cat([self.known_BC, attention_mask_BT], dim=1)
        return {
            "attention_mask": mask_BC,
            "position_ids": self.positions_BK,
            "past_key_values": cache,
            "use_cache": True,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRows:
    """B rows as they are so far: lengths in tokens, the last token of each, and the caches of what lies before it."""

    lengths_B: Tensor
    last_B: Tensor
    known_BC: Tensor
    caches: dict[int, DynamicCache]


class IncrementalScorer:
    """Token scores of a reward that is a causal model's, block by block. `can_score` says of which that holds."""

    def __init__(self, reward: ModelReward | ImplicitReward) -> None:
        self.reward = reward
        self._per_token: Callable[[TokenBatch], Tensor] = _per_token(reward)
        self._device = next(reward.model.parameters()).device
        self._pad = padding_id(reward.tokenizer)
        self._passes = len(_models(reward))

    def start(self, prompts: Sequence[Sequence[int]]) -> ScoredRows:
        """Rows of prompts alone, one token or more each."""
        zeros_B = torch.zeros(len(prompts), dtype=torch.long, device=self._device)
        empty = ScoredRows(zeros_B, zeros_B, zeros_B[:, None][:, :0], {})
        return self._run(empty, [list(map(int, prompt)) for prompt in prompts], first=True)[0]

    def extend(
        self, rows: ScoredRows, parents: Sequence[int], blocks: Sequence[Sequence[int]]
    ) -> tuple[ScoredRows, list[np.ndarray]]:
        """Children of `rows`: child i continues row `parents[i]` with the tokens `blocks[i]` (at least one).

        Their rows, in order, and the scores float32 [len(block)] of each block's tokens. `rows` stay as they were.
        """
        index = torch.tensor(list(parents), device=self._device)
        chosen = ScoredRows(
            rows.lengths_B[index],
            rows.last_B[index],
            rows.known_BC[index],
            {k: cache_of_rows(c, index) for k, c in rows.caches.items()},
        )
        last = chosen.last_B.tolist()
        return self._run(chosen, [[token, *map(int, block)] for token, block in zip(last, blocks, strict=True)], first=False)

    @torch.no_grad()
    def _run(self, rows: ScoredRows, blocks: Sequence[list[int]], *, first: bool) -> tuple[ScoredRows, list[np.ndarray]]:
        """One forward pass over blocks, of which the first token is known already unless `first`."""
        width = max(map(len, blocks))
        ids = np.full((len(blocks), width), self._pad, dtype=np.int64)
        attention = np.zeros((len(blocks), width), dtype=np.int64)
        for i, block in enumerate(blocks):
            ids[i, : len(block)] = block
            attention[i, : len(block)] = 1
        ids_BK, attention_BK = (torch.from_numpy(array).to(self._device) for array in (ids, attention))
        response_BK = torch.zeros_like(attention_BK, dtype=torch.bool) if first else attention_BK.bool()
        response_BK[:, 0] = False
        lengths_B = rows.lengths_B + attention_BK.sum(1) - (0 if first else 1)
        start_B = rows.lengths_B if first else rows.lengths_B - 1
        positions_BK = start_B[:, None] + torch.arange(width, device=self._device)
        caches = PrefixCaches(rows.known_BC, positions_BK, rows.caches)
        new_tokens = int(attention_BK.sum()) - (0 if first else len(blocks))
        self.reward.budget += Budget(scored_tokens=self._passes * new_tokens)
        batch = TokenBatch(ids_BK, attention_BK, response_BK, caches)
        scores_N = self._per_token(batch).float().cpu()
        # The last token of each row is made again with the next block: its column is masked from here on.
        known_BK = attention_BK.clone()
        known_BK[torch.arange(len(blocks)), attention_BK.sum(1) - 1] = 0
        last_B = ids_BK.gather(1, (attention_BK.sum(1) - 1)[:, None])[:, 0]
        after = ScoredRows(lengths_B, last_B, torch.cat([rows.known_BC, known_BK], dim=1), rows.caches)
        return after, [piece.numpy() for piece in scores_N.split(response_BK.sum(1).tolist())]


def can_score(reward: StepReward) -> bool:
    """Whether a reward's scores of tokens depend on nothing but the tokens up to them, and its models keep all their keys."""
    if not isinstance(reward, ModelReward | ImplicitReward):
        return False
    models = _models(reward)
    return all(keeps_all_keys(model.config) and (not _is_language_model(model) or has_known_head(model)) for model in models)


def _models(reward: ModelReward | ImplicitReward) -> list[Any]:
    return [reward.model, reward.reference] if isinstance(reward, ImplicitReward) else [reward.model]


def _is_language_model(model: Any) -> bool:
    return getattr(model, "get_output_embeddings", lambda: None)() is not None


def _per_token(reward: ModelReward | ImplicitReward) -> Callable[[TokenBatch], Tensor]:
    if isinstance(reward, ModelReward):
        return reward.per_token
    model, reference, beta = reward.model, reward.reference, reward.beta

    def log_ratios(batch: TokenBatch) -> Tensor:
        return beta * (token_logprobs(model, batch).logprobs_N - token_logprobs(reference, batch).logprobs_N)

    return log_ratios
