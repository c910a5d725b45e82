"""rePIRL (arXiv 2602.07832): a token-level PRM learned by inverse RL from demonstrations, trained with the policy.

Equations and settings: docs/method.md sections 2-5; every choice the paper leaves open is a named option of `IRLConfig` and
of the credit rule. Recipes: `tiny` for the embedded default, `paper-*` with the paper's settings for the named base models.
"""

from __future__ import annotations

from repirl.config import digest_of
from repirl.errors import UserError
from repirl.learn.credit import SequenceCredit
from repirl.learn.inverse_rl import InverseRL
from repirl.learn.irl import IRLConfig
from repirl.methods.base import FitContext, Fitted, Method
from repirl.methods.rl import RLConfig, fit_policy, paper_data, paper_loop, tiny_data, tiny_process_loop
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import energy_from_policy
from repirl.tasks.training_sets import FAMILIES, TrainingSet


class RePIRLConfig(RLConfig):
    """The loop's configuration and that of inverse RL."""

    irl: IRLConfig = IRLConfig()


def _paper(outcome_to_process: float, *, chat: bool) -> RePIRLConfig:
    """Table 3: PRM lr 3e-8, gradient clip 10, four demonstrations a problem, outcome : PRM = 1 : 0.05 or 0.1."""
    return RePIRLConfig(
        data=paper_data(),
        loop=paper_loop(SequenceCredit(process_weight=outcome_to_process), chat=chat),
        irl=IRLConfig(
            weights="sequence",
            normalize="batch",
            objective="mean",
            positive_denominator="rollouts",
            lr=3e-8,
            max_grad_norm=10.0,
            demos_per_prompt=4,
            max_demo_tokens=3000,
        ),
    )


class RePIRL(Method[RePIRLConfig]):
    """Inverse RL with importance weights; failed rollouts are negatives, correct ones pseudo-experts."""

    name = "repirl"
    title = "rePIRL"
    source = "arXiv 2602.07832 (ICML 2026)"
    status = "method of this project; paper recipes are the published settings, not yet run at that size"
    recipes = {
        "tiny": RePIRLConfig(
            data=tiny_data(),
            loop=tiny_process_loop(),
            irl=IRLConfig(
                weights="length_normalized",
                normalize="prompt",
                positive_denominator="prompt",
                base_measure=1.0,
                expert_weight=0.05,
                demos_per_prompt=1,
                prompts_per_update=16,
                step_aggregation="min",
                score="before",
                lr=1e-5,
                head_lr=1e-3,
                max_grad_norm=1.0,
                micro_batch_tokens=2048,
            ),
        ),
        "paper-qwen2.5-3b": _paper(0.05, chat=True),
        "paper-qwen3-4b": _paper(0.1, chat=False),
    }

    def fit(self, context: FitContext, config: RePIRLConfig) -> Fitted:
        """Alternate PRM and policy updates; leaves `policy/` and `reward/` in the run folder."""

        def make_reward(data: TrainingSet) -> InverseRL:
            if config.irl.demos_per_prompt > 0 and not any(data.demonstrations.values()):
                raise UserError(
                    "no demonstrations to learn a reward from",
                    config.data.source,
                    "give problems with `demonstrations`, or set irl.demos_per_prompt=0 to learn from correct rollouts alone",
                )
            contract = RewardContract(
                kind="energy",
                method=self.name,
                step_separator=config.data.step_separator,
                template="chat" if config.loop.sampling.chat_template else "plain",
                prompt_suffix=None if config.data.source in FAMILIES else config.data.prompt_suffix,
                step_aggregation=config.irl.step_aggregation,
                base_digest=context.policy.digest,
                training_digest=digest_of([config.model_dump(mode="json"), data.digest, context.seed]),
            )
            return InverseRL(
                energy_from_policy(context.policy.model, layers=config.irl.layers, base_measure=config.irl.base_measure),
                context.policy.tokenizer,
                config.irl,
                contract,
            )

        return fit_policy(context, config, make_reward, method=self.name, uses_demonstrations=True)
