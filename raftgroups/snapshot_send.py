"""The leader's side of snapshots: streams of chunks to peers whose entries were compacted away.

A stream reads from an engine snapshot, so it shows one applied index however long it takes, and
writes go on. It is repeated from where the receiver says that it stands: after a loss, after either
side's connection broke, after the receiver's restart. If the engine snapshot grows too old, or the
leader changes, the next one begins anew.

Bounded: `snapshot_window_chunks` under way a peer, one chunk a stream and turn, so that what else
the node does never waits for more than that; `snapshot_streams_max` streams a node, in the order of
their waiting (snapshot_slots.py). A receiver that cannot take the snapshot now may wait for one of
another group, and that one for the place of this stream: so a stream that is refused ends, and is
offered anew after `snapshot_retry_s`. The log is not compacted past a snapshot under way, or its
receiver would need the next one (hazard h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from raftgroups.filters import l2_member
from raftgroups.levels import PACKED_LEVEL
from raftgroups.lineage import DividingMachine
from raftgroups.messages import Chunk, LineageOffer, Offer, OfferReply
from raftgroups.records import meta_key, unpack_pair
from raftgroups.snapshot import AnyOffer, encode_rows, read_range
from raftgroups.transport import NodeId
from storage.codec import Table
from storage.engine import Snapshot
from storage.errors import SnapshotExpiredError
from storage.slices import Range, Slice

if TYPE_CHECKING:
    from raftgroups.replica import Replica

Position = tuple[int, bytes]
"""(number of the range, first key not yet sent)"""


@dataclass(slots=True)
class Stream:
    rows: Snapshot
    offer: AnyOffer
    asked: bool = False
    """The receiver has said from where on."""
    acknowledged: int = 0
    sent: int = 0
    """Chunks sent; those from `acknowledged` on are under way."""
    end: int | None = None
    """How many chunks there are, once the last was read."""
    positions: dict[int, Position] = field(default_factory=dict)
    """Where each chunk begins that may have to be sent again, and the next one."""
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(rows, bytes) of each chunk that is not acknowledged."""
    rows_there: int = 0
    bytes_there: int = 0
    """Acknowledged."""
    retry_at: float = 0.0
    heard_at: float = 0.0


class SnapshotSender:
    """Invariant: streams exist only while this replica leads."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.streams: dict[NodeId, Stream] = {}
        self.wanted: dict[NodeId, None] = {}
        self.finished = 0
        self._refused: dict[NodeId, float] = {}
        """Who could not take one, and when to offer the next one."""

    def want(self, peer: NodeId) -> None:
        """This peer needs entries that were compacted away. Told in every turn."""
        replica = self._replica
        now = replica.now()
        if peer in self.streams or now < self._refused.get(peer, now):
            return
        self._refused.pop(peer, None)
        self.wanted[peer] = None
        replica.services.snapshot_slots.wait((replica.group_id, peer), now)

    @property
    def waits_for_write(self) -> bool:
        """What is applied must be written before a stream can begin."""
        if not self.wanted:
            return False
        replica = self._replica
        return replica.journal.durable_applied != replica.raft.applied_index

    def begin(self) -> None:
        """Before a tick: begin the streams that are wanted, if nothing that was applied waits to
        be written. Then the machine's ranges are those of the rows that will be read; a moment
        later an entry may be applied that splits them. To a learner not before everything is
        applied that leaders before this one committed: it must not meet an older merge in its log,
        since it has nothing of the shard that was absorbed. (A voter was there, and its vote may be
        what the first entry of this term waits for.)"""
        replica = self._replica
        journal = replica.journal
        if replica.installing or journal.durable_applied != replica.raft.applied_index:
            return
        wanted, self.wanted = self.wanted, {}
        if replica.raft.applied_index < (replica.raft.noop_index or 0):
            learners = journal.config.learners
            self.wanted = {peer: None for peer in wanted if peer in learners}
            wanted = {peer: None for peer in wanted if peer not in learners}
        slots = replica.services.snapshot_slots
        for peer in wanted:
            progress = replica.replication.progress.get(peer)
            if progress is not None and slots.take((replica.group_id, peer), replica.now()):
                progress.snapshot = True
                self._begin(peer)

    def _begin(self, peer: NodeId) -> None:
        replica = self._replica
        services = replica.services
        rows = services.engine.snapshot(max_age_s=services.config.snapshot_max_age_s)
        key = meta_key(Table.APPLIED_INDEX, replica.group_id)
        record = rows.get(key)
        assert record is not None, "a replica that leads has been written"
        applied, _ = unpack_pair(key, record)
        offer = self._make_offer(applied)
        stream = self.streams[peer] = Stream(rows, offer, heard_at=replica.now())
        stream.positions[0] = (0, offer.ranges[0][0] if offer.ranges else b"")
        self._offer(peer, stream)

    def _make_offer(self, applied: int) -> AnyOffer:
        replica = self._replica
        machine, services = replica.machine, replica.services
        config_index, config = replica.journal.config_at(applied)
        ranges = list(machine.owned_ranges())
        absorbed = machine.absorbed if isinstance(machine, DividingMachine) else ()
        offer = Offer(
            replica.group_id,
            replica.raft.term,
            services.rng.randrange(0, 1 << 62),
            applied,
            replica.journal.term_at(applied),
            config_index,
            config.encode(),
            [list(owned) for owned in ranges],  # type: ignore[misc]
        )
        if absorbed or any(isinstance(owned, Slice) for owned in ranges):
            return LineageOffer(**offer._asdict(), absorbed=list(absorbed))
        return offer

    def holds(self) -> int | None:
        """The log must keep what follows this index."""
        return min((stream.offer.last_index for stream in self.streams.values()), default=None)

    def _offer(self, peer: NodeId, stream: Stream) -> None:
        replica = self._replica
        stream.asked = False
        stream.retry_at = replica.now() + replica.services.config.snapshot_retry_s
        replica.services.send(peer, stream.offer)

    def on_reply(self, peer: NodeId, incarnation: int, reply: OfferReply) -> None:
        reason = l2_member(self._replica.journal.config, peer, incarnation)
        if reason is not None:
            self._replica.drop(peer, reason)
            self._replica.tell_not_member(peer)
        stream = self.streams.get(peer)
        if stream is None or reply.snapshot != stream.offer.snapshot:
            return self._replica.drop(peer, "late-snapshot-reply")
        if reply.next_chunk is None:
            # Whoever says it: one that lost its disk must not keep the place of its replacement.
            retry_s = self._replica.services.config.snapshot_retry_s
            self._refused[peer] = self._replica.now() + retry_s
            return self._abort(peer, "snapshot-refused")
        if reason is not None:
            return None
        stream.heard_at = self._replica.now()
        if reply.next_chunk not in stream.positions:
            return self._abort(peer, "snapshot-restarts")
        if reply.next_chunk > stream.acknowledged:
            for number in range(stream.acknowledged, reply.next_chunk):
                stream.positions.pop(number, None)
                rows, size = stream.sizes.pop(number, (0, 0))
                stream.rows_there += rows
                stream.bytes_there += size
            stream.acknowledged = reply.next_chunk
        else:
            stream.sent = reply.next_chunk
        stream.sent = max(stream.sent, stream.acknowledged)
        stream.retry_at = self._replica.now() + self._replica.services.config.snapshot_retry_s
        stream.asked = True
        return None

    def _may_send(self, stream: Stream) -> bool:
        window = self._replica.services.config.snapshot_window_chunks
        room = stream.sent < stream.acknowledged + window
        return stream.asked and room and stream.sent != stream.end

    def _pump(self, peer: NodeId, stream: Stream) -> None:
        try:
            self._send_chunk(peer, stream)
        except SnapshotExpiredError:
            self._abort(peer, "snapshot-too-slow")
        else:
            if self._may_send(stream):
                self._replica.services.wake(self._replica.group_id)

    def _send_chunk(self, peer: NodeId, stream: Stream) -> None:
        replica = self._replica
        at, key = stream.positions[stream.sent]
        ranges = stream.offer.ranges
        rows, after = self._read(stream.rows, ranges, at, key)
        packed = replica.services.level_of(peer) >= PACKED_LEVEL
        data, checksum = encode_rows(rows, packed=packed)
        number = stream.sent
        last = after[0] >= len(ranges)
        message = Chunk(
            replica.group_id,
            replica.raft.term,
            stream.offer.snapshot,
            number,
            last,
            checksum,
            data,
        )
        stream.sizes[number] = (len(rows), len(data))
        stream.sent = number + 1
        stream.positions[stream.sent] = after
        if last:
            stream.end = stream.sent
        replica.services.send(peer, message)

    def _read(
        self, rows: Snapshot, ranges: Sequence[Range], at: int, key: bytes
    ) -> tuple[list[tuple[bytes, bytes]], Position]:
        """The rows of one chunk, of as many ranges as it takes, and where the next one begins.
        Rows that are looked at and left out count, too, so that a chunk is a bounded work."""
        left = self._replica.services.config.snapshot_chunk_bytes
        found: list[tuple[bytes, bytes]] = []
        while at < len(ranges) and left > 0:
            page = rows.scan(key, ranges[at][1], max_bytes=left)
            owned, items = read_range(*ranges[at]), page.items
            if isinstance(owned, Slice):
                items = [row for row in items if owned.holds(*row)]
            found += items
            if page.more:
                return found, (at, page.items[-1][0] + b"\x00")
            left -= sum(map(len, chain.from_iterable(page.items)))
            at += 1
            key = ranges[at][0] if at < len(ranges) else b""
        return found, (at, key)

    def there(self, peer: NodeId) -> tuple[int, int]:
        """(rows, bytes) of the snapshot under way that the peer has."""
        stream = self.streams.get(peer)
        return (0, 0) if stream is None else (stream.rows_there, stream.bytes_there)

    def step(self, now: float) -> None:
        """Each turn: end what is done or lost, ask again where nothing came back, send a chunk."""
        for peer, stream in list(self.streams.items()):
            progress = self._replica.replication.progress.get(peer)
            if progress is None:
                self._abort(peer, "")
            elif self._replica.raft.match_index(peer) >= stream.offer.last_index:
                self.finished += 1
                self._abort(peer, "")
            elif now >= stream.heard_at + self._replica.services.config.snapshot_abandon_s:
                self._abort(peer, "snapshot-abandoned")
            elif now >= stream.retry_at:
                stream.sent = stream.acknowledged
                self._offer(peer, stream)
            elif self._may_send(stream):
                self._pump(peer, stream)

    def deadline(self) -> float:
        return min((stream.retry_at for stream in self.streams.values()), default=float("inf"))

    def _abort(self, peer: NodeId, reason: str) -> None:
        stream = self.streams.pop(peer)
        stream.rows.close()
        services = self._replica.services
        following = services.snapshot_slots.give_back(self._replica.now())
        if following is not None:
            services.wake(following)
        progress = self._replica.replication.progress.get(peer)
        if progress is not None:
            progress.snapshot = False
        if reason:
            self._replica.drop(peer, reason)

    def stop(self) -> None:
        self.wanted.clear()
        self._refused.clear()
        for peer in list(self.streams):
            self._abort(peer, "")
