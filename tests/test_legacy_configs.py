"""Records made before the settings got their present places still say what they said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_methods import paths_of

from repirl.config import parse_config, with_overrides
from repirl.methods.registry import load_method
from repirl.records.upgrade import current_config

OLD = sorted((Path(__file__).parent / "data" / "schema_1" / "tiny-full").glob("*/record.json"))
WAS = {  # what the recipes said when the records were made
    "loop.steps": 40,
    "loop.sampling.prompts_per_step": 48,
    "loop.sampling.group_size": 8,
    "loop.optim.lr": 1e-4,
    "loop.optim.schedule": "linear",
    "loop.validation.num_problems": 96,
    "steps": 40,
    "sampling.prompts_per_step": 48,
    "irl.weights": "length_normalized",
    "irl.expert_weight": 0.05,
    "irl.form": "energy",
}
CREDIT = {
    "rloo": {"rule": "outcome", "outcome_weight": 1.0},
    "repirl": {"rule": "step", "process_weight": 0.5, "signal": "rank", "doubtful_share": 0.4, "process_ends": 1.0},
    "oracle": {"rule": "step", "process_weight": 2.0, "outcome_weight": 0.5, "signal": "score", "process_ends": None},
}


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.parent.name)
def test_old_records_say_in_todays_names_what_they_said(path):
    record = json.loads(path.read_text())
    kind = type(load_method(record["method"]).recipe(record["recipe"]))
    found = paths_of(parse_config(kind, current_config(record["config"])).model_dump(mode="json"))
    assert found["data.source"] == ("minicode" if record["stage"] != "arith" else "arith")
    known = {name: value for name, value in WAS.items() if name in found}
    assert len(known) >= 2
    assert {name: found[name] for name in known} == known
    for name, value in CREDIT.get(record["method"], {}).items():
        assert found[f"loop.credit.{name}"] == value
    assert current_config(current_config(record["config"])) == current_config(record["config"])


def test_settings_that_a_recipe_does_not_use_are_carried_over():
    recipe = with_overrides(load_method("rloo").recipe("tiny"), ["loop.steps=40"])
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
