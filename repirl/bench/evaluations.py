"""What a suite measures of its runs: policies on benchmarks, process rewards on labelled steps, in choosing, in search, under
attack."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from repirl.config import Config
from repirl.evals.approaches import APPROACHES, SearchConfig
from repirl.grading.math.grader import Extraction
from repirl.rewards.aggregate import Aggregation


class _Evaluation(Config):
    benchmark: str
    of: tuple[str, ...] | None = None
    """Labels of the runs that it is made of; None: all that it can be of."""
    device: str | None = None
    """None: that of training."""


class _Sampled(_Evaluation):
    """How a policy is sampled on a benchmark; settings by the names of `EvalProtocol`."""

    limit: int | None = Field(default=None, ge=1)
    chat_template: bool = False
    extraction: Extraction = "strict"
    max_new_tokens: int | None = Field(default=None, ge=1)
    """None: what the benchmark says."""

    def sampling(self, seed: int) -> dict[str, Any]:
        """What it says of sampling, by the names of `EvalProtocol`."""
        said = self.model_dump(mode="json", exclude={"kind", "benchmark", "device", "of", "metrics"})
        if self.max_new_tokens is None:
            del said["max_new_tokens"]
        return {**said, "seed": seed}


class PolicyEvaluation(_Sampled):
    """One benchmark, for runs that leave a policy."""

    kind: Literal["policy"] = "policy"
    samples: int = Field(default=8, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    greedy: bool = True
    metrics: tuple[str, ...] = ()
    """Besides those that follow from the samples: names as in `evals.metrics`, such as `maj@64`."""

    @property
    def title(self) -> str:
        return f"benchmark {self.benchmark}"


class JudgeEvaluation(Config):
    """One step-labelled set, for runs that leave a process reward or pay one of the named ones. See `repirl judge`."""

    kind: Literal["judge"]
    set: str
    limit: int | None = Field(default=None, ge=1)
    threshold: str | None = None
    """`tuned`, `prmbench` or `fixed:VALUE`; None: the reward's own if it has one, else tuned."""
    step_format: str | None = None
    """Of a file; None: told by its keys."""
    prompt_suffix: str | None = None
    """Text after each problem; None: as in the reward's training."""
    solver: str = "tiny"
    """The policy whose sampled solutions make up `arith` and `arith_long`."""
    of: tuple[str, ...] | None = None
    """Labels of the runs that it is made of; None: all that it can be of."""
    device: str | None = None
    """None: that of training."""

    @property
    def benchmark(self) -> str:
        """The set: what its numbers are of."""
        return self.set

    @property
    def title(self) -> str:
        return f"judge {self.set}"

    def protocol(self, seed: int) -> dict[str, Any]:
        """What it says of judging; `seed` is that of what is sampled or drawn, the same for all runs."""
        return {**self.model_dump(mode="json", exclude={"kind", "set", "device", "of"}), "seed": seed}


class ScaleEvaluation(_Sampled):
    """Samples of the policy that the runs start from, among which each run's process reward chooses. See `repirl scale`.

    The seed of its sampling is the same for all runs.
    """

    kind: Literal["scale"]
    samples: int = Field(default=16, ge=1)
    temperature: float = Field(default=0.8, gt=0)
    greedy: Literal[False] = False

    @property
    def title(self) -> str:
        return f"scale {self.benchmark}"

    def protocol(self, seed: int) -> dict[str, Any]:
        return self.sampling(seed)


class SearchEvaluation(_Evaluation):
    """A search with the policy that the runs start from, steered by each run's process reward. See `repirl scale --approach`.

    Its seed is the same for all runs.
    """

    kind: Literal["search"]
    approach: str
    numbers: tuple[int, ...] = Field(min_length=1)
    """n of each search."""
    limit: int | None = Field(default=None, ge=1)
    chat_template: bool = False
    extraction: Extraction = "strict"
    settings: dict[str, Any] = {}
    """Of the search, by the names of `SearchConfig`."""

    @property
    def title(self) -> str:
        return f"{self.approach} {self.benchmark}"

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.approach not in APPROACHES:
            raise ValueError(f"no such approach; there are {', '.join(APPROACHES)}")
        self.configs(0, 1)
        return self

    def configs(self, seed: int, longest: int) -> list[SearchConfig]:
        """Of each n; `longest`: tokens of a solution where the settings do not say it."""
        common = {"max_new_tokens": longest, **self.settings, "approach": self.approach, "seed": seed}
        return [SearchConfig.model_validate({**common, "n": n}) for n in self.numbers]

    def protocol(self, seed: int) -> dict[str, Any]:
        """All that it says, settings that it leaves out included; the token limit only where it is said."""
        said = self.configs(seed, 1)[0].model_dump(mode="json", exclude={"n"})
        if "max_new_tokens" not in self.settings:
            del said["max_new_tokens"]
        own = self.model_dump(mode="json", exclude={"kind", "benchmark", "device", "of", "settings", "approach"})
        return {**own, **said}


class AttackEvaluation(_Evaluation):
    """Changed solutions of the policy that the runs start from: what raises each run's process reward without making them
    right. See `repirl attack`; the solutions are the same for all runs, and prompts are plain (no chat template)."""

    kind: Literal["attack"]
    samples: int = Field(default=8, ge=1)
    """Completions of each problem at temperature 1."""
    attacked: int = Field(default=2, ge=1)
    """Of them, right and wrong ones."""
    aggregation: Aggregation = "mean"
    rounds: int = Field(default=16, ge=1)
    """Of the search over tokens."""
    limit: int | None = Field(default=64, ge=1)

    @property
    def title(self) -> str:
        return f"attack {self.benchmark}"

    def protocol(self, seed: int) -> dict[str, Any]:
        return {**self.model_dump(mode="json", exclude={"kind", "benchmark", "device", "of"}), "seed": seed}


RewardEvaluation = JudgeEvaluation | ScaleEvaluation | SearchEvaluation | AttackEvaluation


def _kind(value: Any) -> Any:
    return value.get("kind", "policy") if isinstance(value, dict) else getattr(value, "kind", None)


SuiteEvaluation = Annotated[
    Annotated[PolicyEvaluation, Tag("policy")]
    | Annotated[JudgeEvaluation, Tag("judge")]
    | Annotated[ScaleEvaluation, Tag("scale")]
    | Annotated[SearchEvaluation, Tag("search")]
    | Annotated[AttackEvaluation, Tag("attack")],
    Discriminator(
        _kind,
        custom_error_type="evaluation_kind",
        custom_error_message="no such kind of evaluation; there are policy, judge, scale, search and attack",
    ),
]
