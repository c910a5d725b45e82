"""Time of one RLOO update: ours against TRL's RLOOTrainer (extra `trl`).

Both sides: the same policy, 48 `arith` prompts x 8 rollouts a step at temperature 1, up to 144 new tokens, the same grader,
AdamW, no KL term, one optimiser step per batch. TRL runs without gradient checkpointing and with its reference model off,
its fastest setting here. A step is sampling, grading, loss and optimiser; the first step of each process is not counted.

    python benchmarks/perf/rloo_step.py [--policy tiny] [--threads 2] [--repeats 2] [--steps 4]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from common import alternate, emit, median_of, peak_mib

PROMPTS, GROUP, NEW_TOKENS = 48, 8, 144


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--side", choices=["ours", "theirs"], help="measure one side in this process")
    args = parser.parse_args()
    if args.side:
        import torch

        torch.set_num_threads(args.threads)
        seconds = {"ours": ours, "theirs": theirs}[args.side](args.policy, args.steps + 1)[1:]
        print(json.dumps({"step_s": statistics.median(seconds), "peak_mib": peak_mib()}), flush=True)
        return
    shared = ["--policy", args.policy, "--steps", str(args.steps)]
    found = alternate(__file__, shared, args.repeats, args.threads)
    emit(
        "rloo_step",
        median_of(found["ours"], "step_s"),
        median_of(found["theirs"], "step_s"),
        "s/update",
        more_is_better=False,
        threads=args.threads,
        time_ratio=round(median_of(found["ours"], "step_s") / median_of(found["theirs"], "step_s"), 3),
        peak_mib={side: round(median_of(rows, "peak_mib"), 1) for side, rows in found.items()},
    )


def ours(policy: str, steps: int) -> list[float]:
    """Seconds of each step of the method `rloo`."""
    return method_steps("rloo", policy, steps, ["loop.optim.loss.entropy_weight=0"])


def method_steps(method_name: str, policy: str, steps: int, settings: list[str]) -> list[float]:
    """Seconds of sampling, process reward and update of each step; validation and checkpoints are not counted."""
    from repirl.config import with_overrides
    from repirl.engines.loading import load_policy
    from repirl.methods.base import FitContext
    from repirl.methods.registry import load_method

    method = load_method(method_name)
    quiet = ["loop.validation.num_problems=1", "loop.validation.samples=1", f"loop.validation.every={steps}"]
    sizes = [f"loop.steps={steps}", f"loop.sampling.prompts_per_step={PROMPTS}", f"loop.sampling.group_size={GROUP}"]
    config = with_overrides(method.recipe("tiny"), [*sizes, *quiet, f"loop.sampling.max_new_tokens={NEW_TOKENS}", *settings])
    found: list[float] = []

    def on_step(step: int, total: int, metrics: dict) -> None:
        found.append(sum(value for name, value in metrics.items() if name.startswith("time/")))

    with tempfile.TemporaryDirectory() as folder:
        method.fit(FitContext(load_policy(policy), Path(folder), 0, on_step), config)
    return found


def theirs(policy: str, steps: int) -> list[float]:
    """Seconds of each step of TRL's trainer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    from repirl.engines.loading import load_policy
    from repirl.grading.dispatch import grade_rollouts
    from repirl.tasks import arith

    problems = {p.prompt: p for p in arith.problems("train", PROMPTS * steps)}
    loaded = load_policy(policy)
    seconds: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            seconds.append(time.perf_counter() - self.started)

    def reward(prompts: list[str], completions: list[str], **kwargs) -> list[float]:
        return [v.reward for v in grade_rollouts([problems[prompt] for prompt in prompts], completions)]

    with tempfile.TemporaryDirectory() as folder:
        config = RLOOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=PROMPTS * GROUP,
            gradient_accumulation_steps=1,
            num_generations=GROUP,
            max_completion_length=NEW_TOKENS,
            max_steps=steps,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            beta=0.0,
            temperature=1.0,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = RLOOTrainer(
            model=loaded.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": list(problems)}),
            processing_class=loaded.tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return seconds


if __name__ == "__main__":
    main()
