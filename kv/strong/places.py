"""Which shard a group of this node is, from its rows: what a restart needs before any map is known.

A shard that was written has its own record (SHARD: keyspace, segment, range). One that was only
formed has what stood in the map then, kept beside its group:

    MACHINE   group u64, "place" -> msgpack of [shard, keyspace, segment, start, end]

written and synced before the group is formed, so that no group is here without one. It belongs to
this replica, not to the machine's data: no snapshot carries it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from raftgroups.machine_parts import ShardPlace
from storage.codec import Table, key_u64, seal, unseal
from storage.engine import Batch, Engine
from storage.mvcc_state import ShardState

PLACE: Final = b"place"
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[int, int, int, bytes, bytes | None]).decode


def write_place(engine: Engine, place: ShardPlace) -> None:
    key = key_u64(Table.MACHINE, place.group, PLACE)
    body = _encode((place.shard, place.keyspace, place.segment, place.start, place.end))
    batch = Batch()
    batch.put(key, seal(key, body))
    engine.write(batch, sync=True)


def read_place(engine: Engine, group: int) -> ShardPlace | None:
    """None if nothing here says where the group belongs."""
    place_key, shard_key = key_u64(Table.MACHINE, group, PLACE), key_u64(Table.SHARD, group)
    with engine.snapshot() as rows:
        shard, place = rows.get(shard_key), rows.get(place_key)
    if shard is not None:  # bounds are read from its segment record by the machine itself
        state = ShardState.decode(group, shard)
        return ShardPlace(group, group, state.keyspace, state.segment)
    if place is not None:
        return ShardPlace(group, *_decode(unseal(place_key, place)))
    return None


def is_formed(engine: Engine, group: int) -> bool:
    """The group is on this disk: its hard state is written and synced."""
    with engine.snapshot() as rows:
        return rows.get(key_u64(Table.HARD_STATE, group)) is not None


def is_from_before(engine: Engine, group: int) -> bool:
    """It was formed when there was no meta group, and no record of where it belongs."""
    with engine.snapshot() as rows:
        return rows.get(key_u64(Table.MACHINE, group, PLACE)) is None


def forget_place(engine: Engine, group: int) -> None:
    batch = Batch()
    batch.delete(key_u64(Table.MACHINE, group, PLACE))
    engine.write(batch, sync=True)
