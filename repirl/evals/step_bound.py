"""What step labels would teach: the upper bound of a reward that learns from outcomes, with the same model and rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from repirl.engines.loading import LoadedPolicy
from repirl.learn.step_classifier import StepClassifier, StepFitting
from repirl.methods.step_labels import StepLabelsConfig, exact_labels, labelled_rows, tiny_step_labels
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import EnergyReward, energy_from_policy
from repirl.rollouts.monte_carlo import stepped
from repirl.rollouts.steps import StepSegmentation
from repirl.types import Budget, RolloutGroup

UPDATES, LR = 150, 1e-4


def supervised_reward(
    policy: LoadedPolicy, groups: Sequence[RolloutGroup], seed: int, on_update: Callable[[int], None] = lambda done: None
) -> EnergyReward:
    """A classifier as that of the method `supervised`, fitted to exact labels of the steps of these rollouts.

    UserError unless some are right and some are wrong.
    """
    config: StepLabelsConfig = tiny_step_labels(StepLabelsConfig, LR)
    contract = RewardContract(
        kind="energy",
        method="supervised",
        step_separator=config.data.step_separator,
        template="plain",
        step_aggregation=config.step_aggregation,
        base_digest=policy.digest,
        training_digest="",
    )
    rollouts = stepped(groups, policy.tokenizer, StepSegmentation(config.data.step_separator))
    settings = config.classifier
    model = energy_from_policy(policy.model, layers=settings.layers, base_measure=settings.base_measure)
    classifier = StepClassifier(model, policy.tokenizer, settings, contract, UPDATES)
    fitting = StepFitting(classifier, labelled_rows(rollouts, exact_labels(rollouts)), seed, Budget())
    for update in range(UPDATES):
        fitting.step(update)
        on_update(update + 1)
    return classifier.reward
