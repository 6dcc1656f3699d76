"""Merged watches and leases over shards, while a cluster governs itself and everything fails.

`--faults ...,moves,leases` comes here: governed.py on nodes that serve (served_node.py).

    Follower   one watch of a whole keyspace, from the beginning to the end, through whichever node;
               it goes on elsewhere by its cursor. Told everything once, the changes of a key in
               order: judged as the cursors of shards.py are
    Holder     grants a lease, hangs keys of several shards on it, keeps it for a while, then lets
               it go or run out (holder.py). While it is kept its keys are there; in the end all are
               gone, from every shard, and nothing of the leases stands anywhere
"""

from __future__ import annotations

import json
from typing import Final

from chaos.checkers.violation import Violation
from chaos.sim.governed import GovernedSimulation
from chaos.sim.holder import Holder
from chaos.sim.served_node import ServedCluster, ServedNode
from kv.api.watch_queries import page_of
from kv.api.watching import REVISION_BYTES
from kv.watch.index import EVERYTHING
from kv.watch.merged import MergedWatch, Told
from kv.watch.messages import Cancelled
from kv.watch.position import Position
from kv.watch.watcher import WatchRequest
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID

HOLDERS: Final = 2
CHECK_S: Final = 0.4


class Follower:
    """A client that watches all of a keyspace."""

    def __init__(self, cluster: ServedCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng = cluster.world.rng("follower")
        self.seen: list[tuple[bytes, int, bytes]] = []
        self.cursor = ""
        self.connections = 0
        self._watch: MergedWatch | None = None
        self._node: ServedNode | None = None
        self._life = 0

    def start(self) -> None:
        self.world.after(CHECK_S, self._check)

    def _check(self) -> None:
        node = self._node
        lost = node is None or not node.running or node.lives != self._life
        if lost or self._watch is None:
            self._connect()
        elif self.rng.random() < 0.1:
            assert node is not None
            self.world.after(0.0, self._leave, self._watch, owner=node.process)
        self.world.after(CHECK_S, self._check)

    def _leave(self, watch: MergedWatch) -> None:
        watch.close()
        if self._watch is watch:
            self._watch = None

    def _connect(self) -> None:
        nodes = [n for n in self.cluster.serving if n.running and not n.frozen]
        if nodes:
            self._node = self.rng.choice(nodes)
            self._watch, self._life = None, self._node.lives
            self.world.after(0.0, self._begin, self._node, owner=self._node.process)

    def _begin(self, node: ServedNode) -> None:
        assert node.keyspace is not None
        assert node.watches is not None
        assert node.loop is not None
        ground = node.keyspace.ground(node.watches, page_of)
        assert ground is not None
        position = Position.begin(EVERYTHING)
        if self.cursor:
            position = Position.of_cursor(self.cursor, DEFAULT_KEYSPACE_ID, EVERYTHING)
        self.connections += 1
        watch: MergedWatch | None = None

        def wake() -> None:
            assert node.loop is not None
            node.loop.call_soon(self._take, watch)

        watch = self._watch = MergedWatch(
            ground, WatchRequest(EVERYTHING), position, wake, scheduler=node.loop, progress_s=1.0
        )

    def _take(self, watch: MergedWatch) -> None:
        while self._watch is watch and (taken := watch.take(self.rng.choice((0, 200)))):
            for message in taken:
                if isinstance(message, Cancelled):
                    self.world.trace(f"follower: {message}")
                    self._watch = None
                    return
                self.cursor = message.cursor
                if isinstance(message, Told):
                    self.seen += [_event(part) for part in message.parts]
            watch.room()


def _event(part: bytes) -> tuple[bytes, int, bytes]:
    line = json.loads(part[REVISION_BYTES:])
    return line["key"].encode(), line["version"], (line.get("value") or "").encode()


class ServedSimulation(GovernedSimulation):
    cluster: ServedCluster

    def __init__(self, cluster: ServedCluster) -> None:
        super().__init__(cluster)
        self.follower = Follower(cluster)
        self.holders = [Holder(self, number) for number in range(HOLDERS)]
        self.hung: set[bytes] = set()
        """Keys that ever hung on a lease."""
        self.wrong: list[Violation] = []

    def clocks_well_since(self) -> float:
        """Since when no clock has run fast or leapt."""
        return max(node.clock.fast_at for node in self.cluster.nodes)

    def _go(self) -> None:
        super()._go()
        self.follower.start()
        for holder in self.holders:
            holder.pause(holder.begin)

    def _unsettled(self) -> str | None:
        if any(holder.busy for holder in self.holders):
            return "holders of leases are busy"
        return super()._unsettled() or self._leases() or self._behind()

    def _leases(self) -> str | None:
        for group in self.cluster.groups:
            found = self.cluster.admin.leader(group)
            shard = None if found is None else found[0].shard(group)  # type: ignore[attr-defined]
            if shard is None:
                return f"group {group} is not served"
            if shard.leases.ids() or shard.leases.ended:
                return f"leases of group {group} have not ended"
            own = shard.view.segments.own
            left = [key for key in sorted(self.hung) if own.holds_key(key) and shard.view.get(key)]
            if left:
                return f"group {group} has {left}, of leases that ended"
        return None

    def _behind(self) -> str | None:
        """The watch has still to tell something."""
        lacking = len(self.cluster.events.changes) - len(self.follower.seen)
        return f"the watch lacks {lacking} changes" if lacking > 0 else None

    def _judge(self) -> None:
        report = self.cluster.observer.report
        report(self.wrong)
        if not self.result.stuck:
            seen = self.follower.seen
            report(self.cluster.events.check_cursor(DEFAULT_KEYSPACE_ID, seen))
            self.cluster.admin.done["connection of the watch"] += self.follower.connections
        super()._judge()
