"""What step classifiers share: a pool with labels of its steps, the classifier fitted to them, and RL with it, frozen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.files import read_lines
from repirl.learn.gradient import row_logprobs
from repirl.learn.step_classifier import LabelledSteps, StepClassifier, StepClassifierConfig, StepFitting
from repirl.learn.updater import OptimConfig
from repirl.methods.base import FitContext, Fitted
from repirl.methods.fitting import energy_model, fit_reward, reward_contract
from repirl.methods.offline import OfflinePool, PoolConfig
from repirl.methods.rl import RLConfig, check_temperature, fit_policy, tiny_data, tiny_process_loop
from repirl.paths import replace_file
from repirl.rewards.aggregate import Aggregation
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import EnergyReward, load_energy_model
from repirl.rewards.nulls import exact_step_labels
from repirl.rollouts.monte_carlo import SteppedRollout, stepped
from repirl.rollouts.packing import TokenRow, padding_id
from repirl.rollouts.solutions import solution_group
from repirl.rollouts.steps import StepSegmentation, step_end_tokens
from repirl.tasks.step_labels import StepFormat, read_labelled
from repirl.tasks.training_sets import TrainingSet, has_step_checker
from repirl.types import Budget

Labels = Sequence[tuple[float | None, ...]]


class StepLabelsConfig(RLConfig):
    """The loop's configuration, what is labelled, and the classifier's."""

    offline: PoolConfig = PoolConfig()
    classifier: StepClassifierConfig = StepClassifierConfig()
    step_aggregation: Aggregation = "last"
    """From the scores of a step's tokens to the step's: `last` for classifiers read at the last token."""

    @model_validator(mode="after")
    def _is_read_where_it_is_fitted(self) -> Self:
        if self.classifier.logit == "last" and self.step_aggregation != "last":
            raise ValueError("classifier.logit=last fits a step's last token alone: set step_aggregation=last")
        check_temperature(self.loop, self.classifier.logit == "sum", "classifier.logit=sum")
        return self


def tiny_step_labels(kind: type[Any], lr: float, *, problems: int = 500, samples: int = 8, **own: Any) -> Any:
    """A `tiny` recipe: rePIRL's pool, parameters of the reward and credit, with labels of steps in place of outcomes.

    As there, what is fitted is a sum over the step's tokens of r - log pi, and what is read is the step's least r.
    """
    classifier = StepClassifierConfig(
        logit="sum",
        base_measure=1.0,
        balance=True,
        head_lr=1e-3,
        optim=OptimConfig(lr=lr, warmup_steps=10, schedule="linear", micro_batch_tokens=2048),
    )
    return kind(
        data=tiny_data(),
        loop=tiny_process_loop(),
        offline=PoolConfig(levels=(2, 3, 4, 5, 6), problems=problems, samples=samples),
        classifier=classifier,
        step_aggregation="min",
        **own,
    )


def fit_step_labels(
    context: FitContext,
    config: StepLabelsConfig,
    label: Callable[[FitContext, Sequence[SteppedRollout]], tuple[Labels, Budget]],
    *,
    method: str,
    kind: type[EnergyReward] = EnergyReward,
) -> Fitted:
    """The classifier in `prm/`, then RL with it, read as a `kind` of reward; leaves `policy/` and `reward/`.

    `label` gives the labels of a pool's rollouts and what they cost; they are kept in `prm/labels.jsonl`, as the pool is.
    """
    first = _fit_classifier(context.part("prm"), config, label, method, has_threshold=kind is EnergyReward)
    folder = first.reward_folder
    assert folder is not None, "a fitted reward has a folder"
    tokenizer, segmentation = context.policy.tokenizer, StepSegmentation(config.data.step_separator)
    model = load_energy_model(folder, next(context.policy.model.parameters()).device)
    reward = kind(model, tokenizer, segmentation, config.step_aggregation)
    return fit_policy(context, config, lambda data: reward, method=method).after(first)


def _fit_classifier(
    context: FitContext,
    config: StepLabelsConfig,
    label: Callable[[FitContext, Sequence[SteppedRollout]], tuple[Labels, Budget]],
    method: str,
    *,
    has_threshold: bool,
) -> Fitted:
    policy, settings = context.policy, config.classifier
    pool = OfflinePool(context, config.data, config.offline, config.loop.sampling, None)
    segmentation = StepSegmentation(config.data.step_separator)

    def make_learner() -> StepFitting:
        groups = pool.groups()
        rollouts = stepped(groups, policy.tokenizer, segmentation)
        labels, cost = _kept_labels(context.folder / "labels.jsonl", rollouts, lambda: label(context, rollouts))
        rows = labelled_rows(rollouts, labels)
        contract = _contract(context, config, method, pool.data.digest, has_threshold=has_threshold)
        model = energy_model(context, layers=settings.layers, base_measure=settings.base_measure)
        classifier = StepClassifier(model, policy.tokenizer, settings, contract, settings.steps)
        known = all(has_step_checker(one.group.problem) for one in rollouts)
        told = label_quality(labels, exact_labels(rollouts)) if known else {}
        return StepFitting(classifier, rows, context.seed, pool.cost(groups) + cost, told)

    return fit_reward(context, config, make_learner, method=method, data=pool.data, steps=settings.steps)


def fit_labels_file(
    context: FitContext, config: StepLabelsConfig, file: Path, step_format: StepFormat | None, method: str
) -> Fitted:
    """The classifier alone, on labelled solutions of a file (`tasks/step_labels.py`); leaves `reward/`.

    A solution that is too long for the policy's context, or in which a token holds text of two steps, is left out and counted
    (`data/left out`). UserError for a bad file, or if none is left.
    """
    policy, settings = context.policy, config.classifier
    solutions = read_labelled(file, step_format)
    segmentation, chat = StepSegmentation(config.data.step_separator), config.loop.sampling.chat_template
    digest = digest_of(list(read_lines(file)))
    contract = _contract(context, config, method, digest, has_threshold=True)
    groups = [
        solution_group(one, policy.tokenizer, segmentation, chat=chat, suffix=contract.prompt_suffix) for one in solutions
    ]
    ends = [step_end_tokens(policy.tokenizer, g.rollouts[0].token_ids, segmentation, g.rollouts[0].text) for g in groups]
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    rows = [TokenRow(group.rollouts[0].prompt_ids, group.rollouts[0].token_ids) for group in groups]
    long = [len(row) > limit for row in rows]
    spanned = [not is_long and len(own) < len(one.steps) for is_long, own, one in zip(long, ends, solutions, strict=True)]
    left_out = {"labelled solutions, too long": sum(long), "labelled solutions, a token spans two steps": sum(spanned)}
    kept = [i for i in range(len(rows)) if not long[i] and not spanned[i]]
    if not kept:
        raise UserError("no labelled solution fits into the policy's context", f"{len(rows)} in {file.name}", "give others")
    data = TrainingSet((), (), {}, digest, left_out={kind: count for kind, count in left_out.items() if count})

    def make_learner() -> StepFitting:
        own = [rows[i] for i in kept]
        scored = row_logprobs(policy.model, own, pad_id=padding_id(policy.tokenizer)) if settings.logit == "sum" else None
        logprobs = [np.zeros(len(row.response_ids)) for row in own] if scored is None else [one.numpy() for one in scored]
        labelled = [
            LabelledSteps(row, given, tuple(ends[i].tolist()), solutions[i].labels)
            for i, row, given in zip(kept, own, logprobs, strict=True)
        ]
        model = energy_model(context, layers=settings.layers, base_measure=settings.base_measure)
        classifier = StepClassifier(model, policy.tokenizer, settings, contract, settings.steps)
        spent = Budget(scored_tokens=0 if scored is None else sum(map(len, own)))
        return StepFitting(classifier, labelled, context.seed, spent)

    return fit_reward(context, config, make_learner, method=method, data=data, steps=settings.steps)


def _contract(
    context: FitContext, config: StepLabelsConfig, method: str, data_digest: str, *, has_threshold: bool
) -> RewardContract:
    """The logit at a step's last token is that of "right": below 0 is wrong. A sum of r - log pi is not what is scored."""
    is_logit = (config.classifier.logit, config.step_aggregation) == ("last", "last")
    threshold = 0.0 if has_threshold and is_logit else None
    sampling, how = config.loop.sampling, config.step_aggregation
    return reward_contract(context, config, "energy", method, config.data, sampling, data_digest, how, threshold)


def labelled_rows(rollouts: Sequence[SteppedRollout], labels: Labels) -> list[LabelledSteps]:
    """What a classifier learns from."""
    return [
        LabelledSteps(TokenRow(one.rollout.prompt_ids, one.rollout.token_ids), one.rollout.logprobs, one.ends, own)
        for one, own in zip(rollouts, labels, strict=True)
    ]


def _kept_labels(
    file: Path, rollouts: Sequence[SteppedRollout], make: Callable[[], tuple[Labels, Budget]]
) -> tuple[Labels, Budget]:
    """Labels of the file, or made and written there: first a line of what they cost, then one for each rollout."""
    if not file.is_file():
        labels, cost = make()
        lines = [{name: value for name, value in asdict(cost).items() if value}, *map(list, labels)]
        replace_file(file, lambda out: out.write("".join(json.dumps(line) + "\n" for line in lines).encode()))
    cost, *labels = (json.loads(line) for line in read_lines(file))
    if [len(one) for one in labels] != [len(one.ends) for one in rollouts]:
        raise UserError("the labels are not those of the pool beside them", str(file), "delete both to make them again")
    return [tuple(one) for one in labels], Budget(**cost)


def exact_labels(rollouts: Sequence[SteppedRollout]) -> Labels:
    """1 for right steps, 0 for the first wrong one, None behind it."""
    found = []
    for one in rollouts:
        right = exact_step_labels(one.group.problem, one.rollout, len(one.ends))
        alive = right.index(False) + 1 if False in right else len(right)
        found.append((*map(float, right[:alive]), *(None,) * (len(right) - alive)))
    return found


def label_quality(labels: Labels, exact: Labels) -> dict[str, float]:
    """Share of labelled steps on whose side of 1/2 the exact label is; and so for right and for wrong steps alone.

    Steps without either label are left out; what has no step is not among the numbers.
    """
    pairs = [
        (own >= 0.5, true >= 0.5)
        for row, known in zip(labels, exact, strict=True)
        for own, true in zip(row, known, strict=True)
        if own is not None and true is not None
    ]
    found = {"agree": [own == true for own, true in pairs]}
    for name, side in (("right", True), ("wrong", False)):
        found[f"agree_{name}"] = [own == true for own, true in pairs if true == side]
    return {name: float(np.mean(values)) for name, values in found.items() if values}
