"""Key -> shard: which shard a command or query belongs to, as the newest map has it. Pure.

    scope_of(command)     the keys that a command touches: a key, a range, or HOME
    one_shard(table, ..)  the shard that holds all of them, or CrossShardError

HOME is the first shard of a keyspace (the one that holds the smallest keys): leases live there.

A map may be old. That is no danger: a shard refuses keys that it does not hold (WrongShardError),
and whoever is refused looks at a newer map and asks again (kv/strong/keyspace.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from raftgroups.commands import (
    BatchWrite,
    Cas,
    Command,
    Compact,
    Compare,
    Decide,
    Delete,
    Expire,
    Finish,
    Increment,
    LeaseForget,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    Prepare,
    Push,
    Put,
    Range,
    Resolve,
    SetTtl,
    Tick,
    Txn,
    UnderLease,
)
from raftgroups.footprint import spans_of_part
from raftgroups.meta.records import ShardRecord
from raftgroups.meta.view import ShardTable
from raftgroups.ranges import bounds
from storage.errors import InvalidRequestError

Scope = tuple[bytes, bytes | None]
"""start <= key < end; None is unbounded."""

HOME: Final[Scope] = (b"", b"\x00")
EVERYWHERE: Final[Scope] = (b"", None)


class CrossShardError(InvalidRequestError):
    """Nothing was done. The message names a call that does it."""

    code = "cross_shard"


def of_key(key: bytes) -> Scope:
    return key, key + b"\x00"


def scope_of(command: Command) -> Scope:
    """The smallest range that holds all keys of the command; revisions of a whole keyspace are
    EVERYWHERE."""
    if isinstance(command, Put | Cas | Increment | SetTtl):
        return of_key(command.key)
    if isinstance(command, Delete):
        return bounds(command.key, command.range_end)
    if isinstance(command, LeaseGrant | LeaseRevoke | LeaseKeepAlive | LeaseForget | Tick | Expire):
        return HOME
    if isinstance(command, UnderLease):
        return scope_of(command.command)
    if isinstance(command, Compact):
        return EVERYWHERE
    if isinstance(command, Decide | Push | Finish):
        return of_key(command.txn.anchor)
    if isinstance(command, Resolve):
        return of_key(command.key)
    if isinstance(command, Prepare):
        own = [of_key(command.txn.anchor)] if command.lifetime_ms else []
        return joined([*own, *((start, end) for start, end, _ in spans_of_part(command))])
    scopes: Iterable[Scope]
    if isinstance(command, BatchWrite):
        scopes = map(scope_of, command.operations)
    else:
        assert isinstance(command, Txn), f"{type(command).__name__} is not routed by its keys"
        scopes = _scopes_of_txn(command)
    return joined(scopes)


def _scopes_of_txn(txn: Txn) -> Iterator[Scope]:
    for part in (*txn.compares, *txn.then, *txn.otherwise):
        if isinstance(part, Txn):
            yield from _scopes_of_txn(part)
        elif isinstance(part, Put):
            yield of_key(part.key)
        else:
            assert isinstance(part, Compare | Range | Delete)
            yield bounds(part.key, part.range_end)


def lease_ids(command: Command) -> tuple[int, ...]:
    """The leases to which it may attach keys: in a transaction, on either path."""
    return tuple(sorted(set(_lease_ids(command))))


def _lease_ids(command: object) -> Iterator[int]:
    parts: Iterable[object] = ()
    if isinstance(command, Put | Cas):
        if command.lease:
            yield command.lease
    elif isinstance(command, BatchWrite):
        parts = command.operations
    elif isinstance(command, Txn):
        parts = (*command.then, *command.otherwise)
    elif isinstance(command, UnderLease):
        parts = (command.command,)
    for part in parts:
        yield from _lease_ids(part)


def joined(scopes: Iterable[Scope]) -> Scope:
    """The smallest range over all of them; HOME if there are none."""
    start: bytes | None = None
    end: bytes | None = b""
    for low, high in scopes:
        start = low if start is None else min(start, low)
        end = None if high is None or end is None else max(end, high)
    return HOME if start is None else (start, end)


def one_shard(table: ShardTable, scope: Scope, instead: str) -> ShardRecord:
    """Raises CrossShardError; `instead`: what the caller can do."""
    start, end = scope
    shard = table.of_key(start)
    if shard.end is None or (end is not None and end <= shard.end):
        return shard
    count = len(table.overlapping(start, end))
    raise CrossShardError(
        f"nothing was done: this call touches keys of {count} shards of a keyspace that is split, "
        f"and it works within one; {instead}"
    )
