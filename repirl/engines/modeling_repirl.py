"""The process reward of rePIRL with a base measure, for plain transformers; a copy lies in the folder of such a reward.

`AutoModelForTokenClassification.from_pretrained(FOLDER, trust_remote_code=True)` gives logits [B, T, 1], the rewards of all
tokens: r(s_t, a_t) = kappa log p(a_t | s_t) + head. Without that argument transformers refuses the folder, as it does not know
the type of its config. The first token of a text, which nothing comes before, has NaN. This file needs torch and transformers
alone. Shapes: B rows, T tokens, V vocabulary, H width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CONFIG_MAPPING, AutoModelForTokenClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput


class ResidualEnergyConfig(PreTrainedConfig):
    """`energy_config`: that of the token classifier whose weights lie in the folder; kappa is its `repirl_base_measure`."""

    model_type = "repirl_residual"
    energy_config: dict[str, Any] | None = None

    def plain(self) -> PreTrainedConfig:
        """The token classifier's own."""
        values = dict(self.energy_config or {})
        return CONFIG_MAPPING[values["model_type"]].from_dict(values)


class ResidualEnergyForTokenClassification(PreTrainedModel):
    """`energy` is an ordinary token classifier with one label, whose embeddings are the output layer of p too."""

    config_class = ResidualEnergyConfig

    def __init__(self, config: ResidualEnergyConfig, energy: Any = None) -> None:
        super().__init__(config)
        self.energy: Any = AutoModelForTokenClassification.from_config(config.plain()) if energy is None else energy

    @classmethod
    def from_pretrained(
        cls, name: Any, *args: Any, config: Any = None, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """As every model's; ValueError for weights that do not fit the config, which transformers would fill in at random."""
        if not isinstance(config, ResidualEnergyConfig):
            config = ResidualEnergyConfig.from_pretrained(name)
        load: Any = AutoModelForTokenClassification.from_pretrained
        energy, info = load(name, config=config.plain(), output_loading_info=True, **kwargs)
        if wrong := [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]]:
            raise ValueError(f"the weights are not those of the reward's config: {wrong[0]} and {len(wrong) - 1} more")
        model = cls(config, energy).eval()
        return (model, info) if output_loading_info else model

    def save_pretrained(self, folder: Any, **kwargs: Any) -> None:
        """Under the names of the plain model, as they were loaded."""
        self.energy.save_pretrained(folder, **kwargs)
        self.config.save_pretrained(folder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None) -> Any:
        """Float32 logits [B, T, 1]."""
        hidden_BTH = self.energy.base_model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        head = self.energy.score if hasattr(self.energy, "score") else self.energy.classifier
        logits_BTV = functional.linear(hidden_BTH[:, :-1], self.energy.get_input_embeddings().weight)
        logits_BTV = adjusted_logits(self.energy.config, logits_BTV).float()
        losses_BT = functional.cross_entropy(logits_BTV.transpose(1, 2), input_ids[:, 1:], reduction="none")
        if attention_mask is not None:
            losses_BT = losses_BT.masked_fill(attention_mask[:, :-1] == 0, torch.nan)
        measured_BT = functional.pad(-losses_BT, (1, 0), value=torch.nan)
        rewards_BT = head(hidden_BTH)[..., 0].float() + self.energy.config.repirl_base_measure * measured_BT
        return TokenClassifierOutput(logits=rewards_BT[..., None])


def adjusted_logits(config: Any, logits: Tensor) -> Tensor:
    """What an architecture's forward pass still does to the logits of its output layer: caps and scales.

    A key alone does not say it: `logits_scaling` divides in Granite and multiplies in HyperCLOVA X, and MPT has a
    `logit_scale` that it ignores (transformers 5.19).
    """
    config = config.get_text_config()
    kind, get = config.model_type, lambda key: getattr(config, key, None)
    if kind.startswith("cohere") and (scale := get("logit_scale")) is not None:
        logits = logits * scale
    if (scale := get("lm_head_multiplier")) is not None:
        logits = logits * scale
    if (scale := get("logits_scaling")) is not None:
        logits = logits * scale if kind == "hyperclovax" else logits / scale
    for cap_key in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        if (cap := get(cap_key)) is not None:
            logits = torch.tanh(logits / cap) * cap
    return logits
