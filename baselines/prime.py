"""PRIME: an implicit process reward that learns online, with the policy (Cui et al., arXiv 2502.01456; docs/recipes.md B2).

r(s_t, a_t) = log pi_phi(a_t | s_t) - log pi_ref(a_t | s_t), with pi_phi and pi_ref copies of the starting policy; after each
batch pi_phi is trained by cross-entropy of sigmoid(beta sum_t r) against the outcome. Credit: leave-one-out per source, summed,
returns whitened over the batch (`return_to_go` with `whiten`; its oracle is B2 item 10). Every convention in which the two
public implementations differ is an option: when it learns, the last token, the scale, the reference.

Deviations: of a program, filter and credit take right or wrong as the outcome, where the original takes the share of ten
tests (`loop.credit.fraction_of_tests` and `prm.soft_labels` do, the filter does not); groups outside of the filter are left
out, and no further ones are sampled in their place; the norm is taken over the whole batch, where the original takes it over
each worker's share; the reward is saved against the starting policy.
"""

from typing import Self

from pydantic import model_validator

from repirl.learn.credit_config import ReturnToGoCredit
from repirl.learn.online_implicit import ImplicitUpdate, OnlineImplicit
from repirl.learn.policy_gradient import LoopConfig
from repirl.learn.updater import OptimConfig
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.fitting import reward_contract
from repirl.methods.rl import RLConfig, check_temperature, fit_policy, paper_data, paper_loop, tiny_data, tiny_loop
from repirl.rewards import implicit
from repirl.rollouts.collect import KeepConfig
from repirl.tasks.training_sets import TrainingSet

CREDIT = ReturnToGoCredit(process_weight=1.0, whiten=True)


class PRIMEConfig(RLConfig):
    """The loop's configuration and the reward's."""

    prm: ImplicitUpdate = ImplicitUpdate()

    @model_validator(mode="after")
    def _is_of_one_temperature(self) -> Self:
        check_temperature(self.loop, self.prm.reference == "sampler", "prm.reference=sampler")
        return self


def _filtered(loop: LoopConfig) -> LoopConfig:
    keep = KeepConfig(accuracy=(0.2, 0.8))
    return loop.model_copy(update={"sampling": loop.sampling.model_copy(update={"keep": keep})})


class PRIME(Method[PRIMEConfig]):
    """A reward from outcomes, learned with the policy."""

    name = "prime"
    title = "PRIME"
    source = "arXiv 2502.01456"
    status = (
        "advantages, norm and loss agree with the closed form; rates of the tiny recipe searched; not run at the paper's size"
    )
    needs = frozenset({"rollouts", "outcomes"})
    yields = ("policy", "reward")
    level = "token"
    recipes = {
        "tiny": PRIMEConfig(
            data=tiny_data(),
            loop=_filtered(tiny_loop(CREDIT, lr=1e-4)),
            prm=ImplicitUpdate(optim=OptimConfig(lr=3e-5, max_grad_norm=10.0, micro_batch_tokens=2048)),
        ),
        "paper-qwen2.5-3b": PRIMEConfig(data=paper_data(), loop=_filtered(paper_loop(CREDIT, chat=True))),
        "paper-qwen3-4b": PRIMEConfig(data=paper_data(), loop=_filtered(paper_loop(CREDIT, chat=False))),
    }

    def fit(self, context: FitContext, config: PRIMEConfig) -> Fitted:
        """Reward and policy in turn; leaves `policy/` and `reward/` in the run folder."""

        def make_reward(data: TrainingSet) -> OnlineImplicit:
            loop = config.loop
            contract = reward_contract(
                context, config, implicit.KIND, self.name, config.data, loop.sampling, data.digest, "sum"
            )
            terms = implicit.log_ratio_terms(context.policy, config.prm.beta)
            contract = contract.model_copy(update={"log_ratio": terms})
            return OnlineImplicit(context.policy.model, context.policy.tokenizer, config.prm, contract, loop.steps)

        return fit_policy(context, config, make_reward, method=self.name)
