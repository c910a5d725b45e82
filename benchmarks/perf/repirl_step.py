"""Time of one rePIRL update against one RLOO update of ours: what the process reward costs.

Both sides run their `tiny` recipe: the same policy, prompts, rollouts and policy loss; rePIRL adds learning and scoring
with the PRM. A step is sampling, grading, process reward, loss and optimiser; the first of each process is not counted, nor is
the offline phase, which is no step of the policy's.

    python benchmarks/perf/repirl_step.py [--policy tiny] [--threads 1] [--repeats 2] [--steps 4]
"""

from __future__ import annotations

import argparse
import json
import statistics

from common import alternate, emit, median_of, peak_mib
from rloo_step import method_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--side", choices=["ours", "theirs"], help="ours: repirl; theirs: rloo")
    args = parser.parse_args()
    if args.side:
        import torch

        torch.set_num_threads(args.threads)
        method = {"ours": "repirl", "theirs": "rloo"}[args.side]
        # The PRM learns from the first step on; its part in the advantages may start later, which costs nothing.
        settings = ["loop.sampling.prompts_per_step=32", "loop.sampling.group_size=4", "loop.sampling.max_new_tokens=144"]
        settings += ["offline.updates=0"] if method == "repirl" else []
        seconds = method_steps(method, args.policy, args.steps + 1, settings)[1:]
        print(json.dumps({"step_s": statistics.median(seconds), "peak_mib": peak_mib()}), flush=True)
        return
    found = alternate(__file__, ["--policy", args.policy, "--steps", str(args.steps)], args.repeats, args.threads)
    emit(
        "repirl_step",
        median_of(found["ours"], "step_s"),
        median_of(found["theirs"], "step_s"),
        "s/update",
        more_is_better=False,
        threads=args.threads,
        time_ratio=round(median_of(found["ours"], "step_s") / median_of(found["theirs"], "step_s"), 3),
        peak_mib={side: round(median_of(rows, "peak_mib"), 1) for side, rows in found.items()},
    )


if __name__ == "__main__":
    main()
