"""Supervised: a step classifier fitted to labels of steps (the "Supervised" column of docs/method.md section 6), then RL.

Steps up to the first wrong one are labelled, by the exact checker of an embedded family; cross-entropy of each labelled step.
In `tiny` the classifier has the parameters, the pool and the credit of rePIRL's reward (the sum over a step of r - log pi is
fitted, the step's least r is read): what differs is that it is told which step was wrong, and that it stays as it is while
the policy moves. It is the upper bound of what outcomes can teach the same model of the starting policy's steps
(docs/design.md section 6).

`labels` names a file of labelled steps instead (PRM800K, Math-Shepherd, TRL or ProcessBench format, soft labels included): the
classifier alone is fitted to it. RL with what comes out is `repirl train repirl --set reward=FOLDER --set frozen=true`.
"""

from pathlib import Path

from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.step_labels import StepLabelsConfig, exact_labels, fit_labels_file, fit_step_labels, tiny_step_labels
from repirl.tasks.step_labels import StepFormat
from repirl.types import Budget


class SupervisedConfig(StepLabelsConfig):
    """Those of step classifiers, and where labels come from."""

    labels: str | None = None
    """A file of labelled steps: the classifier is fitted to it, and nothing else done. None: a pool with exact labels."""
    label_format: StepFormat | None = None
    """Of the file; None: told by its keys."""


class Supervised(Method[SupervisedConfig]):
    """Learn which steps are right from being told."""

    name = "supervised"
    title = "supervised step classifier"
    source = "arXiv 2305.20050 (PRM800K), with exact labels"
    status = "loss agrees with the closed form; rate of the tiny recipe searched; not run at the paper's size"
    needs = frozenset({"rollouts", "outcomes", "step labels"})
    yields = ("policy", "reward")
    level = "step"
    recipes = {"tiny": tiny_step_labels(SupervisedConfig, 3e-4)}

    def fit(self, context: FitContext, config: SupervisedConfig) -> Fitted:
        """The classifier on labelled steps, then (of exact labels) the policy; leaves `policy/` and `reward/`."""
        if config.labels is not None:
            return fit_labels_file(context, config, Path(config.labels).expanduser(), config.label_format, self.name)
        return fit_step_labels(context, config, lambda _, rollouts: (exact_labels(rollouts), Budget()), method=self.name)
