"""What a recipe leaves open until the policy is known: the chat template and the base measure, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import fails
from transformers import Qwen3Config, Qwen3ForCausalLM

from repirl.bench.suites import Suite
from repirl.bench.worker import _plain_parts
from repirl.cli import main as cli
from repirl.config import parse_config, with_overrides
from repirl.engines.loading import load_policy
from repirl.engines.tiny_model import build_tokenizer
from repirl.evals.step_scoring import as_solution, score_solutions
from repirl.methods.registry import load_method, methods
from repirl.methods.suited import chat_setting, plain_training, scalar_head
from repirl.rewards.artifact import read_contract
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rollouts.prompts import encode_prompt, encode_solution
from repirl.tasks import arith

TEMPLATE = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}{% if add_generation_prompt %}={% endif %}"
WARNING = "warning: the policy has a chat template, and gets plain prompts in"
SMALL = ["loop.steps=1", "loop.sampling.prompts_per_step=2", "loop.sampling.group_size=2", "data.num_problems=16"]
SMALL += ["loop.sampling.max_new_tokens=8", "loop.validation.num_problems=2", "loop.validation.samples=1"]
SMALL += ["data.validation_problems=8"]


@pytest.fixture(scope="module")
def chat_policy(make_policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("chat-policy")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    make_policy(0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def untied_policy(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy whose output layer is not its embeddings."""
    folder = tmp_path_factory.mktemp("untied-policy")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Qwen3Config(vocab_size=len(tokenizer), tie_word_embeddings=False, **sizes, **heads, **special)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(out: Path, policy: Path, capsys: pytest.CaptureFixture[str], *more: str, method: str = "rloo") -> tuple[dict, str]:
    """The configuration of the run that the command line made, and what it wrote on stderr."""
    settings = [word for setting in SMALL for word in ("--set", setting)]
    assert cli.run(["train", method, "--policy", str(policy), "--out", str(out), *settings, *more, "--json"]) == 0
    return json.loads((out / "config.json").read_text())["config"], capsys.readouterr().err


@pytest.mark.parametrize("name", list(methods()))
def test_with_the_embedded_policy_every_recipe_is_what_it_was(name: str, tokenizer) -> None:
    for recipe in load_method(name).recipes.values():
        assert with_overrides(recipe, chat_setting(recipe, tokenizer, None)).digest() == recipe.digest()
        assert plain_training(recipe, tokenizer) is None


def test_a_recipe_that_says_it_by_itself_is_not_overruled(chat_policy: Path) -> None:
    tokenizer = load_policy(chat_policy).tokenizer
    published = load_method("rloo").recipe("paper-qwen3-4b")
    assert chat_setting(published, tokenizer, None) == []
    assert (plain_training(published, tokenizer) or "").startswith(f"{WARNING} training")
    assert chat_setting(published, tokenizer, True) == ["loop.sampling.chat_template=true"]
    assert chat_setting(load_method("bc").recipe("tiny"), tokenizer, None) == ["sampling.chat_template=true"]


def test_training_uses_the_template_where_there_is_one_and_says_where_it_does_not(
    chat_policy: Path, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, err = trained(tmp_path / "default", chat_policy, capsys)
    assert (config["loop"]["sampling"]["chat_template"], WARNING in err) == (True, False)
    config, err = trained(tmp_path / "plain", chat_policy, capsys, "--no-chat-template")
    assert (config["loop"]["sampling"]["chat_template"], err.count(f"{WARNING} training")) == (False, 1)
    config, err = trained(tmp_path / "set", chat_policy, capsys, "--set", "loop.sampling.chat_template=false")
    assert (config["loop"]["sampling"]["chat_template"], err.count(f"{WARNING} training")) == (False, 1)
    config, err = trained(tmp_path / "none", policy_folder, capsys)
    assert (config["loop"]["sampling"]["chat_template"], WARNING in err) == (False, False)
    wrong = ["train", "rloo", "--policy", str(policy_folder), "--out", str(tmp_path / "no"), "--chat-template"]
    assert "no chat template" in fails(capsys, wrong)
    assert "samples no policy" in fails(capsys, ["train", "base", "--out", str(tmp_path / "base"), "--chat-template"])


def test_evaluation_uses_the_template_where_there_is_one_and_says_where_it_does_not(
    chat_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = ["eval", "--policy", str(chat_policy), "--benchmark", "arith", "--limit", "2", "--samples", "1", "--no-greedy"]
    verb += ["--max-new-tokens", "4", "--json"]
    for more, chat in (([], True), (["--no-chat-template"], False)):
        assert cli.run([*verb, *more]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["reports"][0]["protocol"]["chat_template"] is chat
        assert err.count(f"{WARNING} this evaluation") == (not chat)
    scale = ["scale", "--policy", str(chat_policy), "--benchmark", "arith", "--limit", "2", "--samples", "2"]
    assert cli.run([*scale, "--max-new-tokens", "4", "--no-chat-template", "--json"]) == 0
    assert capsys.readouterr().err.count(WARNING) == 1


def test_a_suite_keeps_plain_prompts_and_says_so(chat_policy: Path, tokenizer) -> None:
    said = {
        "title": "t",
        "runs": [{"method": "rloo"}],
        "evaluations": [{"benchmark": "arith"}, {"kind": "judge", "set": "arith"}],
    }
    suite, recipe = parse_config(Suite, said), load_method("rloo").recipe("tiny")
    policy = load_policy(chat_policy)
    assert (_plain_parts(suite.evaluations, recipe, policy) or "").startswith(f"{WARNING} training, benchmark arith:")
    assert _plain_parts(suite.evaluations, recipe, load_policy("tiny")) is None
    said["evaluations"][0]["chat_template"] = True
    chat = with_overrides(recipe, ["loop.sampling.chat_template=true"])
    assert _plain_parts(parse_config(Suite, said).evaluations, chat, policy) is None


def test_confidence_reads_the_prompt_that_the_policy_had(chat_policy: Path) -> None:
    problem = arith.problems("test", 1, levels=(2,))[0]
    policy = load_policy(chat_policy)
    found = {}
    for chat in (True, False):
        loaded = load_reward("confidence", LoadOptions(str(chat_policy), chat=chat))
        (scored,) = score_solutions(loaded, [as_solution(problem, ["1 + 2", "\\boxed{3}"])])
        row = encode_solution(policy.tokenizer, encode_prompt(policy.tokenizer, problem.prompt, chat=chat), "1 + 2\n\\boxed{3}")
        ids = torch.tensor([[*row.prompt_ids, *row.response_ids]])
        with torch.no_grad():
            logprobs = torch.log_softmax(policy.model(input_ids=ids).logits[0, :-1], -1)
        own = logprobs.gather(1, ids[0, 1:, None])[-len(row.response_ids) :, 0].numpy()
        assert scored.token_rewards == pytest.approx(own, abs=1e-4)
        found[chat] = own
    assert abs(found[True] - found[False]).max() > 1e-3


def test_without_tied_embeddings_the_reward_is_a_scalar_head_and_that_is_said(
    untied_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--set", "offline.updates=1", "--set", "offline.problems=4", "--set", "irl.balance=false"]
    config, err = trained(tmp_path / "run", untied_policy, capsys, *short, method="repirl")
    assert (config["irl"]["base_measure"], config["irl"]["form"]) == (0.0, "energy")
    assert err.count('embeddings are not tied, so irl.base_measure=0.0, irl.form="energy" in place of the recipe\'s') == 1
    assert read_contract(tmp_path / "run" / "reward").kind == "energy"
    asked = ["train", "repirl", "--policy", str(untied_policy), "--out", str(tmp_path / "asked"), *short]
    asked += [word for setting in SMALL for word in ("--set", setting)]
    line = fails(capsys, [*asked, "--set", "irl.base_measure=1"])
    assert "a base measure needs tied embeddings" in line
    assert "irl.form=energy" in line
    config, err = trained(tmp_path / "rloo", untied_policy, capsys)
    assert "tied embeddings" not in err


def test_a_newline_may_be_written_as_in_other_texts() -> None:
    recipe = load_method("rloo").recipe("tiny")
    of = lambda text: with_overrides(recipe, [f"data.prompt_suffix={text}"]).data.prompt_suffix
    assert of(r"\n\nSay \boxed{}.\n") == "\n\nSay \\boxed{}.\n"
    assert of(r"a\\nabla\\boxed") == r"a\nabla\\boxed"
    assert of(r'"\n\\nabla"') == "\n\\nabla"  # JSON, as it was
    assert of("plain") == "plain"
    assert with_overrides(recipe, [r"data.step_separator=\n\n"]).data.step_separator == "\n\n"


@pytest.mark.parametrize("name", ["supervised", "math_shepherd", "pav"])
def test_a_classifier_without_a_base_measure_is_read_where_it_is_fitted(name: str, untied_policy: Path) -> None:
    """Its logit is then at a step's last token; the least of all tokens would be one that was never fitted."""
    recipe = load_method(name).recipe("tiny")
    config: Any = with_overrides(recipe, scalar_head(recipe, load_policy(untied_policy).model.config, []))
    assert (config.classifier.base_measure, config.classifier.logit, config.step_aggregation) == (0, "last", "last")
