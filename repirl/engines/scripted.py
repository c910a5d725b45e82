"""An engine that replays given texts: for docs and tests, without a model and without torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from repirl.engines.base import Request, SamplingParams
from repirl.errors import UserError
from repirl.types import Rollout

END = 0
"""The token that ends a text. All others are Unicode code points."""


def encode(text: str) -> tuple[int, ...]:
    """Token ids of a text: its code points."""
    return tuple(map(ord, text))


class ScriptedEngine:
    """`Engine` that answers sample j of problem p with `texts[p][j % len(texts[p])]`.

    A token is a character (its code point), then `END`. Log-probabilities are made up but repeatable: each token's
    depends on a hash of prompt and text up to it.
    """

    def __init__(self, texts: Mapping[str, Sequence[str]]) -> None:
        empty = [problem_id for problem_id, script in texts.items() if not script]
        if empty:
            raise UserError("no text to replay for the problem", empty[0], "give at least one")
        self.texts = {problem_id: tuple(script) for problem_id, script in texts.items()}

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Groups of rollouts in the order of `requests`. Raises UserError for a problem without a script."""
        total, done, groups = sum(request.num_samples for request in requests), 0, []
        for request in requests:
            if request.problem_id not in self.texts:
                raise UserError("no text to replay for the problem", request.problem_id, "add it to the script")
            indices = range(request.first_sample, request.first_sample + request.num_samples)
            groups.append([self._rollout(request, index, params) for index in indices])
            done += request.num_samples
            if on_progress is not None:
                on_progress(done, total)
        return groups

    def _rollout(self, request: Request, sample_index: int, params: SamplingParams) -> Rollout:
        script = self.texts[request.problem_id]
        text = script[sample_index % len(script)]
        ends = [text.find(stop) + len(stop) for stop in params.stop if stop and stop in text]
        if ends:
            text = text[: min(ends)]
        token_ids = encode(text) if ends else (*encode(text), END)
        limit = request.limit(params)
        cut = len(token_ids) > limit
        token_ids = token_ids[:limit]
        return Rollout(
            problem_id=request.problem_id,
            sample_index=sample_index,
            prompt_ids=tuple(request.prompt_ids),
            token_ids=np.array(token_ids, dtype=np.int64),
            logprobs=self._logprobs(request.prompt_ids, token_ids),
            text=text[:limit],
            finish_reason="length" if cut else "stop",
            temperature=params.temperature,
        )

    def _logprobs(self, prompt: Sequence[int], completion: Sequence[int]) -> np.ndarray:
        digest = hashlib.sha256(repr(tuple(map(int, prompt))).encode())
        values = []
        for token in completion:
            digest.update(b"%d," % int(token))
            values.append(math.log(0.5 + 0.5 * digest.digest()[0] / 256))
        return np.array(values, dtype=np.float32)
