"""Gossip: how every node learns who is in the cluster, without anybody in charge.

Each node owns one record, NodeInfo, and only it changes it: (generation, heartbeat) orders its
versions. The generation rises with every start of the process, the heartbeat with every round. What
a node knows is the newest record of each, plus the set of nodes declared dead. Both only grow, so
what two nodes know merges in any order, twice or late, to the same:

    initiator                       peer
    digest: {node: version}  ---->  answer: records that are newer, versions that it wants
    apply(answer)            <----
    records wanted           ---->  apply

Statuses
    joining   has tokens, is being filled: gets writes, serves no reads
    normal    stores and serves
    leaving   still serves, and hands its data over
    dead      final, for this node id. The node itself says so when it has left; for others only an
              operator says it, or a deadline that somebody configured
`down` is no status: it is each node's own judgement of another (phi.py), told to nobody.

Dead moves data, so two halves of a cluster must not say it of each other: a deadline counts only on
a side with more than half of all members that are not dead, and there is none by default. What only
the other side has taken meanwhile is lost then; that is what configuring a deadline means. A node
declared dead never returns under its id: it comes back empty, as a new node (reap.py relies on it).

The ring is a function of what is known (`serving`, `arriving`), and its epoch numbers that: it
rises with every change that matters to the ring. Two nodes with the same epoch have the same ring;
of two different ones the lower number is behind; equal numbers with different fingerprints are
changes that have not met yet. This file is pure: dice are an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from kv.cluster.phi import Health
from kv.cluster.ring import DEFAULT_VNODES, Member
from raftgroups.transport import NodeId

_DEATH: Final = 1 << 32
"""More than any node's ring version, so that a death always raises the epoch."""


class Dice(Protocol):
    def randrange(self, start: int, stop: int, /) -> int: ...


class Status(StrEnum):
    JOINING = "joining"
    NORMAL = "normal"
    LEAVING = "leaving"


class Version(NamedTuple):
    generation: int
    heartbeat: int


class RingEpoch(NamedTuple):
    number: int
    fingerprint: int

    def as_int(self) -> int:
        """One number for messages and proofs, which only compare for equality."""
        return self.number << 64 | self.fingerprint


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says of itself."""

    node: NodeId
    generation: int
    heartbeat: int = 0
    status: Status = Status.JOINING
    address: str = ""
    client_address: str = ""
    vnodes: int = DEFAULT_VNODES
    rack: str = ""
    datacentre: str = ""
    ring: int = 0
    """The fingerprint of the ring that this node goes by: how one sees that all go by the same."""
    ring_version: int = 1
    """Rises with each change of status, vnodes, rack or datacentre, over all generations: kept on
    the node's disk. Below 2^32."""

    @property
    def version(self) -> Version:
        return Version(self.generation, self.heartbeat)

    def member(self) -> Member:
        return Member(self.node, self.vnodes, self.rack, self.datacentre)

    def on_ring(self) -> tuple[object, ...]:
        return (
            self.node,
            self.ring_version,
            str(self.status),
            self.vnodes,
            self.rack,
            self.datacentre,
        )


@dataclass(frozen=True, slots=True)
class Death:
    node: NodeId
    declared_by: NodeId
    reason: str
    """For people: who reads the log wants to know."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer makes of a digest."""

    newer: tuple[NodeInfo, ...]
    wanted: tuple[NodeId, ...]
    deaths: tuple[Death, ...]


@dataclass(slots=True)
class Learned:
    """What news brought."""

    heard: list[NodeId] = field(default_factory=list)
    """Heartbeats that advanced: tell the failure detector."""
    joined: list[NodeId] = field(default_factory=list)
    died: list[NodeId] = field(default_factory=list)
    ring_changed: bool = False
    usurped: NodeInfo | None = None
    """Newer words of this node than its own: another process speaks under its id (a copied
    directory), or this one has forgotten what it said (`outbid`)."""
    forgot: bool = False
    """This node has forgotten its past, and others knew it: it has `outbid` itself."""
    declared_dead: bool = False
    """This node itself is declared dead. Stop; it returns only empty, as a new node."""


class Membership:
    """Invariant: `infos` has this node's own record, which is the newest anywhere; no node is both
    in `infos` and in `deaths`."""

    def __init__(
        self, me: NodeInfo, known: Iterable[NodeInfo] = (), deaths: Iterable[Death] = ()
    ) -> None:
        self.me = me.node
        self.infos: dict[NodeId, NodeInfo] = {me.node: me}
        self.deaths: dict[NodeId, Death] = {}
        self._epoch: RingEpoch | None = None
        self.apply(known, deaths)

    @property
    def mine(self) -> NodeInfo:
        return self.infos[self.me]

    # --- this node ---------------------------------------------------------------------------

    def beat(self) -> None:
        """Once a round."""
        heartbeat, ring = self.mine.heartbeat + 1, self.ring_epoch().fingerprint
        self.infos[self.me] = replace(self.mine, heartbeat=heartbeat, ring=ring)

    def change_mine(self, **changes: object) -> NodeInfo:
        """Change this node's own record; what comes back is to be kept on the disk before it is
        gossiped, because the ring version must never go back."""
        before = self.mine
        after = replace(before, **changes, heartbeat=before.heartbeat + 1)  # type: ignore[arg-type]
        if after.on_ring() != before.on_ring():
            after = replace(after, ring_version=before.ring_version + 1)
        self.infos[self.me] = after
        self._epoch = None
        return after

    def outbid(self, heard: NodeInfo) -> None:
        """This node lost what it had kept, and others know what it had said: go on from there, so
        that they listen again. To be kept before it is gossiped, as after `change_mine`."""
        assert heard.node == self.me, "only a node's own words are outbid by it"
        mine = self.mine
        self.infos[self.me] = replace(
            mine,
            generation=max(heard.generation, mine.generation) + 1,
            status=heard.status,
            ring_version=max(heard.ring_version, mine.ring_version) + 1,
        )
        self._epoch = None

    # --- exchange ----------------------------------------------------------------------------

    def digest(self) -> dict[NodeId, Version]:
        return {node: info.version for node, info in self.infos.items()}

    def answer(self, digest: Mapping[NodeId, Version]) -> Answer:
        newer = tuple(
            info
            for node, info in self.infos.items()
            if node not in digest or digest[node] < info.version
        )
        wanted = tuple(
            node
            for node, version in digest.items()
            if node not in self.deaths
            and (node not in self.infos or self.infos[node].version < version)
        )
        return Answer(newer, wanted, tuple(self.deaths.values()))

    def records(self, wanted: Iterable[NodeId]) -> tuple[NodeInfo, ...]:
        return tuple(self.infos[node] for node in wanted if node in self.infos)

    def apply(self, infos: Iterable[NodeInfo] = (), deaths: Iterable[Death] = ()) -> Learned:
        """Take in what came from elsewhere. Any order, any number of times."""
        before, learned = self.ring_epoch(), Learned()
        for death in deaths:
            if death.node == self.me:
                learned.declared_dead = True
            elif death.node not in self.deaths:
                self.deaths[death.node] = death
                self.infos.pop(death.node, None)
                self._epoch = None
                learned.died.append(death.node)
        for info in infos:
            self._take(info, learned)
        learned.ring_changed = self.ring_epoch() != before
        return learned

    def _take(self, info: NodeInfo, learned: Learned) -> None:
        if info.node == self.me:
            # Our own words come back at most as new as we spoke them.
            if info.version > self.mine.version:
                learned.usurped = info
            return
        known = self.infos.get(info.node)
        if info.node in self.deaths or (known is not None and info.version <= known.version):
            return
        self.infos[info.node] = info
        if known is None or known.on_ring() != info.on_ring():
            self._epoch = None
        learned.heard.append(info.node)
        if known is None:
            learned.joined.append(info.node)

    # --- deaths ------------------------------------------------------------------------------

    def declare_dead(self, node: NodeId, reason: str) -> Death:
        """Final. The caller is an operator's command, or asked `may_declare`."""
        assert node != self.me, "a node that has left tells the others, and ends"
        death = Death(node, self.me, reason)
        self.apply(deaths=[death])
        return self.deaths[node]

    def last_words(self, reason: str = "left") -> Death:
        """What a node that has handed everything over tells the others before it ends."""
        return Death(self.me, self.me, reason)

    def may_declare(self, healths: Mapping[NodeId, Health]) -> bool:
        """Whether a deadline counts on this side: it has more than half of all members."""
        alive = 1 + sum(
            healths.get(node, Health.DOWN) is not Health.DOWN
            for node in self.infos
            if node != self.me
        )
        return 2 * alive > len(self.infos)

    # --- the ring ----------------------------------------------------------------------------

    def serving(self) -> list[Member]:
        """The ring that reads use."""
        return [i.member() for i in self.infos.values() if i.status is not Status.JOINING]

    def arriving(self) -> list[Member]:
        """The ring as it will be: writes go to this one's owners too."""
        return [i.member() for i in self.infos.values() if i.status is not Status.LEAVING]

    def ring_epoch(self) -> RingEpoch:
        """Kept until something of the ring changes: with 1,000 nodes it takes milliseconds."""
        if self._epoch is None:
            self._epoch = self._count_epoch()
        return self._epoch

    def agreed(self) -> bool:
        """Whether every member says that it goes by the same ring as this node."""
        ring = self.ring_epoch().fingerprint
        return all(info.ring == ring for node, info in self.infos.items() if node != self.me)

    def _count_epoch(self) -> RingEpoch:
        number = _DEATH * len(self.deaths) + sum(i.ring_version for i in self.infos.values())
        content = [sorted(i.on_ring() for i in self.infos.values()), sorted(self.deaths)]
        digest = blake2b(repr(content).encode(), digest_size=8).digest()
        return RingEpoch(number, int.from_bytes(digest, "big"))

    # --- whom to talk to ---------------------------------------------------------------------

    def targets(
        self, healths: Mapping[NodeId, Health], dice: Dice, *, fanout: int = 1
    ) -> list[NodeId]:
        """Peers for this round: some that are alive, and now and then one that is down, so that a
        healed partition is noticed from both sides."""
        peers = sorted(node for node in self.infos if node != self.me)
        alive = [node for node in peers if healths.get(node, Health.DOWN) is not Health.DOWN]
        down = [node for node in peers if healths.get(node, Health.DOWN) is Health.DOWN]
        chosen = _some(alive, fanout, dice)
        if down and dice.randrange(0, len(peers) + 1) < max(1, len(down)):
            chosen += _some(down, 1, dice)
        return chosen


def _some(nodes: list[NodeId], count: int, dice: Dice) -> list[NodeId]:
    """Different ones, by chance."""
    left = list(nodes)
    chosen: list[NodeId] = []
    while left and len(chosen) < count:
        chosen.append(left.pop(dice.randrange(0, len(left))))
    return chosen
