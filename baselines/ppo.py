"""PPO: the outcome reward, credited by a learned value function (Schulman et al., arXiv 1707.06347 and 1506.02438).

GAE with gamma = lambda = 1 and whitened advantages, a value head on a copy of the starting policy, clipped value loss: the
conventions of verl (docs/recipes.md B10). With lambda = 1 the advantage of a token is the outcome minus the value of the state.
Deviations: no KL (as in the paper's settings, docs/method.md section 5); no second clip of the ratio where the advantage is
below 0 (verl: 3); the critic takes one step for each batch, whatever the policy takes; and, in `tiny`, the policy takes one for
each batch as in all its recipes, so that the ratio is 1 and its clip without effect.
"""

from repirl.learn.credit_config import GAECredit, ValueConfig
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, paper_data, paper_loop, tiny_data, tiny_loop

TINY = GAECredit(whiten=True, value=ValueConfig(lr=1e-4, head_lr=1e-3, micro_batch_tokens=2048))
PUBLISHED = GAECredit(whiten=True, value=ValueConfig(lr=1e-5))


class PPO(Method[RLConfig]):
    """Outcome reward only, with a critic."""

    name = "ppo"
    title = "PPO"
    source = "arXiv 1707.06347; settings of arXiv 2602.07832"
    status = "advantages agree with the closed form; rate of the tiny recipe searched; paper recipe not yet run at that size"
    needs = frozenset({"rollouts", "outcomes"})
    level = "outcome"
    recipes = {
        "tiny": RLConfig(data=tiny_data(), loop=tiny_loop(TINY)),
        "paper-qwen2.5-3b": RLConfig(data=paper_data(), loop=paper_loop(PUBLISHED, chat=True)),
        "paper-qwen3-4b": RLConfig(data=paper_data(), loop=paper_loop(PUBLISHED, chat=False)),
    }

    def fit(self, context: FitContext, config: RLConfig) -> Fitted:
        """Run the loop without a process reward."""
        return fit_policy(context, config, lambda data: None, method=self.name)
