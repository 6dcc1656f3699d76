"""What maintenance changes in a replica's turn (changes.py has what requests change).

    MendIndex       rows of the token index that cannot be read
    ClearOverflow   a repair with the target of hints has ended
    MoveHint        a hint whose target is gone: its set is with the owners now
    ShedExpired     the values of versions whose time is over
    DropForeign     a copy of a key that this node is not to have, once its holders have it
    DropReaped      a dead key, after the proof of reap.py
    ForgetDue       a row of the reaping table that its record does not bear out
    EraseKeyspace   all rows of a keyspace that was dropped
    Fence           nothing: it is answered once all before it is on the disk

A Turn does not undo, so each looks first and changes then. What must still be true when it is done
is checked in the turn, not when it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kv.leaderless.dvv import shed_expired
from kv.leaderless.reap import Candidate, holds_exactly
from storage.buckets import set_digest
from storage.errors import CorruptRecordError, JanusError
from storage.hints import key_has_hints
from storage.objects import Record
from storage.versions import Turn

if TYPE_CHECKING:
    from kv.leaderless.replica import Replica


class _Upkeep:
    """Nobody waits for it, and it is small."""

    size_bytes = 0
    keys = 1

    def failed(self, error: JanusError) -> Any:
        """A row could not be read; the alarm is raised, and repair comes to it."""

    def finish(self, answer: Any) -> None:
        """Nobody waits."""


class MendIndex(_Upkeep):
    def __init__(self, keyspace: int, keys: Sequence[bytes]) -> None:
        self._keyspace = keyspace
        self._keys = keys

    def run(self, turn: Turn) -> None:
        for key in self._keys:
            with suppress(CorruptRecordError):  # the object, too: another node has to send it
                turn.mend_index(self._keyspace, key)


class ClearOverflow(_Upkeep):
    def __init__(self, target: str, repaired: int) -> None:
        self._target = target
        self._repaired = repaired

    def run(self, turn: Turn) -> None:
        turn.hints.clear_overflow(self._target, self._repaired)


class MoveHint(_Upkeep):
    def __init__(self, target: str, sequence: int) -> None:
        self._target = target
        self._sequence = sequence

    def run(self, turn: Turn) -> None:
        turn.hints.remove(self._target, self._sequence)


class ShedExpired(_Upkeep):
    def __init__(self, replica: Replica, keyspace: int, key: bytes) -> None:
        self._replica = replica
        self._keyspace = keyspace
        self._key = key

    def run(self, turn: Turn) -> None:
        record = self._replica.record(turn, self._keyspace, self._key)
        if record is not None:
            shed = shed_expired(record.siblings, self._replica.now_ms())
            if shed is not record.siblings:
                turn.put(self._keyspace, self._key, Record(shed, record.epoch))


class DropForeign(_Upkeep):
    def __init__(
        self,
        replica: Replica,
        keyspace: int,
        key: bytes,
        digest: int,
        is_foreign: Callable[[], bool],
    ) -> None:
        """`digest` is what its holders have; `is_foreign`: this node is still none of them."""
        self._replica = replica
        self._keyspace = keyspace
        self._key = key
        self._digest = digest
        self._is_foreign = is_foreign

    def run(self, turn: Turn) -> None:
        record = self._replica.record(turn, self._keyspace, self._key)
        if record is None or not self._is_foreign():
            return
        if set_digest(self._key, record.siblings) != self._digest:
            return
        # A hint's target may lack what the holders have: hint and copy go together.
        if not key_has_hints(self._replica.reader(), self._keyspace, self._key):
            turn.drop(self._keyspace, self._key)


class DropReaped(_Upkeep):
    def __init__(self, replica: Replica, candidate: Candidate) -> None:
        self._replica = replica
        self._candidate = candidate

    def run(self, turn: Turn) -> None:
        keyspace, key = self._candidate.keyspace, self._candidate.key
        record = self._replica.record(turn, keyspace, key)
        if holds_exactly(record, self._candidate, self._replica.now_ms()):
            turn.drop(keyspace, key)
            self._replica.reaped += 1


class ForgetDue(_Upkeep):
    def __init__(self, keyspace: int, due_ms: int, key: bytes) -> None:
        self._keyspace = keyspace
        self._due_ms = due_ms
        self._key = key

    def run(self, turn: Turn) -> None:
        turn.forget_reapable(self._keyspace, self._due_ms, self._key)


class EraseKeyspace(_Upkeep):
    def __init__(self, replica: Replica, keyspace: int) -> None:
        self._replica = replica
        self._keyspace = keyspace

    def run(self, turn: Turn) -> None:
        self._replica.erase_after_turn(self._keyspace)


class Fence(_Upkeep):
    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def run(self, turn: Turn) -> None:
        """All changes that came before it are in this turn or in an earlier one."""

    def finish(self, answer: Any) -> None:
        self._then()
