"""What the link keeps of its peers, beyond any single connection: queue, counters, when to dial.

A peer that `set_peer` named is kept until `remove_peer`. One that only ever dialed us is kept as
long as its connection lasts, so that strangers with the secret cannot fill the memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from kv.cluster.link_config import (
    Address,
    Backoff,
    ChannelStatus,
    LinkConfig,
    PeerStatus,
)
from kv.cluster.link_connection import Connection
from kv.cluster.link_pair import Pair
from kv.cluster.link_queue import OutboundQueue
from kv.cluster.link_state import State
from kv.cluster.said_once import SaidOnce
from kv.cluster.tasks import TaskHandle
from raftgroups.transport import NodeId, PeerHandler
from storage.clock import Rng, Timer


class PeerRecord:
    """Invariant: `connection` is the one that `pair.connection` names, or both are None."""

    def __init__(
        self,
        local: NodeId,
        node_id: NodeId,
        config: LinkConfig,
        rng: Rng,
        next_number: Callable[[], int],
    ) -> None:
        self.node_id = node_id
        self.address: Address | None = None
        self.pair = Pair(local, node_id, next_number)
        self.queue = OutboundQueue(config.channels)
        self.backoff = Backoff(config.backoff_first_s, config.backoff_max_s, rng)
        self.connection: Connection | None = None
        self.dial_task: TaskHandle | None = None
        self.dialing: Connection | None = None
        self.retry: Timer | None = None
        self.connections = 0
        self.failed_dials = 0
        self.last_problem = ""
        self.dropped: dict[int, Counter[str]] = {
            channel.id: Counter() for channel in config.channels
        }
        # Totals of the connections before this one.
        self._sent_bytes = 0
        self._received_bytes = 0
        self._received_frames = {channel.id: 0 for channel in config.channels}
        self._rtt_s: float | None = None

    def forget_dial(self) -> None:
        """End whatever was under way to reach this peer."""
        if self.pair.dial is not None:
            self.pair.dial_ended(self.pair.dial.number)
        if self.retry is not None:
            self.retry.cancel()
        if self.dial_task is not None:
            self.dial_task.cancel()
        if self.dialing is not None:
            self.dialing.abort()
        self.retry = self.dial_task = self.dialing = None

    @property
    def connected(self) -> bool:
        return self.connection is not None and self.connection.state is State.OPEN

    def began(self, connection: Connection) -> None:
        assert self.connection is None
        self.connection = connection
        self.connections += 1
        self.last_problem = ""

    def ended(self) -> None:
        """The connection is no longer in use: keep what it counted, drop what it had queued."""
        connection, self.connection = self.connection, None
        assert connection is not None
        self._sent_bytes += connection.sent_bytes
        self._received_bytes += connection.received_bytes
        self._rtt_s = connection.rtt_s
        for channel_id in self._received_frames:
            self._received_frames[channel_id] += connection.received_frames[channel_id]
            self.dropped[channel_id]["no_handler"] += connection.unhandled_frames[channel_id]
        for channel_id, frames in self.queue.clear().items():
            self.dropped[channel_id]["connection_lost"] += frames

    def status(self, now: float) -> PeerStatus:
        live = self.connection
        held = self.pair.connection
        channels = {}
        for channel_id, lane in self.queue.lanes.items():
            received = self._received_frames[channel_id]
            dropped = Counter(self.dropped[channel_id])
            if live is not None:
                received += live.received_frames[channel_id]
                dropped["no_handler"] += live.unhandled_frames[channel_id]
            channels[lane.channel.name] = ChannelStatus(
                sent_frames=lane.sent_frames,
                received_frames=received,
                dropped=dict(+dropped),
                queued_frames=len(lane.frames),
                queued_bytes=lane.queued_bytes,
            )
        return PeerStatus(
            node_id=self.node_id,
            address=self.address,
            connected=self.connected,
            dialed=held is not None and held.dialed,
            boot_id=held.boot_id if held is not None else "",
            connections=self.connections,
            failed_dials=self.failed_dials,
            sent_bytes=self._sent_bytes + (live.sent_bytes if live else 0),
            received_bytes=self._received_bytes + (live.received_bytes if live else 0),
            rtt_s=live.rtt_s if live else self._rtt_s,
            connected_for_s=now - live.opened_at if live else 0.0,
            last_problem=self.last_problem,
            channels=channels,
        )


class Peers:
    """All records, who is told of changes, and the account of what went wrong with whom."""

    def __init__(
        self,
        local: NodeId,
        config: LinkConfig,
        rng: Rng,
        next_number: Callable[[], int],
        said: SaidOnce,
    ) -> None:
        self._local = local
        self._config = config
        self._rng = rng
        self._next_number = next_number
        self._said = said
        self._records: dict[NodeId, PeerRecord] = {}
        self.get: Callable[[NodeId], PeerRecord | None] = self._records.get
        """Not a method of our own around it: each frame asks several times."""
        self.handlers: list[PeerHandler] = []

    def __iter__(self) -> Iterator[PeerRecord]:
        return iter(self._records.values())

    def make(self, peer: NodeId) -> PeerRecord:
        record = self._records.get(peer)
        if record is None:
            record = self._records[peer] = PeerRecord(
                self._local, peer, self._config, self._rng, self._next_number
            )
        return record

    def drop_if_unused(self, record: PeerRecord) -> None:
        if record.address is None and record.connection is None:
            self._records.pop(record.node_id, None)

    def dialed_by(self, connection: Connection) -> PeerRecord | None:
        """The peer that this connection is a dial to, unless it is open or given up."""
        for record in self._records.values():
            if record.dialing is connection:
                return record
        return None

    def tell(self, peer: NodeId, *, up: bool) -> None:
        for handler in self.handlers:
            try:
                handler(peer, up)
            except Exception as error:  # noqa: BLE001 - a handler's defect must not end the loop
                self._said.warn(
                    f"peer handler {handler!r}",
                    "peer_handler_defect",
                    f"a handler of peer changes raised {error!r}",
                    error=error,
                )

    def problem(self, connection: Connection, reason: str, sentence: str) -> None:
        """Trouble on a connection: put down to the peer if it is known, else to the host."""
        record = self.dialed_by(connection)
        peer = connection.peer or (record.node_id if record is not None else None)
        if peer is not None:
            self.peer_problem(peer, reason, sentence)
        else:
            self._said.warn(connection.host, reason, sentence)

    def peer_problem(self, peer: NodeId, reason: str, sentence: str) -> None:
        record = self._records.get(peer)
        if record is not None:
            record.last_problem = sentence
        self._said.warn(f"peer {peer}", reason, sentence)
