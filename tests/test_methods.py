"""The contract that every registered method keeps; new files in `baselines/` are tested by being there."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from repirl.config import Config, digest_of, parse_config, with_overrides
from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.files import read_objects
from repirl.learn.run import Validator
from repirl.methods.base import FitContext, Fitted
from repirl.methods.registry import load_method, load_module, methods
from repirl.rewards.artifact import read_contract
from repirl.rewards.load import LoadOptions, load_reward
from repirl.tasks.training_sets import TrainingSetConfig, load_training_set
from repirl.types import Budget, Verdict

NAMES = list(methods())
OUTCOME_ALONE = ("grpo", "ppo", "rloo", "sft_rloo")
TRAINING_PHASES = {"sft_rloo": 2}
"""Phases that train the policy, where there is more than one."""
ON_NOISE = [name for name in NAMES if name != "supervised"]
"""Methods that can be fitted to a random policy's rollouts; exact labels call all of their steps wrong."""
SMALL = {
    "steps": 2,
    "prompts_per_step": 4,
    "group_size": 2,
    "max_new_tokens": 12,
    "num_problems": 20,
    "validation_problems": 4,
    "samples": 1,
    "levels": [1, 2],
    "every": 1,
    "lr": 0.01,
    "updates": 0,  # of a phase before the policy moves
    "balance": False,  # a random policy has no contrast
}
SMALL_POOL = {"offline.problems": 8, "offline.samples": 4}


def paths_of(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of all settings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= paths_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def small_config(name: str, **more: Any) -> Config:
    """The tiny recipe, made smaller still wherever it has one of the usual settings."""
    recipe = load_method(name).recipe("tiny")
    paths = paths_of(recipe.model_dump(mode="json"))
    settings = {path: SMALL[leaf] for path in paths if (leaf := path.split(".")[-1]) in SMALL}
    settings |= {path: value for path, value in (SMALL_POOL | more).items() if path in paths}
    return with_overrides(recipe, [f"{path}={json.dumps(value)}" for path, value in settings.items()])


def fit(name: str, policy_folder, folder, config: Config | None = None, seed: int = 0) -> Fitted:
    return load_method(name).fit(FitContext(load_policy(policy_folder), folder, seed), config or small_config(name))


def weights(folder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load_policy(folder).model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


# ---------------------------------------------------------------------------------------- what one declares


def test_the_first_opponents_are_there():
    assert {"base", "bc", "constant", "grpo", "length", "oracle", "random", "repirl", "rloo", "sft_rloo"} <= set(NAMES)
    assert {"dpo", "implicit_prm", "kto"} <= set(NAMES)
    assert sorted(NAMES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_it_is(name):
    method = load_method(name)
    assert method.name == name
    for text in (method.title, method.source, method.status, type(method).__doc__, method.fit.__doc__):
        assert isinstance(text, str)
        assert text.strip()
    assert method.kind in ("method", "null", "reference")
    assert "tiny" in method.recipes
    with pytest.raises(UserError, match="tiny"):
        method.recipe("no-such-recipe")


@pytest.mark.parametrize("name", NAMES)
def test_recipes_go_through_json_and_refuse_unknown_keys(name):
    for recipe in load_method(name).recipes.values():
        values = json.loads(json.dumps(recipe.model_dump(mode="json")))
        again = parse_config(type(recipe), values)
        assert again == recipe
        assert again.digest() == recipe.digest() == digest_of(values)
        with pytest.raises(UserError, match="nonsense"):
            parse_config(type(recipe), {**values, "nonsense": 1})
        with pytest.raises(UserError, match="nonsense"):
            with_overrides(recipe, ["nonsense=1"])
        with pytest.raises(UserError, match=r"non\.sense"):
            with_overrides(recipe, ["non.sense=1"])
        nested = [key for key, value in values.items() if isinstance(value, dict)]
        for key in nested:
            with pytest.raises(UserError, match=rf"{key}\.nonsense"):
                with_overrides(recipe, [f"{key}.nonsense=1"])
            with pytest.raises(UserError, match=f"{key}.nonsense"):
                parse_config(type(recipe), {**values, key: {**values[key], "nonsense": 1}})
        with pytest.raises(UserError, match=r"key\.path=value"):
            with_overrides(recipe, ["nonsense"])


def test_settings_are_checked_and_configurations_frozen():
    recipe = load_method("rloo").recipe("tiny")
    changed = with_overrides(recipe, ["loop.steps=7", "data.levels=[3]", "loop.credit.outcome=grpo"])
    assert paths_of(changed.model_dump(mode="json")) == {
        **paths_of(recipe.model_dump(mode="json")), "loop.steps": 7, "data.levels": [3], "loop.credit.outcome": "grpo"
    }  # fmt: skip
    assert changed.digest() != recipe.digest()
    for bad in ("loop.steps=0", "loop.steps=many", "loop.sampling.group_size=1", "loop.optim.lr=-1"):
        with pytest.raises(UserError, match=bad.split("=")[0].replace(".", r"\.")):
            with_overrides(recipe, [bad])
    with pytest.raises(UserError, match=r"loop\.credit\..*outcome"):
        with_overrides(recipe, ["loop.credit.outcome=best"])
    with pytest.raises(ValueError, match="frozen"):
        recipe.data = None  # pyright: ignore[reportAttributeAccessIssue]


def test_settings_belong_to_the_rule_that_reads_them():
    """What acts only under another rule cannot be given, and a rule can be changed by its name."""
    recipe = load_method("repirl").recipe("tiny")
    sequence = with_overrides(recipe, ["loop.credit.rule=sequence"]).loop.credit
    assert (sequence.rule, sequence.process_weight, sequence.process_ends) == ("sequence", 2.0, None)
    with pytest.raises(UserError, match=r"no such setting.*signal"):
        with_overrides(recipe, ["loop.credit.rule=sequence", "loop.credit.signal=rank"])
    with pytest.raises(UserError, match=r"signal \(Extra"):
        with_overrides(recipe, ['loop.credit={"rule": "sequence", "process_weight": 1, "signal": "rank"}'])
    with pytest.raises(UserError, match="process_weight"):
        with_overrides(load_method("rloo").recipe("tiny"), ["loop.credit.rule=step"])
    paid = with_overrides(load_method("rloo").recipe("tiny"), ["loop.credit.rule=step", "loop.credit.process_weight=2"])
    assert (paid.loop.credit.rule, paid.loop.credit.process_weight, paid.loop.credit.signal) == ("step", 2.0, "score")
    with pytest.raises(UserError, match="averaged away"):
        with_overrides(recipe, ["loop.optim.loss.ratio=sequence"])
    with pytest.raises(UserError, match="'outcome', 'sequence'"):
        with_overrides(recipe, ["loop.credit.rule=best"])


def test_all_methods_of_the_suite_share_data_sampler_and_updates():
    """Differences between rows must come from the method (docs/design.md section 1)."""
    shared = ("data", "sampling", "validation")
    reference = load_method("rloo").recipe("tiny").model_dump(mode="json")
    parts = {"data": reference["data"], **{key: reference["loop"][key] for key in shared[1:]}}
    for name in NAMES:
        values = load_method(name).recipe("tiny").model_dump(mode="json")
        if name == "base":
            continue
        loop = values.get("loop", values)
        loop["sampling"]["keep"] = None  # PRIME's filter is PRIME's own
        assert {"data": values["data"], **{key: loop[key] for key in shared[1:]}} == parts, name
        assert loop["steps"] == reference["loop"]["steps"], name


# ----------------------------------------------------------------------------------------------- fitting


@pytest.fixture
def learnable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a random policy's completions are right, and the last checkpoint wins: what training did is what is left."""

    def by_parity(problems, texts, reasons) -> list[Verdict]:
        return [Verdict("correct" if sum(map(ord, text)) % 2 else "wrong") for text in texts]

    looks, measured = itertools.count(), Validator.accuracy

    def last_is_best(validator: Validator) -> float:
        measured(validator)
        return float(next(looks))

    monkeypatch.setattr("repirl.methods.runtime.grade_rollouts", by_parity)
    monkeypatch.setattr(Validator, "accuracy", last_is_best)


@pytest.mark.parametrize("name", ON_NOISE)
def test_fit_leaves_a_policy_and_is_deterministic_under_a_seed(name, policy_folder, tmp_path, learnable):
    start = weights(policy_folder)
    fitted = fit(name, policy_folder, tmp_path / "a")
    assert fitted.policy_folder is not None
    trained = weights(fitted.policy_folder)
    assert same(trained, start) == (fitted.budget.policy_updates == 0)
    again = fit(name, policy_folder, tmp_path / "b")
    assert again.policy_folder is not None
    assert same(weights(again.policy_folder), trained)
    assert (fitted.reward_folder is None) == (again.reward_folder is None)
    if fitted.reward_folder is not None and again.reward_folder is not None:
        folders = (fitted.reward_folder, again.reward_folder)
        first, second = (load_reward(str(folder), LoadOptions()).reward.model.state_dict() for folder in folders)
        assert same(first, second)
        assert read_contract(folders[0]) == read_contract(folders[1])
    if fitted.budget.policy_updates:
        phases = TRAINING_PHASES.get(name, 1)
        assert fitted.budget.policy_updates == 2 * phases
        metrics = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in metrics] == [0, 1, 2]
        assert fitted.curve == tmp_path / "a" / "metrics.jsonl"
        assert fitted.budget.trained_tokens > 0
        assert fitted.validation_budget.rollouts == 3 * 4 * phases
        # Fitting again in the finished folder only reads the result, into the model in memory too.
        policy = load_policy(policy_folder)
        assert load_method(name).fit(FitContext(policy, tmp_path / "a", 0), small_config(name)) == fitted
        assert same(policy.model.state_dict(), trained)
        with pytest.raises(UserError, match="other settings"):
            fit(name, policy_folder, tmp_path / "a", seed=1)
        assert not (tmp_path / "a" / "checkpoint.pt").exists()


def test_a_run_folder_belongs_to_its_method_and_its_data(policy_folder, tmp_path):
    """`random` and `length` have the same settings; a file can change between two calls."""
    fit("random", policy_folder, tmp_path / "a")
    with pytest.raises(UserError, match="other settings"):
        fit("length", policy_folder, tmp_path / "a")
    file = tmp_path / "own.jsonl"
    rows = [{"problem": f"{i}+1? ", "answer": str(i + 1)} for i in range(12)]
    config = small_config("rloo", **{"data.source": "file", "data.file": str(file)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fit("rloo", policy_folder, tmp_path / "b", config)
    file.write_text("".join(json.dumps(row | {"answer": "0"}) + "\n" for row in rows))
    with pytest.raises(UserError, match="other settings"):
        fit("rloo", policy_folder, tmp_path / "b", config)


@pytest.mark.parametrize("name", [name for name in ON_NOISE if load_method(name).recipes["tiny"].model_dump().get("loop")])
def test_every_reward_is_looked_at_by_the_loop(name, policy_folder, tmp_path, learnable):
    """Null or learned: correlation with length, agreement with the outcome, and scores of outputs that say nothing."""
    found = fit(name, policy_folder, tmp_path).diagnostics
    has_reward = name not in OUTCOME_ALONE
    if name in ("generative", "rl_tango"):  # a random policy's judgements cannot be read: what is not scored has no mean
        assert found.get("prm/readable", 0) == 0
        assert not any("score" in metric for metric in found)
        return
    for metric in ("score_correct", "score_failed", "score_empty", "score_one_token", "score_repeated", "score_truncated"):
        seen = has_reward and ("outcomes" in load_method(name).needs or metric not in ("score_correct", "score_failed"))
        assert (f"prm/{metric}" in found) == seen, metric
    may_be_constant = name in ("oracle", "test_time")  # of a random policy's rollouts
    assert ("prm/length_correlation" in found) == (has_reward and name != "constant") or may_be_constant


def test_a_method_of_two_phases(policy_folder, tmp_path, learnable):
    """Cloning, then RLOO from what it left: also when the first phase had finished in an earlier call."""

    def both(folder, kill_between: bool = False) -> Fitted:
        context = FitContext(load_policy(policy_folder), folder, 0)
        first = load_method("bc").fit(context.part("sft"), small_config("bc"))
        if kill_between:
            return first
        return load_method("rloo").fit(context.part("rl", after=first), small_config("rloo")).after(first)

    whole = both(tmp_path / "whole")
    both(tmp_path / "cut", kill_between=True)
    resumed = both(tmp_path / "cut")
    assert whole.policy_folder is not None
    assert resumed.policy_folder == tmp_path / "cut" / "rl" / "policy"
    assert same(weights(whole.policy_folder), weights(resumed.policy_folder))
    alone = fit("rloo", policy_folder, tmp_path / "alone")
    assert alone.policy_folder is not None
    assert not same(weights(whole.policy_folder), weights(alone.policy_folder))
    assert whole.budget.policy_updates == 4
    assert whole.budget.demonstrations > 0
    assert whole.validation_budget.rollouts == 2 * alone.validation_budget.rollouts


def test_the_last_phase_that_left_one_gives_the_policy_and_the_reward():
    first, second, third = (Path(name) for name in ("first", "second", "third"))
    budgets = [Budget(policy_updates=updates) for updates in (1, 2, 4)]
    phases = [Fitted(first, first, budgets[0]), Fitted(None, second, budgets[1]), Fitted(third, None, budgets[2])]
    whole = phases[2].after(*phases[:2])
    assert (whole.policy_folder, whole.reward_folder, whole.budget) == (third, second, Budget(policy_updates=7))
    assert phases[1].after(phases[0]).policy_folder == first


@pytest.mark.parametrize("name", ["rloo", "repirl", "bc", "confidence"])
def test_a_tokenizer_without_a_padding_token_will_do(name, policy_folder, tmp_path):
    policy = load_policy(policy_folder)
    policy.tokenizer.pad_token = None
    assert policy.tokenizer.pad_token_id is None
    fitted = load_method(name).fit(FitContext(policy, tmp_path / "run", 0), small_config(name))
    assert fitted.budget.policy_updates == 2


def test_another_seed_draws_other_problems_and_rollouts(policy_folder, tmp_path):
    for name in ("rloo", "bc"):
        for seed in (0, 1):
            fit(name, policy_folder, tmp_path / f"{name}{seed}", seed=seed)
        lines = [(tmp_path / f"{name}{seed}" / "metrics.jsonl").read_text().splitlines()[1] for seed in (0, 1)]
        key = "entropy" if name == "rloo" else "loss"
        assert json.loads(lines[0])[key] != json.loads(lines[1])[key]


def test_the_reward_of_repirl_carries_its_contract(policy_folder, tmp_path):
    fitted = fit("repirl", policy_folder, tmp_path)
    assert fitted.reward_folder is not None
    contract = read_contract(fitted.reward_folder)
    assert contract.method == "repirl"
    assert contract.step_separator == "\n"
    assert contract.base_digest == load_policy(policy_folder).digest
    per_prompt = load_method("repirl").recipe("tiny").irl.demos_per_prompt
    assert fitted.budget.demonstrations == 2 * 4 * per_prompt  # steps, prompts, the demonstrations used of each


# ------------------------------------------------------------------------------------------------- empty data


@pytest.mark.parametrize("name", [name for name in NAMES if name != "base"])
def test_empty_data_is_said_in_one_line(name, policy_folder, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    config = small_config(name, **{"data.source": "file", "data.file": str(empty)})
    with pytest.raises(UserError, match=r"empty\.jsonl has too few problems"):
        fit(name, policy_folder, tmp_path / "run", config)
    with pytest.raises(UserError, match="level"):
        fit(name, policy_folder, tmp_path / "run2", small_config(name, **{"data.levels": []}))


@pytest.mark.parametrize("name", ["bc", "repirl"])
def test_learning_from_demonstrations_needs_some(name, policy_folder, tmp_path):
    with pytest.raises(UserError, match="no demonstrations"):
        fit(name, policy_folder, tmp_path, small_config(name, **{"data.demos_per_problem": 0}))


def test_repirl_without_demonstrations_can_be_asked_for(policy_folder, tmp_path):
    config = small_config("repirl", **{"data.demos_per_problem": 0, "irl.demos_per_prompt": 0})
    assert fit("repirl", policy_folder, tmp_path, config).budget.demonstrations == 0


def test_the_oracle_knows_the_embedded_families_only(policy_folder, tmp_path):
    config = small_config("oracle", **{"data.source": "minicode"})
    # Programs of a random policy are cut off by the token limit: nothing is run, and their heads are wrong.
    assert fit("oracle", policy_folder, tmp_path / "programs", config).diagnostics["reward"] == 0
    path = rows_file(tmp_path, [{"problem": f"1+{i}", "answer": str(1 + i)} for i in range(24)])
    other = small_config("oracle", **{"data.source": "file", "data.file": str(path)})
    with pytest.raises(UserError, match="embedded families only"):
        fit("oracle", policy_folder, tmp_path / "file", other)


# ------------------------------------------------------------------------------------------- training sets


def rows_file(folder, rows: list[Any]):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_training_file(tmp_path):
    rows = [{"problem": f"{i}+1?", "answer": str(i + 1), "demonstrations": [f"It is {i + 1}.", "x"]} for i in range(5)]
    config = TrainingSetConfig(
        source="file", file=str(rows_file(tmp_path, rows)), validation_problems=2, demos_per_problem=1, prompt_suffix=" !"
    )
    data = load_training_set(config)
    assert [p.prompt for p in data.problems] == ["0+1? !", "1+1? !", "2+1? !"]
    assert [p.answer for p in data.validation] == ["4", "5"]
    assert [d.text for d in data.demonstrations[data.problems[0].id]] == ["It is 1."]
    assert load_training_set(config, with_demonstrations=False).demonstrations == {}
    assert load_training_set(config, with_demonstrations=False).digest == data.digest


def test_the_digest_is_over_all_of_it(tmp_path):
    row = {"id": "a", "problem": "1+1?", "answer": "2", "demonstrations": ["2"]}
    other = {"id": "b", "problem": "2+1?", "answer": "3", "demonstrations": ["3"]}
    digests = set()
    for change in ({}, {"problem": "1+1 ?"}, {"answer": "3"}, {"demonstrations": ["two"]}, {"id": "c"}):
        path = rows_file(tmp_path, [{**row, **change}, other])
        digests.add(load_training_set(TrainingSetConfig(source="file", file=str(path), validation_problems=1)).digest)
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"problem": "a", "answer": "1"}\n{"problem"', "line 2"),
        ('{"problem": "a", "answer": "1"}\n\n[1]\n', "line 3"),
        ('{"problem": "a"}\n', "line 1.*answer"),
        ('{"problem": "a", "answer": 1}\n', "line 1.*answer"),
        ('{"problem": "a", "answer": "1", "demonstrations": "text"}\n', "line 1.*list of texts"),
        ('{"problem": "a", "answer": "1", "demonstrations": [1]}\n', "line 1.*list of texts|list of texts"),
    ],
)
def test_malformed_rows_are_named_by_line(tmp_path, text, match):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=match):
        load_training_set(TrainingSetConfig(source="file", file=str(path), validation_problems=1))


def test_other_mistakes_with_training_sets(tmp_path):
    with pytest.raises(UserError, match="unknown training set"):
        load_training_set(TrainingSetConfig(source="poems"))
    with pytest.raises(UserError, match="no training file"):
        load_training_set(TrainingSetConfig(source="file"))
    with pytest.raises(UserError, match="no such file"):
        list(read_objects(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UserError, match="newlines"):
        load_training_set(TrainingSetConfig(step_separator="\n\n"))


# ---------------------------------------------------------------------------------------------- registry


METHOD_FILE = '''
"""A method dropped into a folder."""
from repirl.methods.base import Fitted, Method
from baselines_helper_that_is_not_there import x
'''


def test_unknown_names_and_bad_folders(tmp_path):
    with pytest.raises(UserError, match="rloo"):
        load_method("rlooo")
    with pytest.raises(UserError, match="no such folder"):
        methods((str(tmp_path / "nowhere"),))
    (tmp_path / "broken.py").write_text(METHOD_FILE)
    with pytest.raises(UserError, match=r"broken\.py"):
        methods((str(tmp_path),))
    with pytest.raises(UserError, match=r"broken\.py"):
        load_module(tmp_path / "broken.py")


def test_a_dropped_file_is_a_method_and_a_name_belongs_to_one(tmp_path):
    source = load_method("base")
    text = open(__import__("sys").modules[type(source).__module__].__file__).read()  # noqa: SIM115
    (tmp_path / "mine.py").write_text(text.replace('name = "base"', 'name = "mine"'))
    found = methods((str(tmp_path),))
    assert set(found) == {*NAMES, "mine"}
    assert found["mine"].recipe("tiny") is not None
    twice = tmp_path / "twice"
    twice.mkdir()
    (twice / "mine.py").write_text(text)
    with pytest.raises(UserError, match=r"one name.*base"):
        methods((str(twice),))
