"""Base of every configuration: frozen, and an unknown key is an error with its name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from repirl.errors import UserError


class Config(BaseModel):
    """A pydantic model that refuses unknown keys and cannot be changed after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def digest(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return digest_of(self.model_dump(mode="json"))

    def scheduled(self) -> list[str]:
        """Settings of this part (not of those in it) by which a step depends on how many there are in all."""
        return []


C = TypeVar("C", bound=BaseModel)


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_config(kind: type[C], values: dict[str, Any]) -> C:
    """Validate; the first problem becomes one UserError line with the key's path."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        # A misspelt key leaves the right one out too: it says more than what is missing.
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        key = ".".join(map(str, first["loc"]))
        value = first.get("input")
        shown = None if isinstance(value, dict | list) else value
        raise UserError(f"bad setting {key} ({first['msg']})", shown, "see the method's recipes") from error


def with_overrides(config: C, overrides: list[str]) -> C:
    """The configuration with `key.path=value` settings applied; values are JSON where they parse as such, else text, in which
    `\\n` is a newline (and `\\\\n` a backslash and an n).

    Where settings are a union told apart by one of them (`loop.credit.rule`), another value of that one keeps the settings
    that the new kind knows as well, and drops the others.
    """
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
                raise UserError("no such setting", path, _nearest(path, values))
            node = child
        if leaf not in node:
            raise UserError("no such setting", path, f"{_nearest(path, values)}there are {', '.join(sorted(node))}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = re.sub(r"\\(\\n|n)", lambda found: "\n" if found[1] == "n" else found[1], text)
        if (kind := _member(type(config), parents, leaf, value)) is not None:
            _become(node, kind)
        node[leaf] = value
    return parse_config(type(config), values)


def overrides_of(config: BaseModel, values: Mapping[str, Any], before: tuple[str, ...] = ()) -> list[str]:
    """`values`, objects within each other by the names of settings (or dotted paths), as overrides for `with_overrides`.

    What tells the members of a union apart goes before the settings of that member.
    """
    found: list[tuple[bool, list[str]]] = []
    for key, value in values.items():
        *parents, leaf = (*before, *key.split("."))
        here = _at(config, (*parents, leaf))
        kind = _member(type(config), list(parents), leaf, value) if isinstance(value, str) else None
        if isinstance(value, Mapping) and isinstance(here, BaseModel):
            found.append((kind is None, overrides_of(config, value, (*parents, leaf))))
        else:
            found.append((kind is None, [f"{'.'.join((*parents, leaf))}={json.dumps(value)}"]))
    return [one for _, overrides in sorted(found, key=lambda one: one[0]) for one in overrides]


def flat(config: BaseModel, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted path, JSON value), in the order of the classes."""
    for name, value in config.model_dump(mode="json").items():
        inner = getattr(config, name)
        if isinstance(inner, BaseModel):
            yield from flat(inner, f"{before}{name}.")
        else:
            yield before + name, value


def _at(config: BaseModel, path: tuple[str, ...]) -> Any:
    """What a configuration has at a path; None where there is nothing."""
    here: Any = config
    for part in path:
        here = getattr(here, part, None) if isinstance(here, BaseModel) and part in type(here).model_fields else None
    return here


def _nearest(path: str, values: dict[str, Any]) -> str:
    """The setting that was probably meant, as words before others: of the same name elsewhere, or spelt alike; else nothing."""
    known = list(_paths(values))
    named = [one for one in known if one.split(".")[-1] == path.split(".")[-1]]
    near = named[:1] or get_close_matches(path, known, 1)
    return f"did you mean {near[0]}? " if near else ""


def _paths(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield before + key
        if isinstance(value, dict):
            yield from _paths(value, f"{before}{key}.")


def _become(node: dict[str, Any], kind: type[BaseModel]) -> None:
    """Settings of one member of a union as those of another: what only one of them knows goes, or gets its default."""
    for name in node.keys() - kind.model_fields.keys():
        del node[name]
    for name, field in kind.model_fields.items():
        # What has no default is refused unless another override says it.
        node.setdefault(name, None if field.is_required() else field.get_default(call_default_factory=True))


def _member(kind: type[BaseModel], parents: list[str], leaf: str, value: Any) -> type[BaseModel] | None:
    """Of a union of configurations at the path `parents` that `leaf` tells apart, the member that `value` names."""
    members: tuple[Any, ...] = (kind,)
    discriminator: str | None = None
    for part in parents:
        fields = [member.model_fields[part] for member in members if part in getattr(member, "model_fields", {})]
        if not fields:
            return None
        members = get_args(fields[0].annotation) or (fields[0].annotation,)
        discriminator = fields[0].discriminator if isinstance(fields[0].discriminator, str) else None
    if discriminator != leaf:
        return None
    return next((member for member in members if value in get_args(member.model_fields[leaf].annotation)), None)
