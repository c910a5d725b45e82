"""Plain lm-eval and `repirl eval` on real benchmarks: the same prompts, texts and verdicts, problem by problem.

The embedded ones are compared in test_eval.py. The shipped policy knows nothing of these benchmarks, so golds are
spoken for it as well: a model that answers from a list shows both verdicts.
"""

from __future__ import annotations

from typing import Any

import pytest

from repirl.engines.loading import load_policy
from repirl.evals.policy import evaluate_policy
from repirl.evals.protocol import EvalProtocol
from repirl.grading.dispatch import grade_rollouts
from repirl.paths import CHECKOUT_DIR, content_dir
from repirl.tasks.benchmarks import Benchmark, load_benchmark

DATA_DIR = CHECKOUT_DIR.parent / "shared" / "data"
LIMIT = 4


@pytest.fixture(params=[("math500", "math500/test.jsonl"), ("humaneval", "humaneval/HumanEval.jsonl.gz")], ids=lambda p: p[0])
def benchmark_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    name, file = request.param
    if not (DATA_DIR / file).is_file():
        pytest.skip(f"no local data for {name}")
    monkeypatch.setenv("REPIRL_DATA_DIR", str(DATA_DIR))
    monkeypatch.setenv("REPIRL_ALLOW_WEAK_SANDBOX", "1")
    return load_benchmark(name)


def by_lm_eval(name: str, model: Any) -> list[dict[str, Any]]:
    """lm-eval's samples of the first problems, in order."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(content_dir("benchmarks")), include_defaults=False)
    output: Any = simple_evaluate(
        model=model, tasks=[name], task_manager=manager, limit=LIMIT, gen_kwargs="max_gen_toks=32", bootstrap_iters=0
    )
    return sorted(output["samples"][name], key=lambda sample: sample["doc_id"])


def test_the_shipped_policy(benchmark_here: Benchmark) -> None:
    from lm_eval.models import huggingface

    hf_model: Any = huggingface.HFLM  # its decorated constructor has no types
    policy = load_policy("tiny")
    protocol = EvalProtocol(samples=0, max_new_tokens=32, limit=LIMIT)
    ours = evaluate_policy(policy, benchmark_here, protocol, allow_weak_sandbox=True).samples["greedy"]
    model = hf_model(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=1, device="cpu")
    theirs = by_lm_eval(benchmark_here.name, model)
    assert [sample["arguments"][0][0] for sample in theirs] == [p.prompt for p in benchmark_here.problems[:LIMIT]]
    assert [sample["resps"][0][0] for sample in theirs] == [row.text for row in ours]
    assert [sample["acc"] for sample in theirs] == [float(row.outcome == "correct") for row in ours]


def test_right_and_wrong_answers(benchmark_here: Benchmark) -> None:
    from lm_eval.api.model import LM

    problems = benchmark_here.problems[:LIMIT]
    golds = [benchmark_here.solutions[p.id] if p.grader == "code" else rf"\boxed{{{p.answer}}}" for p in problems]
    texts = [gold if i % 2 else "I do not know." for i, gold in enumerate(golds)]

    class Spoken(LM):
        def generate_until(self, requests: list[Any]) -> list[str]:
            said = dict(zip((p.prompt for p in problems), texts, strict=True))
            return [said[request.args[0]] for request in requests]

        def loglikelihood(self, requests: list[Any]) -> Any:
            raise AssertionError("not generative")

        loglikelihood_rolling = loglikelihood

    theirs = by_lm_eval(benchmark_here.name, Spoken())
    ours = grade_rollouts(problems, texts, allow_weak_sandbox=True)
    assert [verdict.outcome for verdict in ours] == ["wrong", "correct"] * (LIMIT // 2)
    assert [sample["acc"] for sample in theirs] == [verdict.reward for verdict in ours]
