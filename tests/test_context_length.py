"""Prompts and demonstrations beyond the policy's context are found when data are loaded."""

from __future__ import annotations

import json

import pytest

from repirl.config import with_overrides
from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method

CONTEXT = 2048
SMALL = {"steps": 1, "sampling.prompts_per_step": 4, "sampling.max_new_tokens": 8, "validation.num_problems": 2}
SMALL |= {"validation.samples": 1, "validation.every": 1}


def config_for(method: str, file, **more):
    prefix = "" if method == "bc" else "loop."
    settings = {f"{prefix}{path}": value for path, value in SMALL.items()}
    settings |= {"data.source": "file", "data.file": str(file), "data.validation_problems": 2, **more}
    overrides = [f"{path}={json.dumps(value)}" for path, value in settings.items()]
    return with_overrides(load_method(method).recipe("tiny"), overrides)


def write(path, long_prompts: int = 0, long_demos: int = 0, long_validation: int = 0):
    rows = [{"problem": f"{i}+1", "answer": str(i + 1), "demonstrations": [str(i + 1), f"{i}+1\n{i + 1}"]} for i in range(10)]
    for i in range(long_prompts):
        rows[i]["problem"] = f"{i}" + "+1" * (CONTEXT // 2)
    for i in range(long_prompts, long_prompts + long_demos):
        rows[i]["demonstrations"][0] = "1" * CONTEXT
    for i in range(long_validation):
        rows[-1 - i]["problem"] = f"{9 - i}" + "+2" * (CONTEXT // 2)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("method", ["rloo", "repirl", "bc"])
def test_what_is_too_long_is_refused_with_its_number_before_anything_runs(method, policy_folder, tmp_path):
    file = write(tmp_path / "rows.jsonl", long_prompts=2, long_validation=1)
    policy = load_policy(policy_folder)
    assert policy.model.config.max_position_embeddings == CONTEXT
    with pytest.raises(UserError, match=r"context of 2048 tokens: '2 prompts, 1 validation prompts.*data.too_long=drop"):
        load_method(method).fit(FitContext(policy, tmp_path / "run", 0), config_for(method, file))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["rloo", "bc"])
def test_it_can_be_left_out_and_is_counted(method, policy_folder, tmp_path):
    file = write(tmp_path / "rows.jsonl", long_prompts=2, long_demos=3)
    fitted = load_method(method).fit(
        FitContext(load_policy(policy_folder), tmp_path / "run", 0), config_for(method, file, **{"data.too_long": "drop"})
    )
    assert fitted.diagnostics["data/left out, prompts"] == 2
    assert fitted.diagnostics.get("data/left out, demonstrations") == (3 if method == "bc" else None)
    assert fitted.budget.policy_updates == 1


def test_demonstrations_alone_are_refused_too_and_something_must_be_left(policy_folder, tmp_path):
    file = write(tmp_path / "rows.jsonl", long_demos=1)
    with pytest.raises(UserError, match="1 demonstrations"):
        load_method("bc").fit(FitContext(load_policy(policy_folder), tmp_path / "run", 0), config_for("bc", file))
    file = write(tmp_path / "all.jsonl", long_prompts=10)
    with pytest.raises(UserError, match="no prompt fits"):
        load_method("rloo").fit(
            FitContext(load_policy(policy_folder), tmp_path / "run", 0), config_for("rloo", file, **{"data.too_long": "drop"})
        )


def test_a_prompt_may_fill_the_context_but_for_one_token(policy_folder, tmp_path):
    """The character tokenizer makes a token of each character: 2,047 fit, 2,048 leave no room."""
    for length, fits in ((CONTEXT - 1, True), (CONTEXT, False)):
        file = tmp_path / f"{length}.jsonl"
        rows = [{"problem": "1" * length if i == 0 else f"{i}+1", "answer": "2"} for i in range(6)]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = config_for("rloo", file, **{"loop.sampling.prompts_per_step": 1})
        context = FitContext(load_policy(policy_folder), tmp_path / f"run{length}", 0)
        if fits:
            load_method("rloo").fit(context, config)
        else:
            with pytest.raises(UserError, match="1 prompts"):
                load_method("rloo").fit(context, config)
