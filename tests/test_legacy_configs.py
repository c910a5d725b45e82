"""Records made before the settings got their present places still say what they said."""

from __future__ import annotations

import json

import pytest

from repirl.config import parse_config
from repirl.methods.registry import load_method
from repirl.paths import CHECKOUT_DIR
from repirl.records.upgrade import current_config

OLD = sorted((CHECKOUT_DIR / "results" / "tiny-full").glob("*/record.json"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.parent.name)
def test_every_record_of_tiny_full_has_todays_recipe(path):
    record = json.loads(path.read_text())
    recipe = load_method(record["method"]).recipe(record["recipe"])
    found = parse_config(type(recipe), current_config(record["config"]))
    if record["stage"] != "arith":
        found = found.model_copy(update={"data": found.data.model_copy(update={"source": "arith"})})
    assert found == recipe
    assert current_config(current_config(record["config"])) == current_config(record["config"])


def test_settings_that_a_recipe_does_not_use_are_carried_over():
    recipe = load_method("rloo").recipe("tiny")
    values = recipe.model_dump(mode="json")
    loop = {name: value for name, value in values["loop"].items() if name != "credit"}
    mix = {"outcome": "rloo_scaled", "outcome_weight": 0.5, "process_weight": 2.0, "process_credit": "step", "whiten": True}
    loss = {**values["loop"]["optim"]["loss"], "kl_weight": 0.1, "kl": "k1"}
    loop |= {"mix": mix, "process_warmup_steps": 10, "process_decay_steps": 20, "optim": {**loop["optim"], "loss": loss}}
    found = parse_config(type(recipe), current_config({**values, "loop": loop}))
    credit = found.loop.credit
    assert (credit.rule, credit.outcome, credit.outcome_weight, credit.whiten) == ("step", "rloo", 0.5, True)
    assert (credit.process_starts, credit.process_ends) == (0.25, 0.75)
    loop |= {"process_decay_steps": 60}  # it was legal to decay beyond the last step
    longer = parse_config(type(recipe), current_config({**values, "loop": loop})).loop.credit
    assert (longer.process_ends, longer.process_share(1.0)) == (1.75, 0.5)
    assert (found.loop.optim.loss.kl.weight, found.loop.optim.loss.kl.estimator) == (0.1, "k1")
