"""RL-Tango (Zha et al., arXiv 2505.15034): a verifier that writes its judgements is trained by RL, in turn with the policy.

The verifier judges every step and the solution in words; it is paid for the final verdict alone, and the form
(`learn/written_verifier.py`). A step of a rollout earns +-1 / S by its verdict; the advantage is (1 - alpha) outcome + alpha
process, both standardised in the group, alpha falling exponentially from 0.1 to 0.001 (docs/recipes.md B8). One verifier
update for three of the policy's, and verifier updates before that.

Deviations: the verifier warms up on a pool of rollouts of the starting policy; steps are lines instead of tags, and found in
the policy's own tokens instead of by encoding the text again; outcomes are standardised with 1e-4 (published 1e-6); the share
of wrong form is our reading of "penalties for missing or mismatched counts". In `tiny` the verifier is taught the form first
(its base follows no instructions), both rates are higher, and there is no KL penalty.
"""

import copy
from dataclasses import replace

from repirl.engines.loading import load_policy
from repirl.learn.credit_config import AlphaCredit
from repirl.learn.policy_losses import KLPenalty, PolicyLossConfig
from repirl.learn.policy_update import PolicyOptimConfig
from repirl.learn.written_verifier import VerifierConfig, VerifierFitting, WrittenVerifier
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.fitting import fit_reward, reward_contract
from repirl.methods.offline import OfflinePool, PoolConfig
from repirl.methods.rl import RLConfig, fit_policy, paper_data, paper_loop, tiny_data, tiny_loop
from repirl.rewards.artifact import WrittenTerms
from repirl.rewards.written import KIND, RIGHT_FROM
from repirl.tasks.training_sets import TrainingSet

CREDIT = AlphaCredit()


class TangoConfig(RLConfig):
    """The loop's configuration, the pool's and the verifier's."""

    offline: PoolConfig = PoolConfig()
    verifier: VerifierConfig = VerifierConfig()


def _paper(*, chat: bool) -> TangoConfig:
    loss = PolicyLossConfig(entropy_weight=0.001, kl=KLPenalty(weight=0.001))
    optim = PolicyOptimConfig(lr=1e-6, mini_batches=1, micro_batch_tokens=8192, loss=loss)
    verifier = VerifierConfig(prompts=64, optim=optim, written=WrittenTerms(chat=chat))
    offline = PoolConfig(problems=2560, samples=4)
    loop = paper_loop(CREDIT, chat=chat)
    sampling = loop.sampling.model_copy(update={"group_size": 5})
    own = loop.optim.model_copy(update={"lr": 1e-6, "loss": loss})
    loop = loop.model_copy(update={"sampling": sampling, "optim": own})
    return TangoConfig(data=paper_data(), loop=loop, offline=offline, verifier=verifier)


class RLTango(Method[TangoConfig]):
    """Verifier and policy by RL, in turn."""

    name = "rl_tango"
    title = "RL-Tango"
    source = "arXiv 2505.15034"
    status = "rewards and advantages agree with the closed form; rate of the tiny recipe searched; not run at the paper's size"
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "step"
    recipes = {
        "tiny": TangoConfig(
            data=tiny_data(),
            loop=tiny_loop(CREDIT),
            offline=PoolConfig(levels=(2, 3, 4, 5, 6)),
            verifier=VerifierConfig(
                written=WrittenTerms(style="marks", chat=False, max_new_tokens=32),
                form_updates=80,
                prompts=16,
                form_lr=3e-4,
                optim=PolicyOptimConfig(lr=3e-5, micro_batch_tokens=2048, loss=PolicyLossConfig(entropy_weight=0.001)),
            ),
        ),
        "paper-qwen2.5-3b": _paper(chat=True),
        "paper-qwen3-4b": _paper(chat=False),
    }

    def fit(self, context: FitContext, config: TangoConfig) -> Fitted:
        """The verifier's own updates (in `verifier/`), then both in turn; leaves `policy/` and `reward/` in the run folder."""
        settings = config.verifier
        alone = settings.form_updates + settings.warmup
        if alone == 0:
            return self._in_turn(context, config, None)
        part = context.part("verifier")
        pool = OfflinePool(part, config.data, config.offline, config.loop.sampling, None)

        def make_learner() -> VerifierFitting:
            groups = pool.groups()
            return VerifierFitting(self._verifier(part, config, pool.data, None, settings.warmup), groups, pool.cost(groups))

        first = fit_reward(part, config, make_learner, method=self.name, data=pool.data, steps=alone)
        return self._in_turn(context, config, first).after(first)

    def _in_turn(self, context: FitContext, config: TangoConfig, first: Fitted | None) -> Fitted:
        updates = config.loop.steps // config.verifier.every
        make_reward = lambda data: self._verifier(context, config, data, first, updates)
        return fit_policy(context, config, make_reward, method=self.name)

    def _verifier(
        self, context: FitContext, config: TangoConfig, data: TrainingSet, first: Fitted | None, updates: int
    ) -> WrittenVerifier:
        """As the starting policy, or as its first phase left it. Its KL penalty is from there."""
        policy, settings = context.policy, config.verifier
        model = copy.deepcopy(policy.model)
        if first is not None:
            assert first.reward_folder is not None, "a fitted reward has a folder"
            model = load_policy(first.reward_folder, device=context.runtime.device).model
        sampling = config.loop.sampling
        contract = reward_contract(context, config, KIND, self.name, config.data, sampling, data.digest, "last", RIGHT_FROM)
        reference = None if settings.optim.loss.kl is None else copy.deepcopy(model).requires_grad_(False).eval()
        engine = context.engine(replace(policy, model=model))
        return WrittenVerifier(model, engine, policy.tokenizer, settings, contract, context.seed, updates, reference)
