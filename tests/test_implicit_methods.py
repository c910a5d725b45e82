"""ImplicitPRM, DPO and KTO: from a pool to a policy and a process reward, resumed, saved, and counted."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from test_methods import fit, same, small_config, weights
from test_run import by_parity

from repirl.engines.lora import LoRAConfig
from repirl.errors import UserError
from repirl.learn.gradient import row_logprobs
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method, load_module
from repirl.methods.runtime import Runtime, start_policy
from repirl.paths import content_dir
from repirl.rewards.artifact import read_contract
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rng import stream
from repirl.rollouts.packing import TokenRow
from repirl.rollouts.stored import read_groups, write_groups
from repirl.tasks import arith
from repirl.types import RolloutGroup, Verdict

NAMES = ["dpo", "implicit_prm", "kto"]


def made_groups(make_rollout, num_problems: int = 6, verdicts: tuple[str, ...] = ("correct", "wrong", "wrong", "correct")):
    """Problems with right and wrong solutions, in this order, whatever they are called."""
    groups = []
    for problem in arith.problems("train", num_problems, levels=(2, 3), seed=1):
        right = arith.solution(problem.source, "plain")
        texts = [right, "\\boxed{0}", right.replace("}", "00}"), arith.solution(problem.source, "so")]
        rollouts = tuple(make_rollout(problem.prompt, text, problem_id=problem.id, index=i) for i, text in enumerate(texts))
        groups.append(RolloutGroup(problem, rollouts, tuple(map(Verdict, verdicts))))  # pyright: ignore[reportArgumentType]
    return groups


@pytest.fixture
def pool(make_rollout, tmp_path) -> Path:
    write_groups(tmp_path / "pool.jsonl", made_groups(make_rollout))
    return tmp_path / "pool.jsonl"


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if '"rows"' in line]


@pytest.mark.parametrize("name", NAMES)
def test_right_rollouts_rise_above_wrong_ones(name, policy_folder, pool, tmp_path):
    # The pool has as many right as wrong rollouts: both sides of KTO weigh the same.
    settings = {"pool": str(pool), "steps": 12, "validation.every": 12, "desirable_weight": 1.0}
    fitted = fit(name, policy_folder, tmp_path / "run", small_config(name, **settings))
    log = logged(tmp_path / "run")
    assert log[0]["ratio_correct"] == log[0]["ratio_failed"] == 0, "the policy is its own reference at the start"
    assert log[-1]["loss"] < log[0]["loss"] - 0.01
    assert log[-1]["ratio_correct"] > log[-1]["ratio_failed"] + 1
    assert log[-1]["ratio_auc"] > 0.9
    assert (fitted.budget.rollouts, fitted.budget.generated_tokens) == (0, 0), "the rollouts were there"
    assert fitted.diagnostics["pool/prompts"] == 6
    for metric in ("score_correct", "score_failed", "score_empty", "score_one_token", "score_repeated", "score_truncated"):
        assert np.isfinite(fitted.diagnostics[f"prm/{metric}"]), metric  # pyright: ignore[reportArgumentType]
    assert {"prm/auc", "prm/length_correlation", "prm/step_auc"} <= set(fitted.diagnostics)
    assert ("z0" in log[0]) == (name == "kto")


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_reward_is_what_the_policy_learned_against_its_start(name, policy_folder, pool, tmp_path):
    config = small_config(name, pool=str(pool))
    fitted = fit(name, policy_folder, tmp_path / "run", config)
    assert fitted.policy_folder is not None
    assert fitted.reward_folder is not None
    assert same(weights(fitted.policy_folder), weights(fitted.reward_folder))
    start, learned = (start_policy(folder, Runtime(), 0) for folder in (policy_folder, fitted.policy_folder))
    contract = read_contract(fitted.reward_folder)
    assert (contract.kind, contract.method, contract.step_aggregation) == ("implicit", name, "sum")
    assert contract.base_digest == start.digest
    assert contract.log_ratio is not None
    assert contract.log_ratio.beta == config.beta  # pyright: ignore[reportAttributeAccessIssue]
    reward = load_reward(str(tmp_path / "run"), LoadOptions()).reward
    groups = read_groups(pool, start.tokenizer)
    rows = [TokenRow(r.prompt_ids, r.token_ids) for group in groups for r in group.rollouts]
    pairs = zip(row_logprobs(learned.model, rows), row_logprobs(start.model, rows), strict=True)
    for found, (new_T, old_T) in zip(chain(*reward.score(groups)), pairs, strict=True):
        expected_T = contract.log_ratio.beta * (new_T - old_T).numpy()
        assert found.token_rewards == pytest.approx(expected_T, abs=1e-6)
        assert found.step_rewards.sum() == pytest.approx(expected_T.sum(), abs=1e-5)
        assert np.abs(found.token_rewards).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_ends_as_a_quiet_one(name, policy_folder, tmp_path, monkeypatch):
    """Stopped after each step; what was sampled is not sampled again, and costs once."""
    monkeypatch.setattr("repirl.methods.runtime.grade_rollouts", by_parity)
    config = small_config(name, steps=3)
    whole = fit(name, policy_folder, tmp_path / "whole", config)

    def stop(step: int, steps: int, metrics: dict) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        context = FitContext(start_policy(policy_folder, Runtime(), 0), tmp_path / "parts", 0, stop)
        with pytest.raises(KeyboardInterrupt):
            load_method(name).fit(context, config)
        monkeypatch.setattr("repirl.methods.offline.write_groups", lambda path, groups: pytest.fail("sampled again"))
    again = fit(name, policy_folder, tmp_path / "parts", config)
    for part in ("policy", "reward"):
        files = [tmp_path / run / part / "model.safetensors" for run in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()
    contracts = [read_contract(tmp_path / run / "reward") for run in ("whole", "parts")]
    assert contracts[0] == contracts[1]
    times = ("wall_s",)
    logs = [
        [{k: v for k, v in line.items() if k not in times} for line in logged(tmp_path / run)] for run in ("whole", "parts")
    ]
    assert logs[0] == logs[1]
    for count in ("policy_updates", "rollouts", "generated_tokens", "scored_tokens", "trained_tokens", "grader_calls"):
        assert getattr(again.budget, count) == getattr(whole.budget, count) > 0, count
    assert whole.budget.rollouts == whole.budget.grader_calls == 8 * 4
    assert whole.budget.demonstrations == 0
    assert "demonstrations" not in (tmp_path / "whole" / "pool.jsonl").read_text().replace('"demonstrations": []', "")


@pytest.mark.parametrize("name", NAMES)
def test_ungraded_rollouts_take_no_part(name, policy_folder, make_rollout, tmp_path):
    """A pool with an ungraded rollout of each prompt teaches what the pool without them teaches."""
    holes = made_groups(make_rollout, verdicts=("correct", "wrong", "wrong", "ungraded"))
    without = [RolloutGroup(g.problem, g.rollouts[:3], g.verdicts[:3]) for g in holes]
    found = []
    for part, groups in (("holes", holes), ("without", without)):
        write_groups(tmp_path / f"{part}.jsonl", groups)
        fitted = fit(name, policy_folder, tmp_path / part, small_config(name, pool=str(tmp_path / f"{part}.jsonl")))
        assert fitted.diagnostics["pool/ungraded"] == (6 if part == "holes" else 0)
        assert fitted.diagnostics["pool/accuracy"] == pytest.approx(1 / 3)
        found.append(weights(fitted.policy_folder))
    assert same(*found)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_that_cannot_teach_are_skipped_and_counted(name, policy_folder, make_rollout, tmp_path):
    groups = made_groups(make_rollout)
    right, ungraded = (
        [RolloutGroup(g.problem, g.rollouts[:2], (Verdict(outcome),) * 2) for g in groups]  # pyright: ignore
        for outcome in ("correct", "ungraded")
    )
    write_groups(tmp_path / "pool.jsonl", [*groups[:3], *right[3:5], ungraded[5]])
    fitted = fit(name, policy_folder, tmp_path / "run", small_config(name, pool=str(tmp_path / "pool.jsonl")))
    assert fitted.diagnostics["pool/prompts"] == 6
    assert fitted.diagnostics["pool/skipped_prompts"] == (3 if name == "dpo" else 1)
    assert fitted.diagnostics["pool/ungraded"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_without_contrast_is_said_in_one_line(name, policy_folder, make_rollout, tmp_path):
    for verdicts in (("correct",) * 4, ("wrong",) * 4, ("ungraded",) * 4):
        path = tmp_path / f"{verdicts[0]}.jsonl"
        write_groups(path, made_groups(make_rollout, 2, verdicts))
        with pytest.raises(UserError, match=r"the pool has .*2 prompts.*give more rollouts or other levels"):
            fit(name, policy_folder, tmp_path / verdicts[0], small_config(name, pool=str(path)))
    with pytest.raises(UserError, match="no such file"):
        fit(name, policy_folder, tmp_path / "none", small_config(name, pool=str(tmp_path / "none.jsonl")))
    with pytest.raises(UserError, match="beta"):
        small_config(name, beta=0)


def test_a_pool_of_another_file_is_another_run(policy_folder, pool, make_rollout, tmp_path):
    config = small_config("dpo", pool=str(pool))
    fit("dpo", policy_folder, tmp_path / "run", config)
    write_groups(pool, made_groups(make_rollout, 5))
    with pytest.raises(UserError, match="other settings"):
        fit("dpo", policy_folder, tmp_path / "run", config)


def test_kto_needs_two_prompts_in_a_batch(policy_folder, pool, tmp_path):
    config = small_config("kto", pool=str(pool), **{"sampling.prompts_per_step": 1})
    with pytest.raises(UserError, match="two prompts in a batch"):
        fit("kto", policy_folder, tmp_path / "run", config)


def test_weights_of_kto_move_the_policy(policy_folder, pool, tmp_path):
    found = []
    for weight in (1.0, 4.0):
        config = small_config("kto", pool=str(pool), desirable_weight=weight)
        fitted = fit("kto", policy_folder, tmp_path / str(weight), config)
        found.append(logged(tmp_path / str(weight))[-1]["ratio_correct"])
        assert fitted.budget.policy_updates == 2
    assert found[0] != found[1]


def test_the_share_of_tests_can_be_the_label(policy_folder, make_rollout, tmp_path):
    recipe = load_method("implicit_prm").recipe("tiny")
    soft = small_config("implicit_prm", soft_labels=True)
    half = Verdict("wrong", score=0.5)
    assert [config.label(half) for config in (recipe, soft)] == [0.0, 0.5]  # pyright: ignore[reportAttributeAccessIssue]
    died = Verdict("wrong", "died afterwards", score=1.0)
    assert [config.label(died) for config in (recipe, soft)] == [0.0, 0.0]  # pyright: ignore[reportAttributeAccessIssue]
    assert soft.label(Verdict("correct")) == 1.0  # pyright: ignore[reportAttributeAccessIssue]
    groups = [
        RolloutGroup(g.problem, g.rollouts, (g.verdicts[0], half, half, g.verdicts[3])) for g in made_groups(make_rollout)
    ]
    write_groups(tmp_path / "pool.jsonl", groups)
    found = []
    for soft_labels in (False, True):
        config = small_config("implicit_prm", pool=str(tmp_path / "pool.jsonl"), soft_labels=soft_labels)
        found.append(weights(fit("implicit_prm", policy_folder, tmp_path / str(soft_labels), config).policy_folder))
    assert not same(*found)


def test_pairs_are_right_and_wrong_rollouts_and_none_comes_twice(make_rollout):
    (group,) = made_groups(make_rollout, 1, ("correct", "wrong", "wrong", "wrong"))
    pairs_of = load_module(content_dir("baselines") / "dpo.py").pairs_of
    drawn = [pairs_of(group, stream(0, "pairs", step)) for step in range(20)]
    texts = [list(map(int, r.token_ids)) for r in group.rollouts]
    partners = {texts.index(list(wrong.response_ids)) for pairs in drawn for _, wrong in pairs}
    assert {len(pairs) for pairs in drawn} == {1}, "as many as the rarer outcome has"
    assert all(list(right.response_ids) == texts[0] for pairs in drawn for right, _ in pairs)
    assert partners == {1, 2, 3}, "drawn anew each time"
    two = pairs_of(made_groups(make_rollout, 1)[0], stream(0, "pairs"))
    assert len({tuple(row.response_ids) for pair in two for row in pair}) == 4


def test_with_adapters_the_saved_reward_has_them_merged(policy_folder, pool, tmp_path):
    runtime = Runtime(lora=LoRAConfig(rank=2))
    context = FitContext(start_policy(policy_folder, runtime, 0), tmp_path / "run", 0, None, runtime)
    fitted = load_method("implicit_prm").fit(context, small_config("implicit_prm", pool=str(pool)))
    assert fitted.policy_folder is not None
    assert fitted.reward_folder is not None
    assert same(weights(fitted.policy_folder), weights(fitted.reward_folder))
    assert not same(weights(policy_folder), weights(fitted.reward_folder))
    reward = load_reward(str(tmp_path / "run"), LoadOptions()).reward
    scores = reward.token_scores(read_groups(pool, context.policy.tokenizer))
    assert max(float(np.abs(one).max()) for one in scores) > 1e-4


def test_a_phase_can_start_from_what_another_left(policy_folder, pool, tmp_path):
    """The reference is then the policy of that phase, and is found in its folder."""
    context = FitContext(start_policy(policy_folder, Runtime(), 0), tmp_path / "run", 0)
    first = load_method("bc").fit(context.part("sft"), small_config("bc"))
    load_method("kto").fit(context.part("kto", after=first), small_config("kto", pool=str(pool)))
    contract = read_contract(tmp_path / "run" / "kto" / "reward")
    assert contract.log_ratio is not None
    assert contract.log_ratio.reference == str((tmp_path / "run" / "sft" / "policy").resolve())
    assert load_reward(str(tmp_path / "run" / "kto"), LoadOptions()).reward.name == "implicit"
