"""How a section of the configuration tells its settings: as the fields of a frozen dataclass. Pure.

A field made by `setting` is a setting; a field whose default is another such class is a section
inside. Nothing here knows which settings there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any, NamedTuple

from kv.config.values import Kind


class Setting(NamedTuple):
    path: str
    """As in `node.listen`."""
    attribute: str
    kind: Kind
    default: Any
    help: str


def setting(kind: Kind, default: Any, help_text: str) -> Any:
    metadata = {"kind": kind, "help": help_text, "default": default}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def key_of(attribute: str) -> str:
    """`heartbeat_s` -> `heartbeat`: the unit stands in the value."""
    return attribute.removesuffix("_s")


def settings_of(section: type[Any], path: str = "") -> Iterator[Setting]:
    """The settings of one section, without those of the sections inside it."""
    for entry in fields(section):
        if "kind" in entry.metadata:
            yield Setting(
                f"{path}.{key_of(entry.name)}" if path else key_of(entry.name),
                entry.name,
                entry.metadata["kind"],
                entry.metadata["default"],
                entry.metadata["help"],
            )


def sections_of(section: type[Any]) -> dict[str, type[Any]]:
    """The sections inside one, by key."""
    found: dict[str, type[Any]] = {}
    for entry in fields(section):
        factory: object = entry.default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            found[entry.name] = factory
    return found
