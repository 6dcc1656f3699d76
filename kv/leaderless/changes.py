"""The changes that wait for a replica's turn: what each does there, and what it is told after.

    Mint         a new version, named here          -> Minted, or what refused it
    StoreSet     a copy that another node has       -> Stored, or Failed with the reason
    StoreAll     the copies of one message          -> why not, for each: None is stored
    RemoveHint   the target has it, synced          -> nobody waits
    DiscardHint  it cannot be read                  -> nobody waits
    KeepRow      a row of the node itself           -> its writer, without an answer

`run` works on the turn (storage/versions.py) and gives what `finish` is told once the batch is on
the disk. A Turn does not undo, so whatever may be refused comes before the first change: a hint
that does not fit refuses the copy with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from kv.errors import OverloadedError
from kv.leaderless.dvv import SiblingLimitError, merge
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.put_core import Answer, Failed, Stored
from kv.leaderless.rules import Increment, Write
from kv.regime import Done
from raftgroups.transport import NodeId
from storage.errors import InvalidRequestError, JanusError
from storage.hints import HintOutcome
from storage.siblings import Actor, Dot, MalformedSetError, SiblingSet, encode_set
from storage.versions import Turn

if TYPE_CHECKING:
    from kv.leaderless.replica import Replica


class Minted(msgspec.Struct, frozen=True, gc=False):
    """A write as its minter has it on the disk."""

    siblings: SiblingSet
    encoded: bytes
    """The set's canonical bytes."""
    dot: Dot
    timestamp: int


class Change(Protocol):
    """One waiting change: `run` gives what `finish` is told once the batch is on the disk."""

    size_bytes: int
    keys: int
    """How many keys it is about: what may wait is bounded by them and by bytes."""

    def run(self, turn: Turn) -> Any: ...

    def failed(self, error: JanusError) -> Any:
        """What `finish` is told if `run` met a row that cannot be read."""
        ...

    def finish(self, answer: Any) -> None: ...


class Mint:
    keys = 1

    def __init__(
        self,
        replica: Replica,
        keyspace: Keyspace,
        key: bytes,
        change: Write | Increment,
        hint_for: NodeId | None,
        done: Done[Minted],
        size_bytes: int,
    ) -> None:
        self._replica = replica
        self._keyspace = keyspace
        self._key = key
        self._change = change
        self._hint_for = hint_for
        self.finish = done
        self.size_bytes = size_bytes

    def failed(self, error: JanusError) -> JanusError:
        return error

    def run(self, turn: Turn) -> Minted | JanusError:
        replica, number, key = self._replica, self._keyspace.number, self._key
        replica.took(number, (key,), self._hint_for is not None)
        try:
            record = replica.apply(turn, self._keyspace, key, self._change)
        except JanusError as error:
            replica.sibling_refusals += isinstance(error, SiblingLimitError)
            return error
        if not _hinted(turn, self._hint_for, number, key, record.siblings, replica.now_ms()):
            # The dot was shown to nobody, so the next change of this record may have it.
            return OverloadedError(
                f"nothing was done: this node stands in for {self._hint_for} and holds as many "
                "hints for it as it may; bring that node back, or let it be repaired"
            )
        encoded = encode_set(record.siblings)
        turn.put(number, key, record, encoded)
        replica.minted += 1
        siblings = record.siblings
        actor = Actor(replica.node, replica.incarnation, record.epoch)
        dot = Dot(*actor, siblings.clock.base[actor])
        timestamp = next(v.timestamp for v in siblings.versions if v.dot == dot)
        return Minted(siblings, encoded, dot, timestamp)


class StoreSet:
    keys = 1

    def __init__(
        self,
        replica: Replica,
        keyspace: int,
        key: bytes,
        siblings: SiblingSet,
        encoded: bytes,
        hint_for: NodeId | None,
        done: Callable[[Answer], None],
    ) -> None:
        self._replica = replica
        self._keyspace = keyspace
        self._key = key
        self._siblings = siblings
        self._encoded = encoded
        self._hint_for = hint_for
        self.finish = done
        self.size_bytes = len(key) + len(encoded)

    def failed(self, error: JanusError) -> Answer:
        return Failed(str(error))

    def run(self, turn: Turn) -> Answer:
        keyspace, key, siblings = self._keyspace, self._key, self._siblings
        replica = self._replica
        if not _hinted(turn, self._hint_for, keyspace, key, siblings, replica.now_ms()):
            return Failed(f"it holds as many hints for {self._hint_for} as it may")
        replica.took(keyspace, (key,), self._hint_for is not None)
        replica.take_encoded(turn, keyspace, key, self._encoded, siblings)
        replica.stored += 1
        return Stored()


class StoreAll:
    """Owners' copies. One that cannot be taken refuses itself and no other."""

    def __init__(
        self,
        replica: Replica,
        keyspace: int,
        keys: Sequence[bytes],
        sets: Sequence[bytes],
        size_bytes: int,
        done: Callable[[list[str | None] | str], None],
    ) -> None:
        self._replica = replica
        self._keyspace = keyspace
        self._keys = keys
        self._sets = sets
        self.finish = done
        self.size_bytes = size_bytes
        self.keys = len(keys)

    def failed(self, error: JanusError) -> str:
        return str(error)

    def run(self, turn: Turn) -> list[str | None]:
        replica, keyspace = self._replica, self._keyspace
        replica.took(keyspace, self._keys, False)
        reasons: list[str | None] = []
        for key, encoded in zip(self._keys, self._sets, strict=True):
            try:
                replica.take_encoded(turn, keyspace, key, encoded)
            except (InvalidRequestError, MalformedSetError) as error:
                reasons.append(str(error))
            else:
                reasons.append(None)
                replica.stored += 1
        return reasons


def _hinted(
    turn: Turn,
    target: NodeId | None,
    keyspace: int,
    key: bytes,
    siblings: SiblingSet,
    now_ms: int,
) -> bool:
    if target is None:
        return True
    outcome = turn.hints.add(target, keyspace, key, siblings, now_ms)
    return outcome is not HintOutcome.OVERFLOWED


class RemoveHint:
    size_bytes = 0
    keys = 1

    def __init__(
        self, replica: Replica, target: NodeId, sequence: int, owners: tuple[NodeId, ...]
    ) -> None:
        self._replica = replica
        self._target = target
        self._sequence = sequence
        self._owners = owners

    def run(self, turn: Turn) -> None:
        hint = turn.hints.held_at(self._target, self._sequence)
        if hint is None or not turn.hints.remove(self._target, self._sequence):
            return
        if self._replica.node in self._owners:
            return
        place = hint.keyspace, hint.key
        if any(turn.hints.held(owner, *place) is not None for owner in self._owners):
            return
        record = self._replica.record(turn, *place)
        # What the copy has and the hint had not would be lost with it: such a copy stays.
        if record is not None and merge(hint.siblings, record.siblings) == hint.siblings:
            turn.drop(*place)

    def failed(self, error: JanusError) -> None:
        """The hint stays, and is tried again."""

    def finish(self, answer: Any) -> None:
        """Nobody waits."""


class KeepRow:
    keys = 1

    def __init__(self, row_key: bytes, body: bytes, done: Callable[[], None]) -> None:
        self._row_key = row_key
        self._body = body
        self._done = done
        self.size_bytes = len(body)

    def run(self, turn: Turn) -> None:
        turn.keep(self._row_key, self._body)

    def failed(self, error: JanusError) -> None:
        """Nothing is read, so nothing can be damaged."""

    def finish(self, answer: Any) -> None:
        self._done()


class DiscardHint:
    size_bytes = 0
    keys = 1

    def __init__(self, target: NodeId, sequence: int) -> None:
        self._target = target
        self._sequence = sequence

    def run(self, turn: Turn) -> None:
        turn.hints.discard(self._target, self._sequence)

    def failed(self, error: JanusError) -> None:
        """The hint stays, and is tried again."""

    def finish(self, answer: Any) -> None:
        """Nobody waits."""
