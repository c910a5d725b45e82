"""Which unfinished solutions to go on with: the approaches of `evals/search.py`, as their sources define them.

Another one is a class with `first` and `advance`, and a line in `APPROACHES`. All work on one problem; n is the number of
solutions that may grow at a time, m how many steps are tried behind each one that is kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from repirl.config import Config
from repirl.rewards.aggregate import Aggregation

LOOKAHEAD = "lookahead"
"""Beam search that looks one step ahead, unless another number is set."""
_KEYS = itertools.count()
_CLIP = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A solution so far, of the problem with that index. `end`: live, or over by EOS (`stop`) or by the limit (`length`).

    `steps`: scores of all its steps, `value` what they are worth together (or what lookahead makes of it); `row` its place in
    the scorer; `tree` the subtree that it belongs to (DVTS), `log_weight` that of a particle. `key` tells nodes apart.
    """

    problem: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    end: Literal["live", "stop", "length"] = "live"
    steps: tuple[float, ...] = ()
    value: float = float("-inf")
    row: int = 0
    tree: int = 0
    log_weight: float = 0.0
    parent: Node | None = None
    key: int = field(default_factory=lambda: next(_KEYS))


@dataclass(frozen=True, slots=True)
class Expansion:
    """Continue the node by one step, that many times."""

    node: Node
    copies: int
    tree: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What is continued next, and the solutions that are over and kept."""

    expand: Sequence[Expansion]
    held: Sequence[Node]


class SearchConfig(Config):
    """Settings of all approaches."""

    approach: str = "beam"
    n: int = Field(default=4, ge=1)
    """Solutions that grow at a time."""
    width: int = Field(default=4, ge=1)
    """m: steps tried behind each solution that is kept (beam, dvts); n is a multiple of it, or smaller."""
    aggregation: Aggregation = "last"
    """What the steps of a solution are worth together."""
    temperature: float = Field(default=0.8, gt=0)
    max_new_tokens: int = Field(default=512, ge=1)
    """Of a whole solution."""
    max_steps: int = Field(default=40, ge=1)
    """In the last round solutions are written to their end."""
    lookahead: int = Field(default=0, ge=0)
    """Greedy steps behind each new one, by whose score it is judged; they are thrown away."""
    ends: Literal["retire", "compete"] = "retire"
    """Beam: a finished solution leaves and takes one of the n places with it, or stays and is ranked with the live ones."""
    balance: float = Field(default=0.2, gt=0)
    """REBASE's temperature T_b."""
    resampling: Literal["every-step", "ess"] = "every-step"
    """Particles: multinomial by their own weights at every step, or systematic by weight ratios where the effective sample size
    falls below half."""
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _looks_ahead(cls, values: Any) -> Any:
        ahead = isinstance(values, dict) and values.get("approach") == LOOKAHEAD
        return {"lookahead": 1, **values} if ahead else values

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.approach == LOOKAHEAD and not self.lookahead:
            raise ValueError("lookahead=0 is beam search")
        if self.approach in ("beam", LOOKAHEAD, "dvts") and self.n > self.width and self.n % self.width:
            raise ValueError(f"n={self.n} is no multiple of width={self.width}")
        return self


class Approach(Protocol):
    def __init__(self, config: SearchConfig, *, probabilities: bool) -> None: ...

    def first(self, root: Node) -> list[Expansion]: ...

    def advance(self, children: Sequence[Node], held: Sequence[Node], rng: np.random.Generator) -> Step: ...


class _Approach:
    def __init__(self, config: SearchConfig, *, probabilities: bool) -> None:
        self.config, self.probabilities = config, probabilities

    def first(self, root: Node) -> list[Expansion]:
        return [Expansion(root, self.config.n)]

    def _probability(self, node: Node) -> float:
        """Of a score that is none, the sigmoid; 0 without any."""
        if node.value == float("-inf"):
            return 0.0
        return node.value if self.probabilities else 1 / (1 + math.exp(-max(-700.0, min(700.0, node.value))))


class Beam(_Approach):
    """The n/m best solutions, each continued m times. `retire` as compute-optimal-tts, `compete` as its_hub."""

    def advance(self, children: Sequence[Node], held: Sequence[Node], rng: np.random.Generator) -> Step:
        n, m = self.config.n, min(self.config.width, self.config.n)
        if self.config.ends == "compete":
            best = _best_first([*held, *children])[: max(1, n // m)]
            live = [node for node in best if node.end == "live"]
            kept = [node for node in best if node.end != "live"]
            return Step([Expansion(node, m) for node in live], kept)
        over = [*held, *_best_first([node for node in children if node.end != "live"])][:n]
        room = n - len(over)
        live = _best_first([node for node in children if node.end == "live"])[: math.ceil(room / m)]
        copies = [min(m, room - i * m) for i in range(len(live))]
        return Step([Expansion(node, count) for node, count in zip(live, copies, strict=True)], over)


class DVTS(_Approach):
    """n/m subtrees that do not see each other: of the m steps tried the best goes on. Each ends with its last siblings."""

    def first(self, root: Node) -> list[Expansion]:
        m = min(self.config.width, self.config.n)
        return [Expansion(root, m, tree) for tree in range(max(1, self.config.n // m))]

    def advance(self, children: Sequence[Node], held: Sequence[Node], rng: np.random.Generator) -> Step:
        m = min(self.config.width, self.config.n)
        expand, over = [], list(held)
        for tree in sorted({child.tree for child in children}):
            siblings = _best_first([child for child in children if child.tree == tree])
            if siblings[0].end == "live":
                expand.append(Expansion(siblings[0], m, tree))
            else:
                over += [child for child in siblings if child.end != "live"]
        return Step(expand, over)


class Rebase(_Approach):
    """The width that is left is shared out by softmax(score / T_b), the best first and rounded up (arXiv 2408.00724)."""

    def advance(self, children: Sequence[Node], held: Sequence[Node], rng: np.random.Generator) -> Step:
        over = [*held, *(node for node in children if node.end != "live")]
        live = _best_first([node for node in children if node.end == "live"])
        left = self.config.n - len(over)
        return Step(
            [
                Expansion(node, copies)
                for node, copies in zip(
                    live, shares([self._probability(node) for node in live], left, self.config.balance), strict=True
                )
                if copies
            ],
            over,
        )


def shares(scores: Sequence[float], width: int, balance: float) -> list[int]:
    """REBASE: ceil(width left x weight / weights left) for each score in turn, which come highest first."""
    weights = [math.exp((score - max(scores)) / balance) for score in scores]
    total, left, found = sum(weights), max(0, width), []
    for weight in weights:
        # Rounding must not make one more of what is whole.
        copies = min(left, math.ceil(left * weight / total - 1e-12)) if total > 0 else 0
        found.append(copies)
        left, total = left - copies, total - weight
    return found


class Particles(_Approach):
    """n particles, resampled by their weights after every step; finished ones keep theirs (arXiv 2502.01618).

    `every-step` as its_hub does it: by softmax of the logits themselves, not of their change.
    """

    def advance(self, children: Sequence[Node], held: Sequence[Node], rng: np.random.Generator) -> Step:
        particles = [*held, *children]
        logits = np.array([self._logit(node) for node in particles])
        if self.config.resampling == "every-step":
            chosen = rng.choice(len(particles), size=self.config.n, p=_softmax(logits))
            return self._step(particles, np.bincount(chosen, minlength=len(particles)))
        before = np.array([node.log_weight for node in particles])
        # A finished particle has not changed since it was last weighed.
        parents = np.array([*logits[: len(held)], *(self._parent_logit(node) for node in children)])
        log_weights = before + logits - parents
        weights = _softmax(log_weights)
        if 1 / float((weights**2).sum()) >= self.config.n / 2:
            weighted = [_weighed(node, float(value)) for node, value in zip(particles, log_weights, strict=True)]
            return self._step(weighted, np.ones(len(particles), dtype=np.int64))
        counts = systematic(weights, self.config.n, float(rng.random()))
        return self._step([_weighed(node, 0.0) for node in particles], counts)

    def _step(self, particles: Sequence[Node], counts: np.ndarray) -> Step:
        pairs = [(node, int(count)) for node, count in zip(particles, counts, strict=True) if count]
        over = [node for node, count in pairs if node.end != "live" for _ in range(count)]
        return Step([Expansion(node, count) for node, count in pairs if node.end == "live"], over)

    def _logit(self, node: Node) -> float:
        probability = min(max(self._probability(node), _CLIP), 1 - _CLIP)
        return math.log(probability) - math.log1p(-probability)

    def _parent_logit(self, node: Node) -> float:
        return self._logit(node.parent) if node.parent is not None and node.parent.steps else 0.0


def systematic(weights: np.ndarray, n: int, offset: float) -> np.ndarray:
    """Counts of each of the weights (sum 1) among n draws at (i + offset) / n, offset in [0, 1)."""
    points = (np.arange(n) + offset) / n
    edges = np.cumsum(weights)
    edges[-1] = 1.0
    return np.bincount(np.searchsorted(edges, points, side="right"), minlength=len(weights))


def _weighed(node: Node, log_weight: float) -> Node:
    return replace(node, log_weight=log_weight)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _best_first(nodes: Sequence[Node]) -> list[Node]:
    """By value; equally good ones in their order."""
    return sorted(nodes, key=lambda node: -node.value)


APPROACHES: Mapping[str, Callable[..., Approach]] = {
    "beam": Beam,
    LOOKAHEAD: Beam,
    "dvts": DVTS,
    "rebase": Rebase,
    "particles": Particles,
}
