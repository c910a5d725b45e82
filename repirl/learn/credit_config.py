"""How credit is given, in settings: one class for each rule, with the settings that act under it alone."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from repirl.config import Config
from repirl.learn.advantages import OutcomeAdvantage


class CreditBase(Config):
    """What all rules share."""

    fraction_of_tests: bool = False
    """A wrong program earns the fraction of its tests that passed as its outcome reward, not 0."""
    outcome_weight: float = Field(default=1.0, ge=0)
    """Of the outcome's advantage."""
    whiten: bool = False
    """Shift and scale the summed advantages to mean 0 and unbiased variance 1 over the batch's tokens (PRIME); tokens of
    ungraded rollouts neither count nor move."""


class LeaveOneOutCredit(CreditBase):
    """What all leave-one-out rules share: how the outcome is paid."""

    outcome: OutcomeAdvantage = "rloo"
    """How outcomes are centred in their group. `rloo`: less the mean of the others; `grpo`: less the group's mean, over its
    deviation; `grpo_no_std`: less the group's mean."""


class OutcomeCredit(LeaveOneOutCredit):
    """The outcome alone, on every token of the completion."""

    rule: Literal["outcome"] = "outcome"
    """The name of this rule."""


OUTCOME_ALONE = OutcomeCredit()


class ProcessCredit(LeaveOneOutCredit):
    """Outcome and process reward; the rules below differ in how token and step rewards become advantages."""

    process_weight: float = Field(gt=0)
    """Of the process reward's advantage."""
    process_scale: Literal["none", "batch_std"] = "none"
    """`batch_std` divides the process advantages by their root mean square over all tokens of the batch."""
    process_starts: float = Field(default=0.0, ge=0, lt=1)
    """Share of training during which the process part is left out (the process reward learns already)."""
    process_ends: float | None = Field(default=None, gt=0)
    """From its start the process weight falls linearly, to 0 at this share of training (above 1: it does not get there);
    None: it stays as it is."""

    @model_validator(mode="after")
    def _starts_before_it_ends(self) -> Self:
        if self.process_ends is not None and self.process_ends <= self.process_starts:
            raise ValueError("process_ends must lie behind process_starts")
        return self

    def scheduled(self) -> list[str]:
        return [name for name in ("process_starts", "process_ends") if getattr(self, name)]

    def process_share(self, done: float) -> float:
        """The part of `process_weight` that is paid when the share `done` of training lies behind."""
        if done < self.process_starts:
            return 0.0
        if self.process_ends is None:
            return 1.0
        return max(0.0, 1 - (done - self.process_starts) / (self.process_ends - self.process_starts))


class SequenceCredit(ProcessCredit):
    """The mean process reward of the rollout's tokens against that of the others, on every token."""

    rule: Literal["sequence"] = "sequence"
    """The name of this rule."""


class ReturnToGoCredit(ProcessCredit):
    """The centred return-to-go of the process rewards at every token."""

    rule: Literal["return_to_go"] = "return_to_go"
    """The name of this rule."""


class StepCredit(ProcessCredit):
    """Each step's reward against that of the other rollouts at the same step."""

    rule: Literal["step"] = "step"
    """The name of this rule."""
    signal: Literal["score", "progress", "rank", "right"] = "score"
    """What a step is paid: its score; the change of the score since the step before (a potential difference); the score's
    rank among all steps of the batch, in 0..1, which has no scale and no heavy tail; or 1 unless the step is doubtful."""
    doubtful: Literal["share", "outcome"] = "share"
    """Which steps count as doubtful: those whose score is among the lowest `doubtful_share` of the batch's steps; or those
    below the score that as many rollouts stay above with all their steps as are correct (so it needs outcomes). A rollout
    earns process credit only up to its first doubtful step: what follows a mistake continues from a wrong state."""
    doubtful_share: float = Field(default=0.0, ge=0, lt=1)
    """0: every step earns."""

    @model_validator(mode="after")
    def _right_needs_doubt(self) -> Self:
        if self.signal == "right" and self.doubtful == "share" and not self.doubtful_share:
            raise ValueError("signal=right pays what is not doubtful: set doubtful=outcome or a doubtful_share")
        return self


class MinFormCredit(ProcessCredit):
    """The worst step of a rollout against that of the others, as a return-to-go (PURE)."""

    rule: Literal["min_form"] = "min_form"
    """The name of this rule."""
    temperature: float = Field(default=0.1, gt=0)
    """Of the softmax over the steps; towards 0 the return is the lowest step reward."""


class AlphaCredit(LeaveOneOutCredit):
    """(1 - alpha) outcome + alpha process, with steps standardised in the group, and alpha falling exponentially (RL-Tango)."""

    rule: Literal["alpha"] = "alpha"
    """The name of this rule."""
    outcome: OutcomeAdvantage = "grpo"
    """As above; RL-Tango standardises."""
    alpha: float = Field(default=0.1, gt=0, le=1)
    """The process rewards' part at the start."""
    alpha_end: float = Field(default=1e-3, gt=0, le=1)
    """At the end of training."""

    def scheduled(self) -> list[str]:
        return [] if self.alpha_end == self.alpha else ["alpha_end"]

    def alpha_at(self, done: float) -> float:
        """When the share `done` of training lies behind."""
        return self.alpha * (self.alpha_end / self.alpha) ** done


class ValueConfig(Config):
    """The value function of `gae` and how it learns: a copy of the starting policy with a head of zeros."""

    lr: float = Field(default=1e-5, gt=0)
    """AdamW's rate, constant."""
    head_lr: float | None = Field(default=None, gt=0)
    """None: `lr`."""
    epochs: int = Field(default=1, ge=1)
    """Passes over each batch."""
    clip: float | None = Field(default=0.5, gt=0)
    """A value that moves further than this from what it was when the batch was sampled has no gradient that draws it on."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is above."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens that go through the model at a time; changes no result."""


class GAECredit(CreditBase):
    """PPO: generalised advantage estimation with a learned value function, in place of the group's other rollouts.

    The outcome is paid at the last token; process rewards at their tokens.
    """

    rule: Literal["gae"] = "gae"
    """The name of this rule."""
    process_weight: float = Field(default=0.0, ge=0)
    """Of the process rewards among the rewards; 0: the outcome alone."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of a token."""
    lam: float = Field(default=1.0, ge=0, le=1)
    """Between the one-step advantage (0) and the whole return (1)."""
    value: ValueConfig = ValueConfig()


CreditConfig = Annotated[
    OutcomeCredit | SequenceCredit | ReturnToGoCredit | StepCredit | MinFormCredit | AlphaCredit | GAECredit,
    Field(discriminator="rule"),
]

PER_TOKEN_RULES = ("return_to_go", "step", "min_form", "alpha", "gae")
"""Rules under which the tokens of one completion have different advantages."""
