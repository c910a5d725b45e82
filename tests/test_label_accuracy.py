"""Monte Carlo labels against the exact checker: they get better with the number of continuations."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from repirl.cli.main import app
from repirl.engines.loading import load_policy
from repirl.evals.label_accuracy import label_accuracy
from repirl.tasks import arith


def test_more_continuations_find_more_right_steps() -> None:
    """Any right one of N makes a label 1: right steps are called right more often, wrong ones not less often."""
    few, many = label_accuracy(load_policy("tiny"), arith, (2, 3), problems=40, numbers=(1, 8))
    assert (few.continuations, many.continuations) == (1, 8)
    assert (many.right or 0) > (few.right or 0) + 0.1
    assert (many.wrong or 0) <= (few.wrong or 0)
    assert few.gained is None
    assert many.gained is not None
    assert many.accuracy.value - few.accuracy.value == many.gained.value > 0


def test_the_verb_refuses_what_it_does_not_know() -> None:
    result = CliRunner().invoke(app, ["check", "labels", "--family", "words"])
    assert result.exit_code != 0
    assert "no such embedded family" in str(result.exception) + result.output
    result = CliRunner().invoke(app, ["check", "labels", "--level", "99"])
    assert "no such level" in str(result.exception) + result.output


def test_the_verb(monkeypatch) -> None:
    import repirl.evals.label_accuracy as module

    own = module.label_accuracy
    monkeypatch.setattr(module, "label_accuracy", lambda *given, **more: own(*given, problems=20, numbers=(1, 4)))
    result = CliRunner().invoke(app, ["check", "labels", "--level", "2", "--json"])
    found = json.loads(result.stdout)
    assert [line["continuations"] for line in found["labels"]] == [1, 4]
    assert found["levels"] == [2]
    assert result.exit_code == (0 if found["ok"] else 1)
