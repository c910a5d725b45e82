"""Judgements in words: questions and answers, scores by hand, what cannot be read; a verifier that learns from outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repirl.engines.base import Request, SamplingParams
from repirl.engines.loading import load_policy
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import UserError
from repirl.evals.step_scoring import SAYS_NOTHING, score_solutions
from repirl.learn.policy_update import PolicyOptimConfig
from repirl.learn.written_verifier import VerifierConfig, VerifierFitting, WrittenVerifier, judgement_reward
from repirl.rewards.artifact import RewardContract, WrittenTerms
from repirl.rewards.load import LoadedReward, LoadOptions, load_reward
from repirl.rewards.written import STYLES, Judged, Judgement, WrittenReward
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks.step_labels import LabelledSolution
from repirl.types import Budget, Problem, Rollout, RolloutGroup, Verdict

LINES = StepSegmentation("\n")
MARKS = WrittenTerms(style="marks", chat=False, max_new_tokens=8)
CONTRACT = RewardContract(
    kind="written",
    method="rl_tango",
    step_separator="\n",
    template="plain",
    step_aggregation="last",
    threshold=0.5,
    base_digest="b",
    training_digest="t",
)


@dataclass
class Replayed:
    """An engine that answers each request with the next of the given rollouts."""

    answers: list[Rollout]
    asked: list[Request]
    max_length: int | None = None

    def generate(self, requests: Sequence[Request], params: SamplingParams, on_progress=None) -> list[list[Rollout]]:
        self.asked += requests
        return [[self.answers.pop(0) for _ in range(request.num_samples)] for request in requests]


@pytest.fixture
def judge_with(make_rollout, tokenizer):
    """`judge_with(terms, (text, logprobs or None)...)`: a reward whose judge writes these."""

    def made(terms: WrittenTerms, *answers: tuple[str, list[float] | None], max_length: int | None = None) -> WrittenReward:
        rollouts = [make_rollout("?", text, logprobs=logprobs) for text, logprobs in answers]
        return WrittenReward(None, Replayed(rollouts, [], max_length), tokenizer, LINES, terms)

    return made


@pytest.fixture
def group(make_rollout) -> RolloutGroup:
    """One rollout of two steps, `3-1` (tokens 0-3 with the newline) and `2`."""
    problem = Problem("p", "own", "1+2-1? ", "integer", answer="2")
    return RolloutGroup(problem, (make_rollout(problem.prompt, "3-1\n2"),), (Verdict("correct"),))


# ------------------------------------------------------------------------------------- questions and answers


@pytest.mark.parametrize("style", STYLES.values(), ids=list(STYLES))
def test_what_a_style_writes_it_reads(style) -> None:
    for steps in ([True], [True, False], [False, True, True]):
        text = style.write(steps, False)
        read = style.read(text)
        assert (list(read.steps), read.final) == (steps, False)
        assert len({text[a:b] for (a, b), right in zip(read.spans, steps, strict=True) if right}) <= 1
    assert style.read("I cannot tell.") == Judgement((), (), None)


def test_tags_are_read_behind_reasoning_and_the_last_of_a_step_counts() -> None:
    step = lambda i, word: f'<judgment step="{i}">{word}</judgment>'
    revised = f"Hm. {step(1, 'wrong')} No: {step(1, 'right')}\n{step(2, ' wrong ')}<final>right</final><final>wrong</final>"
    read = STYLES["xml"].read(revised)
    assert (read.steps, read.final) == ((True, False), False)
    assert [revised[a:b] for a, b in read.spans] == ["right", "wrong"]
    assert read.spans[0][0] == revised.index("right")  # the second judgement of the first step
    # A gap in the numbers, or another word: no verdicts of steps.
    assert STYLES["xml"].read(step(1, "right") + step(3, "right")).steps == ()
    assert STYLES["xml"].read(step(1, "maybe") + "<final>right</final>") == Judgement((), (), True)


def test_the_question_holds_problem_and_steps() -> None:
    asked = STYLES["xml"].ask("What is 1+1?\n", ["Add. ", "So 2."], "Add. \nSo 2.")
    assert "in 2 steps" in asked
    assert "<problem>\nWhat is 1+1?\n</problem>" in asked
    assert '<step number="2">\nSo 2.\n</step>' in asked
    assert STYLES["marks"].ask("1+1? ", ["2"], "2") == "1+1? 2\n? "


# ------------------------------------------------------------------------------------------------- scores


def test_scores_are_the_probabilities_of_what_was_said(judge_with, group: RolloutGroup) -> None:
    """`yn n`: the first step right with p = e^-0.1, the second wrong with e^-0.5; at the steps' last tokens alone."""
    reward = judge_with(MARKS, ("yn n", [-0.1, -0.5, -9, -9, -9]))
    [[scored]] = reward.score([group])
    assert scored.step_rewards == pytest.approx([math.exp(-0.1), 1 - math.exp(-0.5)], abs=1e-6)
    assert scored.step_mask.tolist() == [True, True]
    assert scored.token_rewards == pytest.approx([0, 0, 0, math.exp(-0.1), 0, 1 - math.exp(-0.5)], abs=1e-6)
    [[said]] = judge_with(MARKS.model_copy(update={"score": "verdict"}), ("yn n", None)).score([group])
    assert said.step_rewards.tolist() == [1, 0]


def test_a_verdict_of_several_tokens_has_the_product_of_their_probabilities(judge_with, group: RolloutGroup) -> None:
    text = STYLES["xml"].write([True, False], True)
    reward = judge_with(WrittenTerms(chat=False), (text, [-0.01] * (len(text) + 1)))
    [[scored]] = reward.score([group])  # `right` and `wrong` are five tokens
    assert scored.step_rewards == pytest.approx([math.exp(-0.05), 1 - math.exp(-0.05)], abs=1e-6)


def test_the_mean_is_over_what_can_be_read(judge_with, group: RolloutGroup) -> None:
    terms = MARKS.model_copy(update={"samples": 4, "score": "verdict"})
    answers = [("yy y", None), ("yn n", None), ("y y", None), ("?", None)]  # a step too few, and no answer
    reward = judge_with(terms, *answers)
    [[scored]] = reward.score([group])
    assert scored.step_rewards.tolist() == [1, 0.5]
    assert reward.budget == Budget(generated_tokens=5 + 5 + 4 + 2, scored_tokens=len("1+2-1? 3-1\n2\n? "))


def test_what_cannot_be_read_says_nothing(judge_with, group: RolloutGroup, tokenizer) -> None:
    [[scored]] = judge_with(MARKS, ("yyy y", None)).score([group])
    assert scored.step_mask.tolist() == [False, False]
    assert math.isnan(scored.mean)
    assert judge_with(MARKS, max_length=5).judge([group]) == [[]]  # too long to be asked
    solution = LabelledSolution("s", "1+1?", ("2", "so 2"), (1.0, 1.0))
    reward = judge_with(MARKS, ("nn n", [-0.1] * 5), ("n", None))
    found = score_solutions(LoadedReward("judge", reward, tokenizer, LINES, "plain"), [solution, replace(solution, id="t")])
    assert found[0].scores == pytest.approx([1 - math.exp(-0.1)] * 2)
    assert (found[1].scores, found[1].reason) == (None, SAYS_NOTHING)


def test_what_is_sampled_depends_on_seed_and_rollout_alone(policy_folder: Path, group: RolloutGroup, make_rollout) -> None:
    policy = load_policy(policy_folder)
    reward = WrittenReward(policy.model, TorchEngine(policy.model, policy.tokenizer), policy.tokenizer, LINES, MARKS, seed=3)
    other = replace(group, rollouts=(make_rollout(group.problem.prompt, "5"), *group.rollouts), verdicts=group.verdicts * 2)
    alone, beside = reward.judge([group]), reward.judge([other])
    assert alone[0][0].written.text == beside[1][0].written.text != beside[0][0].written.text
    assert reward.judge([group], seed=4)[0][0].written.text != alone[0][0].written.text


def test_any_language_model_is_a_judge_by_its_address(policy_folder: Path) -> None:
    loaded = load_reward(f"generative:{policy_folder},style=marks,samples=2,max_new_tokens=4", LoadOptions())
    assert isinstance(loaded.reward, WrittenReward)
    assert loaded.reward.terms == WrittenTerms(style="marks", chat=False, samples=2, max_new_tokens=4)
    assert loaded.natural_threshold == 0.5
    with pytest.raises(UserError, match="style"):
        load_reward(f"generative:{policy_folder},style=prose", LoadOptions())


# ------------------------------------------------------------------------------------------------ verifier


def judged(steps: str, final: bool | None, num_steps: int) -> Judged:
    said = tuple(c == "y" for c in steps)
    return Judged(None, Judgement(said, (), final), num_steps, None)  # type: ignore[arg-type]


def test_what_a_judgement_earns() -> None:
    assert judgement_reward(judged("yn", False, 2), False, 0.8) == pytest.approx(1.8)
    assert judgement_reward(judged("yn", True, 2), False, 0.8) == pytest.approx(0.8)
    assert judgement_reward(judged("y", True, 2), True, 0.8) == pytest.approx(1 + 0.8 / 2)
    assert judgement_reward(judged("yyyyy", True, 2), True, 0.8) == 1  # off by more than there are
    assert judgement_reward(judged("", True, 2), True, 0.8) == 1
    assert judgement_reward(judged("yn", None, 2), True, 0.8) == 0


@pytest.fixture
def groups(make_rollout) -> list[RolloutGroup]:
    """Two prompts, each with a right solution and three wrong ones."""
    made = []
    for name in ("p", "q"):
        problem = Problem(name, "own", f"{name}? ", "integer", answer="2")
        texts = ("2", "7", "7\n8", "9")
        rollouts = tuple(make_rollout(problem.prompt, text, problem_id=name, index=i) for i, text in enumerate(texts))
        made.append(RolloutGroup(problem, rollouts, (Verdict("correct"), *[Verdict("wrong")] * 3)))
    return made


@pytest.fixture
def verifier(policy_folder: Path):
    def made(lr: float = 3e-3, micro: int = 8192, **settings) -> WrittenVerifier:
        policy = load_policy(policy_folder)
        optim = PolicyOptimConfig(lr=lr, micro_batch_tokens=micro)
        config = VerifierConfig(written=MARKS, optim=optim, form_lr=3e-3, prompts=2, **settings)
        engine = TorchEngine(policy.model, policy.tokenizer)
        return WrittenVerifier(policy.model, engine, policy.tokenizer, config, CONTRACT, 0, 100)

    return made


def taught(verifier, groups, form: int = 60, warmup: int = 0) -> WrittenVerifier:
    fitting = VerifierFitting(verifier(form_updates=form, warmup=warmup), groups, Budget())
    for step in range(form + warmup):
        fitting.step(step)
    return fitting.reward


def test_rarer_outcomes_weigh_more(verifier) -> None:
    """3 wrong, 1 right: 1/sqrt(3) and 1, scaled to mean 1; then 4 right: counts 0.8 (3, 1) + 0.2 (0, 4) = (2.4, 1.6)."""
    one = verifier()
    raw = np.array([1, 3**-0.5, 3**-0.5, 3**-0.5])
    assert one._class_weights(np.array([1, 0, 0, 0])) == pytest.approx(raw / raw.mean())
    assert one._class_weights(np.array([1, 1, 1, 1])) == pytest.approx(np.ones(4))
    assert one.counts == pytest.approx([2.4, 1.6])


def test_steps_earn_a_share_of_one_by_their_verdict(verifier, groups: list[RolloutGroup], make_rollout) -> None:
    one = verifier()
    answers = [make_rollout("?", text) for text in ("y y", "n n", "yn n", "?")]
    one.reward.engine = Replayed(answers, [])
    [[a, b, c, d]] = one.learn(groups[:1], 0).scored
    assert [x.step_rewards.tolist() for x in (a, b, c, d)] == [[1], [-1], [0.5, -0.5], [0]]
    assert (c.step_mask.tolist(), d.step_mask.tolist()) == ([True, True], [False])


def test_it_learns_every_third_time(verifier, groups: list[RolloutGroup]) -> None:
    one = taught(verifier, groups)
    weights = lambda: torch.cat([p.detach().flatten().clone() for p in one.modules["reward"].parameters()])
    changed = []
    for step in range(4):
        before = weights()
        metrics = one.learn(groups, step).metrics
        changed.append(not torch.equal(before, weights()))
        assert ("policy_loss" in metrics) == changed[-1]
    assert changed == [False, False, True, False]


@pytest.mark.parametrize("swap", [False, True])
def test_final_verdicts_follow_the_outcomes(verifier, groups: list[RolloutGroup], swap: bool) -> None:
    """The form is taught with some outcomes; RL with their opposites turns the verdicts round."""
    opposite = {"correct": Verdict("wrong"), "wrong": Verdict("correct")}
    swapped = [replace(g, verdicts=tuple(opposite[v.outcome] for v in g.verdicts)) for g in groups]
    first, second = (groups, swapped) if swap else (swapped, groups)
    one = taught(verifier, first, form=70)
    told = lambda: [one.told(second, one.reward.judge(second, seed)) for seed in range(8)]
    agreed = lambda: np.mean([found["told_right"] + found["told_wrong"] for found in told()]) / 2
    before = agreed()
    for step in range(150):
        one.update(second, one.reward.judge(second, 100 + step), step)
    assert before < 0.4
    assert agreed() > before + 0.3


def test_micro_batches_change_nothing(verifier, groups: list[RolloutGroup]) -> None:
    found = []
    for micro in (20, 8192):
        one = verifier(micro=micro)
        one.update(groups, one.reward.judge(groups, 1), 0)
        found.append(torch.cat([p.detach().flatten() for p in one.modules["reward"].parameters()]))
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_a_stopped_verifier_goes_on(verifier, groups: list[RolloutGroup]) -> None:
    def run(stop_at: int | None) -> list[float]:
        fitting = VerifierFitting(verifier(form_updates=3, warmup=3), groups, Budget(rollouts=8))
        losses = []
        for step in range(6):
            if step == stop_at:
                state = fitting.state()
                fitting = VerifierFitting(verifier(form_updates=3, warmup=3), groups, Budget())
                fitting.load_state(state)
            metrics = fitting.step(step)
            losses.append(metrics.get("prm/form_loss", metrics.get("prm/policy_loss")))
        return [*losses, fitting.budget.generated_tokens, fitting.budget.trained_tokens, fitting.budget.rollouts]

    assert run(2) == run(None)
    assert run(4) == run(None)


def test_a_saved_verifier_says_the_same(verifier, groups: list[RolloutGroup], tmp_path: Path) -> None:
    one = taught(verifier, groups)
    one.save(tmp_path / "reward")
    loaded = load_reward(str(tmp_path / "reward"), LoadOptions())
    assert loaded.natural_threshold == 0.5
    mine, theirs = (r.score(groups) for r in (one.reward, loaded.reward))
    for a, b in zip(mine, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.step_rewards == pytest.approx(y.step_rewards, abs=1e-6)
