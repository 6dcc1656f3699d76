"""One write as a value: where copies and hints go, whether enough have it, what to say.

The set to store was minted, stored and synced by one node before this core begins (dvv.py); that
node is its first result. The others get the whole set.

    core = PutCore(...)
    core.start()                       the first sends
    core.add_result(node, answer)      each answer as it comes; gives the sends that follow from it
    core.enough()                      true: respond now (reached, or it can no longer be)
    core.response()                    who has it, or the error to raise
    core.final_action()                at the deadline: hints for owners that never answered

Rules
- W counts DISTINCT nodes that have the set on their disks. A node that has it as its own copy and
  also holds a hint of it counts once.
- An owner that fails gets a stand-in: the next node past the preference list, which stores the set
  with a hint for that owner. Each stand-in stands for one owner; if it fails, the next is tried.
- When there is none left (a small cluster), the minter keeps the hint beside its own copy. That
  counts for nothing towards W, but the owner will get the write without waiting for repair.
- A stand-in that has no room for the hint does not store the set either: nobody would ever move it
  to where it belongs. It has failed.
- A strict quorum counts owners only; hints are kept all the same.
- While members change, the owners to come (`arrivals`) get the set as owners do, and each of them
  that can be reached raises what is required by one: W of any N among the old and the new owners
  together then have it, so a reader finds it before and after the change.
- After the answer the core goes on: owners that are late are waited for until the deadline, and
  each that is still missing then gets its hint, since nobody knows whether it has the write.

This file is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from kv.leaderless.dvv import Context
from kv.leaderless.quorum import Level, Quorum, WriteQuorumError, level_met
from raftgroups.transport import NodeId

AWAY: Final = "it is not in reach"


class Send(msgspec.Struct, frozen=True, gc=False):
    node: NodeId
    hint_for: NodeId | None = None
    """Store it with a hint for this owner. None: store it as an owner's copy."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """The node has the set, synced, and the hint if one was asked for."""


class Failed(msgspec.Struct, frozen=True, gc=False):
    reason: str


Answer = Stored | Failed


class PutResult(msgspec.Struct, frozen=True, gc=False):
    replicas: tuple[NodeId, ...]
    """Who has it, in the order of their answers."""
    stand_ins: tuple[NodeId, ...]
    """Those of them that are no owners."""
    level: Level | None
    missed: tuple[tuple[NodeId, str], ...] = ()
    """Owners that have not stored it, and why, as far as that is known by now."""


def first_absent(owners: Iterable[NodeId], unreachable: Iterable[NodeId]) -> NodeId | None:
    """For which owner a minter that is none of them stands in: it stores that hint as it mints."""
    absent = set(unreachable)
    return next((owner for owner in owners if owner in absent), None)


class Written(msgspec.Struct, frozen=True, gc=False):
    """What a client is told of a write."""

    context: Context
    replicas: tuple[NodeId, ...]
    """Who has it, synced, in the order of their answers."""
    stand_ins: tuple[NodeId, ...]
    """Those of them that are no owners."""
    level: Level | None
    missed: tuple[tuple[NodeId, str], ...] = ()
    """Owners that get it later, and why."""


class PutCore:
    """Invariant: for each owner that neither stored the set nor is hinted for, there is at most one
    send under way."""

    def __init__(
        self,
        quorum: Quorum,
        owners: Iterable[NodeId],
        stand_ins: Iterable[NodeId],
        *,
        minter: NodeId,
        arrivals: Iterable[NodeId] = (),
        minter_stands_for: NodeId | None = None,
        unreachable: Iterable[NodeId] = (),
    ) -> None:
        """`stand_ins` are nodes past the preference list, best first, without those thought dead;
        `unreachable` are owners not worth a send: their stand-ins are asked at once."""
        self._quorum = quorum
        self._primary = tuple(owners)
        self._arrivals = tuple(arrivals)
        self._owners = self._primary + self._arrivals
        self._minter = minter
        self._unreachable = set(unreachable) - {minter}
        self._extra = sum(node not in self._unreachable for node in self._arrivals)
        self._stand_ins = [node for node in stand_ins if node != minter]
        self._stored: dict[NodeId, None] = {minter: None}
        self._waiting: dict[Send, None] = {}
        self._hinted = set() if minter_stands_for is None else {minter_stands_for}
        self._kept_by_minter = set(self._hinted)
        self._lost_hints: set[NodeId] = set()
        self._reasons: dict[NodeId, str] = {}

    def start(self) -> list[Send]:
        """The sends to begin with."""
        sends = []
        for owner in self._owners:
            if owner in self._unreachable:
                if owner not in self._hinted:
                    sends += self._stand_in_for(owner)
            elif owner != self._minter:
                sends.append(Send(owner))
        self._waiting.update(dict.fromkeys(sends))
        return sends

    def add_result(self, send: Send, answer: Answer) -> list[Send]:
        """An answer to a send, in time or late; gives further sends."""
        in_time = send in self._waiting
        self._waiting.pop(send, None)
        owner = send.hint_for or send.node
        if isinstance(answer, Stored):
            self._stored.setdefault(send.node)
            if send.hint_for is not None:
                self._hinted.add(owner)
            return []
        self._reasons[send.node] = answer.reason
        settled = owner in self._stored or owner in self._hinted
        if not in_time or settled:
            return []
        further = self._stand_in_for(owner)
        self._waiting.update(dict.fromkeys(further))
        return further

    def enough(self) -> bool:
        return self._reached() or not self._waiting

    def done(self) -> bool:
        """Nothing is waited for any more, not even beyond the answer to the client."""
        return not self._waiting

    def response(self) -> PutResult:
        """What to tell the client. Raises what to tell him if too few have it."""
        counted = self._counted()
        if not self._reached():
            owners = sum(node in self._primary for node in counted)
            reasons = "".join(f"; {node}: {reason}" for node, reason in self._reasons.items())
            required = self._quorum.nodes + self._extra
            raise WriteQuorumError(
                f"{len(counted)} of {required} required replicas have this write "
                f"({owners} of {self._quorum.owners} required owners){reasons}; it may still "
                "appear; read before you write again",
                got=len(counted),
                required=required,
            )
        return PutResult(
            tuple(counted),
            tuple(node for node in counted if node not in self._owners),
            level_met(self._quorum.n, sum(node not in self._arrivals for node in counted)),
            tuple(self._missed()),
        )

    def _missed(self) -> Iterator[tuple[NodeId, str]]:
        for owner in self._owners:
            if owner in self._unreachable:
                yield owner, AWAY
            elif owner in self._reasons and owner not in self._stored:
                yield owner, self._reasons[owner]

    def final_action(self) -> list[Send]:
        """At the deadline: hints for the owners of which nobody knows whether they have it."""
        sends = []
        for owner in self._owners:
            settled = owner in self._stored or owner in self._hinted or owner in self._lost_hints
            if not settled and owner not in self._kept_by_minter:
                self._kept_by_minter.add(owner)
                sends.append(Send(self._minter, owner))
        self._waiting = dict.fromkeys(sends)
        return sends

    def lost_hints(self) -> frozenset[NodeId]:
        """Owners whose hint fits nowhere: only repair brings them the write."""
        return frozenset(self._lost_hints - self._hinted - self._stored.keys())

    def _stand_in_for(self, owner: NodeId) -> list[Send]:
        if self._stand_ins:
            return [Send(self._stand_ins.pop(0), owner)]
        if owner in self._kept_by_minter:
            self._lost_hints.add(owner)
            return []
        self._kept_by_minter.add(owner)
        return [Send(self._minter, owner)]

    def _counted(self) -> list[NodeId]:
        stored = list(self._stored)
        return [node for node in stored if node in self._owners] if self._quorum.strict else stored

    def _reached(self) -> bool:
        counted = self._counted()
        owners = sum(node in self._primary for node in counted)
        enough = len(counted) >= self._quorum.nodes + self._extra
        return enough and owners >= self._quorum.owners
