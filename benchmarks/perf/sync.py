"""What handing new weights to vLLM costs: seconds of a sync against seconds of the sampling pass that follows it.

One process; as many rounds as `--repeats`, each a change of all weights, a sync, and a pass as in `vllm_engine.py`, of which it
takes the options. Of both the median counts; what else the machine does slows both, so that only their ratio is to be read. The
goal is at most 0.05 on a CPU. `goal_met` says it.

    python benchmarks/perf/sync.py [--policy tiny|FOLDER] [--vllm python=PATH] [--repeats 5] ...
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from vllm_engine import load, parser, requests_of, theirs

GOAL = 0.05


def main() -> None:
    args = parser().parse_args()
    import torch

    from repirl.engines.base import SamplingParams
    from repirl.engines.weights import ModelWeights

    policy = load(args)
    requests, weights, engine = requests_of(args, policy), ModelWeights(policy.model), theirs(args, policy)
    rows = []
    try:
        engine.generate(requests[:2], SamplingParams(8))
        for repeat in range(args.repeats + 1):
            with torch.no_grad():
                for parameter in policy.model.parameters():
                    parameter.mul_(1.0 + 1e-4)
            report = engine.sync(weights)
            start = time.perf_counter()
            groups = engine.generate(requests, SamplingParams(args.max_new_tokens, seed=repeat))
            sampling_s = time.perf_counter() - start
            tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
            rows.append({"sync_s": report.seconds, "sampling_s": sampling_s, "tokens": tokens})
            print(f"{repeat}/{args.repeats}: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
    finally:
        engine.close()
    of = {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}  # the first round warms up
    ratio = of["sync_s"] / of["sampling_s"]
    said = {
        "name": "sync",
        "sync_s": round(of["sync_s"], 4),
        "sampling_s": round(of["sampling_s"], 3),
        "ratio": round(ratio, 4),
    }
    said |= {"mib": round(report.bytes / 2**20, 1), "tokens": of["tokens"], "policy": args.policy, "device": args.device}
    print(json.dumps({**said, "goal": GOAL, "goal_met": ratio <= GOAL}), flush=True)


if __name__ == "__main__":
    main()
