"""The follower's side of snapshots: stage or place, switch, move (hazards n2, i).

    staging   a replica with a state: chunks are checked and stored under SNAPSHOT_STATE; it lives
              on as it was
    placing   one that has none and waits for its first: rows go to their places at once
    switch    one batch: the log gives way, applied = snapshot's index, configuration, MOVING
    moving    in bounded batches: the old rows go, staged rows take their places; nothing to do
              where they were placed
    done      the last batch removes the meta row; the machine is told, applying goes on

A crash at any point is survived. Staging: the old state is whole (and chunks on the disk are not
sent again). Placing: the meta row, which is in the batch of the first rows, says that the rows of
these ranges are worth nothing, and the next start removes them before anything looks at them
(`throw_away_placed`). From the switch on the rows are complete, and moving them is idempotent:
`moved` and the removal of a chunk are in the batch that puts its rows. The switch throws nothing
away that counts: entries below the snapshot are committed elsewhere, by a majority without us, and
if our log still holds the snapshot's last entry the snapshot is refused and the log kept.

While it is placing the ranges are this replica's (`Replica.owned_ranges`), so nobody else's rows
are ever among them; if the snapshot has absorbed groups that are here, it is staged.

What came waits in memory, `BATCH_BYTES` go with a turn's batch, and the leader is told when they
are on the disk; so a turn is short, and the leader's window bounds the memory.

Until the move is done the replica neither applies, nor answers reads, nor stands for election; it
takes entries and acknowledges them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from raftgroups.errors import BrokenLogError
from raftgroups.levels import refuse_below
from raftgroups.membership import UNBOUND, Config
from raftgroups.messages import Ack, Chunk, MalformedError, OfferReply
from raftgroups.snapshot import (
    AnyOffer,
    Incoming,
    Phase,
    Row,
    checked_rows,
    chunk_row,
    decode_rows,
    meta_row,
    offer_fault,
    overlap,
    parts,
)
from raftgroups.transport import NodeId
from storage.codec import Table, seal, table_range, unseal
from storage.engine import Batch, Engine, iterate
from storage.slices import Range, remove

if TYPE_CHECKING:
    from raftgroups.replica import Replica

MOVE_BYTES: Final = 2 * 1024 * 1024
BATCH_BYTES: Final = 2 * 1024 * 1024
"""With one batch go chunks of so much at least, if they are there."""
WAITING_BYTES: Final = 16 * 1024 * 1024
"""A leader whose window is larger is told to send again what comes beyond this."""


def throw_away_placed(engine: Engine) -> None:
    """At the start, before anything is read: rows that were placed and never switched to."""
    batch = Batch()
    with engine.snapshot() as rows:
        for key, record in iterate(rows, *table_range(Table.SNAPSHOT_STATE)):
            if len(key) == len(meta_row(0)):
                incoming = Incoming.decode(unseal(key, record))
                if incoming.phase is Phase.PLACING:
                    remove(batch, rows, incoming.ranges)
                    batch.delete(key)
    if batch:
        engine.write(batch, sync=True)


class SnapshotReceiver:
    """Invariant: chunks below `written` are on the disk or in the turn's batch, those from there to
    `next_chunk` are in `_waiting`."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.incoming: Incoming | None = None
        self.next_chunk = 0
        self.written = 0
        self.installed = 0
        self._waiting: deque[tuple[int, bytes, Sequence[Row]]] = deque()
        self._waiting_bytes = 0
        self._last_came = False
        """The last chunk is among those that have come."""
        self._leader: NodeId | None = None
        """Who sends."""
        self._told = 0
        """The number that the leader was told last."""
        self._asked_again = -1
        """The gap that it was told of."""
        self._leftover: tuple[Range, ...] = ()
        """Rows of a snapshot that was being placed and is given up; they go with the next batch."""
        self._clear_staging = False
        self._dirty_meta = False
        self._finished = False

    @property
    def moving(self) -> bool:
        return self.incoming is not None and self.incoming.phase is Phase.MOVING

    @property
    def placing(self) -> bool:
        return self.incoming is not None and self.incoming.phase is Phase.PLACING

    @property
    def placed_ranges(self) -> tuple[Range, ...]:
        """Where there are, or may be in a moment, rows that were placed."""
        placing = self.incoming.ranges if self.incoming is not None and self.placing else ()
        return (*self._leftover, *placing)

    def load(self) -> None:
        """Go on where the process ended."""
        group = self._replica.group_id
        with self._replica.services.engine.snapshot() as rows:
            key = meta_row(group)
            record = rows.get(key)
            if record is None:
                return
            self.incoming = Incoming.decode(unseal(key, record))
            staged = iterate(rows, chunk_row(group, 0), meta_row(group + 1))
            numbers = {int.from_bytes(key[-6:-2], "big") for key, _ in staged}
        self.next_chunk = self.incoming.moved
        while self.next_chunk in numbers:
            self.next_chunk += 1
        self.written = self._told = self.next_chunk
        self._last_came = 0 < self.incoming.chunks == self.written

    # --- staging -------------------------------------------------------------------------

    def on_offer(self, peer: NodeId, _: int, offer: AnyOffer) -> None:
        replica = self._replica
        raft = replica.raft
        if offer.term != raft.term or raft.leader != peer or self.moving:
            return replica.drop(peer, "late-snapshot")
        matched = self._matched(offer)
        if matched is not None:
            ack = Ack(replica.group_id, raft.term, matched + 1, success=True, reset=False)
            return replica.services.send(peer, ack)
        fault = self._config_fault(offer)
        fault = fault or offer_fault(offer)
        if fault is None and self._subsumed(Incoming.of(offer)) is None:
            fault = "snapshot-overlaps"
        if fault is not None:
            replica.drop(peer, fault)
            return self._refuse(peer, offer.snapshot)
        if self.incoming is None or self.incoming.snapshot != offer.snapshot:
            self._give_up()
            incoming = Incoming.of(offer)
            if replica.waiting and not self._subsumed(incoming):
                incoming = replace(incoming, phase=Phase.PLACING)
            self.incoming = incoming
            self._dirty_meta = True
        self._leader = peer
        return self._reply(peer, offer.snapshot)

    def _give_up(self) -> None:
        """What has come of a snapshot so far is worth nothing."""
        self._leftover = self.placed_ranges
        self.incoming = None
        self.next_chunk = self.written = self._told = 0
        self._asked_again = -1
        self._last_came = False
        self._waiting.clear()
        self._waiting_bytes = 0
        self._clear_staging = True

    def _subsumed(self, incoming: Incoming) -> list[int] | None:
        """The other groups here that the snapshot puts an end to: its shard has absorbed theirs, so
        they are over for everybody. Most are frozen; one that is not was no member any more when
        that happened, and was never told. None if it overlaps with one that it has not absorbed,
        as does a child with its parent that has not applied the split yet: it must wait."""
        services = self._replica.services
        found: list[int] = []
        if "accept-overlap" in services.config.canaries:
            return found
        for group, owned in services.other_ranges(self._replica.group_id).items():
            if overlap(incoming.ranges, owned):
                if group not in incoming.absorbed:
                    return None
                found.append(group)
        return found

    def _config_fault(self, offer: AnyOffer) -> str | None:
        services = self._replica.services
        try:
            config = Config.decode(offer.config)
        except MalformedError:
            return "malformed-config"
        refuse_below(self._replica.group_id, config.level, services.config.feature_level)
        if offer.config_index > offer.last_index:
            return "malformed-config"
        if config.incarnation(services.node_id) not in (None, UNBOUND, services.incarnation):
            return "snapshot-for-another-disk"
        return None

    def _matched(self, offer: AnyOffer) -> int | None:
        """How far our log surely equals the leader's, if that covers the snapshot (rule n2)."""
        raft, journal = self._replica.raft, self._replica.journal
        if offer.last_index <= raft.commit_index:
            return raft.commit_index
        if offer.last_index <= journal.last_index and (
            journal.term_at(offer.last_index) == offer.last_term
        ):
            return offer.last_index
        return None

    def _reply(self, peer: NodeId, snapshot: int) -> None:
        replica = self._replica
        self._told = self.written
        reply = OfferReply(replica.group_id, replica.raft.term, snapshot, self.written)
        replica.services.send(peer, reply)

    def _refuse(self, peer: NodeId, snapshot: int) -> None:
        replica = self._replica
        replica.services.send(peer, OfferReply(replica.group_id, replica.raft.term, snapshot, None))

    def on_chunk(self, peer: NodeId, _: int, chunk: Chunk) -> None:
        replica, incoming = self._replica, self.incoming
        if (
            incoming is None
            or self.moving
            or chunk.snapshot != incoming.snapshot
            or chunk.term != replica.raft.term
            or replica.raft.leader != peer
        ):
            return replica.drop(peer, "late-snapshot")
        if chunk.number < self.next_chunk:
            return None  # it is there, or waits: the leader is told when it is on the disk
        fault = "snapshot-chunk-out-of-order"
        if chunk.number == self.next_chunk:
            rows = checked_rows(chunk.rows, chunk.checksum, incoming.ranges)
            if isinstance(rows, str):
                fault = rows
            elif self._waiting_bytes > WAITING_BYTES:
                fault = "snapshot-too-fast"
            else:
                return self._take(peer, chunk, rows)
        replica.drop(peer, fault)
        if self._asked_again == self.next_chunk:  # all that was sent behind it comes here, too
            return None
        self._asked_again = self.next_chunk
        return self._reply(peer, chunk.snapshot)

    def _take(self, peer: NodeId, chunk: Chunk, rows: Sequence[Row]) -> None:
        self._waiting.append((chunk.number, chunk.rows, rows))
        self._waiting_bytes += len(chunk.rows)
        self.next_chunk += 1
        self._last_came = chunk.last
        self._leader = peer

    # --- switching and moving -------------------------------------------------------------

    def step(self) -> None:
        """In each turn: if all is on the disk, switch to it. If the leader that sent it does not
        lead any more, the next one offers its own."""
        incoming, raft = self.incoming, self._replica.raft
        if incoming is None or self.moving or self._waiting or not self._last_came:
            return
        if self._leader is not None and raft.leader == self._leader:
            self._switch(self._leader, incoming)

    def _switch(self, peer: NodeId, incoming: Incoming) -> None:
        """Everything is there and checked. What was applied meanwhile may be newer still."""
        replica = self._replica
        raft, journal = replica.raft, replica.journal
        if incoming.last_index <= raft.commit_index:
            self._give_up()
            ack = Ack(replica.group_id, raft.term, raft.commit_index + 1, success=True, reset=False)
            return replica.services.send(peer, ack)
        ends = self._subsumed(incoming)
        if self.placing and ends != []:
            raise BrokenLogError(
                f"group {replica.group_id}: rows of another group came where its snapshot was put"
            )
        if ends is None:  # another replica has come since it was offered
            self._give_up()
            return replica.drop(peer, "snapshot-overlaps")
        for group in ends:
            replica.services.end(group, with_data=True)
        moved = self.written if self.placing else 0
        self.incoming = replace(incoming, phase=Phase.MOVING, chunks=self.written, moved=moved)
        self._dirty_meta = True
        replica.machine.reset()
        journal.install(
            incoming.last_index,
            incoming.last_term,
            incoming.config_index,
            Config.decode(incoming.config),
        )
        raft.applied_index = incoming.last_index
        raft.commit_index = incoming.last_index
        ack = Ack(replica.group_id, raft.term, incoming.last_index + 1, success=True, reset=False)
        return replica.services.send(peer, ack)

    @property
    def must_write(self) -> bool:
        return bool(
            self._waiting
            or self._clear_staging
            or self._dirty_meta
            or (self.incoming is not None and self.moving)
        )

    def prepare(self, batch: Batch) -> None:
        group = self._replica.group_id
        if self._clear_staging:
            batch.delete_range(meta_row(group), meta_row(group + 1))
            self._clear_staging = False
            with self._replica.services.engine.snapshot() as rows:
                remove(batch, rows, self.placed_ranges)
            self._leftover = ()
        self._write_waiting(batch)
        if self._dirty_meta and self.incoming is not None:
            key = meta_row(group)
            batch.put(key, seal(key, self.incoming.encode()))
        elif self.moving:
            self._move(batch)
        self._dirty_meta = False

    def _write_waiting(self, batch: Batch) -> None:
        size = 0
        while self._waiting and size < BATCH_BYTES:
            number, data, rows = self._waiting.popleft()
            if self.placing:
                batch.put_rows(rows)
            else:
                for part, piece in enumerate(parts(data)):
                    key = chunk_row(self._replica.group_id, number, part)
                    batch.put(key, seal(key, piece))
            size += len(data)
            self.written += 1
        self._waiting_bytes -= size
        if size and self._last_came and not self._waiting and self.incoming is not None:
            self.incoming = replace(self.incoming, chunks=self.written)
            self._dirty_meta = True

    def _move(self, batch: Batch) -> None:
        """Put some staged chunks in place; they are on the disk."""
        incoming, group = self.incoming, self._replica.group_id
        assert incoming is not None
        if incoming.moved == 0:
            with self._replica.services.engine.snapshot() as rows:
                remove(batch, rows, (*self._replica.owned_ranges(), *incoming.ranges))
        moved, size = incoming.moved, 0
        with self._replica.services.engine.snapshot() as rows:
            while moved < incoming.chunks and size < MOVE_BYTES:
                data = b"".join(
                    unseal(key, record)
                    for key, record in iterate(
                        rows, chunk_row(group, moved), chunk_row(group, moved + 1)
                    )
                )
                batch.put_rows(decode_rows(data))
                batch.delete_range(chunk_row(group, moved), chunk_row(group, moved + 1))
                size += len(data)
                moved += 1
        if moved == incoming.chunks:
            batch.delete(meta_row(group))
            self._finished = True
        else:
            key = meta_row(group)
            batch.put(key, seal(key, replace(incoming, moved=moved).encode()))
        self.incoming = replace(incoming, moved=moved)

    def after_commit(self) -> None:
        replica = self._replica
        if self._finished:
            self._finished = False
            self.incoming = None
            self.next_chunk = self.written = 0
            self._last_came = False
            self.installed += 1
            replica.machine.restored(replica.raft.applied_index)
            replica.services.wake(replica.group_id)
        elif self.incoming is None:
            return
        elif self.moving:
            replica.services.wake(replica.group_id)
        else:
            if self._leader is not None and self.written > self._told:
                self._reply(self._leader, self.incoming.snapshot)
            if self._waiting or self._last_came:
                replica.services.wake(replica.group_id)
