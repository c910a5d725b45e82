"""Process rewards that others published: small random models in their formats, against forward passes by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer, Qwen2Config, Qwen2Model

from repirl.cli import main as cli
from repirl.errors import UserError
from repirl.evals.judging import default_rule
from repirl.evals.step_scoring import TOO_LONG, score_solutions
from repirl.rewards.laid_out import HOLDS_TAG, CannotLayOut, LaidOutReward, QwenProcessModel
from repirl.rewards.load import LoadedReward, LoadOptions, load_reward
from repirl.rewards.published import Address, parse_address, recognise
from repirl.tasks.step_labels import LabelledSolution, labels_until, write_labelled
from repirl.types import Problem, RolloutGroup, Verdict

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."

STEPS = ("Step 1: 1+2 = 3", "Step 2: a\nb\n\nc", "\\boxed{3}")
SOLUTIONS = [
    LabelledSolution("a", "Compute 1+2.", STEPS, (1.0,) * 3),
    LabelledSolution("b", "What is 7*(8-1)?\n", ("8-1 = 7.", "7*7 = 48 - + -"), (1.0, 0.0)),
    LabelledSolution("c", "x", ("y",), (1.0,)),
]


def with_tokens(tokenizer, tokens: tuple[str, ...], **fields: Any):
    made = copy.deepcopy(tokenizer)
    made.add_tokens(list(tokens), special_tokens=True)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def byte_level():
    """A tokenizer of the class that transformers makes for every folder of model type `qwen2`; a byte is a token."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}, merges=[]
    )


@pytest.fixture(scope="module")
def folders(make_policy, tokenizer, tmp_path_factory) -> dict[str, Path]:
    """Format -> a random model in it. The heads are not near zero, so that every mistake shows."""
    root = tmp_path_factory.mktemp("published")
    generator = torch.Generator().manual_seed(7)

    def shaken(*weights: torch.Tensor) -> None:
        with torch.no_grad():
            for weight in weights:
                weight.normal_(generator=generator)

    shepherd = with_tokens(tokenizer, ("ки",))
    model = make_policy(1)
    model.resize_token_embeddings(len(shepherd))
    shaken(model.get_input_embeddings().weight)
    model.save_pretrained(root / "math-shepherd")
    shepherd.save_pretrained(root / "math-shepherd")

    qwen = with_tokens(byte_level(), ("<|im_start|>", "<|im_end|>", "<extra_0>"), chat_template=CHAT)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=len(qwen), num_key_value_heads=2, max_position_embeddings=512, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        process = QwenProcessModel(Qwen2Model(config))
    shaken(*process.parameters())
    from safetensors.torch import save_file

    (root / "qwen-prm").mkdir()
    # Its folder on the hub: this layout of weights, and remote code, which must not be wanted.
    save_file(process.state_dict(), root / "qwen-prm" / "model.safetensors", {"format": "pt"})
    remote = {"AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig", "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    said = {**config.to_dict(), "architectures": ["Qwen2ForProcessRewardModel"], "auto_map": remote}
    (root / "qwen-prm" / "config.json").write_text(json.dumps(said))
    qwen.save_pretrained(root / "qwen-prm")

    for name, bos in (("trl", "<s>"), ("trl-without-bos", None)):
        steps = with_tokens(tokenizer, ("<s>",), bos_token=bos)
        settings = {**make_policy().config.to_dict(), "vocab_size": len(steps), "num_labels": 2, "architectures": None}
        own = type(make_policy().config).from_dict(settings)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            classifier = AutoModelForTokenClassification.from_config(own)
        shaken(*classifier.parameters())
        classifier.save_pretrained(root / name)
        steps.save_pretrained(root / name)

    for name, seed in (("model", 4), ("reference", 5)):
        make_policy(seed).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root_folders(root)


def root_folders(root: Path) -> dict[str, Path]:
    return {path.name: path for path in root.iterdir()}


def address(folders: dict[str, Path], kind: str) -> str:
    if kind == "implicit":
        return f"implicit:{folders['model']},reference={folders['reference']},beta=0.5"
    return f"math-shepherd:{folders[kind]}" if kind == "math-shepherd" else str(folders[kind])


def load(folders: dict[str, Path], kind: str, separator: str = "\n\n") -> LoadedReward:
    return load_reward(address(folders, kind), LoadOptions(separator=separator))


LAID_OUT = ("math-shepherd", "qwen-prm", "trl", "trl-without-bos")


# ------------------------------------------------------------------------------- by hand, one at a time


def shepherd_by_hand(folder: Path, one: LabelledSolution) -> list[float]:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text, places = one.problem.strip() + " ", []
    for i, step in enumerate(one.steps):
        text += ("" if i == 0 else "\n") + (step if step.startswith("Step ") else f"Step {i + 1}: {step}") + " ки"
        places.append(len(tokenizer(text)["input_ids"]) - 1)
    plus, minus, tag = (tokenizer.convert_tokens_to_ids(token) for token in ("+", "-", "ки"))
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids[0, places].tolist() == [tag] * len(places)
    logits = model(ids).logits[0].detach().numpy()
    return [1 / (1 + np.exp(logits[t, minus] - logits[t, plus])) for t in places]


def qwen_by_hand(folder: Path, one: LabelledSolution) -> list[float]:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    config = Qwen2Config(**json.loads((folder / "config.json").read_text()))
    backbone = Qwen2Model(config)
    backbone.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{one.problem}<|im_end|>\n<|im_start|>assistant\n"
    places = []
    for step in one.steps:
        text += step + "<extra_0>"
        places.append(len(tokenizer(text)["input_ids"]) - 1)
    ids = tokenizer(text + "<|im_end|>\n", return_tensors="pt")["input_ids"]
    states = backbone.eval()(ids).last_hidden_state[0, places]
    hidden = (states @ weights["score.0.weight"].T + weights["score.0.bias"]).clamp(min=0)
    two = (hidden @ weights["score.2.weight"].T + weights["score.2.bias"]).detach().numpy()
    return [1 / (1 + np.exp(bad - good)) for bad, good in two]


def trl_by_hand(folder: Path, one: LabelledSolution) -> list[float]:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForTokenClassification.from_pretrained(folder).eval()
    ids = [tokenizer.bos_token_id] if folder.name == "trl" else []
    ids += tokenizer(one.problem)["input_ids"]
    places = []
    for step in one.steps:
        ids += tokenizer(step)["input_ids"] + tokenizer("\n")["input_ids"]
        places.append(len(ids) - 1)
    logits = model(torch.tensor([ids])).logits[0].detach().numpy()
    return [1 / (1 + np.exp(logits[t, 0] - logits[t, 1])) for t in places]


BY_HAND = {"math-shepherd": shepherd_by_hand, "qwen-prm": qwen_by_hand, "trl": trl_by_hand, "trl-without-bos": trl_by_hand}


@pytest.mark.parametrize("kind", LAID_OUT)
def test_scores_are_those_of_a_forward_pass_by_hand(kind: str, folders):
    loaded = load(folders, kind)
    assert default_rule(loaded).value == 0.5
    for one, scored in zip(SOLUTIONS, score_solutions(loaded, SOLUTIONS), strict=True):
        expected = BY_HAND[kind](folders[kind], one)
        assert scored.scores is not None
        assert scored.step_tokens is not None
        assert len(scored.scores) == len(scored.step_tokens) == len(one.steps)
        assert scored.scores == pytest.approx(expected, abs=1e-5)
        assert np.abs(np.array(expected) - 0.5).max() > 0.01, "so that the order of labels matters"
    assert loaded.reward.budget.scored_tokens > 0


@pytest.mark.parametrize("kind", [*LAID_OUT, "implicit"])
def test_a_padded_batch_scores_as_one_by_one(kind: str, folders):
    loaded = load(folders, kind)
    together = score_solutions(loaded, SOLUTIONS)
    for one, scored in zip(SOLUTIONS, together, strict=True):
        (alone,) = score_solutions(loaded, [one])
        assert scored.scores == pytest.approx(alone.scores, abs=1e-5)  # type: ignore[arg-type]
        assert scored.step_tokens.tolist() == alone.step_tokens.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", LAID_OUT)
def test_a_step_has_its_own_tokens(kind: str, folders):
    """Characters are tokens here: what a step's tokens say is the step."""
    loaded = load(folders, kind)
    assert isinstance(loaded.reward, LaidOutReward)
    row = loaded.reward.lay_out("Compute 1+2.", STEPS)
    ends = [0, *(row.ends_S + 1)]
    said = [loaded.tokenizer.decode(row.row.response_ids[a:b]).strip() for a, b in pairwise(ends)]
    tag = {"math-shepherd": " ки", "qwen-prm": "<extra_0>"}.get(kind, "")
    numbered = (*STEPS[:2], f"Step 3: {STEPS[2]}") if kind == "math-shepherd" else STEPS
    assert said == [step + tag for step in numbered]


@pytest.mark.parametrize(("kind", "tag"), [("math-shepherd", "ки"), ("qwen-prm", "<extra_0>")])
def test_a_tag_in_the_text_makes_a_solution_unscored(kind: str, tag: str, folders):
    loaded = load(folders, kind)
    inside = replace(SOLUTIONS[0], steps=("a", f"b {tag} c", "d"))
    before = replace(SOLUTIONS[0], problem=f"What is {tag}?")
    good, bad, asked = score_solutions(loaded, [SOLUTIONS[0], inside, before])
    assert good.scores is not None
    assert (bad.scores, bad.reason) == (None, HOLDS_TAG)
    assert (asked.scores, asked.reason) == (None, HOLDS_TAG)


@pytest.mark.parametrize("kind", LAID_OUT)
def test_what_is_too_long_is_unscored(kind: str, folders):
    loaded = load(folders, kind)
    assert loaded.max_tokens == (512 if kind == "qwen-prm" else 2048)
    long = replace(SOLUTIONS[1], steps=("1" * 2048, "2"))
    assert [one.reason for one in score_solutions(loaded, [long, SOLUTIONS[1]])] == [TOO_LONG, ""]


def test_trl_separators_are_the_trainings_own(folders):
    two = load_reward(f"trl:{folders['trl']},separator=\\n\\n", LoadOptions())
    one = load(folders, "trl")
    (a,), (b,) = (score_solutions(loaded, SOLUTIONS[:1]) for loaded in (one, two))
    assert (b.step_tokens - a.step_tokens).tolist() == [1, 1, 1]  # type: ignore[operator]
    assert not np.allclose(a.scores, b.scores)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LAID_OUT)
def test_a_policys_rollouts_are_scored_as_their_steps(kind: str, folders, make_rollout):
    """Through `score`, as best-of-N and RL do it: the rollouts have other tokens than the reward's layout."""
    loaded = load(folders, kind, separator="\n")
    texts = ["1+2\n\n= 3\n\\boxed{3}", "", "one step", "ки <extra_0>\nb"]
    rollouts = tuple(make_rollout("Compute 1+2.", text, index=i) for i, text in enumerate(texts))
    group = RolloutGroup(Problem("p", "arith", "Compute 1+2.", grader="math"), rollouts, (Verdict("wrong"),) * 4)
    first, nothing, single, _ = loaded.reward.score([group])[0]
    given = LabelledSolution("a", "Compute 1+2.", ("1+2", "= 3", "\\boxed{3}"), (1.0,) * 3)
    (expected,) = score_solutions(loaded, [given])
    assert first.step_rewards == pytest.approx(expected.scores, abs=1e-5)  # type: ignore[arg-type]
    assert first.step_mask.all()
    assert not nothing.step_mask.any()
    assert single.step_mask.tolist() == [True]


def test_an_implicit_pair_is_beta_times_the_log_ratio(folders):
    loaded = load(folders, "implicit", separator="\n")
    assert (loaded.natural_threshold, loaded.template) == (None, "plain")
    models = [AutoModelForCausalLM.from_pretrained(folders[name]) for name in ("model", "reference")]
    one = LabelledSolution("a", "p\n", ("1+2", "3"), (1.0,) * 2)
    ids = loaded.tokenizer("p\n1+2\n3", return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[loaded.tokenizer.eos_token_id]])], 1)
    logs = [model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].detach() for model in models]
    ratios = 0.5 * (logs[0] - logs[1]).numpy()[1:]  # after the prompt of two tokens
    (scored,) = score_solutions(loaded, [one])
    assert scored.scores == pytest.approx([ratios[:4].sum(), ratios[4:].sum()], abs=1e-5)


# ------------------------------------------------------------------------------------------- addresses


def test_a_name_is_a_prefix_a_hub_id_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert parse_address("Qwen/Qwen2.5-Math-PRM-7B") == Address("Qwen/Qwen2.5-Math-PRM-7B")
    assert parse_address("math-shepherd:peiyi9979/math-shepherd-mistral-7b-prm") == Address(
        "peiyi9979/math-shepherd-mistral-7b-prm", "math-shepherd"
    )
    assert parse_address("implicit:a,b/c,reference=d,beta=1").options == {"reference": "d", "beta": "1"}  # type: ignore[union-attr]
    for name in ("random", "runs/repirl", "runs", "/a/b", "./a", "a/b/c", "other:a"):
        assert parse_address(name) is None
    with pytest.raises(UserError, match="no such process reward"):
        load_reward("runs/typo", LoadOptions())


def test_a_hub_id_is_fetched_and_its_config_says_the_format(folders, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(folders["qwen-prm"]))
    loaded = load_reward("Qwen/Qwen2.5-Math-PRM-7B", LoadOptions())
    assert (loaded.reward.name, asked) == ("qwen-prm", ["Qwen/Qwen2.5-Math-PRM-7B"])


def test_an_older_model_of_the_hub_has_its_weights_in_torchs_own_format(folders, tmp_path, monkeypatch):
    import huggingface_hub

    patterns = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        patterns.extend(allow_patterns)
        for path in folders["math-shepherd"].glob("*.json"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        if "*.bin" in allow_patterns:
            model = AutoModelForCausalLM.from_pretrained(folders["math-shepherd"])
            torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = load_reward("math-shepherd:peiyi9979/math-shepherd-mistral-7b-prm", LoadOptions())
    (a,), (b,) = (score_solutions(one, SOLUTIONS[:1]) for one in (loaded, load(folders, "math-shepherd")))
    assert a.scores == pytest.approx(b.scores)  # type: ignore[arg-type]


def test_the_config_tells_the_format(folders):
    assert recognise(folders["qwen-prm"]) == "qwen-prm"
    assert recognise(folders["trl"]) == "trl"
    with pytest.raises(UserError, match="math-shepherd:FOLDER or implicit:FOLDER"):
        recognise(folders["math-shepherd"])


def message(name: str) -> str:
    with pytest.raises(UserError) as error:
        load_reward(name, LoadOptions())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_are_one_line(folders, tmp_path):
    plain = folders["model"]
    assert "no single token for 'ки'" in message(f"math-shepherd:{plain}")
    assert "cannot load" in message(f"qwen-prm:{tmp_path}")
    assert "do not fit" in message(f"trl:{plain}")
    assert "not those of a Qwen2.5-Math-PRM" in message(f"qwen-prm:{folders['trl']}")
    assert "no option: 'beta'; it has revision, separator" in message(f"trl:{folders['trl']},beta=1")
    assert "needs its reference" in message(f"implicit:{plain}")
    assert "beta must be" in message(f"implicit:{plain},reference={plain},beta=-1")
    assert "policy folder not found" in message(f"trl:{tmp_path}/nothing")
    (tmp_path / "config.json").write_text("{}")
    assert "no architecture" in message(str(tmp_path))


@pytest.mark.parametrize(("lacking", "said"), [("tag", "no single token for '<extra_0>'"), ("template", "no chat template")])
def test_a_qwen_prm_without_its_tokens_is_refused(lacking: str, said: str, folders, tmp_path):
    for path in folders["qwen-prm"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat_template.jinja").unlink()
    if lacking == "tag":
        with_tokens(byte_level(), (), chat_template=CHAT).save_pretrained(tmp_path)
    assert said in message(str(tmp_path))


def test_a_tag_that_is_not_a_token_of_its_own_is_no_end(folders):
    """A tokenizer that has the tag and still cuts a text another way (here: it does not know the tag in a text)."""
    reward = load(folders, "math-shepherd").reward
    assert isinstance(reward, LaidOutReward)
    reward.tag = reward.tag + 1  # type: ignore[attr-defined]
    with pytest.raises(CannotLayOut, match="not a token of its own"):
        reward.lay_out("p", ["a"])


# ------------------------------------------------------------------------------------------- the verb


@pytest.mark.parametrize("kind", [*LAID_OUT, "implicit"])
def test_judge(kind: str, folders, tmp_path, capsys):
    solutions = [
        LabelledSolution(f"{i}", f"p{i}", tuple("ab" * (k + i % 3 + 1) for k in range(4)), labels_until(i % 5 - 1, 4))
        for i in range(20)
    ]
    write_labelled(tmp_path / "steps.jsonl", solutions, "processbench")
    assert cli.run(["judge", address(folders, kind), str(tmp_path / "steps.jsonl"), "--json", "--device", "cpu"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["reward"]["kind"] == kind.removesuffix("-without-bos")
    assert len(said["reward"]["digest"]) == 64
    judged = said["sets"][0]["judged"]
    assert judged["unscored"] == 0
    assert judged["threshold"]["rule"] == ("tuned" if kind == "implicit" else "fixed:0.5")
    assert [null["reward"] for null in said["sets"][0]["nulls"]] == ["random", "constant", "length"]
