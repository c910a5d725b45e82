"""A generative judge as process reward (ThinkPRM, arXiv 2504.16828; GenPRM, arXiv 2504.00891): a model judges steps in words.

The judge is asked and read as `rewards/written.py` says, and not trained: a step is worth the probability of the verdict that
was written of it. A judgement that cannot be read pays nothing. Deviations: a plain question in place of a judge that was
tuned for its own form; no code is run for it. `judge` is the starting policy unless another model is named, and should be one
that follows instructions: the embedded one does not, so that `tiny` shows the path alone (its judgements are unreadable, and
what trains it is the outcome).
"""

import copy
from dataclasses import replace

from repirl.engines.loading import LoadedPolicy, load_policy
from repirl.learn.credit_config import StepCredit
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, paper_data, paper_loop, tiny_data, tiny_loop
from repirl.rewards.artifact import WrittenTerms
from repirl.rewards.written import WrittenReward
from repirl.rollouts.steps import StepSegmentation

CREDIT = StepCredit(process_weight=0.5)


class GenerativeConfig(RLConfig):
    """The loop's configuration, and who judges how."""

    judge: str | None = None
    """A policy (embedded name, folder or hub id); None: the starting policy, as it starts."""
    written: WrittenTerms = WrittenTerms()


class Generative(Method[GenerativeConfig]):
    """Ask a model which steps are right."""

    name = "generative"
    title = "generative judge"
    source = "arXiv 2504.16828, arXiv 2504.00891"
    status = "questions, answers and scores agree with hand-made ones; not run at the papers' size"
    needs = frozenset({"rollouts", "outcomes"})
    level = "step"
    recipes = {
        "tiny": GenerativeConfig(
            data=tiny_data(), loop=tiny_loop(CREDIT), written=WrittenTerms(style="marks", chat=False, max_new_tokens=16)
        ),
        "paper-qwen2.5-3b": GenerativeConfig(
            data=paper_data(), loop=paper_loop(CREDIT, chat=True), judge="Qwen/Qwen2.5-7B-Instruct"
        ),
    }

    def fit(self, context: FitContext, config: GenerativeConfig) -> Fitted:
        """Run the loop with the judge's verdicts."""
        policy = context.policy
        judge = self._judge(context, config)
        judge.model.requires_grad_(False).eval()
        segmentation = StepSegmentation(config.data.step_separator)
        engine = context.engine(judge)
        reward = WrittenReward(
            judge.model, engine, policy.tokenizer, segmentation, config.written, judge.tokenizer, context.seed
        )
        return fit_policy(context, config, lambda data: reward, method=self.name)

    def _judge(self, context: FitContext, config: GenerativeConfig) -> LoadedPolicy:
        if config.judge is None:
            return replace(context.policy, model=copy.deepcopy(context.policy.model))
        return load_policy(config.judge, device=context.runtime.device)
