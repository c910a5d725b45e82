"""`repirl judge`: scoring of given steps, every kind of reward, the verb. (Metrics: test_prm_quality.py.)"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from repirl.cli import main as cli
from repirl.errors import UserError
from repirl.evals import prm_quality as quality
from repirl.paths import CHECKOUT_DIR
from repirl.tasks import arith
from repirl.tasks.step_labels import LabelledSolution, labels_until, write_labelled

DATA = CHECKOUT_DIR.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")

# ------------------------------------------------------------------------------ scoring given steps, judging


@pytest.fixture(scope="module")
def reward_folders(make_energy_model, make_policy, policy_folder, tokenizer, tmp_path_factory) -> dict[str, str]:
    """Kind of PRM -> REWARD as `repirl judge` takes it: the saved kinds as folders, the others by name."""
    from repirl.engines.loading import load_policy
    from repirl.rewards.implicit import log_ratio_terms
    from repirl.rewards.load import KINDS as SAVED_KINDS
    from repirl.rewards.load import NAMED
    from repirl.rewards.saved import write_reward

    folder = tmp_path_factory.mktemp("run") / "reward"
    write_reward(folder, make_energy_model(3, base_measure=1.0), tokenizer, contract(kind="energy"))
    other = tmp_path_factory.mktemp("run") / "reward"
    start = load_policy(policy_folder)
    terms = {"kind": "implicit", "base_digest": start.digest, "log_ratio": log_ratio_terms(start, 0.05)}
    write_reward(other, make_policy(4), tokenizer, contract(**terms))
    saved = {"energy": str(folder), "implicit": str(other)}
    # What a model writes can seldom be read of a random one: test_written.py.
    assert saved.keys() == SAVED_KINDS.keys() - {"written"}, "a new kind of saved reward: judge it here"
    return saved | {name: name for name in NAMED}


def contract(**changes: Any):
    from repirl.rewards.artifact import RewardContract

    fields = {"kind": "energy", "method": "test", "step_separator": "\n", "template": "plain", "step_aggregation": "mean"}
    fields |= {"base_digest": "a", "training_digest": "b"}
    return RewardContract(**{**fields, **changes})


KINDS = ("energy", "implicit", "random", "constant", "length", "confidence", "oracle")


def arith_solutions(count: int, wrong_every: int = 2) -> list[LabelledSolution]:
    """Exact solutions of test problems; in every second one a line's number is changed. Labels are the checker's."""
    from repirl.evals.judged_sets import label_arith
    from repirl.grading.dispatch import grade_rollouts

    problems = arith.problems("test", count, levels=(3, 4, 5))
    texts = []
    for i, problem in enumerate(problems):
        lines = arith.solution(problem.source, "plain").split("\n")
        if i % wrong_every == 0:
            at = i % len(lines)
            lines[at] = lines[at] + "+1" if at < len(lines) - 1 else "\\boxed{1234}"
        texts.append("\n".join(lines))
    return label_arith(problems, texts, [verdict.outcome for verdict in grade_rollouts(problems, texts)])


def arith_set(count: int = 24, **changes: Any):
    from repirl.evals.judged_sets import JudgedSet

    solutions = arith_solutions(count)
    half = count // 2
    both = {"solutions": tuple(solutions[:half]), "tuning": tuple(solutions[half:]), "tuned_on": "the other half"}
    return JudgedSet(**{"name": "arith", "kind": "first_error", "separator": "\n", **both, **changes})


def prm_bench_set(count: int = 12):
    """Solutions as PRMBench has them: a modified one and its control for every item."""
    from repirl.evals.judged_sets import JudgedSet

    base = [one for one in arith_solutions(2 * count) if one.first_error_index == -1][:count]
    controls = [replace(one, id=f"c{i}", subset="correct", cluster=str(i)) for i, one in enumerate(base)]
    modified = [
        replace(
            one,
            id=f"m{i}",
            steps=(*one.steps[:-1], "\\boxed{1234}"),
            labels=(*one.labels[:-1], 0.0),
            subset="redundency" if i % 2 else "circular",
            cluster=str(i),
        )
        for i, one in enumerate(base)
    ]
    return JudgedSet("prmbench", "steps", (*modified, *controls), "\n")


def test_the_kinds_are_all_there_are(reward_folders):
    """Every concrete process reward that can be had by name is judged below."""
    from repirl.rewards import load as reward_loading
    from repirl.rewards import nulls
    from repirl.rewards.base import StepReward

    assert tuple(reward_folders) == KINDS
    known = {
        kind.name
        for _, kind in inspect.getmembers(nulls, inspect.isclass)
        if issubclass(kind, StepReward) and not inspect.isabstract(kind) and kind.__module__ == nulls.__name__
    }
    assert known | {"confidence"} == set(reward_loading.NAMED)  # confidence is an energy model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_reward_is_judged(kind: str, reward_folders, policy_folder):
    from repirl.evals.judging import default_rule, judge
    from repirl.rewards.load import LoadOptions, load_reward

    loaded = load_reward(reward_folders[kind], LoadOptions(policy=str(policy_folder)))
    first = judge(loaded, arith_set(), default_rule(loaded))
    steps = judge(loaded, prm_bench_set(), default_rule(loaded))
    for report in (first, steps):
        for result in (report.judged, *report.nulls):
            assert 0 <= result.headline.low <= result.headline.high <= 100
            assert result.num_unscored == 0
            assert all(row.scores is not None and len(row.scores) == len(row.labels) for row in result.rows)
        assert {null.reward for null in report.nulls} == {"random", "constant", "length"} - {kind}
    if kind == "oracle":
        assert first.judged.headline.value == 100
        assert first.judged.threshold.rule == "fixed:0.5"
        assert first.judged.shortcuts.step_auc == 1
        assert steps.judged.headline.value == 100
    else:
        assert first.judged.threshold.tuned_on == "the other half"
        assert len(steps.judged.threshold.values) == 5
    if kind in ("constant", "length"):
        assert first.judged.headline.value < 60
    uses_model = kind in ("energy", "implicit", "confidence")
    assert (first.judged.scored_tokens > 0) == uses_model


def test_the_oracle_with_its_sign_flipped_fails(policy_folder):
    from repirl.evals.judging import judge
    from repirl.evals.thresholds import ThresholdRule
    from repirl.rewards.load import LoadOptions, load_reward
    from repirl.types import StepRewards

    loaded = load_reward("oracle", LoadOptions(policy=str(policy_folder)))
    right = loaded.reward.score

    def flipped(groups):
        return [
            [StepRewards(-s.token_rewards, s.step_ends, 1 - s.step_rewards, s.step_mask) for s in group]
            for group in right(groups)
        ]

    loaded.reward.score = flipped  # type: ignore[method-assign]
    assert judge(loaded, arith_set(), ThresholdRule("fixed", 0.5), nulls=False).judged.headline.value < 50
    assert judge(loaded, prm_bench_set(), ThresholdRule("fixed", 0.5), nulls=False).judged.headline.value == 0


def test_the_random_reward_is_as_good_as_chance(policy_folder):
    """Standard normal token rewards: a step of n tokens is below t with probability Phi(t sqrt n), independently."""
    from repirl.evals.judging import judge
    from repirl.evals.thresholds import ThresholdRule
    from repirl.rewards.load import LoadOptions, load_reward

    judged = arith_set(400, tuning=(), tuned_on="")
    loaded = load_reward("random", LoadOptions(policy=str(policy_folder)))
    from repirl.evals.step_scoring import score_solutions

    threshold = -0.3
    lengths = [one.step_tokens for one in score_solutions(loaded, judged.solutions)]
    chances: dict[bool, list[float]] = {True: [], False: []}
    for one, tokens in zip(judged.solutions, lengths, strict=True):
        below = norm.cdf(threshold * np.sqrt(tokens))
        k = one.first_error_index
        chances[k >= 0].append(float(np.prod(1 - below[: k if k >= 0 else None]) * (below[k] if k >= 0 else 1)))
    found = judge(loaded, judged, ThresholdRule("fixed", threshold), nulls=False).judged.subsets["arith"]
    for is_error, acc in ((True, found.acc_error), (False, found.acc_correct)):  # type: ignore[union-attr]
        p = np.array(chances[is_error])
        assert abs(acc / 100 - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / len(p)


def test_prm_bench_rule_and_similarity(policy_folder):
    """0.5, and 0.15 in the class of redundant steps; controls are outside of the totals."""
    from repirl.evals.judging import judge
    from repirl.evals.thresholds import ThresholdRule
    from repirl.rewards.load import LoadOptions, load_reward

    judged = prm_bench_set()
    loaded = load_reward("oracle", LoadOptions(policy=str(policy_folder)))
    right = loaded.reward.score

    def lifted(groups):
        """A wrong step scores 0.3 instead of 0: still wrong at 0.5, right at 0.15."""
        return [[replace(s, step_rewards=np.maximum(s.step_rewards, 0.3)) for s in group] for group in right(groups)]

    loaded.reward.score = lifted  # type: ignore[method-assign]
    report = judge(loaded, judged, ThresholdRule("prmbench"), nulls=False)
    assert report.num_solutions == 12
    subsets: dict[str, Any] = report.judged.subsets
    assert subsets["circular"].prm_score == 100
    assert subsets["redundency"].negative_f1 == 0
    assert subsets["total"].num_solutions == 12
    assert subsets["correct"].num_solutions == 12
    assert subsets["total"].first_error_acc == 50
    # One of S steps changes its judgement in `circular`, none in `redundency`.
    shares = [1 / len(one.steps) for one in judged.solutions if one.subset == "circular"]
    assert report.judged.similarity["circular"] == pytest.approx(np.mean(shares))
    assert report.judged.similarity["redundency"] == 0
    with pytest.raises(UserError, match="prmbench belongs to PRMBench"):
        judge(loaded, arith_set(4), ThresholdRule("prmbench"), nulls=False)


@pytest.mark.parametrize("separator", ["\n", "\n\n", " ## "])
def test_every_step_gets_one_score_whatever_it_holds(separator: str, policy_folder):
    from repirl.evals.step_scoring import as_group, score_solutions
    from repirl.rewards.load import LoadOptions, load_reward

    steps = ("a\n\n\nb ## ## c", "\n\nd\n\n   ", "é ü 数", "    x = 1\n", "last ##")
    one = LabelledSolution("s", "p", steps, (1.0,) * 5)
    loaded = load_reward("random", LoadOptions(policy=str(policy_folder), separator=separator))
    (scored,) = score_solutions(loaded, [one])
    assert scored.scores is not None
    assert len(scored.scores) == len(scored.step_tokens) == 5
    (rollout,) = as_group(loaded, one).rollouts
    assert scored.step_tokens.sum() == len(rollout.token_ids)
    assert rollout.text.split(separator)[3].startswith("    x = 1")
    assert rollout.token_ids[-1] == loaded.tokenizer.eos_token_id
    (cut,) = as_group(loaded, replace(one, finished=False)).rollouts
    assert np.array_equal(cut.token_ids, rollout.token_ids[:-1])


def test_given_steps_are_scored_as_the_rollout_was(make_rollout, reward_folders):
    """The same tokens, positions and scores as in training for a solution that the policy itself sampled."""
    from repirl.evals.step_scoring import as_group, score_solutions
    from repirl.rewards.load import LoadOptions, load_reward

    problem = arith.problems("test", 1, levels=(4,))[0]
    text = arith.solution(problem.source, "plain")
    rollout = make_rollout(problem.prompt, text, problem_id=problem.id)
    loaded = load_reward(reward_folders["energy"], LoadOptions())
    one = LabelledSolution("s", problem.prompt, tuple(text.split("\n")), (1.0,) * 4, source=problem.source)
    group = as_group(loaded, one)
    assert group.rollouts[0].prompt_ids == rollout.prompt_ids
    assert np.array_equal(group.rollouts[0].token_ids, rollout.token_ids)
    expected = loaded.reward.score([replace(group, rollouts=(rollout,))])[0][0].step_rewards
    (found,) = score_solutions(loaded, [one])
    assert np.allclose(found.scores, expected, atol=1e-6)  # type: ignore[arg-type]
    assert np.ptp(expected) > 0


def test_the_contract_decides_separator_and_suffix(make_energy_model, tokenizer, tmp_path: Path):
    from repirl.evals.step_scoring import as_group, score_solutions
    from repirl.rewards.load import LoadOptions, load_reward
    from repirl.rewards.saved import write_reward

    model = make_energy_model(1)
    write_reward(tmp_path / "plain", model, tokenizer, contract(step_separator=" ; "))
    write_reward(tmp_path / "run" / "reward", model, tokenizer, contract(step_separator=" ; "))
    plain, inside = (load_reward(str(tmp_path / name), LoadOptions()) for name in ("plain", "run"))
    one = LabelledSolution("s", "p", ("a;", "b ; c", "d"), (1.0, 1.0, 0.0))
    assert as_group(plain, one).rollouts[0].text == "a; ; b c ; d"
    assert as_group(plain, one).problem.prompt == "p\n"
    assert as_group(plain, one, " Think.\n").problem.prompt == "p Think.\n"
    trained = replace(plain, prompt_suffix="\nReason.")  # as its contract says
    assert as_group(trained, one).problem.prompt == "p\nReason."
    assert as_group(trained, one, " Think.\n").problem.prompt == "p Think.\n"
    assert as_group(trained, replace(one, source="arith")).problem.prompt == "p\n"
    (a,), (b,) = (score_solutions(loaded, [one]) for loaded in (plain, inside))
    assert a.scores.tolist() == b.scores.tolist()
    assert len(a.scores) == 3


def test_what_is_too_long_is_unscored_and_wrong(reward_folders):
    from repirl.evals.judging import judge
    from repirl.evals.thresholds import ThresholdRule
    from repirl.rewards.load import LoadOptions, load_reward

    judged = arith_set(12)
    loaded = load_reward(reward_folders["energy"], LoadOptions())
    assert loaded.max_tokens == 2048
    longest = max(len(one.problem + "".join(one.steps)) for one in judged.solutions)
    some = judge(replace(loaded, max_tokens=longest // 2), judged, ThresholdRule("fixed", 0.0), nulls=False).judged
    assert 0 < some.num_unscored < len(judged.solutions)
    assert all((row.predicted_first_error == quality.UNPARSEABLE) == (row.scores is None) for row in some.rows)
    with pytest.raises(UserError, match="longer than the reward's model allows"):
        judge(replace(loaded, max_tokens=3), judged, ThresholdRule("fixed", 0.0), nulls=False)


# --------------------------------------------------------------------------------------------- the verb


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line of a user's mistake: exit code 2, nothing on stdout."""
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["random", "processbench2"], "neither a step-labelled set nor a file: 'processbench2'; choose one of"),
        (["random", "processbench/gsm9k", "--data-dir", "."], "ProcessBench has no subset: 'gsm9k'; choose one of gsm8k"),
        (["random", "processbench", "--data-dir", "."], "not at hand"),
        (["nothing", "arith"], "no such process reward: 'nothing'; give a folder"),
        (["oracle", "prmbench"], "the oracle knows only arith problems, not: 'prmbench'"),
        (["random", "arith", "--threshold", "best"], "unknown threshold rule: 'best'; use tuned, prmbench, or fixed:VALUE"),
        (["random", "arith", "--threshold", "fixed:nan"], "unknown threshold rule"),
        (["random", "arith", "--format", "csv"], "unknown format of labelled steps: 'csv'; use one of prm800k"),
        (["random", "arith", "--verdicts", "no/such/folder.jsonl"], "--verdicts must be a file in a folder that there is"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REPIRL_DATA_DIR", raising=False)
    assert said in fails(capsys, ["judge", *arguments])
    assert list(tmp_path.iterdir()) == []


def test_judge_a_file(policy_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    solutions = [
        LabelledSolution(f"{i}", f"p{i}", tuple("ab" * (k + 2) for k in range(4)), labels_until(i % 5 - 1, 4))
        for i in range(20)
    ]
    write_labelled(tmp_path / "steps.jsonl", solutions, "processbench")
    verb = ["judge", "random", "steps.jsonl", "--policy", str(policy_folder), "--verdicts", "out.jsonl"]
    assert cli.run([*verb, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (report,) = said["sets"]
    assert said["reward"]["step_separator"] == "\n\n"
    assert report["judged"]["threshold"]["rule"] == "tuned"
    assert len(report["judged"]["threshold"]["values"]) == 5
    subset = report["judged"]["subsets"]["steps"]
    assert (subset["num_error"], subset["num_correct"]) == (16, 4)
    assert [null["reward"] for null in report["nulls"]] == ["constant", "length"]
    assert report["judged"]["shortcuts"].keys() >= {"length_correlation", "step_auc"}
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    predictions = [quality.first_error_prediction(np.array(row["scores"]), row["threshold"]) for row in rows]
    again = quality.first_error_quality(predictions, [row["first_error_index"] for row in rows])
    assert again.f1 == pytest.approx(report["judged"]["value"])
    assert cli.run([*verb, "--threshold", "fixed:-0.1", "--no-nulls"]) == 0
    shown = capsys.readouterr().out
    assert "F1 in percent" in shown
    assert "threshold -0.1 (fixed:-0.1; a score equal to the threshold is right)" in shown


def test_arith_is_sampled_labelled_exactly_and_the_same_each_time(policy_folder):
    """The oracle reaches 100; tuning problems are others than those judged."""
    from repirl.evals.judged_sets import SetOptions, load_set
    from repirl.evals.judging import default_rule, judge
    from repirl.rewards.load import LoadOptions, load_reward

    options = SetOptions(limit=6, seed=1)
    judged = load_set("arith", options)
    assert judged.digest == load_set("arith", options).digest != load_set("arith", replace(options, seed=2)).digest
    assert not {one.problem for one in judged.solutions} & {one.problem for one in judged.tuning}
    for one in judged.solutions:
        assert one.first_error_index == arith.first_error_index(one.source, "\n".join(one.steps))
    loaded = load_reward("oracle", LoadOptions(policy=str(policy_folder)))
    found = judge(loaded, judged, default_rule(loaded), nulls=False).judged.subsets["arith"]
    assert found.acc_error == 100  # type: ignore[union-attr]
    assert found.acc_correct == (100 if found.num_correct else 0)  # type: ignore[union-attr]


@needs_data
@pytest.mark.parametrize("name", ["processbench", "processbench/math", "prmbench", "prmbench/multi_solutions"])
def test_real_sets(name: str, policy_folder, capsys: pytest.CaptureFixture[str]):
    verb = ["judge", "length", name, "--data-dir", str(DATA), "--limit", "6", "--policy", str(policy_folder), "--json"]
    assert cli.run(verb) == 0
    (report,) = json.loads(capsys.readouterr().out)["sets"]
    judged = report["judged"]
    if name.startswith("processbench"):
        assert judged["threshold"]["tuned_on"] == "processbench/gsm8k"
        assert len(judged["subsets"]) == (4 if name == "processbench" else 1)
        assert judged["value"] == pytest.approx(np.mean([one["f1"] for one in judged["subsets"].values()]))
    else:
        assert report["metric"] == "PRMScore"
        assert (report["notes"]["controls"] >= 6) == (name == "prmbench")
        assert "negative_f1" in judged["subsets"]["multi_solutions"]["undefined"]


@needs_data
def test_a_limit_draws_from_the_whole_file():
    """The real files begin with hundreds of erroneous solutions: the first ones would hold no correct solution."""
    from repirl.evals.judged_sets import SetOptions, load_set

    options = SetOptions(data_dir=DATA, limit=20, with_tuning=False)
    some = load_set("processbench/gsm8k", options).solutions
    assert len({one.id for one in some}) == 20
    assert {one.first_error_index == -1 for one in some} == {True, False}
    assert load_set("processbench/gsm8k", options).solutions == some


def test_sampled_solutions_are_kept_and_not_sampled_again(policy_folder, tmp_path: Path, monkeypatch):
    from repirl.engines.torch_engine import TorchEngine
    from repirl.evals.judged_sets import SetOptions, load_set

    options = SetOptions(limit=3, seed=1, solver=str(policy_folder), pool_folder=tmp_path)
    first = load_set("arith", options)
    monkeypatch.setattr(TorchEngine, "generate", None)
    again = load_set("arith", options)
    assert again.solutions == first.solutions
    assert (again.digest, again.notes) == (first.digest, first.notes)
    with pytest.raises(UserError, match="another seed"):
        load_set("arith", replace(options, seed=2))


def test_long_chains_have_draws_to_choose_from(policy_folder):
    """All 8 samples of a problem, told which solution each is; the exact checker chooses a right one where there is one."""
    from repirl.evals.judged_sets import SetOptions, load_set
    from repirl.evals.judging import default_rule, judge
    from repirl.rewards.load import LoadOptions, load_reward

    judged = load_set("arith_long", SetOptions(seed=1, solver="tiny", limit=40, with_tuning=False))
    assert len(judged.solutions) == 40
    counts = {one: [d.problem for d in judged.draws].count(one) for one in {d.problem for d in judged.draws}}
    assert set(counts.values()) == {8}
    for draw in judged.draws:
        if draw.solution is not None:
            one = judged.solutions[draw.solution]
            assert (one.cluster, one.final_answer_correct) == (draw.problem, draw.correct)
    loaded = load_reward("oracle", LoadOptions(policy=str(policy_folder)))
    found = judge(loaded, judged, default_rule(loaded), nulls=False).judged
    assert found.selection is not None
    assert found.selection.sampled.value < found.selection.lowest_step.value <= found.selection.any_right.value
    assert found.shortcuts.step_auc_within == 1
