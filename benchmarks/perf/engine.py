"""Sampling speed and memory: `TorchEngine.generate` against `model.generate` of transformers.

Both sides get the same model and the same 64 `arith` prompts, 8 samples each, at temperature 1, all 512 sequences in one
batch, and run in turn in processes of their own; the best run of each side counts, as what else the machine does only
ever slows a run. Tokens are those really generated: up to and with the end of sequence.

    python benchmarks/perf/engine.py [--policy tiny|random|FOLDER] [--threads 1] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import alternate, emit, median_of, peak_mib

SAMPLES_PER_PROMPT = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="tiny", help="tiny, a folder, or random (untrained weights of tiny's shape)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--side", choices=["ours", "theirs"], help="measure one side in this process")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args)), flush=True)
        return
    shared = ["--policy", args.policy, "--sequences", str(args.sequences)]
    shared += ["--max-new-tokens", str(args.max_new_tokens)]
    found = alternate(__file__, shared, args.repeats, args.threads)
    ours, theirs = found["ours"], found["theirs"]
    emit(
        "engine",
        max(row["tokens_per_s"] for row in ours),
        max(row["tokens_per_s"] for row in theirs),
        "tokens/s",
        more_is_better=True,
        policy=args.policy,
        threads=args.threads,
        mean_tokens={side: round(median_of(found[side], "mean_tokens"), 1) for side in found},
        peak_mib={side: round(median_of(found[side], "peak_mib"), 1) for side in found},
        growth_mib={side: round(median_of(found[side], "growth_mib"), 1) for side in found},
        cpu_time_ratio=round(median_of(ours, "tokens_per_cpu_s") / median_of(theirs, "tokens_per_cpu_s"), 3),
        memory_ratio=round(median_of(theirs, "peak_mib") / median_of(ours, "peak_mib"), 3),
    )


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One warm-up on a few sequences, then the timed run."""
    import torch

    from repirl.rollouts.prompts import encode_prompt
    from repirl.tasks import arith

    torch.set_num_threads(args.threads)
    model, tokenizer = load(args.policy)
    problems = arith.problems("test", args.sequences // SAMPLES_PER_PROMPT, seed=0)
    prompts = [encode_prompt(tokenizer, problem.prompt) for problem in problems]
    sample = {"ours": sample_ours, "theirs": sample_theirs}[args.side]
    sample(model, tokenizer, prompts[:2], 8)
    before = peak_mib()
    start, start_cpu = time.perf_counter(), time.process_time()
    num_tokens = sample(model, tokenizer, prompts, args.max_new_tokens)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "tokens_per_s": num_tokens / seconds,
        "tokens_per_cpu_s": num_tokens / cpu_s,
        "seconds": seconds,
        "mean_tokens": num_tokens / (len(prompts) * SAMPLES_PER_PROMPT),
        "peak_mib": peak_mib(),
        "growth_mib": peak_mib() - before,
    }


def load(policy: str) -> tuple[Any, Any]:
    """Model and tokenizer of a policy."""
    if policy == "random":
        import torch

        from repirl.engines.tiny_model import build_model, build_tokenizer

        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        return build_model(tokenizer).eval(), tokenizer
    from repirl.engines.loading import load_policy

    loaded = load_policy(policy)
    return loaded.model, loaded.tokenizer


def sample_ours(model: Any, tokenizer: Any, prompts: list[tuple[int, ...]], max_new_tokens: int) -> int:
    """Samples a group per prompt with our engine; the number of tokens generated."""
    from repirl.engines.base import Request, SamplingParams
    from repirl.engines.torch_engine import TorchEngine

    engine = TorchEngine(model, tokenizer)
    requests = [Request(str(i), prompt, SAMPLES_PER_PROMPT) for i, prompt in enumerate(prompts)]
    groups = engine.generate(requests, SamplingParams(max_new_tokens=max_new_tokens))
    return sum(len(rollout.token_ids) for group in groups for rollout in group)


def sample_theirs(model: Any, tokenizer: Any, prompts: list[tuple[int, ...]], max_new_tokens: int) -> int:
    """The same with `model.generate`."""
    import torch

    torch.manual_seed(0)
    inputs = tokenizer.pad({"input_ids": [list(p) for p in prompts]}, padding_side="left", return_tensors="pt")
    sequences = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=SAMPLES_PER_PROMPT,
        max_new_tokens=max_new_tokens,
    )
    new = sequences[:, inputs["input_ids"].shape[1] :]
    is_end = new == tokenizer.eos_token_id
    tokens_after_end = (is_end.cumsum(dim=-1) - is_end.long()) > 0
    return int((~tokens_after_end).sum())


if __name__ == "__main__":
    main()
