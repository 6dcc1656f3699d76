"""Three nodes in one process, for measurements: real hosts, committers and engines, no sockets.

The network is the only part that is not real: frames are encoded and decoded as always, and arrive
in the next pass of the one loop that all nodes share. So a figure taken here has no system calls
of a network in it, and the syncs of three nodes wait for each other on one thread and one disk.

This file knows no loop and no engine: both come in `Parts`. Invariant: once a committer failed,
`check` raises what broke; nothing is measured on a broken cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from raftgroups.group import Group
from raftgroups.host import GroupHost, HostConfig
from raftgroups.status import Role
from raftgroups.transport import FrameHandler, NodeId, PeerHandler
from storage.clock import Clock, Rng, Scheduler
from storage.committer import Committer
from storage.engine import Batch, Engine
from storage.writers import Writer

NODES: Final = (NodeId("n1"), NodeId("n2"), NodeId("n3"))
SLOTS: Final = 1_024
"""Rows that a group's payloads go round in, so that a longer run does not mean a larger tree."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a measurement is made with, besides what it measures."""

    scheduler: Scheduler
    clock: Clock
    rng: Rng
    cpu_s: Callable[[], float]
    """CPU seconds of this process so far, user and system, all threads."""
    open_engine: Callable[[str], Engine]
    """Opens a new, empty engine of this name. The cluster closes it."""
    make_writer: Callable[[], Writer]


class MemoryLink:
    """Carries frames to the other nodes of the process; everybody is always connected."""

    def __init__(
        self, node: NodeId, scheduler: Scheduler, links: Mapping[NodeId, MemoryLink]
    ) -> None:
        self._node = node
        self._scheduler = scheduler
        self._links = links
        self._handlers: dict[str, FrameHandler] = {}
        self.frames = 0
        self.frame_bytes = 0

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        self.frames += 1
        self.frame_bytes += len(frame)
        self._scheduler.call_soon(self._links[peer].arrive, self._node, channel, frame)
        return True

    def arrive(self, source: NodeId, channel: str, frame: bytes) -> None:
        self._handlers[channel](source, frame)

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return peer in self._links

    def subscribe(self, channel: str, handler: FrameHandler) -> None:
        self._handlers[channel] = handler

    def on_peer_change(self, handler: PeerHandler) -> None:
        pass

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None:
        pass

    def remove_peer(self, peer: NodeId) -> None:
        pass


class SlotMachine:
    """The cheapest machine that still writes what it is given: one row a payload, in turn."""

    def __init__(self, group_id: int) -> None:
        self._prefix = b"\xf0" + group_id.to_bytes(8, "big")
        self._overlay: dict[bytes, bytes] = {}
        self._next = 0

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[object]:
        return [self.apply(index, payload) for payload in payloads]

    def apply(self, index: int, payload: bytes) -> object:
        self._overlay[self._prefix + self._next.to_bytes(2, "big")] = payload
        self._next = (self._next + 1) % SLOTS
        return index

    def prepare(self, batch: Batch) -> None:
        for key, value in self._overlay.items():
            batch.put(key, value)

    def after_commit(self) -> None:
        self._overlay.clear()

    def owned_ranges(self) -> Sequence[tuple[bytes, bytes]]:
        return [(self._prefix, self._prefix + b"\xff\xff\xff")]

    def reset(self) -> None:
        self._overlay.clear()

    def restored(self, index: int) -> None:
        pass


@dataclass(slots=True)
class _Node:
    engine: Engine
    writer: Writer
    committer: Committer
    link: MemoryLink
    host: GroupHost


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over the nodes; only differences between two of them mean something."""

    cpu_s: float
    entries: int
    """Appended by leaders, each counted once."""
    syncs: int
    frames: int
    frame_bytes: int


@dataclass(slots=True)
class BenchCluster:
    """Opens at once; `form` and `leaders` make it ready; `close` ends it, whatever happened."""

    parts: Parts
    name: str
    """Of its engines' directories: it must not have been used before."""
    config: HostConfig = field(default_factory=HostConfig)
    nodes: dict[NodeId, _Node] = field(init=False, default_factory=dict)
    groups: int = field(init=False, default=0)
    _failure: BaseException | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        links: dict[NodeId, MemoryLink] = {}
        for node in NODES:
            links[node] = MemoryLink(node, self.parts.scheduler, links)
        try:
            for node in NODES:
                self.nodes[node] = self._node(node, links[node])
        except BaseException:
            self.close()
            raise

    def _node(self, node: NodeId, link: MemoryLink) -> _Node:
        parts = self.parts
        engine = parts.open_engine(f"{self.name}-{node}")
        writer = parts.make_writer()
        committer = Committer(engine, writer, parts.scheduler, parts.clock, on_fatal=self._failed)
        host = GroupHost(
            node_id=node,
            incarnation=1 + NODES.index(node),
            boot_id=f"boot-{node}",
            engine=engine,
            committer=committer,
            link=link,
            clock=parts.clock,
            rng=parts.rng,
            scheduler=parts.scheduler,
            config=self.config,
            machines=SlotMachine,
        )
        return _Node(engine, writer, committer, link, host)

    def _failed(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def form(self, groups: int) -> None:
        incarnations = {node: parts.host.incarnation for node, parts in self.nodes.items()}
        for group_id in range(self.groups + 1, self.groups + groups + 1):
            for node in self.nodes.values():
                node.host.create(group_id, NODES, incarnations)
        self.groups += groups

    def leader(self, group_id: int) -> Group | None:
        for node in self.nodes.values():
            group = node.host.group(group_id)
            if group.role is Role.LEADER:
                return group
        return None

    def follower(self, group_id: int) -> Group | None:
        """One that knows its leader, since a read of it asks there."""
        for node in self.nodes.values():
            group = node.host.group(group_id)
            if group.role is Role.FOLLOWER and group.leader is not None:
                return group
        return None

    def leaderless(self) -> int:
        """Groups that nobody leads, or whose leader one of the members does not know."""
        return sum(not self._settled(group_id) for group_id in range(1, self.groups + 1))

    def _settled(self, group_id: int) -> bool:
        leaders = {node.host.group(group_id).leader for node in self.nodes.values()}
        return self.leader(group_id) is not None and len(leaders) == 1

    def hibernating(self) -> int:
        """Groups that sleep on all nodes."""
        return min(node.host.status().hibernating for node in self.nodes.values())

    def counts(self) -> Counts:
        nodes = self.nodes.values()
        return Counts(
            cpu_s=self.parts.cpu_s(),
            entries=sum(node.host.status().entries_appended for node in nodes),
            syncs=sum(node.committer.commits for node in nodes),
            frames=sum(node.link.frames for node in nodes),
            frame_bytes=sum(node.link.frame_bytes for node in nodes),
        )

    def close(self) -> None:
        for node in self.nodes.values():
            node.host.stop()
            node.committer.stop()
            node.writer.close()
            node.engine.close()
        self.nodes.clear()
