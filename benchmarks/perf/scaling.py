"""Time to score the steps of many completions of a problem: one batched pass over whole texts, against every prefix anew.

Theirs is how search scripts do it: after each step, the text so far goes through the PRM from its beginning. Both score the
same steps with the same model and batches (the JSON line has the largest difference among the last completion's); completions
are chains of `--steps` steps.

    python benchmarks/perf/scaling.py [--policy tiny] [--completions 64] [--steps 8] [--threads 1] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from common import alternate, emit, median_of, peak_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="tiny")
    parser.add_argument("--completions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--problems", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "theirs"])
    args = parser.parse_args()
    if args.side:
        print(json.dumps(_measured(args)), flush=True)
        return
    passed = [f"--{name}={getattr(args, name)}" for name in ("policy", "completions", "steps", "problems")]
    found = alternate(__file__, passed, args.repeats, args.threads)
    sums = {side: np.array(rows[0]["step_means"]) for side, rows in found.items()}
    emit(
        "scaling_scores",
        median_of(found["ours"], "seconds"),
        median_of(found["theirs"], "seconds"),
        "s",
        more_is_better=False,
        completions=args.completions,
        steps=args.steps,
        threads=args.threads,
        largest_difference=float(np.abs(sums["ours"] - sums["theirs"]).max()),
        peak_mib={side: round(median_of(rows, "peak_mib"), 1) for side, rows in found.items()},
    )


def _measured(args: argparse.Namespace) -> dict[str, object]:
    import torch

    from repirl.rewards.load import LoadOptions, load_reward
    from repirl.rng import stream
    from repirl.rollouts import packing
    from repirl.rollouts.prompts import encode_prompt
    from repirl.tasks import arith

    torch.set_num_threads(args.threads)
    if args.side == "theirs":
        packing.SHARING_PAYS = 0.0  # from its beginning: the prompt too
    loaded = load_reward("confidence", LoadOptions(args.policy))
    rng = stream(0, "perf", "scaling")
    rows = []
    for problem in arith.problems("test", args.problems, levels=(args.steps,)):
        prompt = encode_prompt(loaded.tokenizer, problem.prompt)
        for _ in range(args.completions):
            # As long as the lines of a chain are, which lose a number each.
            lines = ["+".join(map(str, rng.integers(1, 99, args.steps + 1 - s))) + "\n" for s in range(args.steps)]
            steps = [loaded.tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
            rows.append((problem, prompt, steps))

    def scores(upto: int) -> list[np.ndarray]:
        groups = [
            _group(problem, prompt, [token for step in steps[:upto] for token in step]) for problem, prompt, steps in rows
        ]
        return loaded.reward.token_scores(groups)

    scores(1)
    started = time.perf_counter()
    if args.side == "ours":
        found = scores(args.steps)
    else:
        by_step = [scores(s + 1) for s in range(args.steps)]
    seconds = time.perf_counter() - started
    means = []
    for i, (_, _, steps) in enumerate(rows):
        ends = np.cumsum([len(step) for step in steps])
        for s in range(args.steps):
            whole = found[i] if args.side == "ours" else by_step[s][i]
            means.append(float(whole[ends[s] - len(steps[s]) : ends[s]].mean()))
    return {"seconds": seconds, "peak_mib": peak_mib(), "step_means": means[-args.steps :]}


def _group(problem, prompt: tuple[int, ...], tokens: list[int]):
    from repirl.types import Rollout, RolloutGroup, Verdict

    nothing = np.full(len(tokens), np.nan, dtype=np.float32)
    rollout = Rollout(problem.id, 0, prompt, np.array(tokens), nothing, "", "length", 1.0)
    return RolloutGroup(problem, (rollout,), (Verdict("ungraded", "only scored"),))


if __name__ == "__main__":
    main()
