"""The simulated network: raftgroups.transport.Link for every node, on virtual time.

A connection joins two nodes while both live and at least one of them asked for the other. It has
two lanes, and a lane has channels; each channel is a bounded queue whose frames arrive in order,
while lanes and channels overtake each other freely. What may go wrong, all of it seeded:

- latency: drawn for each frame; a lane may be slow for a while;
- stall: a lane delivers nothing for a while, then everything;
- block(a, b): nothing gets from a to b. Frames wait, as in a TCP buffer: they arrive late if the
  block ends soon, and are lost when the connection is given up after a while. While either lane is
  blocked no new connection comes about;
- reset: frames in flight are lost, both sides hear of it, and it is made again after a backoff;
- duplicates: outside the contract of Link, for a hostile network; a copy arrives later, once more.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from chaos.sim.world import Process, World
from raftgroups.transport import FrameHandler, NodeId, PeerHandler

Meddler = Callable[[NodeId, NodeId, str, bytes], bytes | None]
"""(source, target, channel, frame) -> the frame to send instead, or None to lose it."""


@dataclass(slots=True)
class NetworkSettings:
    latency_s: tuple[float, float] = (0.0002, 0.002)
    backoff_s: tuple[float, float] = (0.02, 0.8)
    give_up_s: tuple[float, float] = (0.5, 6.0)
    """How long a connection lasts while nothing gets through."""
    channel_max_frames: int = 4096
    channel_max_bytes: int = 16 * 1024 * 1024
    duplicate_p: float = 0.0
    spike_p: float = 0.0
    """The part of frames that take up to `spike_s`; those behind them wait."""
    spike_s: float = 0.25


class Channel:
    """Frames under way in one direction. Invariant: `pumping` while an arrival is scheduled."""

    __slots__ = ("lane", "name", "pumping", "queue", "size_bytes", "tail")

    def __init__(self, lane: Lane, name: str) -> None:
        self.lane = lane
        self.name = name
        self.queue: deque[tuple[float, bytes]] = deque()
        self.tail = 0.0
        self.size_bytes = 0
        self.pumping = False


class Lane:
    """One direction of one connection."""

    __slots__ = ("channels", "connection", "source", "target")

    def __init__(self, connection: Connection, source: NodeId, target: NodeId) -> None:
        self.connection = connection
        self.source = source
        self.target = target
        self.channels: dict[str, Channel] = {}


@dataclass(slots=True)
class Direction:
    """What the world does to frames from one node to another, whatever connection carries them."""

    blocked: bool = False
    stalled_until: float = 0.0
    extra_s: float = 0.0


class Connection:
    """One TCP connection between two nodes, from handshake to loss."""

    __slots__ = ("lanes", "noticed", "number", "open", "pair")

    def __init__(self, number: int, pair: tuple[NodeId, NodeId]) -> None:
        a, b = pair
        self.number = number
        self.pair = pair
        self.open = True
        self.noticed: set[NodeId] = set()
        """The ends that were told of it; only they may send."""
        self.lanes = {a: Lane(self, a, b), b: Lane(self, b, a)}


@dataclass(slots=True)
class SimLink:
    """The Link of one life of one node."""

    network: SimNetwork
    node: NodeId
    process: Process
    handlers: dict[str, FrameHandler] = field(default_factory=dict)
    peer_handlers: list[PeerHandler] = field(default_factory=list)
    wanted: dict[NodeId, None] = field(default_factory=dict)
    sees: dict[NodeId, bool] = field(default_factory=dict)

    def send(self, peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        return self.network.send(self, peer, channel, frame)

    def push(self) -> None:
        pass

    def connected(self, peer: NodeId) -> bool:
        return self.sees.get(peer, False)

    def subscribe(self, channel: str, handler: FrameHandler) -> None:
        self.handlers[channel] = handler

    def on_peer_change(self, handler: PeerHandler) -> None:
        self.peer_handlers.append(handler)

    def set_peer(self, peer: NodeId, address: tuple[str, int]) -> None:
        assert address, "the simulation finds nodes by id, but an address is part of the contract"
        self.wanted[peer] = None
        self.network.dial(self.node, peer)

    def remove_peer(self, peer: NodeId) -> None:
        self.wanted.pop(peer, None)
        self.network.hang_up(self.node, peer)

    def notice(self, peer: NodeId, up: bool) -> None:
        """Tell the node what it now sees of a peer, once a change."""
        if self.sees.get(peer, False) == up:
            return
        self.sees[peer] = up
        for handler in self.peer_handlers:
            handler(peer, up)


class SimNetwork:
    def __init__(self, world: World, settings: NetworkSettings | None = None) -> None:
        self.world = world
        self.settings = settings or NetworkSettings()
        self.links: dict[NodeId, SimLink] = {}
        self.labels: dict[NodeId, str] = {}
        self.meddler: Meddler | None = None
        """A directed schedule's hand in every frame that is sent; None lets them be."""
        self.sent_bytes: Counter[str] = Counter()
        """All frames that were taken, by channel."""
        self.delivered = 0
        self.lost = 0
        self._rng = world.rng("network")
        self._connections: dict[tuple[NodeId, NodeId], Connection] = {}
        self._closing: dict[tuple[NodeId, NodeId], Connection] = {}
        self._directions: dict[tuple[NodeId, NodeId], Direction] = {}
        self._numbers = 0

    # --- lives of nodes ----------------------------------------------------------------------

    def attach(self, node: NodeId, process: Process) -> SimLink:
        """A node starts. Invariant: a node has one living link at most."""
        assert node not in self.links, f"{node} is attached already"
        link = self.links[node] = SimLink(self, node, process)
        for peer in sorted(self.links):
            if node in self.links[peer].wanted:
                self.dial(peer, node)
        return link

    def detach(self, node: NodeId, *, flush: bool) -> None:
        """A node's process ends. With `flush` its kernel still delivers what is under way."""
        del self.links[node]
        for pair, connection in sorted(self._connections.items()):
            if node in pair:
                self._drop(connection, keep_lane=node if flush else None)

    # --- connections -------------------------------------------------------------------------

    def dial(self, node: NodeId, peer: NodeId) -> None:
        delay = self._rng.uniform(0.001, 0.02)
        self.world.after(delay, self._connect, _pair(node, peer))

    def hang_up(self, node: NodeId, peer: NodeId) -> None:
        other = self.links.get(peer)
        if other is None or node not in other.wanted:
            self.reset(node, peer)

    def _connect(self, pair: tuple[NodeId, NodeId]) -> None:
        a, b = pair
        first, second = self.links.get(a), self.links.get(b)
        if first is None or second is None or pair in self._connections:
            return
        if b not in first.wanted and a not in second.wanted:
            return
        if self.direction(a, b).blocked or self.direction(b, a).blocked:
            self.world.after(self._rng.uniform(*self.settings.backoff_s), self._connect, pair)
            return
        self._forget(self._closing.pop(pair, None), keep_lane=None)
        self._numbers += 1
        connection = self._connections[pair] = Connection(self._numbers, pair)
        self.world.trace(f"{self.label(a)}={self.label(b)} connected")
        for link, peer in ((first, b), (second, a)):
            self.world.after(
                self._rng.uniform(0.0, 0.002),
                self._notice_up,
                connection,
                link,
                peer,
                owner=link.process,
                frame=True,
            )

    def _notice_up(self, connection: Connection, link: SimLink, peer: NodeId) -> None:
        if connection.open:
            connection.noticed.add(link.node)
            link.notice(peer, False)
            link.notice(peer, True)

    def reset(self, a: NodeId, b: NodeId) -> None:
        """The connection breaks, if there is one; frames in flight are lost."""
        connection = self._connections.get(_pair(a, b))
        if connection is not None:
            self._drop(connection, keep_lane=None)

    def _drop(self, connection: Connection, *, keep_lane: NodeId | None) -> None:
        a, b = connection.pair
        self.world.trace(f"{self.label(a)}={self.label(b)} disconnected")
        connection.open = False
        del self._connections[connection.pair]
        self._forget(connection, keep_lane=keep_lane)
        self._closing[connection.pair] = connection
        for node, peer in ((a, b), (b, a)):
            link = self.links.get(node)
            if link is not None:
                self.world.after(
                    self._rng.uniform(0.0, 0.05),
                    self._notice_down,
                    link,
                    peer,
                    owner=link.process,
                    frame=True,
                )
        self.world.after(
            self._rng.uniform(*self.settings.backoff_s), self._connect, connection.pair
        )

    def _forget(self, connection: Connection | None, *, keep_lane: NodeId | None) -> None:
        """Lose the frames under way, except those that a dead process's kernel still sends."""
        for source, lane in connection.lanes.items() if connection is not None else ():
            for channel in lane.channels.values():
                if source != keep_lane:
                    self.lost += len(channel.queue)
                    channel.queue.clear()

    def _notice_down(self, link: SimLink, peer: NodeId) -> None:
        if _pair(link.node, peer) not in self._connections:
            link.notice(peer, False)

    # --- what the world does to directions ---------------------------------------------------

    def direction(self, source: NodeId, target: NodeId) -> Direction:
        found = self._directions.get((source, target))
        if found is None:
            found = self._directions[source, target] = Direction()
        return found

    def block(self, source: NodeId, target: NodeId) -> None:
        direction = self.direction(source, target)
        if direction.blocked:
            return
        direction.blocked = True
        connection = self._connections.get(_pair(source, target))
        if connection is not None:
            patience = self._rng.uniform(*self.settings.give_up_s)
            self.world.after(patience, self._give_up, connection, source, target)

    def _give_up(self, connection: Connection, source: NodeId, target: NodeId) -> None:
        if connection.open and self.direction(source, target).blocked:
            self._drop(connection, keep_lane=None)

    def unblock(self, source: NodeId, target: NodeId) -> None:
        direction = self.direction(source, target)
        direction.blocked = False
        self._resume(source, target)

    def stall(self, source: NodeId, target: NodeId, seconds: float) -> None:
        direction = self.direction(source, target)
        direction.stalled_until = max(direction.stalled_until, self.world.now + seconds)

    def heal(self) -> None:
        """Every direction is as new."""
        for (source, target), direction in sorted(self._directions.items()):
            direction.stalled_until = direction.extra_s = 0.0
            if direction.blocked:
                self.unblock(source, target)

    def _resume(self, source: NodeId, target: NodeId) -> None:
        connection = self._connections.get(_pair(source, target))
        if connection is not None:
            for channel in connection.lanes[source].channels.values():
                self._pump_at(channel)

    # --- frames ------------------------------------------------------------------------------

    def send(self, link: SimLink, peer: NodeId, channel_name: str, frame: bytes) -> bool:
        source = link.node
        connection = self._connections.get(_pair(source, peer))
        if connection is None or source not in connection.noticed:
            return False
        lane = connection.lanes[source]
        channel = lane.channels.get(channel_name)
        if channel is None:
            channel = lane.channels[channel_name] = Channel(lane, channel_name)
        if self.meddler is not None:
            changed = self.meddler(source, peer, channel_name, frame)
            if changed is None:
                self.lost += 1
                return True
            frame = changed
        settings = self.settings
        if (
            len(channel.queue) >= settings.channel_max_frames
            or channel.size_bytes + len(frame) > settings.channel_max_bytes
        ):
            self.lost += 1
            return False
        arrives = max(channel.tail, self.world.now + self._latency(source, peer))
        channel.tail = arrives
        channel.queue.append((arrives, frame))
        channel.size_bytes += len(frame)
        self.sent_bytes[channel_name] += len(frame)
        self._pump_at(channel)
        if settings.duplicate_p and self._rng.random() < settings.duplicate_p:
            self._duplicate(channel, frame)
        return True

    def _latency(self, source: NodeId, target: NodeId) -> float:
        settings = self.settings
        rng = self._rng
        low, high = settings.latency_s
        latency = low + (high - low) * rng.random() + self.direction(source, target).extra_s
        if settings.spike_p and rng.random() < settings.spike_p:
            latency += rng.uniform(0.0, settings.spike_s)
        return latency

    def _duplicate(self, channel: Channel, frame: bytes) -> None:
        receiver = self.links.get(channel.lane.target)
        if receiver is not None:
            delay = self._rng.uniform(0.0, 20 * self.settings.latency_s[1])
            self.world.after(
                delay, self._deliver_copy, channel, frame, owner=receiver.process, frame=True
            )

    def _deliver_copy(self, channel: Channel, frame: bytes) -> None:
        lane = channel.lane
        if lane.connection.open and not self.direction(lane.source, lane.target).blocked:
            self._deliver(channel, frame)

    def _pump_at(self, channel: Channel) -> None:
        receiver = self.links.get(channel.lane.target)
        if not channel.queue or channel.pumping or receiver is None:
            return
        channel.pumping = True
        self.world.at(channel.queue[0][0], self._pump, channel, owner=receiver.process, frame=True)

    def _pump(self, channel: Channel) -> None:
        """Deliver what is due; the rest gets an arrival of its own."""
        channel.pumping = False
        lane, queue = channel.lane, channel.queue
        direction = self.direction(lane.source, lane.target)
        if direction.blocked:
            return
        now = self.world.now
        if direction.stalled_until > now:
            receiver = self.links[lane.target]
            channel.pumping = True
            self.world.at(
                direction.stalled_until, self._pump, channel, owner=receiver.process, frame=True
            )
            return
        while queue and queue[0][0] <= now and lane.target in self.links:
            _, frame = queue.popleft()
            channel.size_bytes -= len(frame)
            self._deliver(channel, frame)
        self._pump_at(channel)

    def _deliver(self, channel: Channel, frame: bytes) -> None:
        lane = channel.lane
        link = self.links.get(lane.target)
        handler = link.handlers.get(channel.name) if link is not None else None
        if handler is None:
            self.lost += 1
            return
        self.delivered += 1
        self.world.trace(
            f"{self.label(lane.source)}>{self.label(lane.target)} {channel.name} "
            f"{len(frame)} B {crc32(frame):08x}"
        )
        handler(lane.source, frame)

    def label(self, node: NodeId) -> str:
        return self.labels.get(node, node)


def _pair(a: NodeId, b: NodeId) -> tuple[NodeId, NodeId]:
    return (a, b) if a < b else (b, a)
