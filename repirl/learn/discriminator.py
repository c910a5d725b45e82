"""The logistic form of inverse RL (Proposition 3, docs/method.md section 9): the reward as a classifier's logit.

D = p~ / (p~ + z pi) with p~ = exp(r), so logit D = r - log pi - log z; positives have the loss -log D, negatives -log(1 - D).
With a residual energy r - log pi is 0 for every text at the start: what pi thinks of a text cancels, style included.

D can be taken of a solution as a whole, or as the product of its steps' D: a solution is right if every step is. Then a
failure is explained by the step that is least sure, not by all of its steps alike (multiple-instance learning). z is set so
that D is 1/2 for every solution at the start, however many steps it has.
Shapes: R rows, F factors (steps, or whole rows), N completion tokens of a batch laid end to end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from repirl.learn.irl import IRLConfig


def factor_sums(values_N: Tensor, ends: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sums [F] of token values over each row's factors, and each factor's row [F].

    `ends` has the index of the last token of each factor of a row; what follows the last of them belongs to it.
    """
    sizes: list[int] = []
    for row_ends, length in zip(ends, lengths, strict=True):
        bounds = [*row_ends[:-1], length - 1]
        sizes += [end - before for before, end in zip([-1, *bounds[:-1]], bounds, strict=True)]
    counts = torch.tensor([max(1, len(row_ends)) for row_ends in ends], device=values_N.device)
    row_F = torch.arange(len(ends), device=values_N.device).repeat_interleave(counts)
    factor_N = torch.arange(len(sizes), device=values_N.device).repeat_interleave(torch.tensor(sizes, device=values_N.device))
    return torch.zeros(len(sizes), device=values_N.device).index_add(0, factor_N, values_N), row_F


def logistic_losses(logits_F: Tensor, row_F: Tensor, positive_R: Tensor) -> Tensor:
    """Loss [R] of each row: -log D (positives) or -log(1 - D), D the product of its factors' D.

    `logits` are r - log pi summed over each factor's tokens; log z of a row of n factors is such that n logits of 0 make 1/2.
    """
    count_R = torch.bincount(row_F, minlength=len(positive_R)).to(logits_F)
    root_R = torch.exp2(-1 / count_R.clamp(min=1))  # the n-th root of 1/2
    log_z_R = torch.log1p(-root_R) - torch.log(root_R)
    # -log D: kept as a sum of positive terms, it is exact also where D rounds to 1.
    minus_log_R = torch.zeros_like(count_R).index_add(0, row_F, functional.softplus(log_z_R[row_F] - logits_F))
    return torch.where(positive_R, minus_log_R, -torch.log(-torch.expm1(-minus_log_R.clamp(min=1e-30))))


def logistic_weights(
    config: IRLConfig, outcome_B: Tensor, prompt_B: Tensor, demonstration_prompt_E: Tensor, turn: int = 0
) -> tuple[Tensor, Tensor]:
    """(positive [R], weight [R]) of B rollouts and the E demonstrations behind them; weights sum to 1, 0 takes no part.

    `outcome_B` as in `irl.signed_weights`; the same rows are positive and negative as there. With `balance` as many failed
    as correct rollouts of each prompt take part (which of them, goes round with `turn`), and demonstrations beside them.
    """
    if config.use_outcome:
        positive_B, taking_part_B = outcome_B == 1, (outcome_B == 0) | ((outcome_B == 1) & config.pseudo_experts)
    else:
        positive_B = torch.zeros_like(outcome_B, dtype=torch.bool)
        taking_part_B = torch.ones_like(positive_B)
    demos_E = torch.full((len(demonstration_prompt_E),), config.expert_weight, dtype=torch.float64)
    if config.balance:
        taking_part_B = _balanced(taking_part_B, positive_B, prompt_B, turn)
        demos_E *= torch.isin(demonstration_prompt_E, prompt_B[taking_part_B])
    positive_R = torch.cat([positive_B, torch.ones(len(demos_E), dtype=torch.bool)])
    weights_R = torch.cat([taking_part_B.double(), demos_E])
    return positive_R, weights_R / weights_R.sum().clamp(min=1e-12)


def _balanced(taking_part_B: Tensor, positive_B: Tensor, prompt_B: Tensor, turn: int) -> Tensor:
    chosen_B = torch.zeros_like(taking_part_B)
    for prompt in prompt_B.unique():
        sides = [torch.nonzero(taking_part_B & (prompt_B == prompt) & side)[:, 0] for side in (positive_B, ~positive_B)]
        fewer = min(len(side) for side in sides)
        for side in sides:
            if fewer:
                chosen_B[side.roll(-turn * fewer)[:fewer]] = True
    return chosen_B
