"""What a recipe leaves open until the policy is known: whether prompts go through its chat template, and whether its
embeddings allow a base measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from repirl.config import Config
from repirl.errors import UserError
from repirl.methods.rl import RLConfig
from repirl.rollouts.collect import SamplingConfig
from repirl.rollouts.prompts import has_template, plain_prompts

SCALAR_HEAD: dict[str, dict[str, Any]] = {
    "irl": {"base_measure": 0.0, "form": "energy"},
    "classifier": {"base_measure": 0.0, "logit": "last"},
    "discriminator": {"base_measure": 0.0},
}
"""Of each part that learns a reward, the settings of one without a base measure."""
READ_AT_THE_END = ("classifier", "step_aggregation", "last")
"""What has such a part has this setting besides: what is fitted at the last token of a step alone is read there."""


def sampling_of(config: Config) -> tuple[str, SamplingConfig] | None:
    """Where a configuration says how rollouts are sampled, and what; None for a method that samples none."""
    if isinstance(config, RLConfig):
        return "loop.sampling", config.loop.sampling
    sampling = getattr(config, "sampling", None)
    return ("sampling", sampling) if isinstance(sampling, SamplingConfig) else None


def chat_setting(recipe: Config, tokenizer: Any, asked: bool | None) -> list[str]:
    """The override that says whether prompts go through the chat template: as asked, else as the recipe says by itself, else
    where the tokenizer has one. UserError if it is asked of a method that samples nothing."""
    found = sampling_of(recipe)
    if found is None:
        if asked is not None:
            raise UserError("this method samples no policy", f"chat template: {asked}", "leave out the chat template")
        return []
    place, sampling = found
    if asked is None and "chat_template" in sampling.model_fields_set:
        return []
    return [f"{place}.chat_template={json.dumps(has_template(tokenizer) if asked is None else asked)}"]


def plain_training(config: Config, tokenizer: Any) -> str | None:
    """What is to be said of training with plain prompts; None where nothing is."""
    found = sampling_of(config)
    return None if found is None or found[1].chat_template else plain_prompts(tokenizer, "training")


def scalar_head(recipe: Config, model_config: Any, given: Sequence[str]) -> list[str]:
    """Overrides in place of a recipe's base measure where the policy's embeddings are not tied, which a base measure needs.

    Nothing where one of `given` (`key=value`) says one of these settings itself: then it holds, and is refused if it cannot.
    """
    if model_config.tie_word_embeddings:
        return []
    said = {setting.partition("=")[0] for setting in given}
    headless = [
        part
        for part, settings in SCALAR_HEAD.items()
        if getattr(getattr(recipe, part, None), "base_measure", 0)
        and not said & {part, *(f"{part}.{name}" for name in settings)}
    ]
    found = [f"{part}.{name}={json.dumps(value)}" for part in headless for name, value in SCALAR_HEAD[part].items()]
    part, name, value = READ_AT_THE_END
    return found + ([f"{name}={value}"] if part in headless and name not in said else [])


def headless(overrides: Sequence[str]) -> str | None:
    """What `scalar_head` did, in words; None where it did nothing."""
    if not overrides:
        return None
    means = "the reward starts at 0, not at the policy's log-probability (docs/method.md section 11)"
    return f"warning: the policy's embeddings are not tied, so {', '.join(overrides)} in place of the recipe's: {means}"
