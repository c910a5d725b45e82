"""The implicit process reward: log-ratios of two language models, saved as one of them with the other named."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from repirl.engines.loading import EMBEDDED, LoadedPolicy, PolicyAddress, load_policy
from repirl.errors import UserError
from repirl.evals.judged_sets import SetOptions, load_set
from repirl.evals.judging import default_rule, judge
from repirl.learn.gradient import row_logprobs
from repirl.rewards.artifact import CONTRACT_FILE, RewardContract, read_contract
from repirl.rewards.implicit import ImplicitReward, log_ratio_terms
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rewards.saved import write_reward
from repirl.rollouts.packing import TokenRow
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks import arith
from repirl.types import RolloutGroup, Verdict

BETA = 0.05
LINES = StepSegmentation("\n")


@pytest.fixture
def groups(make_rollout) -> list[RolloutGroup]:
    made = []
    for problem in arith.problems("train", 3, levels=(2, 3), seed=5):
        texts = [arith.solution(problem.source, "plain"), "1+2\n\n", "\\boxed{0}", ""]
        rollouts = tuple(make_rollout(problem.prompt, text, problem_id=problem.id, index=i) for i, text in enumerate(texts))
        made.append(RolloutGroup(problem, rollouts, tuple(map(Verdict, ("correct", "wrong", "wrong", "wrong")))))
    return made


@pytest.fixture
def reference(policy_folder) -> LoadedPolicy:
    return load_policy(policy_folder)


@pytest.fixture
def saved(make_policy, tokenizer, reference, tmp_path) -> tuple[ImplicitReward, Path]:
    """A reward whose language model is another one than its reference, and its folder."""
    model = make_policy(1)
    contract = RewardContract(
        kind="implicit",
        method="test",
        step_separator="\n",
        template="plain",
        step_aggregation="sum",
        base_digest=reference.digest,
        training_digest="b",
        log_ratio=log_ratio_terms(reference, BETA),
    )
    write_reward(tmp_path / "run" / "reward", model, tokenizer, contract)
    return ImplicitReward(model, reference.model, tokenizer, LINES, BETA), tmp_path / "run" / "reward"


def test_a_step_is_worth_the_difference_of_q_between_its_ends(saved, groups):
    reward, _ = saved
    rows = [TokenRow(r.prompt_ids, r.token_ids) for group in groups for r in group.rollouts]
    pairs = zip(row_logprobs(reward.model, rows), row_logprobs(reward.reference, rows), strict=True)
    for found, (new_T, old_T) in zip(chain(*reward.score(groups)), pairs, strict=True):
        q_T = BETA * np.cumsum((new_T - old_T).double().numpy())
        assert np.abs(q_T).max() > 1e-4
        assert found.token_rewards == pytest.approx(np.diff(q_T, prepend=0), abs=1e-6)
        assert found.step_rewards == pytest.approx(np.diff(q_T[found.step_ends], prepend=0), abs=1e-6)
        assert found.step_ends[-1] == len(q_T) - 1, "EOS belongs to the last step"
    assert reward.budget.scored_tokens == 2 * sum(map(len, rows)), "each row goes through both models"


def test_what_learned_nothing_scores_zero(reference, tokenizer, groups):
    same = ImplicitReward(load_policy(reference.path).model, reference.model, tokenizer, LINES, BETA)
    assert all((scores == 0).all() for scores in same.token_scores(groups))


def test_saved_and_loaded_it_scores_the_same(saved, groups):
    reward, folder = saved
    for path in (folder, folder.parent):
        loaded = load_reward(str(path), LoadOptions())
        assert (loaded.reward.name, loaded.natural_threshold, loaded.max_tokens) == ("implicit", None, 2048)
        for a, b in zip(chain(*loaded.reward.score(groups)), chain(*reward.score(groups)), strict=True):
            assert a.token_rewards.tolist() == b.token_rewards.tolist()
            assert a.step_rewards.tolist() == b.step_rewards.tolist()
        assert isinstance(loaded.reward, ImplicitReward)
        models = (loaded.reward.model, loaded.reward.reference)
        assert not any(p.requires_grad for model in models for p in model.parameters())
    # The folder is an ordinary policy's as well.
    assert all(
        torch.equal(a, b) for a, b in zip(load_policy(folder).model.parameters(), reward.model.parameters(), strict=True)
    )


def test_it_is_judged_by_its_folder(saved):
    """`repirl judge RUN arith`: steps are cut, scored and compared like those of any reward."""
    _, folder = saved
    loaded = load_reward(str(folder.parent), LoadOptions())
    report = judge(loaded, load_set("arith", SetOptions(limit=6)), default_rule(loaded), nulls=False)
    assert report.num_solutions == 6
    assert report.judged.num_unscored == 0
    assert report.judged.scored_tokens > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"log_ratio": None}, "lacks what an implicit reward needs"),
        ({"base_digest": "0" * 64}, "is not the reference that the reward was fitted with"),
        ({"log_ratio": {"beta": BETA, "reference": "/no/such/folder"}}, "no reference for the reward"),
        ({"log_ratio": {"beta": 0, "reference": "tiny"}}, "log_ratio.beta"),
        ({"log_ratio": {"beta": BETA}}, "log_ratio.reference"),
    ],
)
def test_what_is_wrong_with_the_reference_is_said_in_one_line(saved, change, says):
    _, folder = saved
    values = json.loads((folder / CONTRACT_FILE).read_text())
    (folder / CONTRACT_FILE).write_text(json.dumps({**values, **change}))
    with pytest.raises(UserError) as error:
        load_reward(str(folder), LoadOptions())
    assert says in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_load_are_said_in_one_line(saved):
    _, folder = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load a causal language model") as error:
        load_reward(str(folder), LoadOptions())
    assert str(folder) in str(error.value)


def test_the_reference_is_named_so_that_it_is_found_from_anywhere(reference, saved, tmp_path, monkeypatch):
    _, folder = saved
    terms = read_contract(folder).log_ratio
    assert terms is not None
    assert Path(terms.reference).is_absolute()
    assert replace(reference, name="tiny, sft").address.name == str(reference.path.resolve()), "a label is no place"
    monkeypatch.chdir(reference.path.parent)
    assert load_policy(reference.path.name).address == PolicyAddress(str(reference.path.resolve()))
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = replace(reference, name="some/model", path=tmp_path / "models--some--model" / "snapshots" / commit)
    assert cached.address == PolicyAddress("some/model", commit)
    assert load_policy(EMBEDDED[0]).address == PolicyAddress(EMBEDDED[0])
