r"""Test-time training: RL on problems without answers (section 4.3 of arXiv 2602.07832; controls: docs/recipes.md B12, C3).

A completion's reward is a signal that needs no label, and `format_weight` times the paper's format reward (0 if it holds a
`\boxed{}`, else -1), against the group's other rollouts. Signals:

- `prm`: the mean token reward of a frozen process reward, `reward` (a folder that `repirl train` wrote, or a name);
- `majority`: 1 if the answer is the group's commonest, equal answers merged (TTRL, arXiv 2504.16084; ties go to the
  answer that was sampled first, as there; a group without any answer earns 0);
- `self_certainty`, `negative_entropy`: those of the method `intrinsic`, of the policy of the moment;
- `random`: 1 or 0 with probability 1/2, `format`: nothing but the format reward. Both are controls.

Every update's answers are written to `answers/`, and its metrics hold signal, agreement and repetition; the last
`watch.problems` problems are not trained on but watched, and stop a run whose signal rises while their specific agreement falls
(`learn.watching`). With `data.source=unlabelled` the problems have no answers in this process at all, and nothing is validated:
the last checkpoint is the result (`loop.validation.select`).
Deviation: TTRL draws 64 samples for the vote and learns from 32; here the group is both.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from repirl.errors import UserError
from repirl.grading.math.boxes import has_box
from repirl.learn.credit_config import SequenceCredit
from repirl.learn.watching import AnswerLog, Answers, Watch, WatchConfig, answers_of, batch_view
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.fitting import make_collector
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop
from repirl.rewards.base import Learned, StepReward
from repirl.rewards.intrinsic import CERTAINTIES, IntrinsicReward
from repirl.rewards.load import LoadOptions, load_reward, reward_on
from repirl.rng import stream
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks.training_sets import TrainingSet
from repirl.types import Budget, Rollout, RolloutGroup

Signal = Literal["prm", "majority", "self_certainty", "negative_entropy", "random", "format"]


class TestTimeConfig(RLConfig):
    """The loop's configuration, and what stands for the missing labels."""

    signal: Signal = "majority"
    """A frozen process reward, agreement with the majority, the policy's own certainty, a coin, or nothing."""
    reward: str | None = None
    """Of `prm`: a reward's folder or name."""
    format_weight: float = Field(default=1.0, ge=0)
    """Of the format reward: 0 with a box, else -1."""
    watch: WatchConfig = WatchConfig()
    """Problems beside those trained on, and when to stop."""


class TestTimeReward(StepReward):
    """A signal without labels on every token of a completion, and the format reward. `inner` gives the signals that are scores
    of tokens; the others are counted here. `log` and `watch` see every update (None: nothing is kept)."""

    name = "test-time"

    def __init__(
        self,
        tokenizer: Any,
        segmentation: StepSegmentation,
        config: TestTimeConfig,
        inner: StepReward | None,
        seed: int,
        log: AnswerLog | None = None,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(tokenizer, segmentation)
        self.config, self.inner, self.seed, self.log, self.watch = config, inner, seed, log, watch

    def token_scores(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """float64 [T] of every rollout; the mean over its tokens that have one (not NaN) is what it earns."""
        return self._paid(groups, answers_of(groups) if self.config.signal == "majority" else None)

    def learn(self, groups: Sequence[RolloutGroup], step: int) -> Learned:
        """Scores, and looks at what is there before update `step` + 1."""
        answers = answers_of(groups)
        paid = self._paid(groups, answers)
        metrics = batch_view(groups, answers, paid)
        if self.log is not None:
            self.log.write(step + 1, groups, answers)
        if self.watch is not None:
            looked = self.watch.look(step, self.token_scores)
            metrics |= {f"watch/{name}": value for name, value in looked.items()}
        self._count()
        return Learned(self.steps(groups, paid), metrics)

    def state(self) -> dict[str, Any]:
        return {
            "inner": None if self.inner is None else self.inner.state(),
            "watch": None if self.watch is None else self.watch.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        if self.inner is not None:
            self.inner.load_state(state["inner"])
        if self.watch is not None:
            self.watch.load_state(state["watch"])
        self._count()

    def _count(self) -> None:
        """What the reward that is asked, and watching, consumed so far."""
        spent = Budget() if self.inner is None else self.inner.budget
        self.budget = spent if self.watch is None else spent + self.watch.collector.budget

    def _paid(self, groups: Sequence[RolloutGroup], answers: Answers | None) -> list[np.ndarray]:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        signal = self._signal(groups, answers)
        weight = self.config.format_weight
        return [own - weight * (not has_box(rollout.text)) for own, rollout in zip(signal, rollouts, strict=True)]

    def _signal(self, groups: Sequence[RolloutGroup], answers: Answers | None) -> list[np.ndarray]:
        if self.inner is not None:
            return [one.astype(np.float64) for one in self.inner.token_scores(groups)]
        lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
        values = [0.0] * len(lengths)
        if self.config.signal == "majority" and answers is not None:
            values = [float(agrees) for own in answers.with_majority() for agrees in own]
        elif self.config.signal == "random":
            values = [self._coin(group, rollout) for group in groups for rollout in group.rollouts]
        return [np.full(length, value) for length, value in zip(lengths, values, strict=True)]

    def _coin(self, group: RolloutGroup, rollout: Rollout) -> float:
        return float(stream(self.seed, "coin", group.problem.id, rollout.token_ids.tolist()).integers(2))


class TestTime(Method[TestTimeConfig]):
    """RL on a signal that needs no label."""

    name = "test_time"
    title = "test-time training"
    source = "arXiv 2602.07832 section 4.3; arXiv 2504.16084 (majority)"
    status = "rewards agree with hand-made ones; rate of the tiny recipe chosen without answers; not run at the papers' size"
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
            separator, device = config.data.step_separator, context.runtime.device
            options = LoadOptions(str(context.policy.path), separator, context.seed, device=device)
            loaded = load_reward(config.reward, options)
            if loaded.tokenizer.get_vocab() != tokenizer.get_vocab():
                raise UserError(
                    "the reward reads other tokens than the policy writes", config.reward, "use one of this policy's"
                )
            make = partial(reward_on, config.reward, options)
            inner = context.resources.scorer(make, loaded.reward, context.runtime)
        log, watched = AnswerLog(context.folder), config.watch.problems

        def make_reward(data: TrainingSet) -> TestTimeReward:
            watch = None
            if watched:
                collector = make_collector(context, config.loop.sampling)
                watch = Watch(collector, data.problems[-watched:], config.watch, context.seed, log)
            return TestTimeReward(tokenizer, segmentation, config, inner, context.seed, log, watch)

        return fit_policy(
            context,
            config,
            make_reward,
            method=self.name,
            trained_on=lambda data: replace(data, problems=data.problems[: len(data.problems) - watched]),
            stop=lambda metrics: metrics.get("prm/watch/stop") == 1.0,
        )
