"""Policies on benchmarks from Python: `repirl eval` without printing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from repirl.config import parse_config
from repirl.engines.loading import default_device, load_policy
from repirl.evals.policy import evaluate_policy
from repirl.evals.protocol import EvalProtocol
from repirl.evals.report import majority
from repirl.grading.math.grader import Extraction
from repirl.rollouts.prompts import has_template
from repirl.tasks.benchmarks import load_benchmark
from repirl.types import Report


def evaluate(
    policy: str | Path,
    benchmark: str,
    *,
    revision: str | None = None,
    samples: int = 8,
    temperature: float = 1.0,
    greedy: bool = True,
    max_new_tokens: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    chat_template: bool | None = None,
    extraction: Extraction = "strict",
    metrics: Sequence[str] = (),
    data_dir: str | Path | None = None,
    include: Sequence[str | Path] = (),
    out: str | Path | None = None,
    dtype: str = "float32",
    device: str | None = None,
    allow_weak_sandbox: bool = False,
) -> Report:
    """A policy (`tiny`, a folder or a hub id) on a benchmark: greedy accuracy, avg@n, pass@k and maj@n, each an `Interval`.

    The arguments are the options of `repirl eval`, and the numbers are those that it prints: `metrics` adds others (`pass@5`),
    `out` keeps samples, so that an interrupted evaluation continues. `chat_template` None: if the policy has one; `device`
    None: cuda if there is one. UserError for a policy, benchmark or setting that is none; GradingFault if too much is ungraded.
    """
    sampling = {"samples": samples, "temperature": temperature, "greedy": greedy, "max_new_tokens": max_new_tokens}
    protocol = parse_config(EvalProtocol, sampling | {"limit": limit, "seed": seed, "extraction": extraction})
    problems = load_benchmark(benchmark, data_dir=data_dir, include=include)
    loaded = load_policy(policy, dtype=dtype, device=device or default_device(), revision=revision)
    chat = has_template(loaded.tokenizer) if chat_template is None else chat_template
    return evaluate_policy(
        loaded,
        problems,
        protocol.model_copy(update={"chat_template": chat}),
        folder=None if out is None else Path(out),
        allow_weak_sandbox=allow_weak_sandbox,
        metrics=[*majority(problems, samples), *metrics],
    )
