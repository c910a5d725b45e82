"""Losses of preference learning, as pure functions of sums of log-ratios (docs/recipes.md B1 and B9).

rho(y) = sum over the tokens of a completion of log pi(y_t) - log pi_ref(y_t): a *sum*, so that beta rho is the implicit
reward of the whole completion. All losses are minimised, one for each row or pair: the mean over the batch is the caller's,
with a global denominator (docs/design.md rule 3).
Shapes: R rows, P pairs of completions of one prompt, M rows whose prompts and completions do not belong together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def outcome_losses(ratios_R: Tensor, labels_R: Tensor, beta: float) -> Tensor:
    """[R] cross-entropy of sigmoid(beta rho) against the outcome: 1, 0, or a share between them (ImplicitPRM)."""
    return functional.binary_cross_entropy_with_logits(beta * ratios_R, labels_R.to(ratios_R), reduction="none")


def dpo_losses(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """[P] -log sigmoid(beta (rho_chosen - rho_rejected)) (Eq 7 of arXiv 2305.18290)."""
    return -functional.logsigmoid(beta * (chosen_P - rejected_P))


def reference_point(mismatched_M: Tensor) -> Tensor:
    """Scalar z0: the mean rho of mismatched rows, an estimate of KL(pi, pi_ref); at least 0, and a constant (detached)."""
    return mismatched_M.detach().mean().clamp(min=0)


def kto_losses(
    ratios_R: Tensor,
    desirable_R: Tensor,
    z0: Tensor,
    beta: float,
    *,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """[R] weighted 1 - sigmoid(beta (rho - z0)) of desirable rows, 1 - sigmoid(beta (z0 - rho)) of the others (arXiv
    2402.01306); `desirable_R` is boolean, `z0` from `reference_point`."""
    gain_R = beta * (ratios_R - z0)
    return torch.where(
        desirable_R, desirable_weight * torch.sigmoid(-gain_R), undesirable_weight * torch.sigmoid(gain_R)
    )  # sigmoid(-x) is 1 - sigmoid(x), exact also where sigmoid(x) rounds to 1
