"""Base of every configuration: frozen, and an unknown key is an error with its name."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from repirl.errors import UserError


class Config(BaseModel):
    """A pydantic model that refuses unknown keys and cannot be changed after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def digest(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return digest_of(self.model_dump(mode="json"))


C = TypeVar("C", bound=BaseModel)


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_config(kind: type[C], values: dict[str, Any]) -> C:
    """Validate; the first problem becomes one UserError line with the key's path."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"bad setting {key} ({first['msg']})", first.get("input"), "see the method's recipes") from error


def with_overrides(config: C, overrides: list[str]) -> C:
    """The configuration with `key.path=value` settings applied; values are JSON where they parse as such."""
    values = config.model_dump(mode="json")
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign:
            raise UserError("a setting must look like key.path=value", override)
        node = values
        *parents, leaf = path.split(".")
        for part in parents:
            child = node.get(part) if isinstance(node, dict) else None
            if not isinstance(child, dict):
                raise UserError("no such setting", path)
            node = child
        if leaf not in node:
            raise UserError("no such setting", path, f"there are {', '.join(sorted(node))}")
        try:
            node[leaf] = json.loads(text)
        except json.JSONDecodeError:
            node[leaf] = text
    return parse_config(type(config), values)
