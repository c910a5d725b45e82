"""Shared fixtures: a tiny random policy of one layer and width 32 with the embedded tokenizer. Heavy imports stay inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# One thread: several test processes share few cores, and sums then have one order (bit-for-bit comparisons).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tokenizer():
    """The embedded character tokenizer."""
    from repirl.engines.tiny_model import build_tokenizer

    return build_tokenizer()


@pytest.fixture(scope="session")
def make_policy(tokenizer):
    """`make_policy(seed)`: a freshly initialised causal LM of 1 layer and width 32, the same for the same seed."""
    import torch

    from repirl.engines.tiny_model import build_model

    torch.set_num_threads(1)

    def make(seed: int = 0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_model(tokenizer, layers=1, width=32).eval()

    return make


@pytest.fixture(scope="session")
def policy_folder(make_policy, tokenizer, tmp_path_factory) -> Path:
    """The random policy as a transformers folder."""
    folder = tmp_path_factory.mktemp("random-policy")
    make_policy(0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_energy_model(make_policy):
    """`make_energy_model(seed, **settings)`: a PRM on a random policy's backbone whose head is not zero."""
    from torch.nn.init import normal_

    from repirl.rewards.energy import energy_from_policy

    def make(seed: int = 0, **settings):
        import torch

        model: Any = energy_from_policy(make_policy(seed), **settings)
        with torch.no_grad():
            normal_(model.score.weight, generator=torch.Generator().manual_seed(seed))
        return model

    return make


@pytest.fixture(scope="session")
def make_rollout(tokenizer):
    """`make_rollout(prompt, text)`: a finished rollout that says `text`, with log-probabilities -1 unless given."""
    import numpy as np

    from repirl.rollouts.prompts import encode_prompt
    from repirl.types import Rollout

    def make(prompt: str, text: str, *, logprobs=None, problem_id: str = "p", index: int = 0, stopped: bool = True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * stopped
        return Rollout(
            problem_id,
            index,
            encode_prompt(tokenizer, prompt),
            np.array(ids, dtype=np.int64),
            np.full(len(ids), -1.0, dtype=np.float32) if logprobs is None else np.asarray(logprobs, dtype=np.float32),
            text,
            "stop" if stopped else "length",
            1.0,
        )

    return make
