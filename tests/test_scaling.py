"""`repirl scale`: every selector from one pool, and real pools of others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repirl.cli.main import run
from repirl.cli.scale import short_names
from repirl.cli.scale_tables import costs_of
from repirl.errors import UserError
from repirl.evals.metrics import metric_values
from repirl.evals.scaling import (
    BEST_OF_N,
    MAJORITY,
    PASS,
    RANDOM,
    SHORTEST,
    WEIGHTED,
    Candidates,
    Scaling,
    powers_of_two,
    scaling,
)
from repirl.evals.solvability import foretold
from repirl.paths import CHECKOUT_DIR
from repirl.reporting.figures import of_scaling
from repirl.reporting.plots import draw


def candidates(problem: str, correct: list[float], scores: list[list[float] | None], votes: str, lengths=None) -> Candidates:
    steps = tuple(None if one is None else np.array(one) for one in scores)
    return Candidates(problem, np.array(correct), tuple(votes), np.array(lengths or [1.0] * len(correct)), {"prm": steps})


def value(found: Scaling, selector: str, how: str | None, n: int) -> float:
    reward = None if how is None else "prm"
    (curve,) = [c for c in found.curves if (c.selector, c.reward, c.aggregation) == (selector, reward, how)]
    (point,) = [point for point in curve.points if point.samples == n]
    return point.accuracy.value


def test_every_selector_by_hand() -> None:
    pool = [
        candidates("a", [1, 0, 0], [[0.9, 0.1], [0.4, 0.4], [0.2, 0.6]], "xyy", [5, 9, 2]),
        candidates("b", [0, 1, 1], [[0.5, 0.5], None, [0.3]], "uvv", [1, 2, 3]),
    ]
    found = scaling(pool)
    assert (found.problems, found.samples, found.squashed) == (2, 3, ())
    assert value(found, PASS, None, 3) == 1.0
    assert value(found, RANDOM, None, 3) == pytest.approx(0.5)
    assert value(found, MAJORITY, None, 3) == 0.5  # y of a is wrong, v of b is right
    assert value(found, SHORTEST, None, 3) == 0.0
    assert value(found, BEST_OF_N, "mean", 3) == 0.5  # 0.5, 0.4, 0.4 of a: the right one; 0.5, none, 0.3 of b: the wrong one
    assert value(found, BEST_OF_N, "last", 3) == 0.0
    assert value(found, BEST_OF_N, "min", 3) == 0.0
    assert value(found, BEST_OF_N, "sum", 3) == 0.5
    # a by sums: x 1.0, y 0.8 + 0.8; b: u 1.0, v 0.3. By prod: x 0.09, y 0.16 + 0.12; b: u 0.25, v 0.3.
    assert value(found, WEIGHTED, "sum", 3) == 0.0
    assert value(found, WEIGHTED, "prod", 3) == 0.5
    assert value(found, BEST_OF_N, "mean", 1) == pytest.approx(0.5)


def test_majority_is_that_of_eval() -> None:
    rng = np.random.default_rng(0)
    votes = "".join(rng.choice(list("abcd"), 12))
    correct = [float(vote == "a") for vote in votes]
    found = scaling([candidates("p", correct, [None] * 12, votes)], [5], seed=3)
    told = metric_values("maj@5", {"p": correct}, {"p": list(votes)}, seed=3)["p"]
    assert value(found, MAJORITY, None, 5) == pytest.approx(told)
    # Without scores a reward chooses as chance does, and its votes weigh alike.
    assert value(found, BEST_OF_N, "mean", 5) == pytest.approx(np.mean(correct))


def test_scores_beyond_probabilities_are_squashed_for_products_and_votes() -> None:
    pool = [candidates("a", [1, 0, 0], [[3.0, 2.0], [-4.0, -4.0], [-3.0, -3.0]], "xyy")]
    found = scaling(pool)
    assert found.squashed == ("prm",)
    # Raw products would be 6, 16 and 9.
    assert value(found, BEST_OF_N, "prod", 3) == 1.0
    assert value(found, WEIGHTED, "mean", 3) == 1.0


def test_the_numbers_and_the_pool_must_fit() -> None:
    pool = [candidates("a", [1, 0], [[1.0], [0.0]], "xy"), candidates("b", [1], [[1.0]], "x")]
    with pytest.raises(UserError, match="between 1 and the 2"):
        scaling(pool, [4])
    with pytest.raises(UserError, match="no graded samples"):
        scaling([])
    assert scaling(pool, [2]).left_out == 1
    assert powers_of_two(6) == (1, 2, 4, 6)


def test_a_problem_of_few_graded_samples_does_not_shorten_the_curves() -> None:
    """One in ten may lack some: it is left out, and counted."""
    whole = [candidates(f"p{i}", [1.0, 0.0, 0.0, 1.0], [[0.5]] * 4, "aabb") for i in range(9)]
    found = scaling([candidates("short", [1.0], [[0.5]], "a"), *whole])
    assert (found.samples, found.problems, found.left_out) == (4, 9, 1)
    short = [candidates(f"s{i}", [1.0, 0.0], [[0.5]] * 2, "ab") for i in range(2)]
    assert scaling([*short, *whole]).samples == 2


def test_a_plot_takes_the_reader_s_colours(tmp_path: Path) -> None:
    pool = [candidates("a", [1, 0], [[0.9], [0.1]], "xy"), candidates("b", [0, 1], [[0.9], [0.1]], "xy")]
    draw(tmp_path / "one.svg", of_scaling(scaling(pool)))
    draw(tmp_path / "two.svg", of_scaling(scaling(pool)))
    text = (tmp_path / "one.svg").read_text()
    assert "currentColor" in text
    assert "prefers-color-scheme" in text
    assert ">best-of-N<" in text
    assert text == (tmp_path / "two.svg").read_text()


def test_curves_can_be_drawn_against_what_they_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reward's scores cost tokens too: its curve lies to the right of the majority's."""
    asked = ("--benchmark", "arith", "--limit", "3", "--samples", "4", "--reward", "confidence", "--aggregation", "min")
    payload = shown(capsys, *asked, "--plot", str(tmp_path / "tokens.svg"), "--against", "tokens")
    assert "tokens of a problem" in (tmp_path / "tokens.svg").read_text()
    costs = costs_of(payload, "tokens")
    plain, chosen = costs["majority", None, None], costs["best-of-N", "confidence", "min"]
    assert plain == pytest.approx([plain[0] * n for n in (1, 2, 4)])
    assert all(b > 1.9 * a for a, b in zip(plain, chosen, strict=True))  # the prompt is scored with each
    search = ("--benchmark", "arith", "--limit", "2", "--approach", "beam", "--reward", "confidence", "--n", "1", "--n", "4")
    searched = shown(capsys, *search, "--plot", str(tmp_path / "search.svg"), "--against", "flops")
    assert "FLOPs of a problem" in (tmp_path / "search.svg").read_text()
    assert [point["n"] for point in searched["points"]] == [1, 4]
    unknown = {"curves": [{"selector": "majority", "reward": None, "aggregation": None, "points": [{"policy_tokens": None}]}]}
    with pytest.raises(UserError, match="does not say what tokens"):
        costs_of(unknown, "tokens")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = run(["scale", *arguments, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def test_sampled_scored_saved_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "pool.jsonl"
    asked = ("--benchmark", "arith", "--limit", "6", "--samples", "4")
    rewards = ("--reward", "confidence", "--reward", "oracle", "--aggregation", "min")
    first = shown(capsys, *asked, *rewards, "--save-pool", str(saved), "--out", str(tmp_path / "samples"))
    again = shown(capsys, "--benchmark", "arith", "--pool", str(saved), "--aggregation", "min")
    values = {(c["selector"], c["reward"]): [p["accuracy"] for p in c["points"]] for c in again["curves"]}
    assert all(values[c["selector"], c["reward"]] == [p["accuracy"] for p in c["points"]] for c in first["curves"])
    row = json.loads(saved.read_text().splitlines()[0])
    assert len(row["rewards"]["confidence"]["tokens"][0]) == row["completion_tokens"][0]
    assert first["parameters"]["policy"] > 100_000
    best = next(c for c in first["curves"] if c["selector"] == "best-of-N" and c["reward"] == "confidence")
    last = best["points"][-1]
    sizes = first["parameters"]
    spent = sizes["policy"] * last["policy_tokens"] + sizes["confidence"] * last["reward_tokens"]
    assert last["flops"] == pytest.approx(2 * spent)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to choose from"),
        (("--benchmark", "arith", "--aggregation", "median"), "unknown aggregation"),
        (("--pool", "nowhere.jsonl"), "no such file"),
        (("--benchmark", "arith", "--reward", "nowhere"), "no such process reward"),
        (("--benchmark", "arith", "--n", "99"), "more than the samples"),
        (("--benchmark", "arith", "--set", "n=2"), "belongs to a search"),
        (("--benchmark", "arith", "--approach", "beam"), "one benchmark and one reward"),
        (("--benchmark", "arith", "--reward", "oracle", "--approach", "luck"), "unknown approach"),
        (("--benchmark", "arith", "--reward", "oracle", "--approach", "beam", "--n", "0"), "bad setting n"),
        (("--benchmark", "arith", "--reward", "oracle", "--approach", "beam", "--n", "6"), "no multiple of width=4"),
        (("--benchmark", "arith", "--against", "seconds"), "not drawn against"),
        (("--benchmark", "arith", "--reward", "oracle", "--approach", "beam", "--aggregation", "min"), "no --aggregation"),
        (("--benchmark", "arith", "--engine", "tensorrt"), "unknown engine"),
        (("--benchmark", "arith", "--engine", "openai"), "needs --base-url"),
        (("--benchmark", "arith", "--engine", "openai", "--reward", "confidence"), "which lie behind a server: 'confidence'"),
        (("--pool", "x.jsonl", "--engine", "vllm"), "a pool is read, not sampled: '--engine'"),
        (("--pool", "x.jsonl", "--base-url", "http://h/v1"), "a pool is read, not sampled: '--base-url'"),
        (("--benchmark", "arith", "--reward", "oracle", "--approach", "beam", "--engine", "vllm"), "engine of torch"),
        (("--benchmark", "minicode", "--limit", "1", "--samples", "1", "--reward", "oracle"), "knows only arith problems"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scale", *arguments]) == 2
    assert said in capsys.readouterr().err


REAL = CHECKOUT_DIR.parent / "shared" / "data" / "math500_samples"


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real pools is not there")
def test_a_real_pool_and_what_its_origin_chose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The choice among equal texts is the same; where it is not, an answer is found or merged in another way."""
    found = shown(capsys, "--pool", str(REAL / "llama31_8b_beam3_q500.jsonl.gz"), "--limit", "60", "--aggregation", "last")
    assert found["samples"] == 3
    assert found["problems"] == 60
    assert sum(one["problems"] for one in found["origin"]) == 360  # three rules, two N
    for one in found["origin"]:
        if one["rule"] != "maj":
            assert abs(one["theirs"] - one["ours"]) <= 1


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real pools is not there")
def test_where_the_origin_chose_otherwise_an_answer_is_unmarked_but_for_one_problem(capsys: pytest.CaptureFixture[str]) -> None:
    """The origin takes the last number where no answer is marked, and reads (a+5)(b+2) as (5)(2)."""
    found = shown(capsys, "--pool", str(REAL / "llama31_8b_beam3_q500.jsonl.gz"), "--aggregation", "last")
    for one in found["origin"]:
        known = "test/intermediate_algebra/431.json" in one["differing"]
        assert len(one["differing"]) == one["unmarked"] + known


def test_rewards_of_one_name_are_told_apart() -> None:
    given = ["runs/a/reward", "runs/b", "oracle", "oracle"]
    assert short_names(given) == {"a": "runs/a/reward", "b": "runs/b", "oracle": "oracle"}
    assert list(short_names(["x/run", "y/run"])) == ["x/run", "y/run"]


def attempts(problem: str, score: float, length: int, *, solved: bool = False) -> Candidates:
    steps = (np.array([score - 0.1, score + 0.1]), np.array([score]), None)
    return Candidates(problem, np.array([0.0, float(solved), 0.0]), (), np.full(3, float(length)), {"prm": steps})


def test_scores_of_failed_attempts_foretell_what_is_solved_later() -> None:
    """Scores in the order of what is solved later, lengths against it: correlations by hand are 1 and, of shortness, -1."""
    later = {f"p{i}": i / 20 for i in range(12)}
    pool = [attempts(f"p{i}", score=i, length=i) for i in range(12)]
    pool += [attempts("p99", 99, 1, solved=True), attempts("unknown", 5, 5)]
    length, prm = foretold(pool, later)
    assert (length.name, prm.name, prm.problems) == ("length", "prm", 12)
    assert (length.correlation.value, prm.correlation.value) == pytest.approx((-1, 1))
    assert prm.over_length is not None
    assert prm.over_length.interval.value == pytest.approx(2)
    assert length.over_length is None
    (_, mixed) = foretold(
        [attempts(f"p{i}", score=i % 2, length=1) for i in range(12)], {f"p{i}": float(i > 5) for i in range(12)}
    )
    assert mixed.correlation.value == pytest.approx(0)
    assert mixed.correlation.low is not None
    assert mixed.correlation.low < -0.2
    with pytest.raises(UserError, match="too few problems were failed"):
        foretold(pool[:9], later)
    with pytest.raises(UserError, match="equally often"):
        foretold(pool, dict.fromkeys(later, 0.5))


def test_a_later_policy_is_sampled_too(capsys: pytest.CaptureFixture[str], policy_folder: Path) -> None:
    """The policy of random weights fails everything; what `tiny` solves of it is foretold, or not."""
    given = ["--policy", str(policy_folder), "--samples", "2", "--limit", "24", "--reward", "confidence", "--later", "tiny"]
    found = shown(capsys, "--benchmark", "arith", *given)["later"]
    assert [one["name"] for one in found] == ["length", "confidence"]
    assert found[0]["problems"] >= 10
    assert run(["scale", "--pool", "x.jsonl", "--later", "tiny"]) == 2
    assert "give --benchmark" in capsys.readouterr().err
    assert run(["scale", "--benchmark", "arith", "--later", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
