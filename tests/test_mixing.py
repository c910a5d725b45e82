"""`--optimizer` and `--mixing`: what they set, what they keep, and what they refuse."""

from __future__ import annotations

import json

import pytest

from repirl.cli import main as cli
from repirl.config import with_overrides
from repirl.errors import UserError
from repirl.learn.credit_config import AlphaCredit, GAECredit, MinFormCredit, OutcomeCredit, StepCredit, ValueConfig
from repirl.methods.mixing import MIXINGS, credit_settings, critic_of
from repirl.methods.registry import load_method

CRITIC = ValueConfig(lr=0.25)


def credit_of(method: str, optimizer: str | None = None, mixing: str | None = None):
    recipe = load_method(method).recipe("tiny")
    return with_overrides(recipe, credit_settings(recipe, optimizer, mixing, CRITIC)).loop.credit


def test_optimizers_keep_the_rest() -> None:
    assert credit_of("rloo", "grpo") == OutcomeCredit(outcome="grpo")
    grpo = credit_of("repirl", "grpo")
    assert isinstance(grpo, StepCredit)
    assert grpo == load_method("repirl").recipe("tiny").loop.credit.model_copy(update={"outcome": "grpo"})
    ppo = credit_of("repirl", "ppo")
    assert ppo == GAECredit(outcome_weight=0.5, process_weight=2.0, whiten=True, value=CRITIC)
    assert credit_of("rloo", "ppo") == GAECredit(whiten=True, value=CRITIC)
    assert credit_of("ppo", "rloo").rule == "outcome"


@pytest.mark.parametrize("name", MIXINGS)
def test_every_mixing_rule_can_be_had(name: str) -> None:
    credit = credit_of("repirl", mixing=name)
    rule, settings = MIXINGS[name]
    assert credit.rule == rule
    assert {key: getattr(credit, key) for key in settings} == settings
    assert credit.outcome_weight == 0.5
    assert credit_of("repirl", "grpo", name).outcome == "grpo"


def test_rules_have_their_own_defaults() -> None:
    assert isinstance(credit_of("oracle", mixing="min_form"), MinFormCredit)
    alpha = credit_of("oracle", mixing="alpha")
    assert isinstance(alpha, AlphaCredit)
    assert alpha.outcome == "rloo"  # as the recipe had it; --optimizer grpo is RL-Tango's


def test_the_critic_is_that_of_the_recipe() -> None:
    assert critic_of("tiny") == load_method("ppo").recipe("tiny").loop.credit.value
    assert critic_of("no such recipe") == ValueConfig()


@pytest.mark.parametrize(
    ("method", "optimizer", "mixing", "said"),
    [
        ("bc", "rloo", None, "no policy gradient"),
        ("rloo", None, "step", "no process reward"),
        ("ppo", None, "step", "no process reward"),
        ("repirl", "sgd", None, "unknown optimizer"),
        ("repirl", None, "stirred", "unknown mixing rule"),
        ("repirl", "ppo", "step", "value function"),
    ],
)
def test_what_cannot_be_is_one_line(method: str, optimizer: str | None, mixing: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        credit_of(method, optimizer, mixing)


def test_the_run_folder_records_it(policy_folder, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {
        "loop.steps": 1, "loop.sampling.prompts_per_step": 2, "loop.sampling.group_size": 2, "data.num_problems": 4,
        "data.validation_problems": 2, "loop.sampling.max_new_tokens": 4, "loop.validation.samples": 1,
    }  # fmt: skip
    sets = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    run = str(tmp_path / "run")
    assert cli.run(["train", "oracle", "--policy", str(policy_folder), "--out", run, "--optimizer", "ppo", *sets]) == 0
    capsys.readouterr()
    written = json.loads((tmp_path / "run/config.json").read_text())
    assert written["config"]["loop"]["credit"]["rule"] == "gae"
    assert written["config"]["loop"]["credit"]["process_weight"] == 2.0
