"""Any reward with any optimiser and mixing rule: short names for settings of `loop.credit`."""

from __future__ import annotations

import json

from repirl.config import Config
from repirl.errors import UserError
from repirl.learn.credit_config import GAECredit, ValueConfig
from repirl.methods.registry import load_method
from repirl.methods.rl import RLConfig

OPTIMIZERS = ("rloo", "grpo", "ppo")
"""`rloo` and `grpo`: how the outcome is centred in its group; `ppo`: a value function in place of the group."""

MIXINGS = {
    "sequence": ("sequence", {}),
    "return_to_go": ("return_to_go", {}),
    "step": ("step", {"signal": "score", "doubtful": "share", "doubtful_share": 0.0}),
    "right": ("step", {"signal": "right", "doubtful": "outcome"}),
    "progress": ("step", {"signal": "progress", "doubtful": "share", "doubtful_share": 0.0}),
    "min_form": ("min_form", {}),
    "alpha": ("alpha", {}),
}
"""Name -> rule and its settings: mean over the rollout, return-to-go of tokens, scores of steps, steps that are judged right,
change of the score (potential difference), PURE's worst step, RL-Tango's mix with decay."""


def critic_of(recipe: str) -> ValueConfig:
    """How the value function learns in the recipe of that name of the method `ppo`, or by default."""
    known = load_method("ppo").recipes.get(recipe)
    credit = known.loop.credit if isinstance(known, RLConfig) else None
    return credit.value if isinstance(credit, GAECredit) else ValueConfig()


def credit_settings(config: Config, optimizer: str | None, mixing: str | None, critic: ValueConfig) -> list[str]:
    """Overrides `key=value` that give a configuration another optimiser or mixing rule; what both know is kept.

    `critic`: how the value function of `ppo` learns. UserError for names that there are not, and for methods that have no
    policy gradient or no process reward to mix.
    """
    if optimizer is None and mixing is None:
        return []
    if not isinstance(config, RLConfig):
        raise UserError("this method has no policy gradient", optimizer or mixing, "leave out --optimizer and --mixing")
    if optimizer not in (None, *OPTIMIZERS):
        raise UserError("unknown optimizer", optimizer, f"choose one of {', '.join(OPTIMIZERS)}")
    if mixing not in (None, *MIXINGS):
        raise UserError("unknown mixing rule", mixing, f"choose one of {', '.join(MIXINGS)}")
    credit = config.loop.credit
    has_process = credit.rule != "outcome" and getattr(credit, "process_weight", 1.0) > 0
    if mixing is not None and not has_process:
        raise UserError("this method has no process reward to mix", mixing, "leave out --mixing")
    if mixing is not None and optimizer == "ppo":
        raise UserError("ppo pays every token by its value function: there is no rule to choose", mixing, "leave out --mixing")
    said: dict[str, object] = {}
    if optimizer == "ppo":
        said = {"rule": "gae", "whiten": True, "value": critic.model_dump(mode="json")}
    elif mixing is not None:
        rule, settings = MIXINGS[mixing]
        said = {"rule": rule} | settings
    elif credit.rule == "gae":
        said = {"rule": "sequence" if has_process else "outcome"}
    if optimizer in ("rloo", "grpo"):
        said["outcome"] = optimizer
    return [f"loop.credit.{name}={json.dumps(value)}" for name, value in said.items()]
