"""The machine of group 0: rules.py behind raftgroups/machine_api.py StateMachine.

The whole state is in memory, as one MetaView; what an entry changed waits for the turn's batch. A
refusal is an answer; anything else that is raised stops the node.

    MACHINE   group 0, "head"                -> applied index u64, version u64, msgpack of counters
              group 0, "n" node id           -> msgpack of a NodeRecord
              group 0, "k" keyspace u32      -> ... KeyspaceRecord
              group 0, "s" shard u64         -> ... ShardRecord
              group 0, "o" operation u64     -> ... OperationRecord
              group 0, "r"                   -> ... RingRecord
              group 0, "q" order u64         -> request 16 bytes, answer: the last ones remembered
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct as Packing
from typing import Any, Final

import msgspec

from raftgroups.meta.commands import (
    NOT_REMEMBERED,
    REQUEST_BYTES,
    decode,
    encode_answer,
)
from raftgroups.meta.records import (
    KeyspaceRecord,
    NodeRecord,
    OperationRecord,
    RingRecord,
    ShardRecord,
)
from raftgroups.meta.refusals import MetaRefusedError
from raftgroups.meta.rules import execute
from raftgroups.meta.view import Counters, MetaView
from raftgroups.refusals import ReplicaAheadError, UnknownCommandError
from raftgroups.results import Failure, MetaAnswer, failure_of
from storage.codec import Table, key_u64, seal, unseal
from storage.engine import Batch, Reader, iterate

META_GROUP: Final = 0
REMEMBERED_MAX: Final = 512
_PREFIX: Final = key_u64(Table.MACHINE, META_GROUP)
_HEAD_KEY: Final = _PREFIX + b"head"
_HEAD: Final = Packing(">QQ")

_encode: Final = msgspec.msgpack.Encoder().encode
_counters: Final = msgspec.msgpack.Decoder(Counters).decode
_KINDS: Final[dict[bytes, Any]] = {
    b"n": msgspec.msgpack.Decoder(NodeRecord).decode,
    b"k": msgspec.msgpack.Decoder(KeyspaceRecord).decode,
    b"s": msgspec.msgpack.Decoder(ShardRecord).decode,
    b"o": msgspec.msgpack.Decoder(OperationRecord).decode,
    b"r": msgspec.msgpack.Decoder(RingRecord).decode,
}


class MetaMachine:
    """Invariant: `view` is everything applied; `_rows` is what of it is not written."""

    def __init__(self, source: Callable[[], Reader], renew: Callable[[], None]) -> None:
        """`source` reads the newest committed state, which `renew` brings up to date."""
        self._source = source
        self._renew = renew
        self.view = MetaView()
        self.observer: Callable[[MetaView], None] | None = None
        """Told of each new version once it was applied, and of the state after `restored`. It must
        not raise, and may not call this machine."""
        self._applied = 0
        self._answers: dict[bytes, bytes] = {}
        self._orders: dict[bytes, int] = {}
        self._next_order = 0
        self._rows: dict[bytes, bytes | None] = {}
        self._head = b""
        self._load()

    # --- the log ---

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[MetaAnswer | Failure]:
        return [self.apply(index, payload) for payload in payloads]

    def apply(self, index: int, payload: bytes) -> MetaAnswer | Failure:
        self._applied = index
        try:
            command, request, wall_ms = decode(payload)
            known = self._answers.get(request)
            if known is not None:
                return MetaAnswer(self.view.version, known)
            after, answer = execute(self.view, command, wall_ms)
        except (MetaRefusedError, UnknownCommandError) as error:
            return failure_of(error, self.view.version)
        body = encode_answer(answer)
        if request != NOT_REMEMBERED:
            self._remember(request, body)
        if after is not self.view:
            self._note_changes(self.view, after)
            self.view = after
            if self.observer is not None:
                self.observer(after)
        return MetaAnswer(self.view.version, body)

    def _remember(self, request: bytes, body: bytes) -> None:
        if len(self._answers) >= REMEMBERED_MAX:
            oldest = next(iter(self._answers))
            del self._answers[oldest]
            self._rows[_order_key(self._orders.pop(oldest))] = None
        self._answers[request] = body
        self._orders[request] = self._next_order
        self._rows[_order_key(self._next_order)] = request + body
        self._next_order += 1

    def _note_changes(self, before: MetaView, after: MetaView) -> None:
        old, new = _rows_of(before), _rows_of(after)
        for key, record in new.items():
            if old.get(key) is not record:
                self._rows[key] = _encode(record)
        for key in old.keys() - new.keys():
            self._rows[key] = None

    # --- the turn ---

    def prepare(self, batch: Batch) -> None:
        head = _HEAD.pack(self._applied, self.view.version) + _encode(self.view.next)
        if head != self._head:
            batch.put(_HEAD_KEY, seal(_HEAD_KEY, head))
            self._head = head
        for key, body in self._rows.items():
            if body is None:
                batch.delete(key)
            else:
                batch.put(key, seal(key, body))
        self._rows.clear()

    def after_commit(self) -> None:
        self._renew()

    # --- snapshots ---

    def owned_ranges(self) -> Sequence[tuple[bytes, bytes]]:
        return [(_PREFIX, key_u64(Table.MACHINE, META_GROUP + 1))]

    def reset(self) -> None:
        """The view stays what it was for whoever routes by it; it is no older than it was."""
        self._rows.clear()

    def restored(self, index: int) -> None:
        self._renew()
        self._load()
        if self._applied > index:
            raise ReplicaAheadError(
                f"the meta group's data holds entry {self._applied} of its log, but the group only "
                f"{index}; restore this replica from another one"
            )
        if self.observer is not None:
            self.observer(self.view)

    def _load(self) -> None:
        reader = self._source()
        self._rows.clear()
        self._answers.clear()
        self._orders.clear()
        self._next_order = self._applied = 0
        found: dict[bytes, list[Any]] = {kind: [] for kind in _KINDS}
        version, counters = 0, Counters()
        self._head = b""
        for key, record in iterate(reader, *self.owned_ranges()[0]):
            body, name = unseal(key, record), key[len(_PREFIX) :]
            if key == _HEAD_KEY:
                self._applied, version = _HEAD.unpack_from(body)
                counters = _counters(body[_HEAD.size :])
            elif name[:1] == b"q":
                request = body[:REQUEST_BYTES]
                order = int.from_bytes(name[1:], "big")
                self._answers[request] = body[REQUEST_BYTES:]
                self._orders[request] = order
                self._next_order = order + 1
            else:
                found[name[:1]].append(_KINDS[name[:1]](body))
        self.view = MetaView(
            version,
            {each.node: each for each in found[b"n"]},
            {each.keyspace: each for each in found[b"k"]},
            {each.shard: each for each in found[b"s"]},
            {each.operation: each for each in found[b"o"]},
            counters,
            next(iter(found[b"r"]), None),
        )


def _order_key(order: int) -> bytes:
    return _PREFIX + b"q" + order.to_bytes(8, "big")


def _rows_of(view: MetaView) -> Mapping[bytes, object]:
    rows: dict[bytes, object] = {}
    for node, record in view.nodes.items():
        rows[_PREFIX + b"n" + node.encode()] = record
    for keyspace, of_keyspace in view.keyspaces.items():
        rows[_PREFIX + b"k" + keyspace.to_bytes(4, "big")] = of_keyspace
    for shard, of_shard in view.shards.items():
        rows[_PREFIX + b"s" + shard.to_bytes(8, "big")] = of_shard
    for operation, of_operation in view.operations.items():
        rows[_PREFIX + b"o" + operation.to_bytes(8, "big")] = of_operation
    if view.ring is not None:
        rows[_PREFIX + b"r"] = view.ring
    return rows
