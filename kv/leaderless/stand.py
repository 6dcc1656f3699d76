"""The leaderless regime as one node has it: opened where there is a ring, and led by the map.

    the map (group 0)  --(each new view)-->  this  -->  LeaderlessEnvironment
      ring             there is one: open the environment, as a founder or to join
      keyspaces        leaderless ones are added, altered, dropped and erased
      nodes            draining: leave the ring; active again: stay; dead: declared so in the ring

The map says what is wanted, the ring what is: nothing flows back, and while the meta group has no
majority the ring goes on as it is, only nobody joins, leaves or dies. A keyspace that this node has
not heard of is refused here, and a stand-in takes the write.

A cluster formed by a version that had no ring in its map has its keyspace `default` in the ring by
the configuration of all its nodes (`mode`); for it the map's `default` stays what it never was, a
strong keyspace, and is not served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from kv.cluster.mail import NoAnswerError
from kv.cluster.ring import Member
from kv.errors import UnavailableError
from kv.leaderless.environment import LeaderlessEnvironment, LeftRingError
from kv.leaderless.founding import keyspace_of, members_of, owned, seats_of_nodes, seats_of_ring
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.serving import Serving
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    KeyspaceRecord,
    KeyspaceState,
    NodeState,
    Regime,
    RingSeat,
)
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId
from storage.datadir import RegimeName
from storage.errors import InvalidRequestError, JanusError
from storage.objects import keyspaces_held

if TYPE_CHECKING:
    from kv.node import Node

_log = logging.getLogger(__name__)

STANDING: Final = "ring-standing"
OPEN_AGAIN_S: Final = 5.0
ANSWER_WITHIN_S: Final = 1.0


class Standing(msgspec.Struct, array_like=True, frozen=True):
    """How far one node has got on the ring."""

    status: str
    """joining, normal, leaving or left."""
    lacking: float
    """Which part of what it is to have it has not got yet."""
    hints: int
    foreign: int
    """Copies that belong to others and have not gone there."""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Standing).decode


class LeaderlessStand:
    """For the node's loop only."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.environment: LeaderlessEnvironment | None = None
        self.on_open: Callable[[LeaderlessEnvironment], None] = lambda _: None
        """Told once, when it serves."""
        self.on_altered: Callable[[Keyspace], None] = lambda _: None
        self.trouble = ""
        """Why the environment is not open although there is a ring."""
        self._scheduled = self._stopped = False
        self._known: dict[int, Keyspace] = {}
        node.mail.on(STANDING, self._asked)
        self.serving = Serving(
            node.mail, lambda: node.node_id, node.clock, lambda number: number in self._known
        )

    # --- what faces ask -----------------------------------------------------------------------

    @property
    def by_configuration(self) -> bool:
        """Formed by a version that had no ring in its map, with `mode` leaderless."""
        view = self._node.meta.map.view
        record = view.keyspaces.get(DEFAULT_KEYSPACE_ID)
        return (
            self._node.settings.default_leaderless is not None
            and view.ring is None
            and record is not None
            and record.regime is Regime.STRONG
            and self._node.directory.environment_path(RegimeName.LEADERLESS).exists()
        )

    @property
    def has_default(self) -> bool:
        """The keyspace `default` is leaderless. The map decides, once there is one: `mode` is what
        a cluster is formed with."""
        record = self._node.meta.map.view.keyspaces.get(DEFAULT_KEYSPACE_ID)
        leaderless = record is not None and record.regime is Regime.LEADERLESS
        return leaderless or self.by_configuration

    def keyspace(self, record: KeyspaceRecord) -> Keyspace:
        """Of a leaderless keyspace, as it is served here. Raises UnavailableError, or what says
        that it never will be."""
        found = self._known.get(record.keyspace)
        if found is None and not record.ring:
            raise InvalidRequestError(
                f"nothing was done: the keyspace {record.name!r} was made by an earlier version, "
                "which could not serve it; drop it, and make it again"
            )
        if found is None:
            raise UnavailableError(
                f"nothing was done: this node does not serve the keyspace {record.name!r} yet"
                + (f": {self.trouble}" if self.trouble else "; ask again in a moment")
            )
        return found

    @property
    def default(self) -> Keyspace:
        return self._known[DEFAULT_KEYSPACE_ID]

    def seats(self) -> tuple[RingSeat, ...]:
        """The ring that a keyspace made now is made on. Raises UnavailableError."""
        node = self._node
        view = node.meta.map.view
        settings = node.settings.leaderless
        if settings is None:
            raise UnavailableError("nothing was done: this node takes no part in a ring")
        if self.environment is not None and not self.by_configuration:
            return seats_of_ring(self.environment.regime.members.membership.serving())
        if self.by_configuration:
            raise InvalidRequestError(
                "nothing was done: this cluster was formed by an earlier version, and its ring is "
                "for the keyspace 'default' alone; make a new cluster for more keyspaces"
            )
        if view.ring is not None:
            raise UnavailableError(
                "nothing was done: this node does not know the ring yet; ask again in a moment"
            )
        return seats_of_nodes(view.nodes.values(), settings.vnodes)

    def is_member(self, node: str) -> bool:
        """On the ring, as far as this node knows."""
        return self.environment is not None and (
            NodeId(node) in self.environment.regime.members.membership.infos
        )

    def has_left(self, node: str) -> bool:
        """It was on the ring, and can never be again under its id."""
        return self.environment is not None and (
            NodeId(node) in self.environment.regime.members.membership.deaths
            or (node == self._node.node_id and self.environment.regime.maintenance.left)
        )

    # --- start and end ------------------------------------------------------------------------

    def start(self) -> None:
        """The map is known."""
        if self._node.settings.leaderless is None:
            return
        if self.by_configuration:
            self._open_by_configuration()
        else:
            self._follow()
        self._node.meta.map.on_change(self._changed)

    def look_at_space(self) -> None:
        if self.environment is not None:
            self.environment.look_at_space()

    def drain(self) -> None:
        if self.environment is not None:
            self.environment.regime.coordinator.stop()

    def stop(self) -> None:
        self._stopped = True
        if self.environment is not None:
            self.environment.stop()

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()

    def _changed(self, view: MetaView) -> None:
        """Views are told in the middle of a turn, and a turn is no time to open an engine."""
        if not self._scheduled:
            self._scheduled = True
            self._node.loop.call_soon(self._follow_soon)

    def _follow_soon(self) -> None:
        self._scheduled = False
        if not self._stopped:
            self._follow()

    # --- opening ------------------------------------------------------------------------------

    def _open(
        self, founders: Iterable[NodeId] | None, ring: Iterable[Member]
    ) -> LeaderlessEnvironment:
        node = self._node
        settings = node.settings.leaderless
        assert settings is not None, "asked for before"
        faults = node.settings.faults
        environment = LeaderlessEnvironment(
            settings,
            node.directory,
            link=node.link,
            post=node.mail,
            loop=node.loop,
            clock=node.clock,
            reserve_bytes=node.guard.reserve_bytes,
            on_broken=node.broken,
            on_hung=node.hung,
            on_dead=self._dead,
            wrap=None if faults is None else faults.wrap,
        )
        self.environment = environment
        for peer in node.neighbours.others:
            if node.link.connected(peer):
                environment.regime.members.met(peer)
        environment.start(founders, ring)
        return environment

    def _open_by_configuration(self) -> None:
        """Who joined later, or lost its disk, is told so by the others (kv/cluster/gossip.py)."""
        node = self._node
        assert node.settings.leaderless is not None
        space = node.settings.leaderless.default
        environment = self._open(node.neighbours.all, ())
        self._add(environment, space, None)
        self.on_open(environment)

    def _open_by_map(self, view: MetaView) -> LeaderlessEnvironment | None:
        assert view.ring is not None
        seats = view.ring.founders
        founders = [NodeId(seat.node) for seat in seats]
        own = self._node.node_id in founders
        try:
            environment = self._open(founders if own else None, members_of(seats))
        except JanusError as error:
            if self.has_default:
                raise
            self.trouble = str(error)
            _log.error("the leaderless environment cannot be opened: %s", error)
            self._node.loop.call_later(OPEN_AGAIN_S, self._changed, view)
            return None
        self.trouble = ""
        _log.info("this node is %s the ring", "one of those that found" if own else "joining")
        return environment

    # --- following the map --------------------------------------------------------------------

    def _follow(self) -> None:
        view = self._node.meta.map.view
        environment = self.environment
        first = environment is None
        if environment is None:
            if view.ring is None or self._node.node_id not in view.nodes:
                return
            environment = self._open_by_map(view)
            if environment is None:
                return
        self._follow_keyspaces(environment, view)
        self._follow_nodes(environment, view)
        if first:
            self.on_open(environment)

    def _follow_keyspaces(self, environment: LeaderlessEnvironment, view: MetaView) -> None:
        regime = environment.regime
        served = {
            record.keyspace: record
            for record in view.leaderless
            if record.state is KeyspaceState.ACTIVE and record.ring
        }
        for number, record in served.items():
            keyspace = keyspace_of(record)
            if number not in self._known:
                self._add(environment, keyspace, record)
            elif self._known[number] != keyspace:
                regime.alter_keyspace(keyspace)
                self._known[number] = keyspace
                self.on_altered(keyspace)
        # Numbers are given once, in order: what is below the next one and not there was dropped.
        gone = {*range(1, view.next.keyspace)} - view.keyspaces.keys()
        held = {*self._known, *keyspaces_held(regime.replica.reader())} & gone
        for number in sorted(held - regime.replica.dropped):
            _log.info("keyspace %d was dropped: its keys are erased here", number)
            self._known.pop(number, None)
            regime.drop_keyspace(number)
        regime.replica.dropped |= gone

    def _add(
        self,
        environment: LeaderlessEnvironment,
        keyspace: Keyspace,
        record: KeyspaceRecord | None,
    ) -> None:
        node = self._node.node_id
        if record is None:  # by configuration: all nodes were founders, or are told otherwise
            ranges = environment.regime.view.held(node, keyspace.n)
        else:
            ranges = owned(node, record.ring, keyspace.n)
        environment.regime.add_keyspace(keyspace, ranges)
        self._known[keyspace.number] = keyspace

    def _follow_nodes(self, environment: LeaderlessEnvironment, view: MetaView) -> None:
        regime = environment.regime
        own = view.nodes.get(self._node.node_id)
        if own is not None and own.state is NodeState.DRAINING:
            regime.maintenance.leave()
        elif own is not None and own.state is NodeState.ACTIVE:
            regime.maintenance.stay()
        gossip = regime.members.gossip
        for record in view.nodes.values():
            member = NodeId(record.node)
            dead = record.state is NodeState.DEAD and member != self._node.node_id
            if dead and gossip is not None and member in regime.members.membership.infos:
                gossip.declare_dead(member, "an operator said so")

    def _dead(self, why: str) -> None:
        """The others go on without this node. If it was to leave, that is what was wanted."""
        environment, view = self.environment, self._node.meta.map.view
        record = view.nodes.get(self._node.node_id)
        leaving = record is not None and record.state is NodeState.DRAINING
        if leaving or (environment is not None and environment.regime.maintenance.left):
            _log.info("this node has left the ring")
        else:
            self._node.broken(LeftRingError(why))

    # --- how far it is ------------------------------------------------------------------------

    def standing(self) -> Standing | None:
        """Of this node; None: there is no ring here."""
        if self.environment is None:
            return None
        regime = self.environment.regime
        members = regime.members
        lacking = held = 0
        for filling in members.fillings.values():
            lacking += sum(map(len, filling.lacking))
            held += sum(map(len, (*filling.has, *filling.lacking)))
        left = regime.maintenance.left or self.has_left(self._node.node_id)
        return Standing(
            "left" if left else members.status.value,
            round(lacking / max(1, held), 4),
            sum(usage.count for usage in regime.replica.hint_usages().values()),
            regime.maintenance.house.foreign,
        )

    def _asked(self, peer: NodeId, body: bytes) -> bytes:
        standing = self.standing()
        return b"" if standing is None else _encode(standing)

    async def standing_of(self, node: NodeId) -> Standing | None:
        """None: it has no ring, or does not answer."""
        if node == self._node.node_id:
            return self.standing()
        try:
            body = await self._node.mail.ask(node, STANDING, b"", ANSWER_WITHIN_S)
            return _decode(body) if body else None
        except (NoAnswerError, msgspec.DecodeError):
            return None
