"""Real weights: nothing depends on the embedded tokenizer, template or size. Runs where `make real` has put the model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_word_problems import word_problems

from repirl.config import with_overrides
from repirl.engines.base import SamplingParams
from repirl.engines.loading import LoadedPolicy, load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.grading.dispatch import grade_rollouts
from repirl.methods.base import FitContext
from repirl.methods.registry import load_method
from repirl.methods.suited import chat_setting
from repirl.paths import CHECKOUT_DIR
from repirl.rewards.artifact import read_contract
from repirl.rewards.energy import token_rewards
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.collect import Collector, Decoding
from repirl.rollouts.packing import pad_batch, padding_id
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.rollouts.steps import StepSegmentation, step_end_tokens, step_texts
from repirl.types import Problem, RolloutGroup

FOLDER = CHECKOUT_DIR / "runs" / "models" / "smollm2-135m-instruct"
BLANK = StepSegmentation("\n\n")
TEMPERATURE = 0.7

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (FOLDER / "config.json").is_file(), reason="no real model here: `make real` fetches one"),
]


@pytest.fixture(scope="module")
def policy() -> LoadedPolicy:
    torch.set_num_threads(1)
    return load_policy(FOLDER)


@pytest.fixture(scope="module")
def groups(policy: LoadedPolicy) -> list[RolloutGroup]:
    """Short answers and longer ones, sampled through the chat template."""
    asked = ("What is 2 + 3?", "Name a colour.", "Tom has 3 apples and buys 4 more. How many are there? Explain.")
    problems = [Problem(str(i), "asked", text, "math", str(5 + i)) for i, text in enumerate(asked)]
    engine = TorchEngine(policy.model, policy.tokenizer)
    decoding = Decoding(SamplingParams(40, TEMPERATURE), chat_template=True)
    return Collector(policy.tokenizer, engine, grade_rollouts, decoding).groups(problems, 4, 0)


def test_the_template_is_that_of_smollm2_and_is_written_once(policy: LoadedPolicy) -> None:
    tokenizer = policy.tokenizer
    ids = encode_prompt(tokenizer, "Hi 12", chat=True)
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert tokenizer.model_max_length == 8192
    assert encode_prompt(tokenizer, "Hi") == tuple(tokenizer("Hi", add_special_tokens=False)["input_ids"])  # no BOS


def test_byte_pairs_keep_every_text_and_single_digits(policy: LoadedPolicy) -> None:
    tokenizer = policy.tokenizer
    assert tokenizer.tokenize("a  12\n\n345") == ["a", "ĠĠ", "1", "2", "ĊĊ", "3", "4", "5"]
    for text in ("naïve café, 東京 ½", "x  = 3\n\n\n  - y\t", " leading", "1.\n\n2."):
        row = encode_solution(tokenizer, (1,), text)
        assert tokenizer.decode(row.response_ids[:-1]) == text
        assert row.response_ids[-1] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_steps_end_at_blank_lines_wherever_tokens_do(policy: LoadedPolicy) -> None:
    steps = ["Tom has 3 apples.", "1. He buys 4, so 3 + 4 = 7.\nThat is all.", "2. The answer is $7$."]
    text = "\n\n".join(steps)
    ids = list(encode_solution(policy.tokenizer, (), text).response_ids)
    ends = step_end_tokens(policy.tokenizer, ids, BLANK)
    assert step_texts(text, BLANK) == steps
    pieces = np.split(np.array(ids), ends[:-1] + 1)
    assert [policy.tokenizer.decode(piece).strip() for piece in pieces] == [*steps[:-1], f"{steps[-1]}<|im_end|>"]


def test_eos_ends_completions_and_is_no_text(policy: LoadedPolicy, groups: list[RolloutGroup]) -> None:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    stopped = [rollout for rollout in rollouts if rollout.finish_reason == "stop"]
    assert 0 < len(stopped) < len(rollouts)
    eos = policy.tokenizer.eos_token_id
    for rollout in rollouts:
        own = list(rollout.token_ids)
        assert (own.count(eos), own[-1] == eos) == ((1, True) if rollout.finish_reason == "stop" else (0, False))
        assert "<|im_end|>" not in rollout.text
        assert len(own) == 40 or rollout.finish_reason == "stop"


def test_the_engines_log_probabilities_are_the_trainers(policy: LoadedPolicy, groups: list[RolloutGroup]) -> None:
    with torch.no_grad():
        for group in groups:
            for rollout in group.rollouts:
                ids = torch.tensor([[*rollout.prompt_ids, *rollout.token_ids.tolist()]])
                logits = policy.model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1].float() / TEMPERATURE
                own = torch.log_softmax(logits, -1).gather(1, ids[0, len(rollout.prompt_ids) :, None])[:, 0]
                assert np.abs(own.numpy() - rollout.logprobs).max() < 1e-3


def settings(file: Path, *more: str) -> list[str]:
    own = ["data.source=file", f"data.file={file}", r"data.step_separator=\n\n", "data.num_problems=8"]
    own += ["data.validation_problems=2", "loop.steps=1", "loop.sampling.prompts_per_step=2", "loop.sampling.group_size=2"]
    own += ["loop.sampling.max_new_tokens=24", "loop.sampling.temperature=0.5", "loop.optim.lr=1e-5"]
    own += ["loop.optim.warmup_steps=0", "loop.validation.num_problems=2", "loop.validation.samples=1"]
    return [*own, *more]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("words") / "words.jsonl"
    word_problems().main(file, 10)
    return file


def test_one_update_of_rloo(words: Path, tmp_path: Path) -> None:
    policy, recipe = load_policy(FOLDER), load_method("rloo").recipe("tiny")
    before = policy.model.model.layers[3].mlp.up_proj.weight.clone()
    config = with_overrides(recipe, [*chat_setting(recipe, policy.tokenizer, None), *settings(words)])
    fitted = load_method("rloo").fit(FitContext(policy, tmp_path, 0), config)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert config.loop.sampling.chat_template
    assert line["engine_logprob_gap_max"] < 1e-3
    assert not torch.equal(policy.model.model.layers[3].mlp.up_proj.weight, before)
    again = load_policy(str(fitted.policy_folder))
    assert again.tokenizer.chat_template == policy.tokenizer.chat_template
    assert again.tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]


def test_one_update_of_repirl_and_its_reward_saved_and_loaded(words: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification

    policy, recipe = load_policy(FOLDER), load_method("repirl").recipe("tiny")
    more = ["offline.updates=1", "offline.problems=4", "offline.samples=2", "irl.balance=false"]
    config = with_overrides(recipe, [*chat_setting(recipe, policy.tokenizer, None), *settings(words, *more)])
    fitted = load_method("repirl").fit(FitContext(policy, tmp_path, 0), config)
    assert fitted.reward_folder is not None
    contract = read_contract(fitted.reward_folder)
    assert (contract.template, contract.step_separator) == ("chat", "\n\n")
    loaded = load_reward(str(tmp_path), LoadOptions())
    row = json.loads(words.read_text().splitlines()[0])
    prompt = encode_prompt(loaded.tokenizer, row["problem"], chat=True)
    tokens = encode_solution(loaded.tokenizer, prompt, row["demonstrations"][0])
    batch = pad_batch([tokens], padding_id(loaded.tokenizer))
    plain = AutoModelForTokenClassification.from_pretrained(fitted.reward_folder, trust_remote_code=True)
    with torch.no_grad():
        own = token_rewards(loaded.reward.model, batch)
        base = token_logprobs(load_policy(FOLDER).model, batch).logprobs_N
        logits = plain(batch.ids_BT, attention_mask=batch.attention_mask_BT).logits[0, len(tokens.prompt_ids) :, 0]
    assert torch.allclose(own, logits, atol=1e-4)
    assert own.shape == base.shape == (len(tokens.response_ids),)
    assert torch.isfinite(own).all()
    assert 1e-4 < (own - base).abs().max() < 20  # it started as the policy's own log-probability, and learned
