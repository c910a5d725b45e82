"""Methods and rewards that others wrote: what is not whole is named, and what they saved is read by their own code."""

from __future__ import annotations

from pathlib import Path

import pytest

from repirl.errors import UserError
from repirl.methods.described import described_unread
from repirl.methods.registry import methods, rewards_of
from repirl.rewards.artifact import RewardContract, write_contract
from repirl.rewards.load import LoadOptions, load_reward

METHOD = """
from repirl.methods.base import Method
from repirl.methods.rl import RLConfig

class Mine(Method[RLConfig]):
    name = "mine"
    title = "mine"
    source = "a test"
    status = "exact"
    recipes = {"tiny": RLConfig()}

    def fit(self, context, config):
        raise NotImplementedError
"""

REWARD = """
import numpy as np
from repirl.rewards.base import StepReward

class Twos(StepReward):
    name = "twos"
    worth = 2.0

    def token_scores(self, groups):
        return [np.full(len(r.token_ids), self.worth) for group in groups for r in group.rollouts]

    @classmethod
    def load(cls, folder, tokenizer, contract, device):
        made = cls(tokenizer, contract.segmentation, contract.step_aggregation)
        made.worth = float((folder / "worth.txt").read_text())
        return made
"""


def written(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("def fit", "def fti"), "the method Mine in mine.py lacks fit; is `fti` meant to be `fit`?"),
        (("status =", "stauts ="), "lacks status; is `stauts` meant to be `status`?"),
        (("    recipes =", "    other ="), "lacks recipes; add it"),
    ],
)
def test_what_a_method_lacks_is_said(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    folder = written(tmp_path / "own", METHOD.replace(*change))
    assert described_unread([folder]) is None
    with pytest.raises(UserError) as refused:
        methods((folder,))
    assert said in str(refused.value)


def test_classes_that_are_derived_from_may_be_unfinished(tmp_path: Path) -> None:
    base = METHOD.replace("class Mine", "class Base").replace("def fit", "def finish")
    own = "class Mine(Base):\n    def fit(self, context, config):\n        return None\n"
    folder = written(tmp_path / "own", f"{base}\n{own}")
    assert "mine" in methods((folder,))
    assert "mine" in {one["name"] for one in described_unread([folder]) or ()}
    hidden = written(tmp_path / "hidden", METHOD.replace("class Mine", "class _Mine").replace("def fit", "def finish"))
    assert "mine" not in methods((hidden,))


def test_a_saved_reward_is_read_by_its_own_code(tmp_path: Path, tokenizer) -> None:
    custom = rewards_of([written(tmp_path / "own", REWARD)])
    saved = tmp_path / "run" / "reward"
    saved.mkdir(parents=True)
    tokenizer.save_pretrained(saved)
    (saved / "worth.txt").write_text("7")
    (saved / "config.json").write_text('{"model_type": "qwen3"}')
    contract = RewardContract(
        kind="twos",
        method="mine",
        step_separator="\n",
        template="plain",
        step_aggregation="mean",
        base_digest="0" * 64,
        training_digest="0" * 64,
    )
    write_contract(saved, contract)
    loaded = load_reward(str(tmp_path / "run"), LoadOptions(custom=custom))
    assert (type(loaded.reward).__name__, loaded.reward.worth) == ("Twos", 7.0)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"no loader for this kind of reward: 'twos'.*--include"):
        load_reward(str(tmp_path / "run"), LoadOptions())
    assert load_reward("twos", LoadOptions(custom=custom)).reward.name == "twos"


def test_names_that_are_taken_and_rewards_that_need_more(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"two rewards have one name: 'random'; rename the one in mine.py"):
        rewards_of([written(tmp_path / "taken", REWARD.replace('"twos"', '"random"'))])
    more = "    def __init__(self, tokenizer, segmentation, more):\n        super().__init__(tokenizer, segmentation)\n\n"
    custom = rewards_of([written(tmp_path / "more", REWARD.replace("    worth = 2.0\n", "    worth = 2.0\n\n" + more))])
    with pytest.raises(UserError, match="not made of a tokenizer and a segmentation alone"):
        load_reward("twos", LoadOptions(custom=custom))


def test_a_reward_beside_the_baselines_needs_no_include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a folder that is named though it is looked at anyway is no second one."""
    folder = written(tmp_path / "baselines", REWARD.replace('"twos"', '"threes"'))
    monkeypatch.setattr("repirl.methods.described.content_dir", lambda name: tmp_path / name)
    assert set(rewards_of([])) == {"threes"} == set(rewards_of([folder]))
