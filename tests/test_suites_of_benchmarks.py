"""Suites of benchmarks (lm-eval groups), parameters in a benchmark's name, and tasks of lm-eval itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repirl.errors import UserError
from repirl.evals.policy import evaluate_policy
from repirl.evals.protocol import EvalProtocol
from repirl.grading.dispatch import grade_rollouts
from repirl.paths import content_dir
from repirl.tasks.benchmarks import benchmark_suites, expand_benchmarks, load_benchmark
from repirl.tasks.task_files import find_task_files

# ----------------------------------------------------------------------------------------------------- suites


def test_the_papers_suites() -> None:
    suites = benchmark_suites()
    assert suites["paper-math"] == ("math500", "aime24", "minerva_math", "amc22_23", "olympiadbench")
    assert suites["paper-code"] == ("leetcode", "livecodebench")
    assert suites["smoke"] == ("arith", "minicode")
    assert set(suites["paper-math"]) < set(suites["math"])
    assert set(suites["paper-code"]) < set(suites["code"])
    assert expand_benchmarks(["arith", "smoke", "math500"]) == ["arith", "minicode", "math500"]


def test_lm_eval_expands_a_suite_to_the_same_tasks() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(content_dir("benchmarks")), include_defaults=False)
    assert set(manager.all_groups) == set(find_task_files(()).groups)
    assert list(manager.load(["smoke"])["tasks"]) == ["arith", "minicode"]


@pytest.mark.parametrize(
    ("members", "said"),
    [("[arith, nothing]", "names an unknown benchmark: 'nothing'"), ("[again]", "not itself"), ("arith", "needs a list")],
)
def test_a_malformed_suite_is_named(tmp_path: Path, members: str, said: str) -> None:
    (tmp_path / "again.yaml").write_text(f"group: again\ntask: {members}\n")
    with pytest.raises(UserError, match=said):
        expand_benchmarks(["again"], [tmp_path])


def test_a_suite_is_no_benchmark() -> None:
    with pytest.raises(UserError, match=r"unknown benchmark: 'smoke'.*smoke is a suite"):
        load_benchmark("smoke")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("arith:release=v5", "the benchmark arith takes no parameter: 'release=v5'; it takes none"),
        ("livecodebench:year=2024", "takes no parameter.*it takes release, date_from, date_to"),
        ("livecodebench:date_from=May", r"bad date_from .*dates are YYYY-MM-DD"),
        ("livecodebench_samples:release=v5", "takes no parameter.*it takes date_from, date_to"),
    ],
)
def test_parameters_that_mean_nothing(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_benchmark(name)


# ------------------------------------------------------------------------------------------ tasks of lm-eval

TASK = """
task: capitals
custom_dataset: !function capitals.rows
test_split: test
output_type: {output_type}
doc_to_text: "Capital of {{{{country}}}}?"
doc_to_target: "{{{{capital}}}}"
{choices}
generation_kwargs: {{until: ["\\n"], max_gen_toks: 9}}
{filters}
metric_list:
  - metric: exact_match
    ignore_case: true
metadata: {{version: 3}}
"""
FILTERS = """
filter_list:
  - name: whole
    filter: [{function: take_first}]
  - name: last-word
    filter: [{function: regex, regex_pattern: '(\\w+)\\W*$'}, {function: take_first}]
"""


@pytest.fixture
def harness_task(tmp_path: Path):
    """`harness_task(output_type, filters)`: a folder with lm-eval's task `capitals`, which knows nothing of repirl."""
    (tmp_path / "capitals.py").write_text(
        "from datasets import Dataset\n"
        "def rows(**metadata):\n"
        "    pairs = [('France', 'Paris'), ('Norway', 'Oslo'), ('Peru', 'Lima')]\n"
        "    return {'test': Dataset.from_list([{'country': a, 'capital': b} for a, b in pairs])}\n"
    )

    def write(output_type: str = "generate_until", filters: str = "", extra: str = "") -> Path:
        choices = "doc_to_choice: [a, b]" if output_type == "multiple_choice" else ""
        text = TASK.format(output_type=output_type, choices=choices, filters=filters) + extra
        (tmp_path / "capitals.yaml").write_text(text)
        return tmp_path

    return write


@pytest.fixture
def only_given_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lm-eval's own thousands of task files, which take half a minute to read."""
    from lm_eval.tasks import TaskManager

    original: Any = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, **given: original(self, **(given | {"include_defaults": False})))


@pytest.mark.usefixtures("only_given_tasks")
def test_a_task_of_lm_eval_brings_its_own_prompt_stop_strings_and_grader(harness_task) -> None:
    # Not in `include` as a card of ours, which it is not: only lm-eval reads it.
    benchmark = load_benchmark("lm-eval:capitals", include=[harness_task()])
    assert [p.prompt for p in benchmark.problems] == [f"Capital of {c}?" for c in ("France", "Norway", "Peru")]
    assert [p.answer for p in benchmark.problems] == ["Paris", "Oslo", "Lima"]
    assert (benchmark.stop, benchmark.max_new_tokens) == (("\n",), 9)
    assert (benchmark.card.grader, benchmark.card.version) == ("task: exact_match,none", "3")
    assert benchmark.grade is not None
    verdicts = benchmark.grade(benchmark.problems, ["PARIS", "Bergen", "Lima."])
    assert [v.outcome for v in verdicts] == ["correct", "wrong", "wrong"]
    with pytest.raises(UserError, match="grades its problems itself"):
        grade_rollouts(benchmark.problems[:1], ["Paris"])


@pytest.mark.usefixtures("only_given_tasks")
def test_the_metric_and_filter_of_a_task_can_be_named(harness_task) -> None:
    folder = harness_task(filters=FILTERS)
    whole = load_benchmark("lm-eval:capitals", include=[folder])
    last = load_benchmark("lm-eval:capitals@exact_match,last-word", include=[folder])
    texts = ["It is Paris.", "Oslo", "I do not know"]
    assert whole.grade is not None
    assert last.grade is not None
    assert [v.outcome for v in whole.grade(whole.problems, texts)] == ["wrong", "correct", "wrong"]
    assert [v.outcome for v in last.grade(last.problems, texts)] == ["correct", "correct", "wrong"]
    assert whole.card.digest != last.card.digest
    assert whole.data_digest == last.data_digest
    for chosen, said in (("f1", "has no metric: 'f1'"), ("exact_match,first", "has no filter: 'first'")):
        with pytest.raises(UserError, match=said):
            load_benchmark(f"lm-eval:capitals@{chosen}", include=[folder])


@pytest.mark.usefixtures("only_given_tasks")
def test_tasks_of_lm_eval_that_cannot_be_evaluated_here(harness_task) -> None:
    with pytest.raises(UserError, match="only generative tasks of lm-eval"):
        load_benchmark("lm-eval:capitals", include=[harness_task("multiple_choice")])
    with pytest.raises(UserError, match="runs generated code outside of the sandbox"):
        load_benchmark("lm-eval:capitals", include=[harness_task(extra="unsafe_code: true\n")])
    with pytest.raises(UserError, match="cannot load the benchmark nothing"):
        load_benchmark("lm-eval:nothing", include=[harness_task()])


@pytest.mark.usefixtures("only_given_tasks")
def test_a_policy_on_a_task_of_lm_eval_is_graded_as_by_lm_eval(harness_task, policy_folder: Path) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager

    from repirl.engines.loading import load_policy

    policy = load_policy(str(policy_folder))
    folder = harness_task()
    benchmark = load_benchmark("lm-eval:capitals", include=[folder])
    report = evaluate_policy(policy, benchmark, EvalProtocol(samples=0))
    hf_model: Any = huggingface.HFLM  # its decorated constructor has no types
    output: Any = simple_evaluate(
        model=hf_model(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=3, device="cpu"),
        tasks=["capitals"],
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=0,
    )
    theirs = sorted(output["samples"]["capitals"], key=lambda sample: sample["doc_id"])
    ours = report.samples["greedy"]
    assert [sample["resps"][0][0] for sample in theirs] == [row.text for row in ours]
    assert [sample["exact_match"] for sample in theirs] == [float(row.outcome == "correct") for row in ours]
    json.dumps(dict(report.protocol))
