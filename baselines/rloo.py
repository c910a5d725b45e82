"""RLOO: REINFORCE with a leave-one-out baseline on the outcome reward alone (Ahmadian et al., arXiv 2402.14740).

A = r - mean of the other rollouts of the prompt; token-mean policy-gradient loss. This is the paper's main opponent
(docs/method.md section 6) and, with the same loop, what rePIRL is without its process reward. Deviation: TRL uses a sequence
ratio and KL in the reward by default; both are options here (`loop.optim.loss`), off in the recipes as in the paper.
"""

from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, paper_data, paper_loop, tiny_data, tiny_loop


class RLOO(Method[RLConfig]):
    """Outcome reward only."""

    name = "rloo"
    title = "RLOO"
    source = "arXiv 2402.14740; settings of arXiv 2602.07832"
    status = "advantages agree with the closed form; paper recipe not yet run at that size"
    needs = frozenset({"rollouts", "outcomes"})
    level = "outcome"
    recipes = {
        "tiny": RLConfig(data=tiny_data(), loop=tiny_loop()),
        "paper-qwen2.5-3b": RLConfig(data=paper_data(), loop=paper_loop(chat=True)),
        "paper-qwen3-4b": RLConfig(data=paper_data(), loop=paper_loop(chat=False)),
    }

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop without a process reward."""
        return fit_policy(context, config, lambda data: None, method=self.name)
