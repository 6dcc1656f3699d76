"""Whether a node may take a write now: its disk, its engine's backlog, the alarms of the others.

A write that grows is refused while any member is nearly full, because every member will store it;
what frees space goes on everywhere. Cheap: it is asked for every write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kv.errors import OverloadedError
from kv.strong.admission import purpose_of
from raftgroups.commands import Command
from storage.engine import WritePressure
from storage.errors import NoSpaceError
from storage.space import Purpose, SpaceGuard

BACKLOG_RETRY_S = 1.0


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
        left = self._guard.left_bytes - size_bytes
        if (
            self.full_peers
            or left < self._guard.floor_bytes
            or (self._pressure is not None and self._pressure() is WritePressure.STOPPED)
        ):
            return False
        self._guard.left_bytes = left
        return True

    def admit(self, command: Command, size_bytes: int) -> None:
        """Raises NoSpaceError, OverloadedError."""
        if self._pressure is not None and self._pressure() is WritePressure.STOPPED:
            raise OverloadedError(
                "the storage engine's background work is too far behind to take writes now; ask "
                "again in a second, or write less",
                BACKLOG_RETRY_S,
            )
        if self.full_peers and purpose_of(command) is Purpose.GROW:
            raise NoSpaceError(
                f"the disk of {', '.join(self.full_peers)} is nearly full, and every member stores "
                "every key: growing writes are refused; delete keys, compact, or give that disk "
                "more space"
            )
        guard = self._guard
        left = guard.left_bytes - size_bytes
        if left >= guard.floor_bytes:  # nearly always, and then whatever it is for
            guard.left_bytes = left
        else:
            guard.admit(purpose_of(command), size_bytes)
