"""Step labels and their classifier: Monte Carlo labels, weights and loss by hand, soft labels, micro-batches, learning."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_methods import small_config
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from repirl.config import with_overrides
from repirl.engines.loading import load_policy
from repirl.errors import UserError
from repirl.evals.step_scoring import score_solutions
from repirl.learn.step_classifier import LabelledSteps, StepClassifier, StepClassifierConfig, StepFitting, label_weights
from repirl.learn.updater import OptimConfig
from repirl.methods import step_labels as module
from repirl.methods.base import FitContext
from repirl.methods.offline import OfflinePool
from repirl.methods.registry import load_method
from repirl.methods.step_labels import label_quality
from repirl.rewards.artifact import RewardContract
from repirl.rewards.energy import energy_from_policy
from repirl.rewards.load import LoadOptions, load_reward
from repirl.rollouts.monte_carlo import MonteCarloConfig, monte_carlo_labels, stepped
from repirl.rollouts.packing import TokenRow
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Budget, Problem, RolloutGroup, Verdict

CONTRACT = RewardContract(
    kind="energy",
    method="supervised",
    step_separator="\n",
    template="plain",
    step_aggregation="last",
    base_digest="b",
    training_digest="t",
)
SEGMENTATION = StepSegmentation("\n")


# ------------------------------------------------------------------------------------------- Monte Carlo


class ToldCollector:
    """Continuations whose verdicts are told by the prefix's text; remembers what was asked."""

    def __init__(self, tokenizer, verdicts: dict[str, str], limit: int = 50) -> None:
        self.tokenizer, self.verdicts = tokenizer, verdicts
        self.decoding = SimpleNamespace(params=SimpleNamespace(max_new_tokens=limit))
        self.asked: list[str] = []

    def continue_from(self, prefixes, samples, seed):
        self.asked += [prefix.text for prefix in prefixes]
        outcomes = {"r": "correct", "w": "wrong", "u": "ungraded"}
        return [
            SimpleNamespace(verdicts=tuple(Verdict(outcomes[one]) for one in self.verdicts[prefix.text])) for prefix in prefixes
        ]


@pytest.fixture
def rollouts(make_rollout, tokenizer):
    """`a\\nb\\nc`, finished and wrong."""
    problem = Problem("p", "own", "1+1? ", "integer", answer="2")
    rollout = make_rollout(problem.prompt, "a\nb\nc", problem_id="p")
    return stepped([RolloutGroup(problem, (rollout, rollout), (Verdict("wrong"), Verdict("wrong")))], tokenizer, SEGMENTATION)


def labels_of(rollouts, tokenizer, verdicts, **settings: Any):
    collector = ToldCollector(tokenizer, verdicts, settings.pop("limit", 50))
    (labels,) = monte_carlo_labels(rollouts, collector, MonteCarloConfig(**settings), 0)  # type: ignore[arg-type]
    return labels, collector.asked


TOLD = {"a\n": "rwww", "a\nb\n": "wwww", "a\nb\nc": "rrww"}


def test_hard_and_soft_labels(rollouts, tokenizer) -> None:
    """Equal rollouts count once; the last step has the true outcome unless it is continued, without its EOS."""
    assert labels_of(rollouts, tokenizer, TOLD) == ((1.0, 0.0, 0.0), ["a\n", "a\nb\n"])
    assert labels_of(rollouts, tokenizer, TOLD, label="soft")[0] == (0.25, 0.0, 0.0)
    assert labels_of(rollouts, tokenizer, TOLD, label="soft", last_step="continue")[0] == (0.25, 0.0, 0.5)


def test_its_own_ending_can_count(rollouts, tokenizer) -> None:
    assert labels_of(rollouts, tokenizer, TOLD, label="soft", own_outcome=True)[0] == (0.2, 0.0, 0.0)


def test_what_lies_behind_a_failure(rollouts, tokenizer) -> None:
    for after, last in (("wrong", 0.0), ("none", None)):
        told = {"a\n": "wwww"}
        assert labels_of(rollouts, tokenizer, told, after_failure=after) == ((0.0, last, last), ["a\n"])


def test_ungraded_continuations_are_dropped_or_wrong(rollouts, tokenizer) -> None:
    told = {"a\n": "ruuu", "a\nb\n": "uuuu"}
    assert labels_of(rollouts, tokenizer, told, label="soft")[0] == (1.0, None, 0.0)
    assert labels_of(rollouts, tokenizer, told, label="soft", ungraded="wrong")[0] == (0.25, 0.0, 0.0)


def test_a_prefix_without_room_has_no_label(rollouts, tokenizer) -> None:
    assert labels_of(rollouts, tokenizer, {"a\n": "rrrr"}, limit=4)[0] == (1.0, None, 0.0)


def test_quality_of_labels_by_hand() -> None:
    found = label_quality([(1.0, 0.4, None), (0.0,)], [(1.0, 1.0, 0.0), (0.0,)])
    assert found == {"agree": pytest.approx(2 / 3), "agree_right": 0.5, "agree_wrong": 1.0}
    assert label_quality([(None,)], [(1.0,)]) == {}


# -------------------------------------------------------------------------------------------- classifier


def row(tokens: list[int], ends: tuple[int, ...], labels: tuple[float | None, ...], logprob: float = -1.0) -> LabelledSteps:
    return LabelledSteps(TokenRow([1, 2], tokens), np.full(len(tokens), logprob, dtype=np.float32), ends, labels)


def make(make_policy, tokenizer, micro: int = 8192, **settings: Any) -> StepClassifier:
    optim = OptimConfig(lr=settings.pop("lr", 1e-2), micro_batch_tokens=micro)
    config = StepClassifierConfig(optim=optim, **settings)
    model = energy_from_policy(make_policy(), base_measure=config.base_measure)
    return StepClassifier(model, tokenizer, config, CONTRACT, 100)


def test_weights_by_hand() -> None:
    """Labels 1, 0.5, 0: right steps weigh 1.5 in all, wrong ones 1.5."""
    rows = [row([3, 4, 5, 6], (0, 1, 2, 3), (1.0, 0.5, 0.0, None))]
    assert label_weights(rows, balance=False) == pytest.approx((1 / 3, 1 / 3))
    assert label_weights(rows, balance=True) == pytest.approx((1 / 3, 1 / 3))
    more = [*rows, row([3], (0,), (0.0,))]
    assert label_weights(more, balance=False) == pytest.approx((1 / 4, 1 / 4))
    assert label_weights(more, balance=True) == pytest.approx((0.5 / 1.5, 0.5 / 2.5))


@pytest.mark.parametrize("balance", [False, True])
def test_the_loss_by_hand(make_policy, tokenizer, balance: bool) -> None:
    """Of the logits that the model gives, label by label; soft labels reach it."""
    rows = [row([3, 4, 5, 6], (0, 1, 2, 3), (1.0, 0.3, 0.0, None)), row([7, 8], (1,), (0.0,))]
    for logit in ("last", "sum"):
        classifier = make(make_policy, tokenizer, balance=balance, logit=logit)
        torch.nn.init.normal_(classifier.updater.model.score.weight)  # type: ignore[union-attr]
        scores = classifier.reward.token_scores([group_of(one) for one in rows])
        right, wrong = label_weights(rows, balance=balance)
        expected = 0.0
        for one, values in zip(rows, scores, strict=True):
            starts = [0, *(end + 1 for end in one.ends[:-1])]
            for start, end, label in zip(starts, one.ends, one.labels, strict=True):
                if label is None:
                    continue
                z = values[end] if logit == "last" else (values[start : end + 1] + 1).sum()
                expected += label * right * math.log1p(math.exp(-z)) + (1 - label) * wrong * math.log1p(math.exp(z))
        assert classifier.fit(rows)["loss"] == pytest.approx(expected, rel=1e-4)


def group_of(one: LabelledSteps) -> RolloutGroup:
    from repirl.types import Rollout

    tokens = np.array(one.row.response_ids)
    rollout = Rollout("p", 0, tuple(one.row.prompt_ids), tokens, one.logprobs_T, "", "length", 1.0)
    return RolloutGroup(Problem("p", "own", "", "integer"), (rollout,), (Verdict("wrong"),))


def test_unlabelled_steps_never_count(make_policy, tokenizer) -> None:
    found = []
    for tokens, ends, labels in (([3, 4, 5], (0, 1, 2), (1.0, 0.0, None)), ([3, 4], (0, 1), (1.0, 0.0))):
        classifier = make(make_policy, tokenizer)
        torch.nn.init.ones_(classifier.updater.model.score.weight)  # type: ignore[union-attr]
        classifier.fit([row(tokens, ends, labels)])
        found.append(classifier.updater.model.score.weight.grad.clone())  # type: ignore[union-attr]
    assert torch.allclose(*found, atol=1e-6)


def test_the_update_does_not_depend_on_micro_batches(make_policy, tokenizer) -> None:
    rows = [row([3, 4, 5], (0, 2), (1.0, 0.2)), row([6], (0,), (0.0,)), row([7, 8], (1,), (1.0,))]
    found = []
    for micro in (1, 100000):
        classifier = make(make_policy, tokenizer, micro=micro, balance=True)
        torch.nn.init.ones_(classifier.updater.model.score.weight)  # type: ignore[union-attr]
        classifier.fit(rows)
        found.append(torch.cat([p.grad.flatten() for p in classifier.updater.model.parameters() if p.grad is not None]))
    assert float(found[0].norm()) > 1e-3
    assert torch.allclose(*found, atol=1e-6)


def test_it_learns_its_labels_and_the_reverse_with_them_swapped(make_policy, tokenizer) -> None:
    for right, wrong in ((3, 4), (4, 3)):
        classifier = make(make_policy, tokenizer)
        for _ in range(15):
            classifier.fit([row([right], (0,), (1.0,)), row([wrong], (0,), (0.0,))])
        a, b = (float(one[0]) for one in classifier.reward.token_scores([group_of(row([t], (0,), (None,))) for t in (3, 4)]))
        assert (a > b + 1) == (right == 3)


def test_one_kind_of_label_alone_is_refused(make_policy, tokenizer) -> None:
    for labels in ((1.0,), (0.0,), (None,)):
        with pytest.raises(UserError, match="both right and wrong"):
            StepFitting(make(make_policy, tokenizer), [row([3], (0,), labels)], 0, Budget())
    unknown = [row([3], (0,), (1.0,), math.nan), row([4], (0,), (0.0,), math.nan)]
    with pytest.raises(UserError, match="log-probabilities"):
        StepFitting(make(make_policy, tokenizer, logit="sum"), unknown, 0, Budget())


# ----------------------------------------------------------------------------------------------- methods


def test_math_shepherd_keeps_its_labels_and_says_how_good_they_are(tmp_path) -> None:
    """From the embedded policy: labels are read again, not made again, and their quality is logged."""
    more = {"data.levels": [2, 3], "offline.levels": [2, 3], "offline.problems": 12, "offline.samples": 3}
    more |= {"classifier.steps": 3, "classifier.rows": 8, "loop.sampling.max_new_tokens": 100}
    config = small_config("math_shepherd", **more)
    fit = lambda: load_method("math_shepherd").fit(FitContext(load_policy("tiny"), tmp_path / "run", 0), config)
    first = fit()
    lines = [json.loads(line) for line in (tmp_path / "run/prm/labels.jsonl").read_text().splitlines()]
    assert lines[0]["rollouts"] > 36  # the continuations' cost
    assert {label for line in lines[1:] for label in line} == {0.0, 1.0}
    metrics = json.loads((tmp_path / "run/prm/metrics.jsonl").read_text().splitlines()[-1])
    assert 0.5 < metrics["labels/agree"] <= 1
    assert metrics["prm/labelled_steps"] > 0
    assert first.budget.rollouts > lines[0]["rollouts"]
    assert first.reward_folder == tmp_path / "run/prm/reward"
    assert fit() == first


def test_the_supervised_classifier_knows_more_than_its_start(tmp_path) -> None:
    """Exact labels of the embedded policy's steps, some updates: right steps end above wrong ones on the pool."""
    more = {"data.levels": [2, 3], "offline.levels": [2, 3], "offline.problems": 40, "offline.samples": 4}
    more |= {"classifier.steps": 25, "classifier.rows": 24, "classifier.optim.lr": 1e-4, "classifier.balance": True}
    config = small_config("supervised", **{**more, "loop.sampling.max_new_tokens": 100})
    fitted = load_method("supervised").fit(FitContext(load_policy("tiny"), tmp_path / "run", 0), config)
    lines = [json.loads(line) for line in (tmp_path / "run/prm/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["prm/loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert lines[-1]["prm/loss"] < 0.6
    assert lines[-1]["prm/logit_right"] > lines[-1]["prm/logit_wrong"] + 0.3
    assert lines[-1]["labels/agree"] == 1
    assert fitted.reward_folder is not None
    assert fitted.policy_folder == tmp_path / "run/policy"


# -------------------------------------------------------------------------------------------- labels of a file


def labels_file(folder: Path, *solutions: LabelledSolution) -> Path:
    rows = [{"prompt": one.problem, "completions": one.steps, "labels": one.labels} for one in solutions]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "labels.jsonl"


def fit_file(policy_folder: Path, folder: Path, file: Path, *more: str):
    method = load_method("supervised")
    settings = [
        f'labels="{file}"',
        "classifier.steps=12",
        "classifier.optim.lr=0.01",
        "classifier.base_measure=0",
        "classifier.logit=last",
    ]
    settings += ["step_aggregation=last", *more]
    config = with_overrides(method.recipe("tiny"), settings)
    return method.fit(FitContext(load_policy(policy_folder), folder, 0), config)


def test_a_file_of_labels_is_learned_as_it_is(policy_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Soft labels reach the loss as they are; what does not fit is counted; the reward says right."""
    good, bad = ("1+1=2", "so 2"), ("1+1=3", "so 3")
    solutions = [
        LabelledSolution("a", "What is 1+1?", good, (1.0, 0.75)),
        LabelledSolution("b", "What is 1+1?", bad, (0.0, 0.25)),
        LabelledSolution("c", "What is 1+1?", ("x" * 3000, "y"), (1.0, 0.0)),
    ]
    seen: list = []
    own = module.StepFitting
    monkeypatch.setattr(
        module, "StepFitting", lambda classifier, rows, *rest: seen.extend(rows) or own(classifier, rows, *rest)
    )
    file = labels_file(tmp_path, *solutions)
    fitted = fit_file(policy_folder, tmp_path / "run", file, "classifier.balance=false")
    assert [row.labels for row in seen] == [(1.0, 0.75), (0.0, 0.25)]
    assert [len(row.ends) for row in seen] == [2, 2]
    assert fitted.diagnostics["data/left out, labelled solutions, too long"] == 1
    assert fitted.policy_folder is None
    loaded = load_reward(str(fitted.reward_folder), LoadOptions())
    assert loaded.natural_threshold == 0
    right, wrong = score_solutions(loaded, solutions[:2])
    assert right.scores is not None
    assert wrong.scores is not None
    assert right.scores[0] > wrong.scores[0]
    turned = [replace(one, labels=tuple(1 - (x or 0.0) for x in one.labels)) for one in solutions[:2]]
    (tmp_path / "other").mkdir()
    opposite = fit_file(policy_folder, tmp_path / "other" / "run", labels_file(tmp_path / "other", *turned))
    right, wrong = score_solutions(load_reward(str(opposite.reward_folder), LoadOptions()), solutions[:2])
    assert right.scores is not None
    assert wrong.scores is not None
    assert right.scores[0] < wrong.scores[0]


def test_a_file_of_which_nothing_fits(policy_folder: Path, tmp_path: Path) -> None:
    file = labels_file(tmp_path, LabelledSolution("c", "What is 1+1?", ("x" * 3000, "y"), (1.0, 0.0)))
    with pytest.raises(UserError, match="no labelled solution fits"):
        fit_file(policy_folder, tmp_path / "run", file)
    with pytest.raises(UserError, match="label_format"):
        fit_file(policy_folder, tmp_path / "run", file, "label_format=prose")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["classifier.logit=last", "classifier.base_measure=0"], "set step_aggregation=last"),
        (["loop.sampling.temperature=0.7"], "set loop.sampling.temperature=1"),
    ],
)
@pytest.mark.parametrize("name", ["supervised", "math_shepherd"])
def test_what_is_not_fitted_is_not_read(name: str, settings: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_overrides(load_method(name).recipe("tiny"), settings)


def test_a_prover_of_another_vocabulary_is_refused(tmp_path: Path, make_policy) -> None:
    """It would be given the policy's token ids."""
    words = Tokenizer(WordLevel({"<eos>": 0, "what": 1, "?": 2}, unk_token="?"))
    make_policy(0).save_pretrained(tmp_path / "other")
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<eos>").save_pretrained(tmp_path / "other")
    config = small_config("pav", prover=str(tmp_path / "other"))
    with pytest.raises(UserError, match="other tokens"):
        load_method("pav").fit(FitContext(load_policy("tiny"), tmp_path / "run", 0), config)


def test_a_pool_keeps_grader_and_tests_of_its_problems(tmp_path: Path, policy_folder: Path) -> None:
    """Continuations are graded as the rollouts were."""
    config: Any = small_config("math_shepherd")
    for source in ("arith", "minicode"):
        data = config.data.model_copy(update={"source": source, "levels": (1,)})
        offline = config.offline.model_copy(update={"problems": 2, "samples": 2, "source": None, "levels": None})
        context = FitContext(load_policy(policy_folder), tmp_path / source, 0)
        pool = OfflinePool(context, data, offline, config.loop.sampling, None)
        context.folder.mkdir()
        for _ in ("sampled", "read"):
            assert [group.problem for group in pool.groups()] == list(pool.data.problems[:2])
