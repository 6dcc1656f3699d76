"""What calls to a leaderless keyspace give back. Keys and values are bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from storage.errors import JanusError


class SiblingsError(JanusError):
    """There are several concurrent values, and one was asked for. `values` has them."""

    code = "siblings"

    def __init__(self, message: str, values: tuple[bytes, ...]) -> None:
        super().__init__(message)
        self.values = values


class Sibling(NamedTuple):
    value: bytes
    timestamp_ms: int
    ttl_remaining_s: float | None


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key as it was read: one sibling, or several concurrent ones. Give it as the context of the
    write that replaces what it holds."""

    key: bytes
    siblings: tuple[Sibling, ...]
    context: str
    replicas: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    level: str | None = None

    @property
    def values(self) -> tuple[bytes, ...]:
        return tuple(each.value for each in self.siblings)

    @property
    def value(self) -> bytes:
        """The one value. Raises SiblingsError."""
        if len(self.siblings) != 1:
            raise SiblingsError(
                f"key {self.key!r} has {len(self.siblings)} concurrent values; merge them and put "
                "the result with this state as its context",
                self.values,
            )
        return self.siblings[0].value


class Written(NamedTuple):
    """`context` covers this write and what its own context covered."""

    context: str
    replicas: tuple[str, ...]
    """Who has it, synced."""
    fallbacks: tuple[str, ...]
    """Those of them that stand in for owners."""
    level: str | None


class Counted(NamedTuple):
    value: int | None
    """The sum as far as it is known now."""
    written: Written


class Listed(NamedTuple):
    key: bytes
    siblings: tuple[Sibling, ...]
    """Empty if values were not asked for."""
    context: str
    """Empty if values were not asked for."""


class ListPage(NamedTuple):
    entries: tuple[Listed, ...]
    cursor: str | None


Context = str | KeyState | Written | None
"""What callers may give as the context of a write."""


def context_text(context: Context) -> str | None:
    return context.context if isinstance(context, KeyState | Written) else context
