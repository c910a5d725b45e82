"""Outcome reward model: a score of whole solutions, pointwise or Bradley-Terry (docs/recipes.md B4), then RL with it.

Fitted to graded rollouts of the starting policy; a solution's score is read at its last real token (EOS of a finished one), at
explicit positions. In RL each rollout is paid sigmoid of its score beside the true outcome, against the group's others. Its
saved folder scores steps too (the same head at each step's last token), as outcome models are often read.
Deviations: the pool, rates and sizes are the testbed's.
"""

from repirl.config import Config
from repirl.learn.credit_config import SequenceCredit
from repirl.learn.outcome_model import OutcomeFitting, OutcomeModelConfig, OutcomeReward
from repirl.learn.updater import OptimConfig
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.fitting import energy_model, fit_reward, reward_contract
from repirl.methods.offline import OfflinePool, PoolConfig
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop
from repirl.rewards.energy import load_energy_model
from repirl.rollouts.steps import StepSegmentation


class OutcomeRMConfig(RLConfig):
    """The loop's configuration, the pool's and the model's."""

    offline: PoolConfig = PoolConfig()
    model: OutcomeModelConfig = OutcomeModelConfig()


def _tiny(loss: str) -> OutcomeRMConfig:
    optim = OptimConfig(lr=3e-4, warmup_steps=10, schedule="linear", micro_batch_tokens=2048)
    return OutcomeRMConfig(
        data=tiny_data(),
        loop=tiny_loop(SequenceCredit(process_weight=0.25, outcome_weight=0.5)),
        offline=PoolConfig(levels=(2, 3, 4, 5, 6)),
        model=OutcomeModelConfig.model_validate({"loss": loss, "head_lr": 1e-3, "optim": optim}),
    )


class OutcomeRM(Method[OutcomeRMConfig]):
    """Learn to tell right solutions from wrong ones."""

    name = "outcome_rm"
    title = "outcome reward model"
    source = "arXiv 2110.14168 (pointwise), arXiv 2203.02155 (pairs)"
    status = "losses agree with the closed form; settings of the tiny recipe searched; not run at the papers' size"
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "outcome"
    recipes: dict[str, Config] = {"tiny": _tiny("pointwise"), "tiny-pairs": _tiny("bradley_terry")}

    def fit(self, context: FitContext, config: OutcomeRMConfig) -> Fitted:
        """The model on a graded pool (in `orm/`), then the policy; leaves `policy/` and `reward/`."""
        part, policy = context.part("orm"), context.policy
        pool = OfflinePool(part, config.data, config.offline, config.loop.sampling, None)

        def make_learner() -> OutcomeFitting:
            groups = pool.groups()
            data = config.data
            contract = reward_contract(part, config, "energy", self.name, data, config.loop.sampling, pool.data.digest, "last")
            model = energy_model(context, layers=config.model.layers)
            return OutcomeFitting(model, policy.tokenizer, config.model, contract, groups, context.seed, pool.cost(groups))

        first = fit_reward(part, config, make_learner, method=self.name, data=pool.data, steps=config.model.steps)
        assert first.reward_folder is not None, "a fitted reward has a folder"
        model = load_energy_model(first.reward_folder, next(policy.model.parameters()).device)
        reward = OutcomeReward(model, policy.tokenizer, StepSegmentation(config.data.step_separator), "last")
        return fit_policy(context, config, lambda data: reward, method=self.name).after(first)
