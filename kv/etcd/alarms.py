"""Alarms as etcd's maintenance API has them: who raised which, and what they refuse. Pure.

Some are found by the nodes themselves: a disk that is nearly full. They are shown here, come and go
by themselves, and the regime refuses then what grows, on every way in. An operator can raise and
clear others; NOSPACE then makes this node's gateway refuse what needs space, as etcd does. Those
are this node's: not replicated, and forgotten when it stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from raftgroups.commands import Command, LeaseGrant, Put, Txn
from storage.errors import NoSpaceError

NOSPACE: Final = 1
NAMES: Final = {"NONE": 0, "NOSPACE": NOSPACE, "CORRUPT": 2}
_NAME_OF: Final = {number: name for name, number in NAMES.items()}


class Alarms:
    def __init__(self, found: Callable[[], Iterable[tuple[int, int]]] = tuple) -> None:
        """`found`: (member, kind) of what the nodes found themselves."""
        self._found: Final = found
        self._raised: set[tuple[int, int]] = set()
        """(member, kind), by operators."""
        self.refuses = False
        """Some command: one is raised that `check` looks for."""

    def raise_(self, member: int, kind: int) -> None:
        if kind:
            self._raised.add((member, kind))
            self._see()

    def clear(self, member: int, kind: int) -> bool:
        """False if no operator raised it."""
        if (member, kind) not in self._raised:
            return False
        self._raised.discard((member, kind))
        self._see()
        return True

    def _see(self) -> None:
        self.refuses = any(of == NOSPACE for _, of in self._raised)

    def of_kind(self, kind: int = 0) -> list[tuple[int, int]]:
        """(member, kind) of those raised, in a stable order; all of them for kind 0."""
        return sorted(each for each in {*self._raised, *self._found()} if kind in (0, each[1]))

    @property
    def is_out_of_space(self) -> bool:
        return bool(self.of_kind(NOSPACE))

    def check(self, command: Command) -> None:
        """Raises NoSpaceError for what needs space while the alarm is on."""
        if self.refuses and _needs_space(command):
            raise NoSpaceError(
                "the alarm NOSPACE is on; free space, then clear it (alarm DEACTIVATE)"
            )


def name_of(kind: int) -> str | int:
    return _NAME_OF.get(kind, kind)


def _needs_space(command: object) -> bool:
    if isinstance(command, Txn):
        return any(_needs_space(each) for each in (*command.then, *command.otherwise))
    return isinstance(command, Put | LeaseGrant)
