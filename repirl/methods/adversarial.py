"""What adversarial imitation shares: configuration, and the discriminator in the training loop."""

from __future__ import annotations

from typing import Any, Literal

from repirl.errors import UserError
from repirl.learn.adversarial import AdversarialConfig, TokenDiscriminator
from repirl.learn.credit_config import CreditConfig
from repirl.methods.base import FitContext, Fitted
from repirl.methods.fitting import energy_model, reward_contract
from repirl.methods.rl import RLConfig, fit_policy, tiny_data, tiny_loop
from repirl.rewards.aggregate import Aggregation
from repirl.tasks.training_sets import TrainingSet


class AdversarialMethodConfig(RLConfig):
    """The loop's configuration and the discriminator's."""

    discriminator: AdversarialConfig = AdversarialConfig()
    step_aggregation: Aggregation = "mean"
    """Of a step's tokens, where steps are scored."""


def tiny_adversarial(
    credit: CreditConfig, lr: float, *, experts_in_group: int = 0, **discriminator: Any
) -> AdversarialMethodConfig:
    """A `tiny` recipe: the loop of all of them, with this credit."""
    settings = AdversarialConfig(lr=lr, head_lr=1e-3, demos_per_prompt=1, micro_batch_tokens=2048, **discriminator)
    loop = tiny_loop(credit).model_copy(update={"experts_in_group": experts_in_group})
    return AdversarialMethodConfig(data=tiny_data(), loop=loop, discriminator=settings)


def fit_adversarial(context: FitContext, config: AdversarialMethodConfig, form: Literal["gail", "airl"]) -> Fitted:
    """Discriminator and policy updates in turn. UserError without demonstrations."""
    policy, settings = context.policy, config.discriminator

    def make_reward(data: TrainingSet) -> TokenDiscriminator:
        if not any(data.demonstrations.values()):
            raise UserError("no demonstrations to imitate", config.data.source, "give problems with `demonstrations`")
        contract = reward_contract(
            context, config, "energy", form, config.data, config.loop.sampling, data.digest, config.step_aggregation
        )
        model = energy_model(context, layers=settings.layers, base_measure=settings.base_measure)
        longest = settings.max_demo_tokens or config.loop.sampling.max_new_tokens
        return TokenDiscriminator(form, model, policy.model, policy.tokenizer, settings, contract, context.seed, longest)

    return fit_policy(context, config, make_reward, method=form)
