"""This node among the others: its gossip, its list of members on the disk, the view that follows.

    the row "members" --(start)--> Membership --> Gossip <--> other nodes
                                       |  each change of the ring: kept, synced, then
                                       '--> RingView --> on_view

Start. With a row: what was known goes on, one generation later. Without one: a founder (the cluster
is being formed, and all founders are known) is normal at once and lacks nothing; anybody else
joins: it learns the ring from whomever it reaches. A node whose row was lost with its environment
hears that others know it; it goes on in the status that they know, and lacks everything
(filling.py).

`reachable`: a connection stands and the failure detector does not call the node down. Whoever is
slow is dealt with by time-outs and stand-ins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kv.cluster.gossip import Gossip, GossipSettings
from kv.cluster.gossip_wire import Kept, MalformedGossipError, decode_kept, encode_kept
from kv.cluster.mail import Notes
from kv.cluster.membership import Learned, Membership, NodeInfo, Status
from kv.cluster.phi import PhiDetector, PhiOptions
from kv.cluster.ring import DEFAULT_VNODES, Member
from kv.cluster.said_once import SaidOnce
from kv.leaderless.filling import Filling, all_has
from kv.leaderless.incarnation import (
    INCARNATION,
    draw_incarnation,
    read_incarnation,
    write_incarnation,
)
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.ranges import Ranges
from kv.leaderless.replica import Replica
from kv.leaderless.view import RingView
from raftgroups.transport import Link, NodeId
from storage.buckets import bucket_of
from storage.clock import Clock, Rng, Scheduler
from storage.codec import Table
from storage.engine import Batch, Engine
from storage.errors import CorruptRecordError
from storage.rows import read_row

_log = logging.getLogger(__name__)

ROW: Final = bytes((Table.NODE_META,)) + b"members"
LACKS_UNNAMED: Final = 0
"""Stands among the keyspaces of the row: of any that is not named there this node has nothing."""


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """What this node says of itself, and how it listens."""

    vnodes: int = DEFAULT_VNODES
    rack: str = ""
    datacentre: str = ""
    address: str = ""
    """Where peers reach it, "host:port"."""
    client_address: str = ""
    gossip: GossipSettings = field(default_factory=GossipSettings)
    phi: PhiOptions = field(default_factory=PhiOptions)


class Members:
    def __init__(
        self,
        node: NodeId,
        *,
        replica: Replica,
        link: Link,
        post: Notes,
        clock: Clock,
        scheduler: Scheduler,
        rng: Rng,
        keyspaces: Mapping[int, Keyspace],
        on_view: Callable[[], None],
        on_dead: Callable[[str], None],
        settings: MemberSettings | None = None,
    ) -> None:
        """`on_view` is told of each new `view`; `on_dead`: this node must not go on, and why."""
        self.node = node
        self._replica = replica
        self._link = link
        self._post = post
        self._clock = clock
        self._scheduler = scheduler
        self._rng = rng
        self._keyspaces = keyspaces
        self._on_view = on_view
        self._on_dead = on_dead
        self._settings = settings or MemberSettings()
        self._said = SaidOnce(_log)
        self.on_member: Callable[[NodeInfo], None] = lambda _: None
        """Somebody was heard of for the first time: dial him."""
        self.fillings: dict[int, Filling] = {}
        self.forgetful = False
        """Of a keyspace that this node hears of now it may have missed what was written: it has
        just joined, or lost what it had kept. Kept, as LACKS_UNNAMED."""
        self._filled: dict[int, Ranges] = {}
        """As it was kept when this life began."""
        self.membership = Membership(NodeInfo(node, 0))
        self.view = RingView.of(self.membership)
        self.gossip: Gossip | None = None
        self._met: dict[NodeId, None] = {}
        link.on_peer_change(self._peer_changed)

    # --- start ----------------------------------------------------------------------------

    def start(self, founders: Iterable[NodeId] | None, ring: Iterable[Member] = ()) -> None:
        """`founders`: all of them, this node among them, if the ring is being formed now; `ring`:
        what is known of how they stand on it."""
        kept = self._read()
        seats = {member.node: member for member in ring}
        settings = self._settings
        said = {
            "vnodes": settings.vnodes,
            "rack": settings.rack,
            "datacentre": settings.datacentre,
            "address": settings.address,
            "client_address": settings.client_address,
        }
        if kept is not None:
            mine, known, deaths = kept.mine, kept.others, kept.deaths
            self.membership = Membership(_next_life(mine), known, deaths)
            self.membership.change_mine(**said)
        else:
            others = sorted({*(founders or ())} - {self.node})
            # Until they say otherwise, the others are as this node is.
            known = tuple(
                _founder(seats.get(each) or Member(each, settings.vnodes)) for each in others
            )
            status = Status.JOINING if founders is None else Status.NORMAL
            info = NodeInfo(self.node, 1, status=status, **said)  # type: ignore[arg-type]
            self.membership = Membership(info, known)
        self.view = RingView.of(self.membership)
        has = self._filled = {} if kept is None else dict(kept.filled)
        self.forgetful = LACKS_UNNAMED in has or (kept is None and founders is None)
        if kept is None and founders is not None:
            has = all_has(self.node, self.view, {n: k.n for n, k in self._keyspaces.items()})
        for number, keyspace in self._keyspaces.items():
            self.fillings[number] = Filling(self.node, keyspace.n, has.get(number, ()))
        self._go_by_view()
        self.gossip = Gossip(
            self.membership,
            post=self._post,
            connected=self._link.connected,
            detector=PhiDetector(settings.phi),
            clock=self._clock,
            scheduler=self._scheduler,
            rng=self._rng,
            keep=self.keep,
            changed=self._changed,
            settings=settings.gossip,
            met=self._met,
            fresh=kept is None and (founders is None or len(self.membership.infos) > 1),
        )
        self.gossip.start()

    def add_keyspace(self, number: int, n: int, owned: Ranges) -> None:
        """`owned`: what this node owned of the ring when the keyspace was made (founding.py)."""
        known = self._filled.get(number)
        if known is None:
            known = () if self.forgetful else owned
        filling = self.fillings[number] = Filling(self.node, n, known)
        filling.look(self.view)
        self.keep(_nothing)

    def drop_keyspace(self, number: int) -> None:
        self.fillings.pop(number, None)
        self._filled.pop(number, None)
        self.keep(_nothing)

    def remember(self) -> None:
        """All members know the keyspaces that this node knows, and it lacks nothing of them."""
        if self.forgetful:
            self.forgetful = False
            self.keep(_nothing)

    def met(self, peer: NodeId) -> None:
        """A connection to it stood before this node had a ring."""
        self._peer_changed(peer, connected=True)

    def stop(self) -> None:
        if self.gossip is not None:
            self.gossip.stop()

    def _peer_changed(self, peer: NodeId, connected: bool) -> None:
        if self.gossip is not None:
            self.gossip.peer_changed(peer, connected)
        elif connected:
            self._met[peer] = None
        else:
            self._met.pop(peer, None)

    def _read(self) -> Kept | None:
        """What was kept; None if nothing was, or if it cannot be read: others know it too."""
        try:
            body = self._replica.kept(ROW)
            return None if body is None else decode_kept(body)
        except (CorruptRecordError, MalformedGossipError) as error:
            self._said.warn(f"node {self.node}", "unreadable_members", str(error))
            return None

    def keep(self, then: Callable[[], None]) -> None:
        others = tuple(i for node, i in self.membership.infos.items() if node != self.node)
        filled = {number: filling.has for number, filling in self.fillings.items()}
        if self.forgetful:
            filled[LACKS_UNNAMED] = ()
        body = encode_kept(
            Kept(self.membership.mine, others, tuple(self.membership.deaths.values()), filled)
        )
        self._replica.keep(ROW, body, then)

    # --- news -----------------------------------------------------------------------------

    def _changed(self, learned: Learned) -> None:
        if learned.declared_dead:
            self._on_dead(
                "the other nodes were told that this node is dead; it may return only "
                "with an empty directory, as a new node"
            )
            return
        if learned.usurped is not None:
            self._on_dead(
                "another process speaks under this node's id: its data directory was "
                "copied; end one of the two, and let it join with an empty directory"
            )
            return
        if learned.forgot:
            self.forgetful = True
            self._filled.clear()
            for filling in self.fillings.values():
                filling.has = ()
        for node in learned.joined:
            self.on_member(self.membership.infos[node])
        if learned.ring_changed:
            self.view = RingView.of(self.membership)
            self._go_by_view()
            self._on_view()

    def _go_by_view(self) -> None:
        for filling in self.fillings.values():
            filling.look(self.view)

    # --- what others ask ------------------------------------------------------------------

    @property
    def status(self) -> Status:
        return self.membership.mine.status

    @property
    def lacking(self) -> bool:
        """Whether this node has not got yet all that it is to have."""
        return any(filling.lacking for filling in self.fillings.values())

    def reachable(self, node: NodeId) -> bool:
        if node == self.node:
            return True
        if not self._link.connected(node):
            return False
        return self.gossip is None or node not in self.gossip.down

    def may_read_key(self, keyspace: int, key: bytes) -> bool:
        filling = self.fillings.get(keyspace)
        return filling is None or not filling.lacking or filling.may_read(bucket_of(key))

    def may_read(self, keyspace: int, bucket: int) -> bool:
        filling = self.fillings.get(keyspace)
        return filling is None or filling.may_read(bucket)


def _nothing() -> None:
    """Nobody waits until it is kept."""


def _founder(member: Member) -> NodeInfo:
    """What is known of it before it has said anything."""
    return NodeInfo(
        member.node,
        0,
        status=Status.NORMAL,
        vnodes=member.vnodes,
        rack=member.rack,
        datacentre=member.datacentre,
    )


def empty_if_restored(engine: Engine, directory_incarnation: int) -> bool:
    """Empty an environment that came out of a copy, unless nobody else could fill it again.

    Keys may have been deleted and reaped since the copy was made: with it they would come back.
    """
    with engine.snapshot() as reader:
        try:
            row = reader.get(INCARNATION)
            restored = row is not None and read_incarnation(reader, directory_incarnation) is None
            body = read_row(reader, ROW) if restored else None
            others = bool(body is not None and decode_kept(body).others)
        except (CorruptRecordError, MalformedGossipError):
            return False
    if others:
        _log.warning(
            "this directory was restored from a copy: its leaderless data is emptied, since keys "
            "may have been deleted since; the other nodes fill it again"
        )
        batch = Batch()
        batch.delete_range(b"\x00", None)
        engine.write(batch, sync=True)
    return others


def keep_if_restored(engine: Engine, directory_incarnation: int, rng: Rng) -> None:
    """Take an environment that came out of a copy for what it is, once: it lives on under a new
    incarnation, kept at once, so that the next start does not find it restored again."""
    with engine.snapshot() as reader:
        row = reader.get(INCARNATION)
        restored = row is not None and read_incarnation(reader, directory_incarnation) is None
    if restored:
        _log.warning("this directory was restored from a copy: its leaderless data is served")
        batch = Batch()
        write_incarnation(batch, draw_incarnation(rng), directory_incarnation)
        engine.write(batch, sync=True)


def _next_life(mine: NodeInfo) -> NodeInfo:
    return NodeInfo(
        mine.node,
        mine.generation + 1,
        0,
        mine.status,
        mine.address,
        mine.client_address,
        mine.vnodes,
        mine.rack,
        mine.datacentre,
        0,
        mine.ring_version,
    )
