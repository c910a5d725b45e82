"""The collector: continuations of prefixes with random streams of their own, no grader, filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from repirl.engines.base import Request, SamplingParams
from repirl.engines.scripted import ScriptedEngine
from repirl.engines.torch_engine import TorchEngine
from repirl.errors import GradingFault, UserError
from repirl.rollouts.collect import NO_GRADER, Asked, Collector, Decoding, KeepConfig, Prefix, kept
from repirl.tasks import arith
from repirl.types import Outcome, Problem, Rollout, RolloutGroup, Verdict

PROBLEMS = arith.problems("train", 4, levels=(1, 2))


def by_text(problems, completions, finish_reasons) -> list[Verdict]:
    """Correct if the whole completion begins with the right marker; says what it was given."""
    return [Verdict("correct" if text.startswith("3") else "wrong", extracted=text) for text in completions]


@pytest.fixture
def collector(make_policy, tokenizer) -> Collector:
    decoding = Decoding(SamplingParams(12), ungraded_limit=0.5)
    return Collector(tokenizer, TorchEngine(make_policy(0), tokenizer), by_text, decoding)


def prefix(tokenizer, problem: Problem, text: str) -> Prefix:
    return Prefix(problem, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else (), text)


def texts(group: RolloutGroup) -> list[str]:
    return [rollout.text for rollout in group.rollouts]


# ------------------------------------------------------------------------------------------- continuations


def test_prefixes_of_one_problem_share_no_random_numbers(make_policy, tokenizer):
    """Under a uniform distribution over V tokens the tokens are the random numbers, whatever came before them.

    Shared streams would give equal tokens everywhere; independent ones agree at one position in V.
    """
    model = make_policy(0)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    collector = Collector(tokenizer, TorchEngine(model, tokenizer), None, Decoding(SamplingParams(64)))
    (own,) = collector.groups(PROBLEMS[:1], 40, seed=3)
    prefixes = [prefix(tokenizer, PROBLEMS[0], text) for text in ("", "1", "2", "12")]
    groups = [own, *collector.continue_from(prefixes, 40, seed=3)]
    chance = 1 / model.config.vocab_size
    for i, one in enumerate(groups):
        for other in groups[:i]:
            rollouts = zip(one.rollouts, other.rollouts, strict=True)
            pairs = [pair for a, b in rollouts for pair in zip(a.token_ids, b.token_ids, strict=False)]
            agree, count = sum(a == b for a, b in pairs), len(pairs)
            assert count > 300
            assert abs(agree - chance * count) < 5 * np.sqrt(chance * count)


def test_different_prefixes_are_continued_differently(collector, tokenizer):
    """With the same sample index; a random policy's continuations would agree if the streams did."""
    first, second = collector.continue_from([prefix(tokenizer, PROBLEMS[0], "3"), prefix(tokenizer, PROBLEMS[0], "4")], 8, 0)
    same = sum(a == b for a, b in zip(texts(first), texts(second), strict=True))
    assert same <= 1


def test_a_continuation_does_not_depend_on_what_else_is_asked_for(collector, tokenizer):
    wanted = [prefix(tokenizer, problem, text) for problem in PROBLEMS[:2] for text in ("", "3", "3+4\n")]
    alone = {(p.problem.id, p.text): texts(collector.continue_from([p], 3, 5)[0]) for p in wanted}
    together = collector.continue_from(wanted[::-1], 3, 5)
    assert {(p.problem.id, p.text): texts(g) for p, g in zip(wanted[::-1], together, strict=True)} == alone
    assert [texts(g) for g in collector.continue_from(wanted, 3, 6)] != list(alone.values())


def test_an_equal_prefix_gets_further_samples(collector, tokenizer):
    one = prefix(tokenizer, PROBLEMS[0], "3")
    first, second = collector.continue_from([one, one], 2, 0)
    (whole,) = collector.continue_from([one], 4, 0)
    assert texts(first) + texts(second) == texts(whole)
    assert [r.sample_index for r in second.rollouts] == [2, 3]


def test_continuations_are_graded_with_their_prefix_and_hold_their_own_tokens(collector, tokenizer):
    right, wrong = prefix(tokenizer, PROBLEMS[0], "3+"), prefix(tokenizer, PROBLEMS[0], "7+")
    first, second = collector.continue_from([right, wrong], 3, 0)
    assert {v.outcome for v in first.verdicts} == {"correct"}
    assert {v.outcome for v in second.verdicts} == {"wrong"}
    for one, group in ((right, first), (wrong, second)):
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True):
            assert verdict.extracted == one.text + rollout.text
            assert rollout.prompt_ids[-len(one.token_ids) :] == one.token_ids
            assert len(rollout.token_ids) <= 12 - len(one.token_ids)  # the limit is that of the whole completion
            assert len(rollout.logprobs) == len(rollout.token_ids)
    long = [r for g in (first, second) for r in g.rollouts if r.finish_reason == "length"]
    assert all(len(r.token_ids) == 10 for r in long)
    assert collector.budget.rollouts == collector.budget.grader_calls == 6


def test_prefix_and_continuation_are_graded_as_one_decoding(collector, tokenizer):
    """A leading space or half a character is lost where the two texts are put together."""

    class NoLeadingSpace:
        """Decodes as sentencepiece tokenizers do."""

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, *args, **kwargs):
            return tokenizer(*args, **kwargs)

        def decode(self, ids, **kwargs):
            return tokenizer.decode(ids, **kwargs).removeprefix(" ")

    (start,) = (prefix(tokenizer, PROBLEMS[0], "3 as"),)
    ids = np.array([*tokenizer(" 7", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
    rollout = Rollout(PROBLEMS[0].id, 0, (1,), ids, np.zeros(len(ids), np.float32), "7", "stop", 1.0)
    collector.tokenizer = NoLeadingSpace()
    assert collector._whole_text(Asked(PROBLEMS[0], 1, 0, start), rollout) == "3 as 7"
    assert collector._whole_text(Asked(PROBLEMS[0], 1), rollout) == "7"


def test_a_prefix_must_leave_room(collector, tokenizer):
    with pytest.raises(UserError, match=r"no room.*12"):
        collector.continue_from([prefix(tokenizer, PROBLEMS[0], "3" * 12)], 1, 0)


def test_a_request_has_a_limit_and_a_stream_of_its_own(make_policy, tokenizer):
    """In both engines."""
    engine = TorchEngine(make_policy(0), tokenizer)
    requests = [Request("p", (5, 6), 2), Request("p", (5, 6), 2, max_new_tokens=3), Request("p", (5, 6), 2, stream="other")]
    plain, short, other = engine.generate(requests, SamplingParams(9))
    for a, b in zip(plain, short, strict=True):
        assert b.token_ids.tolist() == a.token_ids[:3].tolist()
    assert [r.token_ids.tolist() for r in plain] != [r.token_ids.tolist() for r in other]
    assert all(r.problem_id == "p" for r in other)
    with pytest.raises(UserError, match="at least 1"):
        Request("p", (5, 6), max_new_tokens=0)
    ((cut,),) = ScriptedEngine({"p": ["abcdef"]}).generate([Request("p", (5,), max_new_tokens=2)], SamplingParams(9))
    assert (cut.text, cut.finish_reason, len(cut.token_ids)) == ("ab", "length", 2)


# --------------------------------------------------------------------------------------- graders and filters


def test_without_a_grader_nothing_is_graded_and_no_limit_applies(make_policy, tokenizer):
    collector = Collector(tokenizer, TorchEngine(make_policy(0), tokenizer), None, Decoding(SamplingParams(6)))
    unlabelled = [problem.without_labels() for problem in PROBLEMS]
    groups = collector.groups(unlabelled, 2, 0)
    assert {(v.outcome, v.reason) for g in groups for v in g.verdicts} == {("ungraded", NO_GRADER)}
    assert (collector.budget.rollouts, collector.budget.grader_calls) == (8, 0)
    failing = Collector(
        tokenizer, collector.engine, lambda *given: [Verdict("ungraded", "timeout")] * 8, Decoding(SamplingParams(6))
    )
    with pytest.raises(GradingFault, match="8 x timeout"):
        failing.groups(PROBLEMS, 2, 0)


def test_text_from_a_stop_string_on_is_not_graded(tokenizer):
    engine = ScriptedEngine({"p": ["3\nQuestion: more"]})
    problem = Problem("p", "f", "x", "math", answer="3")
    decoding = Decoding(SamplingParams(40, stop=("Question",)))
    (group,) = Collector(tokenizer, engine, by_text, decoding).groups([problem], 1, 0)
    assert group.verdicts[0].extracted == "3\n"
    assert group.rollouts[0].text == "3\nQuestion"


def group_of(outcomes: list[Outcome], cut: bool = False) -> RolloutGroup:
    finish = "length" if cut else "stop"
    rollout = Rollout("p", 0, (1,), np.zeros(1, np.int64), np.zeros(1, np.float32), "", finish, 1.0)
    rollouts = tuple(replace(rollout, sample_index=i) for i in range(len(outcomes)))
    return RolloutGroup(PROBLEMS[0], rollouts, tuple(Verdict(outcome) for outcome in outcomes))


def test_groups_are_kept_by_accuracy_and_truncation():
    none, fifth, half, all_right = (group_of(["correct"] * k + ["wrong"] * (10 - k)) for k in (0, 2, 5, 10))
    holes = group_of(["correct", "ungraded", "ungraded"])
    ungraded = group_of(["ungraded", "ungraded"])
    cut = group_of(["correct", "truncated"], cut=True)
    everything = [none, fifth, half, all_right, holes, ungraded, cut]
    assert kept(everything, None) == everything
    prime = kept(everything, KeepConfig(accuracy=(0.2, 0.8)))
    assert [one is other for one, other in zip(prime, [fifth, half, cut], strict=True)] == [True] * 3
    whole = kept(everything, KeepConfig(truncated=False))
    # Without labels there is no accuracy: only a range leaves such groups out.
    expected = [none, fifth, half, all_right, holes, ungraded]
    assert [one is other for one, other in zip(whole, expected, strict=True)] == [True] * 6


@pytest.mark.parametrize("accuracy", [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.1)])
def test_a_range_that_is_none_is_refused(accuracy):
    with pytest.raises(ValueError, match="the lower one first"):
        KeepConfig(accuracy=accuracy)
