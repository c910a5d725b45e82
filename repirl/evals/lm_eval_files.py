"""An evaluation as lm-eval writes one, for what reads its files: `results.json`, and `samples_TASK.jsonl` with the prompts.

Of a problem there is one line for each part of the protocol (`greedy`, `sampled`), as lm-eval has one for each filter: `filter`
names it. `acc` is the share of graded samples that are right, null where none was graded. Times and names of machines are left
out, so that the same evaluation gives the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repirl.errors import UserError
from repirl.evals.metrics import part_of, problem_values
from repirl.evals.protocol import GREEDY
from repirl.paths import replace_file
from repirl.rollouts.prompts import has_template, in_template
from repirl.tasks.benchmarks import Benchmark
from repirl.types import Interval, Problem, Report, SampleRow

if TYPE_CHECKING:
    from repirl.engines.loading import LoadedPolicy

RESULTS_FILE = "results.json"
_NORMAL_95 = 1.959964
"""Half the width of a 95% interval, in standard errors, where the mean is normal."""


def task_name(benchmark: str) -> str:
    """A benchmark's name as one of a file."""
    return benchmark.replace(":", "-").replace("/", "-").replace(",", "-")


def write_samples(folder: Path, benchmark: Benchmark, report: Report, tokenizer: Any) -> Path:
    """`samples_TASK.jsonl`, with what lm-eval's `--log_samples` writes of each; the prompt as the policy got it."""
    path = folder / f"samples_{task_name(benchmark.name)}.jsonl"
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in _samples(benchmark, report, tokenizer)]
    replace_file(path, lambda file: file.write("".join(lines).encode("utf-8", "backslashreplace")))
    return path


def write_results(folder: Path, benchmark: Benchmark, report: Report, policy: LoadedPolicy) -> Path:
    """`results.json` with this benchmark among those that it has of the same policy; UserError if it is no such file."""
    path = folder / RESULTS_FILE
    name = task_name(benchmark.name)
    model = {"model": "repirl", "model_args": f"pretrained={policy.name}", "model_sha": policy.digest}
    found: dict[str, Any] = {}
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            known = found["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("a file in the folder is no result of an evaluation", str(path), "move it away") from error
        found = found if known.get("model_sha") == policy.digest else {}
    for key, value in _result(benchmark, report).items():
        found.setdefault(key, {})[name] = value
    seeds = dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), report.protocol["seed"])
    found["config"] = model | {"limit": report.protocol["limit"], **seeds}
    found |= {"model_source": "repirl", "model_name": policy.name, "lm_eval_version": version("lm_eval")}
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    replace_file(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    return path


def _result(benchmark: Benchmark, report: Report) -> dict[str, Any]:
    """What each top-level object of `results.json` has of one task. `intervals` is ours: lm-eval knows standard errors."""
    name = task_name(benchmark.name)
    metrics: dict[str, Any] = {"alias": name, "sample_len": len(_ids(report))}
    for metric, interval in report.metrics.items():
        of = part_of(metric, report.samples) or GREEDY
        metrics[f"{metric},{of}"] = interval.value
        if interval.high is not None and interval.low is not None:
            metrics[f"{metric}_stderr,{of}"] = (interval.high - interval.low) / 2 / _NORMAL_95
    return {
        "results": metrics,
        "group_subtasks": [],
        "configs": _config(benchmark, report),
        "versions": benchmark.card.version or "N/A",
        "n-shot": 0,
        "higher_is_better": dict.fromkeys(report.metrics, True),
        "n-samples": {"original": len(benchmark.problems), "effective": len(_ids(report))},
        "intervals": {metric: _bounds(interval) for metric, interval in report.metrics.items()},
        "task_hashes": benchmark.data_digest,
    }


def _config(benchmark: Benchmark, report: Report) -> dict[str, Any]:
    return {
        "task": task_name(benchmark.name),
        "output_type": "generate_until",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [{"name": part} for part in report.samples],
        "generation_kwargs": _asked(report.protocol, sampled=True),
        "num_fewshot": 0,
        "metadata": {"version": benchmark.card.version, "card_digest": benchmark.card.digest, **report.protocol},
    }


def _asked(protocol: Mapping[str, Any], *, sampled: bool) -> dict[str, Any]:
    """How completions were generated, in lm-eval's words."""
    found = {"until": list(protocol["stop"]), "max_gen_toks": protocol["max_new_tokens"], "do_sample": sampled}
    return found | {"temperature": protocol["temperature"] if sampled else 0.0}


def _samples(benchmark: Benchmark, report: Report, tokenizer: Any) -> Iterator[dict[str, Any]]:
    problems = {problem.id: (number, problem) for number, problem in enumerate(benchmark.problems)}
    for part, rows in report.samples.items():
        accuracy = problem_values("greedy", rows)  # the mean verdict, whatever the part is called
        groups: dict[str, list[SampleRow]] = {}
        for row in sorted(rows, key=lambda row: row.sample_index):
            groups.setdefault(row.problem_id, []).append(row)
        for problem_id in sorted(groups, key=lambda one: problems[one][0]):
            number, problem = problems[problem_id]
            yield _sample(number, problem, part, groups[problem_id], accuracy[problem_id], report, tokenizer)


def _sample(
    number: int, problem: Problem, part: str, rows: Sequence[SampleRow], accuracy: float, report: Report, tokenizer: Any
) -> dict[str, Any]:
    chat = report.protocol["chat_template"] and has_template(tokenizer)
    prompt = in_template(tokenizer, problem.prompt) if chat else problem.prompt
    doc = {"id": problem.id, "problem": problem.prompt, "answer": problem.answer, "level": problem.level}
    target = problem.answer or ""
    answers = [row.extracted or "" for row in rows]
    return {
        "doc_id": number,
        "doc": doc | {"subject": problem.subject},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": _asked(report.protocol, sampled=part != GREEDY)}},
        "resps": [[row.text for row in rows]],
        "filtered_resps": answers if len(answers) == 1 else [answers],
        "filter": part,
        "metrics": ["acc"],
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(target),
        "acc": accuracy if accuracy == accuracy else None,
        "outcomes": [row.outcome for row in rows],
    }


def _ids(report: Report) -> set[str]:
    return {row.problem_id for rows in report.samples.values() for row in rows}


def _bounds(interval: Interval) -> dict[str, float | None]:
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
