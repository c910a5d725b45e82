"""Sampling speed: `TorchEngine` against vLLM, on the same model, prompts, limits and seeds (of streams of their own).

Both sides run in turn, in processes of their own, each with one warm-up; the best run of each counts. What else the machine
does slows both: only the ratio is to be read. `--vllm python=PATH` measures a server of that Python (with its requests),
without it vLLM of this one. With `--length` prompts are random tokens of that length, which suits shapes of real models:

    python benchmarks/perf/vllm_engine.py [--policy tiny|FOLDER] [--device cpu|cuda] [--prompts 64] [--samples 8]
        [--length 512] [--max-new-tokens 128] [--dtype float32|bfloat16] [--vllm python=PATH] [--threads 1] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import alternate, emit, median_of


def main() -> None:
    args = parser().parse_args()
    if args.side:
        print(json.dumps(measure(args)), flush=True)
        return
    shared = ["--policy", args.policy, "--device", args.device, "--prompts", str(args.prompts), "--samples", str(args.samples)]
    shared += ["--max-new-tokens", str(args.max_new_tokens), "--dtype", args.dtype]
    shared += [] if args.length is None else ["--length", str(args.length)]
    shared += [part for setting in args.vllm for part in ("--vllm", setting)]
    found = alternate(__file__, shared, args.repeats, args.threads)
    best = {side: max(row["tokens_per_s"] for row in rows) for side, rows in found.items()}
    emit(
        "vllm_engine",
        best["ours"],
        best["theirs"],
        "tokens/s",
        more_is_better=True,
        policy=args.policy,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        prompts=args.prompts,
        samples=args.samples,
        mean_prompt_tokens=round(median_of(found["ours"], "mean_prompt_tokens"), 1),
        mean_tokens={side: round(median_of(rows, "mean_tokens"), 1) for side, rows in found.items()},
    )


def parser() -> argparse.ArgumentParser:
    """Options that this script and `sync.py` share."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--policy", default="tiny", help="tiny, or a folder")
    made.add_argument("--device", default="cpu")
    made.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the weights, on both sides")
    made.add_argument("--prompts", type=int, default=64)
    made.add_argument("--samples", type=int, default=8, help="completions of each prompt")
    made.add_argument("--length", type=int, help="tokens of each prompt, drawn at random; without it arith's own prompts")
    made.add_argument("--max-new-tokens", type=int, default=128)
    made.add_argument("--vllm", action="append", default=[], help="a setting of vLLM: key=value")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--side", choices=["ours", "theirs"], help="measure one side in this process")
    return made


def measure(args: argparse.Namespace) -> dict[str, float]:
    """A warm-up on a few sequences, then the timed run."""
    from repirl.engines.base import SamplingParams

    policy = load(args)
    requests = requests_of(args, policy)
    engine = ours(args, policy) if args.side == "ours" else theirs(args, policy)
    engine.generate(requests[:2], SamplingParams(8))
    start = time.perf_counter()
    groups = engine.generate(requests, SamplingParams(args.max_new_tokens))
    seconds = time.perf_counter() - start
    if args.side == "theirs":
        engine.close()
    tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
    return {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "mean_tokens": tokens / (len(requests) * args.samples),
        "mean_prompt_tokens": sum(len(request.prompt_ids) for request in requests) / len(requests),
    }


def load(args: argparse.Namespace) -> Any:
    """The policy, in the precision asked for."""
    import torch

    from repirl.engines.loading import load_policy

    torch.set_num_threads(args.threads)
    return load_policy(args.policy, dtype=args.dtype, device=args.device)


def requests_of(args: argparse.Namespace, policy: Any) -> list[Any]:
    """The same for both sides."""
    import numpy as np

    from repirl.engines.base import Request
    from repirl.rollouts.prompts import encode_prompt
    from repirl.tasks import arith

    if args.length is None:
        prompts = [encode_prompt(policy.tokenizer, problem.prompt) for problem in arith.problems("test", args.prompts, seed=0)]
    else:
        vocabulary = policy.model.config.get_text_config().vocab_size
        drawn = np.random.default_rng(0).integers(3, min(vocabulary, len(policy.tokenizer)), (args.prompts, args.length))
        prompts = [tuple(map(int, row)) for row in drawn]
    return [Request(str(i), prompt, args.samples) for i, prompt in enumerate(prompts)]


def ours(args: argparse.Namespace, policy: Any) -> Any:
    """The engine of this project."""
    from repirl.engines.torch_engine import TorchEngine

    return TorchEngine(policy.model, policy.tokenizer)


def theirs(args: argparse.Namespace, policy: Any) -> Any:
    """vLLM, started."""
    from repirl.config import with_overrides
    from repirl.engines.vllm_engine import VllmEngine
    from repirl.engines.vllm_settings import VllmSettings

    return VllmEngine(policy, with_overrides(VllmSettings(), [f"dtype={args.dtype}", *args.vllm]))


if __name__ == "__main__":
    main()
