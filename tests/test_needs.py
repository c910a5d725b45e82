"""What a method declares is what it gets; `repirl list` and `repirl show` say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_methods import small_config

from repirl.cli import main as cli
from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method, methods
from repirl.paths import content_dir


def metrics_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["rloo", "repirl", "confidence"])
def test_without_declared_outcomes_nothing_is_graded(name: str, policy_folder, tmp_path, monkeypatch) -> None:
    """The same method, its declaration taken away: training samples are ungraded, validation is not the method's."""
    kind = type(load_method(name))
    config = small_config(name)
    monkeypatch.setattr(kind, "needs", kind.needs - {"outcomes"})
    load_method(name).fit(FitContext(load_policy(policy_folder), tmp_path / "blind", 0), config)
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


EXAMPLE = (content_dir("baselines") / "grpo.py").read_text()


def test_a_new_method_is_one_file(tmp_path: Path, policy_folder, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(EXAMPLE.replace('name = "grpo"', 'name = "mine"'))
    assert cli.run(["show", "mine", "--include", str(tmp_path)]) == 0
    assert "mine, recipe tiny" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(methods()))
def test_every_setting_says_what_it_means(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in load_method(name).recipes:
        assert cli.run(["show", name, recipe, "--json"]) == 0
        assert [one["setting"] for one in json.loads(capsys.readouterr().out)["settings"] if not one["meaning"]] == []
