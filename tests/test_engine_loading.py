"""Loading policies: what fits is loaded as it was saved, what does not is one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from repirl.engines.loading import folder_digest, load_policy, policy_dir
from repirl.engines.tiny_model import build_model, build_tokenizer
from repirl.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    build_model(tokenizer, layers=2, width=32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _changed(saved: Path, folder: Path, **values: object) -> Path:
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


def test_a_saved_policy_comes_back(saved: Path) -> None:
    policy = load_policy(saved)
    torch.manual_seed(0)
    original = build_model(build_tokenizer(), layers=2, width=32).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in policy.model.state_dict().items())
    assert not policy.model.training
    assert policy.tokenizer.decode(policy.tokenizer("Compute 1+2")["input_ids"]) == "Compute 1+2"
    assert (policy.name, policy.path, policy.digest) == (str(saved), saved, folder_digest(saved))
    assert load_policy(str(saved), dtype="bfloat16").model.dtype == torch.bfloat16
    assert load_policy(saved, dtype="auto").model.dtype == torch.float32


def test_the_digest_is_of_weights_and_config_only(saved: Path, tmp_path: Path) -> None:
    same = _changed(saved, tmp_path / "same")
    (same / "config.json").write_bytes((saved / "config.json").read_bytes())
    (same / "README.md").write_text("words")
    other_config = _changed(saved, tmp_path / "other", rms_norm_eps=1e-5)
    other_weights = _changed(saved, tmp_path / "weights")
    (other_weights / "config.json").write_bytes((saved / "config.json").read_bytes())
    weights = other_weights / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    digests = [folder_digest(folder) for folder in (saved, same, other_config, other_weights)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "missing"),
        ({"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "unexpected"),
        ({"intermediate_size": 64}, "mismatched"),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "unexpected"),
        ({"model_type": "no-such-model"}, "cannot load"),
    ],
)
def test_weights_of_another_architecture_are_refused(saved: Path, tmp_path: Path, values: dict[str, object], said: str) -> None:
    folder = _changed(saved, tmp_path / "other", **values)
    with pytest.raises(UserError, match=said) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_parts_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder not found.*nowhere"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"folder not found.*nowhere"):
        load_policy(f"{tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_policy(tmp_path / "empty")
    cut = _changed(saved, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match="cannot load"):
        load_policy(cut)
    bare = _changed(saved, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load"):
        load_policy(bare)
    mute = _changed(saved, tmp_path / "mute")
    for file in mute.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load_policy(mute)
    garbled = _changed(saved, tmp_path / "garbled")
    (garbled / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot load"):
        load_policy(garbled)


def test_wrong_words_are_the_caller_s_mistake(saved: Path) -> None:
    with pytest.raises(UserError, match=r"dtype.*float8"):
        load_policy(saved, dtype="float8")
    with pytest.raises(UserError, match="revision"):
        policy_dir(saved, revision="main")
