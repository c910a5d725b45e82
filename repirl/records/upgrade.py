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
