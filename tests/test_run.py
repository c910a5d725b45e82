"""The training loop and its learners: resuming is exact, folders are bound to their settings, batches are shared."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repirl.engines.loading import load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import GradingFault, NumericalFault, UserError
from repirl.learn.checkpoint import RunFolder
from repirl.learn.credit import LeaveOneOut
from repirl.learn.credit_config import OutcomeCredit, SequenceCredit, StepCredit
from repirl.learn.inverse_rl import InverseRL
from repirl.learn.irl import IRLConfig
from repirl.learn.policy_gradient import LoopConfig, LoopData, PolicyGradient, batch_of
from repirl.learn.policy_losses import PolicyLoss, PolicyLossConfig
from repirl.learn.policy_update import PolicyOptimConfig, _Tally
from repirl.learn.run import RunResult, ValidationConfig, Validator, run_steps
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import energy_from_policy
from repirl.rollouts.collect import Collector, KeepConfig, SamplingConfig
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.tasks import arith
from repirl.types import Budget, Verdict

PROBLEMS = arith.problems("train", 7, levels=(1, 2))
CONFIG = LoopConfig(
    steps=4,
    sampling=SamplingConfig(prompts_per_step=3, group_size=3, max_new_tokens=10),
    credit=StepCredit(process_weight=0.5, process_scale="batch_std"),
    optim=PolicyOptimConfig(lr=1e-2, mini_batches=2, warmup_steps=3, loss=PolicyLossConfig(entropy_weight=0.01)),
    validation=ValidationConfig(every=2, num_problems=3, samples=2),
)


TIMES = ("wall_s", "validation_wall_s")


class Killed(Exception):
    """Stands for the end of the process."""


def by_parity(problems, completions, finish_reasons) -> list[Verdict]:
    """A verdict that a random policy gets right half the time: the parity of the completion's characters."""
    return [Verdict("correct" if sum(map(ord, text)) % 2 else "wrong") for text in completions]


@dataclass
class Trial:
    """A learner with all that its run needs."""

    learner: PolicyGradient
    folder: RunFolder
    validator: Validator
    config: LoopConfig
    on_step: Any

    def run(self) -> RunResult:
        return run_steps(
            self.learner,
            self.config.steps,
            self.folder,
            self.validator,
            checkpoint_every=self.config.checkpoint_every,
            on_step=self.on_step,
        )

    @property
    def model(self):
        return self.learner.policy.updater.model


def make_trial(
    make_policy, tokenizer, folder: Path, method: str, config: LoopConfig = CONFIG, kill_after: int = 0, **extra
) -> Trial:
    """All objects anew, as a new process would make them."""

    def on_step(step: int, steps: int, metrics: dict[str, Any]) -> None:
        if step == kill_after:
            raise Killed

    model = make_policy(0)
    reward = None
    if method == "repirl":
        contract = RewardContract(
            kind="energy",
            method="repirl",
            step_separator="\n",
            template="plain",
            step_aggregation="mean",
            base_digest="",
            training_digest="",
        )
        irl = IRLConfig(weights="length_normalized", lr=1e-2, epochs=2)
        reward = InverseRL(energy_from_policy(model), tokenizer, irl, contract)
    else:
        config = config.model_copy(update={"credit": OutcomeCredit()})
    grader, seed = extra.pop("grader", by_parity), extra.pop("seed", 0)
    engine = TorchEngine(model, tokenizer)
    demos = {p.id: tuple(arith.demonstrations(p, 2)) for p in PROBLEMS}
    data = LoopData(PROBLEMS[:5], demos if method == "repirl" else {})
    collector = Collector(tokenizer, engine, grader, config.sampling.decoding)
    learner = PolicyGradient(model, collector, data, reward, LeaveOneOut(config.credit), config, seed, **extra)
    validator = Validator(Collector(tokenizer, engine, grader, config.sampling.decoding), PROBLEMS[5:], config.validation, seed)
    return Trial(learner, RunFolder(folder, {"method": method}), validator, config, on_step)


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES and not k.startswith("time/")} for line in lines]


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    """Exactly equal, tensors bit for bit; times aside."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key not in TIMES and not str(key).startswith("time/"):
                assert_equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}/{i}")
    else:
        assert a == b or (a != a and b != b), path


def outcome(trial: Trial) -> tuple[RunResult, dict[str, Any], list[dict[str, Any]], dict[str, torch.Tensor]]:
    result = trial.run()
    checkpoint = torch.load(trial.folder.path / "checkpoint.pt", weights_only=False)
    return result, checkpoint, without_times(trial.folder.metrics()), trial.model.state_dict()


def assert_same_outcome(a, b) -> None:
    assert_equal(a[1], b[1])
    assert a[2] == b[2]
    assert_equal(a[3], b[3])
    assert a[0].validation == b[0].validation
    assert a[0].chosen_step == b[0].chosen_step
    assert replace(a[0].budget, wall_s=0) == replace(b[0].budget, wall_s=0)
    assert replace(a[0].validation_budget, wall_s=0) == replace(b[0].validation_budget, wall_s=0)


# --------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("method", ["rloo", "repirl"])
def test_resumed_equals_uninterrupted_bit_for_bit(make_policy, tokenizer, tmp_path, method):
    whole = outcome(make_trial(make_policy, tokenizer, tmp_path / "whole", method))
    start = make_policy(0).state_dict()
    trained = whole[1]["learner"]["policy"]["model"]
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    assert [line["step"] for line in whole[2]] == [0, 1, 2, 3, 4]

    with pytest.raises(Killed):
        make_trial(make_policy, tokenizer, tmp_path / "cut", method, kill_after=2).run()
    torch.manual_seed(12345)  # nothing may depend on the process's own random state
    np.random.seed(12345)
    assert_same_outcome(whole, outcome(make_trial(make_policy, tokenizer, tmp_path / "cut", method)))


@pytest.mark.parametrize("method", ["rloo", "repirl"])
def test_killed_between_checkpoints_drops_the_lines_behind_the_last_one(make_policy, tokenizer, tmp_path, method):
    """Checkpoints every 2 steps, killed after step 3, with half a line written."""
    config = CONFIG.model_copy(update={"checkpoint_every": 2})
    whole = outcome(make_trial(make_policy, tokenizer, tmp_path / "whole", method, config))
    with pytest.raises(Killed):
        make_trial(make_policy, tokenizer, tmp_path / "cut", method, config, kill_after=3).run()
    metrics = tmp_path / "cut" / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [0, 1, 2, 3]
    with metrics.open("a") as file:
        file.write('{"step": 4, "rew')
    assert_same_outcome(whole, outcome(make_trial(make_policy, tokenizer, tmp_path / "cut", method, config)))


def test_killed_before_the_first_checkpoint_starts_over(make_policy, tokenizer, tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_every": 4})
    whole = outcome(make_trial(make_policy, tokenizer, tmp_path / "whole", "rloo", config))
    with pytest.raises(Killed):
        make_trial(make_policy, tokenizer, tmp_path / "cut", "rloo", config, kill_after=1).run()
    assert_same_outcome(whole, outcome(make_trial(make_policy, tokenizer, tmp_path / "cut", "rloo", config)))


def test_a_finished_loop_runs_no_further_step(make_policy, tokenizer, tmp_path):
    first = outcome(make_trial(make_policy, tokenizer, tmp_path, "rloo"))
    again = outcome(make_trial(make_policy, tokenizer, tmp_path, "rloo", kill_after=4))
    assert_same_outcome(first, again)
    assert again[0].last_metrics["step"] == 4


def test_behavioural_cloning_resumes_exactly(policy_folder, tmp_path):
    method = load_method("bc")
    data = {"num_problems": 6, "validation_problems": 3, "levels": (1, 2)}
    recipe = method.recipe("tiny").model_dump()
    sampling = {**recipe["sampling"], "prompts_per_step": 3, "max_new_tokens": 10}
    config = type(method.recipe("tiny")).model_validate(
        {**recipe, "data": {**recipe["data"], **data}, "sampling": sampling, "steps": 4,
         "optim": {**recipe["optim"], "lr": 1e-2},
         # The last checkpoint wins, so that the weights compared are those of the last step.
         "validation": {"every": 2, "num_problems": 3, "samples": 2, "select": "last"}}
    )  # fmt: skip

    def fit(folder: Path, kill_after: int = 0):
        def on_step(step: int, steps: int, metrics: dict[str, Any]) -> None:
            if step == kill_after:
                raise Killed

        fitted = method.fit(FitContext(load_policy(policy_folder), folder, 0, on_step), config)
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return fitted, without_times(metrics), (folder / "policy" / "model.safetensors").read_bytes()

    whole = fit(tmp_path / "whole")
    assert whole[2] != (policy_folder / "model.safetensors").read_bytes()
    assert [line["step"] for line in whole[1]] == [0, 1, 2, 3, 4]
    assert whole[1][1]["loss"] > whole[1][-1]["loss"]
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
    collector = make_trial(make_policy, tokenizer, tmp_path, "rloo").learner.collector
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
        config = CONFIG.model_copy(update={"optim": PolicyOptimConfig(lr=1e-2), "steps": 2})
        trial = make_trial(lambda _, model=model: model, tokenizer, tmp_path / str(seed), "rloo", config)
        trial.run()
        lines = trial.folder.metrics()[1:]
        assert all(line["engine_logprob_gap_max"] < 1e-4 for line in lines)
        found.append(lines[-1]["entropy"])
    assert found[0] == found[1]


def test_the_best_validated_weights_are_the_result(make_policy, tokenizer, tmp_path):
    trial = make_trial(make_policy, tokenizer, tmp_path, "rloo")
    result, _, lines, weights = outcome(trial)
    steps, accuracies = zip(*result.validation, strict=True)
    assert steps == (0, 2, 4)
    assert result.accuracy_at(result.chosen_step) == max(accuracies)
    assert result.chosen_step == steps[accuracies.index(max(accuracies))]
    assert (result.last_step, result.accuracy_at(4), result.accuracy_at(3)) == (4, accuracies[2], None)
    assert [line.get("validation_accuracy") for line in lines] == [accuracies[0], None, accuracies[1], None, accuracies[2]]
    assert_equal(weights, trial.folder.load_best(result.chosen_step)["policy"])
    if result.chosen_step == 0:
        assert_equal(weights, make_policy(0).state_dict())


@pytest.mark.parametrize("chosen", [0, 2, 4])
def test_policy_and_reward_are_of_the_same_step(make_policy, tokenizer, tmp_path, monkeypatch, chosen):
    """Whichever checkpoint validation chooses, the reward that is left is the one that went with that policy."""
    look: list[int] = []

    def accuracy(validator: Validator) -> float:
        look.append(2 * len(look))
        return float(look[-1] == chosen)

    monkeypatch.setattr(Validator, "accuracy", accuracy)
    trial = make_trial(make_policy, tokenizer, tmp_path, "repirl")
    assert trial.run().chosen_step == chosen
    short = make_trial(
        make_policy, tokenizer, tmp_path / "short", "repirl", CONFIG.model_copy(update={"steps": max(1, chosen)})
    )
    for step in range(chosen):
        short.learner.step(step)
    if chosen == 4:  # (the learning rate's schedule is constant: so many steps are the same steps)
        assert_equal(trial.model.state_dict(), short.model.state_dict())
    assert_equal(
        {name: module.state_dict() for name, module in trial.learner.modules.items()},
        {name: module.state_dict() for name, module in short.learner.modules.items()},
    )


def test_best_weights_that_a_killed_run_saw_are_not_taken_for_those_of_the_resumed_one(
    make_policy, tokenizer, tmp_path, monkeypatch
):
    """Killed after it kept the best weights and before the checkpoint said so; the second look finds less (a grader's
    timeout, another machine)."""
    looks = iter([0.1, 0.2, 0.9, 0.15, 0.1])
    monkeypatch.setattr(Validator, "accuracy", lambda validator: next(looks))
    save, folder = RunFolder.save_checkpoint, tmp_path / "cut"

    def killed(run: RunFolder, state: dict) -> None:
        if run.path == folder and state["step"] == 2:
            raise Killed
        save(run, state)

    config = CONFIG.model_copy(update={"validation": ValidationConfig(every=1, num_problems=3, samples=2), "steps": 3})
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", killed)
        with pytest.raises(Killed):
            make_trial(make_policy, tokenizer, folder, "rloo", config).run()
    assert sorted(path.name for path in folder.glob("best*")) == ["best-1.pt", "best-2.pt"]
    resumed = make_trial(make_policy, tokenizer, folder, "rloo", config)
    result = resumed.run()
    assert (result.chosen_step, result.accuracy_at(1), result.accuracy_at(2)) == (1, 0.2, 0.15)
    assert [path.name for path in folder.glob("best*")] == ["best-1.pt"]
    short = make_trial(make_policy, tokenizer, tmp_path / "short", "rloo", config)
    short.learner.step(0)
    assert_equal(resumed.model.state_dict(), short.model.state_dict())


class Baseline(LeaveOneOut):
    """A rule that learns: the running mean reward is its only weight, and every advantage is taken against it."""

    def __init__(self, config: OutcomeCredit) -> None:
        super().__init__(config)
        self.net = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.net.weight)
        self.seen = 0

    def advantages(self, groups, scored, done):
        mean = self.net.weight.item()
        return [[a - np.float32(mean) for a in group] for group in super().advantages(groups, scored, done)]

    def learn(self, groups, scored):
        rewards = [verdict.reward for group in groups for verdict in group.verdicts]
        self.seen += len(rewards)
        with torch.no_grad():
            self.net.weight += 0.5 * (float(np.mean(rewards)) - self.net.weight)
        return {"baseline": self.net.weight.item()}

    @property
    def budget(self):
        return Budget(demonstrations=self.seen)  # what nothing else here counts

    @property
    def modules(self):
        return {"baseline": self.net}

    def state(self):
        return {"net": self.net.state_dict(), "seen": self.seen}

    def load_state(self, state):
        self.net.load_state_dict(state["net"])
        self.seen = state["seen"]


def test_a_credit_rule_that_learns_resumes_counts_and_is_of_the_chosen_step(make_policy, tokenizer, tmp_path, monkeypatch):
    def trial(name: str, kill_after: int = 0) -> Trial:
        made = make_trial(make_policy, tokenizer, tmp_path / name, "rloo", kill_after=kill_after)
        made.learner.credit = Baseline(OutcomeCredit())
        return made

    monkeypatch.setattr(Validator, "accuracy", lambda validator: 0.5)
    whole = trial("whole")
    found = outcome(whole)
    shown = [line["credit/baseline"] for line in found[2][1:]]
    assert len(set(shown)) == 4
    assert found[1]["learner"]["credit"]["net"]["weight"].item() == pytest.approx(shown[-1])
    assert found[0].chosen_step == 0  # the earliest of equals: policy and rule as they were then
    assert whole.learner.modules["baseline"].weight.item() == 0
    assert found[0].budget.demonstrations == 4 * CONFIG.sampling.prompts_per_step * CONFIG.sampling.group_size
    with pytest.raises(Killed):
        trial("cut", kill_after=2).run()
    assert_same_outcome(found, outcome(trial("cut")))
    plain = outcome(make_trial(make_policy, tokenizer, tmp_path / "plain", "rloo"))
    trained = plain[1]["learner"]["policy"]["model"]
    assert any(not torch.equal(value, trained[name]) for name, value in found[1]["learner"]["policy"]["model"].items())


def test_a_process_rule_without_a_process_reward_is_refused_before_anything_runs(make_policy, tokenizer):
    credit = StepCredit(process_weight=1.0)
    config = CONFIG.model_copy(update={"credit": credit})
    model = make_policy(0)
    collector = Collector(tokenizer, TorchEngine(model, tokenizer), by_parity, config.sampling.decoding)
    with pytest.raises(UserError, match=r"pays a process reward, and this method has none: 'step'"):
        PolicyGradient(model, collector, LoopData(PROBLEMS, {}), None, LeaveOneOut(credit), config, 0)


def test_a_gap_that_is_no_number_is_not_the_best_one():
    tally = _Tally()
    result = PolicyLoss(torch.zeros(()), 0.0, 0.0, 0.0)
    for gaps in ([0.5], [float("nan")], [3.0]):
        tally.add(result, torch.tensor(gaps))
    assert math.isnan(tally.gap)


def test_the_last_checkpoint_can_be_asked_for(make_policy, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(Validator, "accuracy", lambda validator: 0.0)
    config = CONFIG.model_copy(update={"validation": CONFIG.validation.model_copy(update={"select": "last"})})
    trial = make_trial(make_policy, tokenizer, tmp_path, "rloo", config)
    result, checkpoint, _, weights = outcome(trial)
    assert result.chosen_step == 4
    assert_equal(weights, checkpoint["learner"]["policy"]["model"])
    assert not list(tmp_path.glob("best*"))


def test_a_run_can_stop_early_and_stays_stopped(make_policy, tokenizer, tmp_path):
    trial = make_trial(make_policy, tokenizer, tmp_path, "rloo")
    enough = lambda metrics: "validation_accuracy" in metrics
    result = run_steps(trial.learner, 4, trial.folder, trial.validator, stop=enough)
    assert (result.last_step, result.budget.policy_updates) == (2, 4)
    again = make_trial(make_policy, tokenizer, tmp_path, "rloo")
    resumed = run_steps(again.learner, 4, again.folder, again.validator, stop=enough)
    assert (resumed.last_step, resumed.budget.policy_updates) == (2, 4)


def test_budgets_count_what_was_used_training_and_validation_apart(make_policy, tokenizer, tmp_path):
    result = make_trial(make_policy, tokenizer, tmp_path, "repirl").run()
    budget, validation = result.budget, result.validation_budget
    assert budget.policy_updates == 4 * 2
    assert budget.rollouts == budget.grader_calls == 4 * 9
    assert validation.rollouts == validation.grader_calls == 3 * 2 * 2
    assert (validation.policy_updates, validation.trained_tokens) == (0, 0)
    assert budget.demonstrations == 4 * 3 * 2
    assert budget.generated_tokens <= budget.rollouts * 10
    assert 0 < validation.wall_s < 60
    outcome_only = make_trial(make_policy, tokenizer, tmp_path / "rloo", "rloo").run().budget
    assert outcome_only.demonstrations == 0
    assert outcome_only.rollouts == budget.rollouts
    # Two mini-batches: the log-probabilities of the old policy cost a pass over all rollouts.
    assert 0 < outcome_only.scored_tokens < budget.scored_tokens
    on_policy = CONFIG.model_copy(update={"optim": PolicyOptimConfig(lr=1e-2)})
    free = make_trial(make_policy, tokenizer, tmp_path / "free", "rloo", on_policy).run().budget
    assert (free.scored_tokens, free.policy_updates) == (0, 4)


def test_filtered_groups_teach_nothing(make_policy, tokenizer, tmp_path):
    """An empty batch moves nothing, and is no NaN."""

    def all_wrong(problems, completions, finish_reasons) -> list[Verdict]:
        return [Verdict("wrong")] * len(completions)

    config = CONFIG.model_copy(update={"sampling": CONFIG.sampling.model_copy(update={"keep": KeepConfig(accuracy=(1, 1))})})
    trial = make_trial(make_policy, tokenizer, tmp_path, "repirl", config, grader=all_wrong)
    metrics = trial.learner.step(0)
    assert metrics["kept_groups"] == 0
    assert all(value == value for value in metrics.values())
    assert_equal(trial.model.state_dict(), make_policy(0).state_dict())
    mixed = CONFIG.model_copy(update={"sampling": CONFIG.sampling.model_copy(update={"keep": KeepConfig(accuracy=(0.1, 0.9))})})
    found = make_trial(make_policy, tokenizer, tmp_path / "b", "rloo", mixed).learner.step(0)
    assert found["kept_groups"] == found["mixed_groups"]


def test_what_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(make_policy, tokenizer, tmp_path):
    trial = make_trial(make_policy, tokenizer, tmp_path, "rloo")
    pay = trial.learner.credit.advantages

    def broken(groups, scored, done: float):
        return [[tokens_T + (np.nan if done >= 0.5 else 0) for tokens_T in group] for group in pay(groups, scored, done)]

    trial.learner.credit.advantages = broken  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(NumericalFault, match=r"after step 2: loss nan.*not finite.*learning rate.*checkpoint of step 2 is in"):
        trial.run()
    kept_state = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert kept_state["step"] == 2
    assert_equal(trial.model.state_dict(), kept_state["learner"]["policy"]["model"])
    whole = outcome(make_trial(make_policy, tokenizer, tmp_path / "whole", "rloo"))
    assert_same_outcome(whole, outcome(make_trial(make_policy, tokenizer, tmp_path, "rloo")))


def test_updates_that_are_not_finite_can_be_skipped_and_are_counted(make_policy, tokenizer, tmp_path):
    """The step of the broken loss moves nothing; the others do."""
    optim = CONFIG.optim.model_copy(update={"non_finite": "skip", "mini_batches": 1})
    trial = make_trial(make_policy, tokenizer, tmp_path, "rloo", CONFIG.model_copy(update={"optim": optim}))
    pay = trial.learner.credit.advantages

    def broken(groups, scored, done: float):
        return [[tokens_T + (np.nan if done == 0.5 else 0) for tokens_T in group] for group in pay(groups, scored, done)]

    trial.learner.credit.advantages = broken  # pyright: ignore[reportAttributeAccessIssue]
    for step in (0, 1):
        assert trial.learner.step(step)["skipped_updates"] == 0
    before = {name: value.clone() for name, value in trial.model.state_dict().items()}
    assert trial.learner.step(2)["skipped_updates"] == 1
    assert_equal(before, trial.model.state_dict())
    trial.learner.step(3)
    assert any(not torch.equal(value, before[name]) for name, value in trial.model.state_dict().items())
    assert trial.learner.state()["policy"]["skipped"] == 1


@pytest.mark.parametrize("what", ["weights", "rewards"])
def test_weights_and_rewards_that_are_no_numbers_never_become_a_checkpoint(make_policy, tokenizer, tmp_path, what):
    trial = make_trial(make_policy, tokenizer, tmp_path, "repirl")
    step, learn = trial.learner.step, trial.learner.reward.learn

    def spoil(index: int):
        metrics = step(index)
        if index == 1:
            with torch.no_grad():
                next(iter(trial.learner.modules["reward"].parameters())).view(-1)[0] = float("inf")
        return metrics

    def nan_rewards(groups, index: int):
        learned = learn(groups, index)
        if index == 1:
            learned.scored[0][0].token_rewards[0] = np.nan
        return learned

    if what == "weights":
        trial.learner.step = spoil  # pyright: ignore[reportAttributeAccessIssue]
    else:
        trial.learner.reward.learn = nan_rewards
    said = {"weights": "after step 2: weights of the reward are not finite", "rewards": "after step 1: a token reward is not"}
    with pytest.raises(NumericalFault, match=said[what]):
        trial.run()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert state["step"] == 1
    assert all(value.isfinite().all() for value in state["learner"]["reward"]["updater"]["model"].values())


def test_warm_up_keeps_the_process_reward_out_of_the_policy(make_policy, tokenizer, tmp_path):
    """While it lasts the policy is that of outcome-only training; the reward learns already."""
    credit = StepCredit(process_weight=0.5, process_starts=0.99)
    config = CONFIG.model_copy(update={"credit": credit, "steps": 2})
    warm = outcome(make_trial(make_policy, tokenizer, tmp_path / "warm", "repirl", config))
    plain = outcome(make_trial(make_policy, tokenizer, tmp_path / "plain", "rloo", config))
    assert_equal(warm[1]["learner"]["policy"]["model"], plain[1]["learner"]["policy"]["model"])
    assert warm[1]["learner"]["reward"]["updater"]["trained_tokens"] > 0
    cold = outcome(make_trial(make_policy, tokenizer, tmp_path / "cold", "repirl", CONFIG.model_copy(update={"steps": 2})))
    changed = cold[1]["learner"]["policy"]["model"]
    assert any(not torch.equal(changed[name], value) for name, value in plain[1]["learner"]["policy"]["model"].items())


def test_a_process_weight_that_has_decayed_is_outcome_only(make_policy, tokenizer, tmp_path):
    """From the same state the step after the decay is that of outcome-only training."""
    config = CONFIG.model_copy(update={"credit": StepCredit(process_weight=0.5, process_ends=0.5), "steps": 2})
    decayed = make_trial(make_policy, tokenizer, tmp_path / "decayed", "repirl", config)
    plain = make_trial(make_policy, tokenizer, tmp_path / "plain", "rloo", config)
    for trial in (decayed, plain):
        trial.learner.step(1)
    assert_equal(decayed.model.state_dict(), plain.model.state_dict())


def test_the_engine_agrees_with_the_trainer(make_policy, tokenizer, tmp_path):
    lines = outcome(make_trial(make_policy, tokenizer, tmp_path, "rloo"))[2]
    assert all(line["engine_logprob_gap_max"] < 1e-4 for line in lines[1:])


# --------------------------------------------------------------------------------------------- mistakes


def test_mistakes_of_the_caller(make_policy, tokenizer, tmp_path):
    trial = make_trial(make_policy, tokenizer, tmp_path / "a", "rloo")
    collector, credit = trial.learner.collector, trial.learner.credit
    with pytest.raises(UserError, match="no training problems"):
        PolicyGradient(trial.model, collector, LoopData([], {}), None, credit, CONFIG, 0)
    with pytest.raises(UserError, match="no validation problems"):
        Validator(collector, [], CONFIG.validation, 0)
    for change in ({"top_p": 0.9}, {"top_k": 5}):
        truncated = CONFIG.model_copy(update={"sampling": CONFIG.sampling.model_copy(update=change)})
        with pytest.raises(UserError, match="full distribution"):
            PolicyGradient(trial.model, collector, trial.learner.data, None, credit, truncated, 0)
    with pytest.raises(ValueError, match="averaged away"):
        LoopConfig.model_validate({"credit": {"rule": "step", "process_weight": 1}, "optim": {"loss": {"ratio": "sequence"}}})


def test_too_many_ungraded_stop_the_run(make_policy, tokenizer, tmp_path):
    def broken(problems, completions, finish_reasons) -> list[Verdict]:
        return [Verdict("ungraded", "timeout")] * len(completions)

    with pytest.raises(GradingFault, match="timeout"):
        make_trial(make_policy, tokenizer, tmp_path, "rloo", grader=broken).run()


def test_experts_join_the_policys_groups(make_policy, tokenizer, tmp_path):
    """All rollouts fail: the demonstration of each group has advantage 1 and they have -1/3, so it alone becomes likelier."""
    failed = lambda problems, completions, reasons: [Verdict("wrong")] * len(completions)
    optim = PolicyOptimConfig(lr=1e-2)
    found = {}
    for count in (0, 1):
        config = CONFIG.model_copy(update={"optim": optim, "experts_in_group": count})
        trial = make_trial(make_policy, tokenizer, tmp_path / str(count), "repirl", config, grader=failed)
        trial.learner.credit = LeaveOneOut(OutcomeCredit())
        problem = batch_of(trial.learner.data.problems, 0, 3, 0)[0]
        demos = trial.learner.data.demonstrations[problem.id]
        rows = [encode_solution(tokenizer, encode_prompt(tokenizer, problem.prompt), demo.text) for demo in demos]
        likely = lambda rows=rows, trial=trial: [float(one.sum()) for one in trial.learner.policy.logprobs(rows, 1.0)]
        before = likely()
        metrics = trial.learner.step(0)
        found[count] = np.array(likely()) - before
        assert trial.learner.budget.demonstrations == 3 * count + 3 * 2  # two teach the reward
        assert metrics.get("engine_logprob_gap_max", 0) < 1e-4
    assert found[0].tolist() == [0, 0]
    assert found[1][0] > 1


def test_what_experts_in_groups_are_paid(make_policy, tokenizer, tmp_path):
    """Their rewards are in the group's baseline: leave-one-out advantages of a group sum to 0 with them."""
    config = CONFIG.model_copy(update={"experts_in_group": 1, "credit": SequenceCredit(process_weight=1.0, outcome_weight=0.0)})
    learner = make_trial(make_policy, tokenizer, tmp_path, "repirl", config).learner
    seen: list[Any] = []
    own = learner.policy.update
    learner.policy.update = lambda rollouts, advantages, seed: (
        seen.append((rollouts, advantages))
        or own(  # type: ignore
            rollouts, advantages, seed
        )
    )
    learner.step(0)
    [(rollouts, advantages)] = seen
    assert len(rollouts) == 3 * (3 + 1)
    assert [r.sample_index for r in rollouts[:4]] == [0, 1, 2, 3]
    for group in range(3):
        assert sum(float(a[0]) for a in advantages[4 * group : 4 * group + 4]) == pytest.approx(0, abs=1e-5)


def test_experts_must_be_there(make_policy, tokenizer, tmp_path):
    with pytest.raises(UserError, match="no demonstrations to join the groups"):
        make_trial(make_policy, tokenizer, tmp_path, "rloo", CONFIG.model_copy(update={"experts_in_group": 2}))
