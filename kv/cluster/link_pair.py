"""One connection for a pair of nodes, agreed by both without a third message. Pure.

Both nodes dial each other, connections break on one side before the other notices, processes
restart. Each side keeps this record of a peer and decides by these rules:

1. A node dials only while it has no connection, one dial at a time. A dial whose PROOF has not left
   is given up as soon as another connection exists, so a PROOF that arrives says: "when I sent
   this, I had no connection with you".
2. The acceptor decides, on a valid PROOF:
   - we have a connection with another boot id: the peer restarted; the new one replaces it. A dead
     process can come back once, by a PROOF that was long on its way; a boot id that was replaced
     TWIN_LIMIT times and is back again is alive, so two processes run under one node id: refuse.
   - we have one that the peer dialed: it dialed again, so it lost that one; replace it, unless this
     PROOF is of an older dial (`dial` rises with every dial of a process).
   - we have one that we dialed: either the peer lost it, or our PROOFs crossed. `serial` numbers
     every WELCOME that a process gives, and a PROOF carries in `seen` the last serial that its
     sender gave to this peer. If that covers our connection, the peer knew it and lost it: replace.
     Otherwise the peer welcomed us after it sent this PROOF: ours stays, theirs is refused.
   - we have none, but our own PROOF to the same boot id is under way: the dial of the LOWER node id
     wins. The lower one refuses here, the higher one gives up its own dial and accepts.
   - otherwise: accept.
3. Whenever a connection is accepted, a dial of our own is given up.

Invariant: at most one connection and one dial; no dial begins while there is a connection.
tests/unit/kv/cluster/test_link_pair.py runs two of these against each other through every order of
deliveries and losses: they never both end with different connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from raftgroups.transport import NodeId

TWIN_LIMIT: Final = 3
BOOTS_REMEMBERED: Final = 8


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection in use. `key` is the shell's name for it."""

    key: int
    boot_id: str
    dialed: bool
    """By us; else by the peer."""
    number: int
    """The serial of the peer's WELCOME if we dialed, else the number of the peer's dial."""


@dataclass(slots=True)
class Dial:
    number: int
    proved_to: str | None = None
    """The boot id that our PROOF went to, once it left."""


class Accepted(NamedTuple):
    serial: int
    replaced: int | None
    """The key of the connection to close."""
    gave_up_dial: bool


class Denied(NamedTuple):
    reason: str
    sentence: str


class Pair:
    """What one node knows of its connection with one other."""

    def __init__(self, local: NodeId, peer: NodeId, next_number: Callable[[], int]) -> None:
        assert local != peer
        self._local = local
        self._peer = peer
        self._next_number = next_number
        """Rises with every call in this process, so that it never repeats in one boot."""
        self._replaced: dict[str, int] = {}
        """How often each boot id lost its live connection to another one."""
        self._last_serial = 0
        self.connection: Connection | None = None
        self.dial: Dial | None = None

    def may_dial(self) -> bool:
        return self.connection is None and self.dial is None

    def begin_dial(self) -> int:
        assert self.may_dial()
        self.dial = Dial(self._next_number())
        return self.dial.number

    def met(self, number: int, boot_id: str) -> tuple[int, int] | Denied:
        """Our dial reached this process: the (dial, seen) of the PROOF, or why it is given up."""
        if self._is_twin(boot_id):
            self.dial_ended(number)
            return self._twice(boot_id)
        if self.dial is None or self.dial.number != number:
            return Denied("duplicate", "this dial was given up for another connection")
        assert self.connection is None
        self.dial.proved_to = boot_id
        return number, self._last_serial

    def welcomed(self, key: int, number: int, boot_id: str, serial: int) -> bool:
        """Our dial was accepted. False: it was given up meanwhile; close it."""
        if self.dial is None or self.dial.number != number:
            return False
        assert self.connection is None
        self.dial = None
        self.connection = Connection(key, boot_id, dialed=True, number=serial)
        return True

    def proved(self, key: int, boot_id: str, dial: int, seen: int) -> Accepted | Denied:
        """The peer's dial proved itself: take it, or say why not."""
        if self._is_twin(boot_id):
            return self._twice(boot_id)
        denied = self._denied(boot_id, dial, seen)
        if denied is not None:
            return denied
        replaced = None
        if self.connection is not None:
            replaced = self.connection.key
            if self.connection.boot_id != boot_id:
                self._count_replaced(self.connection.boot_id)
        gave_up, self.dial = self.dial is not None, None
        self._last_serial = self._next_number()
        self.connection = Connection(key, boot_id, dialed=False, number=dial)
        return Accepted(self._last_serial, replaced, gave_up)

    def _denied(self, boot_id: str, dial: int, seen: int) -> Denied | None:
        held, own = self.connection, self.dial
        if held is not None and held.boot_id == boot_id:
            if held.dialed and held.number > seen:
                return Denied("duplicate", "this pair of nodes has a connection already")
            if not held.dialed and held.number > dial:
                return Denied("duplicate", "a later dial of yours was accepted already")
        elif own is not None and own.proved_to == boot_id and self._local < self._peer:
            return Denied("duplicate", "the other node's dial of this pair goes first")
        return None

    def _count_replaced(self, boot_id: str) -> None:
        times = self._replaced.pop(boot_id, 0) + 1
        if len(self._replaced) >= BOOTS_REMEMBERED:
            del self._replaced[next(iter(self._replaced))]
        self._replaced[boot_id] = times

    def _is_twin(self, boot_id: str) -> bool:
        return self._replaced.get(boot_id, 0) >= TWIN_LIMIT

    def _twice(self, boot_id: str) -> Denied:
        return Denied(
            "twin",
            f"two processes run as node {self._peer!r} and take each other's place (start "
            f"{boot_id!r} is one of them); a data directory was copied: stop one of the two and "
            "wipe its directory",
        )

    def dial_ended(self, number: int) -> None:
        """A dial failed, was refused or timed out."""
        if self.dial is not None and self.dial.number == number:
            self.dial = None

    def lost(self, key: int) -> bool:
        """A connection is gone. True if it was the one in use."""
        if self.connection is None or self.connection.key != key:
            return False
        self.connection = None
        return True
