"""Process advantage verifiers (Setlur et al., arXiv 2410.08146): a step is paid the change of a prover's chance of success.

V(prefix) is the share of a *prover*'s continuations that are right; a model learns it by cross-entropy against these soft
labels, at the last token of each step, and step h earns outcome + weight (V_h - V_{h-1}): its advantage under the prover, not
the value itself, which would pay for being where one was already. V before the first step is the same for all rollouts.

Deviations of `tiny`: the prover is the starting policy (published: best-of-K of it, or another policy: `prover`), N = 4, and
the change is centred on the group's other rollouts at the same step, as all step rewards here.
"""

from collections.abc import Sequence

from torch import Tensor

from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.learn.credit_config import StepCredit
from repirl.learn.step_classifier import StepClassifierConfig
from repirl.learn.updater import OptimConfig
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.offline import PoolConfig
from repirl.methods.rl import tiny_data, tiny_loop
from repirl.methods.step_labels import Labels, StepLabelsConfig, fit_step_labels
from repirl.rewards.energy import EnergyReward
from repirl.rollouts.collect import Collector
from repirl.rollouts.monte_carlo import MonteCarloConfig, SteppedRollout, monte_carlo_labels
from repirl.rollouts.packing import TokenBatch
from repirl.types import Budget

SOFT = MonteCarloConfig(continuations=4, label="soft")


class PAVConfig(StepLabelsConfig):
    """Those of step classifiers, and whose success is estimated."""

    monte_carlo: MonteCarloConfig = SOFT
    prover: str | None = None
    """A policy (embedded name, folder or hub id) of the same tokenizer; None: the starting policy."""


class Value(EnergyReward):
    """The chance of success that the classifier's logit says."""

    def per_token(self, batch: TokenBatch) -> Tensor:
        return super().per_token(batch).sigmoid()


class PAV(Method[PAVConfig]):
    """Pay for progress under a prover."""

    name = "pav"
    title = "process advantage"
    source = "arXiv 2410.08146"
    status = (
        "labels, loss and progress agree with the closed form; rate of the tiny recipe searched; not run at the paper's size"
    )
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "step"
    recipes = {
        "tiny": PAVConfig(
            data=tiny_data(),
            loop=tiny_loop(StepCredit(process_weight=1.0, signal="progress")),
            offline=PoolConfig(levels=(2, 3, 4, 5, 6), problems=250, samples=4),
            classifier=StepClassifierConfig(
                head_lr=1e-3, optim=OptimConfig(lr=3e-5, warmup_steps=10, schedule="linear", micro_batch_tokens=2048)
            ),
        )
    }

    def fit(self, context: FitContext, config: PAVConfig) -> Fitted:
        """Values of prefixes, a model of them, policy; leaves `policy/` and `reward/` in the run folder."""

        def label(part: FitContext, rollouts: Sequence[SteppedRollout]) -> tuple[Labels, Budget]:
            prover = part.policy if config.prover is None else load_policy(config.prover, device=part.runtime.device)
            if prover.tokenizer.get_vocab() != part.policy.tokenizer.get_vocab():
                what = "the prover reads other tokens than the policy writes"
                raise UserError(what, config.prover, "use one of this policy's tokenizer")
            grader = part.grader if part.gives("outcomes") else None
            collector = Collector(part.policy.tokenizer, part.engine(prover), grader, config.loop.sampling.decoding)
            return monte_carlo_labels(rollouts, collector, config.monte_carlo, part.seed), collector.budget

        return fit_step_labels(context, config, label, method=self.name, kind=Value)
