"""`examples/` run as they would: by TRL itself, and called as verl calls them."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import repirl
from repirl.paths import CHECKOUT_DIR

EXAMPLES = CHECKOUT_DIR / "examples"
PROBLEM, TEXT = "Compute 2 + 3 * 4\n", "3 * 4 = 12\n2 + 12 = 14\nSo \\boxed{14}"


@pytest.fixture
def compute_score() -> Any:
    """The function, with its keyword arguments bound, as verl gets it of a path and a name."""
    spec = importlib.util.spec_from_file_location("custom_module", EXAMPLES / "verl_reward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_module"] = module
    spec.loader.exec_module(module)
    settings = {"reward": "confidence", "separator": "\n", "process_weight": 0.1, "floor": -25.0}
    yield lambda **given: module.compute_score(**given, **settings)
    del sys.modules["custom_module"]


def asked(text: str, **extra: Any) -> dict[str, Any]:
    """What verl's reward managers give: numbers of turns are added to the data's own `extra_info`."""
    info = {"split": "train", "index": 0, "question": PROBLEM, "num_turns": 2, **extra}
    return {"data_source": "arith", "solution_str": text, "ground_truth": "14", "extra_info": info}


def test_verl_gets_outcome_and_process(compute_score: Any) -> None:
    right, wrong = compute_score(**asked(TEXT)), compute_score(**asked(TEXT.replace("14", "15")))
    scored = repirl.load_reward("confidence", separator="\n").score(PROBLEM, TEXT)
    assert (right["acc"], wrong["acc"]) == (1, 0)
    assert right["process"] == pytest.approx(scored.aggregates["min"])
    for found in (right, wrong):
        assert found["score"] == pytest.approx(found["acc"] + 0.1 * found["process"])
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in found.values())
    assert (right["ungraded"], right["unscored"], right["first_suspected"]) == (0, 0, -1)


def test_verl_gets_the_same_fields_for_everything(compute_score: Any) -> None:
    """It makes a column of each; and it calls from several threads, with arguments of its newer reward loop."""
    texts = [TEXT, "", "no answer", "\\boxed{14"]
    with ThreadPoolExecutor(4) as pool:
        newer = {"reward_router_address": None, "reward_model_tokenizer": None}
        found = list(pool.map(lambda text: compute_score(**asked(text), **newer), texts))
    assert len({tuple(one) for one in found}) == 1
    assert [one["unscored"] for one in found] == [0, 1, 0, 0]
    assert found[1]["process"] == -25 == min(one["process"] for one in found)  # it does not pay to write nothing
    assert found[0] == compute_score(**asked(TEXT))


def test_verl_is_told_of_data_without_problems(compute_score: Any) -> None:
    for info in (None, {"index": 0}):
        with pytest.raises(ValueError, match="no text 'question'"):
            compute_score(**{**asked(TEXT), "extra_info": info})


def test_trl_trains_two_steps(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL is not installed (pip install 'repirl[trl]')")
    sizes = ["--steps", "2", "--prompts", "2", "--group-size", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "trl_grpo.py"), *sizes], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (state,) = tmp_path.glob("checkpoint-2/trainer_state.json")
    logged = [line for line in json.loads(state.read_text())["log_history"] if "reward" in line]
    assert len(logged) == 2
    for line in logged:
        parts = line["rewards/outcome/mean"] + 0.2 * line["rewards/process/mean"]
        assert line["reward"] == pytest.approx(parts, abs=1e-5)
        assert line["rewards/process/mean"] < 0  # a log-probability
    from repirl.engines.loading import load_policy

    before, after = load_policy("tiny").model.state_dict(), load_policy(tmp_path).model.state_dict()
    assert any(not value.equal(before[name]) for name, value in after.items())
