"""Whether a node may take a write now: its disk, its engine's backlog, the alarms of the others.

A write that grows is refused while any member is nearly full, because every member will store it;
what frees space goes on everywhere. Cheap: it is asked for every write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kv.errors import OverloadedError
from kv.strong.admission import purpose_of
from raftgroups.commands import Command, Put
from storage.engine import WritePressure
from storage.errors import NoSpaceError
from storage.space import Purpose, SpaceGuard

BACKLOG_RETRY_S = 1.0
_GROW = Purpose.GROW


class Gate:
    def __init__(
        self, guard: SpaceGuard, *, pressure: Callable[[], WritePressure] | None = None
    ) -> None:
        """`pressure` only for an engine with background work (storage/engine.py)."""
        self._guard = guard
        self._pressure = pressure
        self.full_peers: Sequence[str] = ()
        """Names of the other members that said NOSPACE; whoever knows keeps it up to date."""

    def takes(self, size_bytes: int) -> bool:
        """Admit writes of so many bytes together, whatever they are for. False: none is, ask for
        each by itself."""
        if self.full_peers or (
            self._pressure is not None and self._pressure() is WritePressure.STOPPED
        ):
            return False
        try:
            self._guard.admit(_GROW, size_bytes)
        except NoSpaceError:
            return False
        return True

    def admit(self, command: Command, size_bytes: int) -> None:
        """Raises NoSpaceError, OverloadedError."""
        if self._pressure is not None and self._pressure() is WritePressure.STOPPED:
            raise OverloadedError(
                "the storage engine's background work is too far behind to take writes now; ask "
                "again in a second, or write less",
                BACKLOG_RETRY_S,
            )
        purpose = _GROW if type(command) is Put else purpose_of(command)
        if self.full_peers and purpose is _GROW:
            raise NoSpaceError(
                f"the disk of {', '.join(self.full_peers)} is nearly full, and every member stores "
                "every key: growing writes are refused; delete keys, compact, or give that disk "
                "more space"
            )
        self._guard.admit(purpose, size_bytes)
