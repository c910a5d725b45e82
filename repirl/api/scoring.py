"""Process rewards from Python: `repirl score` without files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repirl.engines.loading import default_device
from repirl.errors import UserError
from repirl.evals.scored_solutions import ScoredSolution, score_given
from repirl.methods.registry import rewards_of
from repirl.rewards import load
from repirl.tasks.given_solutions import GivenSolution


@dataclass(frozen=True, slots=True, eq=False)
class Reward:
    """A frozen process reward. `loaded` is what the other rooms know it as.

    `threshold`: steps that score below it are suspected; None for a reward whose scores have no point that means wrong.
    `prompt_suffix`: text after each problem; None: as in the reward's training.
    """

    loaded: load.LoadedReward
    threshold: float | None
    prompt_suffix: str | None = None

    @property
    def name(self) -> str:
        """What it was asked for by."""
        return self.loaded.name

    @property
    def digest(self) -> str | None:
        """SHA-256 of config and weights; None for a reward without."""
        return self.loaded.digest

    @property
    def separator(self) -> str:
        """What ends a step."""
        return self.loaded.segmentation.separator

    def score(self, problem: str, solution: str | Sequence[str], *, finished: bool = True) -> ScoredSolution:
        """The scores of a solution, given as a text or as its steps; UserError, with the reason, where it has none.

        `finished`: it ended by itself, so that the end of the sequence is scored with its last step.
        """
        (found,) = self.score_many([(problem, solution)], finished=[finished])
        if found.reason:
            raise UserError("the solution cannot be scored", found.reason, "give another one, or use another reward")
        return found

    def score_many(
        self, solutions: Iterable[tuple[str, str | Sequence[str]]], *, finished: Sequence[bool] | None = None
    ) -> list[ScoredSolution]:
        """The scores of (problem, solution) pairs, in order; what cannot be scored has a `reason` in their place.

        Faster than one after the other. `finished` None: all are. UserError for a problem without text.
        """
        pairs = list(solutions)
        ended = [True] * len(pairs) if finished is None else finished
        given = []
        for i, ((problem, solution), end) in enumerate(zip(pairs, ended, strict=True)):
            if not problem.strip():
                raise UserError("a solution has no problem, which a reward reads first", i, "give its text")
            whole = isinstance(solution, str)
            steps = None if whole else tuple(step for step in solution if step.strip())
            given.append(GivenSolution(str(i), 0, problem, solution if whole else None, steps, end))
        return score_given(self.loaded, given, self.threshold, self.prompt_suffix)


def load_reward(
    name: str,
    *,
    threshold: float | None = None,
    separator: str = "\n\n",
    prompt_suffix: str | None = None,
    policy: str = "tiny",
    seed: int = 0,
    dtype: str = "float32",
    device: str | None = None,
    include: Sequence[str | Path] = (),
) -> Reward:
    """The process reward of a run folder, a published one (`FORMAT:FOLDER_OR_HUB_ID`), or `random`, `constant`, `length` or
    `confidence`, as `repirl score` takes it.

    `threshold` None: the reward's own, if its scores have a point that means wrong. `separator`, `policy` (its tokenizer, and
    the model of `confidence`) and `seed` are for rewards that have none of their own; `dtype` (float32, bfloat16, auto) is that
    of a policy or published model. `device` None: cuda if there is one. `include`: folders of files with further rewards.
    UserError for what is no reward, or cannot be loaded.
    """
    if name == "oracle":
        raise UserError("the oracle knows only arith problems, and these are texts", name, "score with another reward")
    custom = rewards_of([str(folder) for folder in include])
    options = load.LoadOptions(policy, separator, seed, dtype, device or default_device(), custom=custom)
    loaded = load.load_reward(name, options)
    return Reward(loaded, loaded.natural_threshold if threshold is None else threshold, prompt_suffix)
