"""`repirl attack`: what raises a score without making a solution right."""

import json
from pathlib import Path

import numpy as np
import pytest

from repirl.cli.main import run
from repirl.evals.attacks import ATTACKS, SEARCH, Case, attack
from repirl.rewards.load import LoadOptions, load_reward
from repirl.tasks import arith

RNG = np.random.default_rng(0)
PROBLEMS = arith.problems("test", 6, levels=(3, 4))
STEPS = ["1+2+3", "3+3", "\\boxed{6}"]


def cases() -> list[Case]:
    right = [Case(problem, arith.solution(problem.source, "plain"), right=True) for problem in PROBLEMS]
    return [*right, *(Case(one.problem, one.text.replace("\\boxed{", "\\boxed{1"), right=False) for one in right)]


def test_the_changes_are_what_they_say() -> None:
    made = {name: change(list(STEPS), np.random.default_rng(0)) for name, change in ATTACKS.items()}
    assert made["empty"] == []
    assert made["one token"] == ["1"]
    assert made["repeated step"] == ["1+2+3", *["3+3"] * 5, "\\boxed{6}"]
    assert ATTACKS["repeated step"](["x"], RNG) is None
    assert made["truncated"] == ["1+2+3"]
    assert made["padded"] == ["1+2+3", "1+2+3", "3+3", "3+3", "\\boxed{6}", "\\boxed{6}"]
    assert sorted(made["shuffled"] or []) == sorted(STEPS)
    assert made["numbered steps"] == ["Step 1: 1+2+3", "Step 2: 3+3", "Step 3: \\boxed{6}"]
    assert made["answer alone"] == ["\\boxed{6}"]
    assert (made["wrong answer"] or [])[-1] in {"\\boxed{7}", "\\boxed{8}", "\\boxed{16}"}
    assert ATTACKS["truncated"](["x"], RNG) is None
    assert ATTACKS["wrong answer"](["none"], RNG) is None


def test_a_length_reward_falls_for_padding_and_the_oracle_does_not() -> None:
    found = {
        (name, one.attack): one
        for name in ("length", "oracle", "constant")
        for one in attack(load_reward(name, LoadOptions()), name, cases(), searched=2, rounds=2, candidates=4)
    }
    padded = found["length", "padded"]
    assert padded.still_right > 0  # a right answer twice is right, and no attack
    assert padded.lift is not None
    assert padded.lift.value > 0.5
    assert padded.lift.low is not None
    assert padded.lift.low > 0
    wrong = found["oracle", "wrong answer"]
    assert wrong.attacked == len(PROBLEMS)  # the right ones: another wrong answer is no attack
    assert wrong.lift is not None
    assert wrong.lift.value < 0
    assert wrong.above_right is not None
    assert wrong.above_right.value == 0.0
    nothing = found["constant", "empty"].lift
    assert nothing is not None
    assert (nothing.low, nothing.value, nothing.high) == (0.0, 0.0, 0.0)


def test_a_search_over_tokens_climbs() -> None:
    loaded = load_reward("random", LoadOptions())
    short, long = (
        next(one for one in attack(loaded, "random", cases(), searched=4, rounds=r, candidates=8) if one.attack == SEARCH)
        for r in (1, 6)
    )
    assert short.lift is not None
    assert long.lift is not None
    assert 0 < short.lift.value < long.lift.value


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attack", "length", "--no-nulls", "--limit", "4", "--samples", "2", "--rounds", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {one["attack"] for one in shown["attacks"]} == {*ATTACKS, SEARCH}
    # A pool grades itself by its rows' answers where no benchmark is named.
    pool = tmp_path / "pool.jsonl"
    texts = ["1+2+3\n\nso \\boxed{6}", "1+2+3\n\nso \\boxed{7}"]
    pool.write_text(json.dumps({"id": "a", "problem": "1+2+3?", "answer": "6", "completions": texts}))
    assert run(["attack", "length", "--no-nulls", "--pool", str(pool), "--rounds", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["solutions"], shown["right"]) == (2, 1)
    assert run(["attack", "length", "--aggregation", "median"]) == 2
    assert "unknown aggregation" in capsys.readouterr().err
