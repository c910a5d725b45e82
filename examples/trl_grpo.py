"""TRL's GRPOTrainer, paid by repirl: the outcome, and what a process reward says of the steps.

    pip install -e '.[trl]' -c constraints.txt                  # in a clone
    repirl train repirl --out runs/mine                        # a reward, some minutes; or take `confidence`
    python examples/trl_grpo.py --reward runs/mine

As it stands it trains the embedded policy on arithmetic, on a CPU. With a model and data of your own: `--policy FOLDER`, and in
the place of `problems()` rows of `prompt` and `answer`. GRPO has one number for a completion: `repirl train` credits each step.
"""

from __future__ import annotations

import argparse
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import repirl
from repirl.engines.loading import policy_dir
from repirl.tasks import arith


def problems(number: int) -> Dataset:
    """Expressions of three numbers: `prompt`, and the right `answer`."""
    return Dataset.from_list([{"prompt": p.prompt, "answer": p.answer} for p in arith.problems("train", number, levels=(2,))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="tiny", help="embedded name or folder")
    parser.add_argument("--reward", default="confidence", help="as in `repirl score`")
    parser.add_argument("--process-weight", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=8, help="of one step")
    parser.add_argument("--group-size", type=int, default=4, help="completions of each prompt")
    parser.add_argument("--out", default="runs/trl-grpo")
    args = parser.parse_args()

    folder = policy_dir(args.policy)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reward = repirl.load_reward(args.reward, separator="\n")

    def ended(completion_ids: list[list[int]]) -> list[bool]:
        return [bool(ids) and ids[-1] == tokenizer.eos_token_id for ids in completion_ids]

    def outcome(completions: list[str], answer: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        """1 or 0; None, which TRL leaves out, for what could not be graded."""
        verdicts = repirl.grade_many(completions, answers=answer, finished=ended(completion_ids))
        return [None if verdict.outcome == "ungraded" else verdict.reward for verdict in verdicts]

    def process(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The lowest score of a completion's steps. What has no steps is worth as much as the worst: it must not pay."""
        pairs = zip(prompts, completions, strict=True)
        scored = reward.score_many(pairs, finished=ended(completion_ids))
        worst = min((one.aggregates["min"] for one in scored if not one.reason), default=0.0)
        return [worst if one.reason else one.aggregates["min"] for one in scored]

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=[outcome, process],
        args=GRPOConfig(
            output_dir=args.out,
            reward_weights=[1.0, args.process_weight],
            per_device_train_batch_size=args.prompts * args.group_size,
            num_generations=args.group_size,
            max_completion_length=96,
            max_steps=args.steps,
            learning_rate=1e-4,
            gradient_checkpointing=False,
            bf16=False,
            logging_steps=1,
            report_to="none",
        ),
        train_dataset=problems(args.prompts * args.steps),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(args.out)


if __name__ == "__main__":
    main()
