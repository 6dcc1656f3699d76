"""Alarms as etcd's maintenance API has them: who raised which, and what they refuse. Pure.

An operator can raise and clear them; NOSPACE makes this node's gateway refuse what needs space, as
etcd does. They are this node's: not replicated, and forgotten when it stops. A disk that is really
full is not their business: the storage refuses then by itself, on every way in.
"""

from __future__ import annotations

from typing import Final

from raftgroups.commands import Command, LeaseGrant, Put, Txn
from storage.errors import NoSpaceError

NOSPACE: Final = 1
NAMES: Final = {"NONE": 0, "NOSPACE": NOSPACE, "CORRUPT": 2}
_NAME_OF: Final = {number: name for name, number in NAMES.items()}


class Alarms:
    def __init__(self) -> None:
        self._raised: set[tuple[int, int]] = set()
        """(kind, member)"""

    def raise_(self, member: int, kind: int) -> None:
        if kind:
            self._raised.add((kind, member))

    def clear(self, member: int, kind: int) -> bool:
        """False if it was not raised."""
        if (kind, member) not in self._raised:
            return False
        self._raised.discard((kind, member))
        return True

    def of_kind(self, kind: int = 0) -> list[tuple[int, int]]:
        """(member, kind) of those raised, in a stable order; all of them for kind 0."""
        return [(member, of) for of, member in sorted(self._raised) if not kind or of == kind]

    @property
    def is_out_of_space(self) -> bool:
        return any(kind == NOSPACE for kind, _ in self._raised)

    def check(self, command: Command) -> None:
        """Raises NoSpaceError for what needs space while the alarm is on."""
        if self._raised and self.is_out_of_space and _needs_space(command):
            raise NoSpaceError(
                "the alarm NOSPACE is on; free space, then clear it (alarm DEACTIVATE)"
            )


def name_of(kind: int) -> str | int:
    return _NAME_OF.get(kind, kind)


def _needs_space(command: object) -> bool:
    if isinstance(command, Txn):
        return any(_needs_space(each) for each in (*command.then, *command.otherwise))
    return isinstance(command, Put | LeaseGrant)
