"""One policy update (and one reward update) on rollouts that are there: ours against TRL's GRPO loss on the same batch.

Random weights in the shape of a real model (`--shape`: Qwen2.5-0.5B and -3B, or 0.1b of the same kind), random tokens: prompts
of one length, completions of many. A step is log-probabilities with gradient, loss, backward, clipping, AdamW; the first two of
each process are not counted. TRL's side runs its own loss in micro-batches of `--rows` rows (several numbers: the fastest
counts), ours in micro-batches of `--micro-batch-tokens`. `flops_share` is 6 x parameters x tokens (and attention) a second,
over what a large matrix product reaches in the same process and precision; `mfu` over the maker's figure where the device is
known.

    python benchmarks/perf/train_step.py [--shape 0.1b] [--device cpu] [--threads 2] [--repeats 2]
    python benchmarks/perf/train_step.py --shape 3b --device cuda --dtype bfloat16 --gradient-checkpointing \\
        --micro-batch-tokens 16384
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import alternate, emit, median_of, peak_mib

SHAPES = {
    "0.1b": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "heads": (8, 2), "vocab_size": 65536},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "heads": (14, 2), "vocab_size": 151936},
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "heads": (16, 2), "vocab_size": 151936},
}
MAKERS_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16, by a part of the device's name."""
PAD = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="0.1b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the matrix products")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=256, help="of the longest completion")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 16], help="rows of a micro-batch of TRL's side")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "theirs"], help="measure one side in this process")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measured(args)), flush=True)
        return
    given = [(name, value) for name, value in vars(args).items() if name not in ("side", "repeats", "threads")]
    shared = []
    for name, value in given:
        flag = f"--{name.replace('_', '-')}"
        shared += (
            [flag] * value if isinstance(value, bool) else [flag, *map(str, value if isinstance(value, list) else [value])]
        )
    found = alternate(__file__, shared, args.repeats, args.threads)
    emit(
        "train_step",
        median_of(found["ours"], "tokens_per_s"),
        median_of(found["theirs"], "tokens_per_s"),
        "tokens/s",
        more_is_better=True,
        shape=args.shape,
        device=found["ours"][0]["device"],
        dtype=args.dtype,
        threads=args.threads,
        reward_tokens_per_s=round(median_of(found["ours"], "reward_tokens_per_s"), 1),
        **{name: round(median_of(found["ours"], name), 3) for name in ("flops_share", "mfu") if name in found["ours"][0]},
        peak_mib={side: round(median_of(rows, "peak_mib"), 1) for side, rows in found.items()},
    )


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """One side's figures."""
    import torch

    from repirl.precision import training_in

    torch.set_num_threads(args.threads)
    model, rollouts, advantages = made(args)
    tokens = sum(len(r.prompt_ids) + len(r.token_ids) for r in rollouts)
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    with training_in(args.dtype):
        if args.side == "theirs":
            seconds = min(timed(theirs(args, model, rollouts, advantages, rows), args) for rows in args.rows)
            return {"device": name, "tokens_per_s": tokens / seconds, "peak_mib": peak(args)}
        seconds = timed(ours(args, model, rollouts, advantages), args)
        found = {"device": name, "tokens_per_s": tokens / seconds, "peak_mib": peak(args)}
        rate = flops(model, rollouts) / seconds
        found["flops_share"] = rate / matrix_rate(args)
        makers = [tflops for part, tflops in MAKERS_TFLOPS.items() if part in name]
        if makers:
            found["mfu"] = rate / (makers[0] * 1e12)
        found["reward_tokens_per_s"] = tokens / timed(ours_reward(args, model, rollouts), args)
        return found


def made(args: argparse.Namespace) -> tuple[Any, list[Any], list[np.ndarray]]:
    """The policy, rollouts of random tokens, and their advantages; the same for both sides."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from repirl.types import Rollout

    shape = dict(SHAPES[args.shape])
    heads, key_heads = shape.pop("heads")
    config = Qwen2Config(
        **shape, num_attention_heads=heads, num_key_value_heads=key_heads, tie_word_embeddings=True, use_cache=False
    )
    torch.manual_seed(0)
    with torch.device(args.device):
        model = Qwen2ForCausalLM(config)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    random = np.random.default_rng(0)
    rollouts, advantages = [], []
    for prompt in range(args.prompts):
        ids = tuple(random.integers(1, shape["vocab_size"], args.prompt_tokens).tolist())
        for sample in range(args.group):
            length = int(random.integers(args.new_tokens // 4, args.new_tokens + 1))
            tokens = random.integers(1, shape["vocab_size"], length)
            logprobs = np.full(length, -np.log(shape["vocab_size"]), dtype=np.float32)
            rollouts.append(Rollout(f"p{prompt}", sample, ids, tokens, logprobs, "", "stop", 1.0))
            advantages.append(np.full(length, random.normal(), dtype=np.float32))
    return model, rollouts, advantages


def ours(args: argparse.Namespace, model: Any, rollouts: list[Any], advantages: list[np.ndarray]) -> Callable[[], Any]:
    from repirl.learn.policy_update import PolicyOptimConfig, PolicyUpdater

    updater = PolicyUpdater(model, PAD, PolicyOptimConfig(lr=1e-6, micro_batch_tokens=args.micro_batch_tokens), 1)
    return lambda: updater.update(rollouts, advantages, 0)


def ours_reward(args: argparse.Namespace, model: Any, rollouts: list[Any]) -> Callable[[], Any]:
    """An update of an energy with base measure 1 on the same rows, each a factor of the logistic loss."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from repirl.learn.updater import OptimConfig, Updater
    from repirl.rewards.energy import energy_from_policy, token_rewards
    from repirl.rollouts.packing import TokenRow

    energy = energy_from_policy(model, base_measure=1.0)
    model.to("cpu")  # room for the reward
    updater = Updater(energy, PAD, OptimConfig(lr=1e-6, micro_batch_tokens=args.micro_batch_tokens), 1)
    rows = [TokenRow(r.prompt_ids, r.token_ids) for r in rollouts]

    def loss(batch: Any, chunk: list[int]) -> Any:
        sums = torch.stack(
            [one.sum() for one in token_rewards(energy, batch).split([len(rows[i].response_ids) for i in chunk])]
        )
        wanted = torch.tensor([float(i % 2) for i in chunk], device=sums.device)
        return binary_cross_entropy_with_logits(sums, wanted, reduction="sum") / len(rows)

    return lambda: updater.step(rows, loss)


def theirs(
    args: argparse.Namespace, model: Any, rollouts: list[Any], advantages: list[np.ndarray], rows: int
) -> Callable[[], Any]:
    """TRL's loss (token mean over the batch, as ours), in micro-batches of so many rows of like length."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from repirl.engines.tiny_model import build_tokenizer

    folder = tempfile.mkdtemp()
    config = GRPOConfig(
        output_dir=folder,
        use_cpu=args.device == "cpu",
        bf16=args.dtype == "bfloat16",
        per_device_train_batch_size=args.group,
        num_generations=args.group,
        max_completion_length=args.new_tokens,
        gradient_checkpointing=args.gradient_checkpointing,
        loss_type="dapo",
        beta=0.0,
        report_to="none",
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda **given: [0.0],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "1"}] * args.group),
        processing_class=build_tokenizer(),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    order = sorted(range(len(rollouts)), key=lambda i: -len(rollouts[i].token_ids))
    total = torch.tensor(sum(len(r.token_ids) for r in rollouts), device=args.device)
    batches = []
    for start in range(0, len(order), rows):
        chosen = [rollouts[i] for i in order[start : start + rows]]
        width = max(len(r.token_ids) for r in chosen)
        ids = np.full((len(chosen), width), PAD)
        mask = np.zeros((len(chosen), width), dtype=np.int64)
        for b, rollout in enumerate(chosen):
            ids[b, : len(rollout.token_ids)], mask[b, : len(rollout.token_ids)] = rollout.token_ids, 1
        prompts = torch.tensor([r.prompt_ids for r in chosen], device=args.device)
        batches.append(
            {
                "prompt_ids": prompts,
                "prompt_mask": torch.ones_like(prompts),
                "completion_ids": torch.tensor(ids, device=args.device),
                "completion_mask": torch.tensor(mask, device=args.device),
                "advantages": torch.tensor([float(advantages[i][0]) for i in order[start : start + rows]], device=args.device),
                "num_items_in_batch": total,
            }
        )

    def step() -> None:
        for batch in batches:
            with trainer.compute_loss_context_manager():
                loss = trainer._compute_loss(trainer.model, batch)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], Any], args: argparse.Namespace) -> float:
    """Median seconds of a step, two warm-ups aside."""
    found = []
    for _ in range(args.steps + 2):
        started = time.perf_counter()
        step()
        if args.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found[2:])


def flops(model: Any, rollouts: list[Any]) -> float:
    """Of one step without what checkpointing computes again: 6 per weight and token (the output layer on completions alone),
    and of causal attention 6 x layers x width x length a token."""
    config = model.config
    body = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    head = config.vocab_size * config.hidden_size
    width = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    found = 0.0
    for rollout in rollouts:
        length, new = len(rollout.prompt_ids) + len(rollout.token_ids), len(rollout.token_ids)
        found += 6.0 * (body * length + head * new) + 6.0 * config.num_hidden_layers * width * length**2
    return found


def matrix_rate(args: argparse.Namespace, size: int = 4096) -> float:
    """FLOPs a second of a large product of matrices, here and in this precision."""
    import torch

    size = size if args.device.startswith("cuda") else 2048
    a = torch.randn(size, size, device=args.device, dtype=getattr(torch, args.dtype))
    repeats = 20 if args.device.startswith("cuda") else 3
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        for _ in range(repeats):
            a @ a
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        best = max(best, repeats * 2.0 * size**3 / (time.perf_counter() - started))
    return best


def peak(args: argparse.Namespace) -> float:
    """Most memory so far, MiB: of the GPU where there is one."""
    if not args.device.startswith("cuda"):
        return peak_mib()
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


if __name__ == "__main__":
    main()
