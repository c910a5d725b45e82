"""Behavioural cloning: maximum likelihood on the expert's solutions (BC of docs/method.md section 6).

Each update sees the same prompts in the same order as the RL methods' update of that number, with all demonstrations of
each; the same validation. Token mean over the batch, AdamW, no schedule.
"""

from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.cloning import BCConfig, bc_config, clone
from repirl.methods.rl import paper_data, paper_loop, tiny_data, tiny_loop


class BehaviouralCloning(Method[BCConfig]):
    """Imitate the demonstrations."""

    name = "bc"
    title = "behavioural cloning"
    source = "supervised fine-tuning on demonstrations; settings of arXiv 2602.07832"
    status = "rate of the tiny recipe searched: all end below the start; paper recipe not yet run at that size"
    needs = frozenset({"demonstrations"})
    recipes = {
        "tiny": bc_config(tiny_data(), tiny_loop(), 3e-5),
        "paper-qwen2.5-3b": bc_config(paper_data(), paper_loop(chat=True), 1e-5),
        "paper-qwen3-4b": bc_config(paper_data(), paper_loop(chat=False), 1e-5),
    }

    def fit(self, context: FitContext, config: BCConfig) -> Fitted:
        """Train on demonstrations; leaves `policy/` in the run folder."""
        return clone(context, config, method=self.name)
