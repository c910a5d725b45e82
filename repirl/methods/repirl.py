"""rePIRL (arXiv 2602.07832): a token-level PRM learned by inverse RL from demonstrations, trained with the policy.

Equations and settings: docs/method.md sections 2-5; every choice the paper leaves open is a named option of `IRLConfig` and
of the credit rule. Recipes: `tiny` for the embedded default, `paper-*` with the paper's settings for the named base models.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from repirl.engines.loading import policy_dir
from repirl.errors import UserError
from repirl.learn.credit_config import SequenceCredit
from repirl.learn.inverse_rl import InverseRL
from repirl.learn.irl import IRLConfig
from repirl.learn.reward_fitting import RewardFitting
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.fitting import energy_model, fit_reward, reward_contract
from repirl.methods.offline import OfflinePool, PoolConfig
from repirl.methods.rl import RLConfig, check_temperature, fit_policy, paper_data, paper_loop, tiny_data, tiny_process_loop
from repirl.rewards.energy import load_energy
from repirl.tasks.training_sets import TrainingSet, load_training_set


class OfflineConfig(PoolConfig):
    """Fitting the reward before the policy moves, on graded rollouts of the starting policy or of a file."""

    updates: int = Field(default=0, ge=0)
    """0: there is no such phase."""
    prompts_per_update: int = Field(default=12, ge=1)
    """Prompts of the pool in each of its updates."""


class RePIRLConfig(RLConfig):
    """The loop's configuration and that of inverse RL."""

    irl: IRLConfig = IRLConfig()
    offline: OfflineConfig = OfflineConfig()
    pool: str | None = None
    """A file of graded rollouts (rollouts/stored.py): the reward is fitted on it, `offline.updates` times, and nothing else."""
    reward: str | None = None
    """Folder of a reward that this method fitted for the same base: training starts from it."""
    frozen: bool = False
    """The reward stays as it is while the policy is trained."""

    @model_validator(mode="after")
    def _is_of_one_temperature(self) -> Self:
        is_against_sampler = self.irl.form == "logistic" and self.irl.reference == "sampler"
        check_temperature(self.loop, is_against_sampler, "irl.reference=sampler")
        return self


def _paper(outcome_to_process: float, *, chat: bool) -> RePIRLConfig:
    """Table 3: PRM lr 3e-8, gradient clip 10, four demonstrations a problem, outcome : PRM = 1 : 0.05 or 0.1."""
    return RePIRLConfig(
        data=paper_data(),
        loop=paper_loop(SequenceCredit(process_weight=outcome_to_process), chat=chat),
        irl=IRLConfig(
            weights="sequence",
            normalize="batch",
            objective="mean",
            positive_denominator="rollouts",
            lr=3e-8,
            max_grad_norm=10.0,
            demos_per_prompt=4,
            max_demo_tokens=3000,
        ),
    )


class RePIRL(Method[RePIRLConfig]):
    """Inverse RL with importance weights; failed rollouts are negatives, correct ones pseudo-experts."""

    name = "repirl"
    title = "rePIRL"
    source = "arXiv 2602.07832 (ICML 2026)"
    status = "method of this project; paper recipes are the published settings, not yet run at that size"
    needs = frozenset({"rollouts", "outcomes", "demonstrations"})
    yields = ("policy", "reward")
    level = "token"
    recipes = {
        "tiny": RePIRLConfig(
            data=tiny_data(),
            loop=tiny_process_loop(),
            irl=IRLConfig(
                form="logistic",
                factors="steps",
                balance=True,
                base_measure=1.0,
                demos_per_prompt=1,
                step_aggregation="min",
                score="before",
                lr=5e-5,
                head_lr=1e-3,
                max_grad_norm=1.0,
                micro_batch_tokens=2048,
            ),
            # Chains of 2 to 6 operations have both outcomes for more prompts than the levels of training, and are shorter.
            offline=OfflineConfig(updates=80, levels=(2, 3, 4, 5, 6)),
        ),
        "paper-qwen2.5-3b": _paper(0.05, chat=True),
        "paper-qwen3-4b": _paper(0.1, chat=False),
    }

    def fit(self, context: FitContext, config: RePIRLConfig) -> Fitted:
        """First the reward alone, if there is an offline phase (in `offline/`), then PRM and policy updates in turn.

        Leaves `policy/` and `reward/` in the run folder; with `pool` a reward alone.
        """
        if config.irl.base is not None:
            policy_dir(config.irl.base)  # a mistake is to be seen before anything is sampled
        if config.pool is not None:
            return self._fit_reward(context, config)
        data = load_training_set(config.data, with_demonstrations=context.gives("demonstrations"))
        if config.irl.demos_per_prompt > 0 and not any(data.demonstrations.values()):
            raise UserError(
                "no demonstrations to learn a reward from",
                config.data.source,
                "give problems with `demonstrations`, or set irl.demos_per_prompt=0 to learn from correct rollouts alone",
            )
        if config.offline.updates == 0:
            return self._fit_policy(context, config, config.reward)
        first = self._fit_reward(context.part("offline"), config)
        return self._fit_policy(context, config, str(first.reward_folder)).after(first)

    def _fit_reward(self, context: FitContext, config: RePIRLConfig) -> Fitted:
        """The offline phase. Rollouts that are sampled for it stay in the folder, as `pool.jsonl`."""
        offline = config.offline
        if offline.updates == 0:
            raise UserError(
                "a pool is given, and the reward is fitted 0 times on it", "offline.updates=0", "set offline.updates"
            )
        pool = OfflinePool(context, config.data, offline, config.loop.sampling, config.pool)

        def make_learner() -> RewardFitting:
            groups = pool.groups()
            reward = self._reward(context, config, pool.data, config.reward)
            return RewardFitting(reward, groups, offline.prompts_per_update, context.seed, pool.cost(groups))

        return fit_reward(context, config, make_learner, method=self.name, data=pool.data, steps=offline.updates)

    def _fit_policy(self, context: FitContext, config: RePIRLConfig, start: str | None) -> Fitted:
        learning = config.model_copy(update={"irl": config.irl.model_copy(update={"epochs": 0})}) if config.frozen else config

        def make_reward(data: TrainingSet) -> InverseRL:
            return self._reward(context, learning, data, start)

        return fit_policy(context, config, make_reward, method=self.name)

    def _reward(self, context: FitContext, config: RePIRLConfig, data: TrainingSet, start: str | None) -> InverseRL:
        """The learner of the reward, as new or from the folder `start`."""
        policy = context.policy
        contract = reward_contract(
            context, config, "energy", self.name, config.data, config.loop.sampling, data.digest, config.irl.step_aggregation
        )
        irl = config.irl
        model = energy_model(context, base=irl.base, layers=irl.layers, base_measure=irl.base_measure)
        base = None
        if start is not None:
            base = copy.deepcopy(model)
            load_energy(model, Path(start).expanduser(), policy.digest)
        return InverseRL(model, policy.tokenizer, config.irl, contract, base)
