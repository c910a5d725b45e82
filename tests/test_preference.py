"""Preference losses: closed forms, gradients that do not depend on how a batch is cut, mismatched rows, and TRL's numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from repirl.errors import UserError
from repirl.learn.gradient import gradient_step
from repirl.learn.log_ratios import RatioLoss, graded, linearized, mismatched_rows, ratio_sums
from repirl.learn.preference import dpo_losses, kto_losses, outcome_losses, reference_point
from repirl.rewards.implicit import ImplicitReward
from repirl.rollouts.batching import token_logprobs
from repirl.rollouts.packing import TokenRow, pad_batch
from repirl.rollouts.steps import StepSegmentation
from repirl.tasks import arith
from repirl.types import RolloutGroup, Verdict

T64 = torch.float64


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=T64)


# ------------------------------------------------------------------------------------------- closed forms


def test_cross_entropy_of_a_log_ratio_is_the_closed_form():
    """docs/recipes.md B1: beta 0.05, a sum of 10."""
    losses = outcome_losses(of(10, 10, 10), of(1, 0, 0.5), 0.05)
    assert losses.tolist() == pytest.approx([0.47408, 0.97408, (0.47408 + 0.97408) / 2], abs=5e-6)
    far = outcome_losses(of(1e5, -1e5), of(1, 0), 0.05)
    assert far.tolist() == [0, 0]
    assert outcome_losses(of(1e5), of(0), 0.05).tolist() == pytest.approx([5e3])


def test_dpo_is_the_closed_form():
    losses = dpo_losses(of(2, -1, 0), of(-1, 2, 0), 0.1)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-0.3)), math.log1p(math.exp(0.3)), math.log(2)])
    assert losses[0].item() == pytest.approx(0.55436, abs=5e-6)


def test_kto_is_the_closed_form():
    """docs/recipes.md B9: beta 0.1, z0 0.5, rho 2."""
    rho, desirable = of(2, 2), torch.tensor([True, False])
    assert kto_losses(rho, desirable, of(0.5)[0], 0.1).tolist() == pytest.approx([0.46257, 0.53743], abs=5e-6)
    weighted = kto_losses(rho, desirable, of(0.5)[0], 0.1, desirable_weight=2.0, undesirable_weight=0.5)
    assert weighted.tolist() == pytest.approx([0.92514, 0.268715], abs=1e-5)


def test_z0_is_a_constant_and_never_negative():
    mismatched = of(3, -1).requires_grad_()
    assert reference_point(mismatched).item() == 1
    assert not reference_point(mismatched).requires_grad
    assert reference_point(of(-3, 1)).item() == 0


def slope(loss: torch.Tensor, rho: torch.Tensor) -> list[float]:
    return torch.autograd.grad(loss, rho)[0].tolist()


def test_swapped_labels_have_the_reverse_gradient():
    """Of KTO everywhere; of the others where nothing is known yet (rho = 0)."""
    rho, right = of(1.5, -0.5).requires_grad_(), torch.tensor([True, False])
    zero = of(0, 0).requires_grad_()
    for rows, losses in (
        (zero, lambda r, label: outcome_losses(r, label.to(T64), 0.05)),
        (zero, lambda r, label: dpo_losses(r[label], r[~label], 0.1)),
        (rho, lambda r, label: kto_losses(r, label, of(0.25)[0], 0.1)),
    ):
        there, back = (slope(losses(rows, label).sum(), rows) for label in (right, ~right))
        assert there == pytest.approx([-value for value in back])
        assert there[0] < 0 < there[1], "what is right goes up"


# --------------------------------------------------------------------------------------- the gradient step


@pytest.fixture(scope="module")
def groups(make_rollout) -> list[RolloutGroup]:
    """Rollouts of very different lengths: right, wrong, one ungraded."""
    made = []
    for problem in arith.problems("train", 4, levels=(1, 2, 5)):
        texts = [arith.solution(problem.source, "plain"), "12", "1+2+3\n" * 4, "\\boxed{1}"]
        rollouts = tuple(make_rollout(problem.prompt, t, problem_id=problem.id, index=i) for i, t in enumerate(texts))
        made.append(RolloutGroup(problem, rollouts, tuple(map(Verdict, ("correct", "wrong", "wrong", "ungraded")))))
    return made


LOSSES = {
    "outcome": lambda rho, right: outcome_losses(rho, right.to(rho), 0.5).mean(),
    "pairs": lambda rho, right: dpo_losses(rho[right].repeat_interleave(2), rho[~right], 0.5).mean(),
    "kto": lambda rho, right: kto_losses(rho, right, of(0.3)[0], 0.5, desirable_weight=2.0).mean(),
}


def gradient(make_policy, tokenizer, groups, name: str, max_tokens: int, swapped: bool = False, moved: bool = True):
    """(loss, gradient) of one step on the groups, cut into micro-batches of so many tokens; `moved`: pi is not pi_ref."""
    reward = ImplicitReward(make_policy(1 if moved else 0), make_policy(0), tokenizer, StepSegmentation("\n"), 0.5)
    seen = graded(groups)
    right_R = seen.correct_R ^ swapped
    loss, metrics = linearized(reward, RatioLoss(seen.rows, right_R, lambda rho: LOSSES[name](rho, right_R)))
    optimizer = torch.optim.SGD(reward.model.parameters(), lr=0.0)
    stats = gradient_step(reward.model, optimizer, seen.rows, loss, pad_id=0, max_tokens=max_tokens, max_norm=1e9)
    return stats.loss, {name: p.grad.clone() for name, p in reward.model.named_parameters()}, metrics


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_the_whole_batch_however_it_is_cut(make_policy, tokenizer, groups, name):
    rows, right_R = graded(groups).rows, graded(groups).correct_R
    model, reference = make_policy(1), make_policy(0)
    batch = pad_batch(rows, 0)
    lengths = [len(row.response_ids) for row in rows]
    with torch.no_grad():
        old_N = token_logprobs(reference, batch).logprobs_N
    ratios = (token_logprobs(model, batch).logprobs_N - old_N).split(lengths)
    value = LOSSES[name](torch.stack([one.sum() for one in ratios]).double(), right_R)
    value.backward()
    longest = max(map(len, rows))
    for micro_rows in (1, 8, len(rows)):
        loss, found, _ = gradient(make_policy, tokenizer, groups, name, micro_rows * longest)
        assert loss == pytest.approx(value.item(), abs=1e-6)
        for key, parameter in model.named_parameters():
            assert torch.allclose(found[key], parameter.grad, atol=1e-6, rtol=1e-5), key
    assert max(float(p.grad.abs().max()) for p in model.parameters()) > 1e-2


@pytest.mark.parametrize("name", ["outcome", "kto"])
def test_swapped_labels_turn_the_first_step_round(make_policy, tokenizer, groups, name):
    there, back = (gradient(make_policy, tokenizer, groups, name, 4096, swap, moved=False)[1] for swap in (False, True))
    if name == "outcome":
        assert all(torch.allclose(there[key], -back[key], atol=1e-7) for key in there)
    assert sum(float((there[key] * back[key]).sum()) for key in there) < 0


def test_metrics_say_what_the_rows_were_worth_before_the_step(make_policy, tokenizer, groups):
    _, _, metrics = gradient(make_policy, tokenizer, groups, "outcome", 4096, moved=False)
    assert metrics == {"rows": 12, "ratio_correct": 0, "ratio_failed": 0, "ratio_auc": 0.5}


def test_ungraded_rollouts_take_no_part(groups):
    seen = graded(groups)
    assert [len(seen.rows), seen.correct_R.tolist()] == [12, [True, False, False] * 4]


# --------------------------------------------------------------------------------------- mismatched rows


def test_every_completion_comes_behind_another_prompt():
    rows = [TokenRow((1, 2), [10]), TokenRow((1, 2), [11, 12]), TokenRow((3,), [13]), TokenRow((4, 5, 6), [14, 15])]
    found = [(tuple(row.prompt_ids), list(row.response_ids)) for row in mismatched_rows(rows)]
    assert found == [((3,), [10]), ((3,), [11, 12]), ((4, 5, 6), [13]), ((1, 2), [14, 15])]


def test_a_mismatched_row_is_no_longer_than_the_longest():
    """What fits into the context and the memory in the batch, fits mismatched."""
    rows = [TokenRow(range(6), [1]), TokenRow((9,), list(range(7)))]
    assert [len(row) for row in mismatched_rows(rows)] == [2, 8]
    assert list(mismatched_rows(rows)[1].response_ids) == [0, 1]
    assert all(len(row.response_ids) > 0 for row in mismatched_rows(rows))


def test_one_prompt_has_no_mismatch():
    with pytest.raises(UserError, match="two prompts in a batch"):
        mismatched_rows([TokenRow((1, 2), [3]), TokenRow((1, 2), [4])])


# ---------------------------------------------------------------------------------------------------- TRL

ROWS = [("Compute 1+2\n", "1+2=3\n\\boxed{3}", "\\boxed{4}"), ("Compute 7*8\n", "\\boxed{56}", "7*8\n\\boxed{54}")]


def own_rows(tokenizer, texts: list[tuple[str, str]]) -> list[TokenRow]:
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    return [TokenRow(ids(prompt), [*ids(text), tokenizer.eos_token_id]) for prompt, text in texts]


def trl_loss(trainer: Any) -> float:
    batch = next(iter(trainer.get_train_dataloader()))
    return trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).item()


@pytest.mark.parametrize("name", ["DPO", "KTO"])
def test_trl_has_the_same_loss(make_policy, tokenizer, tmp_path, name):
    trl = pytest.importorskip("trl", reason="TRL is not installed (pip install 'repirl[trl]')")
    datasets = pytest.importorskip("datasets")
    if name == "DPO":
        data = [{"prompt": prompt, "chosen": right, "rejected": wrong} for prompt, right, wrong in ROWS]
    else:
        data = [{"prompt": ROWS[0][0], "completion": ROWS[0][1], "label": True}]
        data += [{"prompt": ROWS[1][0], "completion": ROWS[1][2], "label": False}]
    own = {"beta": 0.5, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False, "report_to": [], "max_length": None}
    args = getattr(trl, f"{name}Config")(output_dir=str(tmp_path), gradient_checkpointing=False, **own)
    trainer = getattr(trl, f"{name}Trainer")(
        model=make_policy(1),
        ref_model=make_policy(0),
        args=args,
        train_dataset=datasets.Dataset.from_list(data),
        processing_class=tokenizer,
    )
    reward = ImplicitReward(make_policy(1), make_policy(0), tokenizer, StepSegmentation("\n"), 0.5)
    if name == "DPO":
        right, wrong = (own_rows(tokenizer, [(row[0], row[i]) for row in ROWS]) for i in (1, 2))
        mine = dpo_losses(ratio_sums(reward, right), ratio_sums(reward, wrong), 0.5).mean()
    else:
        rows = own_rows(tokenizer, [(ROWS[0][0], ROWS[0][1]), (ROWS[1][0], ROWS[1][2])])
        z0 = reference_point(ratio_sums(reward, mismatched_rows(rows)))
        mine = kto_losses(ratio_sums(reward, rows), torch.tensor([True, False]), z0, 0.5).mean()
    assert abs(float(mine) - (math.log(2) if name == "DPO" else 0.5)) > 5e-3, "the models differ, and it shows"
    assert trl_loss(trainer) == pytest.approx(float(mine), rel=1e-5)
