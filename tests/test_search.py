"""Search with a live policy: one loop, four approaches, and what they cost."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from repirl.engines.loading import LoadedPolicy, load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.evals.approaches import APPROACHES, DVTS, Beam, Expansion, Node, Particles, Rebase, SearchConfig, shares, systematic
from repirl.evals.search import Found, search
from repirl.evals.step_scoring import score_solutions
from repirl.rewards.load import LoadedReward, LoadOptions, load_reward
from repirl.rollouts.steps import step_texts
from repirl.tasks import arith
from repirl.tasks.step_labels import LabelledSolution

RNG = np.random.default_rng(0)


def node(value: float, end: Any = "live", **more: Any) -> Node:
    return Node(problem=0, value=value, end=end, steps=(value,), **more)


def config(**settings: Any) -> SearchConfig:
    return SearchConfig.model_validate(settings)


def expanded(expansions: Any) -> list[tuple[float, int]]:
    return [(one.node.value, one.copies) for one in expansions]


def test_rebase_shares_by_hand() -> None:
    # exp(0.9 / 0.2), exp(0.5 / 0.2), exp(0.1 / 0.2): 90.0, 12.2, 1.6 of 103.9; ceil(8 x 0.866) = 7, ceil(1 x 0.88) = 1, none.
    assert shares([0.9, 0.5, 0.1], 8, 0.2) == [7, 1, 0]
    assert shares([0.5, 0.5], 4, 0.2) == [2, 2]
    assert shares([0.5, 0.5, 0.5], 4, 0.2) == [2, 1, 1]
    assert shares([0.5], 0, 0.2) == [0]


def test_rebase_gives_the_places_of_finished_ones_to_none() -> None:
    children = [node(0.9, "stop"), node(0.5), node(0.5)]
    step = Rebase(config(n=4), probabilities=True).advance(children, [], RNG)
    assert expanded(step.expand) == [(0.5, 2), (0.5, 1)]
    assert [one.value for one in step.held] == [0.9]


def test_beam_retires_or_lets_compete() -> None:
    children = [node(0.1), node(0.9, "stop"), node(0.7), node(0.8)]
    retire = Beam(config(n=4, width=2, ends="retire"), probabilities=True).advance(children, [], RNG)
    assert expanded(retire.expand) == [(0.8, 2), (0.7, 1)]  # three places are left
    assert [one.value for one in retire.held] == [0.9]
    compete = Beam(config(n=4, width=2, ends="compete"), probabilities=True).advance(children, [node(0.85, "stop")], RNG)
    assert expanded(compete.expand) == []
    assert [one.value for one in compete.held] == [0.9, 0.85]
    best = Beam(config(n=4, width=2, ends="compete"), probabilities=True).advance(children, [], RNG)
    assert expanded(best.expand) == [(0.8, 2)]


def test_dvts_keeps_its_trees_apart() -> None:
    approach = DVTS(config(n=4, width=2), probabilities=True)
    assert [(one.copies, one.tree) for one in approach.first(Node(0))] == [(2, 0), (2, 1)]
    children = [node(0.2, tree=0), node(0.1, tree=0), node(0.9, "stop", tree=1), node(0.8, tree=1)]
    step = approach.advance(children, [], RNG)
    assert [(one.node.value, one.copies, one.tree) for one in step.expand] == [(0.2, 2, 0)]
    assert [one.value for one in step.held] == [0.9]


def test_particles_are_drawn_by_their_own_weights() -> None:
    approach = Particles(config(approach="particles", n=4000), probabilities=True)
    # logit 0.8 and 0.5: odds 4 and 1.
    step = approach.advance([node(0.8), node(0.5, "stop")], [], np.random.default_rng(0))
    assert step.expand[0].copies / 4000 == pytest.approx(0.8, abs=0.03)
    assert len(step.held) + step.expand[0].copies == 4000


def test_particles_are_resampled_where_few_are_left() -> None:
    even = Particles(config(n=2, resampling="ess"), probabilities=True)
    kept = even.advance([node(0.5), node(0.6)], [], RNG)
    assert expanded(kept.expand) == [(0.5, 1), (0.6, 1)]
    assert kept.expand[1].node.log_weight == pytest.approx(np.log(1.5))
    four = Particles(config(n=4, resampling="ess"), probabilities=True)
    uneven = four.advance([node(0.999), node(0.001), node(0.001), node(0.001)], [], RNG)
    assert expanded(uneven.expand) == [(0.999, 4)]
    assert uneven.expand[0].node.log_weight == 0.0
    # A parent that was as good gives no weight: the ratio counts, not the score.
    parent = node(0.9)
    same = even.advance([node(0.9, parent=parent), node(0.5)], [], RNG)
    assert same.expand[0].node.log_weight == pytest.approx(0.0)


def test_systematic_draws() -> None:
    assert systematic(np.array([0.5, 0.25, 0.25]), 4, 0.5).tolist() == [2, 1, 1]
    assert systematic(np.array([1.0, 0.0]), 3, 0.99).tolist() == [3, 0]


@pytest.fixture(scope="module")
def policy() -> LoadedPolicy:
    return load_policy("tiny")


def searched(policy: LoadedPolicy, reward: str, problems: Any, **settings: Any) -> tuple[Found, LoadedReward]:
    loaded = load_reward(reward, LoadOptions())
    given = config(max_new_tokens=80, temperature=1.0, **settings)
    engine = TorchEngine(policy.model, policy.tokenizer)
    return search(problems, policy, engine, loaded, given, name=reward), loaded


PROBLEMS = arith.problems("test", 6, levels=(4, 5, 6))


@pytest.mark.parametrize("approach", list(APPROACHES))
def test_the_scores_are_those_of_the_whole_text(policy: LoadedPolicy, approach: str) -> None:
    found, loaded = searched(policy, "confidence", PROBLEMS[:3], approach=approach, n=4, width=2)
    solutions, scores = [], []
    for problem, pooled in zip(PROBLEMS, found.problems, strict=False):
        assert 1 <= len(pooled.samples) <= 4
        for sample in pooled.samples:
            steps = tuple(step_texts(sample.text, loaded.segmentation))
            solutions.append(
                LabelledSolution(
                    "x", problem.prompt, steps, (None,) * len(steps), finished=sample.finished, source=problem.source
                )
            )
            scores.append(sample.scores["confidence"])
    for mine, whole in zip(scores, score_solutions(loaded, solutions), strict=True):
        np.testing.assert_allclose(mine, whole.scores, rtol=1e-4, atol=1e-4)


def test_a_search_depends_on_no_other_problem_and_counts_its_tokens(policy: LoadedPolicy) -> None:
    together, _ = searched(policy, "confidence", PROBLEMS, n=4, width=2)
    alone, _ = searched(policy, "confidence", PROBLEMS[2:3], n=4, width=2)
    assert [s.text for s in together.problems[2].samples] == [s.text for s in alone.problems[0].samples]
    cost = alone.cost
    leaves = alone.problems[0].samples
    assert cost.generated - cost.discarded <= sum(sample.tokens or 0 for sample in leaves)
    prompt = len(policy.tokenizer(PROBLEMS[2].prompt)["input_ids"])
    assert cost.scored == prompt + cost.generated  # each token once


def test_lookahead_is_counted_apart(policy: LoadedPolicy) -> None:
    plain, _ = searched(policy, "confidence", PROBLEMS[:1], n=2, width=2)
    ahead, _ = searched(policy, "confidence", PROBLEMS[:1], n=2, width=2, lookahead=1)
    assert plain.cost.lookahead == 0
    assert ahead.cost.lookahead > 0
    named, _ = searched(policy, "confidence", PROBLEMS[:1], approach="lookahead", n=2, width=2)
    assert named.cost == ahead.cost
    assert named.problems == ahead.problems
    with pytest.raises(ValidationError, match="lookahead=0 is beam search"):
        SearchConfig(approach="lookahead", lookahead=0)


def test_the_oracle_finds_what_sampling_misses(policy: LoadedPolicy) -> None:
    problems = arith.problems("test", 24, levels=(5, 6))

    def right(reward: str) -> float:
        found, _ = searched(policy, reward, problems, n=4, width=4, approach="dvts")
        firsts = [one.samples[0].text if one.samples else "" for one in found.problems]
        return float(np.mean([f"\\boxed{{{p.answer}}}" in text for p, text in zip(problems, firsts, strict=True)]))

    assert right("oracle") > right("random")


def test_the_last_round_ends_all(policy: LoadedPolicy) -> None:
    found, _ = searched(policy, "oracle", PROBLEMS[:2], n=2, width=2, max_steps=1)
    assert all(len(one.samples) == 2 for one in found.problems)
    assert Expansion(Node(0), 1).tree == 0
