"""The alternating loop: resuming is exact, folders are bound to their settings, batches are the same for all methods."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repirl.engines.loading import load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import GradingFault, UserError
from repirl.learn.checkpoint import RunFolder
from repirl.learn.collect import Collector, SamplingConfig, ValidationConfig, Validator
from repirl.learn.energy_reward import EnergyReward
from repirl.learn.irl import IRLConfig
from repirl.learn.loop import Loop, LoopConfig, LoopData, LoopResult, batch_of
from repirl.learn.mixing import MixConfig
from repirl.learn.policy_losses import PolicyLossConfig
from repirl.learn.update import OptimConfig
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import energy_from_policy
from repirl.rewards.nulls import RandomReward
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks import arith
from repirl.types import Verdict

PROBLEMS = arith.problems("train", 7, levels=(1, 2))
CONFIG = LoopConfig(
    steps=4,
    sampling=SamplingConfig(prompts_per_step=3, group_size=3, max_new_tokens=10),
    mix=MixConfig(process_weight=0.5, process_credit="step", process_scale="batch_std"),
    optim=OptimConfig(lr=1e-2, mini_batches=2, warmup_steps=3, loss=PolicyLossConfig(entropy_weight=0.01)),
    validation=ValidationConfig(every=2, num_problems=3, samples=2),
)


class Killed(Exception):
    """Stands for the end of the process."""


def by_parity(problems, completions, finish_reasons) -> list[Verdict]:
    """A verdict that a random policy gets right half the time: the parity of the completion's characters."""
    return [Verdict("correct" if sum(map(ord, text)) % 2 else "wrong") for text in completions]


def make_loop(
    make_policy, tokenizer, folder: Path, method: str, config: LoopConfig = CONFIG, kill_after: int = 0, **extra
) -> Loop:
    """All objects anew, as a new process would make them."""

    def on_step(step: int, steps: int, metrics: dict[str, Any]) -> None:
        if step == kill_after:
            raise Killed

    model = make_policy(0)
    process = None
    if method == "repirl":
        contract = RewardContract(
            kind="energy",
            method="repirl",
            step_separator="\n",
            template="plain",
            step_aggregation="mean",
            solution_aggregation="mean",
            base_digest="",
            training_digest="",
        )
        irl = IRLConfig(weights="length_normalized", lr=1e-2, epochs=2)
        process = EnergyReward(energy_from_policy(model), tokenizer, irl, StepSegmentation("\n"), contract)
    collector = Collector(tokenizer, TorchEngine(model, tokenizer), extra.pop("grader", by_parity), config.sampling)
    demos = {p.id: tuple(arith.demonstrations(p, 2)) for p in PROBLEMS}
    data = LoopData(PROBLEMS[:5], PROBLEMS[5:], demos if method == "repirl" else {})
    run = RunFolder(folder, {"method": method})
    return Loop(model, collector, data, process, config, run, extra.pop("seed", 0), on_step, **extra)


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "wall_s" and not k.startswith("time/")} for line in lines]


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Exactly equal, tensors bit for bit; times aside."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key != "wall_s" and not str(key).startswith("time/"):
                assert_equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}/{i}")
    else:
        assert a == b or (a != a and b != b), path


def outcome(loop: Loop) -> tuple[LoopResult, dict[str, Any], list[dict[str, Any]], dict[str, torch.Tensor]]:
    result = loop.run()
    checkpoint = torch.load(loop.folder.path / "checkpoint.pt", weights_only=False)
    return result, checkpoint, without_times(loop.folder.metrics()), loop.model.state_dict()


def assert_same_outcome(a, b) -> None:
    assert_equal(a[1], b[1])
    assert a[2] == b[2]
    assert_equal(a[3], b[3])
    assert a[0].validation == b[0].validation
    assert a[0].best_step == b[0].best_step
    budgets = [{k: v for k, v in vars_of(x[0].budget).items() if k != "wall_s"} for x in (a, b)]
    assert budgets[0] == budgets[1]


def vars_of(budget) -> dict[str, float]:
    return {name: getattr(budget, name) for name in budget.__dataclass_fields__}


# --------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("method", ["rloo", "repirl"])
def test_resumed_equals_uninterrupted_bit_for_bit(make_policy, tokenizer, tmp_path, method):
    whole = outcome(make_loop(make_policy, tokenizer, tmp_path / "whole", method))
    start = make_policy(0).state_dict()
    trained = whole[1]["policy"]["model"]
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    assert [line["step"] for line in whole[2]] == [1, 2, 3, 4]

    with pytest.raises(Killed):
        make_loop(make_policy, tokenizer, tmp_path / "cut", method, kill_after=2).run()
    torch.manual_seed(12345)  # nothing may depend on the process's own random state
    np.random.seed(12345)
    assert_same_outcome(whole, outcome(make_loop(make_policy, tokenizer, tmp_path / "cut", method)))


@pytest.mark.parametrize("method", ["rloo", "repirl"])
def test_killed_between_checkpoints_drops_the_lines_behind_the_last_one(make_policy, tokenizer, tmp_path, method):
    """Checkpoints every 2 steps, killed after step 3, with half a line written."""
    config = CONFIG.model_copy(update={"checkpoint_every": 2})
    whole = outcome(make_loop(make_policy, tokenizer, tmp_path / "whole", method, config))
    with pytest.raises(Killed):
        make_loop(make_policy, tokenizer, tmp_path / "cut", method, config, kill_after=3).run()
    metrics = tmp_path / "cut" / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2, 3]
    with metrics.open("a") as file:
        file.write('{"step": 4, "rew')
    assert_same_outcome(whole, outcome(make_loop(make_policy, tokenizer, tmp_path / "cut", method, config)))


def test_killed_before_the_first_checkpoint_starts_over(make_policy, tokenizer, tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_every": 4})
    whole = outcome(make_loop(make_policy, tokenizer, tmp_path / "whole", "rloo", config))
    with pytest.raises(Killed):
        make_loop(make_policy, tokenizer, tmp_path / "cut", "rloo", config, kill_after=1).run()
    assert_same_outcome(whole, outcome(make_loop(make_policy, tokenizer, tmp_path / "cut", "rloo", config)))


def test_a_finished_loop_runs_no_further_step(make_policy, tokenizer, tmp_path):
    first = outcome(make_loop(make_policy, tokenizer, tmp_path, "rloo"))
    again = outcome(make_loop(make_policy, tokenizer, tmp_path, "rloo", kill_after=4))
    assert_same_outcome(first, again)
    assert again[0].last_metrics["step"] == 4


def test_behavioural_cloning_resumes_exactly(policy_folder, tmp_path, monkeypatch):
    method = load_method("bc")
    data = {"num_problems": 6, "validation_problems": 3, "levels": (1, 2)}
    recipe = method.recipe("tiny").model_dump()
    sampling = {**recipe["sampling"], "prompts_per_step": 3, "max_new_tokens": 10}
    config = type(method.recipe("tiny")).model_validate(
        {**recipe, "data": {**recipe["data"], **data}, "sampling": sampling, "steps": 4, "lr": 1e-2,
         "validation": {"every": 2, "num_problems": 3, "samples": 2}}
    )  # fmt: skip

    def fit(folder: Path, kill_after: int = 0):
        def on_step(step: int, steps: int, metrics: dict[str, Any]) -> None:
            if step == kill_after:
                raise Killed

        fitted = method.fit(FitContext(load_policy(policy_folder), folder, 0, on_step), config)
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return fitted, without_times(metrics), (folder / "policy" / "model.safetensors").read_bytes()

    # The last checkpoint wins, so that the weights compared are those of the last step.
    monkeypatch.setattr(Validator, "load_best", lambda validator, model: validator.history[-1])
    whole = fit(tmp_path / "whole")
    assert whole[2] != (policy_folder / "model.safetensors").read_bytes()
    assert [line["step"] for line in whole[1]] == [1, 2, 3, 4]
    assert whole[1][0]["loss"] > whole[1][-1]["loss"]
    with pytest.raises(Killed):
        fit(tmp_path / "cut", kill_after=2)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.0}\n')
    resumed = fit(tmp_path / "cut")
    assert resumed[1] == whole[1]
    assert resumed[2] == whole[2]
    assert resumed[0].budget.trained_tokens == whole[0].budget.trained_tokens
    assert resumed[0].budget.policy_updates == 4


# ---------------------------------------------------------------------------------------------- folders


def test_a_folder_belongs_to_its_settings(tmp_path):
    RunFolder(tmp_path, {"seed": 7})  # nothing has begun here: a command that was mistyped leaves the folder free
    RunFolder(tmp_path, {"seed": 0, "config": {"lr": 1e-4, "levels": (1, 2)}}).log({"step": 1})
    RunFolder(tmp_path, {"config": {"levels": [1, 2], "lr": 1e-4}, "seed": 0})
    for other in ({"seed": 1, "config": {"lr": 1e-4, "levels": [1, 2]}}, {"seed": 0, "config": {"lr": 2e-4, "levels": [1, 2]}}):
        with pytest.raises(UserError, match="other settings"):
            RunFolder(tmp_path, other)


def test_nan_is_logged_as_null_and_read_back(tmp_path):
    run = RunFolder(tmp_path, {})
    run.log({"step": 1, "auc": float("nan")})
    assert run.metrics() == [{"step": 1, "auc": None}]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


# ------------------------------------------------------------------------------------------------ steps


def test_batches_are_passes_over_one_seeded_order_for_every_method():
    drawn = [problem.id for step in range(4) for problem in batch_of(PROBLEMS, step, 7, seed=3)]
    for start in range(0, 28, 7):
        assert Counter(drawn[start : start + 7]) == Counter(p.id for p in PROBLEMS)
    assert drawn[:7] != drawn[7:14]
    in_threes = [problem.id for step in range(7) for problem in batch_of(PROBLEMS, step, 3, seed=3)]
    assert in_threes == drawn[:21]
    assert [p.id for p in batch_of(PROBLEMS, 0, 7, seed=4)] != drawn[:7]


def test_a_problem_that_comes_twice_in_a_step_gets_further_samples(make_policy, tokenizer, tmp_path):
    collector = make_loop(make_policy, tokenizer, tmp_path, "rloo").collector
    first, other, second = collector.groups([PROBLEMS[0], PROBLEMS[1], PROBLEMS[0]], 3, seed=5)
    (whole,) = collector.groups([PROBLEMS[0]], 6, seed=5)
    assert [r.text for r in (*first.rollouts, *second.rollouts)] == [r.text for r in whole.rollouts]
    assert [r.sample_index for r in second.rollouts] == [3, 4, 5]
    assert other.problem == PROBLEMS[1]


def test_dropout_is_off_in_training(make_policy, tokenizer, tmp_path):
    """The batch is exactly on-policy, and the same seed gives the same weights, whatever the process drew before."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = make_policy(0)
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5
        config = CONFIG.model_copy(update={"optim": OptimConfig(lr=1e-2), "steps": 2})
        loop = make_loop(lambda _, model=model: model, tokenizer, tmp_path / str(seed), "rloo", config)
        loop.run()
        assert all(line["engine_logprob_gap_max"] < 1e-4 for line in loop.folder.metrics())
        found.append(loop.folder.metrics()[-1]["entropy"])
    assert found[0] == found[1]


def test_the_best_validated_weights_are_the_result(make_policy, tokenizer, tmp_path):
    loop = make_loop(make_policy, tokenizer, tmp_path, "rloo")
    result, _, lines, weights = outcome(loop)
    steps, accuracies = zip(*result.validation, strict=True)
    assert steps == (0, 2, 4)
    assert result.best_validation == max(accuracies)
    assert result.best_step == steps[accuracies.index(max(accuracies))]
    assert [line.get("validation_accuracy") for line in lines] == [None, accuracies[1], None, accuracies[2]]
    expected = torch.load(tmp_path / "best.pt", weights_only=True)
    assert_equal(weights, expected)
    if result.best_step == 0:
        assert_equal(weights, make_policy(0).state_dict())


def test_budgets_count_what_was_used(make_policy, tokenizer, tmp_path):
    result = make_loop(make_policy, tokenizer, tmp_path, "repirl").run()
    budget = result.budget
    assert budget.policy_updates == 4 * 2
    assert budget.rollouts == budget.grader_calls == 4 * 9 + 3 * 2 * 2
    assert budget.demonstrations == 4 * 3 * 2
    assert budget.generated_tokens <= budget.rollouts * 10
    assert budget.scored_tokens > 0
    outcome_only = make_loop(make_policy, tokenizer, tmp_path / "rloo", "rloo").run().budget
    assert (outcome_only.demonstrations, outcome_only.scored_tokens) == (0, 0)
    assert outcome_only.rollouts == budget.rollouts


def test_warm_up_keeps_the_process_reward_out_of_the_policy(make_policy, tokenizer, tmp_path):
    """While it lasts the policy is that of outcome-only training; the reward learns already."""
    config = CONFIG.model_copy(update={"process_warmup_steps": 2, "steps": 2})
    warm = outcome(make_loop(make_policy, tokenizer, tmp_path / "warm", "repirl", config))
    plain = outcome(make_loop(make_policy, tokenizer, tmp_path / "plain", "rloo", config))
    assert_equal(warm[1]["policy"]["model"], plain[1]["policy"]["model"])
    assert warm[1]["process"]["trained_tokens"] > 0
    cold = outcome(make_loop(make_policy, tokenizer, tmp_path / "cold", "repirl", CONFIG.model_copy(update={"steps": 2})))
    changed = cold[1]["policy"]["model"]
    assert any(not torch.equal(changed[name], value) for name, value in plain[1]["policy"]["model"].items())


def test_the_process_weight_falls_linearly_after_the_warm_up():
    config = CONFIG.model_copy(update={"process_warmup_steps": 2, "process_decay_steps": 4})
    assert [config.process_share(step) for step in range(8)] == [0, 0, 1, 0.75, 0.5, 0.25, 0, 0]
    assert [CONFIG.process_share(step) for step in (0, 100)] == [1, 1]


def test_a_process_weight_that_has_decayed_is_outcome_only(make_policy, tokenizer, tmp_path):
    """From the same state the step after the decay is that of outcome-only training."""
    config = CONFIG.model_copy(update={"process_decay_steps": 1, "steps": 2})
    decayed = make_loop(make_policy, tokenizer, tmp_path / "decayed", "repirl", config)
    plain = make_loop(make_policy, tokenizer, tmp_path / "plain", "rloo", config)
    for loop in (decayed, plain):
        loop._step(1)
    assert_equal(decayed.updater.state()["model"], plain.updater.state()["model"])


def test_the_engine_agrees_with_the_trainer(make_policy, tokenizer, tmp_path):
    lines = outcome(make_loop(make_policy, tokenizer, tmp_path, "rloo"))[2]
    assert all(line["engine_logprob_gap_max"] < 1e-4 for line in lines)


# --------------------------------------------------------------------------------------------- mistakes


def test_mistakes_of_the_caller(make_policy, tokenizer, tmp_path):
    loop = make_loop(make_policy, tokenizer, tmp_path / "a", "rloo")
    for data, match in (
        (LoopData([], PROBLEMS, {}), "no training problems"),
        (LoopData(PROBLEMS, [], {}), "no validation problems"),
    ):
        with pytest.raises(UserError, match=match):
            Loop(loop.model, loop.collector, data, None, CONFIG, loop.folder, 0)
    truncated = CONFIG.model_copy(update={"sampling": CONFIG.sampling.model_copy(update={"top_p": 0.9})})
    reward = RandomReward(tokenizer, StepSegmentation("\n"))
    with pytest.raises(UserError, match="full distribution"):
        Loop(loop.model, loop.collector, loop.data, reward, truncated, loop.folder, 0)


def test_too_many_ungraded_stop_the_run(make_policy, tokenizer, tmp_path):
    def broken(problems, completions, finish_reasons) -> list[Verdict]:
        return [Verdict("ungraded", "timeout")] * len(completions)

    with pytest.raises(GradingFault, match="timeout"):
        make_loop(make_policy, tokenizer, tmp_path, "rloo", grader=broken).run()
