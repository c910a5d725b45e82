"""Scores of the steps of solutions that grow: token by token behind a cache where the reward allows it, else anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from repirl.evals.approaches import Node
from repirl.evals.step_scoring import as_group, as_solution, scored_or_not
from repirl.rewards.base import steps_from_tokens
from repirl.rewards.incremental import IncrementalScorer, ScoredRows, can_score
from repirl.rewards.load import LoadedReward
from repirl.rollouts.steps import step_end_tokens, step_texts
from repirl.types import Problem


class StepScorer(Protocol):
    def __init__(self, loaded: LoadedReward, problems: Sequence[Problem]) -> None: ...

    def start(self) -> Any: ...

    def extend(self, rows: Any, children: Sequence[Node]) -> tuple[Any, list[tuple[float, ...]]]:
        """`rows` of the parents -> rows of the children, in order, and the scores of all steps of each."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    scored: ScoredRows
    tokens: list[np.ndarray]


class IncrementalSteps:
    """New tokens alone go through the reward's model."""

    def __init__(self, loaded: LoadedReward, problems: Sequence[Problem]) -> None:
        self.loaded, self.problems = loaded, problems
        assert can_score(loaded.reward)
        self.scorer = IncrementalScorer(loaded.reward)  # pyright: ignore[reportArgumentType]

    def start(self) -> _Rows:
        groups = [as_group(self.loaded, as_solution(problem, ("x",), finished=False)) for problem in self.problems]
        prompts = [group.rollouts[0].prompt_ids for group in groups]
        return _Rows(self.scorer.start(prompts), [np.zeros(0, dtype=np.float32)] * len(prompts))

    def extend(self, rows: _Rows, children: Sequence[Node]) -> tuple[_Rows, list[tuple[float, ...]]]:
        parents = [child.parent for child in children]
        blocks = [
            child.tokens[len(parent.tokens) :] for child, parent in zip(children, parents, strict=True) if parent is not None
        ]
        places = [parent.row for parent in parents if parent is not None]
        scored, found = self.scorer.extend(rows.scored, places, blocks)
        tokens = [np.concatenate([rows.tokens[place], new]) for place, new in zip(places, found, strict=True)]
        return _Rows(scored, tokens), [self._steps(child, own) for child, own in zip(children, tokens, strict=True)]

    def _steps(self, child: Node, scores_T: np.ndarray) -> tuple[float, ...]:
        reward = self.loaded.reward
        ends_S = step_end_tokens(reward.tokenizer, child.tokens, reward.segmentation, child.text)
        steps = steps_from_tokens(scores_T, ends_S, reward.aggregation)
        return tuple(steps.step_rewards[steps.step_mask].astype(np.float64).tolist())


class WholeSteps:
    """Every text is scored from its beginning: for rewards that are no causal model's, or read other tokens."""

    def __init__(self, loaded: LoadedReward, problems: Sequence[Problem]) -> None:
        self.loaded, self.problems = loaded, problems

    def start(self) -> None:
        return None

    def extend(self, rows: None, children: Sequence[Node]) -> tuple[None, list[tuple[float, ...]]]:
        steps = [step_texts(child.text, self.loaded.segmentation) for child in children]
        asked = [i for i, own in enumerate(steps) if own]
        solutions = [
            as_solution(self.problems[children[i].problem], steps[i], finished=children[i].end == "stop", key=i) for i in asked
        ]
        found: list[tuple[float, ...]] = [()] * len(children)
        for i, one in zip(asked, scored_or_not(self.loaded, solutions), strict=True):
            found[i] = () if one.scores is None or np.isnan(one.scores).any() else tuple(one.scores.tolist())
        return None, found
