"""The leaderless regime of one node, put together: what a node and the simulator both make.

    engine, committer --> Replica --.
    link --> Messenger <--> Server --+--> Coordinator (get, put)
                                     '--> Handoff

Whoever makes it gives an environment of its own (engine and committer are the leaderless regime's
alone: storage/committer.py), the link, time and dice, and says who the members are with
`set_members`, again whenever that changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kv.leaderless.coordinator import Coordinator
from kv.leaderless.handoff import Handoff, HandoffSettings
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.messenger import Messenger
from kv.leaderless.parts import CoordinatorSettings, Parts
from kv.leaderless.replica import Replica, ReplicaLimits
from kv.leaderless.server import Server
from kv.leaderless.view import RingView
from raftgroups.transport import Link, NodeId
from storage.clock import Clock, Rng, Scheduler
from storage.committer import Committer
from storage.engine import Engine
from storage.space import SpaceGuard


class Leaderless:
    def __init__(
        self,
        *,
        node: NodeId,
        directory_incarnation: int,
        engine: Engine,
        committer: Committer,
        link: Link,
        clock: Clock,
        scheduler: Scheduler,
        rng: Rng,
        keyspaces: Mapping[int, Keyspace],
        guard: SpaceGuard | None = None,
        limits: ReplicaLimits | None = None,
        settings: CoordinatorSettings | None = None,
        handoff: HandoffSettings | None = None,
    ) -> None:
        self.node = node
        self._link = link
        self.view = RingView.of_nodes([node])
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
        self.messenger = Messenger(
            link,
            scheduler=scheduler,
            clock=clock,
            ring=lambda: self.view.epoch,
            serve=lambda peer, request, reply: self.server.serve(peer, request, reply),
        )
        self.parts = Parts(
            node,
            self.replica,
            self.messenger,
            lambda: self.view,
            self.reachable,
            keyspaces,
            scheduler,
            clock,
            rng,
            settings or CoordinatorSettings(),
        )
        self.coordinator = Coordinator(self.parts)
        self.server = Server(self.parts, self.coordinator)
        self.handoff = Handoff(self.parts, handoff)
        link.on_peer_change(self.handoff.peer_changed)

    def reachable(self, node: NodeId) -> bool:
        """A connection stands. Whoever is slow on it is dealt with by time-outs and stand-ins."""
        return node == self.node or self._link.connected(node)

    def set_members(self, nodes: Iterable[NodeId]) -> None:
        """All nodes that store leaderless data, this one among them."""
        view = RingView.of_nodes({*nodes, self.node})
        if view.epoch != self.view.epoch:
            self.view = view

    def start(self) -> None:
        self.handoff.start()

    def stop(self) -> None:
        """Nothing new is taken; questions under way are answered."""
        self.coordinator.stop()
        self.handoff.stop()
        self.messenger.stop()
        self.replica.stop()
