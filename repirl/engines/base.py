"""What an engine is: prompts in, groups of rollouts with log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from repirl.errors import UserError
from repirl.types import Rollout


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. `temperature` 0 is greedy (log-probabilities then are those of temperature 1).

    `top_p` < 1 and `top_k` > 0 truncate the distribution; log-probabilities are of the truncated one.
    `stop` strings end a completion; the matched string stays in the text. `seed` is the run's seed: each
    (seed, stream, sample index) has its own random stream (see `Request`).
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError("max_new_tokens must be at least 1", self.max_new_tokens)
        if self.temperature < 0:
            raise UserError("temperature must be 0 (greedy) or positive", self.temperature)
        if not 0 < self.top_p <= 1:
            raise UserError("top_p must lie in (0, 1]", self.top_p)
        if self.top_k < 0:
            raise UserError("top_k must be 0 (off) or positive", self.top_k)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, to be continued `num_samples` times. `first_sample` numbers the first of them.

    `stream` names its random numbers; None: the problem's id. `max_new_tokens` is a lower limit of its own.
    """

    problem_id: str
    prompt_ids: tuple[int, ...]
    num_samples: int = 1
    first_sample: int = 0
    stream: str | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError("max_new_tokens must be at least 1", self.max_new_tokens)

    @property
    def stream_name(self) -> str:
        """What its random numbers depend on, beside seed and sample index."""
        return self.problem_id if self.stream is None else self.stream

    def limit(self, params: SamplingParams) -> int:
        """Most new tokens of one of its completions."""
        return params.max_new_tokens if self.max_new_tokens is None else min(params.max_new_tokens, self.max_new_tokens)


class Engine(Protocol):
    """Anything that can sample."""

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Rollout]]:
        """Groups of rollouts in the order of `requests`; `on_progress(rows_done, rows_total)`."""
        ...
