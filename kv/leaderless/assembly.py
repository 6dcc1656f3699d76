"""The leaderless regime of one node, put together: what a node and the simulator both make.

    engine, committer --> Replica --.
    link --> Messenger <--> Server --+--> Coordinator (get, put)
    post --> Members (gossip, view)  +--> Handoff
                                     '--> Maintenance (repair, reaping, joining, leaving)

Whoever makes it gives an environment of its own (engine and committer are the leaderless regime's
alone: storage/committer.py), the link and mail of the node, time and dice. Who the members are is
gossip's business (members.py); `start` is told the founders while a cluster is being formed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from kv.cluster.mail import Notes
from kv.cluster.ring import Member
from kv.leaderless.coordinator import Coordinator
from kv.leaderless.deadlines import Deadlines
from kv.leaderless.feed import Feed
from kv.leaderless.handoff import Handoff, HandoffSettings
from kv.leaderless.keyspace import Keyspace, Keyspaces
from kv.leaderless.maintenance import Maintenance, MaintenanceSettings
from kv.leaderless.members import (
    Members,
    MemberSettings,
    empty_if_restored,
    keep_if_restored,
)
from kv.leaderless.messenger import Messenger
from kv.leaderless.parts import CoordinatorSettings, Parts
from kv.leaderless.procedure import Procedures
from kv.leaderless.ranges import Ranges
from kv.leaderless.reap import QuietLedger
from kv.leaderless.replica import Replica, ReplicaLimits
from kv.leaderless.server import Server
from kv.leaderless.spreading import Spreader
from kv.leaderless.view import RingView
from raftgroups.transport import Link, NodeId
from storage.buckets import bucket_of
from storage.clock import Clock, Rng, Scheduler
from storage.committer import Committer
from storage.engine import Engine
from storage.space import SpaceGuard

_log = logging.getLogger(__name__)


def _say(why: str) -> None:
    _log.critical("this node's leaderless regime must not go on: %s", why)


class Leaderless:
    def __init__(
        self,
        *,
        node: NodeId,
        directory_incarnation: int,
        engine: Engine,
        committer: Committer,
        link: Link,
        post: Notes,
        clock: Clock,
        scheduler: Scheduler,
        rng: Rng,
        keyspaces: Mapping[int, Keyspace],
        guard: SpaceGuard | None = None,
        limits: ReplicaLimits | None = None,
        settings: CoordinatorSettings | None = None,
        handoff: HandoffSettings | None = None,
        members: MemberSettings | None = None,
        maintenance: MaintenanceSettings | None = None,
        on_dead: Callable[[str], None] = _say,
        keep_restored: bool = False,
    ) -> None:
        """`keep_restored`: all nodes were restored together, from copies of one time, so what is
        in them is the newest there is. `on_dead`: this node must not go on, and why; it takes no
        more requests then."""
        self.node = node
        self._on_dead = on_dead
        if keep_restored:
            keep_if_restored(engine, directory_incarnation, rng)
        self.emptied = empty_if_restored(engine, directory_incarnation)
        """The directory came out of a copy, and the others fill this node again."""
        self.replica = Replica(
            engine,
            committer,
            node=node,
            directory_incarnation=directory_incarnation,
            clock=clock,
            scheduler=scheduler,
            rng=rng,
            guard=guard,
            limits=limits,
        )
        boot = rng.randrange(1, 1 << 62)
        self.replica.feed = self.feed = Feed(boot)
        self.keyspaces = Keyspaces(keyspaces)
        self.members = Members(
            node,
            replica=self.replica,
            link=link,
            post=post,
            clock=clock,
            scheduler=scheduler,
            rng=rng,
            keyspaces=self.keyspaces,
            on_view=self._view_changed,
            on_dead=self._dead,
            settings=members,
        )
        self.ledger = QuietLedger()
        self.messenger = Messenger(
            link,
            scheduler=scheduler,
            clock=clock,
            ring=lambda: self.view.epoch,
            serve=lambda peer, request, reply: self.server.serve(peer, request, reply),
            other_ring=self._other_ring,
            ledger=self.ledger,
        )
        coordinator_settings = settings or CoordinatorSettings()
        self.parts = Parts(
            node,
            self.replica,
            self.messenger,
            lambda: self.view,
            self.reachable,
            self.keyspaces,
            scheduler,
            clock,
            rng,
            coordinator_settings,
            self.ledger,
            Spreader(self.messenger, clock, lambda: coordinator_settings.replica_timeout_s),
            Deadlines(scheduler, clock),
            self.members.may_read_key,
        )
        self.coordinator = Coordinator(self.parts)
        self.procedures = Procedures(scheduler, committer.fail)
        self.maintenance = Maintenance(
            self.parts,
            self.members,
            self.procedures,
            boot=boot,
            settings=maintenance,
        )
        self.replica.took = self._took
        self.replica.told = self.parts.spreader.flush
        self.server = Server(self.parts, self.coordinator, self.maintenance)
        self.handoff = Handoff(self.parts, handoff)
        link.on_peer_change(self.handoff.peer_changed)

    @property
    def view(self) -> RingView:
        return self.members.view

    def reachable(self, node: NodeId) -> bool:
        return self.members.reachable(node)

    def _other_ring(self, peer: NodeId) -> None:
        if self.members.gossip is not None:
            self.members.gossip.ask(peer)

    def _view_changed(self) -> None:
        self.maintenance.view_changed()

    def _took(self, keyspace: int, keys: Sequence[bytes], hinted: bool) -> None:
        """Sets of keys that this node is not to have are marked: reap.py."""
        space = self.parts.keyspaces.get(keyspace)
        view = self.view
        if space is not None and not hinted and view.holds_all(self.node, space.n):
            return
        for key in keys:
            if space is None or self.node not in view.holders(bucket_of(key), space.n):
                self.ledger.took(keyspace, key)
                self.maintenance.house.took_foreign()
            elif hinted:
                self.ledger.took(keyspace, key)

    def _dead(self, why: str) -> None:
        self.coordinator.stop()
        self.members.stop()
        self._on_dead(why)

    # --- keyspaces that come and go -----------------------------------------------------------

    def add_keyspace(self, keyspace: Keyspace, owned: Ranges) -> None:
        """After `start`. `owned`: founding.py."""
        self.keyspaces.put(keyspace)
        self.members.add_keyspace(keyspace.number, keyspace.n, owned)
        self.maintenance.add_keyspace(keyspace)

    def alter_keyspace(self, keyspace: Keyspace) -> None:
        """Other options of one that there is; N stays."""
        self.keyspaces.put(keyspace)

    def drop_keyspace(self, number: int) -> None:
        """It is served no more, and what is held of it goes."""
        self.keyspaces.drop(number)
        self.members.drop_keyspace(number)
        self.maintenance.drop_keyspace(number)
        self.replica.erase(number)

    # --- life -----------------------------------------------------------------------------------

    def start(self, founders: Iterable[NodeId] | None = None, ring: Iterable[Member] = ()) -> None:
        """`founders`: all of them, this node among them, if the ring is being formed now, and
        `ring` how they stand on it; None at a restart, and for a node that joins."""
        self.members.start(None if self.emptied else founders, ring)
        self.maintenance.view_changed()
        self.handoff.start()
        self.maintenance.start()

    def stop(self) -> None:
        """Nothing new is taken; questions under way are answered."""
        self.coordinator.stop()
        self.handoff.stop()
        self.procedures.stop()
        self.members.stop()
        self.messenger.stop()
        self.replica.stop()
