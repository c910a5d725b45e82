"""GAIL: adversarial imitation on single tokens (Ho and Ermon, arXiv 1606.03476).

D(s, a) = sigmoid(f); cross-entropy of demonstrations against rollouts; the reward is -log(1 - D) = log(1 + exp f), which at the
optimum says how much likelier a token is the expert's than the current policy's: it moves with the policy and is of no use
without it. Outcomes take no part. It is above 0 everywhere, so that in sum a longer completion earns more, which is why the
rollout's mean is paid.
"""

from repirl.learn.credit_config import SequenceCredit
from repirl.methods.adversarial import AdversarialMethodConfig, fit_adversarial, tiny_adversarial
from repirl.methods.base import FitContext, Fitted, Method


class GAIL(Method[AdversarialMethodConfig]):
    """Tell the expert's tokens from the policy's, and pay what passes for the expert's."""

    name = "gail"
    title = "GAIL"
    source = "arXiv 1606.03476"
    status = "loss and optimum agree with the closed form; tiny recipe: no setting of the search learns"
    needs = frozenset({"rollouts", "demonstrations"})
    yields = ("policy", "reward")
    level = "token"
    recipes = {"tiny": tiny_adversarial(SequenceCredit(process_weight=1.0, outcome_weight=0.0), 1e-5, base_measure=1.0)}

    def fit(self, context: FitContext, config: AdversarialMethodConfig) -> Fitted:
        """Discriminator and policy in turn; leaves `policy/` and `reward/` in the run folder."""
        return fit_adversarial(context, config, "gail")
