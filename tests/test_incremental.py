"""Scores behind a cache are those of whole rows."""

import numpy as np
import pytest
import torch

from repirl.engines.loading import load_policy
from repirl.rewards.energy import EnergyReward, energy_from_policy
from repirl.rewards.implicit import ImplicitReward
from repirl.rewards.incremental import IncrementalScorer, can_score
from repirl.rewards.nulls import LengthReward, confidence_reward
from repirl.rollouts.steps import StepSegmentation
from repirl.types import Problem, Rollout, RolloutGroup, Verdict

LINES = StepSegmentation("\n")
PROMPTS = ["Compute: 3+4*2\n", "Compute: (1-7)*(2+2)-5+1\n"]
# Children by row: three of the first prompt, two of the second, of different lengths; then children of some of those.
FIRST = [(0, "3+8\n"), (0, "7*2\n"), (0, "1\n"), (1, "(-6)*4-5+1\n"), (1, "0\n")]
SECOND = [(1, "14\n"), (1, "\\boxed{14}"), (3, "-24-5+1\n"), (3, "9"), (0, "11")]


def whole_rows(policy, rows: list[tuple[list[int], list[int]]]) -> list[RolloutGroup]:
    found = []
    for i, (prompt, response) in enumerate(rows):
        problem = Problem(str(i), "arith", "", "integer")
        nothing = np.full(len(response), np.nan, dtype=np.float32)
        rollout = Rollout(str(i), 0, tuple(prompt), np.array(response), nothing, "", "stop", 1.0)
        found.append(RolloutGroup(problem, (rollout,), (Verdict("wrong"),)))
    return found


def rewards(policy):
    model = energy_from_policy(policy.model, base_measure=1.0)
    plain = energy_from_policy(policy.model)
    generator = torch.Generator().manual_seed(0)
    for one in (model, plain):
        torch.nn.init.normal_(one.score.weight, std=0.1, generator=generator)
    other = load_policy("tiny").model
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return {
        "energy": EnergyReward(plain, policy.tokenizer, LINES),
        "residual energy": EnergyReward(model, policy.tokenizer, LINES),
        "implicit": ImplicitReward(other, policy.model, policy.tokenizer, LINES, 0.5),
        "confidence": confidence_reward(policy.model, policy.tokenizer, LINES),
    }


@pytest.mark.parametrize("kind", ["energy", "residual energy", "implicit", "confidence"])
def test_blocks_are_scored_as_in_the_whole_row(kind: str) -> None:
    policy = load_policy("tiny")
    reward = rewards(policy)[kind]
    assert can_score(reward)
    encode = lambda text: policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    prompts = [encode(text) for text in PROMPTS]
    scorer = IncrementalScorer(reward)
    start = scorer.start(prompts)
    blocks = [encode(text) for _, text in FIRST]
    first, found = scorer.extend(start, [parent for parent, _ in FIRST], blocks)
    whole = reward.token_scores(whole_rows(policy, [(prompts[p], blocks[i]) for i, (p, _) in enumerate(FIRST)]))
    for mine, theirs in zip(found, whole, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    before = reward.budget.scored_tokens
    more = [encode(text) for _, text in SECOND]
    second, found = scorer.extend(first, [parent for parent, _ in SECOND], more)
    passes = 2 if kind == "implicit" else 1
    assert reward.budget.scored_tokens - before == passes * sum(map(len, more))
    rows = [(prompts[FIRST[p][0]], blocks[p] + more[i]) for i, (p, _) in enumerate(SECOND)]
    for mine, theirs, (parent, _) in zip(found, reward.token_scores(whole_rows(policy, rows)), SECOND, strict=True):
        np.testing.assert_allclose(mine, theirs[len(blocks[parent]) :], rtol=1e-5, atol=1e-5)
    # The rows that were extended are as they were: the same children again, and one behind those.
    _, again = scorer.extend(first, [1], [more[0]])
    np.testing.assert_allclose(again[0], found[0], rtol=1e-5, atol=1e-5)
    _, third = scorer.extend(second, [2], [encode("7")])
    last = reward.token_scores(whole_rows(policy, [(rows[2][0], rows[2][1] + encode("7"))]))[0][-1:]
    np.testing.assert_allclose(third[0], last, rtol=1e-5, atol=1e-5)


def test_rewards_of_whole_texts_are_not_scored_in_blocks() -> None:
    assert not can_score(LengthReward(load_policy("tiny").tokenizer, LINES))
