"""Saved rewards in a fresh process with transformers alone: read right, or refused (`rewards/saved.py`)."""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import plain_transformers
import pytest
import torch
from test_methods import fit, small_config
from test_rewards import small_model
from transformers import AutoTokenizer

from repirl.engines import modeling_repirl
from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.rewards.artifact import LogRatioTerms, RewardContract, write_contract
from repirl.rewards.energy import energy_from_policy, load_energy_model, token_rewards
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rewards.saved import write_reward
from repirl.rollouts.batching import map_rows
from repirl.rollouts.packing import TokenRow
from repirl.types import Problem, RolloutGroup, Verdict

CLASSIFIER, LANGUAGE_MODEL = "AutoModelForTokenClassification", "AutoModelForCausalLM"
OTHER = "AutoModelForSequenceClassification"
WRITTEN_BY_METHODS = {"outcome_rm": CLASSIFIER, "rl_tango": LANGUAGE_MODEL, "prime": LANGUAGE_MODEL}
"""Methods whose saved reward is not made here by hand, and what it is."""
PROMPT, TEXT = "Compute 1+2\n", "1+2\n\\boxed{3}"


def contract(**more: Any) -> RewardContract:
    fields = {"kind": "energy", "method": "t", "step_separator": "\n", "template": "plain", "step_aggregation": "mean"}
    return RewardContract(**{**fields, "base_digest": "a", "training_digest": "b", **more})


@pytest.fixture(scope="module")
def folders(make_energy_model, make_policy, policy_folder, tokenizer, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rewards")
    write_reward(root / "residual", make_energy_model(3, base_measure=1.0), tokenizer, contract())
    write_reward(root / "half", make_energy_model(4, base_measure=0.5).to(torch.bfloat16), tokenizer, contract())
    write_reward(root / "head", make_energy_model(5), tokenizer, contract())
    start = load_policy(policy_folder)
    terms = LogRatioTerms(beta=0.05, reference=str(policy_folder))
    own = contract(kind="implicit", step_aggregation="sum", base_digest=start.digest, log_ratio=terms)
    write_reward(root / "implicit", make_policy(6), tokenizer, own)
    found = {name: root / name for name in ("residual", "half", "head", "implicit")}
    by_parity = lambda problems, texts, reasons: [Verdict("correct" if len(text) % 2 else "wrong") for text in texts]
    with pytest.MonkeyPatch.context() as patch:  # a random policy is never right
        patch.setattr("repirl.methods.runtime.grade_rollouts", by_parity)
        for name in WRITTEN_BY_METHODS:
            reward = fit(name, policy_folder, root / name, small_config(name)).reward_folder
            assert reward is not None
            found[name] = reward
    return found


@pytest.fixture(scope="module")
def read(folders, policy_folder, row, tmp_path_factory) -> dict[tuple[str, str, Any], dict[str, Any]]:
    """(reward, class, trust_remote_code) -> what a process of its own finds; all in one, as starting takes seconds."""
    ids = [*row.prompt_ids, *map(int, row.response_ids)]
    keys = [(name, auto, trust) for name in folders for auto in (CLASSIFIER, LANGUAGE_MODEL) for trust in (None, True)]
    keys += [("residual", CLASSIFIER, False), ("residual", LANGUAGE_MODEL, False)]
    keys += [("residual", OTHER, True), ("reference", LANGUAGE_MODEL, None)]
    places = {**folders, "reference": policy_folder}
    cases = [{"folder": str(places[name]), "ids": ids, "auto": auto, "trust": trust} for name, auto, trust in keys]
    done = subprocess.run(
        [sys.executable, plain_transformers.__file__],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={**os.environ, "PYTHONPATH": "", "HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))},
    )
    return dict(zip(keys, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.fixture(scope="module")
def row(make_rollout) -> TokenRow:
    rollout = make_rollout(PROMPT, TEXT)
    return TokenRow(rollout.prompt_ids, rollout.token_ids)


def own_scores(folder: Path, make_rollout) -> np.ndarray:
    """Token scores [T] of the row's completion, by repirl."""
    problem = Problem("p", "arith", PROMPT, grader="math")
    group = RolloutGroup(problem, (make_rollout(PROMPT, TEXT),), (Verdict("ungraded"),))
    (scores_T,) = load_reward(str(folder), LoadOptions()).reward.token_scores([group])
    return scores_T


def logits_of(found: dict[str, Any], row: TokenRow) -> np.ndarray:
    """[T, L] of the completion."""
    assert found.get("unread") == [], found
    return np.array(found["logits"], dtype=np.float64)[len(row.prompt_ids) :]


def test_a_base_measure_is_read_by_its_own_code(folders, read, row, make_rollout):
    for name in ("residual", "half"):
        found = read[name, CLASSIFIER, True]
        assert logits_of(found, row)[:, 0] == pytest.approx(own_scores(folders[name], make_rollout), abs=1e-5)
        assert math.isnan(found["logits"][0][0])  # nothing comes before the first token


def test_a_base_measure_is_refused_without(read):
    for name, trust in (("residual", None), ("residual", False), ("half", None)):
        assert "trust_remote_code=True" in read[name, CLASSIFIER, trust]["error"]
        assert "error" in read[name, LANGUAGE_MODEL, trust]
        assert "error" in read[name, LANGUAGE_MODEL, True]
    assert "error" in read["residual", OTHER, True]


@pytest.mark.parametrize("name", ["head", "outcome_rm"])
def test_without_one_it_is_an_ordinary_classifier(name, folders, read, row, make_rollout):
    for trust in (None, True):
        plain = logits_of(read[name, CLASSIFIER, trust], row)[:, 0]
        assert plain == pytest.approx(own_scores(folders[name], make_rollout), abs=1e-5)
        assert np.abs(plain).max() > 1e-4


@pytest.mark.parametrize("name", ["implicit", "prime"])
def test_an_implicit_reward_is_an_ordinary_language_model(name, folders, read, row, make_rollout):
    """With its reference it gives the scores; by itself no classifier."""
    terms = json.loads((folders[name] / "repirl_reward.json").read_text())["log_ratio"]

    def logprobs(found: dict[str, Any]) -> np.ndarray:
        assert found["unread"] == []
        rows = torch.tensor(found["logits"]).log_softmax(-1)[len(row.prompt_ids) - 1 : -1]
        return rows.gather(1, torch.tensor(row.response_ids)[:, None])[:, 0].numpy()

    ratios = logprobs(read[name, LANGUAGE_MODEL, None]) - logprobs(read["reference", LANGUAGE_MODEL, None])
    assert terms["beta"] * ratios == pytest.approx(own_scores(folders[name], make_rollout), abs=1e-5)


def test_a_written_judge_is_an_ordinary_language_model(folders, read, row):
    loaded = load_policy(folders["rl_tango"])
    with torch.no_grad():
        own = loaded.model(torch.tensor([[*row.prompt_ids, *row.response_ids]])).logits[0].numpy()
    assert np.array(read["rl_tango", LANGUAGE_MODEL, None]["logits"]) == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize("name", ["implicit", "prime", "rl_tango"])
def test_a_language_model_has_no_scores_as_classifier(name, read):
    """transformers would make a head of random numbers for it."""
    for trust in (None, True):
        found = read[name, CLASSIFIER, trust]
        assert "error" in found or np.array(found["logits"]).size == 0


def test_every_method_with_a_reward_is_one_of_these(folders):
    kinds = {json.loads((folder / "repirl_reward.json").read_text())["kind"] for folder in folders.values()}
    from repirl.rewards.load import KINDS

    assert kinds == set(KINDS), "a new kind of saved reward: read it here with plain transformers"


def test_padding_does_not_matter(folders, row):
    """Rows of a batch, padded on either side, have the scores that they have alone."""
    model = modeling_repirl.ResidualEnergyForTokenClassification.from_pretrained(str(folders["residual"]))
    ids = torch.tensor([*row.prompt_ids, *row.response_ids])
    alone = model(ids[None]).logits[0, :, 0]
    for before, after in ((0, 3), (3, 0)):
        padded, mask = (torch.nn.functional.pad(one, (before, after), value=0)[None] for one in (ids, torch.ones_like(ids)))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        found = model(padded, attention_mask=mask, position_ids=positions).logits[0, before : before + len(ids), 0]
        assert found.isnan().tolist() == [True] + [False] * (len(ids) - 1)
        assert torch.allclose(found[1:], alone[1:], atol=1e-5)


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("gemma2", {"final_logit_softcapping": 2.0}), ("qwen3_moe", {"tie_word_embeddings": True, **EXPERTS})],
)
def test_other_architectures(kind, settings, tokenizer, tmp_path):
    """Caps on logits; weights that lie in the file under other names than in the model."""
    model: Any = energy_from_policy(small_model(kind, **settings), base_measure=0.5)
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    write_reward(tmp_path, model, tokenizer, contract())
    row = TokenRow([5, 6], [7, 8, 9, 10, 11])
    (own,) = map_rows(model, [row], lambda batch: token_rewards(model, batch), pad_id=0)
    loaded = load_energy_model(tmp_path)
    (again,) = map_rows(loaded, [row], lambda batch: token_rewards(loaded, batch), pad_id=0)
    plain = modeling_repirl.ResidualEnergyForTokenClassification.from_pretrained(str(tmp_path))
    assert torch.allclose(own, again, atol=1e-5)
    assert torch.allclose(plain(torch.tensor([[5, 6, 7, 8, 9, 10, 11]])).logits[0, 2:, 0], own, atol=1e-5)


def test_saved_again_by_transformers_it_is_the_same(folders, row, tmp_path):
    found = modeling_repirl.ResidualEnergyForTokenClassification.from_pretrained(str(folders["residual"]))
    found.save_pretrained(tmp_path)
    again = modeling_repirl.ResidualEnergyForTokenClassification.from_pretrained(str(tmp_path))
    ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
    assert torch.equal(again(ids).logits[:, 1:], found(ids).logits[:, 1:])


def test_weights_that_do_not_fit_are_refused(folders, make_energy_model, tmp_path):
    make_energy_model(1, base_measure=1.0).model.save_pretrained(tmp_path)  # without the head
    (tmp_path / "config.json").write_bytes((folders["residual"] / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"not those of the reward's config: score"):
        modeling_repirl.ResidualEnergyForTokenClassification.from_pretrained(str(tmp_path))
    with pytest.raises(UserError, match="do not fit"):
        load_energy_model(tmp_path)


def test_a_folder_of_before_is_read_as_ever(make_energy_model, tokenizer, make_rollout, folders, tmp_path):
    """Then `config.json` was the token classifier's own, base measure or not."""
    make_energy_model(3, base_measure=1.0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_contract(tmp_path, contract())
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3"
    assert own_scores(tmp_path, make_rollout).tolist() == own_scores(folders["residual"], make_rollout).tolist()


def test_a_reward_is_no_policy(folders):
    with pytest.raises(UserError, match="cannot load a causal language model"):
        load_policy(folders["residual"])
    with pytest.raises(UserError, match="cannot load the reward's model"):
        load_reward(f"trl:{folders['residual']}", LoadOptions())


def test_one_on_the_hub_is_read_as_the_folder_is(folders, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(folders["residual"]))
    (found, own) = (load_reward(name, LoadOptions()) for name in ("someone/reward", str(folders["residual"])))
    assert (found.name, found.digest, found.segmentation) == ("someone/reward", own.digest, own.segmentation)


@pytest.mark.parametrize("name", ["residual", "head", "implicit"])
def test_the_tokenizer_is_there_for_everyone(name, folders, tokenizer):
    plain = AutoTokenizer.from_pretrained(folders[name], trust_remote_code=False)
    assert plain(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert load_reward(str(folders[name]), LoadOptions()).tokenizer.get_vocab() == tokenizer.get_vocab()


def test_the_code_in_the_folder_needs_transformers_alone(folders):
    source = (folders["residual"] / "modeling_repirl.py").read_text()
    assert source == Path(modeling_repirl.__file__).read_text()
    assert not (folders["head"] / "modeling_repirl.py").exists()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} == {"__future__", "typing", "torch", "transformers"}
