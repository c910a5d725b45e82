"""What one rePIRL update would cost on a cluster, from assumptions that are written down: the table of docs/clusters.md.

Nothing is measured here. Each part is bounded by arithmetic, memory traffic or the network, whichever takes longest; parts
follow each other, as in the loop of this project. Change a line of `Machine`, `Work` or `MODELS` and see what moves.

    python benchmarks/perf/cost_plan.py
"""

from __future__ import annotations

from dataclasses import dataclass

GPUS = (8, 32, 128, 512)
UPDATES = 218
"""Of the paper's recipe."""


@dataclass(frozen=True)
class Model:
    """A dense transformer: parameters, layers, and bytes of keys and values of one token (bfloat16)."""

    name: str
    parameters: float
    layers: int
    key_value_bytes: float
    engine_gpus: int
    """GPUs of one sampling engine (tensor parallel)."""


@dataclass(frozen=True)
class Machine:
    """One H100 (SXM) in nodes of eight, by the maker's figures, and the share of them that well-kept software reaches."""

    flops: float = 989e12
    memory_bytes: float = 80e9
    memory_rate: float = 3.35e12
    link_rate: float = 450e9
    """Bytes a second, one way, within a node."""
    network_rate: float = 50e9
    """Bytes a second of each GPU between nodes (400 Gbit/s)."""
    node_gpus: int = 8
    train_share: float = 0.35
    """Of `flops` in training, where the network is not in the way."""
    score_share: float = 0.45
    """Of `flops` in passes without gradient."""
    decode_share: float = 0.6
    """Of `memory_rate` while tokens are sampled."""
    sync_rate: float = 10e9
    """Bytes a second at which a machine takes over new weights, all machines at once (a broadcast as a tree)."""


@dataclass(frozen=True)
class Work:
    """One update of the paper's recipe (docs/method.md section 5), with lengths that are a guess."""

    prompts: int = 128
    group: int = 4
    prompt_tokens: int = 150
    mean_tokens: int = 900
    longest_tokens: int = 3000
    reward_share: float = 0.8
    """Of the rollouts that the reward learns from."""
    grading_s: float = 2.0
    """Symbolic answers, on the cores beside the GPUs."""

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group

    @property
    def tokens(self) -> float:
        return self.rollouts * (self.prompt_tokens + self.mean_tokens)


MODELS = (
    Model("3B", 3.1e9, 36, 36 * 2 * 2 * 128 * 2, engine_gpus=1),
    Model("32B", 32.5e9, 64, 64 * 2 * 8 * 128 * 2, engine_gpus=4),
)


def sampling(model: Model, gpus: int, machine: Machine, work: Work) -> float:
    """Seconds: every engine decodes its share, as long as its longest completion; each token reads weights and keys."""
    engines = max(1, gpus // model.engine_gpus)
    rows = -(-work.rollouts // engines)
    weights = 2 * model.parameters
    room = 0.9 * machine.memory_bytes * model.engine_gpus - weights
    at_once = min(rows, max(1, int(room / (model.key_value_bytes * (work.prompt_tokens + work.mean_tokens)))))
    rounds = -(-rows // at_once)
    rate = machine.decode_share * machine.memory_rate * model.engine_gpus
    mean_context = work.prompt_tokens + work.mean_tokens / 2
    early = (weights + at_once * model.key_value_bytes * mean_context) / rate * work.mean_tokens
    tail = weights / rate * (work.longest_tokens - work.mean_tokens)  # the last rows, nearly alone
    return rounds * early + tail


def training(model: Model, gpus: int, machine: Machine, work: Work, share: float = 1.0) -> tuple[float, float]:
    """Seconds of arithmetic (with checkpointing: 8 per weight and token), and of FSDP's traffic (float32 weights gathered
    twice, gradients scattered, for each piece of at most 16,384 tokens of every GPU)."""
    arithmetic = 8 * model.parameters * work.tokens * share / (gpus * machine.flops * machine.train_share)
    rate = machine.link_rate if gpus <= machine.node_gpus else machine.network_rate
    pieces = max(1.0, work.tokens * share / gpus / 16384)
    return arithmetic, pieces * 12 * model.parameters / rate


def learner_fits(model: Model, gpus: int, machine: Machine) -> bool:
    """Policy and reward with gradients and Adam's moments (16 bytes a weight each), the frozen start (4), and activations of a
    piece of 16,384 tokens with checkpointing."""
    activations = 16384 * model.layers * 2 * 8192
    return 36 * model.parameters / gpus + activations <= 0.9 * machine.memory_bytes


def parts_of(model: Model, learner: int, samplers: int, machine: Machine, work: Work) -> dict[str, float]:
    """Seconds of each part of an update; learner and samplers wait for each other."""
    reward = training(model, learner, machine, work, work.reward_share)
    policy = training(model, learner, machine, work)
    return {
        "sampling": sampling(model, samplers, machine, work),
        "grading": work.grading_s,
        "scoring": 2 * model.parameters * work.tokens / (learner * machine.flops * machine.score_share),
        "reward": max(reward),
        "policy": max(policy),
        "sync": 2 * model.parameters / machine.sync_rate,
    }


def row(model: Model, gpus: int, machine: Machine, work: Work) -> list[str]:
    """One line of the table: the best of seven ways to split the GPUs between learner and samplers."""
    splits = [(gpus * eighth // 8, gpus - gpus * eighth // 8) for eighth in range(1, 8)]
    usable = [
        (learner, samplers)
        for learner, samplers in splits
        if learner_fits(model, learner, machine) and samplers >= model.engine_gpus
    ]
    if not usable:
        return [model.name, str(gpus), "-", *["-"] * 6, "-", "-", "memory of the learner"]
    learner, samplers = min(usable, key=lambda split: sum(parts_of(model, *split, machine, work).values()))
    parts = parts_of(model, learner, samplers, machine, work)
    total = sum(parts.values())
    limit = max(parts, key=lambda name: parts[name])
    if limit in ("reward", "policy"):
        arithmetic, network = training(model, learner, machine, work)
        limit = "training: network" if network > arithmetic else "training: arithmetic"
    elif limit == "sampling":
        alone = sampling(model, 10**6, machine, work)
        limit = "sampling: the longest completion" if alone > 0.7 * parts["sampling"] else "sampling: memory traffic"
    seconds = [f"{value:.1f}" for value in parts.values()]
    return [
        model.name,
        str(gpus),
        f"{learner} + {samplers}",
        *seconds,
        f"{total:.0f}",
        f"{gpus * total * 218 / 3600:.0f}",
        limit,
    ]


def table() -> str:
    """All lines, as Markdown."""
    parts = ["sampling", "grading", "scoring", "reward", "policy", "sync"]
    head = ["model", "GPUs", "learner + samplers", *parts, "update", "GPU hours", "limit"]
    lines = [head, ["---"] * len(head)]
    lines += [row(model, gpus, Machine(), Work()) for model in MODELS for gpus in GPUS]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    print(table())
