"""The rows of a group in the engine: keys and bodies. Pure; storage/codec.py seals them.

JOURNAL        group, index      term, command                 one log entry
JOURNAL_META   group             base index, base term         what compaction left behind
HARD_STATE     group             term, removed_at, vote        what a vote depends on
GROUP_CONFIG   group             [[index, config], ...]        at the base and above it
APPLIED_INDEX  group             applied index, commit index   in the batch of the applied data
SNAPSHOT_STATE group             meta | 0x01 + number: a chunk being received
ERASED_REPLICA group             nothing                       a replica of it was erased here
NODE_META      raft.incarnation  the data directory's, when the rows below were written
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

import cbor2

from raftgroups.membership import Config
from raftgroups.smallcbor import array_head, byte_strings, number_bytes, write
from raftgroups.transport import NodeId
from storage.codec import FORMAT_VERSION, SEED, Table, key_u64, key_u64_u64, seal, unseal

Entry = tuple[bytes, int, int]
"""(command, index, term), as pysyncobj has it. A command is a kind byte and a body."""

KIND_OPERATIONS: Final = 0
KIND_NOOP: Final = 1
KIND_CONFIG: Final = 2
NOOP: Final = bytes((KIND_NOOP,))

_TERM: Final = Struct(">Q")
_PAIR: Final = Struct(">QQ")
_ROW: Final = Struct(">BQQQ")
"""A journal row's key and the term, which its record begins with."""
_KEY_BYTES: Final = _ROW.size - _TERM.size
_RECORD_HEAD: Final = Struct(">BIQ")

INCARNATION_KEY: Final = bytes((Table.NODE_META,)) + b"raft.incarnation"


class HardState(NamedTuple):
    term: int
    vote: NodeId | None
    removed_at: int
    """Index of the committed configuration that told this replica to stop; 0: none."""


def journal_key(group: int, index: int) -> bytes:
    return key_u64_u64(Table.JOURNAL, group, index)


def journal_row(group: int, index: int, command: bytes, term: int) -> tuple[bytes, bytes]:
    """The key and the record of an entry: what `seal` makes of its term and command, without
    joining these first, in half the calls."""
    covered = _ROW.pack(Table.JOURNAL, group, index, term)
    checksum = crc32(command, crc32(covered, SEED))
    return covered[:_KEY_BYTES], _RECORD_HEAD.pack(FORMAT_VERSION, checksum, term) + command


def journal_entry(key: bytes, record: bytes) -> Entry:
    body = unseal(key, record)
    index = int.from_bytes(key[-8:], "big")
    return body[_TERM.size :], index, _TERM.unpack_from(body)[0]


def meta_key(table: Table, group: int) -> bytes:
    return key_u64(table, group)


def pack_pair(key: bytes, first: int, second: int) -> bytes:
    return seal(key, _PAIR.pack(first, second))


def unpack_pair(key: bytes, record: bytes) -> tuple[int, int]:
    first, second = _PAIR.unpack(unseal(key, record))
    return first, second


def pack_hard_state(key: bytes, state: HardState) -> bytes:
    vote = b"" if state.vote is None else state.vote.encode()
    return seal(key, _PAIR.pack(state.term, state.removed_at) + vote)


def unpack_hard_state(key: bytes, record: bytes) -> HardState:
    body = unseal(key, record)
    term, removed_at = _PAIR.unpack_from(body)
    vote = body[_PAIR.size :].decode()
    return HardState(term, NodeId(vote) if vote else None, removed_at)


def pack_configs(key: bytes, configs: list[tuple[int, Config]]) -> bytes:
    return seal(key, cbor2.dumps([[index, config.encode()] for index, config in configs]))


def unpack_configs(key: bytes, record: bytes) -> list[tuple[int, Config]]:
    rows = cbor2.loads(unseal(key, record))
    return [(index, Config.decode(config)) for index, config in rows]


Operations = tuple[str, int, list[bytes]]
"""(origin, number of the first, payloads)"""


def operations_command(origin: str, first_seq: int, payloads: list[bytes]) -> bytes:
    """One entry for all operations that waited. `origin` names the node and boot that proposed
    them; together with the sequence number it finds who is to be answered (hazard n4)."""
    return b"".join((_opening(origin), number_bytes(first_seq), *byte_strings(payloads)))


@lru_cache(maxsize=64)
def _opening(origin: str) -> bytes:
    """What all operations that a node proposes in one life begin with."""
    parts = [bytes((KIND_OPERATIONS,)), array_head(3)]
    write(origin, parts.append)
    return b"".join(parts)


def read_operations(command: bytes) -> Operations:
    origin, first_seq, payloads = cbor2.loads(command[1:])
    return origin, first_seq, payloads


def config_command(config: Config) -> bytes:
    return bytes((KIND_CONFIG,)) + config.encode()


def read_config(command: bytes) -> Config:
    return Config.decode(command[1:])
