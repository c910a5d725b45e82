"""Records of schema 1 as records of today: what they did not know is said to be unknown, nothing is made up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LATER_STAGE = re.compile(r"(?P<root>.+), trained with \S+ on (?P<after>.+)")


def upgraded(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a record of schema 1 with the fields of schema 2. `schema_version` stays 1.

    Then the label was the method's name, a later stage was told by the name of its base policy, and `budget` held training and
    validation together.
    """
    later = _LATER_STAGE.fullmatch(raw["base_policy"]["name"])
    return {
        **raw,
        "label": raw["method"],
        "after": later["after"] if later else None,
        "base_policy": raw["base_policy"] | ({"root_name": later["root"]} if later else {}),
        "runtime": None,
        "validation_budget": None,
        "parents": None if later else [],
        "policy_digest": None,
        "reward_digest": None,
        "curve": None,
        "judgements": [],
        "digest": None,
    }


def current_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of schema 1 under today's names; what is in today's layout already stays as it is.

    Only names and places changed (the flat mixing settings became one rule of `loop.credit`, schedules in steps became shares
    of training, cloning's optimiser settings moved into `optim`); the arithmetic is the same.
    """
    if "loop" in config and "mix" in config["loop"]:
        return config | {"loop": _loop(config["loop"])}
    if "lr" in config and "sampling" in config:  # behavioural cloning
        moved = ("lr", "max_grad_norm", "micro_batch_tokens")
        optim = {name: config[name] for name in moved if name in config}
        return {name: value for name, value in config.items() if name not in moved} | {"optim": optim}
    return config


def _loop(loop: dict[str, Any]) -> dict[str, Any]:
    moved = ("mix", "process_warmup_steps", "process_decay_steps")
    kept = {name: value for name, value in loop.items() if name not in moved}
    credit = _credit(loop["mix"], loop.get("process_warmup_steps", 0), loop.get("process_decay_steps", 0), loop["steps"])
    return kept | {"credit": credit, "optim": loop["optim"] | {"loss": _loss(loop["optim"]["loss"])}}


def _credit(mix: dict[str, Any], warmup_steps: int, decay_steps: int, steps: int) -> dict[str, Any]:
    """`rloo_scaled` was the same number as `rloo`."""
    outcome = {name: mix[name] for name in ("outcome_weight", "fraction_of_tests", "whiten") if name in mix}
    outcome["outcome"] = "rloo" if mix["outcome"] == "rloo_scaled" else mix["outcome"]
    if mix["process_weight"] == 0:
        return outcome | {"rule": "outcome"}
    credit = outcome | {
        "rule": mix["process_credit"],
        "process_weight": mix["process_weight"],
        "process_scale": mix.get("process_scale", "none"),
        "process_starts": warmup_steps / steps,
        "process_ends": (warmup_steps + decay_steps) / steps if decay_steps else None,
    }
    if mix["process_credit"] == "step":
        credit |= {"signal": mix.get("step_signal", "score"), "doubtful_share": mix.get("doubtful_share", 0.0)}
    return credit


def _loss(loss: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in loss.items() if name not in ("kl_weight", "kl")}
    weight = loss.get("kl_weight", 0.0)
    return kept | {"kl": {"weight": weight, "estimator": loss.get("kl", "k3")} if weight else None}
