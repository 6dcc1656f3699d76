"""A hand-driven cluster for directed tests: virtual time, frames delivered by the test, no threads.

    cluster = Cluster(3); cluster.create(1); cluster.run(2.0)

Every event (timers, turns, syncs, frames) waits in one queue ordered by virtual time. A test may
hold frames between nodes (`hold`, `release`), drop, change or repeat them (`tap`), let a node's
sync hang (`node.writer.hold`), crash it (what was not synced is gone) and start it again.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from raftgroups import identity
from raftgroups.frames import Frame, decode_frame, encode_frame
from raftgroups.group import Group
from raftgroups.host import GroupHost, HostConfig
from raftgroups.messages import Message
from raftgroups.outcomes import Applied
from raftgroups.outcomes import Done as ChangeDone
from raftgroups.status import Role
from raftgroups.transport import FrameHandler, NodeId, PeerHandler
from storage.committer import Committer
from storage.engine import Batch, Engine
from storage.memory import MemoryEngine
from storage.writers import Done

G = 1


class Event:
    def __init__(self, call: Callable[..., object], args: tuple[Any, ...], owner: Any) -> None:
        self.call: Callable[..., object] | None = call
        self.args = args
        self.owner = owner

    def cancel(self) -> None:
        self.call = None


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self._queue: list[tuple[float, int, Event]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., object], *args: Any, owner: Any = None) -> Event:
        event = Event(call, args, owner)
        self._count += 1
        heapq.heappush(self._queue, (max(when, self.now), self._count, event))
        return event

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float = 10.0) -> bool:
        end = self.now + seconds
        while not condition():
            if not self._queue or self._queue[0][0] > end:
                self.now = end
                return condition()
            when, _, event = heapq.heappop(self._queue)
            if event.call is None or (event.owner is not None and not event.owner.alive):
                continue
            self.now = max(self.now, when)
            if event.owner is not None and event.owner.frozen:
                event.owner.backlog.append(event)
                continue
            event.call(*event.args)
        return True


class Life:
    """One start of one node: its clock, its scheduler, its link. Callbacks die with it."""

    def __init__(self, world: World, network: Network, node: NodeId) -> None:
        self.world = world
        self.network = network
        self.node = node
        self.alive = True
        self.leapt_s = 0.0
        self.frozen = False
        self.backlog: list[Event] = []
        self.handlers: dict[str, FrameHandler] = {}
        self.peer_handlers: list[PeerHandler] = []

    def monotonic(self) -> float:
        return self.world.now + self.leapt_s

    def wall(self) -> float:
        return self.world.now

    def thaw(self) -> None:
        """What fell due while the process was stopped falls due now."""
        self.frozen = False
        backlog, self.backlog = self.backlog, []
        for event in backlog:
            if event.call is not None:
                self.world.at(self.world.now, event.call, *event.args, owner=self)

    def call_soon(self, call: Callable[..., object], /, *args: Any) -> Event:
        return self.world.at(self.world.now, call, *args, owner=self)

    def call_later(self, delay_s: float, call: Callable[..., object], /, *args: Any) -> Event:
        return self.world.at(self.world.now + delay_s, call, *args, owner=self)

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        return self.network.send(self, peer, channel, frame)

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return self.network.connected(self.node, peer)

    def subscribe(self, channel: str, handler: FrameHandler) -> None:
        self.handlers[channel] = handler

    def on_peer_change(self, handler: PeerHandler) -> None:
        self.peer_handlers.append(handler)

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None:
        pass

    def remove_peer(self, peer: NodeId) -> None:
        pass


Tap = Callable[[NodeId, NodeId, Message], Sequence[Message]]


class Network:
    """Frames take `latency_s`; `tap` sees every message and says what arrives in its place."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lives: dict[NodeId, Life] = {}
        self.latency_s = 0.001
        self.tap: Tap | None = None
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.held: dict[tuple[NodeId, NodeId], list[tuple[str, bytes]]] = {}
        self.full: set[tuple[NodeId, NodeId]] = set()
        self.log: list[tuple[NodeId, NodeId, Message]] = []

    def connected(self, a: NodeId, b: NodeId) -> bool:
        return b in self.lives

    def send(self, life: Life, peer: NodeId, channel: str, frame: bytes) -> bool:
        pair = (life.node, peer)
        if peer not in self.lives or pair in self.full or not life.alive:
            return False
        decoded = decode_frame(frame)
        messages = []
        for message in decoded.messages:
            self.log.append((life.node, peer, message))
            messages += [message] if self.tap is None else self.tap(life.node, peer, message)
        if not messages:
            return True
        frame = encode_frame(decoded.incarnation, decoded.boot, decoded.level, messages)
        if pair in self.held:
            self.held[pair].append((channel, frame))
        elif pair not in self.cut:
            self.deliver(life.node, peer, channel, frame)
        return True

    def deliver(self, source: NodeId, target: NodeId, channel: str, frame: bytes) -> None:
        self.world.at(self.world.now + self.latency_s, self._arrive, source, target, channel, frame)

    def _arrive(self, source: NodeId, target: NodeId, channel: str, frame: bytes) -> None:
        life = self.lives.get(target)
        if life is not None and channel in life.handlers:
            life.call_soon(life.handlers[channel], source, frame)

    def hold(self, source: NodeId, target: NodeId) -> None:
        self.held[source, target] = []

    def release(self, source: NodeId, target: NodeId) -> None:
        for channel, frame in self.held.pop((source, target)):
            self.deliver(source, target, channel, frame)

    def isolate(self, node: NodeId, others: Sequence[NodeId]) -> None:
        """Frames from and to this node are lost; connections stay up."""
        for other in others:
            if other != node:
                self.cut |= {(node, other), (other, node)}

    def heal(self) -> None:
        self.cut.clear()


class TestWriter:
    """Syncs take `delay_s`; with `hold` they wait for `finish`."""

    __test__ = False

    def __init__(self, life: Life) -> None:
        self.life = life
        self.delay_s = 0.0002
        self.hold = False
        self.waiting: tuple[Engine, Batch, Done, float] | None = None

    def submit(self, engine: Engine, batch: Batch, done: Done) -> None:
        self.waiting = (engine, batch, done, self.life.world.now)
        if not self.hold:
            self.life.call_later(self.delay_s, self.finish)

    def finish(self) -> None:
        assert self.waiting is not None
        engine, batch, done, started = self.waiting
        self.waiting = None
        engine.write(batch, sync=True)
        done(None, self.life.world.now - started)

    def close(self) -> None:
        pass


class RecordingMachine:
    """Keeps the payloads that were applied, in the engine, and what was ever applied, in memory."""

    def __init__(self, group_id: int, engine: Engine) -> None:
        self._engine = engine
        self._prefix = b"\xf0" + group_id.to_bytes(4, "big")
        self._overlay: dict[bytes, bytes] = {}
        self.index = 0
        self.count = 0
        self.applied: list[tuple[int, bytes]] = []
        self.resets = 0

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[object]:
        return [self.apply(index, payload) for payload in payloads]

    def apply(self, index: int, payload: bytes) -> object:
        if payload == b"explode":
            raise RuntimeError("the machine is broken")
        assert index >= self.index, f"apply of {index} after {self.index}"
        self.index = index
        self._overlay[self._prefix + self.count.to_bytes(8, "big")] = payload
        self.count += 1
        self.applied.append((index, payload))
        return b"ok:" + payload

    def prepare(self, batch: Batch) -> None:
        for key, value in self._overlay.items():
            batch.put(key, value)

    def after_commit(self) -> None:
        self._overlay.clear()

    def owned_ranges(self) -> list[tuple[bytes, bytes]]:
        return [(self._prefix, self._prefix + b"\xff" * 9)]

    def reset(self) -> None:
        self._overlay.clear()
        self.resets += 1

    def restored(self, index: int) -> None:
        self.index = index
        self.count = len(self.rows())

    def rows(self) -> list[bytes]:
        """Everything applied, in order, written or not."""
        with self._engine.snapshot() as rows:
            found = dict(rows.scan(self._prefix, self._prefix + b"\xff" * 9, limit=1 << 30).items)
        found.update(self._overlay)
        return [found[key] for key in sorted(found)]


@dataclass
class TestNode:
    __test__ = False

    id: NodeId
    engine: MemoryEngine
    life: Life
    writer: TestWriter
    committer: Committer
    host: GroupHost
    machines: dict[int, RecordingMachine] = field(default_factory=dict)
    fatal: BaseException | None = None

    @property
    def group(self) -> Group:
        return self.host.group(G)

    @property
    def machine(self) -> RecordingMachine:
        return self.machines[G]


class Cluster:
    """Nodes a, b, c, ... of one or more groups."""

    def __init__(self, size: int = 3, *, seed: int = 1, **settings: Any) -> None:
        self.world = World()
        self.network = Network(self.world)
        self.seed = seed
        self.settings = {"hibernate_after_s": 0.0, **settings}
        self.levels: dict[NodeId, int] = {}
        """What the programs of nodes support from their next start on, if not level 1."""
        self.boots = 0
        self.nodes: dict[NodeId, TestNode] = {}
        for number in range(size):
            self.start(NodeId("abcdefghij"[number]))

    @property
    def ids(self) -> list[NodeId]:
        return sorted(self.nodes)

    def __getitem__(self, node: str) -> TestNode:
        return self.nodes[NodeId(node)]

    def start(
        self, node: NodeId, engine: MemoryEngine | None = None, incarnation: int | None = None
    ) -> TestNode:
        """A new engine has a new incarnation, an old one its own, unless one is given."""
        self.boots += 1
        life = Life(self.world, self.network, node)
        engine = engine or MemoryEngine(clock=life)
        writer = TestWriter(life)
        fatal: list[BaseException] = []
        rng = random.Random(f"{self.seed}/{node}/{self.boots}")
        committer = Committer(engine, writer, life, life, on_fatal=fatal.append)
        machines: dict[int, RecordingMachine] = {}

        def machine(group_id: int) -> Any:
            machines[group_id] = self.make_machine(group_id, engine, life)
            return machines[group_id]

        host = GroupHost(
            node_id=node,
            incarnation=incarnation or identity.recorded(engine) or 1 + rng.getrandbits(48),
            boot_id=str(self.boots),
            engine=engine,
            committer=committer,
            link=life,
            clock=life,
            rng=rng,
            scheduler=life,
            config=HostConfig(**{"feature_level": self.levels.get(node, 1), **self.settings}),
            machines=machine,
        )
        made = TestNode(node, engine, life, writer, committer, host, machines)
        fatal_into(made, committer)
        self.nodes[node] = made
        self.network.lives[node] = life
        host.start()
        for other in self.network.lives.values():
            if other is not life:
                self._tell(other, node, True)
                self._tell(life, other.node, True)
        return made

    def make_machine(self, group_id: int, engine: MemoryEngine, life: Life) -> Any:
        return RecordingMachine(group_id, engine)

    def _tell(self, life: Life, peer: NodeId, up: bool) -> None:
        """After the frames that were under way."""
        for handler in life.peer_handlers:
            life.call_later(2 * self.network.latency_s, handler, peer, up)

    def crash(self, node: NodeId) -> MemoryEngine:
        """The process ends; what its writer had not finished is lost."""
        gone = self.nodes[node]
        gone.life.alive = False
        self.network.lives.pop(node, None)
        for other in self.network.lives.values():
            self._tell(other, node, False)
        return gone.engine

    def restart(self, node: NodeId) -> TestNode:
        return self.start(node, self.crash(node))

    def create(self, group_id: int = G, voters: str | None = None) -> None:
        members = [NodeId(v) for v in voters] if voters else self.ids
        for node in members:
            self.nodes[node].host.create(group_id, members)

    # --- driving -------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        assert self.world.run_until(condition, seconds), "it did not happen in time"

    def alive(self) -> list[TestNode]:
        return [node for node in self.nodes.values() if node.life.alive]

    def leaders(self, group_id: int = G) -> list[TestNode]:
        return [
            node
            for node in self.alive()
            if group_id in node.host.groups
            and node.host.group(group_id).status().role is Role.LEADER
        ]

    def lead(self, group_id: int = G) -> TestNode:
        """Run until one node leads a formed group and has committed in its term."""

        def ready() -> bool:
            leaders = self.leaders(group_id)
            if len(leaders) != 1:
                return False
            group = leaders[0].host.group(group_id)
            return group.replica.own_term_committed() and not group.changes.why_no_proposals()

        self.until(ready)
        return self.leaders(group_id)[0]

    def followers(self) -> list[TestNode]:
        leader = self.lead()
        return [node for node in self.alive() if node is not leader]

    def make_leader(self, node: NodeId) -> TestNode:
        """By handing over, if it is not the leader already."""
        results: list[object] = []
        for _ in range(5):
            if self.lead().id == node:
                return self[node]
            results.clear()
            self.lead().group.transfer(node, results.append)
            self.until(lambda: bool(results))
            if isinstance(results[0], ChangeDone):
                self.until(lambda: [n.id for n in self.leaders()] == [node])
            else:
                self.run(0.1)
        raise AssertionError(f"{node} does not lead: {results}")

    def propose(self, node: TestNode, payload: bytes) -> list[object]:
        results: list[object] = []
        node.group.propose(payload, results.append)
        return results

    def put(self, payload: bytes) -> Applied:
        """Propose to the leader and wait until it is applied there."""
        results = self.propose(self.lead(), payload)
        self.until(lambda: bool(results))
        assert isinstance(results[0], Applied), results[0]
        return results[0]

    def inject(self, source: str, target: str, message: Message, incarnation: int = 0) -> None:
        """A frame arrives at `target` as if `source` had sent it (from its own disk, if it has
        one), and is handled in the next turn."""
        if not incarnation and source in self.nodes:
            incarnation = self[source].host.incarnation
        level = self.levels.get(NodeId(source), 1)
        frame = encode_frame(incarnation or 1, "injected", level, [message])
        self[target].life.handlers["raft"](NodeId(source), frame)

    def sent(self, kind: type, source: str | None = None, target: str | None = None) -> list[Any]:
        """Messages of a kind in the network's log."""
        return [
            message
            for a, b, message in self.network.log
            if isinstance(message, kind) and source in (None, a) and target in (None, b)
        ]

    def read(self, node: TestNode) -> list[object]:
        results: list[object] = []
        node.group.read(results.append)
        return results

    def converge(self) -> None:
        """Every living replica has applied everything, and they are equal."""
        leader = self.lead()

        def same() -> bool:
            index = leader.group.status().last_index
            return all(n.group.status().applied_index == index for n in self.alive())

        self.until(same)
        rows = leader.machine.rows()
        for node in self.alive():
            assert node.machine.rows() == rows, f"{node.id} differs from {leader.id}"


def fatal_into(node: TestNode, committer: Committer) -> None:
    def stop(error: BaseException) -> None:
        node.fatal = error
        node.life.alive = False

    committer._on_fatal = stop


@pytest.fixture
def make_cluster() -> Callable[..., Cluster]:
    return Cluster


def decoded(frame: bytes) -> Frame:
    return decode_frame(frame)
