"""Training on hard problems: those that the policy fails in each of n samples before training starts (`--problems hard`).

Sampling them is paid by the run: its budget counts it. What was found is kept in the run folder, so that a resumed run goes on
with the same problems.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import Field

from repirl.config import Config, digest_of
from repirl.errors import UserError
from repirl.grading.dispatch import check_ungraded
from repirl.learn.checkpoint import write_json
from repirl.methods.base import FitContext
from repirl.rng import seed_for
from repirl.rollouts.collect import Collector, SamplingConfig
from repirl.tasks.training_sets import TrainingSet
from repirl.types import Budget

FILE = "hard.json"
_AT_A_TIME = 64
"""Problems."""


class HardConfig(Config):
    """Of the training problems only those that the policy, as RL starts from it, fails in every one of `samples`. The grader
    chooses them, whatever the method may learn from (as in validation)."""

    samples: int = Field(default=16, ge=1)
    """Completions of each problem, sampled as in training."""
    seed: int = 0
    """Of these samples; the same for all seeds of a run."""


def only_hard(
    context: FitContext, data: TrainingSet, config: HardConfig, sampling: SamplingConfig
) -> tuple[TrainingSet, Budget]:
    """The set with its hard problems alone, and what finding them cost; validation problems stay as they are.

    A sample that was cut off is a failure; a problem of which one could not be graded is left out. UserError if no problem is
    hard; GradingFault as in evaluation.
    """
    asked = {**config.model_dump(), "policy": context.policy.digest, "data": data.digest, "sampling": sampling.model_dump()}
    asked |= context.runtime.sampler
    path = context.folder / FILE
    found = _read(path, json.loads(json.dumps(asked)))
    if found is None:
        found = {"asked": asked, **_sampled(context, data, config, sampling)}
        context.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    hard = set(found["hard"])
    if not hard:
        todo = "give harder problems, or fewer samples"
        raise UserError(f"no problem is hard: each is solved in {config.samples} samples", len(data.problems), todo)
    kept = tuple(problem for problem in data.problems if problem.id in hard)
    left_out = {**data.left_out, f"solved in {config.samples} samples": len(data.problems) - len(kept)}
    return replace(data, problems=kept, digest=digest_of([data.digest, sorted(hard)]), left_out=left_out), Budget(
        **found["budget"]
    )


def _read(path: Path, asked: object) -> dict | None:
    """What was found before, if it was of the same policy, problems and samples."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    return found if found["asked"] == asked else None


def _sampled(context: FitContext, data: TrainingSet, config: HardConfig, sampling: SamplingConfig) -> dict[str, object]:
    collector = Collector(context.policy.tokenizer, context.engine(), context.grader, sampling.decoding)
    seed, hard, verdicts = seed_for(config.seed, "hard"), [], []
    for start in range(0, len(data.problems), _AT_A_TIME):
        for group in collector.groups(data.problems[start : start + _AT_A_TIME], config.samples, seed):
            verdicts += group.verdicts
            if all(verdict.outcome in ("wrong", "truncated") for verdict in group.verdicts):
                hard.append(group.problem.id)
    check_ungraded(verdicts)
    return {"hard": hard, "problems": len(data.problems), "budget": asdict(collector.budget)}
