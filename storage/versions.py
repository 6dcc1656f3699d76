"""The leaderless regime's objects on any engine, and all that one turn changes of them.

Tables (objects.py reads them, hints.py has those of the hints):

    OBJECT       keyspace, key          -> epoch, digest, sibling set
    TOKEN_INDEX  keyspace, bucket, key  -> the same digest: what anti-entropy adds up and lists
    REAP         keyspace, due, key     -> nothing; keys of which no version lives from `due` on
    COUNTER      "key-epoch"            -> the last epoch that this node used

A shell opens a `Turn` on a snapshot, reads and changes through it, and lets it `collect` everything
into the one batch that it writes, synced. Nothing of a turn may leave the node before that batch is
on the disk: a dot that was seen elsewhere and then lost in a power cut would be minted again.

What a turn sees. Point reads (`get`, `hints.held`, `hints.usage`) see its own earlier changes, so
many requests for one key in one turn work one after the other. Scans are functions over a reader
and see what is committed. A key that changes often in one turn is encoded and written once.

Invariants
- an object row, its index row and its reap row change in one batch;
- an index row has its object's digest, so the leaf of a bucket, which is kept nowhere, is the sum
  over its index rows (`index_leaves`) and over its objects (`compute_leaves`) alike;
- `leaf_changes` are what the batch does to these sums: whoever keeps one adds them;
- an epoch given out by `next_epoch` is in the same batch as the record that uses it.

Damage. A record that fails its checksum raises CorruptRecordError that names its key, from `get`
and `put` alike; `discard_damaged` removes it so that repair can fetch it anew: what it was counted
with stands in its index row. That one is derived, so one that is damaged is written again from the
object (`mend_index`). If both are, nobody knows what the sums had of the key: `unsummed` says so.
This file is pure and knows no merge rule.
"""

from __future__ import annotations

from enum import StrEnum
from struct import Struct
from typing import Final, NamedTuple

from storage.buckets import bucket_of, plain_digest, set_digest
from storage.codec import Table, check_key, seal
from storage.engine import Batch, Reader
from storage.errors import CorruptRecordError
from storage.hints import HintChanges, HintLimits, Merge
from storage.objects import (
    Record,
    digest_body,
    indexed_digest,
    object_body,
    object_key,
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


class StorageCanary(StrEnum):
    """Known bugs that a test switches on, to see that it would be caught."""

    LEAF_NOT_UPDATED = "leaf_not_updated"
    EPOCH_NOT_KEPT = "epoch_not_kept"


class LeafChange(NamedTuple):
    """What a change of one key does to its bucket's leaf, and so to every sum over it. A named
    tuple because one is made with every write."""

    keyspace: int
    bucket: int
    keys: int
    """1: it appeared; -1: it went."""
    total: int
    """The new digest without the old one; may be negative."""


class _Slot:
    """One key in a turn: what is committed, and what the turn made of it. Records are decoded when
    somebody asks for one, and sets encoded when they are written."""

    __slots__ = (
        "changed",
        "damaged",
        "encoded",
        "epoch",
        "lasting",
        "mended",
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
        self.mended = False
        """Its index row is written in any case."""
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
        self._canaries = canaries
        self._collected = False
        self.hints = HintChanges(self._rows, hint_limits or HintLimits(), merge)
        self.leaf_changes: list[LeafChange] = []
        """Filled by `collect`; true once the batch is on the disk."""
        self.unsummed: set[int] = set()
        """Keyspaces of which sums have to be added up anew; likewise."""
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
        """Remove a record that cannot be read. The node then holds no record of the key, so its
        next dot is of a new epoch, and repair brings the rest."""
        slot = self._slots[keyspace, key] = _Slot()
        slot.damaged = True

    def mend_index(self, keyspace: int, key: bytes) -> None:
        """Write the key's index row again: it was damaged. Raises CorruptRecordError if the object
        is, too: then it stays as it is until the key comes from elsewhere."""
        self._slot(keyspace, key).mended = True

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
        for (keyspace, key), slot in self._slots.items():
            encoded = slot.written()
            if slot.same and not (slot.damaged or slot.mended):
                continue
            bucket = bucket_of(key)
            if slot.damaged:
                self._look_at_index(keyspace, bucket, key, slot)
            old = slot.old_digest
            new = self._write_object(batch, (keyspace, bucket), key, slot, encoded)
            if old != new and not self._leaves_left_out:
                keys = (new is not None) - (old is not None)
                self.leaf_changes.append(
                    LeafChange(keyspace, bucket, keys, (new or 0) - (old or 0))
                )
        if StorageCanary.EPOCH_NOT_KEPT in self._canaries:
            self._rows.forget(KEY_EPOCH)
        self._rows.collect(batch)

    @property
    def _leaves_left_out(self) -> bool:
        return StorageCanary.LEAF_NOT_UPDATED in self._canaries

    def _look_at_index(self, keyspace: int, bucket: int, key: bytes, slot: _Slot) -> None:
        """What a record that cannot be read was counted with."""
        try:
            slot.old_digest = indexed_digest(self._reader, keyspace, bucket, key)
        except CorruptRecordError:
            slot.mended = True
            self.unsummed.add(keyspace)

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
        if slot.changed:
            self.changed.append((keyspace, key, encoded))
        digest = (
            plain_digest(key, encoded) if siblings is None else set_digest(key, siblings, encoded)
        )
        if slot.changed:
            put_row(batch, row_key, object_body(slot.epoch, digest, encoded), slot.old_parts)
        appears = slot.old_digest is None
        if appears or slot.mended or not (digest == slot.old_digest or self._leaves_left_out):
            batch.put(index, seal(index, digest_body(digest)))
        return digest


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
