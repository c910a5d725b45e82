"""SFT, then RLOO: a warm start on the demonstrations before RL on outcomes (`SFT+RLOO` of docs/method.md section 6).

Both phases have the same training set (`--problems hard` chooses among it for the second alone, by what the warm start
fails), sampler and validation; the first one's folder is `sft/`, and the method costs what both cost. The warm start hands on
its best checkpoint by validation: imitating another writer's style costs accuracy before it gains any, and the untouched
start is one of the checkpoints.
"""

from pydantic import Field

from repirl.config import Config
from repirl.learn.policy_gradient import LoopConfig
from repirl.learn.updater import OptimConfig
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.cloning import BCConfig, clone
from repirl.methods.rl import RLConfig, fit_policy, paper_data, paper_loop, tiny_data, tiny_loop
from repirl.tasks.training_sets import TrainingSetConfig


class WarmStart(Config):
    """Updates on demonstrations."""

    steps: int = Field(ge=1)
    """Updates on demonstrations."""
    optim: OptimConfig


class SFTRLOOConfig(RLConfig):
    """Those of RLOO, and the warm start's."""

    sft: WarmStart


def _recipe(data: TrainingSetConfig, loop: LoopConfig, lr: float) -> SFTRLOOConfig:
    return SFTRLOOConfig(data=data, loop=loop, sft=WarmStart(steps=loop.steps, optim=OptimConfig(lr=lr)))


class SFTRLOO(Method[SFTRLOOConfig]):
    """Imitate the demonstrations, then learn from outcomes."""

    name = "sft_rloo"
    title = "SFT, then RLOO"
    source = "settings of arXiv 2602.07832"
    status = "rate of the tiny recipe searched; paper recipe not yet run at that size"
    needs = frozenset({"rollouts", "outcomes", "demonstrations"})
    level = "outcome"
    recipes = {
        "tiny": _recipe(tiny_data(), tiny_loop(), 3e-4),
        "paper-qwen2.5-3b": _recipe(paper_data(), paper_loop(chat=True), 1e-5),
        "paper-qwen3-4b": _recipe(paper_data(), paper_loop(chat=False), 1e-5),
    }

    def fit(self, context: FitContext, config: SFTRLOOConfig) -> Fitted:
        """First `sft/`, then RLOO from the policy that it left, which is the result."""
        loop = config.loop
        best = loop.validation.model_copy(update={"select": "best"})
        warm = BCConfig(data=config.data, sampling=loop.sampling, validation=best, **dict(config.sft))
        first = clone(context.part("sft"), warm, method=f"{self.name}, sft")
        after = context.part(".", first)
        return fit_policy(after, config, lambda data: None, method=self.name).after(first)
