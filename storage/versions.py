"""The leaderless regime's objects on any engine, and all that one turn changes of them.

Tables (objects.py reads them, hints.py has those of the hints):

    OBJECT       keyspace, key          -> epoch, digest, sibling set
    TOKEN_INDEX  keyspace, bucket, key  -> nothing; written when a key appears or goes
    MERKLE_LEAF  keyspace, bucket       -> number of keys, sum of their digests
    REAP         keyspace, due, key     -> nothing; keys of which no version lives from `due` on
    COUNTER      "key-epoch"            -> the last epoch that this node used

A shell opens a `Turn` on a snapshot, reads and changes through it, and lets it `collect` everything
into the one batch that it writes, synced. Nothing of a turn may leave the node before that batch is
on the disk: a dot that was seen elsewhere and then lost in a power cut would be minted again.

What a turn sees. Point reads (`get`, `hints.held`, `hints.usage`) see its own earlier changes, so
many requests for one key in one turn work one after the other. Scans are functions over a reader
and see what is committed. A key that changes often in one turn is encoded and written once.

Invariants
- an object row and its index row, its reap row and its share of the leaf change in one batch;
- a leaf is exactly the sum over its bucket's objects (`compute_leaves` builds it from nothing);
- an epoch given out by `next_epoch` is in the same batch as the record that uses it.

Damage. A record that fails its checksum raises CorruptRecordError that names its key, from `get`
and `put` alike; `discard_damaged` removes it so that repair can fetch it anew. A leaf is derived,
so one that is damaged, or cannot be right, is built again from its bucket. This file is pure and
knows no merge rule.
"""

from __future__ import annotations

from enum import StrEnum
from struct import Struct
from typing import Final, NamedTuple

from storage.buckets import EMPTY_LEAF, Leaf, bucket_of, plain_digest, set_digest
from storage.codec import Table, check_key, prefix_end, seal, unseal
from storage.engine import Batch, Reader, iterate
from storage.errors import CorruptRecordError
from storage.hints import HintChanges, HintLimits, Merge
from storage.objects import (
    Record,
    leaf_key,
    object_body,
    object_key,
    read_digest,
    reap_key,
    split_object,
    token_key,
    unreadable_object,
)
from storage.plain import plain_of
from storage.rows import RowChanges, delete_row, join_row, put_row
from storage.siblings import MalformedSetError, SiblingSet, decode_set, encode_set

KEY_EPOCH: Final = bytes((Table.COUNTER,)) + b"key-epoch"
_U64: Final = Struct(">Q")
_NOTHING: Final = b""
_Delta = tuple[int, int, int]
"""What a turn does to a leaf: keys that go or change, that come or change, the sum of digests."""
_NO_CHANGE: Final[_Delta] = (0, 0, 0)


class StorageCanary(StrEnum):
    """Known bugs that a test switches on, to see that it would be caught."""

    LEAF_NOT_UPDATED = "leaf_not_updated"
    EPOCH_NOT_KEPT = "epoch_not_kept"


class LeafChange(NamedTuple):
    """What a turn did to one leaf, for sums over leaves that are kept in memory."""

    keyspace: int
    bucket: int
    old: Leaf | None
    """None: it was built again and nobody knows what it was; sums over it start again too."""
    new: Leaf


class _Slot:
    """One key in a turn: what is committed, and what the turn made of it. Records are decoded when
    somebody asks for one, and sets encoded when they are written."""

    __slots__ = (
        "changed",
        "damaged",
        "encoded",
        "epoch",
        "lasting",
        "old_digest",
        "old_encoded",
        "old_epoch",
        "old_parts",
        "record",
    )

    def __init__(self) -> None:
        self.old_encoded: bytes | None = None
        """The committed set; None: there is no record."""
        self.old_digest: int | None = None
        self.old_epoch = 0
        self.old_parts = 0
        self.encoded: bytes | None = None
        """The set as it is now; None: there is no record, or `record` has yet to be encoded."""
        self.epoch = 0
        self.record: Record | None = None
        """What `encoded` is, if anybody asked; None, and `encoded` too: there is no record."""
        self.changed = False
        self.damaged = False
        self.lasting = False
        """`encoded` is known to be a plain set: of no version that ends."""

    def held(self, keyspace: int, key: bytes) -> Record | None:
        """Raises CorruptRecordError."""
        if self.record is None and self.encoded is not None:
            self.record = Record(_decoded(keyspace, key, self.encoded), self.epoch)
        return self.record

    def put(self, record: Record, encoded: bytes | None) -> None:
        self.record, self.encoded, self.epoch = record, encoded, record.epoch
        self.changed, self.lasting = True, False

    def put_encoded(self, encoded: bytes) -> None:
        self.record, self.encoded = None, encoded
        self.changed = self.lasting = True

    def drop(self) -> None:
        self.record = self.encoded = None
        self.changed = True

    def written(self) -> bytes | None:
        """The set as it is to be written."""
        if self.encoded is None and self.record is not None:
            self.encoded = encode_set(self.record.siblings)
        return self.encoded

    @property
    def same(self) -> bool:
        """Nothing is to be written. Asked after `written`."""
        return not self.changed or (
            self.encoded == self.old_encoded and self.epoch == self.old_epoch
        )


class Turn:
    """All changes of one turn over one snapshot. Used once: `collect` ends it."""

    def __init__(
        self,
        reader: Reader,
        merge: Merge,
        *,
        hint_limits: HintLimits | None = None,
        canaries: frozenset[StorageCanary] = frozenset(),
    ) -> None:
        self._reader = reader
        self._rows = RowChanges(reader)
        self._slots: dict[tuple[int, bytes], _Slot] = {}
        self._rebuild: set[tuple[int, int]] = set()
        self._canaries = canaries
        self._collected = False
        self.hints = HintChanges(self._rows, hint_limits or HintLimits(), merge)
        self.leaves_rebuilt = 0
        self.leaf_changes: list[LeafChange] = []
        """Filled by `collect`; true once the batch is on the disk."""
        self.changed: list[tuple[int, bytes, bytes]] = []
        """(keyspace, key, its set's bytes) of every record that is not only dropped; likewise."""

    def get(self, keyspace: int, key: bytes) -> Record | None:
        """What the node holds of the key after the changes of this turn."""
        return self._slot(keyspace, key).held(keyspace, key)

    def get_encoded(self, keyspace: int, key: bytes) -> bytes | None:
        """The same set as its bytes."""
        return self._slot(keyspace, key).written()

    def put(self, keyspace: int, key: bytes, record: Record, encoded: bytes | None = None) -> None:
        """Hold this record. Its set must be a successor of what `get` gave. `encoded`, the set's
        canonical bytes, saves encoding it again."""
        check_key(key)
        assert not self._collected, "this turn was collected; open the next one"
        assert record.siblings.clock, "a record without a clock says nothing"
        self._slot(keyspace, key).put(record, encoded)

    def put_encoded(self, keyspace: int, key: bytes, encoded: bytes) -> None:
        """Hold this set, a plain one (storage/plain.py), under the record's epoch. It must be a
        successor of what `get_encoded` gave."""
        check_key(key)
        assert not self._collected, "this turn was collected; open the next one"
        self._slot(keyspace, key).put_encoded(encoded)

    def drop(self, keyspace: int, key: bytes) -> None:
        """Forget the key, clock and all: only after the proof of kv/leaderless/reap.py, or when
        the node no longer stores the key."""
        assert not self._collected, "this turn was collected; open the next one"
        slot = self._slot(keyspace, key)
        slot.held(keyspace, key)  # what cannot be read is for `discard_damaged`
        slot.drop()

    def discard_damaged(self, keyspace: int, key: bytes) -> None:
        """Remove a record that cannot be read; its leaf is built again. The node then holds no
        record of the key, so its next dot is of a new epoch, and repair brings the rest."""
        slot = self._slots[keyspace, key] = _Slot()
        slot.damaged = True

    def rebuild_leaf(self, keyspace: int, bucket: int) -> None:
        """Build a leaf from its bucket again: it was damaged, or a scrub found it wrong."""
        self._rebuild.add((keyspace, bucket))

    def forget_reapable(self, keyspace: int, due_ms: int, key: bytes) -> None:
        """Remove a row that `scan_reapable` gave and the record does not bear out."""
        slot = self._slot(keyspace, key)
        if slot.old_encoded is None or _due_ms(keyspace, key, slot.old_encoded) != due_ms:
            self._rows.delete_blind(reap_key(keyspace, due_ms, key))

    def next_epoch(self) -> int:
        """An epoch that this incarnation of the node has never used and never will again."""
        body = self._rows.get(KEY_EPOCH)
        epoch = (0 if body is None else int(_U64.unpack(body)[0])) + 1
        self._rows.put(KEY_EPOCH, _U64.pack(epoch))
        return epoch

    def keep(self, row_key: bytes, body: bytes) -> None:
        """A row of the node itself (NODE_META), in the same batch."""
        self._rows.put(row_key, body)

    def collect(self, batch: Batch) -> None:
        """Add every change to the batch. Nothing in here refuses: what could was refused before."""
        assert not self._collected, "a turn is collected once"
        self._collected = True
        deltas: dict[tuple[int, int], _Delta] = {}
        digests: dict[tuple[int, bytes], int | None] = {}
        for (keyspace, key), slot in self._slots.items():
            encoded = slot.written()
            if slot.same and not slot.damaged:
                continue
            place = keyspace, bucket_of(key)
            digest = self._write_object(batch, place, key, slot, encoded)
            digests[keyspace, key] = digest
            gone, come, total = deltas.get(place, _NO_CHANGE)
            if slot.old_digest is not None:
                gone, total = gone + 1, total - slot.old_digest
            if digest is not None:
                come, total = come + 1, total + digest
            deltas[place] = gone, come, total
            if slot.damaged:
                self._rebuild.add(place)
        if StorageCanary.LEAF_NOT_UPDATED not in self._canaries:
            for place in sorted(deltas.keys() | self._rebuild):
                self._write_leaf(batch, place, deltas.get(place, _NO_CHANGE), digests)
        if StorageCanary.EPOCH_NOT_KEPT in self._canaries:
            self._rows.forget(KEY_EPOCH)
        self._rows.collect(batch)

    def _slot(self, keyspace: int, key: bytes) -> _Slot:
        slot = self._slots.get((keyspace, key))
        if slot is None:
            slot = _Slot()
            row_key = object_key(keyspace, key)
            stored = self._reader.get(row_key)
            if stored is not None:
                body, slot.old_parts = join_row(self._reader, row_key, stored)
                slot.old_epoch, slot.old_digest, slot.old_encoded = split_object(row_key, body)
                slot.epoch, slot.encoded = slot.old_epoch, slot.old_encoded
            self._slots[keyspace, key] = slot
        return slot

    def _write_object(
        self, batch: Batch, place: tuple[int, int], key: bytes, slot: _Slot, encoded: bytes | None
    ) -> int | None:
        """The rows of one key; gives its new digest."""
        keyspace, bucket = place
        row_key = object_key(keyspace, key)
        index = token_key(keyspace, bucket, key)
        siblings: SiblingSet | None = None
        new_due: int | None = None
        if encoded is not None and not slot.lasting and plain_of(encoded) is None:
            record = slot.held(keyspace, key)
            assert record is not None
            siblings = record.siblings
            new_due = siblings.reapable_from_ms()
        old_due: int | None = None
        if slot.old_encoded is not None:
            old_due = _due_ms(keyspace, key, slot.old_encoded)
        if old_due != new_due:
            if old_due is not None:
                batch.delete(reap_key(keyspace, old_due, key))
            if new_due is not None:
                due = reap_key(keyspace, new_due, key)
                batch.put(due, seal(due, _NOTHING))
        if encoded is None:
            delete_row(batch, row_key, slot.old_parts)
            batch.delete(index)
            return None
        self.changed.append((keyspace, key, encoded))
        digest = (
            plain_digest(key, encoded) if siblings is None else set_digest(key, siblings, encoded)
        )
        put_row(batch, row_key, object_body(slot.epoch, digest, encoded), slot.old_parts)
        if slot.old_encoded is None:
            batch.put(index, seal(index, _NOTHING))
        return digest

    def _write_leaf(
        self,
        batch: Batch,
        place: tuple[int, int],
        delta: _Delta,
        digests: dict[tuple[int, bytes], int | None],
    ) -> None:
        row_key = leaf_key(*place)
        leaf: Leaf | None = None
        old: Leaf | None = None
        if place not in self._rebuild:
            try:
                stored = self._reader.get(row_key)
                old = EMPTY_LEAF
                if stored is not None:
                    old = Leaf.from_bytes(unseal(row_key, stored))
                leaf = old
            except CorruptRecordError:
                pass  # derived data: built again below
        if leaf is not None:
            leaf = _after(leaf, delta)
        if leaf is None:
            old, leaf = None, self._rebuilt_leaf(place, digests)
        self.leaf_changes.append(LeafChange(*place, old, leaf))
        if leaf.keys:
            batch.put(row_key, seal(row_key, leaf.to_bytes()))
        else:
            batch.delete(row_key)

    def _rebuilt_leaf(
        self, place: tuple[int, int], digests: dict[tuple[int, bytes], int | None]
    ) -> Leaf:
        """A leaf from the records of its bucket. Keys that cannot be read are left out: the leaf
        then differs from the other replicas', and repair comes to them."""
        self.leaves_rebuilt += 1
        keyspace, bucket = place
        changed = {key for space, key in digests if (space, bucket_of(key)) == place}
        found = [digests[keyspace, key] for key in changed]
        prefix = token_key(keyspace, bucket, b"")
        for row_key, _ in iterate(self._reader, prefix, prefix_end(prefix)):
            key = row_key[len(prefix) :]
            if key not in changed:
                try:
                    found.append(read_digest(self._reader, keyspace, key))
                except CorruptRecordError:
                    continue
        leaf = EMPTY_LEAF
        for digest in found:
            if digest is not None:
                leaf = leaf.changed(None, digest)
        return leaf


def _after(leaf: Leaf, delta: _Delta) -> Leaf | None:
    """The leaf after the changes; None if it cannot have been the sum of its bucket."""
    gone, come, total = delta
    if leaf.keys < gone:
        return None
    leaf = leaf.plus(come - gone, total)
    return None if leaf.total and not leaf.keys else leaf


def _due_ms(keyspace: int, key: bytes, encoded: bytes) -> int | None:
    """From when no version of the set lives (SiblingSet.reapable_from_ms)."""
    if plain_of(encoded) is not None:
        return None
    return _decoded(keyspace, key, encoded).reapable_from_ms()


def _decoded(keyspace: int, key: bytes, encoded: bytes) -> SiblingSet:
    """Of committed bytes that passed their checksum. Raises CorruptRecordError."""
    try:
        return decode_set(encoded)
    except MalformedSetError as error:
        raise unreadable_object(object_key(keyspace, key), error) from None
