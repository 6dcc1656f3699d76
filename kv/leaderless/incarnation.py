"""Which life of the leaderless data a node's dots belong to, as a row of the environment itself.

    NODE_META "incarnation"  ->  u64 incarnation | u64 incarnation of the data directory

A node keeps its incarnation as long as its data is whole: over restarts too, because the epochs and
dots that it used are on its disk. It takes a new one when the row is missing (an empty or lost
environment), when the data directory itself became another (restored from a copy), and when others
turn out to know more of its dots than it does (dvv.py, `regressed`).

The row is written in the same synced batch as the first dot that bears the new number, so a number
that was ever seen elsewhere is on the disk. It is the leaderless regime's own: the directory's
incarnation also names the node to its Raft groups, which must not change while they run. Pure.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from storage.clock import Rng
from storage.codec import Table, seal, unseal
from storage.engine import Batch, Reader

INCARNATION: Final = bytes((Table.NODE_META,)) + b"incarnation"
_ROW: Final = Struct(">QQ")


def read_incarnation(reader: Reader, directory: int) -> int | None:
    """The incarnation to go on with; None: take a new one. Raises CorruptRecordError."""
    stored = reader.get(INCARNATION)
    if stored is None:
        return None
    incarnation, of_directory = _ROW.unpack(unseal(INCARNATION, stored))
    return int(incarnation) if of_directory == directory else None


def draw_incarnation(rng: Rng) -> int:
    return rng.randrange(1, 1 << 63)


def write_incarnation(batch: Batch, incarnation: int, directory: int) -> None:
    batch.put(INCARNATION, seal(INCARNATION, _ROW.pack(incarnation, directory)))
