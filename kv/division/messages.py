"""What the divider's node and the others say to each other about shards. Values and bytes. Pure.

    Ask       the divider's node to all     "how are your shards?", and whose middle is wanted
    Report    the answer

Each may be lost or come late; a report answers one question, by its number.
"""

from __future__ import annotations

from typing import Final

import msgspec

REPORT_VERSION: Final = 1


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class Ask(_Message, frozen=True):
    number: int
    detail: bool = True
    """What shards carry, too; else only how they stand."""
    middles: tuple[int, ...] = ()
    """Shards whose middle key by number of keys is wanted; their leaders look for it."""


class Standing(_Message, frozen=True):
    """A shard as its leader shows it: raftgroups/merging.py Seen."""

    keyspace: int
    start: bytes
    end: bytes | None
    epoch: int
    applied_index: int
    merging_with: int
    merge: int
    frozen_by: int
    frozen_merge: int
    absorbed: tuple[int, ...]
    voters: tuple[tuple[str, int], ...]
    """(node, incarnation of its disk)"""
    learners: tuple[tuple[str, int], ...]
    settled_config: bool
    level: int
    filled_bytes: int = 0
    """Of the snapshots under way to its learners, what they have."""


class Hot(_Message, frozen=True):
    key: bytes
    operations_a_second: float


class Load(_Message, frozen=True):
    """What is asked of a shard on this node; writes are told by its leader."""

    reads_a_second: float
    writes_a_second: float
    marks: tuple[bytes, ...] = ()
    hot: tuple[Hot, ...] = ()


class Size(_Message, frozen=True):
    keys: int
    size_bytes: int
    """About, of keys and values as they are now."""
    middle: bytes = b""
    """About as many keys lie before it as behind; empty: not known, or not asked for."""


class ReplicaReport(_Message, frozen=True):
    group: int
    term: int
    durable_applied: int
    standing: Standing | None = None
    load: Load | None = None
    size: Size | None = None


class Report(_Message, frozen=True):
    version: int
    number: int
    incarnation: int
    """Of the node's disk."""
    replicas: tuple[ReplicaReport, ...]


encode: Final = msgspec.msgpack.Encoder().encode
decode_ask: Final = msgspec.msgpack.Decoder(Ask).decode
decode_report: Final = msgspec.msgpack.Decoder(Report).decode
"""Both raise msgspec.DecodeError, and nothing else, for other bytes."""
