"""pass@k, avg@n and maj@k from samples: closed forms, merged answers, ties, ungraded samples, and the `evaluate` modules."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path

import pytest

from repirl import stats
from repirl.errors import UserError
from repirl.evals.metrics import metric_values, parse_metric, problem_values
from repirl.grading.math import votes
from repirl.grading.math.votes import RIGHT, ballots, merge, same_answers
from repirl.paths import CHECKOUT_DIR
from repirl.types import Outcome, SampleRow

Pair = tuple[str, str]


def rows_of(problem: str, *samples: tuple[Outcome, str | None]) -> list[SampleRow]:
    return [SampleRow(problem, i, outcome, "", answer, 3, "text") for i, (outcome, answer) in enumerate(samples)]


# -------------------------------------------------------------------------------------------- names


def test_names_say_kind_k_and_ties() -> None:
    assert (parse_metric("pass@3").kind, parse_metric("pass@3").k) == ("pass", 3)
    assert parse_metric("maj@5").ties == "split"
    assert parse_metric("maj@5:random").ties == "random"
    assert parse_metric("greedy").k is None


@pytest.mark.parametrize("name", ["pass@0", "best@2", "pass@", "maj@3:first", "pass@3:random", "pass@-1", "avg@x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown metric"):
        parse_metric(name)


# ------------------------------------------------------------------------------------------- pass@k


def test_pass_at_k_counts_subsets_for_every_k() -> None:
    verdicts = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    for k in range(1, 8):
        hits = [any(verdicts[i] for i in chosen) for chosen in combinations(range(7), k)]
        assert metric_values(f"pass@{k}", {"p": verdicts})["p"] == pytest.approx(sum(hits) / len(hits))


def test_pass_at_1_is_avg_at_n() -> None:
    correct = {"p": [1.0, 0.0, 0.0], "q": [1.0, 1.0, math.nan]}
    assert metric_values("pass@1", correct) == pytest.approx(metric_values("avg@3", correct))


# ------------------------------------------------------------------------------------------- merging


def test_answers_that_mean_the_same_are_one() -> None:
    said = same_answers([("1/2", "0.5"), ("7", "007"), ("7", "8"), (r"\frac12", r"\dfrac{1}{2}"), ("-3", "3")])
    assert list(said.values()) == [True, True, False, True, False]


def test_what_is_neither_text_nor_number_is_compared_in_a_worker() -> None:
    said = same_answers([(r"\sqrt{8}", r"2\sqrt{2}"), ("x+1", "1+x"), (r"\sqrt{2}", r"\sqrt{3}")])
    assert list(said.values()) == [True, True, False]


def test_the_workers_see_only_what_text_and_numbers_leave_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(options: object) -> None:
        raise AssertionError("a worker was asked")

    monkeypatch.setattr(votes, "shared_grader", none)
    same_answers([("12", "-4"), ("a b", "a  b"), ("9" * 3000, "8" * 3000), ("1/2", "50/100")])


def test_merging_ignores_the_order_of_samples_though_it_is_not_transitive() -> None:
    """`5` is `5 cm` and `5` is `5 m`, but not `5 cm` `5 m`: the commonest answer takes in its likes."""
    asked: list[Pair] = []

    def same(pairs: Sequence[Pair]) -> dict[Pair, bool]:
        asked.extend(pairs)
        return {pair: "5" in pair for pair in pairs}

    for texts in permutations(["5 cm", "5 cm", "5", "5 m"]):
        assert merge({"p": texts}, same) == {"p": {"5 cm": "5 cm", "5": "5 cm", "5 m": "5 m"}}
    assert set(asked) == {("5 cm", "5"), ("5 cm", "5 m")}
    assert merge({"p": ["5", "5", "5 cm", "5 m"]}, same) == {"p": {"5": "5", "5 cm": "5", "5 m": "5"}}


def test_one_round_asks_about_every_problem() -> None:
    rounds: list[Sequence[Pair]] = []

    def same(pairs: Sequence[Pair]) -> dict[Pair, bool]:
        rounds.append(pairs)
        return dict.fromkeys(pairs, False)

    merge({"p": ["a", "b"], "q": ["c", "d", "e"], "r": []}, same)
    assert rounds == [[("a", "b"), ("c", "d"), ("c", "e")], [("d", "e")], []]


def test_right_answers_are_one_and_silence_is_none() -> None:
    cast = ballots({"p": ["0.5", "1/2", None, "", "3", "3.0"]}, {"p": [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]})
    assert cast == {"p": [RIGHT, RIGHT, None, None, "3", "3"]}
    with pytest.raises(UserError, match="right without any"):
        ballots({"p": [None, "3"]}, {"p": [1.0, 0.0]})


# ---------------------------------------------------------------------------------------------- maj@k


def test_equivalent_wrong_answers_win_together() -> None:
    """Two spellings of a wrong answer outvote the right one, which unmerged they would tie with."""
    rows = rows_of("p", ("correct", "7"), ("wrong", "1/2"), ("wrong", "0.5"))
    assert problem_values("maj@3", rows) == {"p": 0.0}
    rows = rows_of("p", ("correct", "7"), ("correct", "7.0"), ("wrong", "1/3"), ("wrong", "0.5"), ("wrong", "2"))
    assert problem_values("maj@5", rows) == {"p": 1.0}


def test_maj_at_1_is_the_mean_and_maj_at_2_with_ties_split_too() -> None:
    rows = rows_of("p", ("correct", "1"), ("wrong", "2"), ("wrong", "3"), ("correct", "1"), ("wrong", "2"))
    for k in (1, 2):
        assert problem_values(f"maj@{k}", rows)["p"] == pytest.approx(problem_values("avg@5", rows)["p"])


def test_majority_of_two_answers_is_a_hypergeometric_tail() -> None:
    """c of n right, one wrong answer: P(more than half of k right) + P(exactly half) / 2."""
    n, c = 9, 5
    rows = rows_of("p", *[("correct", "1")] * c, *[("wrong", "2")] * (n - c))
    for k in (1, 2, 3, 4, 9):
        ways = [math.comb(c, i) * math.comb(n - c, k - i) / math.comb(n, k) for i in range(k + 1)]
        expected = sum(chance * (1 if 2 * i > k else 0.5 if 2 * i == k else 0) for i, chance in enumerate(ways))
        assert problem_values(f"maj@{k}", rows)["p"] == pytest.approx(expected)


def test_ties_are_split_or_go_to_the_first_sampled_or_are_drawn() -> None:
    first_right = rows_of("p", ("correct", "1"), ("wrong", "2"), ("wrong", "3"))
    last_right = rows_of("p", ("wrong", "2"), ("wrong", "3"), ("correct", "1"))
    for rows, lowest in ((first_right, 1.0), (last_right, 0.0), (last_right[::-1], 0.0)):
        assert problem_values("maj@3", rows)["p"] == pytest.approx(1 / 3)
        assert problem_values("maj@3:lowest-index", rows) == {"p": lowest}
    tied = [row for i in range(300) for row in rows_of(f"p{i}", ("correct", "1"), ("wrong", "2"))]
    drawn = problem_values("maj@2:random", tied)
    assert drawn == problem_values("maj@2:random", tied) != problem_values("maj@2:random", tied, seed=1)
    assert set(drawn.values()) == {0.0, 1.0}
    assert sum(drawn.values()) / 300 == pytest.approx(0.5, abs=0.12)  # each problem has its own draw


def test_lowest_index_holds_in_random_subsets_too() -> None:
    """In every subset of two the right answer, if there, was sampled first: the chance is that it is there."""
    answers, correct = ["1", *"abcdefghijklmnopqrstuvwxyz"], [1.0] + [0.0] * 26
    value = stats.maj_at_k(answers, correct, 2, ties="lowest-index", subsets=350)
    assert math.comb(27, 2) == 351
    assert value == pytest.approx(2 / 27, abs=0.05)


def test_without_an_answer_no_vote_and_a_cut_one_is_none() -> None:
    rows = rows_of("p", ("correct", "1"), ("truncated", "2"), ("truncated", "2"), ("wrong", None))
    assert problem_values("maj@4", rows) == {"p": 1.0}
    assert problem_values("maj@1", rows)["p"] == 0.25
    silent = rows_of("q", ("truncated", None), ("wrong", None))
    assert problem_values("maj@2", silent) == {"q": 0.0}


def test_ungraded_samples_are_left_out() -> None:
    rows = rows_of("p", ("correct", "1"), ("wrong", "2"), ("ungraded", "x"), ("ungraded", "x"), ("ungraded", "x"))
    assert problem_values("maj@2", rows)["p"] == 0.5
    assert problem_values("avg@5", rows)["p"] == 0.5
    assert math.isnan(problem_values("maj@3", rows)["p"])
    assert math.isnan(problem_values("pass@3", rows)["p"])


def test_sound_is_a_right_answer_with_every_step_right() -> None:
    def row(i: int, outcome: Outcome, steps_right: bool | None) -> SampleRow:
        return SampleRow("p", i, outcome, "", "5", 3, "text", steps_right=steps_right)

    rows = [row(0, "correct", True), row(1, "correct", False), row(2, "wrong", False), row(3, "truncated", True)]
    assert problem_values("avg@4", rows)["p"] == 0.5
    assert problem_values("sound@4", rows)["p"] == 0.25
    # What is ungraded, or has steps that nobody checked, is left out.
    assert problem_values("sound@4", [*rows[:3], row(3, "ungraded", None)])["p"] == pytest.approx(1 / 3)
    assert problem_values("sound@2", [rows[0], row(1, "correct", None)])["p"] == 1.0


def test_sample_order_does_not_matter() -> None:
    rows = rows_of("p", ("wrong", "2"), ("correct", "1"), ("wrong", "2.0"), ("correct", "1"), ("wrong", "4"))
    assert len({problem_values("maj@3", list(order))["p"] for order in permutations(rows)}) == 1


# ------------------------------------------------------------------------------------ evaluate modules

_MODULES = """
import json, math, sys
import evaluate

def shown(name, **inputs):
    return evaluate.load(f"benchmarks/metrics/{name}").compute(**inputs)

samples = lambda n, c: [1.0] * c + [0.0] * (n - c)
print(json.dumps([
    shown("pass_at_k", predictions=[samples(10, 3)], k=[1, 5]),
    shown("pass_at_k", predictions=[samples(4, 1), samples(4, 1)], k=2),
    shown("pass_at_k", predictions=[[1.0, math.nan], [0.0, 0.0]], k=2),
    shown("avg_at_n", predictions=[samples(4, 1), samples(4, 3), [math.nan] * 4]),
    shown("maj_at_k", predictions=[["7", "7", "8"]], references=[[1.0, 1.0, 0.0]], k=2),
    shown("maj_at_k", predictions=[["7", "1/2", "0.5", ""]], references=[[1.0, 0.0, 0.0, 0.0]]),
    shown("maj_at_k", predictions=[["8", "7"]], references=[[0.0, 1.0]], ties="lowest-index"),
]))
"""


def test_evaluate_modules_load_by_path_without_a_network(tmp_path: Path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", _MODULES], capture_output=True, text=True, cwd=CHECKOUT_DIR, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    ten, four, nan, avg, maj, merged, first = json.loads(done.stdout.splitlines()[-1])
    assert ten == pytest.approx({"pass@1": 0.3, "pass@1/problems": 1, "pass@5": 11 / 12, "pass@5/problems": 1})
    assert four == pytest.approx({"pass@2": 0.5, "pass@2/problems": 2})
    assert nan == {"pass@2": 0.0, "pass@2/problems": 1}
    assert (avg["avg@4"], avg["problems"]) == (0.5, 2)
    assert avg["ci_low"] <= 0.5 <= avg["ci_high"]
    assert maj == pytest.approx({"maj@2": 2 / 3, "problems": 1})
    assert merged == {"maj@4": 0.0, "problems": 1}
    assert first == {"maj@2:lowest-index": 0.0, "problems": 1}
