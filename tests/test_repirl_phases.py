"""rePIRL's phases: the reward fitted alone before the policy moves, on a file, taken over, and frozen."""

from __future__ import annotations

import json

import pytest
import torch
from test_methods import fit, same, small_config, weights

from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.rewards.energy import load_energy_model
from repirl.rollouts.stored import read_groups, write_groups
from repirl.tasks import arith
from repirl.types import RolloutGroup, Verdict

OFFLINE = {"offline.updates": 2, "offline.problems": 6, "offline.prompts_per_update": 3}


def reward_weights(folder) -> dict[str, torch.Tensor]:
    return load_energy_model(folder).state_dict()


@pytest.fixture
def pool(make_rollout, tmp_path):
    """Six problems with a right and two wrong solutions each."""
    groups = []
    for problem in arith.problems("train", 6, levels=(2, 3), seed=1):
        texts = [arith.solution(problem.source, "plain"), "\\boxed{0}", "\\boxed{1}"]
        rollouts = tuple(make_rollout(problem.prompt, text, problem_id=problem.id, index=i) for i, text in enumerate(texts))
        groups.append(RolloutGroup(problem, rollouts, tuple(map(Verdict, ("correct", "wrong", "wrong"))), ()))
    write_groups(tmp_path / "pool.jsonl", groups)
    return tmp_path / "pool.jsonl"


def test_the_offline_phase_comes_first_and_its_cost_counts(policy_folder, tmp_path) -> None:
    config = small_config("repirl", **OFFLINE)
    fitted = fit("repirl", policy_folder, tmp_path / "run", config)
    first = json.loads((tmp_path / "run/offline/done.json").read_text())
    second = json.loads((tmp_path / "run/done.json").read_text())
    assert first["budget"]["rollouts"] == 6 * config.offline.samples  # pyright: ignore[reportAttributeAccessIssue]
    assert first["budget"]["policy_updates"] == 0
    for name in ("rollouts", "generated_tokens", "trained_tokens", "scored_tokens"):
        assert getattr(fitted.budget, name) == first["budget"][name] + second["budget"][name]
    pool = read_groups(tmp_path / "run/offline/pool.jsonl", load_policy(policy_folder).tokenizer)
    assert first["budget"]["generated_tokens"] == sum(len(r.token_ids) for group in pool for r in group.rollouts)
    # The second phase went on from what the first had learned.
    assert not same(reward_weights(tmp_path / "run/offline/reward"), reward_weights(tmp_path / "run/reward"))
    assert not same(weights(policy_folder), weights(tmp_path / "run/policy"))


def test_the_offline_phase_resumes_exactly(policy_folder, tmp_path, monkeypatch) -> None:
    config = small_config("repirl", **OFFLINE)
    whole = fit("repirl", policy_folder, tmp_path / "whole", config)

    def stop(step: int, steps: int, metrics: dict) -> None:
        raise KeyboardInterrupt

    for _ in range(4):  # after each step of the first phase, then of the second
        context = FitContext(load_policy(policy_folder), tmp_path / "parts", 0, stop)
        with pytest.raises(KeyboardInterrupt):
            load_method("repirl").fit(context, config)
        # What was sampled for the first phase is not sampled again.
        monkeypatch.setattr("repirl.methods.offline.write_groups", lambda path, groups: pytest.fail("sampled again"))
    again = fit("repirl", policy_folder, tmp_path / "parts", config)
    for part in ("policy", "reward"):
        assert (tmp_path / "whole" / part / "model.safetensors").read_bytes() == (
            tmp_path / "parts" / part / "model.safetensors"
        ).read_bytes()
    assert again.budget.generated_tokens == whole.budget.generated_tokens
    assert again.budget.trained_tokens == whole.budget.trained_tokens


def test_a_pool_alone_fits_a_reward_that_tells_right_from_wrong(policy_folder, pool, tmp_path) -> None:
    config = small_config("repirl", **{"irl.balance": True, "offline.updates": 20, "pool": str(pool), "irl.lr": 1e-3})
    fitted = fit("repirl", policy_folder, tmp_path / "run", config)
    assert fitted.policy_folder is None
    assert fitted.reward_folder == tmp_path / "run/reward"
    assert fitted.budget.generated_tokens == 0, "the rollouts were there"
    log = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert log[0]["prm/logit_correct"] == pytest.approx(0, abs=1e-4)
    assert log[-1]["prm/logit_correct"] > log[-1]["prm/logit_failed"] + 0.5
    assert log[-1]["prm/loss"] < log[0]["prm/loss"]


def test_a_reward_is_taken_over_and_frozen(policy_folder, pool, tmp_path) -> None:
    fit("repirl", policy_folder, tmp_path / "first", small_config("repirl", **{"offline.updates": 3, "pool": str(pool)}))
    taken = {"reward": str(tmp_path / "first/reward"), "offline.updates": 0}
    frozen = small_config("repirl", **taken, frozen=True)
    fit("repirl", policy_folder, tmp_path / "frozen", frozen)
    assert same(reward_weights(tmp_path / "first/reward"), reward_weights(tmp_path / "frozen/reward"))
    fit("repirl", policy_folder, tmp_path / "learning", small_config("repirl", **taken))
    assert not same(reward_weights(tmp_path / "first/reward"), reward_weights(tmp_path / "learning/reward"))
    other = load_policy(policy_folder).model
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save_pretrained(tmp_path / "other")
    load_policy(policy_folder).tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="fitted to another base policy"):
        fit("repirl", tmp_path / "other", tmp_path / "refused", frozen)


def test_a_file_of_texts_and_rewards_is_enough_unless_weights_need_more(policy_folder, pool, tmp_path) -> None:
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    short = [
        {"prompt": row["prompt"], "completions": [{k: one[k] for k in ("text", "reward")} for one in row["completions"]]}
        for row in rows
    ]
    (tmp_path / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short))
    found = []
    for name in ("pool", "short"):
        settings = {"offline.updates": 3, "pool": str(tmp_path / f"{name}.jsonl")}
        found.append(
            reward_weights(
                fit("repirl", policy_folder, tmp_path / f"run-{name}", small_config("repirl", **settings)).reward_folder
            )
        )
    assert same(*found)
    weighted = small_config("repirl", **settings, **{"irl.form": "energy"})
    with pytest.raises(UserError, match="log-probabilities"):
        fit("repirl", policy_folder, tmp_path / "weighted", weighted)


def test_bad_requests_are_named(policy_folder, pool, make_rollout, tmp_path) -> None:
    with pytest.raises(UserError, match="fitted 0 times"):
        fit("repirl", policy_folder, tmp_path / "a", small_config("repirl", **{"pool": str(pool), "offline.updates": 0}))
    rollout = make_rollout("p", "x", problem_id="1", index=0)
    problem = arith.problems("train", 1)[0]
    write_groups(tmp_path / "failed.jsonl", [RolloutGroup(problem, (rollout,), (Verdict("wrong"),), ())])
    config = small_config("repirl", **{"irl.balance": True, "pool": str(tmp_path / "failed.jsonl"), "offline.updates": 1})
    with pytest.raises(UserError, match="no prompt has both correct and failed rollouts"):
        fit("repirl", policy_folder, tmp_path / "b", config)
    row = {"prompt": "p", "completions": [{"text": "1" * 2048, "reward": 1}, {"text": "2", "reward": 0}]}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    config = small_config("repirl", **{"pool": str(tmp_path / "long.jsonl"), "offline.updates": 1})
    with pytest.raises(UserError, match="too long for the policy's context of 2048 tokens: '1 solutions'"):
        fit("repirl", policy_folder, tmp_path / "c", config)
