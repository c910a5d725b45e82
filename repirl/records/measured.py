"""What a record holds of each thing that was measured: policies, judged sets, scaling and search."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from repirl.evals.metrics import part_of
from repirl.records.bounds import Count, LiftInterval, PercentInterval, Share, ShareInterval, Spent

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Amount = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    # Propagates to the frozen dataclasses of `repirl.types` used as fields.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Counts(Strict):
    """Verdicts of one protocol part."""

    correct: Count
    wrong: Count
    truncated: Count
    ungraded: Count
    total: Count

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        parts = self.correct + self.wrong + self.truncated + self.ungraded
        if parts != self.total:
            raise ValueError(f"counts do not add up: {parts} verdicts, total {self.total}")
        return self


class EvaluationRecord(Strict):
    """One benchmark under one protocol; the rows are in `samples_file` beside the record."""

    benchmark: str
    card_digest: str
    data_digest: str
    protocol: dict[str, JsonValue]
    metrics: dict[str, ShareInterval]
    counts: dict[str, Counts]
    by_level: dict[str, dict[str, Share]]
    budget: Spent
    samples_file: FileName
    samples_sha256: Sha256

    @model_validator(mode="after")
    def _follows_from_samples(self) -> Self:
        for name in {*self.metrics, *self.by_level}:
            if part_of(name, self.counts) is None:
                raise ValueError(f"{name}: a metric without samples that it could follow from")
        return self


class JudgementRecord(Strict):
    """One process reward on one step-labelled set; the solutions as it judged them are in `rows_file` beside the record.

    `reward` is `fitted` or the name of a reward without an artifact, `reward_digest` that of its weights (None: it has none).
    `headline` is in percent: `F1` is the unweighted mean over subsets, `PRMScore` of all solutions. `protocol` is what was
    asked for, `threshold` what came of it. Solutions without scores count as wrong; `unscored` counts them by reason.
    """

    set: str
    kind: Literal["first_error", "steps"]
    metric: Literal["F1", "PRMScore"]
    data_digest: Sha256
    reward: str
    reward_digest: Sha256 | None
    protocol: dict[str, JsonValue]
    threshold: dict[str, JsonValue]
    headline: PercentInterval
    subsets: dict[str, dict[str, JsonValue]]
    similarity: dict[str, float]
    shortcuts: dict[str, float | None]
    notes: dict[str, Count]
    num_solutions: Count
    unscored: dict[str, Count]
    budget: Spent
    rows_file: FileName
    rows_sha256: Sha256


class OfReward(Strict):
    """What a process reward was measured by on a benchmark, with a policy: `protocol` says how, `policy_digest` with which
    weights; what the numbers follow from is in `rows_file`."""

    benchmark: str
    card_digest: str
    data_digest: str
    protocol: dict[str, JsonValue]
    policy_digest: Sha256
    reward: str
    reward_digest: Sha256 | None
    budget: Spent
    rows_file: FileName
    rows_sha256: Sha256


class ScalingRecord(OfReward):
    """Test-time scaling: one process reward choosing among samples of a policy; the scored samples are in `rows_file`.

    `curves`: selector (`best-of-N mean`, `majority`) -> N -> accuracy. `unscored` counts samples without scores by reason.
    """

    curves: dict[str, dict[str, ShareInterval]]
    counts: Counts
    unscored: dict[str, Count]


class SearchedPoint(Strict):
    """A search with n solutions that grow at a time: accuracy by what chooses among those that it ended with; of a problem
    the number of these, and its tokens by the names of `SearchCost`."""

    accuracy: dict[str, ShareInterval]
    left_out: Count
    solutions: Amount
    tokens: dict[str, Amount]
    counts: Counts


class SearchRecord(OfReward):
    """Search with a policy, steered by one process reward; the solutions that it ended with are in `rows_file`.

    `points` by n; `parameters`: how many policy and reward have.
    """

    points: dict[str, SearchedPoint]
    parameters: dict[str, Count]


class AttackLift(Strict):
    """One attack: `Lift` of `evals.attacks`, in standard deviations and shares."""

    attacked: Count
    lift: LiftInterval | None
    raised: ShareInterval | None
    above_right: ShareInterval | None
    still_right: Count
    unscored: Count


class AttackRecord(OfReward):
    """What raises one process reward without making solutions right; the attacks are in `rows_file`.

    `lifts` by attack, over changes of `solutions`, of which `right` are right.
    """

    solutions: Count
    right: Count
    lifts: dict[str, AttackLift]


class CurveFile(Strict):
    """The log of training, one JSON object a step, gzipped, beside the record."""

    file: FileName
    sha256: Sha256
