"""The embedded policy: what is shipped is what `repirl pretrain` made, and it leaves room to learn."""

from __future__ import annotations

import json

import pytest

from repirl.engines.loading import folder_digest, load_policy
from repirl.methods.pretrain import PretrainConfig, accuracy, pretrain_tiny
from repirl.paths import ASSETS_DIR
from repirl.tasks import arith, minicode

TINY = ASSETS_DIR / "tiny"


def test_weights_are_those_of_the_provenance() -> None:
    provenance = json.loads((TINY / "provenance.json").read_text())
    assert folder_digest(TINY) == provenance["weights_sha256"]
    assert provenance["config"] == PretrainConfig().model_dump(mode="json"), "the command would make another policy"
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 4_000_000


@pytest.mark.parametrize(("family", "low", "high"), [(arith, 0.2, 0.5), (minicode, 0.4, 0.75)])
def test_accuracy_falls_with_the_level(family, low: float, high: float) -> None:
    policy = load_policy("tiny")
    found = accuracy(policy.model, policy.tokenizer, family, 8, 4)
    assert low < found["all"] < high
    assert found["2"] > found["5"] > found["8"]
    assert found["1"] > 0.6
    assert found["8"] < 0.25


def test_pretraining_resumes_exactly(tmp_path, monkeypatch) -> None:
    config = PretrainConfig(
        steps=52, arith_rows=4, minicode_rows=2, arith_problems=80, minicode_problems=60, target_accuracy=1.0
    )
    whole = pretrain_tiny(tmp_path / "whole", config)

    def stop(step: int, steps: int, metrics: dict) -> None:
        if step == 51:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_tiny(tmp_path / "parts", config, stop)
    again = pretrain_tiny(tmp_path / "parts", config)
    assert again["weights_sha256"] == whole["weights_sha256"]
    assert pretrain_tiny(tmp_path / "parts", config) == again  # finished: nothing is done again
