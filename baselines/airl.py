"""AIRL: adversarial inverse RL on single tokens (Fu et al., arXiv 1710.11248).

D(s, a) = exp(f) / (exp(f) + pi(a | s)), so logit D = f - log pi; pi is the policy that sampled the batch (docs/recipes.md B0);
cross-entropy of demonstrations against rollouts; the reward is f, which at the optimum is the log of the expert's policy
and does not depend on the current one. Outcomes take no part. Deviations: no shaping term (every prefix is a state of its
own, so f absorbs it), and no replay of earlier rollouts.

`r-airl` has the options of R-AIRL (arXiv 2510.01857): a copy of each demonstration with one wrong number as a further
negative, updates of the reward before the policy moves, and a demonstration in each group that the policy learns from. Its
released code pays the logit of a plain classifier, which is `gail`'s discriminator.
"""

from repirl.learn.credit_config import ReturnToGoCredit
from repirl.methods.adversarial import AdversarialMethodConfig, fit_adversarial, tiny_adversarial
from repirl.methods.base import FitContext, Fitted, Method

CREDIT = ReturnToGoCredit(process_weight=0.1, outcome_weight=0.0)


class AIRL(Method[AdversarialMethodConfig]):
    """Tell the expert's tokens from the policy's, and pay what is separate from the policy."""

    name = "airl"
    title = "AIRL"
    source = "arXiv 1710.11248; options of arXiv 2510.01857"
    status = "loss and optimum agree with the closed form; rate of the tiny recipe searched; not run at the papers' size"
    needs = frozenset({"rollouts", "demonstrations"})
    yields = ("policy", "reward")
    level = "token"
    recipes = {
        "tiny": tiny_adversarial(CREDIT, 1e-5, base_measure=1.0),
        "r-airl": tiny_adversarial(CREDIT, 1e-5, experts_in_group=1, base_measure=1.0, perturbed=1, warmup=50),
    }

    def fit(self, context: FitContext, config: AdversarialMethodConfig) -> Fitted:
        """Discriminator and policy in turn; leaves `policy/` and `reward/` in the run folder."""
        return fit_adversarial(context, config, "airl")
