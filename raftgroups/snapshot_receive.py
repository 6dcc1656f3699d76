"""The follower's side of snapshots: stage, switch, move (hazards n2, i).

    staging   chunks are checked and stored under SNAPSHOT_STATE; the replica lives on as it was
    switch    one batch: the log gives way, applied = snapshot's index, configuration, MOVING
    moving    in bounded batches: the old rows go, staged rows take their places
    done      the last batch removes the meta row; the machine is told, applying goes on

A crash at any point is survived: while staging the old state is whole (and chunks on the disk are
not sent again), from the switch on the staged rows are complete and moving them is idempotent:
`moved` and the removal of a chunk are in the batch that puts its rows. The switch throws nothing
away that counts: entries below the snapshot are committed elsewhere, by a majority without us, and
if our log still holds the snapshot's last entry the snapshot is refused and the log kept.

Until the move is done the replica neither applies, nor answers reads, nor stands for election; it
takes entries and acknowledges them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from raftgroups.levels import refuse_below
from raftgroups.membership import UNBOUND, Config
from raftgroups.messages import Ack, Chunk, MalformedError, OfferReply
from raftgroups.snapshot import (
    AnyOffer,
    Incoming,
    Phase,
    chunk_fault,
    chunk_row,
    decode_rows,
    meta_row,
    offer_fault,
    overlap,
    parts,
)
from raftgroups.transport import NodeId
from storage.codec import seal, unseal
from storage.committer import Need
from storage.engine import Batch, iterate
from storage.slices import remove

if TYPE_CHECKING:
    from raftgroups.replica import Replica

MOVE_BYTES: Final = 4 * 1024 * 1024


class SnapshotReceiver:
    """Invariant: `next_chunk` counts what is staged, on the disk or in the turn's batch."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.incoming: Incoming | None = None
        self.next_chunk = 0
        self.installed = 0
        self._staged: list[tuple[int, bytes]] = []
        self._clear_staging = False
        self._dirty_meta = False
        self._finished = False

    @property
    def moving(self) -> bool:
        return self.incoming is not None and self.incoming.phase is Phase.MOVING

    def load(self) -> None:
        """Go on where the process ended."""
        group = self._replica.group_id
        with self._replica.services.engine.snapshot() as rows:
            key = meta_row(group)
            record = rows.get(key)
            if record is None:
                return
            self.incoming = Incoming.decode(unseal(key, record))
            staged = list(iterate(rows, chunk_row(group, 0), meta_row(group + 1)))
        numbers = {int.from_bytes(key[-6:-2], "big") for key, _ in staged}
        self.next_chunk = self.incoming.moved
        while self.next_chunk in numbers:
            self.next_chunk += 1

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
            return self._reply(peer, offer.snapshot, None)
        if self.incoming is None or self.incoming.snapshot != offer.snapshot:
            self.incoming = Incoming.of(offer)
            self.next_chunk = 0
            self._staged.clear()
            self._clear_staging = self._dirty_meta = True
        return self._reply(peer, offer.snapshot, self.next_chunk)

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

    def _reply(self, peer: NodeId, snapshot: int, next_chunk: int | None) -> None:
        replica = self._replica
        reply = OfferReply(replica.group_id, replica.raft.term, snapshot, next_chunk)
        replica.services.send(peer, reply)

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
        if chunk.number == self.next_chunk:
            fault = chunk_fault(chunk.rows, chunk.checksum, incoming.ranges)
            if fault is None:
                self._staged.append((chunk.number, chunk.rows))
                self.next_chunk += 1
                if chunk.last:
                    return self._switch(peer, incoming)
            else:
                replica.drop(peer, fault)
        elif chunk.number > self.next_chunk:
            replica.drop(peer, "snapshot-chunk-out-of-order")
        return self._reply(peer, chunk.snapshot, self.next_chunk)

    # --- switching and moving -------------------------------------------------------------

    def _switch(self, peer: NodeId, incoming: Incoming) -> None:
        """Everything is there and checked. What was applied meanwhile may be newer still."""
        replica = self._replica
        raft, journal = replica.raft, replica.journal
        if incoming.last_index <= raft.commit_index:
            self.incoming = None
            self._clear_staging = True
            ack = Ack(replica.group_id, raft.term, raft.commit_index + 1, success=True, reset=False)
            return replica.services.send(peer, ack)
        ends = self._subsumed(incoming)
        if ends is None:  # another replica has come since it was offered
            self.incoming = None
            self._clear_staging = True
            self.next_chunk = 0
            return replica.drop(peer, "snapshot-overlaps")
        for group in ends:
            replica.services.end(group, with_data=True)
        self.incoming = replace(incoming, phase=Phase.MOVING, chunks=self.next_chunk)
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

    def need(self) -> Need:
        if self._staged or self._clear_staging or self._dirty_meta or self.moving:
            return Need.NOW
        return Need.NOTHING

    def prepare(self, batch: Batch) -> None:
        group = self._replica.group_id
        if self._clear_staging:
            batch.delete_range(meta_row(group), meta_row(group + 1))
            self._clear_staging = False
        for number, rows in self._staged:
            for part, data in enumerate(parts(rows)):
                key = chunk_row(group, number, part)
                batch.put(key, seal(key, data))
        just_staged, self._staged = self._staged, []
        if self.moving and not just_staged:
            self._move(batch)
        elif self._dirty_meta and self.incoming is not None:
            key = meta_row(group)
            batch.put(key, seal(key, self.incoming.encode()))
        self._dirty_meta = False

    def _move(self, batch: Batch) -> None:
        """Put some staged chunks in place; the chunks of this batch are on the disk already."""
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
                for key, value in decode_rows(data):
                    batch.put(key, value)
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
            self.next_chunk = 0
            self.installed += 1
            replica.machine.restored(replica.raft.applied_index)
            replica.services.wake(replica.group_id)
        elif self.moving:
            replica.services.wake(replica.group_id)
