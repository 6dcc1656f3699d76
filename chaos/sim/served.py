"""Merged watches and leases over shards, while a cluster governs itself and everything fails.

`--faults ...,moves,leases` comes here: governed.py on nodes that serve (served_node.py).

    Follower   one watch of a whole keyspace, from the beginning to the end, through whichever node;
               it goes on elsewhere by its cursor. Told everything once, the changes of a key in
               order: judged as the cursors of shards.py are
    Holder     grants a lease, hangs keys of several shards on it, keeps it for a while, then lets
               it go or run out. While it is kept its keys are there; in the end all are gone, from
               every shard, and nothing of the leases stands anywhere
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from chaos.checkers.violation import Violation
from chaos.sim.governed import GovernedSimulation
from chaos.sim.served_node import ServedCluster, ServedNode
from kv.api.queries import KeysQuery
from kv.api.watch_queries import page_of
from kv.api.watching import REVISION_BYTES
from kv.model import ReadOptions, WriteOptions
from kv.watch.index import EVERYTHING
from kv.watch.merged import MergedWatch, Told
from kv.watch.messages import Cancelled
from kv.watch.position import Position
from kv.watch.watcher import WatchRequest
from raftgroups.commands import Command, LeaseGrant, LeaseKeepAlive, LeaseRevoke, Put, Token
from raftgroups.meta.records import DEFAULT_KEYSPACE_ID
from storage.errors import JanusError

HOLDERS: Final = 2
THINK_S: Final = 0.5
TTLS_S: Final = (2, 4)
WIRE_S: Final = (0.0001, 0.003)
LETTERS: Final = b"bfjnrvz"
CHECK_S: Final = 0.4
SURE_PART: Final = 0.8
"""Of a lease's time, for which its holder may rely on it."""
LOSES_TIME: Final = frozenset({"clockjump", "freeze"})
"""Faults that may take time away from a lease."""


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


class Holder:
    """One lease after the other."""

    def __init__(self, simulation: ServedSimulation, number: int) -> None:
        self.simulation = simulation
        self.cluster = simulation.cluster
        self.world = self.cluster.world
        self.number = number
        self.rng = self.world.rng(f"holder/{number}")
        self.client = b"holder-%d" % number
        self.count = 0
        self.sequence = 0
        self.busy = False
        self._lease = 0
        self._ttl_s = 0
        self._keys: tuple[bytes, ...] = ()
        self._sure_until = 0.0
        self._rounds = 0

    def pause(self, step: Callable[[], None]) -> None:
        self.world.after(self.rng.expovariate(1.0 / THINK_S), step)

    def begin(self) -> None:
        if self.simulation.workload.stopped:
            self.busy = False
            return
        self.busy = True
        self.count += 1
        self._lease = 1_000 * (self.number + 1) + self.count
        self._ttl_s = self.rng.choice(TTLS_S)
        self._rounds = self.rng.randrange(1, 6)
        letters = self.rng.sample(LETTERS, 3)
        self._keys = tuple(b"%c7-%d" % (letter, self._lease) for letter in sorted(letters))
        self.simulation.hung |= set(self._keys)
        self._write(LeaseGrant(self._lease, self._ttl_s), self._granted)

    def _granted(self, answer: Any, asked: float) -> None:
        if isinstance(answer, JanusError):
            self._end("not granted")
            return
        self._sure_until = asked + SURE_PART * self._ttl_s
        self._hang(0)

    def _hang(self, place: int) -> None:
        if place == len(self._keys):
            self.pause(self._keep)
            return

        def hung(answer: Any, asked: float) -> None:
            if isinstance(answer, JanusError):
                self._end(f"not hung: {answer.code}")
            else:
                self._hang(place + 1)

        key = self._keys[place]
        self._write(Put(key, key, lease=self._lease), hung)

    def _keep(self) -> None:
        self._rounds -= 1
        if self._rounds < 0 or self.simulation.workload.stopped:
            if self.rng.random() < 0.5:
                self._write(LeaseRevoke(self._lease), lambda _, asked: self._end("let go"))
            else:
                self._end("left")
            return
        self._write(LeaseKeepAlive((self._lease,)), self._kept)

    def _kept(self, answer: Any, asked: float) -> None:
        if isinstance(answer, JanusError):
            self._end("not kept")
            return
        if not all(answer.ttls_s):
            self._end("over")  # when this was executed: it had been on its way for too long
            return
        self._sure_until = max(self._sure_until, asked + SURE_PART * self._ttl_s)
        self._look()

    def _look(self) -> None:
        key = self.rng.choice(self._keys)

        def found(answer: Any) -> None:
            if isinstance(answer, JanusError) or self.world.now > self._sure_until:
                return
            if not answer.results[0].found and not self.simulation.loses_time:
                self.simulation.wrong.append(
                    Violation("leases", f"{key!r} is gone, lease {self._lease} is not over")
                )

        node = self._node()
        if node is not None:
            self.world.after(
                self.rng.uniform(*WIRE_S), self._read, node, key, found,
                owner=node.process, frame=True,
            )  # fmt: skip
        self.pause(self._keep)

    def _read(self, node: ServedNode, key: bytes, found: Callable[[Any], None]) -> None:
        assert node.keyspace is not None
        node.keyspace.read(KeysQuery((key,)), found, ReadOptions(deadline_s=1.0))

    def _end(self, how: str) -> None:
        self.simulation.workload.results[f"lease {how}"] += 1
        self.pause(self.begin)

    # --- calls ---------------------------------------------------------------------------------

    def _node(self) -> ServedNode | None:
        nodes = [node for node in self.cluster.serving if node.running]
        return self.rng.choice(nodes) if nodes else None

    def _write(self, command: Command, done: Callable[[Any, float], None]) -> None:
        """Asked again, with its token, until there is an answer."""
        self.sequence += 1
        token, asked = Token(self.client, self.sequence), self.world.now
        over = False

        def ended(answer: Any) -> None:
            nonlocal over
            again = isinstance(answer, JanusError) and answer.retryable
            if over or (again and self.world.now < asked + 20.0):
                return
            over = True
            self.world.after(self.rng.uniform(*WIRE_S), done, answer, asked)

        def attempt() -> None:
            if over:
                return
            node = self._node()
            if node is not None:
                self.world.after(
                    self.rng.uniform(*WIRE_S), ask, node, owner=node.process, frame=True
                )
            self.world.after(1.0, attempt)

        def ask(node: ServedNode) -> None:
            assert node.keyspace is not None
            node.keyspace.write(command, ended, WriteOptions(token, deadline_s=2.0))

        attempt()


class ServedSimulation(GovernedSimulation):
    cluster: ServedCluster

    def __init__(self, cluster: ServedCluster) -> None:
        super().__init__(cluster)
        self.follower = Follower(cluster)
        self.holders = [Holder(self, number) for number in range(HOLDERS)]
        self.hung: set[bytes] = set()
        """Keys that ever hung on a lease."""
        self.wrong: list[Violation] = []

    @property
    def loses_time(self) -> bool:
        return bool(LOSES_TIME & self.injector.injected.keys())

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
