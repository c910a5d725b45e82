"""Methods whose reward learns from outcomes (or labels made of them) learn one on `arith`, from the shipped policy.

A short fit on easy chains, then held-out rollouts: within a problem right solutions must score above failed ones, by more than
all but 1% of 400 permutations of the outcomes within problems; a reward that was taught with every outcome turned round must do
worse. A solution is worth its lowest step.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from repirl.config import with_overrides
from repirl.engines.base import SamplingParams
from repirl.engines.loading import load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.grading.dispatch import grade_rollouts
from repirl.methods import step_labels
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rng import stream
from repirl.rollouts.collect import Collector, Decoding
from repirl.separation import grouped_auc
from repirl.tasks import arith
from repirl.types import RolloutGroup, Verdict

LEVELS = "[2,3]"
SHORT = {
    "data.levels": LEVELS,
    "data.num_problems": "200",
    "data.validation_problems": "8",
    "offline.levels": LEVELS,
    "offline.problems": "150",
    "offline.samples": "8",
    "loop.steps": "1",
    "loop.sampling.prompts_per_step": "8",
    "sampling.prompts_per_step": "12",
    "loop.validation.num_problems": "4",
    "loop.validation.samples": "1",
    "validation.num_problems": "4",
    "validation.samples": "1",
    "steps": "25",
    "offline.updates": "25",
    "model.steps": "25",
    "classifier.steps": "25",
    "monte_carlo.continuations": "4",
}
OFFLINE = ("dpo", "implicit_prm", "kto", "math_shepherd", "outcome_rm", "pav", "repirl", "supervised")
"""Methods with outcomes (or labels made of them) that learn before the policy moves."""


@pytest.fixture(scope="module")
def held_out() -> list[RolloutGroup]:
    policy = load_policy("tiny")
    decoding = Decoding(SamplingParams(96))
    collector = Collector(policy.tokenizer, TorchEngine(policy.model, policy.tokenizer), grade_rollouts, decoding)
    return collector.groups(arith.problems("test", 60, levels=(2, 3)), 8, 5)


def fitted(name: str, folder: Path, *more: str) -> Path:
    """The folder of the reward that a short run leaves."""
    method = load_method(name)
    recipe = method.recipe("tiny")
    known = json.dumps(recipe.model_dump(mode="json"))
    settings = [*more]
    for path, value in SHORT.items():
        node = json.loads(known)
        for part in path.split("."):
            node = node.get(part, KeyError) if isinstance(node, dict) else KeyError
        settings += [] if node is KeyError else [f"{path}={value}"]
    result = method.fit(FitContext(load_policy("tiny"), folder, 0), with_overrides(recipe, settings))
    assert result.reward_folder is not None
    return result.reward_folder


def told_apart(folder: Path, groups: list[RolloutGroup]) -> tuple[float, float]:
    """AUC within problems of the lowest step against the outcome, and the share of permutations that have as much."""
    scored = load_reward(str(folder), LoadOptions()).reward.score(groups)
    lowest = [float(one.step_rewards.min()) for group in scored for one in group]
    right = np.array([verdict.reward == 1 for group in groups for verdict in group.verdicts])
    where = np.array([g for g, group in enumerate(groups) for _ in group.rollouts])
    random = stream(0, "permutations")

    def permuted() -> np.ndarray:
        order = np.lexsort((random.random(len(where)), where))  # within each problem
        return right[order]

    value = lambda labels: grouped_auc(lowest, labels.astype(int).tolist(), where.tolist()) or 0.0
    found = value(right)
    return found, float(np.mean([value(permuted()) >= found for _ in range(400)]))


def turned_round(problems, completions, reasons) -> list[Verdict]:
    other = {"correct": Verdict("wrong"), "wrong": Verdict("correct"), "truncated": Verdict("correct")}
    return [other.get(verdict.outcome, verdict) for verdict in grade_rollouts(problems, completions, reasons)]


@pytest.mark.parametrize("name", OFFLINE)
def test_it_beats_chance_and_its_own_opposite(name: str, held_out, tmp_path: Path, monkeypatch) -> None:
    taught, p_value = told_apart(fitted(name, tmp_path / "taught"), held_out)
    assert p_value < 0.01, taught
    if name == "supervised":  # of exact labels, not of outcomes
        own = step_labels.exact_step_labels
        monkeypatch.setattr(step_labels, "exact_step_labels", lambda *given: [not right for right in own(*given)])
    else:
        monkeypatch.setattr("repirl.methods.runtime.grade_rollouts", turned_round)
    swapped, _ = told_apart(fitted(name, tmp_path / "swapped"), held_out)
    assert swapped < taught - 0.1, (taught, swapped)
