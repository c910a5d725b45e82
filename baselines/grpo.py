"""GRPO: policy gradient on the outcome reward, standardised within the group (Shao et al., arXiv 2402.03300).

A = (r - group mean) / (unbiased group std + 1e-4), 0 for a group without variance. What is called GRPO differs from stack to
stack (docs/recipes.md B10): here as TRL has it, with the token mean over the whole batch (its `dapo` reduction) and without
KL (its default, and the paper's, docs/method.md section 5); the rest are options of `loop.credit` and `loop.optim.loss`.
"""

from repirl.learn.credit_config import OutcomeCredit
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, paper_data, paper_loop, tiny_data, tiny_loop

STANDARDISED = OutcomeCredit(outcome="grpo")


class GRPO(Method[RLConfig]):
    """Outcome reward only, standardised in the group."""

    name = "grpo"
    title = "GRPO"
    source = "arXiv 2402.03300; settings of arXiv 2602.07832"
    status = "advantages agree with the closed form; rate of the tiny recipe searched; paper recipe not yet run at that size"
    needs = frozenset({"rollouts", "outcomes"})
    level = "outcome"
    recipes = {
        "tiny": RLConfig(data=tiny_data(), loop=tiny_loop(STANDARDISED)),
        "paper-qwen2.5-3b": RLConfig(data=paper_data(), loop=paper_loop(STANDARDISED, chat=True)),
        "paper-qwen3-4b": RLConfig(data=paper_data(), loop=paper_loop(STANDARDISED, chat=False)),
    }

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop without a process reward."""
        return fit_policy(context, config, lambda data: None, method=self.name)
