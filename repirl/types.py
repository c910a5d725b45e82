"""The nouns that pass between rooms. Frozen; `None` means *not measured*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

AnswersGiven = Literal["none", "right", "wrong"]
"""What test-time training is told: nothing; the answers; or, for each problem, the answer of another (a control)."""
Outcome = Literal["correct", "wrong", "truncated", "ungraded"]
FinishReason = Literal["stop", "length"]
Metrics = dict[str, Any]
"""Numbers of one training step by name; what was not measured is not in it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One hidden test: call arguments and the expected value, or stdin and stdout."""

    args: tuple[Any, ...] = ()
    expected: Any = None
    stdin: str = ""
    stdout: str = ""


@dataclass(frozen=True, slots=True)
class CodeTests:
    """Hidden tests of a programming problem.

    `functional`: call `entry_point(*case.args)` and compare with `case.expected`.
    `stdio`: feed `case.stdin`, compare what is printed with `case.stdout`.
    `asserts`: run `code` (assert statements) after the program.
    `prelude` is put before every program: imports that its harness gives, or the text that it continues.
    `time_limit_s` of CPU for each case (`asserts`: for all of them) and `memory_limit_mib` are those of the source
    benchmark; None: the sandbox's.
    `float_tolerance` is relative (0.0: equal exactly). None: 1e-6 for an expected float of `functional`; `stdio`
    compares text, and numbers by their exact decimal value.
    """

    kind: Literal["functional", "stdio", "asserts"]
    entry_point: str = ""
    cases: tuple[Case, ...] = ()
    code: str = ""
    prelude: str = ""
    time_limit_s: int | None = None
    memory_limit_mib: int | None = None
    float_tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt and how an answer to it is graded.

    `id` is unique within `family`. `prompt` is the text given to the policy, before any chat template.
    `source` is what the problem is about in its own terms (the bare expression, the description).
    `grader` "task" is that of the benchmark itself (a task of lm-eval), which holds it.
    """

    id: str
    family: str
    prompt: str
    grader: Literal["math", "integer", "code", "task"]
    answer: str | None = None
    tests: CodeTests | None = None
    level: int | None = None
    subject: str | None = None
    source: str = ""

    def without_labels(self) -> Problem:
        """The same problem with answer and tests physically removed (docs/design.md rule 9)."""
        return replace(self, answer=None, tests=None)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An expert's solution of a problem. `source` names the expert and its phrasing."""

    problem_id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a grader says of one completion: never silently wrong (docs/design.md rule 1).

    `reason` is set for `ungraded` (timeout, crash, ...) and may explain a `wrong`.
    `extracted` is the answer found in the completion, if any; `score` the fraction of tests passed (code).
    `seconds` is what running a program took, by the clock; it says nothing of the verdict, so it is not compared.
    """

    outcome: Outcome
    reason: str = ""
    extracted: str | None = None
    score: float | None = None
    tests_passed: int | None = None
    tests_total: int | None = None
    seconds: float | None = field(default=None, compare=False)

    @property
    def reward(self) -> float:
        """1.0 if correct, 0.0 if wrong or truncated, NaN if ungraded (to be masked, not punished)."""
        if self.outcome == "ungraded":
            return float("nan")
        return 1.0 if self.outcome == "correct" else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One sampled completion.

    `token_ids` int64 [T] are the generated tokens, a final EOS included; `logprobs` float32 [T] their
    log-probabilities under the distribution sampled from (temperature included, docs/design.md rule 2).
    `text` is the decoded completion without EOS. `finish_reason` is `length` when the token limit cut it.
    `policy_version` counts the changes of the policy's weights before it was sampled; None where no policy of ours sampled it.
    """

    problem_id: str
    sample_index: int
    prompt_ids: tuple[int, ...]
    token_ids: np.ndarray
    logprobs: np.ndarray
    text: str
    finish_reason: FinishReason
    temperature: float
    policy_version: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run consumed (docs/design.md rule 6). Tokens count completions and prompts as each line says."""

    policy_updates: int = 0
    rollouts: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    trained_tokens: int = 0
    demonstrations: int = 0
    grader_calls: int = 0
    wall_s: float = 0.0

    def __add__(self, other: Budget) -> Budget:
        return Budget(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with a confidence interval; `level` 0.95 unless said otherwise."""

    value: float
    low: float | None = None
    high: float | None = None
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One graded completion, as stored in a run's per-sample file.

    `steps_right`: whether every step is, where the problem's family has an exact checker; None where it has none.
    """

    problem_id: str
    sample_index: int
    outcome: Outcome
    reason: str
    extracted: str | None
    num_tokens: int
    text: str
    level: int | None = None
    subject: str | None = None
    steps_right: bool | None = None


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One step-labelled solution as a process reward judged it, enough to compute every number again.

    `scores` [S] None: the solution could not be scored. Indices of first errors count from 0; -1: there is none. `cluster`
    tells which solutions are resampled together.
    """

    id: str
    subset: str
    threshold: float
    scores: tuple[float, ...] | None
    labels: tuple[float | None, ...]
    first_error_index: int
    predicted_first_error: int
    cluster: str


@dataclass(frozen=True, slots=True)
class ScaledRow:
    """A problem's n samples as one process reward scored them, enough to choose among them again (`evals.scaling`).

    `correct` [n] 1.0, 0.0; `votes` [n] number of the answer among the problem's (None: no answer), empty where answers cannot
    be compared; `lengths` [n] in tokens; `scores` [n] step scores, None where it has none. Ungraded samples are left out.
    """

    problem_id: str
    correct: tuple[float, ...]
    votes: tuple[int | None, ...]
    lengths: tuple[float, ...]
    scores: tuple[tuple[float, ...] | None, ...]
    n: int | None = None
    """Of the search that ended with them; None: they were sampled."""


@dataclass(frozen=True, slots=True)
class AttackedRow:
    """An attack on one solution of which the result is not right (`evals.attacks`).

    `lift`: the attack's score less the solution's own, in standard deviations of the scores of all solutions; `above_right`:
    whether it scores above the mean right solution of its problem, None where there is none.
    """

    problem_id: str
    attack: str
    lift: float
    above_right: bool | None


@dataclass(frozen=True, slots=True)
class OtherExtraction:
    """The metrics of the same samples with their answers found in the other way."""

    extraction: str
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Report:
    """One policy on one benchmark under one protocol.

    `metrics` maps a name (`greedy`, `avg@8`) to its interval; `counts` has correct, wrong, truncated,
    ungraded and total for each protocol part and adds up; `by_level` and `by_subject` map metric -> level or subject
    -> value. `problems_measured` maps a metric to the number of problems behind it (fewer where some are ungraded).
    `other_extraction` is there where it makes a difference.
    """

    benchmark: str
    card_digest: str
    data_digest: str
    protocol: Mapping[str, Any]
    metrics: Mapping[str, Interval]
    counts: Mapping[str, Mapping[str, int]]
    samples: Mapping[str, tuple[SampleRow, ...]]
    by_level: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    by_subject: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    problems_measured: Mapping[str, int] = field(default_factory=dict)
    other_extraction: OtherExtraction | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StepRewards:
    """Process rewards of one rollout of T tokens and S steps.

    `token_rewards` float32 [T]; `step_ends` int64 [S] the last token of each step; `step_rewards` float32 [S];
    `step_mask` bool [S] False where a step carries no reward (after the first error, for exact checkers).
    `token_mask` bool [T] False where a token carries none and has reward 0 (all but the ends, for rewards of steps alone);
    None: all have one.
    """

    token_rewards: np.ndarray
    step_ends: np.ndarray
    step_rewards: np.ndarray
    step_mask: np.ndarray
    token_mask: np.ndarray | None = None

    @property
    def mean(self) -> float:
        """Of the rewards of the tokens that carry one; NaN if none does: the rollout was not scored."""
        scored = self.token_rewards if self.token_mask is None else self.token_rewards[self.token_mask]
        return float(scored.mean()) if len(scored) else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """All rollouts of one problem in one batch, graded, with the problem's demonstrations (possibly none).

    ValueError if they are of several versions of the policy: each is a baseline for the others.
    """

    problem: Problem
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]
    demonstrations: tuple[Demonstration, ...] = ()

    def __post_init__(self) -> None:
        versions = {rollout.policy_version for rollout in self.rollouts}
        if len(versions) > 1:
            raise ValueError(f"a group of rollouts by several versions of the policy: {versions}")


Scored = list[list[StepRewards]]
"""Process rewards of a batch: of every rollout, group by group."""
