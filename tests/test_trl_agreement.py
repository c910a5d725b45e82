"""RLOO and GRPO of TRL, on its own tensors: the same advantages of the same rewards, the same loss of the same ratios.

DPO and KTO are in test_preference.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repirl.learn.advantages import outcome_advantages
from repirl.learn.gradient import Counts
from repirl.learn.policy_losses import PolicyLossConfig, policy_loss

PROMPTS = ["Compute 1+2\n"] * 4 + ["7"] * 4
REWARDS = [1.0, 0.0, 0.0, 0.5, 0.25, None, 1.0, 0.0]
"""One completion is not graded: TRL's None, our NaN."""


def trainer_of(name: str, make_policy, tokenizer, folder: Path, **own: Any) -> Any:
    trl = pytest.importorskip("trl", reason="TRL is not installed (pip install 'repirl[trl]')")
    datasets = pytest.importorskip("datasets")
    args = getattr(trl, f"{name}Config")(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=60,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
        beta=0.0,
        **own,
    )
    trainer = getattr(trl, f"{name}Trainer")(
        model=make_policy(1),
        reward_funcs=lambda **given: REWARDS,
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=tokenizer,
    )
    torch.manual_seed(0)  # of the samples
    trainer.model.train()
    # As `train` would have it for one window of gradient accumulation.
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def compared(trainer: Any, old_key: str) -> tuple[dict[str, Any], Any]:
    """TRL's batch, with old log-probabilities moved so far that some ratios are clipped, and its loss."""
    batch = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in PROMPTS])
    assert len({int(mask.sum()) for mask in batch["completion_mask"]}) > 1, "lengths differ, and reductions with them"
    with torch.no_grad():
        rows = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        found = trainer._get_per_token_logps_and_entropies(trainer.model, rows, mask, batch["completion_ids"].shape[1])
    new = found[0]
    noise = 0.3 * torch.randn(new.shape, generator=torch.Generator().manual_seed(0))
    old = new + noise
    batch[old_key] = old if old_key == "old_per_token_logps" else (old * batch["completion_mask"]).sum(1)
    batch |= {"new": new, "old": old}
    return batch, trainer._compute_loss(trainer.model, batch)


def own_loss(batch: dict[str, Any], config: PolicyLossConfig) -> torch.Tensor:
    mask = batch["completion_mask"].bool()
    lengths = mask.sum(1)
    advantages = batch["advantages"].repeat_interleave(lengths)
    counts = Counts(tokens=int(mask.sum()), sequences=len(mask))
    return policy_loss(batch["new"][mask], batch["old"][mask], advantages, lengths, counts, config).loss


@pytest.mark.parametrize(
    ("name", "how", "trl_settings", "config"),
    [
        ("GRPO", "grpo", {"loss_type": "dapo"}, PolicyLossConfig(reduction="token_mean")),
        (
            "GRPO",
            "grpo",
            {"loss_type": "grpo", "epsilon_high": 0.28},
            PolicyLossConfig(reduction="sequence_mean", clip_high=0.28),
        ),
        ("GRPO", "grpo_no_std", {"loss_type": "bnpo", "scale_rewards": "none"}, PolicyLossConfig(reduction="token_mean")),
        ("RLOO", "rloo", {}, PolicyLossConfig(ratio="sequence", reduction="sequence_sum")),
    ],
    ids=["GRPO, tokens", "GRPO, sequences", "GRPO without std", "RLOO"],
)
def test_advantages_and_loss(make_policy, tokenizer, tmp_path, name, how, trl_settings, config):
    trainer = trainer_of(name, make_policy, tokenizer, tmp_path, **trl_settings)
    batch, loss = compared(trainer, "old_logps" if name == "RLOO" else "old_per_token_logps")
    groups = np.array(REWARDS, dtype=float).reshape(2, 4)
    own = np.concatenate([outcome_advantages(group, how) for group in groups])
    assert batch["advantages"].tolist() == pytest.approx(own.tolist(), rel=1e-5, abs=1e-7)
    assert own[5] == 0
    loss = loss.detach()
    assert float(loss) == pytest.approx(float(own_loss(batch, config)), rel=1e-5)
    assert abs(float(loss)) > 1e-3
