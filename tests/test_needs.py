"""What a method declares is what it gets; `repirl list` and `repirl show` say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_methods import small_config

from repirl import paths
from repirl.cli import main as cli
from repirl.config import with_overrides
from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method, methods


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["rloo", "repirl", "confidence"])
def test_without_declared_outcomes_nothing_is_graded(name: str, policy_folder, tmp_path, monkeypatch) -> None:
    """The same method, its declaration taken away: training samples are ungraded, validation is not the method's."""
    kind = type(load_method(name))
    config: Any = small_config(name)
    monkeypatch.setattr(kind, "needs", kind.needs - {"outcomes"})
    with pytest.raises(UserError, match="learns without outcomes"):  # rather than from advantages that are all 0
        load_method(name).fit(FitContext(load_policy(policy_folder), tmp_path / "paid", 0), config)
    blind = {"rule": "outcome"} if name == "rloo" else {"rule": "sequence", "process_weight": 1.0}
    said = [f"loop.credit={json.dumps({**blind, 'outcome_weight': 0.0})}"]
    load_method(name).fit(FitContext(load_policy(policy_folder), tmp_path / "blind", 0), with_overrides(config, said))
    lines = metrics_of(tmp_path / "blind")
    assert all("reward" not in line and line["ungraded"] == 8 for line in lines[1:])
    assert all(line["validation_accuracy"] == line["validation_accuracy"] for line in lines)
    monkeypatch.setattr(kind, "needs", kind.needs | {"outcomes"})
    load_method(name).fit(FitContext(load_policy(policy_folder), tmp_path / "seeing", 0), config)
    assert all(line["ungraded"] == 0 for line in metrics_of(tmp_path / "seeing")[1:])


@pytest.mark.parametrize(("name", "said"), [("bc", "no demonstrations to clone"), ("repirl", "no demonstrations to learn")])
def test_without_declared_demonstrations_there_are_none(name: str, said: str, policy_folder, tmp_path, monkeypatch) -> None:
    kind = type(load_method(name))
    monkeypatch.setattr(kind, "needs", kind.needs - {"demonstrations"})
    with pytest.raises(UserError, match=said):
        load_method(name).fit(FitContext(load_policy(policy_folder), tmp_path, 0), small_config(name))


def test_the_intrinsic_reward_sees_no_outcome(policy_folder, tmp_path) -> None:
    load_method("intrinsic").fit(FitContext(load_policy(policy_folder), tmp_path, 0), small_config("intrinsic"))
    assert metrics_of(tmp_path)[-1]["ungraded"] == 8


def test_all_methods_are_listed_with_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "methods", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["methods"]}
    assert found.keys() == methods().keys()
    assert found["repirl"]["needs"] == "rollouts, outcomes, demonstrations"
    assert (found["repirl"]["yields"], found["repirl"]["level"]) == ("policy, reward", "token")
    assert found["base"]["needs"] == "nothing"


@pytest.mark.parametrize("name", list(methods()))
def test_show_has_every_setting_of_every_recipe(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in load_method(name).recipes:
        assert cli.run(["show", name, recipe, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["about"].strip()
        values = load_method(name).recipe(recipe).model_dump(mode="json")
        for one in shown["settings"]:
            node = values
            for part in one["setting"].split("."):
                node = node[part]
            assert node == one["value"], one["setting"]


def test_show_says_what_a_setting_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "repirl"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "offline.updates" in shown
    assert "needs: rollouts, outcomes, demonstrations" in shown
    assert cli.run(["show", "repril"]) == 2
    assert cli.run(["show", "repirl", "none"]) == 2


def test_the_example_of_a_baseline_trains(tmp_path: Path, policy_folder, capsys: pytest.CaptureFixture[str]) -> None:
    """A new baseline in under 40 lines, found in a folder of its own."""
    text = (paths.CHECKOUT_DIR / "docs" / "own.md").read_text()
    example = text.split("## A baseline")[1].split("```python\n")[1].split("```")[0]
    assert len(example.splitlines()) < 40
    (tmp_path / "own").mkdir()
    (tmp_path / "own/digits.py").write_text(example)
    include = ["--include", str(tmp_path / "own")]
    assert cli.run(["show", "digits", *include]) == 0
    assert "digits, recipe tiny" in capsys.readouterr().out
    small = {
        "loop.steps": 2, "loop.sampling.prompts_per_step": 2, "loop.sampling.group_size": 2, "data.num_problems": 4,
        "data.validation_problems": 2, "loop.sampling.max_new_tokens": 8, "loop.validation.samples": 1,
    }  # fmt: skip
    sets = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    run = tmp_path / "run"
    assert cli.run(["train", "digits", "--policy", str(policy_folder), "--out", str(run), *include, *sets]) == 0
    capsys.readouterr()
    solution = tmp_path / "one.jsonl"
    solution.write_text(json.dumps({"problem": "Compute (1+2)", "solution": "(1+2)\n3\nyes"}) + "\n")
    score = ["score", "digits", str(solution), "--separator", "\\n", "--json"]
    assert cli.run([*score, *include]) == 0
    steps = json.loads(capsys.readouterr().out)["scores"][0]["steps"]
    shares = [np.mean([token["text"].isdigit() for token in step["tokens"]]) for step in steps]
    assert [step["score"] for step in steps] == pytest.approx(shares, abs=1e-6)
    assert shares[0] > shares[2]
    assert cli.run(score) == 2
    assert "no such process reward: 'digits'" in capsys.readouterr().err
    labelled = tmp_path / "labelled.jsonl"
    row = {"completions": ["(1+2)", "3"], "labels": [True, False]}
    labelled.write_text("".join(json.dumps(row | {"prompt": f"Compute (1+{i})"}) + "\n" for i in range(4)))
    assert cli.run(["judge", "digits", str(labelled), *include, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reward"]["kind"] == "digits"
    assert "prm/length_correlation" in metrics_of(run)[-1] or "prm/score_empty" in metrics_of(run)[-1]


@pytest.mark.parametrize("name", list(methods()))
def test_every_setting_says_what_it_means(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in load_method(name).recipes:
        assert cli.run(["show", name, recipe, "--json"]) == 0
        assert [one["setting"] for one in json.loads(capsys.readouterr().out)["settings"] if not one["meaning"]] == []
