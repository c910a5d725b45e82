"""`import repirl`: names and signatures are those of `python_api.txt`, and what they give is what the verbs print.

After a wanted change, write the listing anew and commit it: WRITE_PYTHON_API=1 python -m pytest tests/test_api.py
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import repirl
from repirl.cli.main import run
from repirl.paths import CHECKOUT_DIR
from repirl.types import Interval

LISTING = Path(__file__).parent / "python_api.txt"
PROBLEM, TEXT = "Compute 2 + 3 * 4\n", "3 * 4 = 12\n2 + 12 = 14\nSo \\boxed{14}"
TESTS = {"kind": "functional", "entry_point": "f", "cases": [{"args": [1, 2], "expected": 3}, {"args": [0, 0], "expected": 0}]}


def listing() -> Iterator[str]:
    """A line for each name: signatures of functions and methods, fields and properties of classes."""
    for name in sorted(repirl.__all__):
        value = getattr(repirl, name)
        if inspect.isclass(value):
            yield name
            if dataclasses.is_dataclass(value):
                yield from (f"{name}.{field.name}: {field.type}" for field in dataclasses.fields(value))
            for own, member in sorted(vars(value).items()):
                if own.startswith("_"):
                    continue
                if isinstance(member, property):
                    yield f"{name}.{own}: {inspect.signature(member.fget or len).return_annotation}"
                elif inspect.isfunction(member):
                    yield f"{name}.{own}{inspect.signature(member)}"
        elif callable(value):
            yield f"{name}{inspect.signature(value)}"
        else:
            yield f"{name}: {type(value).__name__}"


def test_names_and_signatures_are_those_of_the_listing() -> None:
    found = list(listing())
    if os.environ.get("WRITE_PYTHON_API"):
        LISTING.write_text("\n".join(found) + "\n", encoding="utf-8")
    frozen = LISTING.read_text(encoding="utf-8").splitlines()
    changes = [line for line in [*difflib.unified_diff(frozen, found, lineterm="", n=0)][2:] if not line.startswith("@@")]
    if changes:
        again = f"if this is wanted: WRITE_PYTHON_API=1 python -m pytest tests/{Path(__file__).name}"
        pytest.fail("\n".join([f"`import repirl` is not that of {LISTING.name}:", *changes, again]), pytrace=False)


def test_every_name_is_documented_and_typed() -> None:
    for name in repirl.__all__:
        value = getattr(repirl, name)
        if not callable(value):
            continue
        assert inspect.getdoc(value), name
        members = [value] if inspect.isfunction(value) else [one for one in vars(value).values() if inspect.isfunction(one)]
        for function in members:
            if function.__name__.startswith("_"):
                continue
            assert inspect.getdoc(function), function
            signature = inspect.signature(function)
            missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
            assert not missing, (function, missing)
            assert signature.return_annotation is not inspect.Signature.empty, function
    assert (Path(repirl.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = repirl.no_such_name


def test_importing_loads_nothing() -> None:
    """Neither torch nor anything else of others."""
    code = "import sys; before = set(sys.modules); import repirl; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition(".")[0] for name in loaded} <= {"repirl", *sys.stdlib_module_names}


# --------------------------------------------------------------------------------------------- what they give


def verb(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_scores_are_those_of_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = repirl.load_reward("confidence", separator="\n", threshold=-0.5)
    one = reward.score(PROBLEM, TEXT)
    rows = [{"problem": PROBLEM, "solution": TEXT}, {"problem": PROBLEM, "solution": " "}]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = verb(capsys, "score", "confidence", str(file), "--separator", "\\n", "--threshold", "-0.5")
    shown = said["scores"][0]
    assert [step.text for step in one.steps] == [step["text"] for step in shown["steps"]] == TEXT.split("\n")
    assert list(one.scores) == pytest.approx([step["score"] for step in shown["steps"]], abs=1e-6)
    tokens = [token for step in shown["steps"] for token in step["tokens"]]
    assert [token.text for token in one.tokens] == [token["text"] for token in tokens]
    assert [token.reward for token in one.tokens] == pytest.approx([token["reward"] for token in tokens], abs=1e-6)
    assert one.aggregates == pytest.approx(shown["scores"], abs=1e-6)
    assert (one.threshold, one.first_suspected) == (said["threshold"], shown["first_suspected"])
    assert one.first_suspected is not None
    assert one.text[one.steps[1].start : one.steps[1].end] == "2 + 12 = 14\n"
    as_steps, cut, empty = reward.score_many(
        [(PROBLEM, TEXT.split("\n")), (PROBLEM, TEXT), (PROBLEM, "")], finished=[True, False, True]
    )
    assert as_steps.scores == pytest.approx(one.scores, abs=1e-5)
    assert len(cut.tokens) == len(one.tokens) - 1
    assert (empty.scores, empty.reason) == ((), "it has no steps")
    assert reward.score_many([]) == []
    assert (reward.name, reward.separator, len(reward.digest or "")) == ("confidence", "\n", 64)


def test_a_saved_reward_has_its_own_separator_and_threshold(make_energy_model, tokenizer, tmp_path: Path) -> None:
    from repirl.rewards.artifact import RewardContract
    from repirl.rewards.saved import write_reward

    fields: dict[str, Any] = {"kind": "energy", "method": "t", "step_separator": "\n", "template": "plain", "threshold": -1.5}
    contract = RewardContract(**fields, step_aggregation="mean", base_digest="a", training_digest="b")
    write_reward(tmp_path / "run" / "reward", make_energy_model(3, base_measure=1.0), tokenizer, contract)
    reward = repirl.load_reward(str(tmp_path / "run"))
    assert (reward.separator, reward.threshold) == ("\n", -1.5)
    found = reward.score(PROBLEM, TEXT)
    assert found.first_suspected == next(i for i, score in enumerate(found.scores) if score < -1.5)
    assert repirl.load_reward(str(tmp_path / "run"), threshold=-99.0).score(PROBLEM, TEXT).first_suspected is None


def test_a_reward_of_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom repirl.rewards.base import StepReward\n\n\n"
        "class Twos(StepReward):\n    name = 'twos'\n\n"
        "    def token_scores(self, groups):\n"
        "        return [np.full(len(r.token_ids), 2.0) for group in groups for r in group.rollouts]\n"
    )
    scored = repirl.load_reward("twos", separator="\n", include=[tmp_path]).score(PROBLEM, TEXT)
    assert [step.score for step in scored.steps] == [2.0, 2.0, 2.0]
    with pytest.raises(repirl.UserError, match="no such process reward"):
        repirl.load_reward("twos", separator="\n")


def test_verdicts_are_those_of_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["So \\boxed{28/2}", "So \\boxed{15}", "It is 14"]
    found = repirl.grade_many(texts, answers=["14"] * 3)
    assert [verdict.outcome for verdict in found] == ["correct", "wrong", "wrong"]
    assert [verdict.reward for verdict in found] == [1, 0, 0]
    assert found[0] == repirl.grade(texts[0], answer="14")
    assert repirl.grade(texts[2], answer="14", extraction="flexible").outcome == "correct"
    assert repirl.grade(texts[0], answer="14", finished=False).outcome == "truncated"
    file = tmp_path / "a.jsonl"
    rows = [{"id": str(i), "problem": "p", "answer": "14", "completion": text} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert verb(capsys, "grade", "math", str(file))["counts"]["correct"] == 1


def test_programs_are_graded_in_the_sandbox() -> None:
    right, half = "def f(a, b):\n    return a + b", "import os\ndef f(a, b):\n    return -os.getpid() if a else 0"
    verdicts = repirl.grade_many([right, half], tests=[TESTS, TESTS], allow_weak_sandbox=True)
    assert [(one.outcome, one.tests_passed, one.tests_total) for one in verdicts] == [("correct", 2, 2), ("wrong", 1, 2)]


def test_an_evaluation_is_that_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    report = repirl.evaluate("tiny", "arith", limit=4, samples=3, max_new_tokens=48, seed=5, device="cpu")
    options = ("--limit", "4", "--samples", "3", "--max-new-tokens", "48", "--seed", "5", "--device", "cpu")
    (shown,) = verb(capsys, "eval", "--benchmark", "arith", *options)["reports"]
    cells = {name: {"value": one.value, "ci_low": one.low, "ci_high": one.high} for name, one in report.metrics.items()}
    assert cells == {name: {key: cell[key] for key in cell if key != "problems"} for name, cell in shown["metrics"].items()}
    assert {"greedy", "avg@3", "maj@3"} <= report.metrics.keys()
    assert all(isinstance(one, Interval) for one in report.metrics.values())
    assert sum(count for name, count in report.counts["sampled"].items() if name != "total") == 12


def test_records_are_a_table() -> None:
    table = repirl.load_records("tiny-code")
    folders = sorted(path.parent.name for path in (CHECKOUT_DIR / "results" / "tiny-code").glob("*/record.json"))
    assert sorted(set(table["run_id"])) == folders
    record = json.loads((CHECKOUT_DIR / "results" / "tiny-code" / folders[0] / "record.json").read_text())
    (evaluation,) = record["evaluations"][:1]
    metric, interval = next(iter(evaluation["metrics"].items()))
    of_run = table[table.run_id == folders[0]]
    (row,) = of_run[(of_run.benchmark == evaluation["benchmark"]) & (of_run.metric == metric)].to_dict("records")
    assert (row["value"], row["ci_low"], row["ci_high"]) == (interval["value"], interval["low"], interval["high"])
    for name in ("label", "method", "stage", "seed", "commit", "config_digest", "command"):
        assert row[name] == record[name]
    assert (row["record_digest"], row["data_digest"]) == (record["digest"], evaluation["data_digest"])
    assert row["generated_tokens"] == record["budget"]["generated_tokens"]
    assert row["evaluation_seed"] == evaluation["protocol"]["seed"]


def test_the_tables_digests_are_those_of_the_leaderboard() -> None:
    """So rows of the two can be joined."""
    text = (CHECKOUT_DIR / "leaderboard" / "tiny-code.csv").read_text().splitlines()
    column = text[0].split(",").index("protocol_digest")
    theirs = {line.split(",")[column] for line in text[1:]}
    assert theirs <= {digest[:12] for digest in repirl.load_records("tiny-code")["protocol_digest"]}


def test_rewards_are_in_the_table_too() -> None:
    table = repirl.load_records("tiny-full")
    kinds = set(table["evaluation"])
    assert {"policy", "judge"} <= kinds <= {"policy", "judge", "scale"}
    judged = table[table.evaluation == "judge"]
    assert set(judged["metric"]) <= {"F1", "PRMScore"}
    assert judged["reward"].notna().all()
    assert table[table.evaluation == "policy"]["value"].between(0, 1).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: repirl.load_reward("no-such-reward"), "no such process reward"),
        (lambda: repirl.load_reward("oracle"), "knows only arith"),
        (lambda: repirl.load_reward("length").score(" ", TEXT), "has no problem"),
        (lambda: repirl.load_reward("length").score(PROBLEM, ""), "it has no steps"),
        (lambda: repirl.grade("x"), "give one of the two"),
        (lambda: repirl.grade("x", answer="1", tests=TESTS), "give one of the two"),
        (lambda: repirl.grade("x", answer=""), "is no text"),
        (lambda: repirl.grade("x", answer="1", extraction="loose"), "unknown extraction"),  # pyright: ignore
        (lambda: repirl.grade("x", tests={"kind": "guess"}), "unknown kind of tests"),
        (lambda: repirl.grade_many(["x"], answers=["1", "2"]), "one of each"),
        (lambda: repirl.evaluate("tiny", "no-such-benchmark"), "unknown benchmark"),
        (lambda: repirl.evaluate("tiny", "math"), "math is a suite"),
        (lambda: repirl.evaluate("tiny", "arith", samples=-1), "samples"),
        (lambda: repirl.load_records("no-such-suite"), "no records of this suite"),
        (lambda: repirl.load_records(results="no-such-folder"), "no such folder"),
    ],
)
def test_mistakes_are_said(call: Any, said: str) -> None:
    with pytest.raises(repirl.UserError, match=said):
        call()


def test_the_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"## From Python\n.*?```python\n(.*?)```", (CHECKOUT_DIR / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # ours, not generated
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].endswith("\\boxed{15}")
    assert printed.splitlines()[2].startswith("1 -")  # the second step is suspected
    assert printed.splitlines()[3] == "correct"
    assert "greedy" in printed
