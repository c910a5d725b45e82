r"""Test-time training: RL on problems without answers (section 4.3 of arXiv 2602.07832; controls: docs/recipes.md B12, C3).

A completion's reward is a signal that needs no label, and `format_weight` times the paper's format reward (0 if it holds a
`\boxed{}`, else -1), against the group's other rollouts. Signals:

- `prm`: the mean token reward of a frozen process reward, `reward` (a folder that `repirl train` wrote, or a name);
- `majority`: 1 if the answer is the group's commonest, equal answers merged (TTRL, arXiv 2504.16084; ties go to the answer that
  comes first in the order of its text, TTRL's to the first sampled; a group without any answer earns 0);
- `self_certainty`, `negative_entropy`: those of the method `intrinsic`, of the policy of the moment;
- `random`: 1 or 0 with probability 1/2, `format`: nothing but the format reward. Both are controls.

With `data.source=unlabelled` the problems have
no answers in this process at all, and nothing is validated: the last checkpoint is the result (`loop.validation.select`).
Deviation: TTRL draws 64 samples for the vote and learns from 32; here the group is both.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from repirl.errors import UserError
from repirl.evals.votes import merge, same_answers
from repirl.grading.math.boxes import has_box
from repirl.grading.math.extract import final_answer
from repirl.learn.credit_config import SequenceCredit
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop
from repirl.rewards.base import StepReward
from repirl.rewards.intrinsic import CERTAINTIES, IntrinsicReward
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rng import stream
from repirl.rollouts.steps import StepSegmentation
from repirl.types import Rollout, RolloutGroup

Signal = Literal["prm", "majority", "self_certainty", "negative_entropy", "random", "format"]


class TestTimeConfig(RLConfig):
    """The loop's configuration, and what stands for the missing labels."""

    signal: Signal = "majority"
    """A frozen process reward, agreement with the majority, the policy's own certainty, a coin, or nothing."""
    reward: str | None = None
    """Of `prm`: a reward's folder or name."""
    format_weight: float = Field(default=1.0, ge=0)
    """Of the format reward: 0 with a box, else -1."""


class TestTimeReward(StepReward):
    """A signal without labels on every token of a completion, and the format reward. `inner` gives the signals that are scores
    of tokens; the others are counted here."""

    name = "test-time"

    def __init__(
        self,
        tokenizer: Any,
        segmentation: StepSegmentation,
        config: TestTimeConfig,
        inner: StepReward | None,
        seed: int,
    ) -> None:
        super().__init__(tokenizer, segmentation)
        self.config, self.inner, self.seed = config, inner, seed

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """float64 [T] of every rollout; the mean over its tokens is what it earns."""
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        weight = self.config.format_weight
        return [own - weight * (not has_box(rollout.text)) for own, rollout in zip(self._signal(groups), rollouts, strict=True)]

    def _signal(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        if self.inner is not None:
            scores = self.inner.token_scores(groups)
            self.budget = self.inner.budget
            return [np.nan_to_num(one.astype(np.float64), nan=0.0) for one in scores]
        lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
        if self.config.signal == "majority":
            values = majority_rewards(groups)
        elif self.config.signal == "random":
            values = [self._coin(group, rollout) for group in groups for rollout in group.rollouts]
        else:
            values = [0.0] * len(lengths)
        return [np.full(length, value) for length, value in zip(lengths, values, strict=True)]

    def _coin(self, group: RolloutGroup, rollout: Rollout) -> float:
        return float(stream(self.seed, "coin", group.problem.id, rollout.token_ids.tolist()).integers(2))


def majority_rewards(groups: Sequence[RolloutGroup]) -> list[float]:
    """1.0 for each rollout whose answer is its group's commonest, else 0.0; one that was cut off has no answer."""
    answers = [
        [final_answer(rollout.text) if rollout.finish_reason == "stop" else None for rollout in group.rollouts]
        for group in groups
    ]
    given = {str(g): [answer for answer in own if answer] for g, own in enumerate(answers)}
    stands_for = merge(given, same_answers)
    found = []
    for g, own in enumerate(answers):
        votes = [stands_for[str(g)][answer] if answer else None for answer in own]
        counts = Counter(vote for vote in votes if vote is not None)
        winner = min(counts, key=lambda vote: (-counts[vote], vote)) if counts else None
        found += [float(vote is not None and vote == winner) for vote in votes]
    return found


class TestTime(Method[TestTimeConfig]):
    """RL on a signal that needs no label."""

    name = "test_time"
    title = "test-time training"
    source = "arXiv 2602.07832 section 4.3; arXiv 2504.16084 (majority)"
    status = "rewards agree with hand-made ones; settings of the tiny recipe not yet searched"
    needs = frozenset({"rollouts"})
    level = "token"
    recipes = {
        "tiny": TestTimeConfig(
            data=tiny_data(), loop=tiny_loop(SequenceCredit(process_weight=1.0, outcome_weight=0.0), lr=1e-4)
        ),
    }

    def fit(self, context: FitContext, config: TestTimeConfig) -> Fitted:
        """Run the loop on the signal; leaves `policy/`."""
        segmentation = StepSegmentation(config.data.step_separator)
        if (config.signal == "prm") != (config.reward is not None):
            raise UserError(
                "signal=prm and a reward belong together", str(config.reward), "set both signal=prm and reward=FOLDER"
            )
        tokenizer, inner = context.policy.tokenizer, None
        if config.signal in CERTAINTIES:
            inner = IntrinsicReward(context.policy.model, tokenizer, segmentation, config.signal)
        if config.reward is not None:
            loaded = load_reward(config.reward, LoadOptions(str(context.policy.path), config.data.step_separator, context.seed))
            if loaded.tokenizer.get_vocab() != tokenizer.get_vocab():
                raise UserError(
                    "the reward reads other tokens than the policy writes", config.reward, "use one of this policy's"
                )
            inner = loaded.reward
        reward = TestTimeReward(tokenizer, segmentation, config, inner, context.seed)
        return fit_policy(context, config, lambda data: reward, method=self.name)
