"""What training without labels is watched by: agreement, repetition, the answers given at every update, and when to stop.

Nothing here needs a label. The answers are written down, so that who has the labels can say afterwards how often they were
right at each update (`evals.adapting.graded_curve`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from repirl.config import Config
from repirl.grading.math.extract import final_answer
from repirl.grading.math.votes import merge, same_answers
from repirl.paths import replace_file
from repirl.rng import seed_for
from repirl.rollouts.collect import Collector
from repirl.types import Budget, Metrics, Problem, RolloutGroup

NGRAM = 8
"""Tokens of the pieces whose repetition is counted."""

PaidFor = Callable[[Sequence[RolloutGroup]], Sequence[np.ndarray]]
"""What each rollout of some groups earns."""


class WatchConfig(Config):
    """Problems that are not trained on, sampled every so often, and the rule by which a hacked reward stops the run.

    A look is bad if the signal is higher, and specific agreement lower by more than `tolerance`, than at the look with the
    highest specific agreement so far. After `patience` bad looks in a row training stops, and the policy of that update is the
    result.
    """

    problems: int = Field(default=0, ge=0)
    """So many, the last of the training set; 0: nothing is watched."""
    every: int = Field(default=10, ge=1)
    """Updates between two looks, of which the first is before training."""
    samples: int = Field(default=8, ge=1)
    """Completions of each problem."""
    tolerance: float = Field(default=0.05, ge=0)
    """Loss of specific agreement that is not yet bad."""
    patience: int = Field(default=2, ge=0)
    """Bad looks in a row after which training stops; 0: never."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of groups of rollouts: [G][K], None where there is none, and the one that stands for each [G][K]."""

    given: list[list[str | None]]
    stands_for: list[list[str | None]]

    def majorities(self) -> list[str | None]:
        """[G]: each group's commonest; of equally common ones that which was sampled first, None without any answer.

        (An order of the texts would itself be a signal: where most groups are ties it pays for answers that begin alike.)
        """
        counts = [Counter(vote for vote in votes if vote is not None) for votes in self.stands_for]
        return [max(one, key=one.__getitem__) if one else None for one in counts]

    def with_majority(self) -> list[list[bool]]:
        """[G][K]: whether each is its group's commonest."""
        pairs = zip(self.stands_for, self.majorities(), strict=True)
        return [[vote is not None and vote == winner for vote in votes] for votes, winner in pairs]

    def specific_agreement(self) -> float:
        """Share of answers that are their own problem's commonest, less the share that are another problem's.

        Agreement alone rises to 1 where a policy comes to answer every problem alike; this falls to 0.
        """
        winners = self.majorities()
        problems = Counter(winner for winner in winners if winner is not None)
        agreeing = float(np.mean([agrees for group in self.with_majority() for agrees in group]))
        elsewhere = [
            float(np.mean([0 if vote is None else problems[vote] - (vote == winner) for vote in votes]))
            for votes, winner in zip(self.stands_for, winners, strict=True)
        ]
        return agreeing - float(np.mean(elsewhere)) / max(1, len(winners) - 1)


def answers_of(groups: Sequence[RolloutGroup]) -> Answers:
    """Equal answers are one, as the math grader has it; a rollout that was cut off has none."""
    given = [
        [(final_answer(rollout.text) or None) if rollout.finish_reason == "stop" else None for rollout in group.rollouts]
        for group in groups
    ]
    spelling = merge({str(g): [one for one in own if one] for g, own in enumerate(given)}, same_answers)
    stands_for = [[spelling[str(g)][one] if one else None for one in own] for g, own in enumerate(given)]
    return Answers(given, stands_for)


def repetition(token_ids: np.ndarray) -> float:
    """Share of a completion's pieces of `NGRAM` tokens that were there before in it."""
    pieces = [tuple(token_ids[i : i + NGRAM].tolist()) for i in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(pieces)) / len(pieces) if pieces else 0.0


def batch_view(groups: Sequence[RolloutGroup], answers: Answers, paid: Sequence[np.ndarray]) -> Metrics:
    """Of a batch: mean signal of the rollouts that have one (`paid` [T], NaN where a token has none), share of
    rollouts that agree with their group's majority, and with it alone, different answers of a group, and repetition."""
    scored = [own[~np.isnan(own)] for own in paid]
    earned = [float(own.mean()) for own in scored if len(own)]
    return {
        "signal": float(np.mean(earned)) if earned else float("nan"),
        "agreement": float(np.mean([agrees for own in answers.with_majority() for agrees in own])),
        "specific_agreement": answers.specific_agreement(),
        "different_answers": float(np.mean([len(set(own) - {None}) for own in answers.stands_for])),
        "repetition": float(np.mean([repetition(rollout.token_ids) for group in groups for rollout in group.rollouts])),
    }


class AnswerLog:
    """The answers of every update, one file each: a resumed run writes those that it repeats anew."""

    FOLDER = "answers"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.FOLDER

    def write(self, step: int, groups: Sequence[RolloutGroup], answers: Answers, *, watched: bool = False) -> None:
        """Of the batch of update `step` (from 1), or of the problems watched after so many updates."""
        rows = [{"problem_id": group.problem.id, "answers": own} for group, own in zip(groups, answers.given, strict=True)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._file(step, watched), lambda file: file.write(text.encode()))

    def read(self, step: int, *, watched: bool = False) -> Iterator[tuple[str, list[str | None]]]:
        """(problem, its answers) of an update, nothing where none were written."""
        path = self._file(step, watched)
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                yield row["problem_id"], row["answers"]

    def _file(self, step: int, watched: bool) -> Path:
        return self.folder / f"{'watched' if watched else 'batch'}-{step:05d}.jsonl"


class Watch:
    """Looks at the watched problems every so many updates, with the same random streams every time."""

    def __init__(
        self, collector: Collector, problems: Sequence[Problem], config: WatchConfig, seed: int, log: AnswerLog
    ) -> None:
        self.collector, self.problems, self.config, self.log = collector, tuple(problems), config, log
        self.seed = seed_for(seed, "watch")
        self.looks: list[tuple[float, float]] = []

    def look(self, step: int, paid_for: PaidFor) -> Metrics:
        """After `step` updates: what `batch_view` gives, and `stop`, 1 once the rule says so; nothing between looks."""
        if step % self.config.every:
            return {}
        groups = self.collector.groups(self.problems, self.config.samples, self.seed)
        answers = answers_of(groups)
        self.log.write(step, groups, answers, watched=True)
        view = batch_view(groups, answers, paid_for(groups))
        self.looks.append((view["signal"], view["specific_agreement"]))
        lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
        return {**view, "length_mean": float(np.mean(lengths)), "stop": float(self.stops)}

    @property
    def stops(self) -> bool:
        """Whether the last `patience` looks were bad."""
        return 0 < self.config.patience <= bad_looks(self.looks, self.config.tolerance)

    def state(self) -> dict[str, Any]:
        return {"looks": [list(look) for look in self.looks], "rollouts": self.collector.budget.rollouts} | {
            "generated_tokens": self.collector.budget.generated_tokens
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.looks = [(signal, agreement) for signal, agreement in state["looks"]]
        self.collector.budget = Budget(rollouts=state["rollouts"], generated_tokens=state["generated_tokens"])


def bad_looks(looks: Sequence[tuple[float, float]], tolerance: float) -> int:
    """How many of (signal, specific agreement) at the end are bad in a row, each against the best agreement before it."""
    count = 0
    for i, (signal, agreement) in enumerate(looks):
        best = max(looks[: i + 1], key=lambda look: look[1])
        bad = signal > best[0] and agreement < best[1] - tolerance
        count = count + 1 if bad else 0
    return count
